"""PriceBook: the order of its sources, the moments between its edges, and no network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.book import KEPT, PriceBook
from pricing.configured import Row
from pricing.genai import GenaiPrices
from pricing.listing import Edges
from pricing.litellm_map import LitellmMap, installed
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

BOOK = PriceBook()
CATALOGS = (GenaiPrices(), LitellmMap())
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Counted:
    """A catalog of one model that counts how often it is asked, with every kind of edge."""

    def __init__(self) -> None:
        self.found = 0
        self.asked = 0
        self.edges = Edges(frozenset({1000.0}), frozenset({3600.0}), frozenset({100}))

    def find(self, model: str, provider: str | None) -> Counted | None:
        self.found += 1
        return self if model == "m" else None

    def price(self, tier: str | None, moment: float, tokens: int) -> Price | None:
        self.asked += 1
        row = f"{moment >= 1000} {moment % 86400 >= 3600} {tokens > 100}"
        return Price("m", "litellm", Money(1), Money(1), row=row)


def test_the_configuration_comes_first_then_genai_prices() -> None:
    own = Price("gpt-6-sol", "config", Money(1), Money(1))
    assert PriceBook({"gpt-6-sol": own}).price("gpt-6-sol") is own
    price = BOOK.price("gpt-6-sol", moment=NOON)
    assert price is not None
    assert price.source == "genai-prices"
    assert price.cost(Usage(312, 40, cached=100)) == Money.usd("0.000844")


@pytest.mark.skipif(installed() is None, reason="litellm is an extra and not installed")
def test_litellm_comes_last() -> None:
    price = BOOK.price("dashscope/qwen3-max")
    assert price is not None
    assert price.source == "litellm"
    # genai-prices states the flex tier from October 2026 on only; before, the undated map answers.
    before = BOOK.price("gpt-6-sol", tier="flex", moment=datetime(2026, 10, 1, tzinfo=UTC))
    after = BOOK.price("gpt-6-sol", tier="flex", moment=NOON)
    assert before is not None
    assert after is not None
    assert (before.source, after.source) == ("litellm", "genai-prices")


def test_a_configured_price_outside_its_days_leaves_the_word_to_the_catalogues() -> None:
    book = PriceBook.from_config({"gpt-6-sol": {"input": 1, "output": 1, "from": "2027-01-01", "until": "2027-02-01"}})
    days = [datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)]
    for _ in range(2):  # found, then kept
        found = [book.price("gpt-6-sol", moment=day) for day in days]
        assert [price and price.source for price in found] == ["genai-prices", "config", "genai-prices"]


def test_dated_rows_may_be_given_as_prices() -> None:
    old, new = Price("m", "config", Money(1), Money(1)), Price("m", "config", Money(2), Money(2))
    day = datetime(2026, 12, 1, tzinfo=UTC)
    book = PriceBook({"m": [Row(old), Row(new, since=day.date())]}, catalogs=[])
    assert book.price("m", moment=day - timedelta(seconds=1)) is old
    assert book.price("m", moment=day) is new


def test_a_price_is_as_of_its_moment() -> None:
    edge = datetime(2026, 12, 1, tzinfo=UTC)
    moments: list[tuple[datetime | float, str]] = [
        (edge - timedelta(seconds=1), "$2"),
        (edge, "$4"),
        (edge.timestamp() - 1, "$2"),
        (edge.timestamp(), "$4"),
        (datetime(2026, 12, 1), "$4"),  # naive: UTC
        (datetime(2026, 12, 1, 1, tzinfo=timezone(timedelta(hours=2))), "$2"),  # 23:00 UTC the day before
    ]
    for moment, dollars in moments:
        price = BOOK.price("gemini-4-argon", moment=moment)
        assert price is not None
        assert str(price.input) == dollars


def test_a_price_is_as_of_its_hour() -> None:
    found = [BOOK.price("deepseek-flash", moment=NOON.replace(hour=hour)) for hour in (0, 1, 4, 6, 10)]
    assert [price and str(price.output) for price in found] == ["$0.6", "$1.2", "$0.6", "$1.2", "$0.6"]


def test_the_default_tier_has_several_names_and_others_are_never_priced_by_it() -> None:
    usual = BOOK.price("gpt-4o-mini", moment=NOON)
    assert usual is not None
    for tier in ("default", "standard"):
        assert BOOK.price("gpt-4o-mini", tier=tier, moment=NOON) is usual
    for tier in ("flex", "auto", "scale"):
        assert BOOK.price("gpt-4o-mini", tier=tier, moment=NOON) is None


def test_unknown_is_none_and_never_zero() -> None:
    for model in ("no-such-model", "SmolLM2-135M-Instruct", "text-davinci-003", "ollama/llama2", "sample_spec", ""):
        assert BOOK.price(model) is None
        assert BOOK.price(model) is None
    assert BOOK.price("gpt-4o", provider="my-own-server") is None


def test_a_long_prompt_is_not_billed_as_a_short_one() -> None:
    short, long = BOOK.price("gpt-6-sol"), BOOK.price("gpt-6-sol", input_tokens=300_000)
    assert short is not None
    assert long is not None
    assert short.cost(Usage(300_000, 1)) is None
    assert long.cost(Usage(300_000, 0)) == Money.usd("1.2")


def test_what_was_found_is_kept_between_the_edges() -> None:
    counted = Counted()
    book = PriceBook(catalogs=[counted])
    first = book.price("m", moment=0, input_tokens=5)
    assert book.price("m", moment=999.9, input_tokens=100) is first
    assert (counted.found, counted.asked) == (1, 1)
    assert book.price("m", moment=1000, input_tokens=5) is not first
    assert counted.asked == 2


@given(st.lists(st.tuples(st.floats(-(10**6), 10**6), st.integers(0, 200)), min_size=1))
def test_a_kept_price_is_the_one_that_would_be_found(asked: Sequence[tuple[float, int]]) -> None:
    counted = Counted()
    book = PriceBook(catalogs=[counted])
    for moment, tokens in asked:
        assert book.price("m", moment=moment, input_tokens=tokens) == counted.price(None, moment, tokens)


@pytest.mark.parametrize("model", ["gpt-6-sol", "gemini-4-argon", "deepseek-flash", "gpt-5.6-sol", "deepseek-chat"])
@given(data=st.data())
def test_keeping_does_not_change_a_real_price(model: str, data: st.DataObject) -> None:
    moment = data.draw(st.floats(1.7e9, 1.85e9))
    tokens = data.draw(st.integers(0, 600_000))
    tier = data.draw(st.sampled_from([None, "flex", "batch", "priority"]))
    for catalog in CATALOGS:
        found = catalog.find(model, None)
        fresh = found.price(tier, moment, tokens) if found else None
        if fresh is not None:
            assert BOOK.price(model, tier=tier, moment=moment, input_tokens=tokens) == fresh
            return
    assert BOOK.price(model, tier=tier, moment=moment, input_tokens=tokens) is None


def test_names_from_clients_do_not_fill_the_memory() -> None:
    counted = Counted()
    book = PriceBook(catalogs=[counted])
    for number in range(KEPT + 10):
        assert book.price(f"name-{number}") is None
    assert len(book._quotes) <= KEPT
    assert book.price("m") is not None


OFFLINE = """
import sys
def deny(event, args):
    if event.startswith("socket."):
        raise RuntimeError(f"network: {event} {args}")
sys.addaudithook(deny)
import pricing.book, pricing.tokens
assert "genai_prices" not in sys.modules and "tiktoken" not in sys.modules, "loaded at import"
book = pricing.book.PriceBook.from_config({"my-70b": {"per_hour": 2}})
book.load()
for model in ("gpt-6-sol", "gemini-4-argon", "no-such-model", "my-70b", "ollama/llama2"):
    print(model, book.price(model) is not None)
for name in ("o200k_base", "cl100k_base", "p50k_base", "r50k_base", "nonsense"):
    vocabulary = pricing.tokens.Vocabulary.load(name)
    print(name, vocabulary and vocabulary.decode_bytes(vocabulary.encode("48 clips")).decode())
assert "litellm" not in sys.modules, "litellm was imported"
try:
    __import__("socket").create_connection(("127.0.0.1", 9))
except RuntimeError:
    print("denied")
"""


def test_nothing_is_fetched_and_litellm_is_not_imported() -> None:
    """In a fresh interpreter in which every use of a socket raises; the last line proves that it does."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "gpt-6-sol True",
        "gemini-4-argon True",
        "no-such-model False",
        "my-70b True",
        "ollama/llama2 False",
    ]
    assert lines[-3:] == ["r50k_base None", "nonsense None", "denied"]
    if installed():
        assert lines[5:8] == ["o200k_base 48 clips", "cl100k_base 48 clips", "p50k_base 48 clips"]
