"""The server side of a chat completion, over scripted engines and asked by our own client and by hand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from pricing.usage import Usage
from students.engine import Ability, Delta, Engine, Event, Finish, Prompt
from students.errors import EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.openai_api import OpenAIApi
from students.scripted import Scripted
from students.serving import app
from students.spec import OpenAISpec
from tests.students.served import serving

pytestmark = pytest.mark.anyio

ASK = [{"role": "user", "content": "Hi"}]
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


class Telling:
    """An engine that tells the events it was given, and remembers what it was asked and that it was left."""

    name = model = "telling"
    abilities = Ability.CONTINUE | Ability.SAMPLES | Ability.TOOLS

    def __init__(self, *events: Event | EngineError, hangs: bool = False) -> None:
        self._events = events
        self._hangs = hangs
        self.asked: list[Prompt] = []
        self.left = asyncio.Event()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        self.asked.append(prompt)
        try:
            for event in self._events:
                if isinstance(event, EngineError):
                    raise event
                yield event
            if self._hangs:
                await asyncio.sleep(60)
        finally:
            self.left.set()

    async def ready(self) -> Ability:
        return self.abilities

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def client(engine: Engine, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a server between them."""
    transport = httpx.ASGITransport(app(engine, key=key))
    async with httpx.AsyncClient(transport=transport, base_url="http://served/v1") as http:
        yield http


async def asked(engine: Engine, **body: Any) -> httpx.Response:
    async with client(engine) as http:
        return await http.post("/chat/completions", json={"model": "m", "messages": ASK, **body})


def frames(response: httpx.Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


async def test_a_stream_has_the_shape_of_openais() -> None:
    usage = Usage(input=7, output=2, cached=3)
    engine = Telling(Delta("a", logprobs=[{"token": "a", "logprob": -1.0}]), Delta("b"), Finish(("length",), usage))
    response = await asked(engine, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    role, a, b, end, last, done = frames(response)
    assert done == "[DONE]"
    assert len({frame["id"] for frame in (role, a, b, end, last)}) == 1
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert a["choices"][0]["logprobs"] == {"content": [{"token": "a", "logprob": -1.0}]}
    assert b["choices"] == [{"index": 0, "delta": {"content": "b"}, "logprobs": None, "finish_reason": None}]
    assert end["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def test_usage_that_nobody_asked_for_or_nobody_knows_is_not_told() -> None:
    assert "usage" not in (await asked(Telling(Delta("a"), Finish(usage=Usage(1, 1))), stream=True)).text
    told = await asked(Telling(Delta("a"), Finish()), stream=True, stream_options={"include_usage": True})
    assert "usage" not in told.text
    assert (await asked(Telling(Delta("a"), Finish()))).json()["usage"] is None


async def test_the_whole_is_the_stream_folded() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ": 1}"}}
    events: list[Event] = [
        Delta("a", 0),
        Delta("x", 1),
        Delta("b", 0),
        Delta("", 1, fields={"tool_calls": [call]}),
        Delta("", 1, fields={"tool_calls": [more]}),
        Finish(("stop", "tool_calls"), Usage(input=5, output=4)),
    ]
    body = (await asked(Telling(*events), n=2)).json()
    assert body["object"] == "chat.completion"
    first, second = body["choices"]
    assert (first["message"], first["finish_reason"]) == ({"role": "assistant", "content": "ab"}, "stop")
    assert second["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


async def test_what_was_asked_reaches_the_engine() -> None:
    engine = Telling(Delta("a"), Finish())
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "presence_penalty": 0.1, "logit_bias": {"5": 2}}
    await asked(engine, max_completion_tokens=4, stop="x", n=2, tools=[{"type": "function"}], **sampling)
    [prompt] = engine.asked
    assert (prompt.messages, prompt.max_tokens, prompt.n, prompt.prefix) == (ASK, 4, 2, "")
    assert (prompt.sampling.temperature, prompt.sampling.seed, prompt.sampling.stop) == (0.5, 3, ("x",))
    assert prompt.sampling.logit_bias == {"5": 2}
    assert prompt.options == {"tools": [{"type": "function"}]}


@pytest.mark.parametrize(
    "content", ["Once upon ", [{"type": "text", "text": "Once "}, {"type": "text", "text": "upon "}]]
)
async def test_a_text_is_continued_from_exactly_there(content: Any) -> None:
    engine = Telling(Delta(" a time"), Finish())
    body = await asked(engine, messages=[*ASK, {"role": "assistant", "content": content}], **CONTINUE)
    [prompt] = engine.asked
    assert (prompt.messages, prompt.prefix) == (ASK, "Once upon"), "a prefix never ends in white space"
    assert body.json()["choices"][0]["message"]["content"] == "a time", "and the caller has it already"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"messages": []}, "must not be empty"),
        ({"messages": "hello"}, r"Expected `array`.*\$.messages"),
        ({"temperature": "hot"}, r"\$.temperature"),
        ({"continue_final_message": True}, "Cannot set both"),
        (CONTINUE, "needs an assistant message"),
        ({**CONTINUE, "messages": [*ASK, {"role": "assistant", "content": None}]}, "only a text"),
    ],
)
async def test_a_wrong_request_is_a_400_that_names_the_fault(body: dict[str, Any], fault: str) -> None:
    engine = Telling(Delta("a"), Finish())
    response = await asked(engine, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert re.search(fault, error["message"])
    assert not engine.asked


async def test_an_engine_is_not_asked_for_what_it_cannot_do() -> None:
    plain = Scripted("plain", "Hello there.", abilities=Ability.NONE)
    given = [*ASK, {"role": "assistant", "content": "Hel"}]
    assert (await asked(plain, messages=given, **CONTINUE)).status_code == 400
    assert (await asked(plain, n=2)).status_code == 400


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused("no", status=404, code="model_not_found"), 404, "model_not_found"),
        (PromptTooLong("too long"), 400, "context_length_exceeded"),
        (Overloaded("full", retry_after=2), 429, None),
        (TimedOut("late"), 504, None),
        (Unavailable("gone"), 503, None),
    ],
)
async def test_an_error_has_its_status_or_ends_the_stream(error: EngineError, status: int, code: str | None) -> None:
    response = await asked(Telling(error), stream=True)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == ("2" if status == 429 else None)
    response = await asked(Telling(Delta("a"), error), stream=True)
    assert response.status_code == 200
    assert frames(response)[-1]["error"]["message"] == str(error)
    assert "[DONE]" not in response.text
    assert (await asked(Telling(Delta("a"), error))).status_code == status


@pytest.mark.parametrize("events", [[], [Delta("a")]])
async def test_an_answer_without_its_end_is_no_short_answer(events: list[Event]) -> None:
    assert (await asked(Telling(*events))).status_code == 502
    streamed = await asked(Telling(*events), stream=True)
    assert "[DONE]" not in streamed.text
    assert "without its end" in streamed.text


async def test_a_key_is_asked_for_where_there_is_one() -> None:
    async with client(Telling(Delta("a"), Finish()), key="right") as http:
        for given in (b"", b"Bearer wrong", "Bearer righté".encode()):
            headers = {b"authorization": given}
            response = await http.post("/chat/completions", json={"messages": ASK}, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await http.get("/models")).status_code == 401
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/models", headers={"authorization": "Bearer right"})).json()["data"][0][
            "id"
        ] == "telling"
        assert (await http.get("/other", headers={"authorization": "Bearer right"})).status_code == 404


async def test_a_request_that_is_too_long_or_no_json() -> None:
    async with client(Telling()) as http:
        assert (await http.post("/chat/completions", content=b"{")).status_code == 400
        assert (await http.post("/chat/completions", content=b" " * 10_000_001)).status_code == 413


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_engines_stream(stream: bool) -> None:
    engine = Telling(Delta("a"), hangs=True)
    async with serving(engine) as url:
        async with httpx.AsyncClient() as http:
            body = {"messages": ASK, "stream": stream}
            with pytest.raises(httpx.ReadTimeout):
                await http.post(f"{url}/chat/completions", json=body, timeout=0.5)
        await asyncio.wait_for(engine.left.wait(), 10)


async def test_our_own_client_and_this_server_understand_each_other() -> None:
    def says(prompt: Prompt) -> str:
        return "0, 11, 12" if prompt.prefix else "1, 2, 3"

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Scripted("inner", says)))
        spec = OpenAISpec(model="m", base_url=url, prefill="continue_flag")
        engine = await stack.enter_async_context(aclosing(OpenAIApi("outer", spec)))
        assert Ability.CONTINUE in await engine.ready()
        async with aclosing(engine.stream(Prompt(ASK, prefix="9, 1"))) as events:
            said = [event async for event in events]
    assert "".join(event.text for event in said if isinstance(event, Delta)) == "0, 11, 12"
    assert isinstance(said[-1], Finish)
    assert said[-1].usage is not None
