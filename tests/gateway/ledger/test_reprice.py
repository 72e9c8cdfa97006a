"""Corrections: the sums are as if the right price had been booked at once, and what was booked is still there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from gateway.chat import Call, Stage
from gateway.ledger import rollup, upkeep
from gateway.ledger.basis import Basis, Quote, Unasked
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.reprice import Repriced, reprice
from gateway.ledger.sql import SqlLedger
from pricing.baseline import measured, same_length
from pricing.bill import Line, line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

pytestmark = pytest.mark.anyio

NOON = 1_800_000_000.0
OLD = Price("sol", "config", input=Money.usd(2), output=Money.usd(10), row="old")
NEW = Price("sol", "config", input=Money.usd(3), output=Money.usd(7), row="new")
STUDENT = Price("small", "config", input=Money.usd("0.01"), output=Money.usd("0.08"), row="small")

QUERIES = [
    Query(),
    *(Query(by=by) for by in ("day", "hour", "model", "strategy", "caller")),
    Query(since=NOON + 0.5, until=NOON + 90_000.5, by="day"),
    Query(since=NOON + 3_600, model="b"),
]


def booked(count: int, sol: Price | None, *, half_known: bool = True) -> list[Entry]:
    """The same `count` requests each time, with the teacher's calls priced by `sol`; None: not at all.

    `half_known` False: every other request was booked when there was no price.
    """
    dice = random.Random(7)
    made = []
    for n in range(count):
        calls = []
        for k in range(dice.randrange(1, 4)):
            teacher = dice.random() < 0.6
            model, seat = ("sol", "teacher") if teacher else ("small", "student")
            stage: Stage = dice.choice(get_args(Stage))
            call = Call(f"c{k}", f"r{n:03d}", stage, seat, seat, model, None, NOON + n, Money(900))  # type: ignore[arg-type]  # a str to mypy
            usage = Usage(dice.randrange(1, 5_000), dice.randrange(900), cached=0)
            price = (sol if half_known or n % 2 else None) if teacher else STUDENT
            call.usage = usage
            call.line = line(stage, model, usage, price, notional=dice.random() < 0.2)
            calls.append(call)
        told = Entry(
            f"r{n:03d}",
            NOON + n * 1_111.1,
            "ab"[n % 2],
            "*",
            "cut-off",
            "",
            dice.choice("xy"),
            "ok",
            True,
            calls,
            None,
            teacher="teacher",
            wasted=dice.choice([None, "empty"]),
            teacher_tokens=dice.choice([None, n]),
        )
        price = sol if half_known or n % 2 else None
        size, shown = dice.randrange(1, 5_000), dice.randrange(900)
        if n % 5 == 0:
            bill = Basis([call.id for call in calls])
            told = replace(told, baseline=measured(told.spent, 9), baseline_of=bill)
        elif dice.random() < 0.7:
            guess = same_length(price, input_tokens=size, output_tokens=shown, cached=size // 3)
            assert guess.usages
            unasked = Unasked("sol", (None,), told.at, guess.usages)
            told = replace(told, baseline=guess, baseline_of=Basis((), unasked))
        made.append(told)
    return made


def at(sol: Price | None) -> Quote:
    """Today's price list."""

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
        assert moment >= NOON
        assert upstream in ("teacher", "student")
        return {"sol": sol, "small": STUDENT}[model]

    return quote


async def keep(database: str, folder: Path, of: Sequence[Entry]) -> SqlLedger:
    ledger = await SqlLedger.open(database, spool=folder)
    await asyncio.gather(*(ledger.settle(entry) for entry in of))
    return ledger


async def sums(ledger: SqlLedger) -> list[list[SavingsRow]]:
    return [list(await ledger.savings(query)) for query in QUERIES]


async def repriced(database: str, sol: Price | None, query: Query = QUERIES[0], *, dry_run: bool = False) -> Repriced:
    return await asyncio.to_thread(reprice, database, at(sol), query, 2e9, dry_run=dry_run)


async def test_the_sums_are_as_if_the_right_price_had_been_booked(database: str, tmp_path: Path) -> None:
    ledger = await keep(database, tmp_path, booked(120, OLD, half_known=False))
    right = await keep("sqlite://", tmp_path, booked(120, NEW))
    before = await sums(ledger)
    would = await repriced(database, NEW, dry_run=True)
    assert would.changed > 60
    assert would.priced > 30
    assert await sums(ledger) == before
    done = await repriced(database, NEW)
    assert done == would
    assert done.requests == 120
    after, wanted = await sums(ledger), await sums(right)
    assert after != before
    assert [[replace(row, corrected=Money.ZERO) for row in rows] for rows in after] == wanted
    [all_of_it] = after[0]
    assert all_of_it.corrected == done.difference == all_of_it.spent - before[0][0].spent
    assert all(row.corrected for row in after[1])
    assert await asyncio.to_thread(upkeep.check, database) == []

    assert (await repriced(database, NEW)).changed == 0, "the second time adds nothing"
    assert await sums(ledger) == after
    back = await repriced(database, OLD)
    assert back.changed > 60
    assert (await repriced(database, OLD)).changed == 0
    third = await keep("sqlite://", tmp_path, booked(120, OLD))
    got = [[replace(row, corrected=Money.ZERO) for row in rows] for rows in await sums(ledger)]
    assert got == await sums(third)
    with ledger.store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE rollups SET spent = spent + 1 WHERE requests > 0")
        assert rollup.differences(connection) != []
        rollup.rebuild(connection)
    assert [[replace(row, corrected=Money.ZERO) for row in rows] for rows in await sums(ledger)] == got
    await asyncio.gather(ledger.aclose(), right.aclose(), third.aclose())


async def test_what_was_booked_stays_and_the_correction_is_told_beside_it(database: str, tmp_path: Path) -> None:
    call = Call("c", "r", "answer", "teacher", "teacher", "sol", None, NOON, Money(900), usage=Usage(1_000, 100))
    call.line = line("answer", "sol", Usage(1_000, 100), OLD)
    ledger = await keep(database, tmp_path, [Entry("r", NOON, "m", "*", "teacher", "", "x", "ok", True, [call], None)])
    await repriced(database, NEW)
    await repriced(database, OLD)
    found = await ledger.entry("r")
    assert found is not None
    assert (found["spent"], found["calls"][0]["amount"]) == (3_000_000, 3_000_000)
    told = [(each["calls"]["c"]["before"], each["calls"]["c"]["after"]) for each in found["corrections"]]
    assert told == [(3_000_000, 3_700_000), (3_700_000, 3_000_000)]
    assert found["corrections"][0]["calls"]["c"]["price"]["row"] == "new"
    await ledger.aclose()


async def test_what_cannot_be_known_better_stays(database: str, tmp_path: Path) -> None:
    bound = Call("c", "bound", "answer", "teacher", "teacher", "sol", None, NOON, Money(900))
    bound.usage = Usage(10, 10)
    bound.line = Line("answer", "sol", bound.usage, None, Money(900), bound=True)
    silent = Call("c", "silent", "answer", "teacher", "teacher", "sol", None, NOON, Money(900))
    priced = Call("c", "priced", "answer", "teacher", "teacher", "sol", None, NOON, Money(900), usage=Usage(5, 5))
    priced.line = line("answer", "sol", Usage(5, 5), OLD)
    of = [
        Entry(call.request_id, NOON, "m", "*", "teacher", "", "x", "ok", True, [call], None)
        for call in (bound, silent, priced)
    ]
    ledger = await keep(database, tmp_path, of)
    before = await sums(ledger)
    done = await repriced(database, None)
    assert (done.requests, done.changed, done.unknown) == (3, 0, 1)
    assert (await repriced(database, NEW, Query(since=NOON + 1))).requests == 0
    assert (await repriced(database, NEW, Query(until=NOON))).requests == 0
    assert await sums(ledger) == before
    done = await repriced(database, NEW)
    assert (done.changed, done.calls, done.difference) == (1, 1, Money(5 * 3_000 + 5 * 7_000 - 5 * 12_000))
    await ledger.aclose()


async def test_what_was_recovered_is_not_looked_at(database: str, tmp_path: Path) -> None:
    """Nobody knows what it used: its process may yet tell, and then the entry gives way."""
    ledger = await keep(database, tmp_path, booked(3, OLD))
    await ledger.intend(Call("c", "r", "answer", "teacher", "teacher", "sol", None, NOON, Money(900)))
    await ledger.aclose()
    ledger = await SqlLedger.open(database, spool=tmp_path)
    [row] = await ledger.savings()
    assert row.outcomes == {"ok": 3, "recovered": 1}
    assert (await repriced(database, NEW)).requests == 3
    await ledger.aclose()


async def test_many_are_repriced_in_pages(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.reprice.BATCH", 7)
    same_moment = [replace(entry, at=NOON) for entry in booked(30, None)]
    ledger = await keep(database, tmp_path, same_moment)
    done = await repriced(database, NEW)
    assert done.requests == 30
    assert (await ledger.savings())[0].unpriced == 0
    assert await asyncio.to_thread(upkeep.check, database) == []
    await ledger.aclose()
