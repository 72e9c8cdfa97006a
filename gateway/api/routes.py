"""Routes: the models that can be asked for, and whether the gateway is well."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import JSONResponse, Response

from gateway.chat import Caller
from gateway.errors import NotFound, Unauthorized
from gateway.pipeline import Gateway

router = APIRouter()

STARTED = int(time.time())
"""OpenAI's `created` of a model; a route of this gateway has no older birthday than this process."""


async def the_gateway(request: Request) -> Gateway:
    """The gateway that the lifespan of the application opened."""
    return cast("Gateway", request.app.state.gateway)


async def the_caller(
    gateway: Annotated[Gateway, Depends(the_gateway)], authorization: Annotated[str | None, Header()] = None
) -> Caller:
    """Who asks. Raises `Unauthorized`."""
    return gateway.auth.caller(authorization)


async def the_admin(
    gateway: Annotated[Gateway, Depends(the_gateway)], authorization: Annotated[str | None, Header()] = None
) -> None:
    """Passes who may read all accounts. Raises `Unauthorized` or `Forbidden`."""
    gateway.auth.admin(authorization)


AGateway = Annotated[Gateway, Depends(the_gateway)]
ACaller = Annotated[Caller, Depends(the_caller)]


@router.api_route("/v1/models", methods=["GET", "HEAD"])
async def models(gateway: AGateway, caller: ACaller) -> dict[str, Any]:
    """The names that the caller can ask for, in OpenAI's shape."""
    return {"object": "list", "data": [_model(name) for name in gateway.models(caller)]}


@router.api_route("/v1/models/{name:path}", methods=["GET", "HEAD"])
async def model(name: str, gateway: AGateway, caller: ACaller) -> dict[str, Any]:
    """One of them; a name that `*` serves is one too."""
    if not name or not gateway.knows(name, caller):
        raise NotFound(
            f"The model '{name[:200]}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )
    return _model(name)


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz() -> dict[str, str]:
    """The process is up. Asks nobody."""
    return {"status": "ok"}


@router.api_route("/readyz", methods=["GET", "HEAD"])
async def readyz(gateway: AGateway, authorization: Annotated[str | None, Header()] = None) -> Response:
    """Whether chats can be answered now: 200 or 503. Who may ask for chats is also told the state of every upstream."""
    state = await gateway.readiness()
    try:
        gateway.auth.caller(authorization)
    except Unauthorized:
        return JSONResponse({"ready": state["ready"]}, 200 if state["ready"] else 503)
    return JSONResponse(state, 200 if state["ready"] else 503)


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(
    gateway: AGateway,
    authorization: Annotated[str | None, Header()] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """What Prometheus scrapes. Where keys are configured, for the admin; for everybody with `server.open_metrics`."""
    if not gateway.config.server.open_metrics:
        gateway.auth.admin(authorization)
    await gateway.glance()
    text, kind = await asyncio.to_thread(gateway.metrics.text, accept)
    return Response(text, headers={"content-type": kind})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "gkt"}
