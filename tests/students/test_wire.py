"""The codec: any cut of the bytes means the same, and every vendor's dialect comes out as one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pricing.usage import Usage
from students.engine import Delta, Finish
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, Unavailable
from students.wire import FRAME_LIMIT, Frames, Reply, read_logprobs, read_usage


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def decoded(data: bytes, cuts: list[int]) -> list[bytes]:
    frames = Frames()
    events = [event for piece in pieces(data, cuts) for event in frames.feed(piece)]
    return events + frames.end()


def by_lines(data: bytes) -> list[bytes]:
    """The grammar, told a second time: line by line, as the WHATWG text tells it."""
    events: list[bytes] = []
    fields: list[bytes] = []
    for line in [*data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        if line == b"":
            if fields:
                events.append(b"\n".join(fields))
            fields = []
        elif line == b"data" or line.startswith(b"data:"):
            value = line[5:]
            fields.append(value[1:] if value.startswith(b" ") else value)
    return events


lines = st.one_of(
    st.just(b""),
    st.sampled_from(
        [b": ping", b"event: message", b"id: 1", b"retry: 10", b"data", b"data:", b"database: x", b"data "]
    ),
    st.binary(max_size=6).map(lambda raw: b"data: " + raw.replace(b"\r", b"").replace(b"\n", b"")),
    st.text(max_size=6).map(lambda text: b"data:" + text.replace("\r", "").replace("\n", "").encode()),
)
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@given(streams, st.lists(st.integers(0, 200), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(b"data: a\n\n\ndata: b\n\n", [9])
@example(b"data: a\r\rdata: b\r\r", [8, 9])
@example(b"data: a\ndata: b\n\n", [3])
def test_any_cut_decodes_to_the_events_of_the_grammar(data: bytes, cuts: list[int]) -> None:
    assert decoded(data, cuts) == by_lines(data)


def test_byte_by_byte_is_the_same_as_at_once() -> None:
    data = ": ping\r\n\r\nevent: x\ndata: Größe\n\ndata:2\r\ndata: 3\r\n\r\ndata: [DONE]".encode()
    assert decoded(data, list(range(len(data)))) == decoded(data, []) == ["Größe".encode(), b"2\n3", b"[DONE]"]


def test_a_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert decoded(b"\xef\xbb\xbfdata: a\n\n", [1]) == [b"a"]


def test_an_endless_event_is_given_up() -> None:
    frames = Frames()
    assert frames.feed(b"x" * FRAME_LIMIT) == []
    with pytest.raises(BadReply, match="longer than"):
        frames.feed(b"x")


def frame(**members: Any) -> bytes:
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def said(content: str | None = None, finish: str | None = None, index: int = 0, **delta: Any) -> bytes:
    members = delta if content is None else {"content": content, **delta}
    return frame(choices=[{"index": index, "delta": members, "finish_reason": finish}], usage=None)


DONE = b"data: [DONE]\n\n"


def read(data: bytes, cuts: list[int] | None = None, n: int = 1, echo: str = "") -> tuple[list[Delta], Reply]:
    reply = Reply(n, echo)
    deltas = [delta for piece in pieces(data, cuts or []) for delta in reply.feed(piece)]
    if not reply.ended:
        deltas += reply.end()
    return deltas, reply


def text(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


@given(st.lists(st.text(max_size=5), max_size=6), st.lists(st.integers(0, 2000), max_size=10))
def test_every_word_arrives_once_wherever_the_bytes_are_cut(words: list[str], cuts: list[int]) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in words]
    data = b"".join(said(word) for word in words) + said(finish="length") + DONE
    deltas, reply = read(data, cuts)
    assert text(deltas) == "".join(words)
    assert len(deltas) <= sum(bool(word) for word in words)
    assert reply.finish() == Finish(("length",))


def test_what_the_upstream_says_of_itself_is_kept() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    data = (
        frame(choices=[], prompt_filter_results=[], model="")
        + frame(choices=[{"delta": {"role": "assistant", "content": "a"}}], model="m-1", system_fingerprint="fp")
        + frame(choices=[{"delta": {}, "finish_reason": "stop"}], model="m-1", service_tier="flex")
        + frame(choices=[], usage=usage, x_groq={"id": "1"})
        + DONE
    )
    deltas, reply = read(data)
    assert deltas == [Delta("a")]
    assert reply.finish() == Finish(("stop",), Usage(3, 1), "m-1", "flex", "fp")


def test_usage_may_come_with_the_finish_and_the_last_one_counts() -> None:
    first, last = {"prompt_tokens": 3, "completion_tokens": 1}, {"prompt_tokens": 3, "completion_tokens": 2}
    data = (
        frame(choices=[{"delta": {"content": "a"}}], usage=first)
        + frame(choices=[{"delta": {"content": "b"}, "finish_reason": "stop"}], usage=last)
        + DONE
    )
    deltas, reply = read(data)
    assert text(deltas) == "ab"
    assert reply.finish().usage == Usage(3, 2)


def test_usage_that_is_reported_for_each_choice_is_added_up() -> None:
    """llama.cpp: the prompt is the same one, the output is not."""
    reports = [{"prompt_tokens": 31, "completion_tokens": tokens, "total_tokens": 31 + tokens} for tokens in (3, 5)]
    answers = said("a") + said(finish="stop") + said("b", index=1) + said(finish="stop", index=1)
    _, reply = read(answers + frame(choices=[], usage=reports[0]) + frame(choices=[], usage=reports[1]) + DONE, n=2)
    assert reply.finish().usage == Usage(31, 8)
    _, reply = read(answers + frame(choices=[], usage=reports[1]) + DONE, n=2)
    assert reply.finish().usage == Usage(31, 5)


def test_other_members_of_a_delta_are_passed_on_and_empty_ones_are_not() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    data = (
        said(None, role="assistant", tool_calls=None, refusal=None)
        + said(None, tool_calls=[call])
        + said(None, reasoning_content="hm", some_new_member={"a": 1})
        + said("", finish="tool_calls", refusal=None)
        + DONE
    )
    deltas, reply = read(data)
    assert deltas == [
        Delta("", fields={"tool_calls": [call]}),
        Delta("", fields={"reasoning_content": "hm", "some_new_member": {"a": 1}}),
    ]
    assert reply.finish().reason == "tool_calls"


def test_choices_are_told_apart() -> None:
    data = (
        said("a", index=1) + said("b", index=0) + said(finish="stop", index=0) + said(finish="length", index=1) + DONE
    )
    deltas, reply = read(data, n=2)
    assert (text(deltas, 0), text(deltas, 1)) == ("b", "a")
    assert reply.finish().reasons == ("stop", "length")


def test_a_choice_that_never_came_is_a_bad_reply() -> None:
    _, reply = read(said("a") + said(finish="stop") + DONE, n=2)
    with pytest.raises(BadReply, match="1 of 2"):
        reply.finish()


def test_a_choice_that_was_not_asked_for_is_a_bad_reply() -> None:
    _, reply = read(said("a", index=1) + DONE)
    with pytest.raises(BadReply, match="choice 1"):
        reply.finish()


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (said("a") + said(finish="stop"), ("stop",)),  # no [DONE], but every choice has its end
        (said("a") + DONE, ("stop",)),  # [DONE], but no finish reason
        (said("a", finish="") + said(finish="length") + DONE, ("length",)),  # an empty reason is none
        (said("a") + said(finish="stop") + b"data: [DONE]", ("stop",)),  # the last blank line is missing
        (said("a") + said(finish="stop") + b"data:[DONE]\n\n", ("stop",)),
    ],
)
def test_ends_that_are_accepted(data: bytes, reasons: tuple[str, ...]) -> None:
    deltas, reply = read(data)
    assert text(deltas) == "a"
    assert reply.finish().reasons == reasons


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "without its end"),
        (said("a"), "without its end"),
        (said("a") + b'data: {"choices": [{"index": 0, "del', "cannot be read"),
        (said("a") + b"data: <html>\n\n", "cannot be read"),
        (said("a") + frame(choices=[{"index": "one"}]), "cannot be read"),
        (said("a") + frame(choices=[{"delta": {"content": [{"type": "text"}]}}]), "not text"),
        (b"<html><body>Welcome</body></html>", "without its end"),
        (DONE, "0 of 1"),
    ],
)
def test_ends_that_are_not(data: bytes, what: str) -> None:
    deltas, reply = read(data)
    assert text(deltas) == ("a" if b'"a"' in data else "")
    with pytest.raises(BadReply, match=what):
        reply.finish()


@pytest.mark.parametrize(
    ("fault", "leaf"),
    [
        ({"message": "slow down", "type": "rate_limit_exceeded"}, Overloaded),
        ({"message": "slow down", "code": 429}, Overloaded),
        ({"message": "boom", "type": "server_error", "code": None}, Unavailable),
        ({"message": "boom", "type": "InternalServerError", "code": 500}, Unavailable),
        ("something broke", Unavailable),
        ({"message": "too big", "code": 400, "type": "exceed_context_size_error"}, PromptTooLong),
        ({"message": "no", "type": "invalid_request_error"}, Refused),
    ],
)
def test_an_error_frame_ends_the_answer_after_what_came_before_it(fault: object, leaf: type[EngineError]) -> None:
    deltas, reply = read(said("a") + frame(error=fault) + said("b") + DONE)
    assert text(deltas) == "a"
    with pytest.raises(leaf):
        reply.finish()


def test_an_answer_in_one_piece() -> None:
    message = {"role": "assistant", "content": "all of it", "refusal": None}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "m"}
    reply = Reply()
    assert reply.whole(json.dumps(body).encode()) == [Delta("all of it")]
    assert reply.finish() == Finish(("stop",), model="m")


@given(
    st.text("ab", min_size=1, max_size=6),
    st.booleans(),
    st.text("ab", max_size=8),
    st.lists(st.integers(0, 20), max_size=5),
)
def test_an_exact_echo_is_taken_away_and_nothing_else(echo: str, echoes: bool, rest: str, cuts: list[int]) -> None:
    sent = echo + rest if echoes else rest
    parts = [piece.decode() for piece in pieces(sent.encode(), cuts)]
    deltas, reply = read(b"".join(said(part) for part in parts) + said(finish="stop") + DONE, echo=echo)
    assert text(deltas) == (sent.removeprefix(echo))
    assert all(delta.text for delta in deltas)
    assert reply.echoed is (True if sent.startswith(echo) else None if echo.startswith(sent) else False)


def test_text_held_for_an_echo_is_not_lost_when_the_stream_breaks() -> None:
    deltas, reply = read(said("1, 2") + frame(error={"message": "x", "type": "server_error"}), echo="1, 2, 3")
    assert text(deltas) == "1, 2"
    with pytest.raises(Unavailable):
        reply.finish()
    deltas, _ = read(said("1, 2"), echo="1, 2, 3")
    assert text(deltas) == "1, 2"


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (None, None),
        ({}, None),
        ({"total_tokens": 7}, None),
        ({"prompt_tokens": 5}, Usage(input=5)),
        (
            {
                "prompt_tokens": 2000,
                "completion_tokens": 40,
                "total_tokens": 2040,
                "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 512},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(2000, 40, 1024, 512, 30),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(5, 1)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}, Usage(9, 1, 8)),
        # xAI: reasoning beside the completion, inside the total
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 103, reasoning=94),
        ),
        # Gemini: reasoning in the total only
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, Usage(20, 603, reasoning=405)),
        ({"prompt_tokens": "many", "completion_tokens": 3}, Usage(None, 3)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, Usage(None, 3)),
    ],
)
def test_usage_in_every_dialect(reported: dict[str, Any] | None, usage: Usage | None) -> None:
    assert read_usage(reported) == usage


def test_logprobs_of_a_text_completion_take_the_shape_of_a_chat() -> None:
    legacy = {"tokens": ["ä", "b"], "token_logprobs": [-0.5, -1.0], "top_logprobs": [{"ä": -0.5}, None]}
    assert read_logprobs(legacy) == [
        {
            "token": "ä",
            "logprob": -0.5,
            "bytes": [195, 164],
            "top_logprobs": [{"token": "ä", "logprob": -0.5, "bytes": [195, 164]}],
        },
        {"token": "b", "logprob": -1.0, "bytes": [98], "top_logprobs": []},
    ]
    entries = [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]
    assert read_logprobs({"content": entries, "refusal": None}) == entries
    assert read_logprobs({"content": []}) is None
    assert read_logprobs({}) is None
