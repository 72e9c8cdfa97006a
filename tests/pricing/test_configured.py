"""Configured: what the operator may write, and what is said when it is wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from pricing.configured import Configured
from pricing.money import Money
from pricing.price import Price


def at(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, tzinfo=UTC).timestamp()


def test_dollars_per_million_and_per_hour() -> None:
    book = Configured.parse({"gpt-x": {"input": 2, "cached": 0.2, "output": 10}, "my-70b": {"per_hour": 2.0}})
    listing = book.find("gpt-x", None)
    assert listing is not None
    assert listing.price(None, 0, 0) == Price(
        "gpt-x", "config", Money.usd(2), Money.usd(10), Money.usd("0.2"), row="config: gpt-x"
    )
    machine = book.find("my-70b", None)
    assert machine is not None
    assert machine.price("flex", 0, 0) == Price("my-70b", "config", per_hour=Money.usd(2), row="config: my-70b")


def test_a_cent_and_a_quarter_per_million_is_exact() -> None:
    listing = Configured.parse({"m": {"input": 0.0125, "output": "0.05"}}).find("m", None)
    assert listing is not None
    price = listing.price(None, 0, 0)
    assert price is not None
    assert price.input == Money(12_500_000)


@pytest.mark.parametrize("newest_first", [False, True])
def test_dated_rows(newest_first: bool) -> None:
    rows = [{"input": 1, "output": 5, "until": "2026-12-01"}, {"input": 2, "output": 10, "from": date(2026, 12, 1)}]
    listing = Configured.parse({"m": rows[::-1] if newest_first else rows}).find("m", None)
    assert listing is not None
    before, after = listing.price(None, at(2026, 12, 1) - 1, 0), listing.price(None, at(2026, 12, 1), 0)
    assert before is not None
    assert after is not None
    assert (before.input, after.input) == (Money.usd(1), Money.usd(2))
    assert (before.row, after.row) == ("config: m, until 2026-12-01", "config: m, from 2026-12-01")
    assert listing.edges.dates == {at(2026, 12, 1)}


def test_the_row_that_began_last_holds() -> None:
    rows = [{"input": 1, "output": 5}, {"input": 2, "output": 10, "from": "2026-12-01", "until": "2027-01-01"}]
    listing = Configured.parse({"m": rows}).find("m", None)
    assert listing is not None
    found = [listing.price(None, at(*day), 0) for day in ((2026, 11, 30), (2026, 12, 31), (2027, 1, 1))]
    assert [price and price.input for price in found] == [Money.usd(1), Money.usd(2), Money.usd(1)]


def test_a_tier_is_priced_by_its_own_row_alone() -> None:
    listing = Configured.parse({"m": [{"input": 2, "output": 10}, {"input": 1, "output": 5, "tier": "flex"}]}).find(
        "m", None
    )
    assert listing is not None
    flex = listing.price("flex", 0, 0)
    assert flex is not None
    assert flex.input == Money.usd(1)
    assert flex.row == "config: m, flex tier"
    assert listing.price("priority", 0, 0) is None


def test_a_provider_may_be_part_of_the_name() -> None:
    book = Configured.parse({"m": {"input": 1, "output": 1}, "azure/m": {"input": 2, "output": 2}})
    found = [book.find("m", provider) for provider in (None, "azure", "openai")]
    prices = [listing and listing.price(None, 0, 0) for listing in found]
    assert [price and price.model for price in prices] == ["m", "azure/m", "m"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inptu": 2, "output": 1}, "unknown key 'inptu'; did you mean 'input'?"),
        ({"input": 2, "output": 1, "cache_writes": 1}, "did you mean 'cache_write'?"),
        ({"input": 2, "output": 1, "zzz": 1}, "known are input, output"),
        ({"cached": 2}, "needs input, output or per_hour"),
        ({}, "needs input, output or per_hour"),
        ([], "empty list"),
        (2.0, "expected a mapping"),
        ({"input": -1, "output": 1}, "zero or more, not -1"),
        ({"input": "two", "output": 1}, "a number of dollars"),
        ({"input": float("nan"), "output": 1}, "a number of dollars"),
        ({"input": float("inf"), "output": 1}, "a number of dollars"),
        ({"input": True, "output": 1}, "a number of dollars"),
        ({"input": 1, "output": 1, "from": "soon"}, "from must be a day such as 2026-12-01"),
        ({"input": 1, "output": 1, "from": 20261201}, "must be a day"),
        ({"input": 1, "output": 1, "from": "2026-12-02", "until": "2026-12-01"}, "is not after"),
        ({"input": 1, "output": 1, "tier": 3}, "tier must be a name"),
    ],
)
def test_what_is_wrong_is_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="price of 'gpt-x'") as caught:
        Configured.parse({"gpt-x": value})
    assert message in str(caught.value)
