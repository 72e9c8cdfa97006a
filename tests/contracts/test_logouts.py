"""What holds of a logout, whatever database keeps it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from gateway.ledger.schema import ended_sessions
from gateway.ledger.store import Store
from gateway.shared.logouts import Logouts

pytestmark = pytest.mark.anyio

NOON = 1_800_000_000.0
NAME = "Vq3l8mJw0cS1y5oQk2ZxNg"


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = Store.open(url)
    yield made
    made.close()


async def test_a_session_is_over_once_it_was_ended(store: Store) -> None:
    here, replica = Logouts(store), Logouts(store)
    assert not await here.ended(NAME)
    await here.end(NAME, NOON + 60)
    assert await here.ended(NAME)
    assert await replica.ended(NAME), "for all"
    assert not await here.ended(NAME[:-1]), "and no other"
    await replica.end(NAME, NOON + 60)
    assert await here.ended(NAME)


async def test_nobody_who_reads_the_database_has_a_session(store: Store) -> None:
    await Logouts(store).end(NAME, NOON + 60)
    with store.transaction() as connection:
        [(digest, until)] = connection.execute(select(ended_sessions)).all()
    assert until == NOON + 60
    assert len(digest) == 64
    assert NAME not in digest


async def test_it_is_kept_until_the_session_would_have_ended_and_not_longer(store: Store) -> None:
    clock = Clock()
    logouts = Logouts(store, clock)
    await logouts.end("first", NOON + 60)
    clock.now = NOON + 60
    await logouts.end("second", NOON + 120)
    assert await logouts.ended("first"), "to its last second"
    clock.now = NOON + 60.001
    await logouts.end("third", NOON + 180)
    with store.transaction() as connection:
        left = list(connection.scalars(select(ended_sessions.c.until).order_by(ended_sessions.c.until)))
    assert left == [NOON + 120, NOON + 180]
