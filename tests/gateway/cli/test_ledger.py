"""`gkt ledger`: upkeep from the command line."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Write = Callable[..., Path]
Run = Callable[..., Result]


def execute(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "ledger.db") as database:
        database.execute(statement)


def test_sums_are_proven_and_made_anew(asked: Path, run: Run, tmp_path: Path) -> None:
    result = run("ledger", "rebuild", "--check", "--config", asked)
    assert (result.exit_code, result.stdout) == (0, "all sums are what the entries say\n")
    before = run("savings", "--json", "--config", asked).stdout
    execute(tmp_path, "UPDATE rollups SET spent = spent + 5 WHERE strategy = 'student'")
    execute(tmp_path, "DELETE FROM rollups WHERE strategy = 'cut-off' AND level = 2")
    assert run("savings", "--json", "--config", asked).stdout != before
    result = run("ledger", "rebuild", "--check", "--config", asked)
    assert result.exit_code == 1
    # The student's at the finest level, the day that is gone, and the caller's day, which is made of that one.
    assert "gkt: 3 sums are not what the entries say" in result.stderr
    assert "anonymous, student, student, student, ok, same_length: spent " in result.stdout
    assert "requests 0, not 2" in result.stdout
    result = run("ledger", "rebuild", "--config", asked)
    assert result.exit_code == 0
    # What is added to a finest sum is added to all that are made of it: four of them, by caller alone, had been right.
    assert "6 sums were wrong and are made anew" in result.stdout
    assert run("ledger", "rebuild", "--check", "--config", asked).exit_code == 0
    assert run("savings", "--json", "--config", asked).stdout == before


def test_old_entries_are_pruned_and_counted_on(asked: Path, run: Run) -> None:
    result = run("ledger", "prune", "--older-than", "90d", "--entries", "--config", asked)
    assert result.stdout.startswith("removed 0 entries from before 20")
    result = run("ledger", "prune", "--before", "2999-01-01", "--entries", "--config", asked)
    assert result.stdout == "removed 3 entries from before 2999-01-01\n"
    assert json.loads(run("savings", "--json", "--config", asked).stdout)["data"][0]["requests"] == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--entries"],
        ["--texts", "--entries", "--before", "2026-01-01"],
        ["--before", "2026-01-01"],
        ["--texts", "--before", "2026-01-01", "--older-than", "1d"],
        ["--texts", "--older-than", "soon"],
        ["--texts", "--before", "yesterday"],
    ],
)
def test_what_is_removed_must_be_said_exactly(asked: Path, run: Run, options: list[str]) -> None:
    assert run("ledger", "prune", *options, "--config", asked).exit_code == 2


def test_an_export_adds_up_to_the_savings(asked: Path, run: Run, tmp_path: Path) -> None:
    result = run("ledger", "export", tmp_path / "out.csv", "--config", asked)
    assert result.stdout == f"3 requests written to {tmp_path / 'out.csv'}\n"
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (data,) = json.loads(run("savings", "--json", "--config", asked).stdout)["data"]
    assert sum(int(row["spent_nano"]) for row in rows) == data["spent"]["nano_usd"]
    assert sum(Decimal(row["baseline_likely_usd"]) for row in rows) == Decimal(data["baseline"]["usd"])
    nothing = run("ledger", "export", tmp_path / "none.csv", "--until", "2000-01-01", "--config", asked)
    assert nothing.stdout.startswith("0 requests")


def test_a_price_that_was_wrong_is_mended_by_corrections(asked: Path, write: Write, run: Run) -> None:
    def row() -> dict[str, Any]:
        (data,) = json.loads(run("savings", "--json", "--config", asked).stdout)["data"]
        assert isinstance(data, dict)
        return data

    span = ("ledger", "reprice", "--from", "2000-01-01", "--to", "2999-01-01")
    assert run(*span, "--config", asked).stdout == "0 of 3 requests corrected, 0 calls: $0\n"
    before = row()
    dearer = write(prices={"big-teacher": {"input": 4, "output": 20}, "small": {"input": 0.01, "output": 0.08}})
    would = run(*span, "--dry-run", "--config", dearer).stdout
    assert would.startswith("3 of 3 requests would be corrected, 2 calls: $")
    assert would.endswith("\n3 baselines follow\n"), "the one that the student answered, too"
    assert row() == before
    assert run(*span, "--config", dearer).stdout == would.replace("would be corrected", "corrected")
    after = row()
    assert after["baseline"]["nano_usd"] == 2 * before["baseline"]["nano_usd"], "both of its prices were doubled"
    assert after["saved"]["nano_usd"] == after["baseline"]["nano_usd"] - after["compared_spent"]["nano_usd"]
    more = after["spent"]["nano_usd"] - before["spent"]["nano_usd"]
    assert after["corrected"]["nano_usd"] == more == before["spent_by_stage"]["guidance"]["nano_usd"]
    assert run(*span, "--config", dearer).stdout == "0 of 3 requests corrected, 0 calls: $0\n"
    assert run("ledger", "rebuild", "--check", "--config", asked).exit_code == 0


def test_an_export_of_the_provider_is_compared(asked: Path, run: Run, tmp_path: Path) -> None:
    execute(tmp_path, "UPDATE calls SET stand_in = NULL")
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        ((day, tokens),) = database.execute(
            "SELECT date(min(started), 'unixepoch'), sum(input) FROM calls WHERE seat = 'teacher'"
        )
    file = tmp_path / "usage.csv"
    file.write_text(f"date,model,input_tokens\n{day},big-teacher,{tokens}\n")
    result = run("ledger", "reconcile", file, "--upstream", "teacher", "--config", asked)
    assert (result.exit_code, result.stdout) == (0, "1 days and models agree\n")
    file.write_text(f"date,model,input_tokens\n{day},big-teacher,{tokens + 10}\n")
    result = run("ledger", "reconcile", file, "--upstream", "teacher", "--config", asked)
    assert result.exit_code == 1
    assert f"{day} big-teacher input: export {tokens + 10:,}, ledger {tokens:,}" in result.stdout
    assert run("ledger", "reconcile", file, "--tolerance", "99", "--config", asked).exit_code == 0


def test_reconcile_is_a_command_of_its_own_too(asked: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_text("date,model,input_tokens\n2001-01-01,big-teacher,5\n")
    both = [run(*names, file, "--config", asked) for names in (("reconcile",), ("ledger", "reconcile"))]
    assert [each.exit_code for each in both] == [1, 1]
    assert both[0].stdout == both[1].stdout
    assert "2001-01-01 big-teacher input: export 5, ledger 0" in both[0].stdout


def test_what_was_kept_aside_is_tried_again_or_removed(asked: Path, run: Run, tmp_path: Path) -> None:
    assert run("ledger", "replay", "--config", asked).stdout == "0 records are on record now\n"
    kept = tmp_path / "damaged-ledger.db.spool-1"
    kept.write_bytes(b"torn")
    again = run("ledger", "replay", kept, "--config", asked)
    assert again.exit_code == 1
    assert "0 records are on record now; kept aside: 0 refused again, 0 of pruned days, 1 unreadable" in again.stderr
    assert kept.read_bytes() == b"torn"
    young = run("ledger", "prune", "--aside", "--older-than", "1d", "--config", asked)
    assert young.stdout.startswith("removed 0 files from before ")
    assert run("ledger", "prune", "--aside", "--before", "2999-01-01", "--config", asked).exit_code == 0
    assert not kept.exists()


def test_what_repricing_cannot_do_is_printed(asked: Path, write: Write, run: Run, tmp_path: Path) -> None:
    execute(tmp_path, "UPDATE entries SET baseline_of = NULL, baseline_likely = baseline_likely + 1")
    execute(tmp_path, "UPDATE calls SET amount = NULL, usage_source = NULL WHERE seat = 'student'")
    dearer = write(prices={"big-teacher": {"input": 4, "output": 20}, "small": {"input": 0.01, "output": 0.08}})
    span = ("ledger", "reprice", "--from", "2000-01-01", "--to", "2999-01-01")
    told = run(*span, "--config", dearer).stdout
    assert "calls still have no price\n" in told
    assert "of them are unknown now, and not compared: of what they were the price is not on record\n" in told
