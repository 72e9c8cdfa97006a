"""Any engine as a server that speaks OpenAI's chat completions: what Ray Serve's route and tests are made of.

`GET /v1/models`, `GET /health`, `POST /v1/chat/completions`, streamed or whole; a text is continued as vLLM is asked to
(`continue_final_message`). The gateway is not made of this: it has accounts, limits and callers.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
import orjson
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pricing.usage import Usage
from students.engine import Ability, Delta, Engine, Event, Finish, Prompt, Sampling
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut
from students.resume import Seam

log = structlog.get_logger("students.serving")

Json = dict[str, Any]

MOST_BYTES = 10_000_000
"""Of a request."""


class Asked(msgspec.Struct):
    """The fields of a request that an engine is told by name; all others are handed on as options."""

    messages: list[dict[str, Any]]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True


class Completions:
    """Answers requests with an engine, which its maker closes. `key`: what callers have to bring; None: nothing."""

    def __init__(self, engine: Engine, *, key: str | None = None) -> None:
        self._engine = engine
        self._key = key
        self._reached = False

    async def respond(self, request: Request) -> Response:
        """The response to any request; errors are in OpenAI's shape. The path is looked at from its end."""
        path = request.url.path
        try:
            if path.endswith("/health"):
                await self._engine.ready()
                return Response()
            if self._key is not None and not self._may_ask(request):
                raise Refused("the key is missing or wrong", status=401, code="invalid_api_key")
            if path.endswith("/models") and request.method == "GET":
                return _json({"object": "list", "data": [{"id": self._engine.model, "object": "model"}]})
            if path.endswith("/chat/completions") and request.method == "POST":
                return await self._chat(request)
            raise Refused("there is nothing at this path", status=404, code="not_found")
        except EngineError as error:
            return _failed(error)

    def _may_ask(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return hmac.compare_digest(given.encode(), (self._key or "").encode())

    async def _chat(self, request: Request) -> Response:
        asked, options = _read(await _body(request))
        if not self._reached:
            await self._engine.ready()
            self._reached = True
        prompt, seam = prompted(asked, options, self._engine.abilities)
        told = Told(self._engine.model)
        events = self._engine.stream(prompt)
        try:
            first = await anext(events, None)  # until here an error has a status
            if first is None:
                raise BadReply("the answer ended without its end")
        except BaseException:
            await events.aclose()
            raise
        joined = _joined(first, events, seam)
        if asked.stream:
            usage = bool((asked.stream_options or {}).get("include_usage"))
            frames = _frames(joined, told, usage=usage, n=prompt.n)
            return StreamingResponse(frames, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return _json(await _or_left(request, _whole(joined, told, prompt.n)))


def app(engine: Engine, *, key: str | None = None) -> Starlette:
    """An ASGI application around an engine, which the caller closes."""
    completions = Completions(engine, key=key)
    return Starlette(routes=[Route("/{path:path}", completions.respond, methods=["GET", "POST"])])


def prompted(asked: Asked, options: Mapping[str, Any], abilities: Ability) -> tuple[Prompt, Seam]:
    """What a request asks an engine for, and how its continuation is joined. Raises `Refused` as vLLM does.

    `continue_final_message` needs `add_generation_prompt: false` beside it, and an assistant's text as last message.
    """
    messages, prefix = asked.messages, ""
    if not messages:
        raise Refused("messages must not be empty", status=400)
    if asked.continue_final_message:
        if asked.add_generation_prompt:
            raise Refused("Cannot set both `continue_final_message` and `add_generation_prompt` to True.", status=400)
        if Ability.CONTINUE not in abilities:
            raise Refused("this model cannot continue a given text", status=400)
        *messages, last = messages
        prefix = _text(last.get("content"))
        if last.get("role") != "assistant" or not messages:
            raise Refused("continue_final_message needs an assistant message behind others", status=400)
    n = asked.n or 1
    if n > 1 and Ability.SAMPLES not in abilities:
        raise Refused("this model answers n = 1 only", status=400)
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    sampling = Sampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias,
        stop=stop,
        logprobs=bool(asked.logprobs),
        top_logprobs=asked.top_logprobs,
    )
    limit = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    kept = prefix.rstrip()
    prompt = Prompt(messages, max_tokens=limit, prefix=kept, sampling=sampling, n=n, options=options)
    return prompt, Seam(prefix[len(kept) :])


class Told:
    """The members that all chunks of one answer, or the whole of it, have in common."""

    def __init__(self, model: str) -> None:
        self._common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def chunk(self, choices: list[Json], **more: Any) -> bytes:
        """A frame of a stream."""
        body = {**self._common, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def whole(self, choices: list[Json], **more: Any) -> Json:
        """An answer in one piece."""
        return {**self._common, "object": "chat.completion", "choices": choices, **more}


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(f"the request is longer than {MOST_BYTES} bytes", status=413)
    return bytes(body)


def _read(body: bytes) -> tuple[Asked, Json]:
    try:
        members = orjson.loads(body)
        asked = msgspec.convert(members, Asked)
    except orjson.JSONDecodeError:
        raise Refused("the request is not JSON", status=400) from None
    except msgspec.ValidationError as error:
        raise Refused(str(error), status=400) from None  # names the place and the types, never the value
    return asked, {name: value for name, value in members.items() if name not in Asked.__struct_fields__}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise Refused("only a text can be continued", status=400)


async def _joined(first: Event, events: AsyncGenerator[Event, None], seam: Seam) -> AsyncGenerator[Event, None]:
    """All events, without white space that the given text ended with already."""
    async with aclosing(events):
        event: Event | None = first
        while event is not None:
            if isinstance(event, Finish):
                yield event
                return
            event.text = seam.new(event.text)
            if event.text or event.fields or event.logprobs:
                yield event
            event = await anext(events, None)
    raise BadReply("the answer ended without its end")


async def _frames(events: AsyncGenerator[Event, None], told: Told, *, usage: bool, n: int) -> AsyncIterator[bytes]:
    async with aclosing(events):
        try:
            for index in range(n):
                yield told.chunk([_choice(index, {"role": "assistant", "content": ""})])
            async for event in events:
                if isinstance(event, Delta):
                    delta = {"content": event.text, **(event.fields or {})}
                    yield told.chunk([_choice(event.index, delta, logprobs=event.logprobs)])
                else:
                    for index, reason in enumerate(event.reasons):
                        yield told.chunk([_choice(index, {}, reason)])
                    if usage and event.usage is not None:
                        yield told.chunk([], usage=_usage(event.usage))
            yield b"data: [DONE]\n\n"
        except EngineError as error:
            yield b"data: " + orjson.dumps({"error": _error(error)}) + b"\n\n"


async def _whole(events: AsyncGenerator[Event, None], told: Told, n: int) -> Json:
    messages: list[Json] = [{"role": "assistant", "content": ""} for _ in range(n)]
    logprobs: list[list[Mapping[str, Any]]] = [[] for _ in range(n)]
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                choices = [
                    {
                        "index": index,
                        "message": messages[index],
                        "logprobs": {"content": logprobs[index]} if logprobs[index] else None,
                        "finish_reason": reason,
                    }
                    for index, reason in enumerate(event.reasons)
                ]
                return told.whole(choices, usage=None if event.usage is None else _usage(event.usage))
            messages[event.index]["content"] += event.text
            logprobs[event.index] += event.logprobs or ()
            _fold(messages[event.index], event.fields or {})
    raise BadReply("the answer ended without its end")


def _fold(message: Json, fields: Mapping[str, Any]) -> None:
    """Add the further members of a delta to the message: texts grow, the pieces of tool calls find each other."""
    for name, value in fields.items():
        if isinstance(value, str) and isinstance(message.get(name), str) and name not in ("id", "type"):
            message[name] += value
        elif isinstance(value, dict):
            _fold(message.setdefault(name, {}), value)
        elif name == "tool_calls":
            calls = message.setdefault(name, [])
            for piece in value:
                at = piece.get("index", len(calls))
                calls.extend({} for _ in range(at + 1 - len(calls)))
                _fold(calls[at], {key: each for key, each in piece.items() if key != "index"})
        else:
            message[name] = value


async def _or_left(request: Request, answer: Any) -> Json:
    """The answer; it is given up when the client leaves before."""
    task: asyncio.Task[Json] = asyncio.ensure_future(answer)
    left = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("the client left", status=499)
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.wait({task, left})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _choice(index: int, delta: Json, reason: str | None = None, logprobs: Any = None) -> Json:
    shown = None if logprobs is None else {"content": logprobs}
    return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}


def _usage(usage: Usage) -> Json:
    """In OpenAI's shape; what is not known is left out."""
    told: Json = {}
    if usage.input is not None:
        told["prompt_tokens"] = usage.input
    if usage.output is not None:
        told["completion_tokens"] = usage.output
    if usage.input is not None and usage.output is not None:
        told["total_tokens"] = usage.input + usage.output
    if usage.cached is not None:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.reasoning is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return told


def _status(error: EngineError) -> int:
    if error.status is not None:
        return error.status
    kinds: tuple[tuple[type[EngineError], int], ...] = (
        (Refused, 400),
        (PromptTooLong, 400),
        (Overloaded, 429),
        (TimedOut, 504),
        (BadReply, 502),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), 503)


def _error(error: EngineError) -> Json:
    code = "context_length_exceeded" if isinstance(error, PromptTooLong) else error.code
    kind = "invalid_request_error" if _status(error) < 500 else "server_error"
    return {"message": str(error), "type": kind, "param": None, "code": code}


def _failed(error: EngineError) -> Response:
    headers = {}
    if isinstance(error, Overloaded) and error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return Response(orjson.dumps({"error": _error(error)}), _status(error), headers, "application/json")


def _json(body: Json) -> Response:
    return Response(orjson.dumps(body, default=dict), media_type="application/json")
