"""PriceBook: dated prices with their source."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import time

from pricing.configured import Configured, Row
from pricing.genai import GenaiPrices
from pricing.listing import Catalog, Edges, Listing
from pricing.litellm_map import LitellmMap
from pricing.price import Price, PriceSource

__all__ = ["Price", "PriceBook", "PriceSource"]

DEFAULT_TIERS = {"default", "standard"}
KEPT = 4096
DAY = 86400


class PriceBook:
    """What any model costs, from the first source that knows: the configuration, genai-prices, litellm's map.

    Nothing is loaded before the first lookup that needs it, and nothing is ever fetched. A lookup that was made
    before costs about a microsecond: prices are kept between the edges (dates, hours of the day, prompt lengths)
    at which a source may change its answer.
    """

    def __init__(
        self,
        overrides: Mapping[str, Price | Sequence[Row]] | Configured | None = None,
        *,
        catalogs: Sequence[Catalog] | None = None,
    ) -> None:
        """`overrides` stand before all other sources; `catalogs` are the others, in order, None for the usual two."""
        own = overrides if isinstance(overrides, Configured) else Configured.of(overrides or {})
        others: Sequence[Catalog] = (GenaiPrices(), LitellmMap()) if catalogs is None else catalogs
        self._catalogs: Sequence[Catalog] = (own, *others)
        self._quotes: dict[tuple[str, str | None, str | None], _Quote] = {}

    @classmethod
    def from_config(cls, prices: Mapping[str, object], *, catalogs: Sequence[Catalog] | None = None) -> PriceBook:
        """A book with the configuration's prices, in dollars: see `Configured`. ValueError when one is wrong."""
        return cls(Configured.parse(prices), catalogs=catalogs)

    def with_prices(self, prices: Mapping[str, object]) -> PriceBook:
        """A book with other prices of the configuration's before the same catalogs. ValueError when one is wrong."""
        return PriceBook.from_config(prices, catalogs=self._catalogs[1:])

    def load(self) -> None:
        """Read all sources now (about a quarter of a second), so that no request has to wait for it."""
        for catalog in self._catalogs:
            catalog.find("", None)

    def price(
        self,
        model: str,
        *,
        tier: str | None = None,
        moment: datetime | float | None = None,
        provider: str | None = None,
        input_tokens: int | None = None,
    ) -> Price | None:
        """The price of `model`, or None when no source has one; an unknown price is never 0.

        `tier` is the service tier that the response names (`flex`, `priority`, `batch`; None, `default` and
        `standard` are the default tier): a source without a price for it is passed over. `moment` is a datetime
        (UTC when naive) or seconds since the epoch, None for now. `provider` says who sells it; without one, the
        sources' own matching of the name decides, so name the provider of a model that you serve yourself.
        `input_tokens` chooses the row where long prompts cost more; None means a short prompt, and the price then
        says so by its `up_to`.
        """
        if tier in DEFAULT_TIERS:
            tier = None
        key = (model, provider, tier)
        quote = self._quotes.get(key)
        if quote is None:
            if len(self._quotes) >= KEPT:  # names come from clients: they must not fill the memory
                self._quotes.clear()
            found = (catalog.find(model, provider) for catalog in self._catalogs)
            quote = self._quotes[key] = _Quote([listing for listing in found if listing is not None], tier)
        return quote.at(moment, input_tokens or 0)


class _Quote:
    """One model in one tier: the prices found so far, by the stretch between edges in which they hold."""

    __slots__ = ("_dates", "_hours", "_listings", "_prices", "_sizes", "_tier", "_timeless")

    def __init__(self, listings: Sequence[Listing], tier: str | None) -> None:
        edges = Edges.union(listing.edges for listing in listings)
        self._listings = listings
        self._tier = tier
        self._dates = sorted(edges.dates)
        self._hours = sorted(edges.hours)
        self._sizes = sorted(edges.sizes)
        self._timeless = not (edges.dates or edges.hours)
        self._prices: dict[tuple[int, int, int], Price | None] = {}

    def at(self, moment: datetime | float | None, tokens: int) -> Price | None:
        seconds = 0.0 if self._timeless else _seconds(moment)
        stretch = (
            bisect_right(self._dates, seconds),
            bisect_right(self._hours, seconds % DAY),
            bisect_left(self._sizes, tokens),
        )
        try:
            return self._prices[stretch]
        except KeyError:
            asked = (listing.price(self._tier, seconds, tokens) for listing in self._listings)
            price = self._prices[stretch] = next((price for price in asked if price is not None), None)
            return price


def _seconds(moment: datetime | float | None) -> float:
    if moment is None:
        return time()
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return moment
