"""A key as data: what it may hold, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.chat import Caller, Overrides
from gateway.keys.key import Grant, Held, Key, Secret, digest, new_secret

NOW = 1_800_000_000.0


def key(**fields: Any) -> Key:
    return Key(**{"name": "k", "id": "key_1", "created_at": NOW, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "  "),
        ("name", "a\x00b"),
        ("name", "a\nb"),
        ("name", "a\udcffb"),
        ("name", "x" * 257),
        ("owner", ""),
        ("tags", ("",)),
        ("tags", ("t",) * 33),
        ("models", ()),
        ("models", ("",)),
        ("strategies", ()),
        ("strategies", ("cutoff",)),
        ("overrides", ("temperature",)),
        ("expires_at", float("inf")),
        ("expires_at", float("nan")),
        ("surprise", 1),
    ],
)
def test_what_a_key_cannot_be_given(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Grant(**{"name": "k", field: value})


def test_a_word_that_is_nearly_right_is_told_the_right_one() -> None:
    with pytest.raises(ValidationError, match="did you mean 'models'"):
        Grant.model_validate({"name": "k", "model": ["gkt"]})
    with pytest.raises(ValidationError, match="guidance_tokens"):
        Grant(name="k", overrides=("tokens",))


def test_no_overrides_are_another_thing_than_all() -> None:
    assert key(overrides=()).caller.overrides == frozenset()
    assert key(overrides=None).caller.overrides is None
    assert key(overrides=tuple(Overrides.__slots__)).caller.overrides == frozenset(Overrides.__slots__)


def test_a_key_is_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(key(), "name", "other")  # noqa: B010 - that is what is tried


def test_plain_data_is_json_and_shows_the_secrets_that_open_something() -> None:
    secrets = (
        Secret(hint="gkt_old1", created_at=NOW, valid_until=NOW + 1),
        Secret(hint="gkt_old2", created_at=NOW, valid_until=NOW + 9),
        Secret(hint="gkt_new1", created_at=NOW),
    )
    made = key(secrets=secrets, models=("a*",), tags=("x",), concurrent=3, budgets=[{"usd": 0.5, "per": "day"}])
    plain = json.loads(json.dumps(made.plain(NOW + 1)))
    assert plain == {
        "object": "key",
        "id": "key_1",
        "status": "active",
        "name": "k",
        "owner": None,
        "tags": ["x"],
        "models": ["a*"],
        "strategies": None,
        "overrides": None,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "concurrent": 3,
        "budgets": [{"usd": "0.5", "per": "day"}],
        "expires_at": None,
        "created_at": NOW,
        "revoked_at": None,
        "secrets": [
            {"hint": "gkt_old2", "created_at": NOW, "valid_until": NOW + 9},
            {"hint": "gkt_new1", "created_at": NOW, "valid_until": None},
        ],
    }
    assert made.model_copy(update={"revoked_at": NOW}).plain(NOW)["secrets"] == []


def test_a_secret_of_the_environment_has_no_end() -> None:
    assert Held(digest("x"), Caller("key-1")).refusal(1e300) is None


def test_revoked_is_told_before_expired() -> None:
    both = key(expires_at=NOW, revoked_at=NOW - 1)
    assert both.status(NOW + 1) == "revoked"
    assert Held(b"", both.caller, both, NOW).refusal(NOW + 1) == "This API key was revoked."


def test_secrets_fit_into_a_header() -> None:
    assert all(new_secret().isascii() and new_secret().isprintable() for _ in range(100))
