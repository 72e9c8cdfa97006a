"""What every ledger's export must do: add up to its savings, to the nano-dollar, whatever happened to it before."""

from __future__ import annotations

import asyncio
import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from gateway.chat import Arm, Outcome
from gateway.ledger import export as exporting
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.export import Format, export
from gateway.ledger.reprice import reprice
from gateway.ledger.rows import STAGES
from gateway.ledger.schema import MEASURES
from gateway.ledger.sql import SqlLedger
from pricing.bill import line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage
from tests.contracts.shadowed import DEARER, GUESS, NOON, SMALL, SOL, reckoned, served, shadow

pytestmark = pytest.mark.anyio

QUERIES = [Query(), Query(since=NOON + 5_000.5, until=NOON + 40_000.5), Query(strategy="hint"), Query(caller="bob")]


def told() -> Sequence[Entry]:
    """Requests of every kind: holdouts, failed and unpriced ones, some shadowed, some of these without a price."""
    dice = random.Random(3)
    made: list[Entry] = []
    for number in range(60):
        base: Mapping[str, Any] = dice.choice([reckoned(), reckoned(), {"baseline": None}, {"baseline": GUESS}])
        outcome: Outcome = dice.choice(["ok", "ok", "ok", "failed", "abandoned"])
        arm: Arm | None = dice.choice([None, *get_args(Arm)])
        wasted = dice.choice([None, None, "empty"])
        request = served(f"r{number:02d}", dice.randrange(40, 300), **base, outcome=outcome, arm=arm, wasted=wasted)
        request = replace(request, at=NOON + number * 999.5, strategy=dice.choice(["cut-off", "hint"]))
        request = replace(request, caller=dice.choice(["alice", "bob"]), teacher_tokens=dice.choice([None, 40]))
        if dice.random() < 0.2:
            request.calls[1].line = line("answer", "small", Usage(100, 40), None)
        made.append(request)
        if dice.random() < 0.5:
            price = dice.choice([SOL, SOL, None])
            made.append(shadow(request, dice.randrange(400), price=price, outcome=dice.choice(["ok", "ok", "failed"])))
    return made


def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
    return DEARER if model == "sol" else SMALL


def read(path: Path, form: Format) -> list[dict[str, Any]]:
    if form == "parquet":
        rows: list[dict[str, Any]] = import_module("pyarrow.parquet").read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]


def money(rows: Sequence[Mapping[str, Any]], name: str) -> Money:
    return Money(sum(int(row[f"{name}_nano"] or 0) for row in rows))


def add_up(rows: Sequence[Mapping[str, Any]], to: SavingsRow) -> None:
    """Every number of savings is the sum of a column."""
    sums = {name: sum(int(row[f"now_{name}"]) for row in rows) for name in MEASURES if f"now_{name}" in rows[0]}
    assert sums["requests"] == to.requests == sum(row["kind"] == "request" for row in rows)
    assert (sums["compared"], sums["unpriced"], sums["wasted"]) == (to.compared, to.unpriced, to.wasted)
    assert (sums["teacher_tokens"], sums["baseline_tokens"]) == (to.teacher_output_tokens, to.baseline_output_tokens)
    assert sums["shadows_unpriced"] == to.shadows_unpriced
    assert {stage: money(rows, f"now_{stage}") for stage in STAGES} == to.spent_by_stage
    names = {"spent": to.spent, "compared_spent": to.compared_spent, "likely": to.baseline, "corrected": to.corrected}
    names |= {"notional": to.notional, "bound": to.bound, "wasted_spent": to.wasted_spent}
    assert {name: money(rows, f"now_{name}") for name in names} == names
    if sums["low_known"] == sums["high_known"] == sums["compared"]:
        assert (money(rows, "now_low"), money(rows, "now_high")) == (to.baseline_low, to.baseline_high)
    assert money(rows, "now_likely") - money(rows, "now_compared_spent") == to.saved
    methods: Counter[str] = Counter()
    for row in rows:
        if int(row["now_compared"]):
            methods[row["now_method"]] += int(row["now_likely_nano"])
    assert methods == {name: amount.nano for name, amount in to.baseline_by_method.items()}
    for kind, outcomes in (("request", to.outcomes), ("shadow", to.shadows)):
        assert Counter(row["outcome"] for row in rows if row["kind"] == kind) == outcomes
    known = {row["request_id"] for row in rows}
    assert all(row["shadow_of"] in known for row in rows if row["kind"] == "shadow")


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_an_export_adds_up_to_the_savings(
    database: str, tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(exporting, "BATCH", 7)
    ledger = await SqlLedger.open(database, spool=tmp_path)
    for each in told():
        await ledger.settle(each)
    path = tmp_path / "out"

    async def check() -> None:
        for query in QUERIES:
            [row] = await ledger.savings(query)
            count = await asyncio.to_thread(export, database, path, form, "requests", query)
            found = read(path, form)
            assert count == len(found) == row.requests + sum(row.shadows.values())
            if query.since is None:
                add_up(found, row)
            else:  # a shadow may be in the range, and its request before it
                assert (money(found, "now_spent"), money(found, "now_likely")) == (row.spent, row.baseline)
            await asyncio.to_thread(export, database, path, form, "calls", query)
            assert money(read(path, form), "now_amount") == row.spent

    await check()
    [before] = await ledger.savings()
    await asyncio.to_thread(reprice, database, quote, Query(until=NOON + 30_000), 2e9)
    await asyncio.to_thread(reprice, database, quote, Query(), 2e9)
    [after] = await ledger.savings()
    assert (after.corrected > Money.ZERO, after.baseline != before.baseline) == (True, True)
    await check()
    await ledger.aclose()
