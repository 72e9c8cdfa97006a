"""What a dead process left open: who is dead, and how its calls are settled.

A call that was open when its process died may have cost anything up to its bound, so it is booked at the bound and
marked. Its request gets an entry with outcome `recovered`, told from what its calls know.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gateway.ledger import rollup
from gateway.ledger.entry import SHADOW
from gateway.ledger.rows import STAGES, day_of
from gateway.ledger.schema import calls, entries, is_open, runs

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
    others = connection.execute(
        select(runs).where(runs.c.ended.is_(None), runs.c.id != mine).with_for_update(skip_locked=True)
    )
    dead = [run.id for run in others if not Process(run.host, run.pid, run.process_start).alive(run.heartbeat, now)]
    # What a run left open that ended in order can no longer be settled by it either.
    ended = select(runs.c.id).where(runs.c.ended.is_not(None), runs.c.id.in_(select(calls.c.run).where(is_open)))
    return _settle(connection, [*dead, *connection.scalars(ended)], now)


def _settle(connection: Connection, dead: Sequence[int], now: float) -> int:
    if not dead:
        return 0
    left = (is_open, calls.c.run.in_(dead))
    found = (
        connection.execute(
            select(calls, entries.c.request_id.label("entered"))
            .outerjoin(entries, entries.c.request_id == calls.c.request_id)
            .where(*left)
            .order_by(calls.c.request_id, calls.c.started, calls.c.id)
        )
        .mappings()
        .all()
    )
    at_bound = (
        update(calls)
        .where(*left)
        .values(
            is_open=False,
            is_bound=True,
            amount=calls.c.bound_amount,
            notional=calls.c.stand_in.is_not(
                None
            ),  # a stand-in's money was not really spent, whatever became of the call
        )
    )
    connection.execute(at_bound)
    requests = {name: list(group) for name, group in groupby(found, key=lambda call: str(call["request_id"]))}
    entered = [name for name, of_request in requests.items() if of_request[0]["entered"] is not None]
    connection.execute(select(entries.c.request_id).where(entries.c.request_id.in_(entered)).with_for_update())
    rollup.add(connection, entered, -1)
    for request_id, of_request in requests.items():
        if of_request[0]["entered"] is None:
            connection.execute(insert(entries).values(recovered(of_request)))
        else:
            _add(connection, request_id, of_request)
    rollup.add(connection, list(requests))
    connection.execute(update(runs).where(runs.c.id.in_(dead), runs.c.ended.is_(None)).values(ended=now))
    return len(found)


def recovered(of_request: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
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


def _bounds(of_request: Iterable[Mapping[Any, Any]]) -> dict[str, Any]:
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


def _add(connection: Connection, request_id: str, forgotten: Sequence[Mapping[Any, Any]]) -> None:
    """Add calls that were open although their request was settled: they were made, so they are money."""
    bounds = _bounds(forgotten)
    more: dict[str, Any] = {
        name: entries.c[name] + amount for name, amount in bounds.items() if name.endswith("_spent")
    }
    more["spent"] = None if bounds["unpriced"] else entries.c.spent + bounds["spent"]
    if bounds["unpriced"]:
        more["unpriced"] = True
    connection.execute(update(entries).where(entries.c.request_id == request_id).values(more))
