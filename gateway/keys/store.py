"""The keys in the ledger's database: one transaction a method, blocking."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from gateway.allowance import BudgetSpec
from gateway.errors import BadRequest, ConfigError, NotFound
from gateway.keys.key import HINT, Grant, Held, Key, Secret, digest, new_secret
from gateway.ledger import reading
from gateway.ledger.schema import key_secrets, keys
from gateway.ledger.store import Store

log = structlog.get_logger(__name__)

LISTS = ("tags", "models", "strategies", "overrides", "budgets")
"""The columns that hold JSON."""

LATEST = 253_402_300_799.0
"""The last second of the year 9999: later moments cannot be told to anybody."""


class KeyStore:
    """Keeps keys. Any thread may call any method; whoever opened `store` closes it.

    A secret is returned by the method that makes it, once; the database holds its digest. Keys are never deleted, so
    that accounts can always tell whose they are.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._last: tuple[int, list[Key]] = (-1, [])

    @property
    def kept_in(self) -> Store:
        """The database that the keys are in, and the accounts of who uses them."""
        return self._store

    def create(self, grant: Grant) -> tuple[Key, str]:
        """A new key and its secret. Raises `BadRequest` when it would have expired already."""
        now = self._clock()
        if grant.expires_at is not None and not now < grant.expires_at <= LATEST:
            raise BadRequest("Invalid 'expires_at': expected a moment in the future.", param="expires_at")
        made = f"key_{secrets.token_hex(8)}"
        row = {name: _json(value) if name in LISTS else value for name, value in grant.model_dump().items()}
        with self._store.transaction(write=True) as connection:
            connection.execute(insert(keys).values(**row, id=made, created_at=now, version=1))
            secret = _add_secret(connection, made, now)
            return _one(connection, made), secret

    def all(self) -> list[Key]:
        """Every key there ever was, oldest first.

        Those of the last time, where none has changed since: whoever reads thousands for a page asks one number.
        """
        with self._store.transaction() as connection:
            # The number first: a change in between is then read twice rather than never.
            version = _version(connection)
            last, found = self._last
            if version != last:
                found = _read(connection)
                self._last = version, found
            return list(found)

    def get(self, key_id: str) -> Key:
        """Raises `NotFound`."""
        with self._store.transaction() as connection:
            return _one(connection, key_id)

    def revoke(self, key_id: str) -> Key:
        """Close a key for good; one that is revoked already stays as it is. Raises `NotFound`."""
        with self._store.transaction(write=True) as connection:
            key = _one(connection, key_id)
            if key.revoked_at is not None:
                return key
            _change(connection, key_id, revoked_at=self._clock())
            return _one(connection, key_id)

    def rotate(self, key_id: str, grace: float = 0.0) -> tuple[Key, str]:
        """The key with a new secret; the secrets before it are valid for `grace` more seconds, if they were.

        Raises `NotFound`, or `BadRequest` for a key that is revoked or expired: a new secret would not open it.
        """
        with self._store.transaction(write=True) as connection:
            # Its own update first: the row is locked, and two rotations at once come one after the other.
            _change(connection, key_id)
            now = self._clock()
            status = _one(connection, key_id).status(now)
            if status != "active":
                raise BadRequest(f"The key '{key_id}' is {status}; make a new one.", param="id", code=f"key_{status}")
            ends, until = now + grace, key_secrets.c.valid_until
            old = (key_secrets.c.key_id == key_id, or_(until.is_(None), until > ends))
            connection.execute(update(key_secrets).where(*old).values(valid_until=ends))
            secret = _add_secret(connection, key_id, now)
            return _one(connection, key_id), secret

    def version(self) -> int:
        """Another number after every change, whoever made it; no clock is asked."""
        with self._store.transaction() as connection:
            return _version(connection)

    def held(self) -> dict[bytes, Held]:
        """Every secret by its digest, those too that open nothing any more: their holders are told why."""
        with self._store.transaction() as connection:
            known = {key.id: key for key in _read(connection)}
            for key in known.values():
                if not key.understood:
                    log.error("a key's limits or budgets cannot be read: it may spend nothing", key=key.id)
            found = connection.execute(select(key_secrets.c.digest, key_secrets.c.key_id, key_secrets.c.valid_until))
            callers = {key.id: key.caller for key in known.values()}
            return {
                (hashed := bytes.fromhex(text)): Held(hashed, callers[key_id], known[key_id], until)
                for text, key_id, until in found
                if key_id in known
            }


def usable_at(url: str, now: float) -> int:
    """How many keys in the database at `url` open a gateway at `now`. Looks only; 0 where there is no such ledger."""
    live = (keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now))
    with reading.peek(url) as connection:
        return 0 if connection is None else connection.scalar(select(func.count()).where(*live)) or 0


def opened(url: str, *, make: bool = False) -> Store:
    """The ledger's database for a command that keeps keys in it. Close it. `make`: it may be made.

    Raises `ConfigError` where there is none, or none that another process can see.
    """
    if reading.in_memory(url):
        raise ConfigError(
            "ledger.url keeps keys in the memory of the gateway: ask the running one, POST /gkt/v1/keys, or choose a "
            "ledger that lasts"
        )
    if not make and not reading.exists(url):
        raise ConfigError("there is no ledger yet, and so there are no keys; make the first: gkt keys create NAME")
    return Store.open(url)


def _add_secret(connection: Connection, key_id: str, now: float) -> str:
    secret = new_secret()
    row = {"digest": digest(secret).hex(), "key_id": key_id, "hint": secret[:HINT], "created_at": now}
    connection.execute(insert(key_secrets).values(row))
    return secret


def _change(connection: Connection, key_id: str, **values: Any) -> None:
    changed = update(keys).where(keys.c.id == key_id).values(**values, version=keys.c.version + 1)
    if not connection.execute(changed).rowcount:
        raise _unknown(key_id)


def _one(connection: Connection, key_id: str) -> Key:
    found = _read(connection, key_id)
    if not found:
        raise _unknown(key_id)
    return found[0]


def _version(connection: Connection) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(keys.c.version), 0))) or 0)


def _read(connection: Connection, key_id: str | None = None) -> list[Key]:
    both = select(keys, key_secrets.c.hint, key_secrets.c.created_at.label("made"), key_secrets.c.valid_until)
    both = both.join(key_secrets).order_by(keys.c.created_at, keys.c.id, key_secrets.c.created_at)
    if key_id is not None:
        both = both.where(keys.c.id == key_id)
    return [_key(rows) for _, rows in groupby(connection.execute(both), key=lambda row: row.id)]


def _key(rows: Iterable[Row[Any]]) -> Key:
    all_rows = list(rows)
    first = all_rows[0]._mapping
    fields: dict[str, Any] = {column.name: first[column.name] for column in keys.columns if column.name != "version"}
    fields |= {name: _parsed(fields[name]) for name in LISTS}
    if fields["budgets"] is not None:
        fields["budgets"] = tuple(map(_budget, fields["budgets"]))
    made = tuple(Secret(hint=row.hint, created_at=row.made, valid_until=row.valid_until) for row in all_rows)
    # As it was written, without checks: what another version has put there must not keep this one from its keys.
    return Key.model_construct(None, **fields, secrets=made)


def _budget(said: Any) -> BudgetSpec:
    known = said if isinstance(said, dict) else {}
    fields: dict[str, Any] = {name: str(known.get(name)) for name in BudgetSpec.model_fields}
    return BudgetSpec.model_construct(None, **fields)


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _parsed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(orjson.loads(text))


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"No key has the id '{key_id[:64]}'.", param="id", code="key_not_found")
