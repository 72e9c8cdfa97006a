"""The sandbox: what passes, what does not, and what a program cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from gateway import sandbox
from gateway.sandbox import Limits, Sandbox

pytestmark = pytest.mark.anyio

ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("program", "tests", "passed", "why"),
    [
        (ADD, "assert add(1, 2) == 3\nassert add(0, 0) == 0", True, ""),
        (ADD, "assert add(1, 2) == 4", False, "AssertionError"),
        (ADD, "assert mul(1, 2) == 2", False, "NameError"),
        ("def add(:", "assert True", False, "SyntaxError"),
        ("print('x' * 100_000)\n" + ADD, "assert add(1, 2) == 3", True, ""),
        ("input()", "assert True", False, "EOFError"),
        ("if __name__ == '__main__':\n    raise ValueError", "assert True", True, ""),
        ("import sys; sys.exit(0)", "assert False", False, "SystemExit"),
        ("import os; os._exit(0)", "assert False", False, "it ended before its tests did"),
        ("import os\nfor n in range(3, 60):\n    try: os.write(n, b'{}\\n')\n    except OSError: pass\nos._exit(0)",
         "assert False", False, ""),
        ("x = bytearray(3 << 30)", "assert True", False, "MemoryError"),
        ("open('big', 'wb').write(bytes(9 << 20))", "assert True", False, ""),
        ("import os; assert not os.listdir('.'); open('mine', 'w').write('x')", "assert open('mine').read()", True, ""),
    ],
)  # fmt: skip
async def test_tests_pass_or_do_not(program: str, tests: str, passed: bool, why: str) -> None:
    ran = await Sandbox().passes(program, tests)
    assert ran.passed is passed
    assert ran.why.startswith(why)


async def test_what_takes_too_long_is_ended_with_its_children() -> None:
    began = time.monotonic()
    ran = await Sandbox(Limits(seconds=3)).passes("import time; time.sleep(60)", "")
    assert (ran.passed, ran.why) == (False, "not done after 3 seconds")
    assert (await Sandbox(Limits(cpu=1, seconds=60)).passes("while True: pass", "")).passed is False
    assert time.monotonic() - began < 55


async def test_a_program_sees_no_environment_and_writes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    kept = tmp_path / "kept"
    kept.write_text("x")
    assert (await Sandbox().passes("import os", "assert 'OPENAI_API_KEY' not in os.environ")).passed
    ran = await Sandbox().passes(f"import os; os.unlink({str(kept)!r})", "")
    if not ran.why.startswith("PermissionError"):
        pytest.skip("this kernel has no Landlock")
    assert kept.read_text() == "x"
    assert (await Sandbox().passes(f"open({str(kept)!r}, 'w')", "")).passed is False
    assert kept.read_text() == "x"
    assert (await Sandbox().passes(f"open({str(tmp_path / 'new')!r}, 'w')", "")).passed is False


@pytest.mark.parametrize("start", ["os.system('true')", "os.fork()", "subprocess.run(['true'])", "os.kill(1, 9)"])
async def test_a_program_starts_no_process(start: str) -> None:
    ran = await Sandbox().passes(f"import os, subprocess; {start}", "")
    assert (ran.passed, ran.why.partition(":")[0]) == (False, "PermissionError")


async def test_a_program_reaches_nobody() -> None:
    if not sandbox.isolated():
        pytest.skip("no namespace of its own can be had here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        reach = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        assert (await Sandbox().passes(reach, "")).passed is False
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def within(folder: Path) -> list[Path]:
    """Processes whose directory is in that one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(each / "cwd").startswith(str(folder)):
                found.append(each)
    return found


async def test_whoever_is_cancelled_leaves_no_process_and_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task = asyncio.create_task(Sandbox().passes("import time; time.sleep(60)", ""))
    async with asyncio.timeout(30):
        while not within(tmp_path):  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.listdir(tmp_path)
    assert not within(tmp_path)


async def test_what_cannot_be_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setattr(sandbox, "isolated", tuple)
    ran = await Sandbox().passes(ADD, "assert True")
    assert ran == (None, "no process could be started: No such file or directory")
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert await Sandbox().passes(ADD, "assert True") == (None, "the process ended at its start")
    assert (await Sandbox().passes(ADD, "x" * 200_000)).passed is None
