"""Reprice: what settled calls cost by the prices now known for their moment, as corrections beside the entries.

Usage is kept as it was reported, so a price that was wrong or missing can be mended afterwards. Nothing is edited: a
correction says by how much the sums of a request change, and what its calls cost before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import Connection, exc, select

from gateway.ledger import rollup
from gateway.ledger.basis import Basis, Quote, Range, loads, tried
from gateway.ledger.entry import Query
from gateway.ledger.measure import answering
from gateway.ledger.reading import ledger_at
from gateway.ledger.rows import RATES, USAGE, price_text
from gateway.ledger.savings import wanted
from gateway.ledger.schema import calls, corrections, entries, measurements
from gateway.ledger.standing import Reckoned, standing
from gateway.ledger.tally import Amounts, Move, amounts, correction, moved, tally
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

BATCH = 2_000
"""Requests that are looked at, and corrected, in one transaction."""

TRIES = 5
"""How often that is tried while the database gives it up, as when others wait for it in a circle."""

Row = Mapping[Any, Any]


@dataclass(slots=True)
class Repriced:
    """What was looked at and what differs. `changed` counts requests, `calls` their calls with another amount.

    `difference` is what is spent more now (negative: less). `priced` counts calls that had no price and have one,
    `unknown` those that had one and for which there is none any more: these keep what was booked. `still` counts calls
    that have no amount, before or after. `baselines` counts requests whose baseline has other amounts; `lost` those of
    them whose baseline is unknown now, so that they are not compared any more; `kept` the requests whose baseline keeps
    what was booked, since there is no price for it any more.
    """

    requests: int = 0
    changed: int = 0
    calls: int = 0
    priced: int = 0
    unknown: int = 0
    still: int = 0
    baselines: int = 0
    lost: int = 0
    kept: int = 0
    difference: Money = field(default_factory=Money)

    def add(self, more: Repriced) -> None:
        """Count what was looked at elsewhere too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))


@dataclass(frozen=True, slots=True)
class Prices:
    """What prices again. `longest`: the most seconds that a call to an upstream is charged for; not in it: any."""

    quote: Quote
    longest: Mapping[str, float] = field(default_factory=dict)

    def of(self, call: Row) -> tuple[Price | None, int | None]:
        """The price of a call and what it costs; None: there is none, or it is not known."""
        usage = Usage(**{name: call[name] for name in USAGE}, source=call["usage_source"])
        price = self.quote(call["upstream"], call["model"], call["tier"], call["started"], usage.input)
        if price is not None and price.per_hour is not None and usage.seconds is None and call["duration"] is not None:
            # It had another price when it was booked, but how long it took is on record of every call.
            seconds = min(call["duration"], self.longest.get(call["upstream"], call["duration"]))
            usage = replace(usage, seconds=seconds)
        amount = price.cost(usage) if price is not None else None
        return price, None if amount is None else amount.nano


def reprice(
    url: str,
    quote: Quote,
    query: Query,
    now: float,
    *,
    longest: Mapping[str, float] | None = None,
    dry_run: bool = False,
) -> Repriced:
    """Price again the calls of the entries that `query` wants, and their baselines; doing it twice adds nothing.

    Calls without usage, and those booked at their bound after a crash, stay as they are. A baseline follows its price
    as its calls do: what the teacher alone would have cost, and what its shadow did cost, also where the shadow itself
    is not wanted. One that cannot be reckoned again is unknown from then on. `longest`: see `Prices`. Raises
    `ConfigError`, see `ledger_at`.
    """
    result = Repriced()
    with ledger_at(url, for_writing=True) as connection:
        for names in _pages(connection, query):
            result.add(_page(connection, names, Prices(quote, longest or {}), now, dry_run=dry_run))
    return result


def _page(connection: Connection, names: Sequence[str], prices: Prices, now: float, *, dry_run: bool) -> Repriced:
    """Price again the calls of these entries, in a transaction that is tried again when the database gives it up."""
    for left in reversed(range(TRIES)):
        result = Repriced()
        try:
            found = list(_corrections(connection, names, prices, now, result))
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
    connection: Connection, names: Sequence[str], prices: Prices, now: float, result: Repriced
) -> Iterator[dict[str, Any]]:
    def of(table: Any, names: Sequence[str], *order: Any) -> dict[str, list[Row]]:
        named = rollup.named(connection.dialect.name, rollup.ids(connection.dialect.name, names), table)
        # Entries are locked, so that of two who reprice at once the second sees the first one's corrections.
        asked = select(table).where(named).order_by(table.c.request_id, *order)
        found = connection.execute(asked.with_for_update() if table is entries else asked).mappings().all()
        return {name: list(group) for name, group in groupby(found, key=lambda row: row["request_id"])}

    there, measured = of(entries, names), of(measurements, names)
    shadows = [str(measurement["shadow_id"]) for [measurement] in measured.values()]
    of_all = [*names, *shadows]
    made = of(calls, of_all, calls.c.started, calls.c.id)
    earlier = of(corrections, of_all, corrections.c.number)
    which = rollup.ids(connection.dialect.name, shadows)
    of_shadows = select(entries.c.request_id, entries.c.drafts).where(rollup.named(connection.dialect.name, which))
    drafts: dict[str, str | None] = {row.request_id: row.drafts for row in connection.execute(of_shadows)}
    for name in names:
        if name not in there:
            continue  # pruned meanwhile
        measurement = next(iter(measured.get(name, [])), None)
        before = earlier.get(name, [])
        alone: int | None = None
        if measurement is not None:
            shadow = str(measurement["shadow_id"])
            paid = _Costs.of(made.get(shadow, []), earlier.get(shadow, []), prices)
            alone = _measured(paid, drafts.get(shadow))
        costs = _Costs.of(made.get(name, []), before, prices)
        result.requests += 1
        costs.count(result)
        found = _corrected(there[name][0], costs, before, measurement, alone, prices, result)
        if found is None:
            continue
        moves, told = found
        result.changed += 1
        result.calls += len(costs.changes)
        changes = orjson.dumps(costs.changes).decode()
        for number, (method, sums) in enumerate(moves, len(before) + 1):
            last = number == len(before) + len(moves)
            yield correction(there[name][0], number, now, method, sums, *((changes, told) if last else ()))


@dataclass(frozen=True, slots=True)
class _Costs:
    """The calls of an entry: what they cost by now (`old`), what they cost by these prices (`new`), and why."""

    calls: Sequence[Row]
    old: Amounts
    new: Amounts
    changes: Mapping[str, dict[str, Any]]
    unknown: int

    @classmethod
    def of(cls, made: Sequence[Row], before: Sequence[Row], prices: Prices) -> _Costs:
        old = amounts(made, before)
        changes: dict[str, dict[str, Any]] = {}
        unknown = 0
        for call in made:
            if call["is_open"] or call["is_bound"] or call["usage_source"] is None:
                continue
            price, amount = prices.of(call)
            if price is None or amount is None:
                unknown += old[call["id"]] is not None
            elif amount != old[call["id"]]:
                told = {"before": old[call["id"]], "after": amount, "price": orjson.loads(price_text(price))}
                changes[call["id"]] = told
        return cls(made, old, old | {call: change["after"] for call, change in changes.items()}, changes, unknown)

    def count(self, result: Repriced) -> None:
        """Count what became of them."""
        result.unknown += self.unknown
        result.priced += sum(change["before"] is None for change in self.changes.values())
        result.still += sum(self.new[call["id"]] is None for call in self.calls if not call["is_open"])

    @property
    def teachers_changed(self) -> bool:
        """Whether a call to the teacher costs something else now."""
        return any(call["seat"] == "teacher" and call["id"] in self.changes for call in self.calls)


def _corrected(
    entry: Row,
    costs: _Costs,
    before: Sequence[Row],
    measurement: Row | None,
    alone: int | None,
    prices: Prices,
    result: Repriced,
) -> tuple[list[Move], str | None] | None:
    """How the sums of a request change, and what its baseline amounts to from now on; None: they do not.

    `alone` is what its measurement costs by these prices; None: unknown, or there is none.
    """
    old = Reckoned.of(entry, measurement, before)
    new = Reckoned(_own(entry, costs, old, prices, result), alone)
    if not costs.changes and new == old:
        return None
    was, will = (standing(entry, measurement, each) for each in (old, new))
    if was != will:
        result.baselines += 1
        result.lost += was.likely is not None and will.likely is None
    sums = tally(entry, costs.calls, costs.old, was), tally(entry, costs.calls, costs.new, will)
    moves = moved(was.method, sums[0], will.method, sums[1])
    more = sums[1]["spent"] - sums[0]["spent"]
    moves[-1] = (moves[-1][0], {**moves[-1][1], "corrected": more})
    result.difference += Money(more)
    return moves, None if new == old else new.dumps(measured=measurement is not None)


def _own(entry: Row, costs: _Costs, old: Reckoned, prices: Prices, result: Repriced) -> Range:
    """What the baseline that the request settled with amounts to by these prices."""
    if entry["baseline_method"] is None:
        return old.own
    if entry["baseline_of"] is not None:
        basis: Basis | None = loads(entry["baseline_of"])
    elif _as_booked(costs, prices):
        return Reckoned.of(entry, None).own  # whatever it is the price of, that has not changed
    else:
        basis = tried(entry, costs.calls, prices.quote)
    if basis is None:
        return (None, None, None)
    if basis.unasked is None:
        return basis.amounts(None, costs.new)
    price = basis.unasked.price(prices.quote, entry["teacher"] or "")
    if price is None and old.own[1] is not None and not costs.teachers_changed:
        result.kept += 1
        return old.own
    return basis.amounts(price, costs.new)


def _as_booked(costs: _Costs, prices: Prices) -> bool:
    """Whether the prices of now are, for all calls to the teacher, those that they were booked by; there is one."""
    asked = [call for call in costs.calls if call["seat"] == "teacher"]

    def same(call: Row) -> bool:
        price, _ = prices.of(call)
        return price is not None and call["price"] is not None and _rates(price_text(price)) == _rates(call["price"])

    return bool(asked) and all(map(same, asked))


def _rates(text: str) -> list[Any]:
    told = orjson.loads(text)
    return [told[name] for name in RATES]


def _measured(of_shadow: _Costs, drafts: str | None) -> int | None:
    """What the teacher's own answer did cost, by these prices; None: there is none, or its calls are not there."""
    paid = [of_shadow.new[call["id"]] for call in answering(drafts, of_shadow.calls)]
    return None if not paid or None in paid else sum(each for each in paid if each is not None)
