"""Completions: `POST /v1/chat/completions` as a bare ASGI endpoint, one path for streams and for JSON.

Whatever happens, the client gets a status and a body in OpenAI's shape before the first byte of an answer, and one
error frame after it. A client that leaves takes its answer's generator with it, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any

import orjson
import structlog
from starlette.types import Message, Receive, Scope, Send

from gateway.api.answer import Chunks, Fold, error_frame
from gateway.api.wire import new_id, parse
from gateway.chat import Exchange
from gateway.errors import GatewayError, TooLarge
from gateway.pipeline import Gateway
from students.engine import Delta, Finish

RawHeader = tuple[bytes, bytes]

UNEXPECTED = "The gateway failed to answer because of a fault of its own."
_EVENT_STREAM: tuple[RawHeader, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_PRINTABLE = bytes(code if 32 <= code < 127 else ord("?") for code in range(256))
_MAX_HEADER = 200

log = structlog.get_logger("gateway.api")


class Completions:
    """The endpoint. Never raises anything but a cancellation that is not its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def open(self) -> bool:
        """True while the gateway asks for no key."""
        return self._gateway.auth.open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(send, new_id())
        traces = self._gateway.traces
        if traces is None:
            await self._reply(scope, receive, reply)
        else:
            with traces.request(scope["method"], scope["path"], dict(scope["headers"])) as span:
                try:
                    await self._reply(scope, receive, reply)
                finally:
                    span.answered(reply.status)

    async def _reply(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        try:
            await self._answer(scope, receive, reply)
        except Left:
            pass
        except GatewayError as error:
            await self._fail(reply, error)
        except Exception:
            log.exception("unexpected", request_id=reply.id)
            await self._fail(reply, GatewayError(UNEXPECTED))

    async def _fail(self, reply: Reply, error: GatewayError) -> None:
        if not reply.admitted:  # what was admitted is counted when it is settled
            self._gateway.metrics.refused(error.http_status)
        await reply.fail(error)

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        headers: list[RawHeader] = scope["headers"]
        known = dict(headers)
        authorization = known.get(b"authorization")
        caller = self._gateway.auth.caller(None if authorization is None else authorization.decode("latin-1"))
        body = await read_body(receive, known.get(b"content-length"), self._gateway.config.server.max_body_bytes)
        chat = parse(body, headers, id=reply.id)
        exchange = self._gateway.open(chat, caller)
        reply.describe(exchange)
        if chat.stream:
            await self._stream(exchange, receive, reply)
        else:
            await self._fold(exchange, receive, reply)

    async def _stream(self, exchange: Exchange, receive: Receive, reply: Reply) -> None:
        chat = exchange.chat
        chunks = Chunks(chat.id, int(exchange.started), chat.model, usage=chat.stream_usage)
        finish: Finish | None = None
        async with Listening(receive), aclosing(self._gateway.answer(exchange)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    await reply.send(chunks.delta(event))
                else:
                    finish = event
        await reply.send(chunks.end(_ended(finish), self._gateway.receipt(exchange), chat.n), last=True)

    async def _fold(self, exchange: Exchange, receive: Receive, reply: Reply) -> None:
        chat = exchange.chat
        fold = Fold(chat.id, int(exchange.started), chat.model, chat.n)
        finish: Finish | None = None
        async with Listening(receive), aclosing(self._gateway.answer(exchange)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    fold.delta(event)
                else:
                    finish = event
        await reply.json(200, fold.end(_ended(finish), self._gateway.receipt(exchange)))


class Left(Exception):
    """The client has gone; there is nobody to answer."""


class Listening:
    """Listens for the client while a block answers it, and ends the block with `Left` when the client goes.

    The block is cancelled in the manner of `asyncio.timeout`: a cancellation that comes from elsewhere passes through.
    """

    __slots__ = ("_before", "_left", "_listener", "_receive", "_task")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        self._task = task
        self._before = task.cancelling()
        self._listener = asyncio.create_task(self._listen())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.cancel()
        if self._left and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise Left from error

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()


class Reply:
    """One response, begun when there is something to say: an error before that still has its own status."""

    __slots__ = ("_exchange", "_headers", "_send", "id", "status")

    def __init__(self, send: Send, id: str) -> None:  # noqa: A002 - the field's name
        self.id = id
        self._send = send
        self.status: int | None = None
        """None until it has begun."""
        self._exchange: Exchange | None = None
        raw = id.encode()
        self._headers: list[RawHeader] = [(b"x-request-id", raw), (b"x-gkt-request-id", raw)]

    def describe(self, exchange: Exchange) -> None:
        """Say in the headers how the chat was planned."""
        plan = exchange.plan
        self._exchange = exchange
        self._headers += [(b"x-gkt-strategy", plan.strategy.encode()), (b"x-gkt-why", header_value(plan.why))]

    @property
    def admitted(self) -> bool:
        """Whether there is an exchange that will be settled."""
        return self._exchange is not None and self._exchange.admitted

    async def send(self, frames: bytes, *, last: bool = False) -> None:
        """Send the next bytes of a stream."""
        if self.status is None:
            await self._start(200, _EVENT_STREAM)
        await self._send({"type": "http.response.body", "body": frames, "more_body": not last})

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send one JSON value, and nothing else."""
        body = orjson.dumps(value)
        more = [(name.encode(), header_value(text)) for name, text in (headers or {}).items()]
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, ((b"content-type", b"application/json"), length, *more))
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: GatewayError) -> None:
        """Send an error: as a status, or as the last frame of a stream that has begun."""
        if self.status is not None:
            await self.send(error_frame(error), last=True)
        else:
            await self.json(error.http_status, error.body, error.headers)

    async def _start(self, status: int, headers: tuple[RawHeader, ...]) -> None:
        self.status = status
        limits = self._exchange.headers.items() if self._exchange is not None else ()
        more = [(name.encode(), text.encode()) for name, text in limits]
        sent = [*headers, *self._headers, *more]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})


async def read_body(receive: Receive, content_length: bytes | None, limit: int) -> bytes:
    """The whole body of a request. Raises `TooLarge`, or `Left` when the client goes before it has sent it."""
    if content_length is not None and content_length.isdigit() and int(content_length) > limit:
        raise _too_large(limit)
    message = await receive()
    body = _piece(message)
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    pieces = [body]
    size = len(body)
    while message.get("more_body", False):
        if size > limit:
            raise _too_large(limit)
        message = await receive()
        pieces.append(_piece(message))
        size += len(pieces[-1])
    if size > limit:
        raise _too_large(limit)
    return b"".join(pieces)


def header_value(text: str) -> bytes:
    """`text` as the value of a header: printable ASCII, at most 200 characters."""
    return text[:_MAX_HEADER].encode("ascii", "replace").translate(_PRINTABLE)


def _piece(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise Left
    return bytes(message.get("body", b""))


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body of the request is larger than {limit:,} bytes.")


def _ended(finish: Finish | None) -> Finish:
    if finish is None:
        raise RuntimeError("the answer ended without its Finish")
    return finish
