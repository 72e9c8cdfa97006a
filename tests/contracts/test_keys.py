"""What every store of keys must do, whatever database keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update
from structlog.typing import EventDict

from gateway.allowance import Allowance
from gateway.chat import Caller
from gateway.errors import BadRequest, NotFound
from gateway.keys.key import Grant, Key, Secret, digest
from gateway.keys.store import LATEST, KeyStore, usable_at
from gateway.ledger.schema import key_secrets, keys
from gateway.ledger.store import Store
from pricing.money import Money

NOON = 1_800_000_000.0
WHOLE = Grant(
    name="Ada's laptop",
    owner="ada@example.org",
    tags=("team-a", "ключ 🗝"),
    models=("gpt-*", "gkt"),
    strategies=("cut-off", "student"),
    overrides=(),
    expires_at=NOON + 100,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(url: str) -> Iterator[Store]:
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def store(opened: Store, clock: Clock) -> KeyStore:
    return KeyStore(opened, clock)


def opens(store: KeyStore, secret: str, now: float) -> str | None:
    """Whose secret this is; None: it opens nothing at `now`."""
    held = store.held().get(digest(secret))
    return None if held is None or held.refusal(now) is not None else held.caller.id


def test_a_key_comes_back_as_it_was_made(store: KeyStore) -> None:
    assert store.all() == []
    key, secret = store.create(WHOLE)
    expected = Key(
        **WHOLE.model_dump(), id=key.id, created_at=NOON, secrets=(Secret(hint=secret[:8], created_at=NOON),)
    )
    assert key == store.get(key.id) == expected
    assert store.all() == [expected]
    held = store.held()[digest(secret)]
    assert held.key == expected
    assert held.caller == Caller(
        key.id, frozenset(), ("gpt-*", "gkt"), ("cut-off", "student"), ("team-a", "ключ 🗝"), NOON + 100
    )


def test_what_is_not_limited_stays_so(store: KeyStore) -> None:
    key, secret = store.create(Grant(name="plain"))
    assert (key.owner, key.tags, key.models, key.strategies, key.overrides, key.expires_at) == (
        None,
        (),
        None,
        None,
        None,
        None,
    )
    assert store.held()[digest(secret)].caller == Caller(key.id)


def test_a_secret_is_long_and_random_and_only_its_digest_is_kept(store: KeyStore, opened: Store) -> None:
    made = [store.create(Grant(name="k")) for _ in range(3)]
    for _, secret in made:
        assert re.fullmatch(r"gkt_[A-Za-z0-9_-]{43}", secret)
    assert len({secret for _, secret in made}) == len({key.id for key, _ in made}) == 3
    with opened.transaction() as connection:
        found = [
            str(value) for table in (keys, key_secrets) for row in connection.execute(select(table)) for value in row
        ]
    for key, secret in made:
        assert key.id in found
        assert digest(secret).hex() in found
        assert not any(secret[8:] in value for value in found)


def test_keys_are_listed_in_the_order_in_which_they_were_made(store: KeyStore, clock: Clock) -> None:
    made = []
    for number in range(4):
        clock.now = NOON + number
        made.append(store.create(Grant(name=f"key {number}"))[0].id)
    store.rotate(made[0], 10)
    store.revoke(made[1])
    assert [key.id for key in store.all()] == made


@pytest.mark.parametrize("at", [NOON, NOON - 1, 0.0, LATEST + 1])
def test_a_key_that_could_not_be_used_is_not_made(store: KeyStore, at: float) -> None:
    with pytest.raises(BadRequest) as caught:
        store.create(Grant(name="late", expires_at=at))
    assert caught.value.param == "expires_at"
    assert store.all() == []


def test_a_key_expires(store: KeyStore) -> None:
    key, secret = store.create(Grant(name="k", expires_at=NOON + 10))
    assert opens(store, secret, NOON + 9.9) == key.id
    assert opens(store, secret, NOON + 10) is None
    assert "expired on 2027-01-15 08:00 UTC" in str(store.held()[digest(secret)].refusal(NOON + 10))
    assert (key.status(NOON + 9.9), key.status(NOON + 10)) == ("active", "expired")


def test_a_revoked_key_stays_on_record_and_is_revoked_once(store: KeyStore, clock: Clock) -> None:
    key, secret = store.create(Grant(name="k"))
    other, others = store.create(Grant(name="other"))
    clock.now += 5
    assert store.revoke(key.id).revoked_at == NOON + 5
    clock.now += 5
    assert store.revoke(key.id).revoked_at == NOON + 5
    assert store.get(key.id).status(clock.now) == "revoked"
    assert opens(store, secret, clock.now) is None
    assert store.held()[digest(secret)].refusal(clock.now) == "This API key was revoked."
    assert opens(store, others, clock.now) == other.id


def test_a_rotated_key_has_a_new_secret_and_no_other_one(store: KeyStore, clock: Clock) -> None:
    key, old = store.create(WHOLE)
    clock.now += 5
    rotated, new = store.rotate(key.id)
    assert new != old
    assert rotated.model_copy(update={"secrets": key.secrets}) == key
    assert [secret.hint for secret in rotated.secrets] == [old[:8], new[:8]]
    assert opens(store, old, clock.now) is None
    assert "replaced by a new one" in str(store.held()[digest(old)].refusal(clock.now))
    assert opens(store, new, clock.now) == key.id


def test_the_old_secret_may_be_given_time(store: KeyStore, clock: Clock) -> None:
    key, first = store.create(Grant(name="k"))
    _, second = store.rotate(key.id, 100)
    clock.now += 50
    _, third = store.rotate(key.id, 100)  # the first one's time does not grow
    ends = {digest(secret): store.held()[digest(secret)].until for secret in (first, second, third)}
    assert list(ends.values()) == [NOON + 100, NOON + 150, None]
    for now, open_ in (
        (NOON + 60, [True, True, True]),
        (NOON + 100, [False, True, True]),
        (NOON + 150, [False, False, True]),
    ):
        assert [opens(store, secret, now) == key.id for secret in (first, second, third)] == open_
    _, last = store.rotate(key.id)  # at once: the time that others were given ends too
    assert [opens(store, secret, clock.now) for secret in (first, second, third, last)] == [None, None, None, key.id]


def test_revoking_ends_the_time_that_was_given(store: KeyStore) -> None:
    key, old = store.create(Grant(name="k"))
    _, new = store.rotate(key.id, 100)
    store.revoke(key.id)
    assert [opens(store, secret, NOON) for secret in (old, new)] == [None, None]


def test_a_key_that_is_over_gets_no_new_secret(store: KeyStore, clock: Clock) -> None:
    revoked, expired = store.create(Grant(name="k"))[0], store.create(Grant(name="k", expires_at=NOON + 1))[0]
    store.revoke(revoked.id)
    clock.now += 1
    for key, code in ((revoked, "key_revoked"), (expired, "key_expired")):
        before = store.version()
        with pytest.raises(BadRequest) as caught:
            store.rotate(key.id)
        assert caught.value.code == code
        assert len(store.get(key.id).secrets) == 1
        assert store.version() == before, "nothing was changed"


def test_a_key_that_is_not_there(store: KeyStore) -> None:
    for ask in (store.get, store.revoke, store.rotate):
        with pytest.raises(NotFound) as caught:
            ask("key_0123456789abcdef")
        assert caught.value.code == "key_not_found"


def test_the_version_tells_of_every_change_and_of_nothing_else(store: KeyStore) -> None:
    seen = [store.version()]
    key, _ = store.create(Grant(name="k"))
    seen.append(store.version())
    store.rotate(key.id)
    seen.append(store.version())
    store.revoke(key.id)
    seen.append(store.version())
    assert len(set(seen)) == 4
    store.revoke(key.id)
    store.all()
    assert store.version() == seen[-1]


def test_rotations_at_once_leave_one_secret(store: KeyStore, clock: Clock) -> None:
    key, first = store.create(Grant(name="k"))
    with ThreadPoolExecutor(8) as pool:
        secrets = [first, *pool.map(lambda _: store.rotate(key.id)[1], range(8))]
    assert [opens(store, secret, clock.now) for secret in secrets].count(key.id) == 1
    assert len(store.get(key.id).secrets) == 9


def test_what_another_version_has_written_does_not_keep_the_rest_away(store: KeyStore, opened: Store) -> None:
    key, secret = store.create(Grant(name="k"))
    with opened.transaction(write=True) as connection:
        connection.execute(update(keys).values(strategies='["cascade"]'))
    assert store.held()[digest(secret)].caller.strategies == ("cascade",)
    assert store.all()[0].id == key.id


@pytest.mark.parametrize(
    "written",
    [
        {"requests_per_minute": 0},
        {"concurrent": -1},
        {"budgets": '[{"usd": "10"}]'},
        {"budgets": '[{"usd": "abc", "per": "day"}]'},
        {"budgets": '[{"usd": "1e12", "per": "day"}]'},
        {"budgets": '[{"usd": "10", "per": "year"}]'},
        {"budgets": "[7]"},
    ],
)
def test_limits_that_cannot_be_read_allow_nothing_and_disturb_no_other_key(
    store: KeyStore, opened: Store, written: dict[str, Any], logs: list[EventDict]
) -> None:
    odd, odd_secret = store.create(Grant(name="odd"))
    other, secret = store.create(Grant(name="other"))
    with opened.transaction(write=True) as connection:
        connection.execute(update(keys).where(keys.c.id == odd.id).values(**written))
    held = store.held()
    assert [(each["key"], each["log_level"]) for each in logs] == [(odd.id, "error")]
    assert held[digest(odd_secret)].caller.budgets == (Allowance(Money.ZERO, "total"),)
    assert held[digest(secret)].caller.budgets is None
    assert held[digest(secret)].caller.id == other.id
    store.revoke(odd.id)
    assert store.held()[digest(odd_secret)].refusal(NOON) == "This API key was revoked."
    json.dumps([key.plain(NOON) for key in store.all()])


def test_how_many_can_be_used_is_seen_from_outside(store: KeyStore, url: str, clock: Clock) -> None:
    lasting = url != "sqlite://"
    assert usable_at(url, NOON) == 0
    key, _ = store.create(Grant(name="k"))
    store.create(Grant(name="ends", expires_at=NOON + 10))
    assert usable_at(url, NOON) == (2 if lasting else 0)
    assert usable_at(url, NOON + 10) == (1 if lasting else 0)
    store.revoke(key.id)
    assert usable_at(url, NOON + 10) == 0


def test_keys_do_not_disturb_the_accounts(opened: Store, store: KeyStore) -> None:
    key, _ = store.create(Grant(name="k"))
    run = opened.join(NOON)
    store.rotate(key.id)
    opened.leave(run, NOON)
    with opened.transaction() as connection:
        assert connection.scalar(select(func.count()).select_from(key_secrets)) == 2


def test_times_are_kept_to_the_microsecond(store: KeyStore, clock: Clock) -> None:
    clock.now = 1_795_478_400.123456
    at: Any = store.create(Grant(name="k", expires_at=1_795_478_401.654321))[0]
    assert (at.created_at, at.expires_at) == (1_795_478_400.123456, 1_795_478_401.654321)
