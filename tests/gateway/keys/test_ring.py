"""The keys in memory: changed here they hold at once, changed elsewhere soon, and without a database still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import exc
from structlog.testing import capture_logs

from gateway.errors import Busy, NotFound
from gateway.keys.key import Grant, Held, digest
from gateway.keys.ring import Keyring
from gateway.keys.store import KeyStore
from gateway.ledger.store import Store

pytestmark = pytest.mark.anyio


class Failing(KeyStore):
    """A store whose database can be switched off, and made to wait."""

    broken = False
    reads = 0
    gate: threading.Event | None = None

    def version(self) -> int:
        if self.broken:
            raise exc.OperationalError("SELECT", {"digest": "s3cret"}, OSError("gone"))
        return super().version()

    def held(self) -> dict[bytes, Held]:
        self.reads += 1
        found = super().held()
        if self.gate is not None:
            assert self.gate.wait(10)
        return found


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def database(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def store(database: Store) -> Failing:
    return Failing(database)


@pytest.fixture
async def ring(store: Failing) -> AsyncIterator[Keyring]:
    made = await Keyring.open(store, every=0.02)
    yield made
    await made.aclose()


async def until_known(ring: Keyring, secret: str, refused: bool = False) -> None:
    for _ in range(500):
        held = ring.find(digest(secret))
        if held is not None and (held.refusal(0.0) is not None) is refused:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the change did not get known")


async def test_a_change_of_this_process_holds_at_once(store: Failing) -> None:
    ring = await Keyring.open(store, every=3600)
    assert len(ring) == 0
    key, secret = await ring.create(Grant(name="k"))
    held = ring.find(digest(secret))
    assert held is not None
    assert held.caller.id == key.id
    _, new = await ring.rotate(key.id)
    assert len(ring) == 2
    assert ring.find(digest(new)) is not None
    await ring.revoke(key.id)
    held = ring.find(digest(new))
    assert held is not None
    assert held.refusal(0.0) == "This API key was revoked."
    assert [each.id for each in await ring.all()] == [(await ring.get(key.id)).id]
    with pytest.raises(NotFound):
        await ring.get("key_x")
    await ring.aclose()
    await ring.aclose()


async def test_a_change_of_another_process_is_known_soon(ring: Keyring, url: str) -> None:
    other = Store.open(url)
    key, secret = KeyStore(other).create(Grant(name="k"))
    await until_known(ring, secret)
    KeyStore(other).revoke(key.id)
    await until_known(ring, secret, refused=True)
    other.close()


async def test_without_a_change_nothing_is_read_again(ring: Keyring, store: Failing) -> None:
    await ring.create(Grant(name="k"))
    before = store.reads
    await asyncio.sleep(0.2)
    assert store.reads == before


async def test_while_the_database_is_away_what_was_known_holds(ring: Keyring, store: Failing) -> None:
    _, secret = await ring.create(Grant(name="k"))
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    with capture_logs() as logs:
        store.broken = True
        await asyncio.sleep(0.2)
        assert ring.find(digest(secret)) is not None
        store.broken = False
        await asyncio.sleep(0.2)
    structlog.configure(**before)
    assert [line["log_level"] for line in logs] == ["error", "info"], "told once, and once when it is over"
    assert "s3cret" not in str(logs)


async def test_a_database_that_fails_is_a_503_without_the_values(
    ring: Keyring, store: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise exc.OperationalError("INSERT", {"digest": "s3cret"}, OSError("gone"))

    monkeypatch.setattr(store, "create", broken)
    ring_ = Keyring(store)
    with pytest.raises(Busy) as caught:
        await ring_.create(Grant(name="k"))
    assert "s3cret" not in str(caught.value)


async def test_an_older_state_never_replaces_a_newer_one(store: Failing) -> None:
    """A look that began before a change, and ends after it, does not undo it."""
    ring = await Keyring.open(store, every=3600)
    key, secret = await ring.create(Grant(name="k"))
    KeyStore(store._store).rotate(key.id)  # elsewhere, so that there is something to read
    store.gate = threading.Event()
    looking = asyncio.create_task(ring.refresh())
    await asyncio.sleep(0.1)
    revoking = asyncio.create_task(ring.revoke(key.id))
    await asyncio.sleep(0.1)
    store.gate.set()
    await asyncio.gather(looking, revoking)
    held = ring.find(digest(secret))
    assert held is not None
    assert held.refusal(0.0) == "This API key was revoked."
    await ring.aclose()
