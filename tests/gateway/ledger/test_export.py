"""An export says what the ledger says, to the nano-dollar, and says nothing where nothing is known."""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gateway.chat import Call
from gateway.errors import ConfigError
from gateway.ledger import export as exporting
from gateway.ledger.entry import Entry, Query
from gateway.ledger.export import Format, Rows, columns, export
from gateway.ledger.sql import SqlLedger
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]

DEAR = 2**60 + 1  # beyond what a float can hold exactly


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_name_is_a_formula(begins: str) -> None:
    assert exporting.harmless(f"{begins}1") == f"'{begins}1"
    assert exporting.harmless(f"1{begins}") == f"1{begins}"


@pytest.fixture
async def filled(database: str, tmp_path: Path, call: Calls, entry: Entries) -> str:
    """Twenty-five requests with two calls each; the first is dear, the second has no price."""
    ledger = await SqlLedger.open(database, spool=tmp_path, text=True)
    for n in range(25):
        name = f"r{n:02d}"
        told = entry(name, call(name, 1), call(name, 2))
        for made, amount in zip(told.calls, (DEAR if n == 0 else n, None if n == 1 else -1), strict=True):
            money = None if amount is None else Money(amount)
            made.line = Line("guidance", "gpt-6-sol", Usage(3, 4), None, money)
        base = Baseline("same_length", None, Money(10 * n), Money(20 * n), 7)
        text = {"answer": "a secret"}
        await ledger.settle(
            replace(told, at=1.8e9 + n / 4, model='=1+"ä"' if n == 2 else "m", baseline=base, text=text)
        )
    await ledger.intend(call("open"))
    await ledger.aclose()
    return database


def read(path: Path, form: Format) -> list[dict[str, Any]]:
    if form == "parquet":
        rows: list[dict[str, Any]] = import_module("pyarrow.parquet").read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("rows", ["requests", "calls"])
async def test_amounts_are_exact(
    filled: str, tmp_path: Path, form: Format, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(exporting, "BATCH", 10)
    path = tmp_path / "out"
    count = await asyncio.to_thread(export, filled, path, form, rows)
    found = read(path, form)
    name = "spent" if rows == "requests" else "amount"
    assert count == len(found) == (25 if rows == "requests" else 50)
    assert list(found[0]) == list(columns(rows))
    unknown = [row["request_id"] for row in found if row[f"{name}_nano"] is None]
    assert unknown == ["r01"]
    assert [row["request_id"] for row in found if row[f"{name}_usd"] is None] == unknown
    known = [(int(row[f"{name}_nano"]), Decimal(row[f"{name}_usd"])) for row in found if row[f"{name}_nano"]]
    assert all(usd * 10**9 == nano for nano, usd in known)
    assert sum(nano for nano, _ in known) == DEAR + sum(range(2, 25)) - 24 + (rows == "calls")
    assert str(found[0]["time"]).replace("T", " ").startswith("2027-01-15 08:00:0")
    assert b"secret" not in path.read_bytes()
    assert [name for name in os.listdir(tmp_path) if "out" in name] == ["out"]


async def test_a_range_and_an_order(filled: str, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert await asyncio.to_thread(export, filled, path, "csv", "calls", Query(1.8e9 + 1, 1.8e9 + 2)) == 8
    found = read(path, "csv")
    assert [row["request_id"] for row in found] == [f"r{n:02d}" for n in (4, 4, 5, 5, 6, 6, 7, 7)]
    assert await asyncio.to_thread(export, filled, path, "csv", "requests", Query(since=9e9)) == 0
    assert path.read_text("utf-8").count("\n") == 1, "only the names"


async def test_a_name_that_looks_like_a_formula_is_text(filled: str, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    await asyncio.to_thread(export, filled, path, "csv")
    assert read(path, "csv")[2]["model"] == '\'=1+"ä"'
    assert read(path, "csv")[3]["model"] == "m"


async def test_without_pyarrow_it_says_what_to_install(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"gkt-gateway\[parquet\]"):
        await asyncio.to_thread(export, filled, tmp_path / "out", "parquet")


async def test_a_file_that_cannot_be_made(filled: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        await asyncio.to_thread(export, filled, tmp_path / "no" / "out.csv", "csv")
