"""The keeper of a command, with real processes: whatever ends, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from students.managed import SUPERVISOR
from tests.students.test_llamacpp import alive

FAMILY = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
daemon = subprocess.Popen([sys.executable, "-S", "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
daemon.stdout.readline()
open(sys.argv[1], "w").write(f"{worker.pid} {daemon.pid}\\n")
exec(sys.argv[2])
"""
"""A command with a worker in its own process group, and one that left it and is deaf to SIGTERM."""

Supervise = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """`supervise(*options, "--", *command)`: the supervisor, started as the gateway starts it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(SUPERVISOR), *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()


def said(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    words: dict[str, object] = json.loads(process.stdout.readline())
    return words


def family(
    supervise: Supervise, folder: Path, then: str = "time.sleep(600)"
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A supervisor of `FAMILY`, and the ids of the command and its two workers."""
    file = folder / "family"
    process = supervise("--grace=0.2", "--", sys.executable, "-S", "-c", FAMILY, str(file), then)
    command = said(process)["pid"]
    assert isinstance(command, int)
    until(lambda: file.is_file() and file.read_text().endswith("\n"))
    return process, [command, *map(int, file.read_text().split())]


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)


def gone(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("how", ["the end of stdin", "SIGTERM"])
def test_asked_to_end_it_takes_all_descendants_along(supervise: Supervise, tmp_path: Path, how: str) -> None:
    process, pids = family(supervise, tmp_path)
    assert all(alive(pid) for pid in pids)
    if how == "SIGTERM":
        process.terminate()
    else:
        assert process.stdin is not None
        process.stdin.close()
    assert process.wait(20) == -signal.SIGTERM, "it ends as the command did"
    assert gone(pids)


def test_a_command_that_is_deaf_to_sigterm_is_killed(supervise: Supervise) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    process = supervise("--grace=0.2", "--", sys.executable, "-S", "-c", deaf)
    pid = said(process)["pid"]
    assert isinstance(pid, int)
    # It is deaf once it handles no SIGTERM: bit 14 of the ignored signals.
    until(lambda: bool(int(Path(f"/proc/{pid}/status").read_text().split("SigIgn:")[1].split()[0], 16) >> 14 & 1))
    process.terminate()
    assert process.wait(20) == -signal.SIGKILL
    assert not alive(pid)


def test_what_a_command_leaves_behind_is_killed_and_its_end_is_passed_on(supervise: Supervise, tmp_path: Path) -> None:
    process, pids = family(supervise, tmp_path, "sys.exit(3)")
    assert process.wait(20) == 3
    assert gone(pids)
    process, pids = family(supervise, tmp_path, "time.sleep(600)")
    os.kill(pids[0], signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal of Linux")
def test_the_command_dies_with_a_supervisor_that_is_killed(supervise: Supervise, tmp_path: Path) -> None:
    process, pids = family(supervise, tmp_path)
    process.kill()
    process.wait()
    until(lambda: not alive(pids[0]))
    for pid in pids[1:]:  # nobody is left who could; `Launch.end` kills the first with its group
        os.kill(pid, signal.SIGKILL)


def test_a_command_that_is_not_there_is_named(supervise: Supervise) -> None:
    process = supervise("--", "no-such-server", "--api-key-file", "x")
    assert said(process) == {"error": "no-such-server: No such file or directory"}
    assert process.wait(20) == 1


def test_its_log_is_kept_within_bounds_and_for_its_owner_alone(supervise: Supervise, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    chatty = (
        "import sys\nfor n in range(3000): print('line', n, flush=n % 50 == 0)\nprint('last words', file=sys.stderr)"
    )
    process = supervise(f"--log={log}", "--log-bytes=10000", "--", sys.executable, "-S", "-c", chatty)
    assert process.wait(20) == 0
    kept = log.with_name("server.log.1")
    assert log.stat().st_size <= 10_000
    assert kept.stat().st_size <= 10_000
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().endswith("last words\n[supervisor] the command ended: 0\n")
    lines = [line for line in (kept.read_text() + log.read_text()).splitlines() if line.startswith("line")]
    assert lines[-1] == "line 2999"
    assert len(lines) > 500, "the newest are kept, without a gap"
    assert [int(line.split()[1]) for line in lines[1:]] == list(range(3000 - len(lines) + 1, 3000))


def test_a_log_that_cannot_be_written_stops_nothing(supervise: Supervise, tmp_path: Path) -> None:
    process = supervise(f"--log={tmp_path}/none/server.log", "--", sys.executable, "-S", "-c", "print('x' * 200_000)")
    assert process.wait(20) == 0
