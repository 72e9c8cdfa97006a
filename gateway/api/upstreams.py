"""Upstreams: what an operator does with them while the gateway runs, under `/gkt/v1/upstreams`."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from gateway.api.keys import body_of, the_keeper
from gateway.api.routes import AGateway
from gateway.errors import NotFound
from students.pool import Pool
from students.spec import Strict

router = APIRouter(prefix="/gkt/v1/upstreams", dependencies=[Depends(the_keeper)])


class Drain(Strict):
    """The body of `POST /gkt/v1/upstreams/{name}/drain`."""

    member: str
    drain: bool = True


@router.post("/{name}/drain")
async def drain(name: str, request: Request, gateway: AGateway) -> Response:
    """Let a pool ask one of its members for nothing more, or again; what is under way goes on. Of this process alone.

    The answer is the state of each member, as `/readyz` has it: a drained one with no `work` can be stopped.
    """
    asked = await body_of(request, Drain)
    upstream = gateway.upstreams.get(name)
    if upstream is None or not isinstance(upstream.engine, Pool):
        raise NotFound(f"No pool has the name '{name[:64]}'.", param="name", code="pool_not_found")
    try:
        upstream.engine.drain(asked.member, asked.drain)
    except LookupError:
        raise NotFound(
            f"The pool has no member '{asked.member[:64]}'.", param="member", code="member_not_found"
        ) from None
    return JSONResponse({"object": "pool", "name": name, "members": upstream.engine.state()})
