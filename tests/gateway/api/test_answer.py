"""What goes out: chunks are what a JSON encoder would write, and a client that adds them up has the fold."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.api.answer import DONE, Chunks, Fold, error_frame, usage_object
from gateway.errors import UpstreamFailed
from pricing.usage import Usage
from students.engine import Delta, Finish

ID, CREATED, MODEL = "chatcmpl-1", 1_764_000_000, 'gpt "x" ü'
RECEIPT = {"saved_usd": "0.001"}
ENTRY = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}


def frames(sent: bytes) -> list[dict[str, Any]]:
    """The JSON of every frame; the stream must end in [DONE]."""
    pieces = sent.split(b"\n\n")
    assert pieces[-1] == b""
    assert pieces[-2] + b"\n\n" == DONE
    assert all(piece.startswith(b"data: ") for piece in pieces[:-1])
    return [orjson.loads(piece.removeprefix(b"data: ")) for piece in pieces[:-2]]


def streamed(deltas: list[Delta], finish: Finish, *, n: int = 1, usage: bool = False) -> list[dict[str, Any]]:
    chunks = Chunks(ID, CREATED, MODEL, usage=usage)
    return frames(b"".join([*(chunks.delta(delta) for delta in deltas), chunks.end(finish, RECEIPT, n)]))


def folded(deltas: list[Delta], finish: Finish, n: int = 1) -> dict[str, Any]:
    fold = Fold(ID, CREATED, MODEL, n)
    for delta in deltas:
        fold.delta(delta)
    return fold.end(finish, RECEIPT)


def envelope(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    head = {"id": ID, "object": "chat.completion.chunk", "created": CREATED, "model": MODEL}
    return {**head, "choices": choices, **more}


def choice(delta: dict[str, Any], index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


ROLE = choice({"role": "assistant", "content": "", "refusal": None})


def test_a_stream_without_usage_has_the_receipt_on_the_finish_chunk() -> None:
    assert streamed([Delta("Hi"), Delta(" you")], Finish(("length",), Usage(3, 2))) == [
        envelope([ROLE]),
        envelope([choice({"content": "Hi"})]),
        envelope([choice({"content": " you"})]),
        envelope([choice({}, finish_reason="length")], gkt=RECEIPT),
    ]


def test_a_stream_with_usage_says_null_until_the_last_chunk() -> None:
    totals = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert streamed(
        [Delta("Hi")], Finish(("stop",), Usage(3, 2), fingerprint="fp", service_tier="flex"), usage=True
    ) == [
        envelope([ROLE], usage=None),
        envelope([choice({"content": "Hi"})], usage=None),
        envelope([choice({}, finish_reason="stop")], usage=None, system_fingerprint="fp", service_tier="flex"),
        envelope([], usage=totals, gkt=RECEIPT, system_fingerprint="fp", service_tier="flex"),
    ]


def test_an_empty_answer_still_has_a_role_and_an_end_for_each_choice() -> None:
    sent = streamed([Delta("x", index=1)], Finish(("stop", "length")), n=2)
    assert [(c["index"], c["delta"].get("role"), c["finish_reason"]) for f in sent for c in f["choices"]] == [
        (0, "assistant", None),
        (1, "assistant", None),
        (1, None, None),
        (0, None, "stop"),
        (1, None, "length"),
    ]
    assert ["gkt" in frame for frame in sent] == [False, False, False, False, True]


@given(st.text(), st.integers(0, 127), st.booleans())
def test_a_chunk_is_the_very_bytes_that_an_encoder_would_write(text: str, index: int, usage: bool) -> None:
    chunks = Chunks(ID, CREATED, MODEL, usage=usage)
    chunks.delta(Delta("", index))
    more = {"usage": None} if usage else {}
    expected = orjson.dumps(envelope([choice({"content": text}, index)], **more))
    assert chunks.delta(Delta(text, index)) == b"data: " + expected + b"\n\n"


def test_an_error_frame() -> None:
    frame = error_frame(UpstreamFailed("gone"))
    assert frame == (
        b'data: {"error":{"message":"gone","type":"upstream_error","param":null,"code":"upstream_error"}}\n\n'
    )


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (None, None),
        (Usage(None, 4), None),
        (Usage(4, None), None),
        (Usage(0, 0), {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        (
            Usage(9, 4, cached=8, reasoning=1),
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 8},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        ),
    ],
)
def test_usage_is_null_when_unknown_and_never_0(usage: Usage | None, shown: dict[str, Any] | None) -> None:
    assert usage_object(usage) == shown


def test_tool_calls_are_merged_by_index() -> None:
    def piece(index: int, **call: Any) -> Delta:
        return Delta("", fields={"tool_calls": [{"index": index, **call}]})

    answer = folded(
        [
            piece(1, id="b", type="function", function={"name": "g", "arguments": ""}),
            piece(0, id="a", type="function", function={"name": "f", "arguments": ""}),
            piece(0, id="a", type="function", function={"name": "f", "arguments": '{"x'}),
            piece(1, id="", function={"arguments": "{}"}),
            piece(0, id=None, function={"arguments": '": 1}'}),
        ],
        Finish(("tool_calls",)),
    )
    assert answer["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


def test_refusals_thoughts_and_citations_are_joined() -> None:
    deltas = [
        Delta("", fields={"reasoning_content": "hm", "refusal": None}),
        Delta("", fields={"reasoning_content": "m", "annotations": [{"url": 1}]}),
        Delta("", fields={"refusal": "I ", "annotations": [{"url": 2}]}),
        Delta("", fields={"refusal": "can't"}),
    ]
    assert folded(deltas, Finish())["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": "I can't",
        "reasoning_content": "hmm",
        "annotations": [{"url": 1}, {"url": 2}],
    }


def test_an_empty_answer_is_an_empty_text() -> None:
    assert folded([], Finish(("length",)))["choices"][0]["message"]["content"] == ""


words = st.text(min_size=1, max_size=6)
arguments = st.text(max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Delta], Finish, int]:
    """Whole answers: texts with and without log-probabilities, refusals, tool calls, several choices."""
    n = draw(st.integers(1, 3))
    deltas: list[Delta] = []
    for index in range(n):
        sort = draw(st.sampled_from(["text", "refusal", "tools", "text and tools"]))
        if "text" in sort:
            logprobs = [ENTRY] if draw(st.booleans()) else None
            deltas += [Delta(word, index, logprobs) for word in draw(st.lists(words, min_size=1, max_size=5))]
        if sort == "refusal":
            deltas += [Delta("", index, fields={"refusal": word}) for word in draw(st.lists(words, min_size=1))]
        if "tools" in sort:
            for at in range(draw(st.integers(1, 2))):
                call = {"index": at, "id": f"id{at}", "type": "function", "function": {"name": "f", "arguments": ""}}
                deltas.append(Delta("", index, fields={"tool_calls": [call]}))
                deltas += [
                    Delta("", index, fields={"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
                    for piece in draw(st.lists(arguments, max_size=3))
                ]
    order = draw(st.permutations(range(n)))
    by_choice = {index: [delta for delta in deltas if delta.index == index] for index in order}
    mixed: list[Delta] = []
    while any(by_choice.values()):
        mixed.append(by_choice[draw(st.sampled_from([i for i in by_choice if by_choice[i]]))].pop(0))
    reasons = tuple(draw(st.sampled_from(["stop", "length", "tool_calls"])) for _ in range(n))
    usage = draw(st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99), cached=st.none() | st.just(1)))
    return mixed, Finish(reasons, usage, fingerprint=draw(st.none() | st.just("fp"))), n


@given(answers())
def test_a_client_that_adds_up_the_chunks_has_the_fold(answer: tuple[list[Delta], Finish, int]) -> None:
    deltas, finish, n = answer
    state = ChatCompletionStreamState()
    for frame in streamed(deltas, finish, n=n, usage=True):
        state.handle_chunk(ChatCompletionChunk.model_validate(frame))
        last = frame
    theirs = state.current_completion_snapshot.model_dump()
    ours = folded(deltas, finish, n)
    ChatCompletion.model_validate(ours)
    for mine, added in zip(ours["choices"], theirs["choices"], strict=True):
        message, other = mine["message"], added["message"]
        assert (message["content"] or "") == (other["content"] or "")
        assert message["refusal"] == other["refusal"]
        assert [call["function"]["arguments"] for call in message.get("tool_calls", ())] == [
            call["function"]["arguments"] for call in other["tool_calls"] or ()
        ]
        assert (mine["logprobs"] or {}).get("content") == (added["logprobs"] or {}).get("content")
        assert mine["finish_reason"] == added["finish_reason"]
    assert ours["usage"] == last["usage"]
    assert ours["gkt"] == last["gkt"]
    assert ours.get("system_fingerprint") == last.get("system_fingerprint")
