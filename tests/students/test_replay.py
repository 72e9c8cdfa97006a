"""Recorded answers, played back by the token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pricing.tokens import Vocabulary
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Message, Prompt, Sampling
from students.errors import Refused, Unavailable
from students.replay import Replay
from students.spec import ReplaySpec

pytestmark = pytest.mark.anyio

DUCKS = "How many ducks? 🦆🦆 Zwölf, 十二."
ROWS = (
    {"id": 0, "prompt": "How many?", "response": DUCKS, "model": "gpt-x-2026", "correct": True},
    {"prompt": "How many? Think first.", "response": "I think: twelve."},
    {"prompt": "How many?", "response": "A later row of the same prompt."},
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    loaded = Vocabulary.load("cl100k_base")
    if loaded is None:
        pytest.skip("cl100k_base is not on this machine")
    return loaded


@pytest.fixture
def engine(tmp_path: Path, vocabulary: Vocabulary) -> Replay:
    return replay(tmp_path, ROWS)


def replay(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Replay:
    file = folder / "recording.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return Replay("recorded", ReplaySpec(model="gpt-x", file=file, vocabulary="cl100k_base"))


async def ask(engine: Replay, prompt: Prompt) -> tuple[list[Delta], Finish]:
    events: list[Event] = []
    async with aclosing(engine.stream(prompt)) as stream:
        events.extend([event async for event in stream])
    *deltas, end = events
    assert isinstance(end, Finish)
    return [delta for delta in deltas if isinstance(delta, Delta)], end


def question(text: str, *before: Message) -> tuple[Message, ...]:
    return (*before, {"role": "user", "content": text})


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


async def test_the_whole_answer_token_by_token(engine: Replay, vocabulary: Vocabulary) -> None:
    deltas, end = await ask(engine, Prompt(question("How many?")))
    assert text(deltas) == DUCKS
    assert all(delta.text for delta in deltas)
    assert end.reason == "stop"
    assert end.model == "gpt-x-2026"
    # 3 for the message, 1 for its role, 3 for the content, 3 for the beginning of the answer.
    assert end.usage == Usage(input=10, output=vocabulary.count(DUCKS), source="reported")
    assert await engine.ready() == Ability.SAMPLES


async def test_any_cut_is_whole_characters_and_exact_tokens(engine: Replay, vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(DUCKS)
    torn = 0
    for limit in range(len(ids) + 2):
        deltas, end = await ask(engine, Prompt(question("How many?"), max_tokens=limit))
        assert text(deltas) == vocabulary.decode_bytes(ids[:limit]).decode(errors="ignore")
        assert end.usage is not None
        assert end.usage.output == min(limit, len(ids))
        assert end.reason == ("stop" if limit >= len(ids) else "length")
        torn += text(deltas) != vocabulary.decode_bytes(ids[:limit]).decode(errors="replace")
    assert torn, "no cut went through a character, so nothing was shown"


async def test_stop_strings_end_the_text_before_themselves(engine: Replay, vocabulary: Vocabulary) -> None:
    stopped = Sampling(stop=("Zw\u00f6lf", "never", ", 十"))
    deltas, end = await ask(engine, Prompt(question("How many?"), sampling=stopped))
    assert text(deltas) == "How many ducks? 🦆🦆 "
    assert end.reason == "stop"
    assert end.usage is not None
    assert end.usage.output is not None
    assert vocabulary.count("How many ducks? 🦆🦆 ") < end.usage.output < vocabulary.count(DUCKS)


async def test_found_by_the_last_user_message(engine: Replay) -> None:
    before: Message = {"role": "user", "content": "How many? Think first."}
    answer: Message = {"role": "assistant", "content": "I think: twelve."}
    assert text((await ask(engine, Prompt(question("How many?", before, answer))))[0]) == DUCKS
    parts: Message = {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]}
    assert text((await ask(engine, Prompt((parts,))))[0]) == DUCKS
    # No prompt equals this one: the longest that it contains.
    instructed = question("Answer briefly.\nHow many? Think first.\nThank you.")
    deltas, end = await ask(engine, Prompt(instructed))
    assert text(deltas) == "I think: twelve."
    assert end.model == "gpt-x", "this row does not say who answered"


async def test_what_was_not_recorded_is_refused(engine: Replay) -> None:
    for messages in (question("Something else"), question(""), ({"role": "system", "content": "How many?"},)):
        with pytest.raises(Refused, match="nothing was recorded"):
            await ask(engine, Prompt(messages))
    with pytest.raises(ValueError, match="cannot continue"):
        await ask(engine, Prompt(question("How many?"), prefix="How"))


async def test_samples_are_the_same_text_and_all_are_counted(engine: Replay, vocabulary: Vocabulary) -> None:
    deltas, end = await ask(engine, Prompt(question("How many?"), n=2, max_tokens=5))
    assert text(deltas, 0) == text(deltas, 1) == "How many ducks? "
    assert end.reasons == ("length", "length")
    assert end.usage is not None
    assert end.usage.output == 10


async def test_a_recording_that_cannot_be_read_says_where(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with pytest.raises(Unavailable, match=r"recording.jsonl:2 does not have the texts"):
        await replay(tmp_path, [*ROWS[:1], {"prompt": "no response"}]).ready()
    (tmp_path / "recording.jsonl").write_text("{")
    spec = ReplaySpec(model="gpt-x", file=tmp_path / "recording.jsonl", vocabulary="cl100k_base")
    with pytest.raises(Unavailable, match=r"recording.jsonl:1 is not JSON"):
        await Replay("recorded", spec).ready()
    with pytest.raises(Unavailable, match=r"missing\.jsonl"):
        await Replay("recorded", spec.model_copy(update={"file": tmp_path / "missing.jsonl"})).ready()
    with pytest.raises(Unavailable, match="klingon"):
        await Replay("recorded", spec.model_copy(update={"vocabulary": "klingon"})).ready()


async def test_closing_ends_what_is_being_said(engine: Replay) -> None:
    async with aclosing(engine.stream(Prompt(question("How many?")))) as stream:
        await anext(stream)
        await engine.aclose()
        with pytest.raises(Unavailable):
            await anext(stream)
    await engine.aclose()
    with pytest.raises(Unavailable):
        await engine.ready()


async def test_chatgpt_on_gsm8k_is_cut_and_counted_as_it_was_billed(
    tmp_path: Path, data: Path, vocabulary: Vocabulary
) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / name).read_text().splitlines()]

    questions = {row["id"]: row["question"] for row in rows("gsm8k_test.jsonl")}
    recorded = [row for row in rows("chatgpt_gsm8k.jsonl") if row["prompt"] == "re2-vanilla-0shot"]
    joined = [row | {"prompt": questions[row["id"]]} for row in recorded]
    engine = replay(tmp_path, joined)
    assert len(joined) == 1318
    for row in joined[::30]:
        messages = question(f"Q: {row['prompt']}\nA:")
        deltas, end = await ask(engine, Prompt(messages))
        assert text(deltas) == row["response"]
        assert (end.reason, end.model) == ("stop", "gpt-3.5-turbo-0613")
        assert end.usage is not None
        assert end.usage.output == row["cl100k_tokens"]

        cut, end = await ask(engine, Prompt(messages, max_tokens=40))
        first = vocabulary.encode(row["response"])[:40]
        assert text(cut) == vocabulary.decode_bytes(first).decode(errors="ignore")
        assert end.usage is not None
        assert end.usage.output == 40
        assert end.reason == "length"
