"""Line: how one call of a library that brings its own HTTP client reaches its provider: one request, and closed.

httpx is there with litellm only, and imported on first use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from students.errors import EngineError, Refused, TimedOut, Unavailable
from students.faults import failure, read_error, read_retry_after
from students.runs import Run
from students.spec import Deadlines

if TYPE_CHECKING:
    import httpx

UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
"""Errors of httpx after which nothing was sent."""

ERROR_BYTES = 65_536
"""Of the body of a failed request; the rest is not read."""


class Line:
    """How one call reaches its provider: at most one request, whose response is closed with the line.

    `run` begins as the request is sent, and ends with the last byte of its answer. `failure`: what the transport saw
    fail, in the provider's own words; None: nothing. `last`: what an answer that is whole holds somewhere; None:
    litellm knows when it is.
    """

    def __init__(self, pool: httpx.AsyncHTTPTransport, deadlines: Deadlines, run: Run) -> None:
        self.failure: EngineError | None = None
        self.last: bytes | None = None
        self._seen = False
        self._tail = b""
        self._pool = pool
        self._connect = deadlines.connect
        self._idle = deadlines.idle
        self._sent = False
        self._response: httpx.Response | None = None
        self._run = run
        self.transport = _transport(self)

    async def ask(self, request: httpx.Request) -> httpx.Response:
        """Send the request, if it is the first."""
        if self._sent:
            # litellm asks again after a broken connection; the first request may have been answered and billed.
            raise _Again
        self._sent = True
        self._run.begin()
        timeouts = {"connect": self._connect, "pool": self._connect, "read": None, "write": self._connect}
        request.extensions = {**request.extensions, "timeout": timeouts}
        try:
            response = self._response = await self._pool.handle_async_request(request)
            timeouts["read"] = self._idle  # until here, first_token counted
            if response.status_code != 200:
                self.failure = await self._failed(response)
        except Exception as error:
            self.failure = self.failure or _unreached(error)
            if type(error).__name__ in UNSENT:
                self._run.withdraw()
            raise
        else:
            response.stream = _body(response.stream, self)
            return response

    async def _failed(self, response: httpx.Response) -> EngineError:
        status = response.status_code
        if 300 <= status < 400:
            return Refused(f"{status}: the server redirects; is api_base right?", status=status)
        body = b""
        async for data in response.aiter_bytes():
            body += data
            if len(body) >= ERROR_BYTES:
                break
        import httpx

        await response.aclose()
        response.stream = httpx.ByteStream(body)
        return failure(read_error(body), status, read_retry_after(response.headers))

    @property
    def ended(self) -> bool:
        """False when the answer broke off."""
        return self.last is None or self._seen

    def heard(self, data: bytes) -> None:
        """Bytes of the answer, cut anywhere."""
        if self.last is not None and not self._seen:
            self._tail += data
            self._seen = self.last in self._tail
            self._tail = self._tail[-len(self.last) :]

    def whole(self) -> None:
        """The last byte of the answer has come."""
        self._run.end()

    async def close(self) -> None:
        """End the response and the run, if they have not ended. Idempotent."""
        response, self._response = self._response, None
        if response is not None:
            with suppress(Exception):
                await response.stream.aclose()  # type: ignore[union-attr]  # an async transport's streams are async
        self._run.end()


class _Again(Exception):
    """litellm wanted to send a second request."""


@cache
def _classes() -> tuple[type[Any], type[Any]]:
    """httpx is here with litellm only, so what derives from it is made on first use."""
    import httpx

    class Transport(httpx.AsyncBaseTransport):
        def __init__(self, line: Line) -> None:
            self._line = line

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await self._line.ask(request)

    class Body(httpx.AsyncByteStream):
        def __init__(self, inner: httpx.AsyncByteStream, line: Line) -> None:
            self._inner = inner
            self._line = line

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for data in self._inner:
                    self._line.heard(data)
                    yield data
                self._line.whole()
            except Exception as error:
                self._line.failure = self._line.failure or _unreached(error)
                raise

        async def aclose(self) -> None:
            await self._inner.aclose()

    return Transport, Body


def _transport(line: Line) -> httpx.AsyncBaseTransport:
    transport: httpx.AsyncBaseTransport = _classes()[0](line)
    return transport


def _body(stream: object, line: Line) -> httpx.AsyncByteStream:
    body: httpx.AsyncByteStream = _classes()[1](stream, line)
    return body


def _unreached(error: Exception) -> EngineError:
    """What an error of the transport means."""
    kind = type(error).__name__
    if kind in ("ConnectTimeout", "PoolTimeout"):
        return TimedOut("no connection in time", deadline="connect")
    if kind == "ReadTimeout":
        return TimedOut("the answer stopped coming", deadline="idle")
    return Unavailable(f"{kind}: {error}".removesuffix(": "))
