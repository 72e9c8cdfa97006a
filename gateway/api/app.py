"""App: the HTTP surface as one ASGI application, with OpenAI's error shape and a request id on every answer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import admin, feedback, keys, routes, upstreams
from gateway.api.completions import UNEXPECTED, Completions
from gateway.api.door import refusal
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound
from gateway.pipeline import Gateway

CHAT = "/v1/chat/completions"

Opener = Callable[[Config], AbstractAsyncContextManager[Gateway]]

log = structlog.get_logger("gateway.api")


class App(FastAPI):
    """FastAPI behind a door.

    Chats go from the door straight to their endpoint: FastAPI's middlewares and dependencies would cost them a
    tenth of a millisecond and give them nothing. Where no key is asked for, `gateway.api.door` looks at all of them
    first. Everything else gets a request id and, should it come to that, a
    500 in the shape of all errors.
    """

    completions: Completions | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif (
            self.completions is not None
            and self.completions.open
            and (fault := refusal(scope["headers"], scope["method"]))
        ):
            await _stamped(_response(fault), scope, receive, send)
        elif self.completions is not None and scope["path"] == CHAT and scope["method"] == "POST":
            await self.completions(scope, receive, send)
        else:
            await self._enter(scope, receive, send)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _new_id()
        try:
            await _stamped(super().__call__, scope, receive, send, request_id)
        except Exception:
            # Starlette has answered it by `_unexpected` and raises it for us to log; there is nobody else to tell.
            log.exception("unexpected", request_id=request_id)


def create_app(config: Config, *, opener: Opener = open_gateway, pages: Mapping[str, ASGIApp] | None = None) -> App:
    """The application; its lifespan opens the gateway and closes it. Nothing is reached before that.

    `pages` are applications of their own by the path at which they begin; they see whole paths.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with opener(config) as gateway:
            app.state.gateway = gateway
            completions = Completions(gateway)
            # Also as a route, so that other methods on this path are a 405 that names the right one.
            route = Route(CHAT, endpoint=completions, methods=["POST"])
            app.router.routes.insert(0, route)
            app.completions = completions
            try:
                yield
            finally:
                app.completions = None
                app.router.routes.remove(route)

    app = App(
        title="GKT gateway", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.include_router(routes.router)
    app.include_router(admin.router)
    app.include_router(keys.router)
    app.include_router(feedback.router)
    app.include_router(upstreams.router)
    for path, page in (pages or {}).items():
        app.router.routes += [Route(path, page), Route(f"{path}/{{rest:path}}", page)]
    app.add_exception_handler(GatewayError, _gateway_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _new_id() -> str:
    return "req_" + secrets.token_urlsafe(21)


async def _stamped(app: ASGIApp, scope: Scope, receive: Receive, send: Send, request_id: str | None = None) -> None:
    """Run `app`, and put a request id on what it answers."""
    stamp = (b"x-request-id", (request_id or _new_id()).encode())

    async def stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), stamp]
        await send(message)

    await app(scope, receive, stamped)


def _response(error: GatewayError, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error.body, error.http_status, {**error.headers, **(headers or {})})


async def _gateway_error(request: Request, error: Exception) -> Response:
    return _response(cast("GatewayError", error))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _response(GatewayError(UNEXPECTED))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself says: no such path, no such method."""
    fault = cast("HTTPException", error)
    headers = dict(fault.headers or {})
    called = f"{request.method} {request.url.path[:200]}"
    if fault.status_code == 404:
        return _response(NotFound(f"Invalid URL ({called}). The API is under /v1.", code="unknown_url"), headers)
    if fault.status_code == 405:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        allowed = headers.get("Allow") or headers.get("allow") or "another method"
        return _response(MethodNotAllowed(f"Not allowed ({called}). Use {allowed}."), headers)
    kind = "invalid_request_error" if fault.status_code < 500 else "server_error"
    body = {"error": {"message": str(fault.detail), "type": kind, "param": None, "code": None}}
    return JSONResponse(body, fault.status_code, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """A query parameter that cannot be used; the first fault is told."""
    fault: dict[str, Any] = cast("RequestValidationError", error).errors()[0]
    name = str(fault["loc"][-1])
    text = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        text = f"unknown parameter. Allowed are: {', '.join(admin.QUERIES[request.url.path].model_fields)}."
    return _response(BadRequest(f"Invalid '{name[:40]}': {text}", param=name[:40], code="invalid_value"))
