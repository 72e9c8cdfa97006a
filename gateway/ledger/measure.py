"""Measure: a shadow that has settled gives its request a measured baseline, in the transaction that writes the shadow.

The entry of the request stays as it is. Its sums leave the method that its baseline had for `measured`: two rows of
`corrections`, one with everything taken away, one with everything and the new baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, cast, exists, func, insert, select

from gateway.cascade import kept
from gateway.ledger.entry import LengthKey
from gateway.ledger.schema import calls, corrections, entries, measurements
from gateway.ledger.standing import Reckoned, standing
from gateway.ledger.tally import amounts, correction, moved, tally
from pricing.length_ratio import Pairs

Row = Mapping[Any, Any]


def measure(connection: Connection, shadow_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Put on record what the shadows of these ids measured, as far as they succeeded and their requests are there.

    Returned are the corrections that follow, for `rollup.correct`. A request that is `recovered` is not there yet: if
    its process lives and settles it after all, it is measured then. Nothing is measured twice.
    """
    found: list[dict[str, Any]] = []
    which = entries.c.request_id.in_(shadow_ids), entries.c.shadow_of.is_not(None), entries.c.outcome == "ok"
    done = exists().where(measurements.c.request_id == entries.c.shadow_of)
    for shadow in _rows(connection, select(entries).where(*which, ~done).order_by(entries.c.request_id)):
        # Locked as those who reprice lock it: the numbers of corrections are theirs and ours.
        this = entries.c.request_id == shadow["shadow_of"], entries.c.outcome != "recovered"
        for request in _rows(connection, select(entries).where(*this).with_for_update()):
            found += _measure(connection, request, shadow)
    return found


def _measure(connection: Connection, request: Row, shadow: Row) -> list[dict[str, Any]]:
    asked = answering(shadow["drafts"], _of(connection, shadow["request_id"]))
    if not asked:
        return []
    teacher, costs, outputs = asked[0], [call["amount"] for call in asked], [call["output"] for call in asked]
    measurement = {
        "request_id": request["request_id"],
        "shadow_id": shadow["request_id"],
        **{name: request[name] for name in ("at", "route", "strategy")},
        "model": teacher["model"],
        "propensity": request["propensity"] * (request["shadow_propensity"] or 1.0),
        "shown_input": request["visible_input"],
        "shown_output": request["visible_output"],
        "teacher_input": shadow["visible_input"],
        "teacher_output": None if None in outputs else sum(outputs),
        "cost": None if None in costs else sum(costs),
        "price": teacher["price"],
    }
    connection.execute(insert(measurements).values(measurement))
    earlier = select(corrections).where(corrections.c.request_id == request["request_id"])
    before = _rows(connection, earlier.order_by(corrections.c.number))
    was = standing(request, None, Reckoned.of(request, None, before))
    will = standing(request, measurement, Reckoned.of(request, measurement, before))
    if was == will:
        return []
    made = _of(connection, request["request_id"])
    booked = amounts(made, before)
    sums = [tally(request, made, booked, each) for each in (was, will)]
    at = shadow["at"] + (shadow["duration"] or 0.0)
    moves = moved(was.method, sums[0], will.method, sums[1])
    return [correction(request, number, at, *each) for number, each in enumerate(moves, len(before) + 1)]


def answering(drafts: str | None, made: Sequence[Row]) -> list[Row]:
    """Of the calls of a shadow, those by which the teacher alone answered; `drafts` are the shadow's.

    A cascade's shadow may ask students too, or them alone, and the teacher for the first words of a rung.
    """
    teachers = [call for call in made if call["seat"] == "teacher" and not (call["is_open"] or call["is_bound"])]
    if drafts is None:
        return teachers
    whole = {call for each in kept.loads(drafts) if each.place is None for call in each.calls}
    return [call for call in teachers if call["id"] in whole]


def lengths(connection: Connection, since: float) -> dict[LengthKey, Pairs]:
    """Sums over the lengths of the answers that were measured, by route, strategy and the teacher's model."""
    c = measurements.c
    x, y = c.shown_output, c.teacher_output
    keys = (c.route, c.strategy, c.model)
    sums = [func.count(), *(cast(func.sum(each), BigInteger) for each in (x, y, x * x, x * y, y * y))]
    known = (c.at >= since, x.is_not(None), y.is_not(None))
    found = connection.execute(select(*keys, *sums).where(*known).group_by(*keys)).all()
    return {(row[0], row[1], row[2]): Pairs(*map(int, row[3:])) for row in found}


def _of(connection: Connection, request_id: str) -> Sequence[Row]:
    made = select(calls).where(calls.c.request_id == request_id)
    return _rows(connection, made.order_by(calls.c.started, calls.c.id))


def _rows(connection: Connection, statement: Select[Any]) -> Sequence[Row]:
    return connection.execute(statement).mappings().all()
