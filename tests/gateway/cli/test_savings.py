"""`gkt savings`: the ledger's sums, read from outside without taking part."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from gateway.api.admin import savings_row
from gateway.cli.savings import parsed
from gateway.ledger.entry import Query
from gateway.ledger.reading import read_savings

Write = Callable[..., Path]
Run = Callable[..., Result]


def test_the_sums_of_the_ledger(asked: Path, run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        ((spent, likely, notional),) = database.execute(
            "SELECT sum(spent), sum(baseline_likely), sum(notional_spent) FROM entries"
        )
    assert notional > 0
    assert likely > spent
    (data,) = json.loads(run("savings", "--json", "--config", asked).stdout)["data"]
    assert (data["requests"], data["spent"]["nano_usd"], data["baseline"]["nano_usd"]) == (3, spent, likely)
    assert data["saved"]["nano_usd"] == likely - spent
    table = run("savings", "--config", asked).stdout
    for amount in (data["spent"], data["baseline"], data["saved"], data["notional"]):
        assert f"${amount['usd']}" in table
    for words in ("all-in share", "the paper's share", "same_length", "stand-in, priced as if it were the teacher"):
        assert words in table


def test_groups_and_filters(asked: Path, run: Run) -> None:
    by_model = run("savings", "--by", "model", "--config", asked).stdout.splitlines()
    assert [line.split()[:2] for line in by_model[1:3]] == [["gkt", "2"], ["student", "1"]]
    assert "Savings, all requests" in by_model[4]
    only = json.loads(run("savings", "--json", "--strategy", "student", "--config", asked).stdout)
    assert only["data"][0]["requests"] == 1
    later = json.loads(run("savings", "--json", "--since", "2999-01-01", "--config", asked).stdout)
    assert later["data"][0]["requests"] == 0
    assert later["data"][0]["saved"] is None


def test_a_row_survives_its_json(asked: Path, tmp_path: Path) -> None:
    for query in (Query(), Query(by="strategy"), Query(since=4e9)):
        for row in read_savings(f"sqlite:///{tmp_path}/ledger.db", query):
            assert parsed(json.loads(json.dumps(savings_row(row)))) == row


def test_looking_changes_nothing(asked: Path, run: Run, tmp_path: Path) -> None:
    def state() -> list[object]:
        with sqlite3.connect(tmp_path / "ledger.db") as database:
            return [*database.execute("SELECT * FROM runs"), *database.execute("SELECT * FROM calls")]

    with sqlite3.connect(tmp_path / "ledger.db") as database:
        database.execute("UPDATE runs SET ended = NULL, pid = 999999999")
        database.execute("UPDATE calls SET is_open = true")
    before = state()
    assert run("savings", "--config", asked).exit_code == 0
    assert state() == before


def test_no_ledger_is_told_and_none_is_made(write: Write, run: Run, tmp_path: Path) -> None:
    result = run("savings", "--config", write())
    assert result.exit_code == 2
    assert "there is no ledger at" in result.stderr
    assert not (tmp_path / "ledger.db").exists()
    result = run("savings", "--config", write(ledger={"url": "sqlite://"}))
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_a_database_of_something_else_is_told(write: Write, run: Run, tmp_path: Path) -> None:
    file = write()
    (tmp_path / "ledger.db").write_text("no database, but longer than a header of a hundred bytes" * 3)
    result = run("savings", "--config", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not a database" in result.stderr
    (tmp_path / "ledger.db").unlink()
    sqlite3.connect(tmp_path / "ledger.db").close()
    assert "no ledger in it" in run("savings", "--config", file).stderr


def test_a_wrong_moment_is_told(write: Write, run: Run) -> None:
    result = run("savings", "--since", "yesterday", "--config", write())
    assert result.exit_code == 2
    assert "--since" in result.stderr
