"""Limits: what a client is told."""

from __future__ import annotations

import pytest

from gateway.allowance import Limits
from gateway.shared.limits import Levels, Taken, headers, refusal, spell


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (59.9995, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3725.25, "1h2m5.25s"),
    ],
)
def test_time_spans_as_openai_spells_them(seconds: float, text: str) -> None:
    assert spell(seconds) == text


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
def test_a_limit_of_nothing_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
    assert Limits(**{name: 1})
    assert not Limits()


def test_headers_speak_of_the_limits_that_are_set() -> None:
    assert headers(Limits(concurrent=3), Levels()) == {}
    assert headers(Limits(tokens_per_minute=6000), Levels(tokens=150.5)) == {
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5849",
        "x-ratelimit-reset-tokens": "1.505s",
    }
    overdrawn = headers(Limits(requests_per_minute=60, tokens_per_minute=60), Levels(requests=1, tokens=90))
    assert overdrawn["x-ratelimit-remaining-tokens"] == "0"
    assert overdrawn["x-ratelimit-reset-tokens"] == "1m30s"
    assert overdrawn["x-ratelimit-remaining-requests"] == "59"


def test_the_wait_is_that_of_all_limits() -> None:
    limits = Limits(requests_per_minute=60, tokens_per_minute=600, concurrent=2)
    error = refusal(limits, Levels(requests=60, tokens=580, refused="requests"), tokens=100)
    assert error.retry_after == pytest.approx(8), "a request is free after 1 s, 100 tokens after 8"
    assert str(error) == "Rate limit reached: 60 requests per minute. Please try again in 8s."
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("8", "8000")
    placeless = refusal(limits, Levels(requests=1, tokens=0, refused="concurrent"), tokens=100)
    assert placeless.retry_after == 1


@pytest.mark.parametrize(
    ("taken", "used", "after", "change"),
    [
        (6_000, 100, 0, -5_900),
        (6_000, 100, 1, -5_900),
        (6_000, 100, 21, -4_000),  # twenty seconds have leaked 2,000
        (6_000, 5_900, 21, -100),
        (6_000, 100, 61, 0),
        (6_000, 100, 10_000, 0),
        (6_000, 7_000, 10_000, 1_000),
        (6_000, None, 5, 0),
        (0, 0, 5, 0),
    ],
)
def test_what_has_leaked_is_not_given_back(taken: int, used: int | None, after: float, change: int) -> None:
    """Else whoever estimates much and takes long could use a minute's tokens once for each request under way."""
    assert Taken("key", Limits(tokens_per_minute=6_000), taken, "id", at=50.0).correction(used, 50.0 + after) == change
