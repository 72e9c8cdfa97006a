"""The engine over tiny models: each caller's own settings, exact ends, and who may come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from hypothesis import settings as trials

from students.build import build
from students.engine import Delta, Finish, Message, Prompt, Sampling
from students.errors import Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.in_process import InProcess
from students.rendering import Renderer
from students.spec import Deadlines, TransformersSpec
from students.torch_model import TorchModel
from tests.students.tiny import Family, tiny, tokenizer

pytestmark = pytest.mark.anyio

ASK: tuple[Message, ...] = ({"role": "user", "content": "Count from 1 to 30, separated by commas."},)
PREFIX = "1, 2, 3,"


@asynccontextmanager
async def engine(
    family: Family = "llama", *, chat: bool = True, size: int = 400, **spec: Any
) -> AsyncIterator[InProcess]:
    made = InProcess(
        "tiny",
        TransformersSpec(model="tiny", path="nowhere", **spec),
        load=lambda: tiny(family, chat=chat, size=size, context=spec.get("context")),
    )
    async with aclosing(made):
        yield made


async def told(engine: InProcess, prompt: Prompt) -> tuple[list[Delta], Finish]:
    async with aclosing(engine.stream(prompt)) as stream:
        events = [event async for event in stream]
    finish = events.pop()
    assert isinstance(finish, Finish)
    return [event for event in events if isinstance(event, Delta)], finish


async def said(engine: InProcess, prompt: Prompt) -> str:
    deltas, _ = await told(engine, prompt)
    return "".join(delta.text for delta in deltas)


SETTINGS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.7, seed=1),
    Sampling(temperature=1.5, seed=2, top_p=0.5),
    Sampling(temperature=1.0, seed=3, presence_penalty=2.0),
    Sampling(temperature=1.0, seed=4, frequency_penalty=1.5),
    Sampling(temperature=1.0, seed=5, logit_bias={"70": 100.0}),
    Sampling(temperature=1.0, seed=6, logprobs=True, top_logprobs=3),
    Sampling(temperature=1.0, seed=7, stop=("a", "e", "1")),
]


@pytest.mark.parametrize("family", ["llama", "t5"])
async def test_each_row_has_its_own_settings_and_they_give_what_they_give_alone(family: Family) -> None:
    options: list[dict[str, Any]] = [{}, {"top_k": 3}, {"min_p": 0.2}, {"repetition_penalty": 1.3}]
    prompts = [
        Prompt(ASK, max_tokens=6 + index, prefix=PREFIX, sampling=sampling, options=options[index % 4])
        for index, sampling in enumerate(SETTINGS)
    ]
    async with engine(family, slots=1) as one_by_one, engine(family) as batched:
        alone = [await said(one_by_one, prompt) for prompt in prompts]
        together = await asyncio.gather(*(said(batched, prompt) for prompt in prompts))
    assert list(together) == alone
    assert len(set(alone)) > 4, "the settings make a difference"


async def test_a_seed_repeats_and_samples_differ() -> None:
    async with engine() as subject:
        prompt = Prompt(ASK, max_tokens=8, n=3, sampling=Sampling(seed=11))
        first, finish = await told(subject, prompt)
        again, _ = await told(subject, prompt)
        texts = ["".join(delta.text for delta in first if delta.index == index) for index in range(3)]
        assert texts == ["".join(delta.text for delta in again if delta.index == index) for index in range(3)]
        assert len(set(texts)) == 3
        assert finish.usage is not None
        assert finish.usage.output == 24
        assert texts[1] == await said(subject, replace(prompt, n=1, sampling=Sampling(seed=12)))


async def test_a_bias_is_obeyed_and_penalties_count_the_given_beginning() -> None:
    async with engine() as subject:
        words = tokenizer()
        wanted = words("x", add_special_tokens=False).input_ids[0]
        bias = Sampling(temperature=0.0, logit_bias={str(wanted): 500.0})
        assert await said(subject, Prompt(ASK, max_tokens=4, sampling=bias)) == "xxxx"
        both = replace(bias, frequency_penalty=990.0)
        text = await said(subject, Prompt(ASK, max_tokens=3, sampling=both))
        assert text[0] == "x"
        assert "x" not in text[1:]
        assert not (await said(subject, Prompt(ASK, prefix="x", max_tokens=3, sampling=both))).startswith("x")
        with pytest.raises(Refused):
            await said(subject, Prompt(ASK, sampling=Sampling(logit_bias={"4000": 1.0})))


async def test_logprobs_are_the_models_own_and_lie_along_the_text() -> None:
    async with engine() as subject:
        sampling = Sampling(temperature=0.0, logprobs=True, top_logprobs=2)
        deltas, finish = await told(subject, Prompt(ASK, max_tokens=10, sampling=sampling))
    entries = [entry for delta in deltas for entry in delta.logprobs or ()]
    assert finish.usage is not None
    assert len(entries) == finish.usage.output
    for entry in entries:
        assert entry["logprob"] == pytest.approx(entry["top_logprobs"][0]["logprob"]), "the greedy choice is on top"
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 2


@trials(max_examples=15, deadline=None)
@given(seed=strategies.integers(0, 10_000), cut=strategies.data())
async def test_a_stop_string_ends_the_text_exactly_before_itself(seed: int, cut: strategies.DataObject) -> None:
    subject = await _shared()
    prompt = Prompt(ASK, max_tokens=14, sampling=Sampling(seed=seed, temperature=1.3))
    whole = await said(subject, prompt)
    if len(whole) < 2:
        return
    begin = cut.draw(strategies.integers(0, len(whole) - 1))
    stop = whole[begin : begin + cut.draw(strategies.integers(1, 6))]
    deltas, finish = await told(subject, replace(prompt, sampling=replace(prompt.sampling, stop=(stop,))))
    assert "".join(delta.text for delta in deltas) == whole[: whole.index(stop)]
    assert finish.reason == "stop"


async def test_characters_of_several_tokens_come_whole() -> None:
    async with engine(size=262) as subject:  # so few tokens that most are single bytes
        words = tokenizer("bytes", 262)
        ids = words("ö", add_special_tokens=False).input_ids
        assert len(ids) == 2
        first = Sampling(temperature=0.0, logit_bias={str(ids[0]): 1000.0}, frequency_penalty=900.0)
        both = replace(first, logit_bias={str(ids[0]): 1000.0, str(ids[1]): 500.0})
        assert (await said(subject, Prompt(ASK, max_tokens=1, sampling=first))) == "", "half a character is not said"
        assert (await said(subject, Prompt(ASK, max_tokens=2, sampling=both))) == "ö"


async def test_usage_is_exact() -> None:
    async with engine() as subject:
        _, finish = await told(subject, Prompt(ASK, prefix=PREFIX, max_tokens=5, sampling=Sampling(temperature=0.0)))
        rendered = Renderer(tokenizer()).text(ASK, PREFIX)
    assert rendered.endswith("<|im_start|>assistant\n" + PREFIX)
    usage = finish.usage
    assert usage is not None
    assert usage.input == len(tokenizer()(rendered, add_special_tokens=False).input_ids)
    assert (usage.output, usage.cached, usage.source) == (5, None, "reported")
    assert usage.seconds is not None
    assert usage.seconds > 0


async def test_the_context_bounds_the_prompt_and_the_answer() -> None:
    async with engine(context=64) as subject:
        with pytest.raises(PromptTooLong) as raised:
            await said(subject, Prompt([{"role": "user", "content": "Count. " * 200}]))
        assert raised.value.engine == "tiny"
        _, finish = await told(
            subject, Prompt(ASK, sampling=Sampling(temperature=0.0, logit_bias={"1": -1000.0, "4": -1000.0}))
        )
        assert finish.reason == "length"
        assert finish.usage is not None
        assert (finish.usage.input or 0) + (finish.usage.output or 0) == 64


async def test_what_it_cannot_do_is_refused() -> None:
    async with engine() as subject:
        for options in (
            {"tools": [{"type": "function"}]},
            {"response_format": {"type": "json_object"}},
            {"top_k": "x"},
        ):
            with pytest.raises(Refused) as raised:
                await said(subject, Prompt(ASK, options=options))
            assert raised.value.engine == "tiny"
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
        with pytest.raises(Refused):
            await said(subject, Prompt(picture))
        assert await said(subject, endless(max_tokens=4, options={"response_format": {"type": "text"}}))


def endless(**more: Any) -> Prompt:
    """An answer that does not end before its limit of a hundred tokens or so."""
    return Prompt(ASK, sampling=Sampling(temperature=0.0, logit_bias={"1": -1000.0, "4": -1000.0}), **more)


class Gate:
    """Holds the model before each step, so that a test can look at who waits and who runs."""

    def __init__(self, family: Family = "llama") -> None:
        self.open = threading.Event()
        self._family = family
        self.steps: list[int] = []

    def load(self) -> TorchModel:
        model = tiny(self._family)
        step = model.step

        def held(rows: Any) -> Any:
            self.open.wait(20)
            self.steps.append(len(rows))
            return step(rows)

        model.step = held  # type: ignore[method-assign]
        return model


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the model's thread sets no event of this loop
            await asyncio.sleep(0.01)


async def test_places_are_bounded_and_who_leaves_frees_a_row_before_the_next_step() -> None:
    gate = Gate()
    spec = TransformersSpec(model="tiny", path="nowhere", slots=2, max_concurrent=3)
    async with aclosing(InProcess("tiny", spec, load=gate.load)) as subject:
        tasks = []
        for count in range(3):
            tasks.append(asyncio.create_task(said(subject, endless(max_tokens=40))))
            await until(lambda count=count: sum(subject.occupancy) == count + 1)  # type: ignore[misc]
        with pytest.raises(Overloaded) as raised:
            await said(subject, Prompt(ASK))
        assert raised.value.engine == "tiny"
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        gate.open.set()  # its row may be in the step that waited here, and in none after it
        await until(lambda: len(gate.steps) >= 3)
        await asyncio.gather(*tasks[1:])
        assert max(gate.steps) == 2
        await until(lambda: subject.occupancy == (0, 0))


async def test_the_event_loop_goes_on_while_the_model_computes() -> None:
    gate = Gate()
    async with aclosing(InProcess("tiny", TransformersSpec(model="tiny", path="nowhere"), load=gate.load)) as subject:
        task = asyncio.create_task(said(subject, Prompt(ASK, max_tokens=2)))
        await until(lambda: subject.occupancy == (0, 1))
        for _ in range(100):
            await asyncio.sleep(0)  # the model stands in its step, and this loop turns
        assert not task.done()
        gate.open.set()
        await task


async def test_a_deadline_passes_and_frees_the_row() -> None:
    gate = Gate()
    spec = TransformersSpec(model="tiny", path="nowhere", deadlines=Deadlines(first_token=0.05))
    async with aclosing(InProcess("tiny", spec, load=gate.load)) as subject:
        await subject.ready()
        with pytest.raises(TimedOut) as raised:
            await said(subject, Prompt(ASK))
        assert (raised.value.deadline, raised.value.engine) == ("first_token", "tiny")
        gate.open.set()
        await until(lambda: subject.occupancy == (0, 0))


async def test_a_step_that_fails_ends_its_rows_and_no_later_ones(caplog: pytest.LogCaptureFixture) -> None:
    broken = threading.Event()

    def load() -> TorchModel:
        model = tiny("llama")
        step = model.step

        def breaks(rows: Any) -> Any:
            if broken.is_set():
                broken.clear()
                raise RuntimeError("secret words")
            return step(rows)

        model.step = breaks  # type: ignore[method-assign]
        return model

    async with aclosing(InProcess("tiny", TransformersSpec(model="tiny", path="nowhere"), load=load)) as subject:
        await subject.ready()
        broken.set()
        with pytest.raises(Unavailable, match="RuntimeError") as raised:
            await said(subject, Prompt(ASK))
        assert "secret" not in str(raised.value)
        assert await said(subject, endless(max_tokens=4))


async def test_a_model_that_is_not_there_is_unavailable_and_tried_again(tmp_path: Path) -> None:
    spec = TransformersSpec(model="tiny", path=str(tmp_path / "none.gguf"))
    async with aclosing(build("away", spec)) as subject:
        for _ in range(2):
            with pytest.raises(Unavailable, match="not loaded") as raised:
                await subject.ready()
            assert raised.value.engine == "away"


async def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    subject = build("away", TransformersSpec(model="tiny", path="nowhere"))
    with pytest.raises(Unavailable, match=r"pip install torch==2\.13\.0"):
        await subject.ready()


async def test_guidance_stands_in_the_encoder_or_in_the_decoder() -> None:
    prompt = Prompt(ASK, prefix="1, 2,", max_tokens=6, sampling=Sampling(temperature=0.0))
    usages = {}
    for where in ("decoder", "encoder"):
        async with engine("t5", guidance_in=where) as subject:
            usages[where] = (await told(subject, prompt))[1].usage
            row = subject._speaker.row(prompt, lambda event: None)  # type: ignore[union-attr]
        pieces = tokenizer("pieces")
        given = pieces("1, 2,", add_special_tokens=False).input_ids
        assert (row.ids[1:] == given) == (where == "decoder")
        assert pieces.decode(row.source).rstrip().endswith("1, 2,") == (where == "encoder")
    assert all(usage is not None and usage.output for usage in usages.values())


async def test_a_base_model_reads_worked_examples_and_does_not_ask_itself(tmp_path: Path) -> None:
    exemplars = tmp_path / "exemplars.jsonl"
    exemplars.write_text('{"question": "2+2?", "answer": "4"}\n')
    async with engine(chat=False, exemplars=exemplars) as subject:
        await subject.ready()
        speaker = subject._speaker
        assert speaker is not None
        text = speaker.renderer.text(ASK, "1, 2,")
        assert text == "Question: 2+2?\nAnswer: 4\n\nQuestion: Count from 1 to 30, separated by commas.\nAnswer: 1, 2,"
        assert speaker.renderer.text(ASK, "").endswith("\nAnswer:")
        assert "\nQuestion:" in speaker.row(Prompt(ASK), lambda event: None).stop


_engines: dict[int, InProcess] = {}


async def _shared() -> InProcess:
    """One engine for all examples of a property; each example has an event loop of its own."""
    if not _engines:
        model = tiny("llama")
        _engines[0] = InProcess("tiny", TransformersSpec(model="tiny", path="nowhere"), load=lambda: model)
    return _engines[0]


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Any:
    yield
    for one in _engines.values():
        asyncio.run(one.aclose())
