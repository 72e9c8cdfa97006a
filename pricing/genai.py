"""GenaiPrices: the catalogue of the pinned genai-prices package, as it was shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from pricing.listing import Edges, band, describe, midnight
from pricing.money import Money
from pricing.price import Price

if TYPE_CHECKING:
    from genai_prices.types import (
        ModelInfo,
        ModelPrice,
        Provider,
        StartDateConstraint,
        TieredPrices,
        TimeOfDateConstraint,
    )

    Constraint = StartDateConstraint | TimeOfDateConstraint | None
    Rate = Decimal | TieredPrices

# Our buckets and the catalogue's names for them. Its one-hour cache writes have no bucket in `Usage`: a write is
# priced as the ordinary, shorter one.
BUCKETS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}
# Prefixes of model names that are not the id of a provider here.
ALIASES = {"gemini": "google"}


class GenaiPrices:
    """A catalog over the snapshot inside the package. It is never updated: a snapshot of our own is used, so that
    not even an `UpdatePrices` elsewhere in the process can change a bill."""

    def __init__(self) -> None:
        self._providers: list[Provider] | None = None

    def find(self, model: str, provider: str | None) -> GenaiListing | None:
        """See `Catalog.find`. The package's own matching decides, so dated names find their model."""
        # Imported late: it takes a fifth of a second. The snapshot object is made anew each time because it keeps
        # every name it was ever asked for, and names come from clients.
        from genai_prices.data_snapshot import DataSnapshot

        snapshot = DataSnapshot(providers=self._load(), from_auto_update=False)
        for name, home in self._readings(model, provider):
            try:
                seller, info = snapshot.find_provider_model(name, None, home, None)
            except LookupError:
                continue
            return GenaiListing(model, seller, info)
        return None

    def _load(self) -> list[Provider]:
        if self._providers is None:
            from genai_prices.data import providers

            self._providers = providers
        return self._providers

    def _readings(self, model: str, provider: str | None) -> Iterator[tuple[str, str | None]]:
        """The ways to read a name: as it is; and `openai/gpt-4o` as OpenAI's gpt-4o.

        Only the exact id of a provider is read as a prefix: `meta-llama/...` names weights, not who serves them.
        """
        yield model, provider
        prefix, slash, rest = model.partition("/")
        home = ALIASES.get(prefix.lower(), prefix.lower())
        if slash and provider in (None, prefix) and any(home == known.id for known in self._load()):
            yield rest, home


class GenaiListing:
    """One model of the catalogue. Its rows have dates, hours of the day, prompt lengths and service tiers."""

    def __init__(self, model: str, seller: Provider, info: ModelInfo) -> None:
        self._model = model
        self._info = info
        self._seller = seller.id
        # A model found through a provider's fallback is another provider's: its tiers are not this one's.
        self._tiers = (info.price_variants or []) if any(info is own for own in seller.models) else []

    @property
    def edges(self) -> Edges:
        """All dates, hours and prompt lengths at which any row of this model begins or ends."""
        from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

        rows = [*self._rows(), *((variant.constraint, variant.prices) for variant in self._tiers)]
        constraints = [constraint for constraint, _ in rows]
        return Edges(
            frozenset(midnight(c.start_date) for c in constraints if isinstance(c, StartDateConstraint)),
            frozenset(
                _second_of_day(datetime.combine(date(1970, 1, 1), edge))
                for c in constraints
                if isinstance(c, TimeOfDateConstraint)
                for edge in (c.start_time, c.end_time)
            ),
            frozenset(
                tier.start
                for _, prices in rows
                for rate in _stated(prices).values()
                if isinstance(rate, TieredPrices)
                for tier in rate.tiers
            ),
        )

    def price(self, tier: str | None, moment: float, tokens: int) -> Price | None:
        """See `Listing.price`. None as well for models with a fee for each request: `Price` has no place for one."""
        at = datetime.fromtimestamp(moment, UTC)
        constraint, stated = self._default(at) if tier is None else self._tier(tier, at)
        rates = {key: _rate(rate, tokens) for key, rate in stated.items()}
        named = {bucket: rates[key] for bucket, key in BUCKETS.items() if key in rates}
        if "input" not in named or "output" not in named or rates.get("requests_kcount"):
            return None
        if rates.get("output_reasoning_mtok", named["output"]) != named["output"]:
            return None
        over, up_to = band({size for rate in stated.values() for size in _sizes(rate)}, tokens)
        head = f"genai-prices {version('genai-prices')}: {self._seller}/{self._info.id}"
        row = describe(head, tier=tier, over=over, up_to=up_to, when=_when(constraint))
        money = {bucket: Money.usd(rate) for bucket, rate in named.items()}
        return Price(
            self._model,
            "genai-prices",
            money["input"],
            money["output"],
            money.get("cached"),
            money.get("cache_write"),
            row=row,
            over=over,
            up_to=up_to,
        )

    def _rows(self) -> list[tuple[Constraint, ModelPrice]]:
        prices = self._info.prices
        if isinstance(prices, list):
            return [(row.constraint, row.prices) for row in prices]
        return [(None, prices)]

    def _default(self, at: datetime) -> tuple[Constraint, dict[str, Rate]]:
        """The last active row, else the first one: the catalogue's own rule."""
        rows = self._rows()
        if not rows:
            return None, {}
        active = [row for row in rows if row[0] is None or row[0].active(at)]
        constraint, prices = active[-1] if active else rows[0]
        return constraint, _stated(prices)

    def _tier(self, tier: str, at: datetime) -> tuple[Constraint, dict[str, Rate]]:
        """What the catalogue states for this tier itself. It would fill gaps from the default tier; we do not."""
        wanted = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
        found: Constraint = None
        stated: dict[str, Rate] = {}
        for variant in self._tiers:
            if variant.when == wanted and (variant.constraint is None or variant.constraint.active(at)):
                found = found or variant.constraint
                stated = {**_stated(variant.prices), **stated}
        return found, stated


def _stated(prices: ModelPrice) -> dict[str, Rate]:
    return {key: rate for key, rate in vars(prices).items() if rate is not None}


def _rate(rate: Rate, tokens: int) -> Decimal:
    """The rate for a prompt of `tokens`: past a threshold, all tokens pay the higher one."""
    if isinstance(rate, Decimal):
        return rate
    return next((tier.price for tier in reversed(rate.tiers) if tokens > tier.start), rate.base)


def _sizes(rate: Rate) -> Iterable[int]:
    return () if isinstance(rate, Decimal) else [tier.start for tier in rate.tiers]


def _second_of_day(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.timestamp() % 86400


def _when(constraint: Constraint) -> str:
    from genai_prices.types import StartDateConstraint

    if constraint is None:
        return ""
    if isinstance(constraint, StartDateConstraint):
        return f"from {constraint.start_date}"
    return f"daily {constraint.start_time:%H:%M} to {constraint.end_time:%H:%M}"
