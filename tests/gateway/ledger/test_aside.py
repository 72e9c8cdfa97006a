"""What was kept aside can be tried again: it counts once, and what cannot be written stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.chat import Call
from gateway.errors import ConfigError
from gateway.ledger import aside, backlog, rows, spool, upkeep
from gateway.ledger.aside import Replayed
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
NOON = 1_800_000_000.0


def refused(folder: Path, url: str, *told: Entry, run: int = 1) -> Path:
    """A file of what a database refused, as a gateway leaves it."""
    where, prefix = backlog.place(url, folder) or (folder, "")
    made = spool.Spool.create(where, prefix)
    for each in told:
        made.refuse(rows.settlement(each, run, text=False))
    made.close()
    [path] = aside.kept(url, folder)
    return path


async def test_what_was_refused_is_written_and_counts_once(
    database: str, tmp_path: Path, call: Calls, entry: Entries
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    told = [entry(name, call(name)) for name in ("a", "b", "c")]
    await ledger.settle(told[1])
    file = refused(tmp_path, database, *told)
    assert file.stat().st_mode & 0o077 == 0
    assert await asyncio.to_thread(aside.replay, database, file) == Replayed(written=3)
    assert aside.kept(database, tmp_path) == []
    [row] = await ledger.savings()
    assert (row.requests, row.spent.nano) == (3, 30)
    assert await asyncio.to_thread(upkeep.check, database) == []
    await ledger.aclose()


async def test_what_is_refused_again_or_unreadable_stays(
    database: str, tmp_path: Path, call: Calls, entry: Entries
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    poison = replace(entry("poison", call("poison")), model=None)  # type: ignore[arg-type]  # no database takes that
    file = refused(tmp_path, database, entry("good", call("good")), poison)
    with file.open("ab") as out:
        out.write(b"torn")
    for written in (1, 0):
        found = await asyncio.to_thread(aside.replay, database, file)
        assert found == Replayed(written=written, refused=1, unreadable=1)
        assert aside.kept(database, tmp_path) == [file]
        assert file.read_bytes().endswith(b"torn")
        assert (b"poison" in file.read_bytes(), b"good" in file.read_bytes()) == (True, False)
        assert file.stat().st_mode & 0o077 == 0
    assert [each["request_id"] for each in await ledger.entries()] == ["good"]
    await ledger.aclose()


async def test_what_may_have_been_counted_and_pruned_already_is_not_counted(
    database: str, tmp_path: Path, call: Calls, entry: Entries
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    old = entry("old", call("old"))
    await ledger.settle(old)
    await asyncio.to_thread(upkeep.prune, database, old.at + 2 * 86_400, "entries")
    [before] = await ledger.savings()
    young = entry("young", call("young"))
    file = refused(tmp_path, database, old, replace(young, at=old.at + 3 * 86_400))
    assert await asyncio.to_thread(aside.replay, database, file) == Replayed(written=1, late=1)
    [row] = await ledger.savings()
    assert row.requests == before.requests + 1
    assert file.exists()
    await ledger.aclose()


async def test_an_older_versions_rows_are_read_by_what_the_file_says(
    database: str, tmp_path: Path, call: Calls, entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    columns = list(spool.COLUMNS[2])
    at = columns.index("baseline_of")
    told = rows.settlement(entry("old", call("old")), 1, text=False)
    older = replace(told, entry=(*told.entry[:at], *told.entry[at + 1 :]))
    with monkeypatch.context() as patched:
        patched.setattr(spool, "COLUMNS", [*spool.COLUMNS[:2], [name for name in columns if name != "baseline_of"]])
        where, prefix = backlog.place(database, tmp_path) or (tmp_path, "")
        made = spool.Spool.create(where, prefix)
        made.refuse(older)
        made.close()
    [file] = aside.kept(database, tmp_path)
    assert await asyncio.to_thread(aside.replay, database, file) == Replayed(written=1)
    assert await ledger.entry("old") is not None
    await ledger.aclose()


async def test_a_database_that_does_not_answer_leaves_the_file(
    database: str, tmp_path: Path, call: Calls, entry: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path)
    await ledger.aclose()
    file = refused(tmp_path, database, entry("a", call("a")))
    was = file.read_bytes()

    def fails(*_: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", fails)
        with pytest.raises(ConfigError, match="does not answer"):
            aside.replay(database, file)
    assert (aside.kept(database, tmp_path), file.read_bytes()) == ([file], was)
    assert aside.replay(database, file) == Replayed(written=1)


def test_there_must_be_a_ledger_and_a_file(tmp_path: Path, database: str) -> None:
    with pytest.raises(ConfigError, match="no ledger"):
        aside.replay(f"sqlite:///{tmp_path}/none.db", tmp_path / "refused-x")
    Store.open(database).close()
    with pytest.raises(ConfigError, match="cannot be read"):
        aside.replay(database, tmp_path / "refused-x")


def test_old_files_are_removed_by_their_age_and_only_this_ledgers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    for name, age in (
        ("refused-ledger.db.spool-1", 0),
        ("damaged-ledger.db.spool-2", 9),
        ("refused-ledger.db.spool-3", 9),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (NOON - age, NOON - age))
    (tmp_path / "refused-other-ledger.db.spool-4").touch()
    os.utime(tmp_path / "refused-other-ledger.db.spool-4", (0, 0))
    assert aside.prune(url, None, NOON - 5) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "refused-ledger.db.spool-1",
        "refused-other-ledger.db.spool-4",
    ]
    assert aside.prune("sqlite://", None, NOON) == 0
