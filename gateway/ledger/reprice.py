"""Reprice: what settled calls cost by the prices now known for their moment, as corrections beside the entries.

Usage is kept as it was reported, so a price that was wrong or missing can be mended afterwards. Nothing is edited: a
correction says by how much the sums of a request change, and what its calls cost before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import Connection, exc, select

from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.ledger.reading import ledger_at
from gateway.ledger.rows import USAGE, price_text
from gateway.ledger.savings import wanted
from gateway.ledger.schema import MEASURES, calls, corrections, entries, measurements
from gateway.ledger.tally import amounts, correction, method, tally
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

BATCH = 2_000
"""Requests that are looked at, and corrected, in one transaction."""

TRIES = 5
"""How often that is tried while the database gives it up, as when others wait for it in a circle."""

Row = Mapping[Any, Any]
Quote = Callable[[str, str, str | None, float, int | None], Price | None]
"""The price of: an upstream, its model, the tier it named, the moment, the tokens of the prompt."""


@dataclass(slots=True)
class Repriced:
    """What was looked at and what differs. `changed` counts requests, `calls` their calls with another amount.

    `difference` is what is spent more now (negative: less). `priced` counts calls that had no price and have one,
    `unknown` those that had one and for which there is none any more: these keep what was booked.
    """

    requests: int = 0
    changed: int = 0
    calls: int = 0
    priced: int = 0
    unknown: int = 0
    difference: Money = field(default_factory=Money)

    def add(self, more: Repriced) -> None:
        """Count what was looked at elsewhere too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))


def reprice(url: str, quote: Quote, query: Query, now: float, *, dry_run: bool = False) -> Repriced:
    """Price again the calls of the entries that `query` wants; doing it twice adds nothing.

    Calls without usage, and those booked at their bound after a crash, stay as they are. A `measured` baseline that
    was the request's own bill follows it; other baselines stay, a shadow's too. Raises `ConfigError`, see `ledger_at`.
    """
    result = Repriced()
    with ledger_at(url, for_writing=True) as connection:
        for names in _pages(connection, query):
            result.add(_page(connection, names, quote, now, dry_run=dry_run))
    return result


def _page(connection: Connection, names: Sequence[str], quote: Quote, now: float, *, dry_run: bool) -> Repriced:
    """Price again the calls of these entries, in a transaction that is tried again when the database gives it up."""
    for left in reversed(range(TRIES)):
        result = Repriced()
        try:
            found = list(_corrections(connection, names, quote, now, result))
            if dry_run:
                connection.rollback()
            else:
                rollup.correct(connection, found)
                connection.commit()
        except exc.OperationalError as error:
            if error.connection_invalidated or not left:
                raise
            connection.rollback()
        else:
            break
    return result


def _pages(connection: Connection, query: Query) -> Iterator[list[str]]:
    """The ids of the wanted entries, oldest first, some at a time."""
    key = (entries.c.at, entries.c.request_id)
    asked = select(*key).where(*wanted(query), entries.c.outcome != "recovered").order_by(*key).limit(BATCH)
    page = connection.execute(asked).all()
    while page:
        yield [row.request_id for row in page]
        last = page[-1]
        behind = (entries.c.at > last.at) | ((entries.c.at == last.at) & (entries.c.request_id > last.request_id))
        page = connection.execute(asked.where(behind)).all()


def _corrections(
    connection: Connection, names: Sequence[str], quote: Quote, now: float, result: Repriced
) -> Iterator[dict[str, Any]]:
    which = rollup.ids(connection.dialect.name, names)

    def of(table: Any, *order: Any) -> Any:
        named = rollup.named(connection.dialect.name, which, table)
        # Entries are locked, so that of two who reprice at once the second sees the first one's corrections.
        asked = select(table).where(named).order_by(table.c.request_id, *order)
        found = connection.execute(asked.with_for_update() if table is entries else asked).mappings().all()
        return {name: list(group) for name, group in groupby(found, key=lambda row: row["request_id"])}

    there = of(entries)
    made, earlier = of(calls, calls.c.started, calls.c.id), of(corrections, corrections.c.number)
    measured = of(measurements)
    for name in names:
        if name not in there:
            continue  # pruned meanwhile
        entry, of_entry, before = there[name][0], made.get(name, []), earlier.get(name, [])
        result.requests += 1
        measurement = next(iter(measured.get(name, [])), None)
        old = amounts(of_entry, before)
        changes = {call["id"]: change for call in of_entry if (change := _change(call, old, quote, result))}
        if not changes:
            continue
        new = old | {call: change["after"] for call, change in changes.items()}
        was, will = (tally(entry, of_entry, costs, measurement) for costs in (old, new))
        difference = {measure: will[measure] - was[measure] for measure in MEASURES}
        difference["corrected"] = difference["spent"]
        result.changed += 1
        result.calls += len(changes)
        result.difference += Money(difference["spent"])
        told = orjson.dumps(changes).decode()
        yield correction(entry, len(before) + 1, now, method(entry, measurement), difference, told)


def _change(call: Row, old: Mapping[str, int | None], quote: Quote, result: Repriced) -> dict[str, Any] | None:
    """What a call costs now, where that is something else."""
    if call["is_open"] or call["is_bound"] or call["usage_source"] is None:
        return None
    usage = Usage(**{name: call[name] for name in USAGE}, source=call["usage_source"])
    price = quote(call["upstream"], call["model"], call["tier"], call["started"], usage.input)
    amount = price.cost(usage) if price is not None else None
    before = old[call["id"]]
    if price is None or amount is None:
        result.unknown += before is not None
        return None
    if amount.nano == before:
        return None
    result.priced += before is None
    return {"before": before, "after": amount.nano, "price": orjson.loads(price_text(price))}
