"""Opening a database, its shape, and what is said to it."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, create_engine, func, insert, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.errors import BadRequest, ConfigError
from gateway.ledger import migrate, rollup, savings
from gateway.ledger.entry import Query
from gateway.ledger.schema import (
    INTENDED,
    MEASURES,
    calls,
    ended_sessions,
    entries,
    keys,
    metadata,
    refusals,
    rollups,
    scores,
)
from gateway.ledger.store import Store, rollup_statement, statements
from tests.conftest import Children


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as made:
        yield made
    engine.dispose()


def shape(connection: Connection) -> dict[str, set[str]]:
    """Every table and index of the database as the parts of its SQL, whatever their order and spacing."""
    found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {str(name): set(re.split(r",\s*|\(|\)", " ".join(str(sql).split()))) for name, sql in found}


def test_new_and_upgraded_databases_are_what_the_schema_says(connection: Connection) -> None:
    assert migrate.current(connection) is None
    migrate.upgrade(connection)
    assert migrate.current(connection) == migrate.HEAD
    assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    new = shape(connection)
    old = create_engine("sqlite://")
    with old.begin() as upgraded:
        command.upgrade(migrate.config(upgraded), "head")
        assert migrate.current(upgraded) == migrate.HEAD
        assert compare_metadata(MigrationContext.configure(upgraded), metadata) == []
        stepped = shape(upgraded)
    old.dispose()
    for made in (new, stepped):
        made.pop("alembic_version")
    assert new == stepped


def test_the_comparison_can_fail(connection: Connection) -> None:
    migrate.upgrade(connection)
    connection.exec_driver_sql("ALTER TABLE entries DROP COLUMN error")
    assert compare_metadata(MigrationContext.configure(connection), metadata) != []


def test_an_older_database_gets_the_steps_that_it_lacks(connection: Connection) -> None:
    # There is no older step than the first: a database that knows of none has only Alembic's own table.
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    migrate.upgrade(connection)
    assert migrate.current(connection) == migrate.HEAD
    assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_ledger_of_the_first_version_keeps_its_entries_and_gets_keys(connection: Connection) -> None:
    command.upgrade(migrate.config(connection), "0001")
    there = {column["name"] for column in inspect(connection).get_columns("entries")}
    row = {column.name: None if column.nullable else 0 for column in entries.columns if column.name in there}
    connection.execute(insert(entries).values(row | {"request_id": "old", "caller": "alice"}))
    assert not inspect(connection).has_table("keys")
    migrate.upgrade(connection)
    assert migrate.current(connection) == migrate.HEAD
    assert connection.execute(select(entries.c.request_id, entries.c.caller)).all() == [("old", "alice")]
    assert connection.execute(select(keys)).all() == []


def test_a_ledger_without_drafts_has_none_of_its_old_entries(connection: Connection) -> None:
    command.upgrade(migrate.config(connection), "0009")
    there = {column["name"] for column in inspect(connection).get_columns("entries")}
    assert {"drafts", "shadow_drawn"}.isdisjoint(there)
    row = {column.name: None if column.nullable else 0 for column in entries.columns if column.name in there}
    connection.execute(insert(entries).values(row | {"request_id": "old", "caller": "alice", "shadow_propensity": 0.5}))
    migrate.upgrade(connection)
    found = select(entries.c.request_id, entries.c.shadow_propensity, entries.c.shadow_drawn, entries.c.drafts)
    assert connection.execute(found).all() == [("old", 0.5, None, None)]


def test_a_ledger_without_machines_keeps_its_calls(connection: Connection) -> None:
    command.upgrade(migrate.config(connection), "0010")
    there = {column["name"] for column in inspect(connection).get_columns("calls")}
    assert "machines" not in there
    assert not inspect(connection).has_table("refusals")
    row = {column.name: None if column.nullable else 0 for column in calls.columns if column.name in there}
    connection.execute(insert(calls).values(row | {"request_id": "old", "id": "old/0", "seconds": 1.5}))
    migrate.upgrade(connection)
    assert connection.execute(select(calls.c.seconds, calls.c.machines)).all() == [(1.5, None)]
    assert connection.execute(select(refusals)).all() == connection.execute(select(ended_sessions)).all() == []


def test_older_rollups_are_made_anew_and_scores_get_the_time_of_their_requests(connection: Connection) -> None:
    """Rows as step 0010 had them: two callers, two models and three days, with a stretch of 32 days at level 4."""
    command.upgrade(migrate.config(connection), "0010")
    there = {column["name"] for column in inspect(connection).get_columns("entries")}
    row = {column.name: None if column.nullable else 0 for column in entries.columns if column.name in there}
    names = {"route": "gkt", "strategy": "hint", "outcome": "ok", "spent": 7, "priced_spent": 7, "answer_spent": 7}
    told = [
        row | names | {"request_id": f"{n}", "at": at, "caller": f"key {n % 2}", "model": f"model {n % 3 % 2}"}
        for n, at in enumerate((1.0e9, 1.0e9 + 60, 1.0e9 + 7_200, 1.0e9 + 86_400, 1.0e9 + 40 * 86_400))
    ]
    connection.execute(insert(entries), told)
    kept = ", ".join(("hour", *rollup.KEYS[2:], *MEASURES))
    asked = ", ".join(f"sum({'priced_spent' if name in ('spent', 'answer') else '0'})" for name in MEASURES[1:])
    for level, hours in ((1, 1), (4, 768)):
        begin = f"CAST(at AS BIGINT) / 3600 / {hours} * {hours}"
        connection.exec_driver_sql(
            f"INSERT INTO rollups (level, {kept}) SELECT {level}, {begin}, caller, model, strategy, route, outcome, "
            f"'', count(*), {asked} FROM entries GROUP BY {begin}, caller, model"
        )
    score = {"source": "feedback", "made": 0.0, "value": 1.0}
    before = Table("scores", MetaData(), *(Column(name) for name in ("request_id", *score)))
    connection.execute(insert(before), [{"request_id": name, **score} for name in ("3", "gone")])
    migrate.upgrade(connection)
    assert rollup.differences(connection) == []
    levels = select(rollups.c.level, func.sum(rollups.c.requests)).group_by(rollups.c.level)
    assert connection.execute(levels).all() == [(level, 5) for level in range(1, 10)]
    found = connection.execute(select(scores.c.request_id, scores.c.at).order_by(scores.c.request_id)).all()
    assert found == [("3", 1.0e9 + 86_400), ("gone", None)]


def test_head_is_the_last_step(connection: Connection) -> None:
    assert ScriptDirectory.from_config(migrate.config(connection)).get_heads() == [migrate.HEAD]


def test_a_newer_database_is_refused(url: str) -> None:
    Store.open(url).close()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()
    with pytest.raises(ConfigError, match="9999"):
        Store.open(url)


def test_a_new_database_is_made_fast_and_without_alembic(tmp_path: Path, child: Children) -> None:
    code = (
        "import sys; from gateway.ledger.store import Store; Store.open(sys.argv[1]); print('alembic' in sys.modules)"
    )
    assert child(code, f"sqlite:///{tmp_path}/new.db").communicate()[0] == "False\n"
    times = []
    for n in range(3):
        began = time.process_time()
        Store.open(f"sqlite:///{tmp_path}/{n}.db").close()
        times.append(time.process_time() - began)
    assert min(times) < 0.15, times


def test_many_open_a_new_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store.open(url), range(8)))
    assert sorted(store.join(0.0) for store in stores) == list(range(1, 9))
    for store in stores:
        store.close()


def test_a_file_is_in_wal_mode_and_its_writes_are_safe(url: str) -> None:
    store = Store.open(url)
    with store._engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 1, 1, 1000]
    store.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://root@localhost/ledger", "mysql"),
        ("not a url", "cannot be opened"),
        ("sqlite:////proc/none/ledger.db", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_a_configuration_error(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Store.open(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk, bread, and so on\n" * 200)
    with pytest.raises(ConfigError, match="not a database"):
        Store.open(f"sqlite:///{tmp_path}/notes.txt")


def test_recovery_and_time_ranges_use_their_indexes(url: str) -> None:
    store = Store.open(url)
    plan = "EXPLAIN QUERY PLAN SELECT id FROM calls WHERE is_open = 1 AND run IN (1, 2)"
    ranged = savings.from_entries(Query(since=1.0, by="day")).compile(
        dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
    )
    with store._engine.connect() as connection:
        assert "ix_calls_open" in str(connection.exec_driver_sql(plan).all())
        assert "ix_entries_at" in str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {ranged}").all())
    store.close()


def test_stores_share_their_statements_and_they_are_those_of_the_database(database: str) -> None:
    first, second = Store.open(database), Store.open(database)
    dialect = first._engine.dialect
    assert (first._intend, first._settle_calls, first._settle_entries) == statements(dialect)
    assert first._add == rollup_statement(dialect)
    assert first._add is second._add
    first.close()
    second.close()


def test_every_statement_exists_for_postgresql() -> None:
    dialect = postgresql.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    intend, settle_call, settle_entry = statements(dialect)
    assert intend.count("%s") == len(INTENDED)
    assert settle_call.count("%s") == len(calls.columns)
    assert settle_entry.count("%s") == len(entries.columns)
    assert "ON CONFLICT DO NOTHING" in settle_entry
    statement = rollup_statement(dialect)
    assert statement.count("%s") == statement.count("%") == 1
    for by in (None, *savings.GROUPS):
        assert "GROUP BY" in str(savings.from_entries(Query(by=by, since=0.0)).compile(dialect=dialect))
    for table in metadata.sorted_tables:
        amounts = "BIGINT" in str(CreateTable(table).compile(dialect=dialect))
        assert amounts or table.name in ("runs", "keys", "key_secrets", "scores", "ended_sessions")
        for index in table.indexes:
            assert "CREATE INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_grouping_by_something_else_names_what_there_is() -> None:
    with pytest.raises(BadRequest, match="day, model, strategy, caller"):
        savings.from_entries(Query(by="weather"))
