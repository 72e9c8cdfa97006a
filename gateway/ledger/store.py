"""The ledger's database: one transaction a method, blocking; no threads and no queues.

SQLAlchemy Core over SQLite or PostgreSQL. The statements on the path of every request are compiled once and given
to the driver with rows that are tuples already; everything else is ordinary Core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cache
from threading import Lock
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Dialect,
    Engine,
    delete,
    exc,
    insert,
    literal_column,
    make_url,
    not_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import StaticPool

from gateway.cascade.kept import Kept
from gateway.errors import ConfigError
from gateway.ledger import charges, drafted, migrate, rollup, savings, scores
from gateway.ledger.engines import Synchronous, on_postgresql, on_sqlite
from gateway.ledger.entry import LengthKey, Listed, Made, Query, SavingsRow, Source, Timed, Traffic, shadow_id
from gateway.ledger.measure import lengths, measure
from gateway.ledger.newest import newest
from gateway.ledger.recovery import Process, recover
from gateway.ledger.rows import Intent, Row, Settlement, call_data, entry_data, stays
from gateway.ledger.schema import INTENDED, calls, corrections, entries, measurements, runs
from gateway.ledger.sums import Brief, Sums
from gateway.ledger.telling import Telling
from gateway.ledger.totals import brief, names, read
from pricing.length_ratio import Pairs

READING = 60.0
"""Seconds that a statement may take which reads, or which settles what dead runs left open."""

OPENING = 10.0
"""Seconds to go on trying to open a database that others keep locked."""

LISTED = tuple(entries.c[name] for name in Listed._fields)

FIXED = {"request_id", "id", "run", "stage", "seat", "asked", "route", "strategy", "caller"}
"""What a call knows when it is intended, and settling does not change."""

_UPGRADE_LOCK = 0x676B74  # any number that no other application on the same PostgreSQL takes


class Store:
    """An open database. Any thread may call any method. `close` it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writes = engine.execution_options(writes=True)
        # All threads share the one connection of a database in memory, and so its transaction.
        shared = isinstance(engine.pool, StaticPool)
        self._gate: AbstractContextManager[Any] = Lock() if shared else nullcontext()
        self._dbapi = engine.dialect.loaded_dbapi
        self._telling = Telling()
        kind: Callable[..., Dialect] = type(engine.dialect)
        self._intend, self._settle_calls, self._settle_entries, self._add = _compiled(kind, engine.dialect.paramstyle)

    @classmethod
    def open(cls, url: str, synchronous: Synchronous = "normal") -> Store:
        """Open `sqlite:///path`, `sqlite://` (in memory) or `postgresql+psycopg://...`, and bring it up to date.

        `synchronous` is SQLite's: with `full`, a commit is on disk when it returns, and outlives a loss of power.
        The folder of an SQLite file is made when it is missing. Raises `ConfigError` when it cannot be used.
        """
        try:
            where = make_url(url)
            engine = on_sqlite(where, synchronous) if where.get_backend_name() == "sqlite" else on_postgresql(where)
        except (exc.ArgumentError, ImportError, OSError) as error:
            raise ConfigError(f"the ledger cannot be opened: {error}") from error
        until = time.monotonic() + OPENING
        while True:
            try:
                store = cls(engine)
                store._upgrade()
            except exc.DBAPIError as error:
                if isinstance(error, exc.OperationalError) and "locked" in str(error) and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                engine.dispose()
                shown = where.render_as_string(hide_password=True)
                raise ConfigError(f"the ledger {shown} cannot be opened: {error.orig}") from error
            except BaseException:
                engine.dispose()
                raise
            return store

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def join(self, now: float) -> int:
        """Begin the run of this process; its id."""
        me = Process.mine()
        values = {"host": me.host, "pid": me.pid, "process_start": me.start, "heartbeat": now}
        with self._begin(write=True) as connection:
            made = connection.execute(insert(runs).values(values)).inserted_primary_key
        if made is None:
            raise RuntimeError("the database did not say which row it inserted")
        return int(made[0])

    def beat(self, run: int, now: float) -> None:
        """Say that `run` is alive, whatever another process may have thought of it."""
        with self._begin(write=True) as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(heartbeat=now, ended=None))

    def leave(self, run: int, now: float) -> None:
        """End `run` in order."""
        with self._begin(write=True) as connection:
            connection.execute(update(runs).where(runs.c.id == run).values(heartbeat=now, ended=now))

    def recover(self, run: int, now: float) -> int:
        """Settle at its bound what dead runs left open; the number of calls."""
        with self._begin(write=True) as connection:
            self._limit(connection, "statement_timeout", READING)
            return recover(connection, run, now)

    def write(self, batch: Sequence[Intent | Settlement]) -> None:
        """Write all of `batch` in one transaction, or nothing. What is on record already is left as it is.

        An entry that was `recovered` gives way: its process lives after all, and knows the truth.
        """
        intents = [item.call for item in batch if isinstance(item, Intent)]
        settled: dict[str, Settlement] = {}
        for item in batch:
            if isinstance(item, Settlement):
                settled.setdefault(item.request_id, item)
        replacing = False
        while not self._commit(intents, settled, replacing=replacing):
            for request_id in self._known(settled):
                del settled[request_id]
            replacing = True

    def _commit(self, intents: list[Row], settled: Mapping[str, Settlement], *, replacing: bool) -> bool:
        """Write in one transaction; False, and nothing is written, when an entry is on record already.

        `replacing`: entries that were `recovered` are taken out first. On the driver itself: Core's bookkeeping costs
        three times what SQLite needs for a small transaction.
        """
        if replacing or any(item.measures for item in settled.values()):
            return self._commit_measuring(intents, settled)
        with self._gate, closing(self._engine.raw_connection()) as raw:
            try:
                cursor = raw.cursor()
                if self._engine.dialect.name == "sqlite":
                    cursor.execute("BEGIN IMMEDIATE")
                if not self._put(cursor, intents, settled):
                    return False
                if settled:
                    cursor.execute(self._add, (rollup.ids(self._engine.dialect.name, list(settled)),))
                raw.commit()
            except self._dbapi.Error as error:
                if self._engine.dialect.is_disconnect(error, raw.driver_connection, None):
                    raw.invalidate(error)
                raise
        return True

    def _commit_measuring(self, intents: list[Row], settled: Mapping[str, Settlement]) -> bool:
        """The same where shadows are among them, or entries that may give way, with what follows from these.

        They are few. Who changes what is on record locks all of its entries first, in order, and changes the rollups
        last and at once (see `rollup.hold` for the exception): nobody waits in a circle.
        """
        shadows = {name: str(item.shadow_of) for name, item in settled.items() if item.measures}
        with self._begin(write=True) as connection:
            ids = rollup.ids(connection.dialect.name, [*settled, *shadows.values()])
            there = select(entries.c.request_id).where(rollup.named(connection.dialect.name, ids))
            connection.execute(there.order_by(entries.c.request_id).with_for_update())
            withdrawn = self._withdraw(connection, settled)
            if not self._put(connection.connection.cursor(), intents, settled):
                connection.rollback()
                return False
            found = measure(connection, [*shadows, *map(shadow_id, withdrawn)])
            rollup.correct(connection, found, list(settled))
        return True

    def _put(self, cursor: Any, intents: list[Row], settled: Mapping[str, Settlement]) -> bool:
        """Write within the transaction that `cursor` is in; False when an entry is on record already."""
        new = [item.entry for item in settled.values()]
        made = [row for item in settled.values() for row in item.calls]
        if intents:
            cursor.executemany(self._intend, intents)
        if new:
            cursor.executemany(self._settle_entries, new)
            if cursor.rowcount < len(new):
                return False
        if made:
            cursor.executemany(self._settle_calls, made)
        return True

    def _withdraw(self, connection: Connection, settled: Mapping[str, Settlement]) -> list[str]:
        """Remove those of the entries that are `recovered`, and their part of the rollups; their names."""
        dialect = connection.dialect.name
        named = rollup.named(dialect, rollup.ids(dialect, list(settled)))
        gives_way = select(entries.c.request_id).where(named, entries.c.outcome == "recovered").with_for_update()
        names = list(connection.scalars(gives_way))
        if names:
            rollup.hold(connection)
            rollup.add(connection, names, -1)
            connection.execute(delete(entries).where(rollup.named(dialect, rollup.ids(dialect, names))))
        return names

    def _known(self, settled: Mapping[str, Settlement]) -> list[str]:
        final = (entries.c.request_id.in_(settled), entries.c.outcome != "recovered")
        with self._begin() as connection:
            return list(connection.scalars(select(entries.c.request_id).where(*final)))

    def transient(self, error: BaseException) -> bool:
        """Whether a failed write may succeed when it is tried again: the database is at fault, not the rows."""
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if not isinstance(cause, self._dbapi.Error):
            return isinstance(cause, (OSError, exc.TimeoutError))
        db = self._dbapi
        about_rows = isinstance(cause, (db.IntegrityError, db.DataError, db.ProgrammingError, db.InterfaceError))
        return not about_rows or self._engine.dialect.is_disconnect(cause, None, None)

    def entry(self, request_id: str) -> dict[str, Any] | None:
        """One entry with its calls in the order in which they began, its corrections, scores and shadow; or None.

        Plain data. `shadow` is the entry of its measurement with what it `measured`; None: there is none (yet).
        """
        found = self._entry(request_id)
        if found is not None:
            shadow = self._entry(shadow_id(request_id))
            found["shadow"] = shadow and {**shadow, "measured": self._measured(request_id)}
            with self._begin() as connection:
                found["scores"] = scores.of(connection, request_id)
        return found

    def _measured(self, request_id: str) -> dict[str, Any] | None:
        wanted = select(measurements).where(measurements.c.request_id == request_id)
        with self._begin() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None:
            return None
        return {**row, "price": None if row["price"] is None else orjson.loads(row["price"])}

    def _entry(self, request_id: str) -> dict[str, Any] | None:
        of_corrections = (
            select(corrections).where(corrections.c.request_id == request_id).order_by(corrections.c.number)
        )
        of_request = select(calls).where(calls.c.request_id == request_id).order_by(calls.c.started, calls.c.id)
        with self._begin() as connection:
            row = connection.execute(select(entries).where(entries.c.request_id == request_id)).mappings().first()
            made = connection.execute(of_request).mappings().all() if row else []
            later = connection.execute(of_corrections).mappings().all() if row else []
        if row is None:
            return None
        told = [
            {
                "made": each["made"],
                "calls": orjson.loads(each["calls"]),
                "baseline": each["baseline"] and orjson.loads(each["baseline"]),
            }
            for each in later
        ]
        return {**entry_data(row), "calls": [call_data(call) for call in made], "corrections": told}

    def entries(self, query: Query, limit: int, before: tuple[float, str] | None = None) -> list[dict[str, Any]]:
        """The newest `limit` requests that `query` wants, older than `before`, without their calls or measurements."""
        with self._begin() as connection:
            return [entry_data(row._mapping) for row in newest(connection, query, limit, before)]

    def listed(self, query: Query, limit: int, before: tuple[float, str] | None = None) -> list[Listed]:
        """The same, as far as a list of many has room for it."""
        with self._begin() as connection:
            return [Listed._make(row) for row in newest(connection, query, limit, before, LISTED)]

    def calls(self, query: Query, limit: int) -> list[Made]:
        """The settled calls of the newest `limit` entries that `query` wants."""
        of = select(entries.c.request_id).where(*savings.wanted(query))
        latest = of.order_by(entries.c.at.desc(), entries.c.request_id.desc()).limit(limit)
        with self._begin() as connection:
            # In two steps: joined, SQLite reads all calls there are and looks for their entries.
            which = rollup.ids(connection.dialect.name, list(connection.scalars(latest)))
            made = select(*(calls.c[name] for name in Made._fields))
            made = made.where(rollup.named(connection.dialect.name, which, calls), not_(calls.c.is_open))
            return [Made._make(row) for row in connection.execute(made)]

    def timed(self, upstream: str, since: float | None, until: float | None, limit: int) -> list[Timed]:
        """The newest `limit` settled calls to `upstream` that began in a range of time, newest first."""
        at = calls.c.started
        limits = [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]
        told = (at, calls.c.duration, calls.c.amount, calls.c.seconds, calls.c.machines)
        made = select(*told).where(calls.c.upstream == upstream, *limits)
        latest = made.where(not_(calls.c.is_open)).order_by(at.desc()).limit(limit)
        with self._begin() as connection:
            return [
                Timed(started, duration, amount, seconds, stays(ran, started))
                for started, duration, amount, seconds, ran in connection.execute(latest)
            ]

    def sums(self, query: Query) -> dict[str, Sums]:
        """Sums of the entries by their group, in its order."""
        with self._begin() as connection:
            return read(connection, query)

    def brief(self, query: Query) -> dict[str, Brief]:
        """A few of the measures by group, in no order."""
        with self._begin() as connection:
            return brief(connection, query)

    def savings(self, query: Query) -> list[SavingsRow]:
        """The same as rows."""
        return [sums.row(group) for group, sums in self.sums(query).items()]

    def names(self, query: Query, limit: int) -> list[str]:
        """The groups of `query` that most requests are of, at most so many, in the order of their names."""
        with self._begin() as connection:
            return names(connection, query, limit)

    def kept_from(self) -> float:
        """The moment from which on no entry was pruned, in seconds since the epoch; 0: none was."""
        with self._begin() as connection:
            return float(rollup.kept_from(connection) * savings.HOUR)

    def climbed(self, route: str, since: float, limit: int) -> list[list[Kept]]:
        """The drafts of the newest requests that a route's cascade answered."""
        with self.transaction() as connection:
            return drafted.climbed(connection, route, since, limit)

    def lengths(self, since: float) -> dict[LengthKey, Pairs]:
        """Sums over the lengths of the answers that were measured from `since` on."""
        with self._begin() as connection:
            return lengths(connection, since)

    def score(self, request_id: str, source: Source, value: float, label: str | None) -> None:
        """Put a score on record, in place of an earlier one of the same source."""
        with self._begin(write=True) as connection:
            scores.put(connection, request_id, source, value, label)

    def observed(self, since: float | None, until: float | None) -> tuple[dict[str, Traffic], bool]:
        """See `Telling.observed`."""
        with self._begin() as connection:
            return self._telling.observed(connection, since, until)

    def charge(self, late: Sequence[str], now: float) -> None:
        """Put what is on record of these requests in the place of what recovery counted for them."""
        with self._begin(write=True) as connection:
            charges.settle(connection, now, late=late)

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        """A transaction for those who keep tables of their own in this database (`gateway.keys`)."""
        return self._begin(write=write)

    @contextmanager
    def _begin(self, *, write: bool = False) -> Iterator[Connection]:
        with self._gate, (self._writes if write else self._engine).begin() as connection:
            if not write:
                self._limit(connection, "statement_timeout", READING)
            yield connection

    def _limit(self, connection: Connection, name: str, seconds: float) -> None:
        """Set a limit of PostgreSQL's for the transaction; 0: none. Connections have those of who writes a request."""
        if self._engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL {name} = {seconds * 1000:.0f}")

    def _upgrade(self) -> None:
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                # Outside a transaction, and kept by the file: readers and the writer do not wait for each other.
                connection.connection.cursor().execute("PRAGMA journal_mode=WAL")
        with self._begin(write=True) as connection:
            if self._engine.dialect.name == "postgresql":
                for limit in ("lock_timeout", "statement_timeout"):  # another process may be at it for long
                    self._limit(connection, limit, 0)
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
            migrate.upgrade(connection)


@cache
def _compiled(kind: Callable[..., Dialect], style: str) -> tuple[str, str, str, str]:
    """`statements` and `rollup_statement`: compiled once a process, for they are alike on all databases of a kind."""
    dialect = kind(paramstyle=style)
    return *statements(dialect), rollup_statement(dialect)


def statements(dialect: Dialect) -> tuple[str, str, str]:
    """Inserts of whole rows, in the order of their columns: of an open call, of a settled call, of an entry."""
    into = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
    call, entry = into(calls), into(entries)
    open_call = call.on_conflict_do_nothing()
    closed = {column.name: call.excluded[column.name] for column in calls.columns if column.name not in FIXED}
    settled_call = call.on_conflict_do_update(index_elements=["request_id", "id"], set_=closed)
    return (
        str(open_call.compile(dialect=dialect, column_keys=INTENDED)),
        str(settled_call.compile(dialect=dialect)),
        str(entry.on_conflict_do_nothing().compile(dialect=dialect)),
    )


def rollup_statement(dialect: Dialect) -> str:
    """What adds entries to the rollups."""
    added = rollup.added(dialect.name, literal_column(":ids"))
    told = str(added.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    return told.replace(":ids", "?" if dialect.name == "sqlite" else "%s")
