"""LitellmMap: tiers and prompt lengths of a map that is read and never imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pricing.litellm_map import LitellmListing, LitellmMap, _read, installed
from pricing.money import Money
from pricing.price import Price

needs_litellm = pytest.mark.skipif(installed() is None, reason="litellm is an extra and not installed")
CATALOG = LitellmMap()


def price(model: str, tier: str | None = None, tokens: int = 300, provider: str | None = None) -> Price | None:
    found = CATALOG.find(model, provider)
    return found.price(tier, 0, tokens) if found else None


def rates(found: Price | None) -> list[str]:
    assert found is not None
    return [str(rate) for rate in (found.input, found.cached, found.cache_write, found.output)]


@needs_litellm
@pytest.mark.parametrize(
    ("tier", "tokens", "expected"),
    [
        (None, 300, ["$2", "$0.2", "$2.5", "$10"]),
        (None, 272_000, ["$2", "$0.2", "$2.5", "$10"]),
        (None, 272_001, ["$4", "$0.4", "$5", "$15"]),
        ("flex", 300, ["$1", "$0.1", "$1.25", "$5"]),
        ("batch", 300, ["$1", "$0.1", "$1.25", "$5"]),
        ("priority", 300, ["$4", "$0.4", "$5", "$20"]),
        ("flex", 272_001, ["$2", "$0.2", "$2.5", "$7.5"]),
    ],
)
def test_tiers_and_prompt_lengths(tier: str | None, tokens: int, expected: list[str]) -> None:
    assert rates(price("gpt-6-sol", tier, tokens)) == expected


@needs_litellm
def test_the_row_is_named() -> None:
    found = price("openai/gpt-6-sol", "flex", 300_000)
    assert found is not None
    assert found.row.startswith("litellm ")
    assert found.row.endswith(": gpt-6-sol, flex tier, prompts over 272,000 tokens")
    assert (found.source, found.over, found.up_to) == ("litellm", 272_000, None)


@needs_litellm
def test_a_tier_without_a_price_is_none() -> None:
    assert price("gpt-4o-mini", "flex") is None
    # Long prompts have a price in the default tier and none in this one.
    assert price("gpt-5.4", "priority", 272_000) is not None
    assert price("gemini/gemini-2.5-pro", "flex", 200_001) is None


@needs_litellm
def test_rates_listed_by_ranges_of_the_prompt() -> None:
    found = [price("dashscope/qwen3-max", None, tokens) for tokens in (32_000, 32_001, 128_001)]
    assert [each and str(each.input) for each in found] == ["$1.2", "$2.4", "$3"]
    assert [each and (each.over, each.up_to) for each in found] == [
        (0, 32_000),
        (32_000, 128_000),
        (128_000, None),
    ]


@needs_litellm
@pytest.mark.parametrize(
    "model",
    [
        "no-such-model",
        "sample_spec",
        "ollama/llama2",  # 0 in the map: not sold by the token
        "github_copilot/gpt-4o",
        "dashscope/qwen-turbo",  # reasoning has a rate of its own
        "perplexity/sonar",  # a fee for each request, not in the map
        "text-embedding-3-small",
        "anthropic/gpt-4o",
    ],
)
def test_what_cannot_be_priced_is_none(model: str) -> None:
    assert price(model) is None


@needs_litellm
def test_a_provider_must_sell_it() -> None:
    assert price("gpt-4o", provider="openai") is not None
    assert price("gpt-4o", provider="azure") is not None
    assert price("gpt-4o", provider="vllm") is None
    assert price("openai/gpt-4o", provider="openai") is not None


@needs_litellm
def test_writing_to_the_cache_for_nothing_is_ordinary_input() -> None:
    found = price("deepseek/deepseek-chat")
    assert found is not None
    assert found.input == Money.usd("0.28")
    assert found.cache_write is None


def test_a_free_price_is_no_price() -> None:
    row = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    assert LitellmListing("m", "litellm: m", row).price(None, 0, 0) is None


def test_a_process_reads_the_map_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text('{"m": {"mode": "chat"}, "drawn": {"mode": "image_generation"}}')
    first = _read(file, 1)
    assert list(first) == ["m"]
    file.write_text("{}")
    assert _read(file, 1) is first
    assert _read(file, 2) == {}


@needs_litellm
def test_catalogs_share_the_map() -> None:
    assert LitellmMap()._load() is LitellmMap()._load()


def test_without_litellm_the_map_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert installed() is None
    assert LitellmMap().find("gpt-4o", None) is None
