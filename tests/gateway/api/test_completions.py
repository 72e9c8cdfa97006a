"""The chat endpoint on a real port, asked by the official SDK and over bare sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import structlog.testing
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from starlette.types import Message

from gateway.api.completions import Left, Listening, header_value, read_body
from gateway.chat import Exchange
from gateway.errors import BadRequest, Busy, TooLarge, UpstreamFailed
from pricing.usage import Usage
from students.engine import Delta, Event, Finish

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
PLAIN = {"model": "gkt", "messages": ASK}


@pytest.fixture
def client(live: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.url + "/v1", api_key=live.key, max_retries=0, timeout=10) as client:
        yield client


@contextmanager
def loud() -> Iterator[None]:
    """Log lines are made, whatever the tests around this one want to hear."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        yield
    finally:
        structlog.configure(wrapper_class=before)


async def hello(exchange: Exchange) -> AsyncGenerator[Event, None]:
    yield Delta("Hello")
    yield Finish()


def post(live: Any, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {live.key}", **headers}
    return httpx.post(live.url + "/v1/chat/completions", content=content, headers=sent, timeout=10)


def raw_request(live: Any, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {live.key}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def test_a_json_answer(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("Hello")
        yield Delta(" there.")
        yield Finish(("stop",), Usage(9, 3), fingerprint="fp")

    live.stub.script = script
    response = client.chat.completions.with_raw_response.create(
        model="gkt", messages=ASK, temperature=0.1, extra_body={"gkt": {"guidance_tokens": 7}, "top_k": 3}
    )
    answer = response.parse()
    exchange = live.stub.exchanges[0]
    assert answer.choices[0].message.content == "Hello there."
    assert (answer.model, answer.object, answer.system_fingerprint) == ("gkt", "chat.completion", "fp")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (9, 3, 12)
    assert answer.created == int(exchange.started)
    assert answer.model_extra == {"gkt": live.stub.receipt(exchange)}
    assert answer.id == exchange.chat.id == response.headers["x-request-id"] == response.headers["x-gkt-request-id"]
    assert response.headers["x-gkt-strategy"] == "cut-off"
    assert response.headers["x-gkt-why"] == "the route says so"
    assert exchange.caller.id.startswith("key-")
    assert (exchange.chat.overrides.guidance_tokens, exchange.chat.options) == (7, {"top_k": 3})
    assert live.stub.ended()[0] == "ok"


def test_a_streamed_answer(live: Any, client: OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(model="gkt", messages=ASK, stream=True)
    chunks = list(response.parse())
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert {chunk.id for chunk in chunks} == {response.headers["x-request-id"]}
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hello", " there.", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert [(chunk.model_extra or {}).get("gkt") is not None for chunk in chunks] == [False, False, False, True]
    assert live.stub.ended()[0] == "ok"


def test_a_stream_with_usage(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("Hello")
        yield Finish(("length",), Usage(9, 1))

    live.stub.script = script
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="gkt", messages=ASK, stream=True, stream_options=options))
    assert [chunk.usage and chunk.usage.total_tokens for chunk in chunks] == [None, None, None, 10]
    assert chunks[-1].choices == []
    assert (chunks[-1].model_extra or {})["gkt"]["strategy"] == "cut-off"


def test_words_reach_the_client_while_the_next_have_not_been_spoken(live: Any, client: OpenAI) -> None:
    spoken = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        loops.append(asyncio.get_running_loop())
        yield Delta("first")
        await spoken.wait()
        yield Delta("second")
        yield Finish()

    live.stub.script = script
    stream = client.chat.completions.create(model="gkt", messages=ASK, stream=True)
    words = (chunk.choices[0].delta.content for chunk in stream)
    assert [next(words), next(words)] == ["", "first"]
    loops[0].call_soon_threadsafe(spoken.set)
    assert list(words) == ["second", None]


def test_two_choices(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("b", 1)
        yield Delta("a", 0)
        yield Delta("bb", 1)
        yield Finish(("stop", "length"))

    live.stub.script = script
    answer = client.chat.completions.create(model="gkt", messages=ASK, n=2)
    assert [(c.message.content, c.finish_reason) for c in answer.choices] == [("a", "stop"), ("bbb", "length")]
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="gkt", messages=ASK, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["a", "bbb"]


def test_tool_calls(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
        yield Delta("", fields={"tool_calls": [call]})
        for piece in ('{"x":', " 1}"):
            yield Delta("", fields={"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        yield Finish(("tool_calls",))

    live.stub.script = script
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    message = client.chat.completions.create(model="gkt", messages=ASK, tools=tools).choices[0].message
    assert message.content is None
    assert [call.model_dump() for call in message.tool_calls or ()] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ]
    with client.chat.completions.stream(model="gkt", messages=ASK, tools=tools) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.tool_calls is not None
    assert final.tool_calls[0].function.arguments == '{"x": 1}'
    assert live.stub.exchanges[0].chat.needs == {"tools"}


def test_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="gkt", messages=ASK, temperature=3)
    assert (caught.value.param, caught.value.code, caught.value.type) == (
        "temperature",
        "decimal_above_max_value",
        "invalid_request_error",
    )
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("chatcmpl-")


def test_an_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=ASK, stream=True)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("key", ["sk-wrong", "é"])
def test_a_wrong_key(live: Any, key: str) -> None:
    response = httpx.post(
        live.url + "/v1/chat/completions", json=PLAIN, headers={b"authorization": b"Bearer " + key.encode("latin-1")}
    )
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert key not in response.text
    client = OpenAI(base_url=live.url + "/v1", api_key="sk-wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="gkt", messages=ASK)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_word_has_its_own_status(live: Any, stream: bool) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        raise UpstreamFailed("teacher: no answer", status=504, code="upstream_timeout", retry_after=2.4)
        yield

    live.stub.script = script
    response = post(live, {**PLAIN, "stream": stream})
    assert response.status_code == 504
    assert response.headers["content-type"] == "application/json"
    assert (response.headers["x-should-retry"], response.headers["retry-after"]) == ("false", "2")
    assert response.headers["x-gkt-strategy"] == "cut-off"
    assert response.headers["x-request-id"] == live.stub.exchanges[0].chat.id
    assert response.json() == {
        "error": {
            "message": "teacher: no answer",
            "type": "upstream_error",
            "param": None,
            "code": "upstream_timeout",
        }
    }


def test_an_error_after_the_first_word_is_one_frame_and_no_done(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("Hello")
        raise UpstreamFailed("student: gone")

    live.stub.script = script
    heard = client.chat.completions.create(model="gkt", messages=ASK, stream=True)
    assert [next(heard).choices[0].delta.content for _ in range(2)] == ["", "Hello"]
    with pytest.raises(openai.APIError, match="student: gone") as caught:
        next(heard)
    assert caught.value.code == "upstream_error"
    response = post(live, {**PLAIN, "stream": True})
    assert response.status_code == 200
    assert response.text.count('data: {"error":') == 1
    assert response.text.rstrip().rpartition("\n\n")[2].startswith('data: {"error":')
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_our_own_tells_nothing(live: Any, stream: bool, early: bool) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        if not early:
            yield Delta("Hello")
        raise ZeroDivisionError("the secret is sesame")

    live.stub.script = script
    with loud(), structlog.testing.capture_logs() as logged:
        response = post(live, {**PLAIN, "stream": stream})
    assert response.status_code == (200 if stream and not early else 500)
    assert "sesame" not in response.text
    assert "server_error" in response.text
    assert [entry["request_id"] for entry in logged] == [response.headers["x-request-id"]]
    live.stub.script = hello
    assert post(live, PLAIN).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_its_end_is_never_a_short_answer(live: Any, stream: bool) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("Hello")

    live.stub.script = script
    response = post(live, {**PLAIN, "stream": stream})
    assert "server_error" in response.text
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_answer_at_once(live: Any, stream: bool) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        yield Delta("Hello")
        await asyncio.sleep(60)
        yield Finish()

    live.stub.script = script
    with live.raw(raw_request(live, {**PLAIN, "stream": stream})) as connection:
        if stream:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        else:
            time.sleep(0.2)
        assert live.stub.endings == []
        left = time.monotonic()
    how, when = live.stub.ended()
    assert how == "abandoned"
    assert when - left < 0.1
    live.stub.script = hello
    assert post(live, PLAIN).status_code == 200


def test_a_client_that_leaves_while_words_flow(live: Any, client: OpenAI) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        while True:
            yield Delta("word ")
            await asyncio.sleep(0.001)

    live.stub.script = script
    stream = client.chat.completions.create(model="gkt", messages=ASK, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    left = time.monotonic()
    how, when = live.stub.ended()
    assert how == "abandoned"
    assert when - left < 0.1


def test_a_client_that_reads_nothing_and_leaves(live: Any) -> None:
    async def script(exchange: Exchange) -> AsyncGenerator[Event, None]:
        while True:
            yield Delta("x" * 100_000)

    live.stub.script = script
    with live.raw(raw_request(live, {**PLAIN, "stream": True})):
        time.sleep(0.3)  # until the answer waits for the client
        assert live.stub.endings == []
        left = time.monotonic()
    how, when = live.stub.ended()
    assert how == "abandoned"
    assert when - left < 0.1


def test_one_connection_serves_answers_one_after_the_other(live: Any) -> None:
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {live.key}"}) as connection:
        for stream in (True, False, True, False):
            answer = connection.post("/v1/chat/completions", json={**PLAIN, "stream": stream})
            assert answer.status_code == 200
    assert [live.stub.ended()[0] for _ in range(4)] == ["ok"] * 4


def test_a_body_over_the_limit(live: Any) -> None:
    big = {**PLAIN, "extra": "x" * 6000}
    declared = post(live, big)
    assert declared.status_code == 413
    assert declared.json()["error"]["code"] == "request_too_large"
    assert declared.headers["x-request-id"]

    def pieces() -> Iterator[bytes]:
        yield from (json.dumps(big).encode(),)

    undeclared = httpx.post(
        live.url + "/v1/chat/completions", content=pieces(), headers={"authorization": f"Bearer {live.key}"}
    )
    assert undeclared.status_code == 413


def test_a_key_is_asked_for_before_the_body_is_read(live: Any) -> None:
    assert httpx.post(live.url + "/v1/chat/completions", content=b"x" * 6000).status_code == 401


def test_a_body_in_pieces(live: Any) -> None:
    request = raw_request(live, PLAIN)
    with live.raw(request[:-20]) as connection:
        time.sleep(0.05)
        connection.sendall(request[-20:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_in_the_middle_of_its_body(live: Any) -> None:
    with live.raw(raw_request(live, PLAIN)[:-20]):
        time.sleep(0.05)
    assert post(live, PLAIN).status_code == 200
    assert len(live.stub.exchanges) == 1


def test_a_reason_that_no_header_could_hold(live: Any) -> None:
    live.stub.why = "because\r\nx-evil: 1 – " + "ü" * 500
    response = post(live, PLAIN)
    assert response.status_code == 200
    assert "x-evil" not in response.headers
    assert len(response.headers["x-gkt-why"]) == 200
    assert header_value("a\r\n\x00\x7fb–c") == b"a????b?c"


def test_no_room(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Exchange:
        raise Busy("The gateway is full.")

    monkeypatch.setattr(live.stub, "open", full)
    response = post(live, PLAIN)
    assert (response.status_code, response.headers["x-should-retry"]) == (503, "true")


@pytest.mark.anyio
async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    async def never() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def block() -> None:
        async with Listening(never):
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.anyio
async def test_a_cancellation_from_elsewhere_wins_over_a_client_that_left() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def block() -> None:
        async with Listening(gone):
            await asyncio.sleep(60)

    left = asyncio.create_task(block())
    with pytest.raises(Left):
        await left
    both = asyncio.create_task(block())
    await asyncio.sleep(0)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


@pytest.mark.anyio
async def test_an_error_that_meets_a_client_that_left_is_not_hidden() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def block() -> int:
        try:
            async with Listening(gone):
                try:
                    await asyncio.sleep(60)
                finally:
                    raise BadRequest("while closing")
        except BadRequest:
            await asyncio.sleep(0)  # nothing of the cancellation is left over
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

    assert await asyncio.create_task(block()) == 0


@pytest.mark.anyio
async def test_the_body_is_bounded_while_it_arrives() -> None:
    pieces = iter([b"a" * 6, b"b" * 6, b"c" * 6])

    async def receive() -> Message:
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    with pytest.raises(TooLarge):
        await read_body(receive, None, 10)
    assert next(pieces) == b"c" * 6, "no more is read than is needed to know"
