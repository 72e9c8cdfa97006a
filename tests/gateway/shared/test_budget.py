"""Budget: periods in UTC, and which allowance counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import MOST, Allowance, PeriodName
from gateway.shared.budget import span, tightest
from pricing.money import Money

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> float:
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("period", "now", "key", "ends"),
    [
        ("day", at(2026, 11, 24, 23, 59, 59), "day:2026-11-24", at(2026, 11, 25)),
        ("day", at(2026, 12, 31), "day:2026-12-31", at(2027, 1, 1)),
        ("week", at(2026, 11, 24), "week:2026-W48", at(2026, 11, 30)),
        ("week", at(2027, 1, 3, 23), "week:2026-W53", at(2027, 1, 4)),
        ("week", at(2024, 12, 30), "week:2025-W01", at(2025, 1, 6)),
        ("month", at(2028, 2, 29, 12), "month:2028-02", at(2028, 3, 1)),
        ("month", at(2026, 12, 1), "month:2026-12", at(2027, 1, 1)),
    ],
)
def test_spans(period: PeriodName, now: float, key: str, ends: float) -> None:
    found = span(period, now)
    assert (found.key, found.ends) == (key, ends)


def test_the_total_never_ends() -> None:
    assert span("total", at(2026, 1, 1)) == span("total", at(2099, 1, 1))
    assert span("total", 0).ends is None


def test_the_viewers_zone_does_not_matter() -> None:
    tokyo = datetime(2026, 11, 25, 3, tzinfo=timezone(timedelta(hours=9)))
    assert span("day", tokyo.timestamp()).key == "day:2026-11-24"


@given(MOMENTS, st.sampled_from(["day", "week", "month"]))
def test_a_span_ends_where_the_next_begins(moment: datetime, period: PeriodName) -> None:
    now = moment.timestamp()
    found = span(period, now)
    assert found.ends is not None
    assert found.ends > now
    assert span(period, found.ends - 1) == found
    assert span(period, found.ends).key != found.key


def test_the_tightest_of_each_period_in_the_order_given() -> None:
    month, day, less = Allowance(Money(9), "month"), Allowance(Money(5), "day"), Allowance(Money(3), "day")
    assert list(tightest([month, day, less, day], at(2026, 11, 24)).values()) == [month, less]


@pytest.mark.parametrize("limit", [Money(-1), MOST + Money(1)])
def test_limits_that_cannot_be_kept(limit: Money) -> None:
    with pytest.raises(ValueError, match=r"\$9007199\.254740991"):
        Allowance(limit, "day")
    Allowance(MOST, "total")
    Allowance(Money.ZERO, "day")
