"""Keys: who is known, who is not, and that no key is told to anybody."""

from __future__ import annotations

import gc
import hashlib
import hmac
from typing import Any

import pytest

from gateway import auth
from gateway.auth import ANONYMOUS, Authenticator
from gateway.chat import Caller
from gateway.errors import Forbidden, Unauthorized
from gateway.keys.key import Held, Key, digest

KEY = "gkt-5ecret-4f9a1c"
OTHER = "gkt-0ther-77aa01"


def test_without_keys_everybody_is_anonymous() -> None:
    open_house = Authenticator()
    assert open_house.open
    for header in (None, "", "Bearer anything", "nonsense"):
        assert open_house.caller(header) is ANONYMOUS
    assert ANONYMOUS.id == "anonymous"


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}  "])
def test_a_known_key(header: str) -> None:
    caller = Authenticator([OTHER, KEY]).caller(header)
    assert caller.id == f"key-{hashlib.sha256(KEY.encode()).hexdigest()[:8]}"
    assert caller.overrides is None


def test_a_caller_is_the_same_in_every_process_and_is_not_the_key() -> None:
    first, second = Authenticator([KEY, OTHER]), Authenticator([OTHER, KEY])
    assert first.caller(f"Bearer {KEY}") == second.caller(f"Bearer {KEY}")
    assert first.caller(f"Bearer {KEY}").id != first.caller(f"Bearer {OTHER}").id
    assert KEY not in first.caller(f"Bearer {KEY}").id


@pytest.mark.parametrize(
    "header",
    [None, "", " ", "Bearer", "Bearer ", "Bearer\t" + KEY, f"Basic {KEY}", KEY, f"Bearer{KEY}", f" Bearer {KEY}"],
)
def test_no_key_is_asked_for(header: str | None) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY") as caught:
        Authenticator([KEY]).caller(header)
    assert KEY not in str(caught.value.body)
    assert (caught.value.http_status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "key", [KEY[:-1], KEY + "x", KEY.upper(), OTHER, f"{KEY},{OTHER}", "\xff\xfe", "ключ", "\x00", "x" * 100_000]
)
def test_a_wrong_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(Unauthorized, match="Incorrect API key provided") as caught:
        Authenticator([KEY]).caller(f"Bearer {key}")
    assert key not in str(caught.value.body)


def test_what_was_looked_up_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(known: bytes, given: bytes) -> bool:
        assert len(known) == len(given) == 32, "digests: their length tells nothing of the key's"
        compared.append(1)
        return hmac.compare_digest(known, given)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(auth, "hmac", Watched)
    house = Authenticator([KEY, OTHER, "third"])
    for key in (KEY, OTHER, "third"):
        house.caller(f"Bearer {key}")
    with pytest.raises(Unauthorized):
        house.caller("Bearer wrong")
    assert len(compared) == 3
    Authenticator([KEY], OTHER).admin(f"Bearer {OTHER}")
    assert len(compared) == 4


class Stored:
    """Keys that were made meanwhile."""

    def __init__(self, *held: Held) -> None:
        self.held = {each.digest: each for each in held}

    def find(self, digest: bytes) -> Held | None:
        return self.held.get(digest)

    def __len__(self) -> int:
        return len(self.held)


def stored(secret: str, until: float | None = None, **fields: Any) -> Held:
    key = Key(**{"name": "k", "id": "key_1", "created_at": 0.0, **fields})
    return Held(digest(secret), key.caller, key, until)


def refused(house: Authenticator, secret: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        house.caller(f"Bearer {secret}")
    assert (caught.value.http_status, caught.value.code) == (401, "invalid_api_key")
    assert secret not in str(caught.value.body)
    return str(caught.value)


class TestStoredKeys:
    def test_they_are_known_beside_those_of_the_environment(self) -> None:
        house = Authenticator([KEY], ring=Stored(stored(OTHER, models=("gpt-*",), tags=("a",))))
        assert house.caller(f"Bearer {OTHER}") == Caller("key_1", models=("gpt-*",), tags=("a",))
        assert house.caller(f"Bearer {KEY}").id.startswith("key-")
        assert "Incorrect" in refused(house, "another")

    def test_the_first_one_closes_the_house_for_good(self) -> None:
        ring = Stored()
        house = Authenticator(ring=ring)
        assert house.open
        assert house.caller(None) is ANONYMOUS
        ring.held = Stored(stored(OTHER)).held
        assert not house.open
        refused(house, "another")
        ring.held = {}  # a database that was changed for an empty one opens nothing
        assert not house.open
        refused(house, OTHER)

    def test_a_key_that_is_over_is_told_why_and_opens_nothing(self) -> None:
        now = [100.0]
        ring = Stored(
            stored("gkt_one", revoked_at=5.0), stored("gkt_two", expires_at=150.0), stored("gkt_three", until=120.0)
        )
        house = Authenticator(ring=ring, clock=lambda: now[0])
        assert refused(house, "gkt_one") == "This API key was revoked."
        assert house.caller("Bearer gkt_two").expires_at == 150.0
        assert house.caller("Bearer gkt_three").id == "key_1"
        now[0] = 150.0
        assert refused(house, "gkt_two") == "This API key expired on 1970-01-01 00:02 UTC."
        assert "was replaced by a new one" in refused(house, "gkt_three")

    def test_revoked_keys_alone_still_close_the_house(self) -> None:
        house = Authenticator(ring=Stored(stored(OTHER, revoked_at=1.0)))
        assert not house.open
        with pytest.raises(Forbidden, match="admin_key_env"):
            house.admin(None)

    def test_a_look_up_that_finds_another_secret_lets_nobody_in(self) -> None:
        """Should a table ever give the wrong row, the comparison decides."""
        wrong = Stored()
        wrong.held = {digest(KEY): stored(OTHER)}
        assert "Incorrect" in refused(Authenticator(ring=wrong), KEY)

    def test_who_runs_the_gateway_for_itself_is_let_in(self) -> None:
        house = Authenticator(ring=Stored(stored(OTHER)))
        house.admit("own")
        assert house.caller("Bearer own") is ANONYMOUS
        refused(house, "another")

    def test_a_guest_closes_nothing(self) -> None:
        house = Authenticator(ring=Stored())
        house.admit("own")
        assert house.open


def test_keys_are_not_kept() -> None:
    house = Authenticator([KEY])
    seen: set[int] = set()

    def within(value: Any) -> bool:
        if isinstance(value, str | bytes):
            return value in (KEY, KEY.encode())
        if id(value) in seen or isinstance(value, type):
            return False
        seen.add(id(value))
        return any(within(part) for part in gc.get_referents(value) if not isinstance(part, type))

    assert not within(house._callers)


class TestAdmin:
    def test_what_always_needs_the_admins_key_is_closed_without_one(self) -> None:
        with pytest.raises(Forbidden, match="admin_key_env"):
            Authenticator().admin(None, always=True)
        Authenticator(admin=OTHER).admin(f"Bearer {OTHER}", always=True)
        with pytest.raises(Unauthorized):
            Authenticator(admin=OTHER).admin(None, always=True)

    def test_without_any_key_the_own_machine_may(self) -> None:
        Authenticator().admin(None)

    def test_callers_keys_alone_open_no_accounts(self) -> None:
        with pytest.raises(Forbidden, match="admin_key_env"):
            Authenticator([KEY]).admin(f"Bearer {KEY}")

    def test_only_the_admins_key_will_do(self) -> None:
        house = Authenticator([KEY], OTHER)
        house.admin(f"Bearer {OTHER}")
        for header in (None, "", f"Bearer {KEY}", "Bearer", f"Basic {OTHER}"):
            with pytest.raises(Unauthorized) as caught:
                house.admin(header)
            assert OTHER not in str(caught.value)

    def test_the_admins_key_asks_no_chats(self) -> None:
        with pytest.raises(Unauthorized):
            Authenticator([KEY], OTHER).caller(f"Bearer {OTHER}")


def test_a_secret_follows_from_the_admin_key_and_its_purpose() -> None:
    house = Authenticator([KEY], OTHER)
    secret = house.secret("sessions")
    assert secret is not None
    assert len(secret) == 32
    assert secret == Authenticator([], OTHER).secret("sessions")
    assert len({secret, house.secret("else"), Authenticator([KEY], KEY).secret("sessions")}) == 3
    assert Authenticator([KEY]).secret("sessions") is None
