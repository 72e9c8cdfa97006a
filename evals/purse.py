"""Purse: what a run may spend, and the log of what it spent, which outlives a kill.

The most that a request can cost is put aside, and written down, before it is made; what it did cost replaces that. A
request of which nobody saw the end, for it failed or the process was killed, is taken to have cost the most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from evals.asking import Told
from gateway.errors import ConfigError
from pricing.money import Money

SPENT = "spent.jsonl"


class Empty(Exception):
    """The budget does not hold a request; the message says by how much."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of the log: request `call` is about to be made and costs at most `most`; or it has cost `paid`.

    Nano-dollars; None: unknown.
    """

    call: int
    settled: bool
    most: int | None = None
    paid: int | None = None


class Purse:
    """Pays for requests, many at once, and never more than `budget` (None: as much as it takes).

    That holds as far as the bounds of requests do. One purse at a time has the log; close it with `close`. ConfigError:
    the log cannot be read, or there is a budget and it is not known what an earlier request cost.
    """

    def __init__(self, folder: Path, budget: Money | None) -> None:
        self._budget, self._held = budget, 0
        path = folder / SPENT
        self._calls, spent = _read(path)
        if spent is None and budget is not None:
            raise ConfigError(f"{path}: what an earlier request cost is not known, so no budget can be kept")
        self._spent = spent or 0
        self._file = mended(path).open("ab")
        self._settled = asyncio.Event()

    @property
    def spent(self) -> Money:
        """What all requests cost so far, those of earlier runs too; an upper bound where that is not known."""
        return Money(self._spent)

    async def pay(self, most: Money | None, ask: Callable[[], Awaitable[Told]]) -> Told:
        """Make a request that costs at most `most` (None: unknown), when there is room for it.

        Raises `Empty` when there is none, even after all requests under way have ended; then nothing was asked.
        """
        held = await self._put_aside(most)
        call, self._calls = self._calls, self._calls + 1
        self._write(Line(call, settled=False, most=None if most is None else most.nano))
        told: Told | None = None
        try:
            told = await ask()
            return told
        finally:
            paid = None if told is None else _paid(told)
            if paid is not None:
                self._write(Line(call, settled=True, paid=paid))
            self._held -= held
            self._spent += held if paid is None else paid
            self._settled.set()

    def close(self) -> None:
        """Close the log."""
        self._file.close()

    async def _put_aside(self, most: Money | None) -> int:
        if self._budget is None:
            return 0 if most is None else self._hold(most)
        if most is None:
            raise Empty("the price of a model is not known, so no budget can be kept")
        while self._spent + self._held + most.nano > self._budget.nano:
            if not self._held:
                left = Money(self._budget.nano - self._spent)
                raise Empty(f"the budget of {self._budget} has {left} left, and the next request may cost {most}")
            self._settled.clear()
            await self._settled.wait()  # most requests cost less than they may
        return self._hold(most)

    def _hold(self, most: Money) -> int:
        self._held += most.nano
        return most.nano

    def _write(self, line: Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()


def spent(folder: Path) -> Money | None:
    """What the requests of earlier runs into the folder cost, at most; None: unknown. ConfigError."""
    _, nano = _read(folder / SPENT)
    return None if nano is None else Money(nano)


def mended(path: Path) -> Path:
    """The file without a torn last line, so that what is appended begins a line of its own."""
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
    return path


def _read(path: Path) -> tuple[int, int | None]:
    """How many requests the log has, and what they cost together; None: unknown."""
    if not path.exists():
        return 0, 0
    costs: dict[int, int | None] = {}
    decoder = msgspec.json.Decoder(Line)
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            read = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path.name}:{number}: {error}") from error
        costs[read.call] = read.paid if read.settled else read.most
    known = [cost for cost in costs.values() if cost is not None]
    return max(costs, default=-1) + 1, sum(known) if len(known) == len(costs) else None


def _paid(told: Told) -> int | None:
    """What an answer cost; None: unknown, as after most failures."""
    if told.error is not None:
        return 0 if told.unpaid else None
    return told.cost
