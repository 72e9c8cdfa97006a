"""Counters: budgets as rows of the ledger's database, for one group of reservations and settlements at a time.

On PostgreSQL, rows of counters are locked before they are read: new ones by their insertion, then all of them, each
time in one order, so that no two processes wait for each other. SQLite has one writer anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Double, Table, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from gateway.allowance import Allowance
from gateway.errors import OverBudget
from gateway.ledger.schema import reservations, spending
from gateway.shared.budget import LATE_SECONDS, Reservation, Span, over
from pricing.money import Money

OLD_AT_ONCE = 1000
"""The most rows of old periods that one transaction removes: nobody should wait for a midnight."""

LOCK_WAIT = "1s"
"""How long PostgreSQL waits for a row that another process holds."""

_KEY = tuple_(spending.c.subject, spending.c.period)
_SET = (
    update(spending)
    .where(spending.c.subject == bindparam("whose"), spending.c.period == bindparam("when"))
    .values(used=bindparam("now"))
)


class _clock(GenericFunction[float]):  # noqa: N801 - a function of SQL is named as one
    """The database's own seconds since the epoch."""

    type = Double()
    inherit_cache = True


@compiles(_clock)
def _of_sqlite(element: Any, compiler: Any, **rest: Any) -> str:
    return "CAST(strftime('%s', 'now') AS REAL)"


@compiles(_clock, "postgresql")
def _of_postgresql(element: Any, compiler: Any, **rest: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


_CLOCK = select(_clock())

Counter = tuple[str, str]
"""A subject and the key of a period."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An amount that is to be put aside, under these limits; made at `now`, seconds since the epoch."""

    reservation: Reservation
    limits: Mapping[Span, Allowance]
    now: float


@dataclass(frozen=True, slots=True)
class Debt:
    """What was spent of a reservation. `unsure`: whether the database knows the reservation, nobody knows."""

    reservation: Reservation
    spent: Money
    unsure: bool = False


def apply(connection: Connection, wishes: Sequence[Wish], debts: Sequence[Debt]) -> list[OverBudget | None]:
    """Settle all of `debts`, then grant those of `wishes` that fit, in their order; why each was refused, or None.

    Within a transaction that writes. A debt whose reservation is not on record, or not any more, changes nothing.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
    # A commit of which nothing was heard may still be under way: who inserts the same row waits for it.
    _insert_missing(connection, reservations, [_row(debt.reservation, Money.ZERO) for debt in debts if debt.unsure])
    begun = _begin(connection, wishes)
    used = _locked(connection, [wish.reservation for wish in wishes] + [debt.reservation for debt in debts])
    before = dict(used)
    _settle(connection, debts, used)
    verdicts = [_grant(wish, used) for wish in wishes]
    granted = [wish.reservation for wish, refused in zip(wishes, verdicts, strict=True) if refused is None]
    if granted:
        connection.execute(insert(reservations), [_row(each, each.amount) for each in granted])
    changed = [
        {"whose": subject, "when": period, "now": nano}
        for (subject, period), nano in used.items()
        if nano != before[subject, period]
    ]
    if changed:
        connection.execute(_SET, changed)
    if begun:
        # By the slower clock: a process whose own is days ahead must not make all others forget what was spent.
        _forget(connection, min(max(wish.now for wish in wishes), connection.execute(_CLOCK).scalar_one()))
    return verdicts


def read(connection: Connection, subject: str, spans: Sequence[Span]) -> list[int]:
    """The nano-dollars of each of these periods."""
    wanted = select(spending.c.period, spending.c.used).where(
        spending.c.subject == subject, spending.c.period.in_([span.key for span in spans])
    )
    found = {str(period): int(used) for period, used in connection.execute(wanted)}
    return [found.get(span.key, 0) for span in spans]


def _begin(connection: Connection, wishes: Sequence[Wish]) -> bool:
    """Make the counters that are not there; whether there were such."""
    wanted = {(wish.reservation.subject, span.key): span for wish in wishes for span in wish.limits}
    rows = [
        {"subject": subject, "period": period, "used": 0, "keep_until": _forgotten([span])}
        for (subject, period), span in sorted(wanted.items(), key=lambda item: item[0])
    ]
    return _insert_missing(connection, spending, rows)


def _insert_missing(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> bool:
    if not rows:
        return False
    into = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = into(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return connection.execute(statement, rows).rowcount > 0


def _locked(connection: Connection, of: Iterable[Reservation]) -> dict[Counter, int]:
    """The counters of these reservations, which nobody else changes before this transaction ends."""
    wanted = {(each.subject, span.key) for each in of for span in each.spans}
    rows = select(spending.c.subject, spending.c.period, spending.c.used).where(_KEY.in_(list(wanted)))
    rows = rows.order_by(spending.c.subject, spending.c.period).with_for_update()
    return {(str(subject), str(period)): int(used) for subject, period, used in connection.execute(rows)}


def _settle(connection: Connection, debts: Sequence[Debt], used: dict[Counter, int]) -> None:
    ids = [debt.reservation.id for debt in debts]
    if not ids:
        return
    those = reservations.c.id.in_(ids)
    open_ = select(reservations.c.id, reservations.c.amount).where(those).order_by(reservations.c.id)
    known = {str(id_): int(amount) for id_, amount in connection.execute(open_.with_for_update())}
    if known:
        connection.execute(delete(reservations).where(those))
    for debt in debts:
        aside = known.get(debt.reservation.id)
        for span in debt.reservation.spans if aside is not None else ():
            counter = (debt.reservation.subject, span.key)
            if counter in used:  # else it was over so long ago that nobody asks any more
                used[counter] += debt.spent.nano - (aside or 0)


def _grant(wish: Wish, used: dict[Counter, int]) -> OverBudget | None:
    """Policy, the same as in `memory` and in `lua/reserve.lua`."""
    subject, amount = wish.reservation.subject, wish.reservation.amount
    for span, allowance in wish.limits.items():
        already = used[subject, span.key]
        if already + amount.nano > allowance.limit.nano:
            return over(allowance, span, Money(already), amount)
    for span in wish.limits:
        used[subject, span.key] += amount.nano
    return None


def _forget(connection: Connection, now: float) -> None:
    """Remove what belongs to periods that ended long ago. Waits for nobody: what others hold is left to them."""
    for table, key in ((spending, _KEY), (reservations, tuple_(reservations.c.id))):
        old = select(*key.clauses).where(table.c.keep_until < now).limit(OLD_AT_ONCE)
        found = [tuple(row) for row in connection.execute(old.with_for_update(skip_locked=True))]
        if found:
            connection.execute(delete(table).where(key.in_(found)))


def _row(reservation: Reservation, amount: Money) -> dict[str, Any]:
    origin = reservation.origin
    return {
        "id": reservation.id,
        "subject": reservation.subject,
        "periods": orjson.dumps([span.key for span in reservation.spans]).decode(),
        "amount": amount.nano,
        "keep_until": _forgotten(reservation.spans),
        "request_id": origin and origin.request_id,
        "run": origin and origin.run,
        "own_key": origin is not None and origin.own_key,
    }


def _forgotten(spans: Sequence[Span]) -> int | None:
    """The second at which the last of `spans` may go: some days after its end, for what is settled late."""
    ends = [span.ends for span in spans if span.ends is not None]
    return max(ends) + LATE_SECONDS if len(ends) == len(spans) else None
