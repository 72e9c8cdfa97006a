"""What a dead process left open: who is dead, and how its calls are settled.

A call that was open when its process died may have cost anything up to its bound, so it is booked at the bound and
marked. Its request gets an entry with outcome `recovered`, told from what its calls know, and what a budget put aside
for it is settled to the same sum (see `charges`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, insert, select, update

from gateway.ledger import charges, rollup
from gateway.ledger.entry import SHADOW
from gateway.ledger.rows import STAGES, day_of
from gateway.ledger.schema import MEASURES, calls, corrections, entries, is_open, measurements, runs
from gateway.ledger.standing import Reckoned, standing
from gateway.ledger.tally import amounts, correction, tally

Row = Mapping[Any, Any]

STALE = 120.0
"""Seconds without a heartbeat after which a process that cannot be looked at counts as dead."""

UNKNOWN = "unknown"
"""Stands in a recovered entry for the route, strategy or caller that its calls do not tell."""


@dataclass(frozen=True, slots=True)
class Process:
    """Names one process for ever: a pid alone is used again, after a while or after a reboot.

    `host` includes the pid namespace: two containers may share a host name and not see each other. `start` is
    empty where the system does not tell it.
    """

    host: str
    pid: int
    start: str

    @classmethod
    def mine(cls) -> Process:
        """This process."""
        try:
            space = os.readlink("/proc/self/ns/pid")
        except OSError:
            space = ""
        return cls(f"{socket.gethostname()} {space}".strip(), os.getpid(), _start(os.getpid()) or "")

    def alive(self, heartbeat: float, now: float) -> bool:
        """Whether the process still runs, as seen from this one.

        On the same host the process itself is the evidence: a machine that slept wakes up with old heartbeats and
        living processes. Where it cannot be seen, the age of its heartbeat decides.
        """
        fresh = now - heartbeat < STALE
        if os.name == "nt" or self.host != Process.mine().host:
            return fresh
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it exists, and is another user's
        start = _start(self.pid)
        return fresh if start is None or not self.start else start == self.start


def _start(pid: int) -> str | None:
    """The boot and the clock tick at which a process began; empty for a zombie; None: the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field is the program's name in parentheses and may itself contain spaces and parentheses.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else f"{boot} {fields[18]}"


def recover(connection: Connection, mine: int, now: float) -> int:
    """Settle what dead runs left open, within the transaction that `connection` is in; the number of calls.

    `mine` is the run that asks; it is alive. Runs that another process is just looking at are left to it.
    """

    def free(of: Select[Any]) -> Select[Any]:
        # Not locked against who refers to them: writers of their calls do, and would wait in a circle.
        return of.with_for_update(skip_locked=True, key_share=True)

    others = connection.execute(free(select(runs).where(runs.c.ended.is_(None), runs.c.id != mine)))
    dead = [run.id for run in others if not Process(run.host, run.pid, run.process_start).alive(run.heartbeat, now)]
    # What a run left open that ended in order can no longer be settled by it either.
    ended = select(runs.c.id).where(runs.c.ended.is_not(None), runs.c.id.in_(select(calls.c.run).where(is_open)))
    count = _settle(connection, [*dead, *connection.scalars(free(ended))], now)
    # Behind all other locks: who keeps budgets takes theirs and no others. And of no run that another is just settling.
    charges.settle(connection, now, dead=[*dead, *connection.scalars(free(charges.left()))])
    return count


def _settle(connection: Connection, dead: Sequence[int], now: float) -> int:
    if not dead:
        return 0
    at_bound = (
        update(calls)
        .where(is_open, calls.c.run.in_(dead))
        .values(
            is_open=False,
            is_bound=True,
            amount=calls.c.bound_amount,
            notional=calls.c.stand_in.is_not(
                None
            ),  # a stand-in's money was not really spent, whatever became of the call
        )
        .returning(calls)
    )
    # What was changed here, and not what was seen: another process may have settled some of it just before.
    found = sorted(
        connection.execute(at_bound).mappings(), key=lambda call: (call["request_id"], call["started"], call["id"])
    )
    requests = {name: list(group) for name, group in groupby(found, key=lambda call: str(call["request_id"]))}
    if requests:
        _book(connection, requests, now)
    connection.execute(update(runs).where(runs.c.id.in_(dead), runs.c.ended.is_(None)).values(ended=now))
    return len(found)


def _book(connection: Connection, requests: Mapping[str, Sequence[Row]], now: float) -> None:
    """Make an entry of each request's calls, or add them to the one that there is, and to the rollups."""
    dialect = connection.dialect.name
    there = select(entries).where(rollup.named(dialect, rollup.ids(dialect, list(requests))))
    locked = connection.execute(there.order_by(entries.c.request_id).with_for_update()).mappings().all()
    entered = {str(entry["request_id"]): entry for entry in locked}
    rollup.hold(connection)
    rollup.add(connection, list(entered), -1)
    amended: list[dict[str, Any]] = []
    for request_id, of_request in requests.items():
        if request_id in entered:
            amended += _add(connection, entered[request_id], of_request, now)
        else:
            connection.execute(insert(entries).values(recovered(of_request)))
    rollup.correct(connection, amended, list(requests))


def recovered(of_request: Sequence[Row]) -> dict[str, Any]:
    """The entry of a request that nobody settled, from its calls in the order in which they began."""
    first = of_request[0]
    seats = {call["seat"]: call["upstream"] for call in of_request}
    return {
        "request_id": first["request_id"],
        "at": first["started"],
        "day": day_of(first["started"]),
        "model": first["asked"] or first["model"],
        "route": first["route"] or UNKNOWN,
        "strategy": first["strategy"] or UNKNOWN,
        "why": "recovered",
        "caller": first["caller"] or UNKNOWN,
        "outcome": "recovered",
        "stream": False,
        "teacher": seats.get("teacher"),
        "student": seats.get("student"),
        "stand_in": any(call["stand_in"] is not None for call in of_request),
        "propensity": 1.0,
        "shadow_of": first["request_id"].removesuffix(SHADOW) if first["stage"] == "measurement" else None,
        **_bounds(of_request),
    }


def _bounds(of_request: Iterable[Row]) -> dict[str, Any]:
    """The sums of an entry over calls that are booked at their bounds."""
    stages = dict.fromkeys(STAGES, 0)
    notional = 0
    unpriced = False
    for call in of_request:
        bound = call["bound_amount"]
        if bound is None:
            unpriced = True
            continue
        stages[call["stage"]] += bound
        notional += bound if call["stand_in"] is not None else 0
    total = sum(stages.values())
    return {
        "spent": None if unpriced else total,
        "unpriced": unpriced,
        **{f"{stage}_spent": amount for stage, amount in stages.items()},
        "priced_spent": total,
        "notional_spent": notional,
        "bound_spent": total,
    }


def _add(connection: Connection, entry: Row, forgotten: Sequence[Row], now: float) -> list[dict[str, Any]]:
    """Add calls that were open although their request was settled: they were made, so they are money.

    Returned is what that changes about the corrections that the entry has.
    """
    bounds = _bounds(forgotten)
    more: dict[str, Any] = {
        name: entries.c[name] + amount for name, amount in bounds.items() if name.endswith("_spent")
    }
    more["spent"] = None if bounds["unpriced"] else entries.c.spent + bounds["spent"]
    if bounds["unpriced"]:
        more["unpriced"] = True
    this = entries.c.request_id == entry["request_id"]
    connection.execute(update(entries).where(this).values(more))
    return _corrected(connection, entry, {call["id"] for call in forgotten}, now)


def _corrected(connection: Connection, old: Row, forgotten: Set[str], now: float) -> list[dict[str, Any]]:
    """What makes the corrections of an entry right again, which were made when nobody knew of its `forgotten` calls.

    The entry's own sums have changed by what these cost. All its sums together must change by what they do to the
    entry *as it was corrected*, under the method that its baseline has by now.
    """

    def of(table: Table, *order: ColumnElement[Any]) -> Sequence[Row]:
        named = select(table).where(table.c.request_id == old["request_id"])
        return connection.execute(named.order_by(*order)).mappings().all()

    before = of(corrections, corrections.c.number)
    if not before:
        return []
    [entry], measurement = of(entries), next(iter(of(measurements)), None)
    made = of(calls)
    known = [call for call in made if call["id"] not in forgotten]
    booked = _difference(tally(entry, made, amounts(made, [])), tally(old, known, amounts(known, [])))
    by_now = standing(entry, measurement, Reckoned.of(entry, measurement, before))
    stands = _difference(
        tally(entry, made, amounts(made, before), by_now), tally(old, known, amounts(known, before), by_now)
    )
    first, now_is = entry["baseline_method"], by_now.method
    if first == now_is:
        moved = [(first, _difference(stands, booked))]
    else:
        moved = [(first, _difference({}, booked)), (now_is, stands)]
    changed = [each for each in moved if any(each[1].values())]
    return [correction(entry, number, now, *each) for number, each in enumerate(changed, len(before) + 1)]


def _difference(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {measure: one.get(measure, 0) - other.get(measure, 0) for measure in MEASURES}
