"""GenaiPrices: what the pinned snapshot really says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pricing.genai import GenaiListing, GenaiPrices
from pricing.money import Money
from pricing.price import Price

CATALOG = GenaiPrices()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def listing(model: str, provider: str | None = None) -> GenaiListing:
    found = CATALOG.find(model, provider)
    assert found is not None
    return found


def rates(price: Price | None) -> list[str | None]:
    """Input, cached and output, in dollars."""
    assert price is not None
    return [None if rate is None else str(rate) for rate in (price.input, price.cached, price.output)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-6-sol", ["$2", "$0.2", "$10"]),
        ("gpt-6.1-terra", ["$1", "$0.05", "$5"]),
        ("gpt-6-luna", ["$0.1", "$0.01", "$0.5"]),
        ("gpt-5.4", ["$2.5", "$0.25", "$15"]),
        ("gpt-4o-mini", ["$0.15", "$0.075", "$0.6"]),
        ("claude-sonnet-5-5", ["$2", "$0.1", "$10"]),
        ("claude-haiku-5-5", ["$0.1", "$0.01", "$0.5"]),
        ("gpt-3.5-turbo-0613", ["$1.5", None, "$2"]),
        ("gpt-4-1106-preview", ["$10", None, "$30"]),
        ("claude-3-5-sonnet-20241022", ["$3", "$0.3", "$15"]),
    ],
)
def test_teachers(model: str, expected: list[str | None]) -> None:
    assert rates(listing(model).price(None, NOW, 300)) == expected


def test_dated_and_prefixed_names_find_their_model() -> None:
    for name in ("gpt-4o-2024-08-06", "openai/gpt-4o", "openai/gpt-4o-2024-08-06", "GPT-4o"):
        price = listing(name).price(None, NOW, 300)
        assert rates(price) == ["$2.5", "$1.25", "$10"]
        assert price is not None
        assert price.model == name
        assert price.row == "genai-prices 0.2.3: openai/gpt-4o"
    assert rates(listing("gemini/gemini-2.5-pro").price(None, NOW, 300)) == ["$1.25", "$0.125", "$10"]


def test_cache_writes_are_dearer_than_input() -> None:
    price = listing("gpt-6-sol").price(None, NOW, 300)
    assert price is not None
    assert price.cache_write == Money.usd("2.5")


def test_a_price_that_changes_on_a_day() -> None:
    argon = listing("gemini-4-argon")
    edge = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert edge in argon.edges.dates
    assert rates(argon.price(None, edge - 1, 300)) == ["$2", "$0.1", "$10"]
    after = argon.price(None, edge, 300)
    assert rates(after) == ["$4", "$0.2", "$20"]
    assert after is not None
    assert after.row == "genai-prices 0.2.3: google/gemini-4-argon, from 2026-12-01"


@pytest.mark.parametrize(
    ("clock", "expected"),
    [((0, 59, 59), "$0.15"), ((1, 0, 0), "$0.3"), ((3, 59, 59), "$0.3"), ((4, 0, 0), "$0.15"), ((9, 59, 59), "$0.3")],
)
def test_a_price_that_changes_with_the_hour(clock: tuple[int, int, int], expected: str) -> None:
    moment = datetime(2026, 11, 24, *clock, tzinfo=UTC).timestamp()
    flash = listing("deepseek-flash")
    assert rates(flash.price(None, moment, 300))[0] == expected
    assert flash.edges.hours == {3600 * hour for hour in (1, 4, 6, 10)}


def test_long_prompts_cost_more() -> None:
    sol = listing("gpt-6-sol")
    assert sol.edges.sizes == {272_000}
    at, over = sol.price(None, NOW, 272_000), sol.price(None, NOW, 272_001)
    assert rates(at) == ["$2", "$0.2", "$10"]
    assert rates(over) == ["$4", "$0.4", "$15"]
    assert at is not None
    assert over is not None
    assert (at.over, at.up_to, over.over, over.up_to) == (0, 272_000, 272_000, None)
    assert over.row == "genai-prices 0.2.3: openai/gpt-6-sol, prompts over 272,000 tokens"


def test_a_tier_is_priced_by_what_is_stated_for_it() -> None:
    sol = listing("gpt-6-sol")
    for tier in ("flex", "batch"):
        assert rates(sol.price(tier, NOW, 300)) == ["$1", "$0.1", "$5"]
    assert rates(sol.price("priority", NOW, 300)) == ["$4", "$0.4", "$20"]


def test_a_tiers_price_is_dated_too() -> None:
    argon = listing("gemini-4-argon")
    assert rates(argon.price("batch", NOW, 300)) == ["$1", "$0.05", "$5"]
    assert rates(argon.price("batch", datetime(2026, 12, 1, tzinfo=UTC).timestamp(), 300)) == ["$2", "$0.1", "$10"]


def test_a_tier_that_is_not_stated_has_no_price() -> None:
    assert listing("gpt-4o-mini").price("flex", NOW, 300) is None
    assert listing("gpt-6-sol").price("auto", NOW, 300) is None
    # Not before the day from which it is stated; and not another provider's.
    assert listing("gpt-6-sol").price("flex", datetime(2026, 10, 1, tzinfo=UTC).timestamp(), 300) is None
    assert listing("gpt-6-sol", "azure").price("flex", NOW, 300) is None
    assert listing("gpt-6-sol", "azure").price(None, NOW, 300) is not None


def test_a_tiers_gaps_are_not_filled_from_the_default_tier() -> None:
    # The catalogue states input and output for batches of gpt-4o-mini, and no rate for cached input.
    assert rates(listing("gpt-4o-mini").price("batch", NOW, 300)) == ["$0.075", None, "$0.3"]


@pytest.mark.parametrize(
    "model", ["no-such-model", "gpt-99", "gpt-6-solx", "SmolLM2-135M-Instruct", "meta-llama/Llama-3.1-8B-Instruct", ""]
)
def test_an_unknown_model_is_none(model: str) -> None:
    assert CATALOG.find(model, None) is None


def test_a_provider_that_is_not_in_the_catalogue_sells_nothing() -> None:
    assert CATALOG.find("gpt-4o", "vllm") is None
    assert CATALOG.find("openai/gpt-4o", "vllm") is None


def test_a_listed_model_without_prices_is_none() -> None:
    assert listing("gpt-4o", "github-copilot").price(None, NOW, 300) is None


def test_a_model_with_a_fee_for_each_request_or_a_rate_for_reasoning_is_none() -> None:
    assert listing("sonar", "perplexity").price(None, NOW, 300) is None
    assert listing("sonar-deep-research", "perplexity").price(None, NOW, 300) is None


def test_an_update_elsewhere_does_not_change_a_price() -> None:
    from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert rates(listing("gpt-6-sol").price(None, NOW, 300)) == ["$2", "$0.2", "$10"]
    finally:
        set_custom_snapshot(None)
