"""Requests: the newest first, filtered, a page at a time; and one of them opened whole."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args
from urllib.parse import quote

from gateway.chat import Outcome, StrategyName
from gateway.dashboard import PATH, prices
from gateway.dashboard.page import Page, Said
from gateway.dashboard.period import Period, address, parse
from gateway.dashboard.tables import Column, Later, Row, Table
from gateway.dashboard.timeline import timeline
from gateway.errors import BadRequest, NotFound
from gateway.ledger.entry import Listed, Query, shadow_id
from gateway.pipeline import Gateway
from pricing.money import Money

LIST = f"{PATH}/requests"
ROWS = 50
CSV_ROWS = 5_000
"""Requests of one CSV file; the next ones begin after its last row, as `before` says."""

OFFERED = 200
"""Names that a filter offers to choose from; others can be typed."""

STRATEGIES: tuple[str, ...] = get_args(StrategyName)
OUTCOMES: tuple[str, ...] = tuple(each for each in get_args(Outcome) if each != "skipped")
"""Of requests: only a shadow is skipped."""

LISTED = (
    Column("at", "Time", "moment"),
    Column("request_id", "Request", "code"),
    Column("model", "Model", "code"),
    Column("strategy", "Strategy"),
    Column("outcome", "Outcome", "state"),
    Column("caller", "Key", "code"),
    Column("input_tokens", "Tokens in", "count"),
    Column("output_tokens", "Tokens out", "count"),
    Column("spent_usd", "Spent", "money"),
    Column("teacher_alone_usd", "Teacher alone", "money"),
    Column("saved_usd", "Saved", "money"),
    Column("method", "Method"),
    Column("first_token_s", "First word", "seconds"),
    Column("total_s", "Total", "seconds"),
    Column("wasted", "Wasted"),
    Column("error", "Error"),
    Column("stand_in", "Stand-in"),
)
"""All that a list of requests says."""

CALLS = (
    Column("stage", "Stage"),
    Column("seat", "Seat"),
    Column("upstream", "Upstream", "code"),
    Column("model", "Model", "code"),
    Column("stand_in", "Stand-in", "code"),
    Column("input_tokens", "In", "count"),
    Column("cached_tokens", "Cached", "count"),
    Column("cache_write_tokens", "Cache write", "count"),
    Column("output_tokens", "Out", "count"),
    Column("reasoning_tokens", "Reasoning", "count"),
    Column("usage_source", "Counted by"),
    Column("cost_usd", "Cost", "money"),
    Column("first_token_s", "First word", "seconds"),
    Column("total_s", "Total", "seconds"),
    Column("finish", "End"),
    Column("error", "Error"),
    *prices.COLUMNS,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an address asks for: a range of time, names to look for (empty: all), and the place to go on from."""

    period: Period
    filters: Mapping[str, str]
    before: tuple[float, str] | None

    @classmethod
    def by(cls, said: Said) -> _Asked:
        """Raises `BadRequest`."""
        period = parse({"range": "30d", **said} if not (said.get("from") or said.get("to")) else said, time.time())
        filters = {name: said.get(name, "").strip() for name in ("model", "strategy", "outcome", "caller")}
        for name, known in (("strategy", STRATEGIES), ("outcome", OUTCOMES)):
            if filters[name] and filters[name] not in known:
                raise BadRequest(f"There is no {name} '{filters[name][:40]}'.", param=name)
        return cls(period, filters, _before(said.get("before", "")))

    @property
    def everything(self) -> Query:
        """Of the range, whatever the filters."""
        return Query(since=self.period.since, until=self.period.until)

    async def found(self, gateway: Gateway, limit: int) -> Sequence[Listed]:
        """The newest so many."""
        model, strategy, outcome, caller = (value or None for value in self.filters.values())
        query = replace(self.everything, model=model, strategy=strategy, outcome=outcome, caller=caller)
        return await gateway.ledger.listed(query, limit=limit, before=self.before)


async def listing(gateway: Gateway, said: Said) -> Page:
    """The page of requests."""
    asked = _Asked.by(said)
    period, filters, everything = asked.period, asked.filters, asked.everything
    found = await asked.found(gateway, ROWS + 1)
    entries, more = found[:ROWS], len(found) > ROWS
    here = {**period.fields, **filters}
    links = [f"{LIST}/{quote(entry.request_id, safe='')}" for entry in entries]
    context = {
        "period": period,
        "filters": filters,
        "filtered": any(filters.values()),
        "entries": entries,
        "links": links,
        "here": here,
        "older": address(LIST, here, {"before": cursor(entries[-1])}) if more else None,
        "paged": bool(said.get("before")),
        "csv": address(LIST, here, {"before": said.get("before"), "format": "csv", "table": "requests"}),
        "csv_rows": CSV_ROWS,
        "strategies": STRATEGIES,
        "outcomes": OUTCOMES,
        "models": await gateway.ledger.names(replace(everything, by="model"), limit=OFFERED),
        "callers": await gateway.ledger.names(replace(everything, by="caller"), limit=OFFERED),
        "ever": bool(entries) or bool(await gateway.ledger.entries(limit=1)),
    }
    return Page("requests.html", "Requests", context, {"requests": table(entries)})


async def alone(gateway: Gateway, said: Said) -> Table:
    """The requests of one CSV file."""
    return table(await _Asked.by(said).found(gateway, CSV_ROWS))


async def one(gateway: Gateway, request_id: str) -> Page:
    """One request, opened whole. Raises `NotFound`."""
    entry = await gateway.ledger.entry(request_id)
    if entry is None:
        raise NotFound(f"No settled request has the id '{request_id[:80]}'.", param="id", code="request_not_found")
    table = Table("calls", "Stages", CALLS, [stage(call) for call in entry["calls"]])
    of = entry["shadow_of"]
    # What was not drawn was not measured, and need not be looked for.
    drawn = of is None and entry["shadow_propensity"] is not None
    shadow = await gateway.ledger.entry(shadow_id(request_id)) if drawn else None
    context = {
        "entry": entry,
        "shadow": shadow,
        "shadow_tokens": None if shadow is None else written(shadow),
        "shadow_link": None if shadow is None else f"{LIST}/{quote(shadow['request_id'], safe='')}",
        "of_link": None if of is None else f"{LIST}/{quote(of, safe='')}",
        "saved": saved(entry),
        "saved_share": share(entry),
        "timeline": timeline(entry),
        "stores_text": gateway.config.ledger.store_text,
        "csv": address(f"{LIST}/{quote(request_id, safe='')}", {"format": "csv", "table": "calls"}),
    }
    return Page("request.html", f"Request {request_id}", context, {"calls": table})


def behind(rows: Sequence[Row], name: str, period: Period) -> Sequence[str]:
    """Where the requests behind each row are; `name` is the filter that finds them."""
    return Later(rows, lambda row: address(LIST, period.fields, {name: row.group}))


def table(entries: Sequence[Listed]) -> Table:
    """One row a request, in the order of `LISTED`."""
    return Table("requests", "Requests, newest first", LISTED, [_row(entry) for entry in entries], shown=ROWS)


def _row(of: Listed) -> list[Any]:
    saved = None if of.spent is None or of.baseline_likely is None else Money(of.baseline_likely - of.spent)
    return [
        *of[:8],
        _money(of.spent),
        _money(of.baseline_likely),
        saved,
        *of[10:15],
        "yes" if of.stand_in else "no",
    ]


def stage(call: Mapping[str, Any]) -> list[Any]:
    """A call in the order of `CALLS`."""
    usage = call["usage"] or {}
    counts = [usage.get(name) for name in ("input", "cached", "cache_write", "output", "reasoning", "source")]
    names = [call[name] for name in ("stage", "seat", "upstream", "model", "stand_in")]
    times = [call["first_token"], call["duration"]]
    end = [call["finish"], "cut" if call["cut"] and not call["error"] else call["error"]]
    return [*names, *counts, _money(call["amount"]), *times, *end, *prices.cells(prices.recorded(call["price"]))]


def written(entry: Mapping[str, Any]) -> int | None:
    """The output tokens of all its calls; None where one of them is unknown, or there is none."""
    outputs: list[int | None] = [(call["usage"] or {}).get("output") for call in entry["calls"]]
    known = [output for output in outputs if output is not None]
    return sum(known) if known and len(known) == len(outputs) else None


def saved(entry: Mapping[str, Any]) -> Money | None:
    """The likely baseline less the spending; None where either is unknown."""
    likely = entry["baseline"] and entry["baseline"]["likely"]
    return None if likely is None or entry["spent"] is None else Money(likely - entry["spent"])


def share(entry: Mapping[str, Any]) -> float | None:
    """What part of the likely baseline was saved."""
    money = saved(entry)
    return None if money is None or not entry["baseline"]["likely"] else money.nano / entry["baseline"]["likely"]


def cursor(entry: Listed) -> str:
    """Names an entry's place in the list; the time in full, so that none is left out or shown twice."""
    return f"{entry.at!r}~{entry.request_id}"


def _before(text: str) -> tuple[float, str] | None:
    at, mark, request_id = text.partition("~")
    if not text:
        return None
    try:
        if not mark:
            raise ValueError
        return float(at), request_id
    except ValueError:
        raise BadRequest("This page of requests does not exist.", param="before") from None


def _money(nano: int | None) -> Money | None:
    return None if nano is None else Money(nano)
