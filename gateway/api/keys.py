"""Keys: made, listed, revoked and rotated with the admin's key, under `/gkt/v1/keys`."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Request
from pydantic import Field, ValidationError
from starlette.responses import JSONResponse, Response

from gateway.api.admin import Instant
from gateway.api.completions import Left, read_body
from gateway.api.routes import AGateway
from gateway.errors import BadRequest, Busy
from gateway.keys.key import Grant
from students.spec import Strict

MAX_BODY = 65_536
"""Bytes of a request about keys."""

LONGEST_GRACE = 90 * 86_400.0

Body = TypeVar("Body", bound=Strict)


class NewKey(Grant):
    """The body of `POST /gkt/v1/keys`; `expires_at` is a date (UTC), a time, or seconds since the epoch."""

    expires_at: Instant | None = None


class Rotation(Strict):
    """The body of `POST /gkt/v1/keys/{id}/rotate`, which may be empty."""

    grace_seconds: float = Field(0.0, ge=0, le=LONGEST_GRACE, allow_inf_nan=False)


async def the_keeper(gateway: AGateway, authorization: Annotated[str | None, Header()] = None) -> None:
    """Passes the admin's key and nobody without one, not even where no key is asked for.

    Whoever could make the first key would shut everybody else out: a web page in the operator's browser, for one.
    """
    gateway.auth.admin(authorization, always=True)


router = APIRouter(prefix="/gkt/v1/keys", dependencies=[Depends(the_keeper)])


@router.api_route("", methods=["GET", "HEAD"])
async def listed(gateway: AGateway) -> Response:
    """Every key there ever was, oldest first, without its secret."""
    now = time.time()
    return _answer({"object": "list", "data": [key.plain(now) for key in await gateway.keys.all()]})


@router.post("")
async def create(request: Request, gateway: AGateway) -> Response:
    """A new key. This answer alone has its `secret`."""
    grant = Grant(**(await body_of(request, NewKey)).model_dump())
    key, secret = await gateway.keys.create(grant)
    return _answer(key.plain(time.time()) | {"secret": secret}, 201)


@router.api_route("/{key_id}", methods=["GET", "HEAD"])
async def one(key_id: str, gateway: AGateway) -> Response:
    """One key, and what is `used` of its budgets now: spent, or put aside for requests under way; null: unknown."""
    key = await gateway.keys.get(key_id)
    told: list[dict[str, str]] | None = None
    with suppress(Busy):
        used = await gateway.admission.used(key.caller, gateway.config.limits)
        told = [{**allowance.plain, "used_usd": amount.plain} for allowance, amount in used]
    return _answer(key.plain(time.time()) | {"used": told})


@router.delete("/{key_id}")
async def revoke(key_id: str, gateway: AGateway) -> Response:
    """Close a key for good; it stays on record, for the accounts."""
    return _answer((await gateway.keys.revoke(key_id)).plain(time.time()))


@router.post("/{key_id}/rotate")
async def rotate(key_id: str, request: Request, gateway: AGateway) -> Response:
    """A new `secret` for the key, in this answer alone; the old one opens the gateway for `grace_seconds` more."""
    grace = (await body_of(request, Rotation)).grace_seconds
    key, secret = await gateway.keys.rotate(key_id, grace)
    return _answer(key.plain(time.time()) | {"secret": secret})


def _answer(data: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(data, status, {"cache-control": "no-store"})


async def body_of(request: Request, kind: type[Body], limit: int = MAX_BODY) -> Body:
    """What the body says, of `limit` bytes at most. Raises `BadRequest` or `TooLarge`.

    Read here and not by FastAPI, which reads all of it before it knows who sends it.
    """
    length = request.headers.get("content-length")
    try:
        body = await read_body(request.receive, None if length is None else length.encode("latin-1"), limit)
        return kind.model_validate_json(body or b"{}")
    except Left:
        raise BadRequest("The client left before it had sent its request.") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "json_invalid":
            raise BadRequest("The body of the request is not valid JSON.", code="invalid_json") from None
        name = ".".join(map(str, fault["loc"]))[:40]
        text = fault["msg"].removeprefix("Value error, ")
        about = f"'{name}'" if name else "request"
        raise BadRequest(f"Invalid {about}: {text}", param=name or None, code="invalid_value") from None
