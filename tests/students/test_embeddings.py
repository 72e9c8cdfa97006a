"""Embeddings over the pooled client: one call for all texts, and nothing taken for an answer that is none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.usage import Usage
from students.embeddings import cosine, read
from students.errors import BadReply, EngineError, Refused, Unavailable
from students.guard import Guard
from students.openai_api import OpenAIApi
from students.runs import Run
from students.scripted import Scripted
from students.spec import OpenAISpec, ScriptedSpec
from tests.fakes import Embeddings, served, word_counts

numbers = st.floats(-1e6, 1e6).filter(lambda each: abs(each) > 1e-6)
vectors = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=1, max_size=5)
)


def reply(rows: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"data": [{"index": place, "embedding": row} for place, row in enumerate(rows)], **more}


@given(vectors, st.randoms())
def test_vectors_come_by_their_index(rows: list[list[float]], shuffled: Any) -> None:
    told = reply(rows, usage={"prompt_tokens": 7, "total_tokens": 7})
    shuffled.shuffle(told["data"])
    found = read(orjson.dumps(told), len(rows))
    assert [list(each) for each in found.vectors] == rows
    assert found.usage is not None
    assert (found.usage.input, found.usage.output) == (7, 0)
    for one in found.vectors:
        assert cosine(one, one) == pytest.approx(1)
        assert cosine(one, tuple(-each for each in one)) == pytest.approx(-1)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b'{"data": 3}',
        orjson.dumps(reply([[1.0]])),
        orjson.dumps(reply([[1.0], [1.0, 2.0]])),
        orjson.dumps(reply([[0.0], [1.0]])),
        orjson.dumps(reply([["1"], [1.0]])),  # type: ignore[list-item]
        orjson.dumps(reply([[True], [1.0]])),
        orjson.dumps({"data": [{"index": 0, "embedding": [1.0]}] * 2}),
        orjson.dumps({"data": [{"index": place, "embedding": "AAAA"} for place in (0, 1)]}),
        b'{"data": [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [1]}]}',
    ],
)
def test_anything_else_is_no_answer(told: bytes) -> None:
    with pytest.raises(BadReply):
        read(told, 2)


@given(st.binary(max_size=60))
def test_no_bytes_break_it(told: bytes) -> None:
    with pytest.raises(BadReply):
        read(told, 1)


def engine(url: str, **spec: Any) -> Guard:
    made = OpenAISpec(model="embed-small", base_url=url, api_key_env="EMBED_KEY", **spec)
    return Guard(OpenAIApi("embedder", made, key="secret-key"), made)


@pytest.mark.anyio
async def test_all_texts_are_one_call() -> None:
    async with served(Embeddings()) as fake:
        guard = engine(fake.url)
        try:
            runs: list[Run] = []
            found = await guard.embed(["one two", "two three four"], runs)
            again = await guard.embed(["one two"])
        finally:
            await guard.aclose()
    assert [list(each) for each in found.vectors] == [word_counts("one two"), word_counts("two three four")]
    assert found.usage == Usage(5, 0)
    assert again.vectors[0] == found.vectors[0]
    assert [len(body["input"]) for body in fake.asked] == [2, 1]
    assert fake.headers[0]["Authorization"] == "Bearer secret-key"
    assert len(fake.peers) == 1, "over one connection"
    assert [run.share is not None and run.share > 0 for run in runs] == [True], "a machine by the hour is paid for it"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fake", "error"),
    [
        (Embeddings(401), Refused),
        (Embeddings(500), Unavailable),
        (Embeddings(broken=lambda body: {**body, "data": body["data"][:1]}), BadReply),
    ],
)
async def test_failures_are_told_as_those_of_answers(fake: Embeddings, error: type[EngineError]) -> None:
    async with served(fake):
        guard = engine(fake.url)
        try:
            with pytest.raises(error) as told:
                await guard.embed(["a long text that nobody is to see again", "b"])
        finally:
            await guard.aclose()
    assert "long text" not in str(told.value)
    assert "secret-key" not in str(told.value)


@pytest.mark.anyio
async def test_nobody_there_and_nothing_of_the_kind() -> None:
    async with served(Embeddings()) as fake:
        gone = fake.url
    guard = engine(gone)
    with pytest.raises(Unavailable):
        await guard.embed(["a"])
    await guard.aclose()
    with pytest.raises(Refused, match="gives no embeddings"):
        await Guard(Scripted("other"), ScriptedSpec(model="other")).embed(["a"])
