"""Reading: the ledger's database, looked at by somebody who is not a gateway. Nothing is made, joined or recovered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, exc, make_url

from gateway.errors import ConfigError
from gateway.ledger import migrate
from gateway.ledger.engines import LOCK_WAIT
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.store import OPENING
from gateway.ledger.totals import read


def read_savings(url: str, query: Query) -> list[SavingsRow]:
    """What `Ledger.savings` answers, from outside; a gateway may be writing meanwhile.

    Raises `ConfigError` when there is no ledger at `url`, or one of another version.
    """
    with ledger_at(url) as connection:
        return [sums.row(group) for group, sums in read(connection, query).items()]


@contextmanager
def ledger_at(url: str, *, for_writing: bool = False) -> Iterator[Connection]:
    """A transaction on the ledger at `url`, of one moment; `for_writing`: what is not committed is given back.

    Raises `ConfigError` when there is no ledger at `url`, or one of another version.
    """
    where = _parsed(url)
    if in_memory(url):
        raise ConfigError(
            "ledger.url keeps accounts in the memory of the gateway; ask the running one: --url http://127.0.0.1:8080"
        )
    if where.get_backend_name() == "sqlite" and not _file(where).is_file():
        raise ConfigError(f"there is no ledger at {_shown(where)} yet; it begins when the gateway first runs")
    with _looking(where, for_writing=for_writing) as connection:
        step = migrate.current(connection)
        if step != migrate.HEAD:
            has = "no ledger in it" if step is None else f"version {step} of the ledger, and this is {migrate.HEAD}"
            raise ConfigError(f"{_shown(where)} has {has}; the gateway brings it up to date when it starts")
        yield connection


@contextmanager
def peek(url: str) -> Iterator[Connection | None]:
    """A transaction in which nothing is written; None where there is no ledger of this version that can be looked at.

    Raises `ConfigError` when the database cannot be used.
    """
    if in_memory(url) or not exists(url):
        yield None
        return
    with _looking(_parsed(url)) as connection:
        yield connection if migrate.current(connection) == migrate.HEAD else None


def check_writable(url: str) -> str:
    """Says in words what a gateway would find at `url`. Raises `ConfigError` when it could not keep accounts there."""
    where = _parsed(url)
    if in_memory(url):
        return "kept in memory, gone when the gateway stops"
    if where.get_backend_name() == "sqlite" and not _file(where).exists():
        folder = next(parent for parent in _file(where).absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"{_shown(where)} cannot be made: {folder} is not a folder that can be written to")
        return f"{_shown(where)} does not exist yet and can be made"
    with _looking(where, for_writing=True) as connection:
        step = migrate.current(connection)
    if step is None:
        return f"{_shown(where)} is there, and has no ledger in it yet"
    return f"{_shown(where)} is there, version {step}" + ("" if step == migrate.HEAD else f"; {migrate.HEAD} is next")


def exists(url: str) -> bool:
    """False when the ledger is a file that has not been made yet."""
    where = _parsed(url)
    return where.get_backend_name() != "sqlite" or _file(where).is_file()


def in_memory(url: str) -> bool:
    """True when nobody but the gateway itself can see the ledger."""
    where = _parsed(url)
    return where.get_backend_name() == "sqlite" and where.database in (None, "", ":memory:")


def _parsed(url: str) -> URL:
    try:
        where = make_url(url)
        backend = where.get_backend_name()
    except exc.ArgumentError as error:
        raise ConfigError(f"ledger.url: {error}") from error
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"ledger.url: {backend} is not supported, only sqlite and postgresql")
    return where


@contextmanager
def _looking(where: URL, *, for_writing: bool = False) -> Iterator[Connection]:
    """A transaction in which nothing is written; `for_writing`: it takes a writer's lock and gives it back."""
    sqlite = where.get_backend_name() == "sqlite"
    try:
        engine = create_engine(where.set(database=str(_file(where))) if sqlite else where)
    except (exc.ArgumentError, ImportError) as error:
        raise ConfigError(f"ledger.url: {error}") from error
    if sqlite:

        @event.listens_for(engine, "connect")
        def connected(dbapi: Any, record: object) -> None:
            dbapi.isolation_level = None  # we say BEGIN ourselves
            dbapi.execute(f"PRAGMA busy_timeout={(OPENING if for_writing else LOCK_WAIT) * 1000:.0f}")
            if not for_writing:
                # Not the open mode "ro": that one fails where the files beside the database are not there yet.
                dbapi.execute("PRAGMA query_only=ON")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if for_writing else "BEGIN")

    try:
        with engine.connect() as connection:
            if not (sqlite or for_writing):
                connection.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
            yield connection
    except exc.DBAPIError as error:
        raise ConfigError(f"the ledger {_shown(where)} cannot be used: {error.orig}") from error
    finally:
        engine.dispose()


def _file(where: URL) -> Path:
    return Path(str(where.database)).expanduser()


def _shown(where: URL) -> str:
    return where.render_as_string(hide_password=True)
