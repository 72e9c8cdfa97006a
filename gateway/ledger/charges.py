"""Charges: what the ledger has of the requests for which a budget put money aside.

A process that dies leaves reservations that nobody settles. Whoever settles its calls at their bounds settles these to
what is booked of their requests, in the same transaction. The row stays for some days, so that a process that was
only thought dead, or rows of it that come late from another disk, can still put the truth in its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import orjson
from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select, tuple_, update

from gateway.ledger import rollup
from gateway.ledger.schema import calls, reservations, runs, spending

KEEP = 8 * 86_400
"""Seconds for which a reservation that was settled for a dead process is kept."""


def settle(connection: Connection, now: float, *, dead: Collection[int] = (), late: Collection[str] = ()) -> int:
    """Settle what the runs `dead` left put aside, and again what was settled so for the requests `late`; how many.

    In a transaction that writes, and that has settled the calls of the runs. Exactly once: a reservation that is
    settled belongs to no run any more. One whose cost is not known stays at its amount.
    """
    which = _which(dead, late)
    if which is None:
        return 0
    found = connection.execute(select(reservations.c.subject, reservations.c.periods).where(which)).all()
    wanted = {(str(subject), str(period)) for subject, periods in found for period in orjson.loads(periods)}
    if not found:
        return 0
    # In the order of `gateway.shared.counters`: first the counters, each time in one order, then reservations.
    key = tuple_(spending.c.subject, spending.c.period).in_(sorted(wanted))
    order = (spending.c.subject, spending.c.period)
    held = select(spending.c.subject, spending.c.period, spending.c.used).where(key).order_by(*order).with_for_update()
    before = {(str(subject), str(period)): int(used) for subject, period, used in connection.execute(held)}
    of = select(reservations).where(which).order_by(reservations.c.id).with_for_update()
    rows = connection.execute(of).mappings().all()
    sums = booked(connection, {str(row["request_id"]): bool(row["own_key"]) for row in rows if row["request_id"]})
    change: defaultdict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        known = sums.get(str(row["request_id"]), 0)
        spent = row["amount"] if known is None else known
        for period in orjson.loads(row["periods"]):
            change[row["subject"], period] += spent - row["amount"]
        over = {"amount": spent, "run": None, "keep_until": int(now) + KEEP}
        connection.execute(update(reservations).where(reservations.c.id == row["id"]).values(over))
    for (subject, period), nano in sorted(change.items()):
        if nano and (subject, period) in before:  # else it was over so long ago that nobody asks any more
            this = (spending.c.subject == subject, spending.c.period == period)
            connection.execute(update(spending).where(*this).values(used=spending.c.used + nano))
    return len(rows)


def booked(connection: Connection, requests: Mapping[str, bool]) -> dict[str, int | None]:
    """Nano-dollars of the calls on record of each request: 0 without any; None: one is open, or has no price.

    By the request whether its caller's own key pays the teacher: what that paid is not in it.
    """
    dialect = connection.dialect.name
    found: dict[str, int | None] = dict.fromkeys(requests, 0)
    made = select(calls.c.request_id, calls.c.seat, calls.c.amount, calls.c.is_open)
    for name, seat, amount, is_open in connection.execute(
        made.where(rollup.named(dialect, rollup.ids(dialect, list(requests)), calls))
    ):
        if requests[name] and seat == "teacher":
            continue
        so_far = found[name]
        found[name] = None if so_far is None or amount is None or is_open else so_far + int(amount)
    return found


def left() -> Select[tuple[int]]:
    """The runs that have ended, or were settled, and have left something put aside. To be locked: see `recovery`."""
    of = select(reservations.c.run).where(reservations.c.run.is_not(None))
    return select(runs.c.id).where(runs.c.ended.is_not(None), runs.c.id.in_(of))


def _which(dead: Collection[int], late: Collection[str]) -> ColumnElement[bool] | None:
    parts: list[ColumnElement[bool]] = []
    if dead:
        parts.append(reservations.c.run.in_(list(dead)))
    if late:
        parts.append(and_(reservations.c.run.is_(None), reservations.c.request_id.in_(list(late))))
    return or_(*parts) if parts else None
