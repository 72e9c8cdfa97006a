"""Orphans: what a Redis knows of a reservation, so that another process can settle it when its own has died."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson
from sqlalchemy import Connection, select

from gateway.ledger import charges
from gateway.ledger.recovery import Process
from gateway.ledger.schema import runs
from gateway.shared.budget import Reservation, Span
from gateway.shared.recount import Aside


@dataclass(frozen=True, slots=True)
class Note:
    """One reservation, by the key of its record.

    `process` is a digest of the process that made it: a Redis may serve gateways with ledgers of their own, whose runs
    have the same numbers. `periods` are keys of spans, each with the second at which its counter may be forgotten.
    """

    record: str
    request_id: str
    run: int
    process: str
    own_key: bool
    amount: int
    periods: Mapping[str, str | int]

    @property
    def aside(self) -> Aside:
        """The same, for who counts anew."""
        return Aside(self.request_id, self.own_key, self.amount, frozenset(self.periods))


def note(reservation: Reservation, forgotten: Callable[[Span], str | int]) -> str:
    """What Redis keeps beside an open reservation; empty for one that nobody else could settle."""
    origin = reservation.origin
    if origin is None:
        return ""
    periods = {when.key: forgotten(when) for when in reservation.spans}
    told = [origin.request_id, origin.run, _mine(), origin.own_key, reservation.amount.nano, periods]
    return orjson.dumps(told).decode()


def parsed(found: Sequence[str]) -> list[Note]:
    """The notes of a hash, as Redis answers it: names and values in turn."""
    return [Note(record, *orjson.loads(told)) for record, told in zip(found[::2], found[1::2], strict=True)]


def spent(connection: Connection, notes: Sequence[Note]) -> list[tuple[Note, int]]:
    """Those whose process has ended, each with the nano-dollars that its request has on record.

    A run ends in the transaction that books what it left open, so that these are whole. What nobody knows stays at its
    amount.
    """
    named = select(runs).where(runs.c.id.in_({each.run for each in notes}), runs.c.ended.is_not(None))
    ended = {(int(run.id), _digest(Process(run.host, run.pid, run.process_start))) for run in connection.execute(named)}
    left = [each for each in notes if (each.run, each.process) in ended]
    sums = charges.booked(connection, {each.request_id: each.own_key for each in left})
    return [(each, each.amount if (nano := sums[each.request_id]) is None else nano) for each in left]


@lru_cache(maxsize=1)
def _mine() -> str:
    return _digest(Process.mine())


def _digest(process: Process) -> str:
    told = f"{process.host}|{process.pid}|{process.start}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]
