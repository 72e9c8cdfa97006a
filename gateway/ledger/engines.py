"""Engines: connections to SQLite or PostgreSQL as the ledger wants them: none waits for long."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import StaticPool

LOCK_WAIT = 1.0
"""Seconds that the database waits for a lock that somebody else holds before it says so."""

STATEMENT = 2.0
"""Seconds that a statement which writes may take on PostgreSQL; its rows go to disk then, and are tried again."""

SILENCE = {"connect_timeout": 3, "tcp_user_timeout": 5_000}
"""Seconds and milliseconds of silence after which PostgreSQL counts as down; of all these the URL may say otherwise."""

Synchronous = Literal["normal", "full"]
"""How far SQLite waits for the disk; see `Store.open`."""


def on_sqlite(url: URL, synchronous: str) -> Engine:
    """Of a file or in memory, whose connections begin transactions themselves."""
    if url.database in (None, "", ":memory:"):
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        path = Path(str(url.database)).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url.set(database=str(path)))

    @event.listens_for(engine, "connect")
    def connected(dbapi: Any, record: object) -> None:
        dbapi.isolation_level = None  # we say BEGIN ourselves
        for pragma in (f"busy_timeout={LOCK_WAIT * 1000:.0f}", f"synchronous={synchronous}", "foreign_keys=ON"):
            dbapi.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: one that reads first and then writes cannot wait, it can only fail.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def on_postgresql(url: URL) -> Engine:
    """Whose connections give up a database that is silent or locked. Raises `ArgumentError` for any other kind."""
    if url.get_backend_name() != "postgresql":
        raise exc.ArgumentError(f"{url.get_backend_name()} is not supported, only sqlite and postgresql")
    silence = {name: value for name, value in SILENCE.items() if name not in url.query}
    # Positional parameters, so that one row is one tuple for both databases.
    engine = create_engine(url, paramstyle="format", pool_pre_ping=True, connect_args=silence)
    limits = {"lock_timeout": LOCK_WAIT, "statement_timeout": STATEMENT}
    asked = str(url.query.get("options", ""))

    @event.listens_for(engine, "connect")
    def connected(dbapi: Any, record: object) -> None:
        # Said once a connection, and not in the options of its start, which poolers in between do not pass on.
        for name, seconds in limits.items():
            if name not in asked:
                dbapi.execute(f"SET {name} = {seconds * 1000:.0f}")
        dbapi.commit()

    return engine
