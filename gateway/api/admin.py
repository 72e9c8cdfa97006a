"""Admin: the accounts as JSON, under `/gkt/v1`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

import fastapi
import orjson
from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, BeforeValidator, ConfigDict
from starlette.responses import JSONResponse, Response

from gateway.api.routes import AGateway, the_admin
from gateway.chat import Caller, StrategyName
from gateway.errors import GatewayError, NotFound
from gateway.ledger.entry import Query, SavingsRow
from gateway.report import plain, reports
from pricing.intervals import LEVEL
from pricing.money import Money

router = APIRouter(prefix="/gkt/v1")


def instant(value: Any) -> float:
    """Seconds since the epoch, from such seconds, a date (its first moment in UTC) or a time; without a zone: UTC."""
    text = str(value).strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        return float(text)
    try:
        # A plus sign in a query that was not escaped arrives as a space.
        moment = datetime.fromisoformat(re.sub(r" (?=\d\d:?\d\d$)", "+", text) if "T" in text else text)
    except ValueError:
        raise ValueError("expected a date (2026-11-24), a time (2026-11-24T12:00Z) or seconds since 1970.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


Instant = Annotated[float, BeforeValidator(instant)]


class SavingsQuery(BaseModel):
    """What `GET /gkt/v1/savings` understands. `since` is included, `until` is not."""

    model_config = ConfigDict(extra="forbid")

    since: Instant | None = None
    until: Instant | None = None
    by: Literal["day", "model", "strategy", "caller", "hour"] | None = None
    model: str | None = None
    strategy: StrategyName | None = None


class TradeoffQuery(BaseModel):
    """What `GET /gkt/v1/tradeoff` understands. `since` is included, `until` is not."""

    model_config = ConfigDict(extra="forbid")

    since: Instant | None = None
    until: Instant | None = None


QUERIES: Mapping[str, type[BaseModel]] = {"/gkt/v1/savings": SavingsQuery, "/gkt/v1/tradeoff": TradeoffQuery}


NAMES = tuple(each.name for each in fields(SavingsRow))
VALUES = attrgetter(*NAMES)


async def the_reader(gateway: AGateway, authorization: Annotated[str | None, Header()] = None) -> Caller | None:
    """Whose requests may be read: the caller's own; None: all, for the admin. Raises `Unauthorized`."""
    try:
        gateway.auth.admin(authorization)
    except GatewayError:
        return gateway.auth.caller(authorization)
    return None


@router.api_route("/savings", methods=["GET", "HEAD"], dependencies=[Depends(the_admin)])
async def savings(query: Annotated[SavingsQuery, fastapi.Query()], gateway: AGateway) -> Response:
    """Sums of the settled requests, one row a group.

    An amount is `{"usd": "0.000312", "nano_usd": 312000}`: exact, as a decimal string and as a whole number of
    nano-dollars. Null: unknown.
    """
    asked = query.model_dump()
    rows = await gateway.ledger.savings(Query(**asked))

    def told() -> bytes:
        return orjson.dumps({"object": "list", "currency": "USD", **asked, "data": [savings_row(row) for row in rows]})

    # On a thread: there may be thousands of hours, and the loop has chats to answer.
    return Response(await asyncio.to_thread(told), media_type="application/json")


@router.api_route("/requests/{request_id}", methods=["GET", "HEAD"])
async def request(
    request_id: str, gateway: AGateway, reader: Annotated[Caller | None, Depends(the_reader)]
) -> Response:
    """One settled request with its calls; amounts are whole nano-dollars. Callers see their own, the admin sees all.

    `shadow`: what the teacher alone answered afterwards, and what that measured; null: nothing (yet).
    """
    entry = await gateway.ledger.entry(request_id)
    if entry is None or (reader is not None and entry["caller"] != reader.id):
        raise NotFound(f"No settled request has the id '{request_id[:64]}'.", param="id", code="request_not_found")
    return JSONResponse(dict(entry))


@router.api_route("/tradeoff", methods=["GET", "HEAD"], dependencies=[Depends(the_admin)])
async def tradeoff(query: Annotated[TradeoffQuery, fastapi.Query()], gateway: AGateway) -> Response:
    """What each route keeps of the teacher's accuracy, and for how much, with intervals (95 %).

    `status` of a number: `measured`, `too_few_failures` (the interval holds, the value is no claim),
    `too_few_values` (the interval may be too short) or `not_measured`.
    `truncated`: older requests in the range were left out.
    """
    found, more = await reports(gateway.ledger, gateway.config, since=query.since, until=query.until)
    told = {"object": "list", **query.model_dump(), "level": LEVEL, "truncated": more}
    return JSONResponse({**told, "data": [plain(each) for each in found]})


def savings_row(row: SavingsRow) -> dict[str, Any]:
    """A row of sums as plain data."""
    plain = {name: _plain(value) for name, value in zip(NAMES, VALUES(row), strict=True)}
    plain["shadows_missed"] = sum(row.missed.values())
    plain["saved_after_measurement"] = _plain(row.saved_after_measurement)
    return plain


def amount(money: Money) -> dict[str, Any]:
    """An exact amount, for readers and for machines."""
    return {"usd": money.plain, "nano_usd": money.nano}


def _plain(value: Any) -> Any:
    if isinstance(value, Money):
        return amount(value)
    if value is None or isinstance(value, (int, float, str)):  # to ask whether it is a Mapping takes long
        return value
    return {name: _plain(item) for name, item in value.items()}
