"""Recount: what the ledger says that a subject has spent in the periods of its budgets, beside what is put aside.

A request is in the ledger before its reservation is settled. So of one that is put aside and in the ledger already,
only the difference is put aside beside the ledger's sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from gateway.allowance import Allowance
from gateway.errors import Busy
from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.ledger.schema import entries, reservations, spending
from gateway.ledger.totals import read
from gateway.shared.budget import LATE_SECONDS, begins, span

TRIES = 20
"""So often the ledger is read until no request that is put aside has settled meanwhile."""


@dataclass(frozen=True, slots=True)
class Aside:
    """One request's money that is put aside, and the keys of the periods that hold it."""

    request_id: str
    own_key: bool
    amount: int
    periods: frozenset[str]


def spent(connection: Connection, subject: str, budgets: Sequence[Allowance], now: float) -> list[int]:
    """Nano-dollars that the ledger has of the subject's requests in the current period of each allowance.

    With corrections, and without measurements, which no budget pays. What a caller's own key paid is in it.
    """
    found: list[int] = []
    for allowance in budgets:
        until = span(allowance.period, now).ends
        query = Query(since=begins(allowance.period, now), until=until, caller=subject)
        [sums] = read(connection, query).values()
        found.append(sums.spent - sums.of("measurement"))
    return found


def counted(
    connection: Connection, subject: str, budgets: Sequence[Allowance], now: float, aside: Sequence[Aside]
) -> list[int]:
    """What each period's counter must hold, of a moment at which exactly `aside` was put aside.

    Raises `Busy` when requests settle more quickly than the ledger can be read.
    """
    known = _on_record(connection, aside)
    for _ in range(TRIES):
        sums = spent(connection, subject, budgets, now)
        before, known = known, _on_record(connection, aside)
        if known == before:
            return [
                nano + sum(each.amount - known.get(each.request_id, 0) for each in aside if key in each.periods)
                for nano, key in zip(sums, (span(each.period, now).key for each in budgets), strict=True)
            ]
    raise Busy("The requests of this caller settle more quickly than the ledger can be read; try again.")


def in_database(connection: Connection, subject: str, budgets: Sequence[Allowance], now: float) -> None:
    """Set the counters of the database, within a transaction that writes: nobody reserves or settles meanwhile."""
    into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    spans = {when.key: when for when in (span(each.period, now) for each in budgets)}
    missing = [
        {"subject": subject, "period": key, "used": 0, "keep_until": when.ends and when.ends + LATE_SECONDS}
        for key, when in sorted(spans.items())
    ]
    if not missing:
        return
    connection.execute(into(spending).on_conflict_do_nothing(), missing)
    # All of the subject's: who reserves or settles anything of it waits.
    of_subject = select(spending.c.period).where(spending.c.subject == subject)
    connection.execute(of_subject.order_by(spending.c.period).with_for_update()).all()
    # Nobody knows whose these are: an older version's, or left by one.
    connection.execute(
        delete(reservations).where(reservations.c.subject == subject, reservations.c.request_id.is_(None))
    )
    held = select(reservations).where(reservations.c.subject == subject, reservations.c.run.is_not(None))
    aside = [
        Aside(row["request_id"], row["own_key"], int(row["amount"]), frozenset(orjson.loads(row["periods"])))
        for row in connection.execute(held).mappings()
    ]
    for allowance, nano in zip(budgets, counted(connection, subject, budgets, now, aside), strict=True):
        this = (spending.c.subject == subject, spending.c.period == span(allowance.period, now).key)
        connection.execute(update(spending).where(*this).values(used=nano))


def _on_record(connection: Connection, aside: Sequence[Aside]) -> Mapping[str, int]:
    """What the ledger's sums have of each of these requests that is in it."""
    dialect = connection.dialect.name
    named = rollup.named(dialect, rollup.ids(dialect, [each.request_id for each in aside]))
    there = connection.execute(select(entries.c.request_id, entries.c.priced_spent).where(named))
    return {str(name): int(nano) for name, nano in there}
