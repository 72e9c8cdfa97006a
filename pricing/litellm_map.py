"""LitellmMap: the price map inside an installed litellm, read as a file and never imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from pricing.listing import Edges, band, describe
from pricing.money import Money
from pricing.price import MILLION, Price

MAP = "litellm/model_prices_and_context_window_backup.json"
MODES = {"chat", "completion", "responses"}
# They charge for each request as well, which the map does not say.
FEES = {"perplexity"}

BUCKETS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
SUFFIXES = {"batch": "batches"}
ABOVE = re.compile(r"(?:input|output)_cost_per_token(_above_(\d+)k_tokens)")


def installed() -> Distribution | None:
    """The installed litellm, or None. Importing it would take seconds, and it would fetch its map."""
    try:
        return distribution("litellm")
    except PackageNotFoundError:
        return None


class LitellmMap:
    """A catalog over the map, whose prices have tiers and prompt lengths but no dates. Empty without litellm.

    A row whose rates are all 0 is no price: the map writes 0 for what it does not know or what is not sold by the
    token. Likewise a cache write at 0 beside input that costs something says that writing is not charged apart.
    """

    def __init__(self) -> None:
        self._rows: Mapping[str, Mapping[str, object]] | None = None
        self._version = ""

    def find(self, model: str, provider: str | None) -> LitellmListing | None:
        """See `Catalog.find`. Names match exactly; `openai/gpt-4o` is read as OpenAI's gpt-4o."""
        rows = self._load()
        for key, seller in _readings(model, provider):
            row = rows.get(key)
            if row is not None and seller in (None, row.get("litellm_provider")):
                return LitellmListing(model, f"litellm {self._version}: {key}", row)
        return None

    def _load(self) -> Mapping[str, Mapping[str, object]]:
        if self._rows is None:
            self._rows = {}
            package = installed()
            path = Path(str(package.locate_file(MAP))) if package else None
            if package and path and path.is_file():
                self._version = package.version
                self._rows = _read(path, path.stat().st_mtime_ns)
        return self._rows


@lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> Mapping[str, Mapping[str, object]]:
    """The rows of the map that have a price a token; once a process, unless the file has changed since."""
    # Decimal keeps 2e-06 as it is written.
    rows = json.loads(path.read_bytes(), parse_float=Decimal)
    return {
        key: row for key, row in rows.items() if row.get("mode") in MODES and row.get("litellm_provider") not in FEES
    }


def _readings(model: str, provider: str | None) -> Iterator[tuple[str, str | None]]:
    """Keys to look under, each with the provider that its row must name (None: any)."""
    prefix, slash, rest = model.partition("/")
    if provider:
        yield f"{provider}/{model}", None
        yield model, provider
    else:
        yield model, None
    if slash and provider in (None, prefix):
        yield rest, prefix


class LitellmListing:
    """One row of the map."""

    def __init__(self, model: str, head: str, row: Mapping[str, object]) -> None:
        self._model = model
        self._head = head
        self._bands = _bands(row)

    @property
    def edges(self) -> Edges:
        """The prompt lengths above which other rates hold."""
        return Edges(sizes=frozenset(self._bands) - {0})

    def price(self, tier: str | None, moment: float, tokens: int) -> Price | None:
        """See `Listing.price`. None as well for rows with a price of their own for reasoning or for each request."""
        over, up_to = band(self._bands.keys() - {0}, tokens)
        rates, suffix = self._bands.get(over, ({}, ""))
        end = f"{suffix}_{SUFFIXES.get(tier, tier)}" if tier else suffix
        stated = {bucket: _dollars(rates.get(key + end)) for bucket, key in BUCKETS.items()}
        enter, leave = stated["input"], stated["output"]
        if enter is None or leave is None or not (enter or leave) or rates.get("input_cost_per_request"):
            return None
        if rates.get("output_cost_per_reasoning_token") not in (None, rates.get(BUCKETS["output"])):
            return None
        if enter and not stated["cache_write"]:
            stated["cache_write"] = None
        row = describe(self._head, tier=tier, over=over, up_to=up_to)
        cached, written = stated["cached"], stated["cache_write"]
        return Price(self._model, "litellm", enter, leave, cached, written, row=row, over=over, up_to=up_to)


def _bands(row: Mapping[str, object]) -> dict[int, tuple[Mapping[str, object], str]]:
    """The rates by the prompt length above which they hold, with the suffix that their keys have there."""
    tiered = row.get("tiered_pricing")
    if isinstance(tiered, list):
        return {int(rates["range"][0]): (rates, "") for rates in tiered if "range" in rates}
    bands: dict[int, tuple[Mapping[str, object], str]] = {0: (row, "")}
    for key in row:
        if found := ABOVE.match(key):
            bands[int(found[2]) * 1000] = (row, found[1])
    return bands


def _dollars(per_token: object) -> Money | None:
    """Dollars for one token as money for a million; None for anything that is not a number."""
    if isinstance(per_token, bool) or not isinstance(per_token, int | Decimal):
        return None
    return Money.usd(per_token * MILLION)
