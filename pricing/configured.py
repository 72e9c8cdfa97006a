"""Configured: the prices that the operator wrote into the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches

from pricing.listing import Edges, describe, midnight
from pricing.money import Money
from pricing.price import Price

RATES = ("input", "output", "cached", "cache_write", "per_hour")
KEYS = (*RATES, "from", "until", "tier")


@dataclass(frozen=True, slots=True)
class Row:
    """A price, and the days (UTC) and tier that it holds for.

    `since` is the first day, `until` the first day after; None is open. `tier` None is the default tier.
    """

    price: Price
    since: date | None = None
    until: date | None = None
    tier: str | None = None

    def holds(self, tier: str | None, moment: float) -> bool:
        """True when this row prices `tier` at `moment`. A machine costs the same in every tier."""
        if tier != self.tier and not (self.tier is None and self.price.per_hour is not None):
            return False
        if self.since is not None and moment < midnight(self.since):
            return False
        return self.until is None or moment < midnight(self.until)


@dataclass(frozen=True, slots=True)
class ConfiguredListing:
    """The rows of one model; where several hold at once, the one that began last is used."""

    rows: Sequence[Row]

    @property
    def edges(self) -> Edges:
        """The first and last days of the rows."""
        days = [day for row in self.rows for day in (row.since, row.until) if day is not None]
        return Edges(dates=frozenset(map(midnight, days)))

    def price(self, tier: str | None, moment: float, tokens: int) -> Price | None:
        """See `Listing.price`; `tokens` makes no difference to a configured price."""
        held = [row for row in self.rows if row.holds(tier, moment)]
        return max(held, key=lambda row: row.since or date.min).price if held else None


class Configured:
    """A catalog of the operator's own prices: `{"gpt-x": {"input": 2, "output": 10}, "my-70b": {"per_hour": 2.0}}`.

    Rates are dollars per million tokens, `per_hour` dollars per hour of the machine. `from` and `until` are days
    (UTC; `until` is the first day on which the row no longer holds), `tier` a service tier. A model may have a
    list of such rows. A name is found exactly as written, or as `provider/name` when the provider is asked for.
    """

    def __init__(self, listings: Mapping[str, ConfiguredListing]) -> None:
        self._listings = dict(listings)

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Configured:
        """Read the configuration's prices; ValueError says which model and key is wrong and what was meant."""
        return cls({model: ConfiguredListing(_rows(model, value)) for model, value in config.items()})

    @classmethod
    def of(cls, prices: Mapping[str, Price | Sequence[Row]]) -> Configured:
        """Prices that are made already, without dates or as dated rows."""
        return cls(
            {
                model: ConfiguredListing([Row(value)] if isinstance(value, Price) else list(value))
                for model, value in prices.items()
            }
        )

    def find(self, model: str, provider: str | None) -> ConfiguredListing | None:
        """See `Catalog.find`."""
        own = self._listings.get(f"{provider}/{model}") if provider else None
        return own or self._listings.get(model)


def _rows(model: str, value: object) -> list[Row]:
    rows = value if isinstance(value, list | tuple) else [value]
    if not rows:
        raise ValueError(f"price of {model!r}: an empty list of rows")
    return [_row(model, row) for row in rows]


def _row(model: str, value: object) -> Row:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"price of {model!r}: expected a mapping such as {{input: 2, output: 10}}{_unless_text(value)}"
        )
    for key in value:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            raise ValueError(f"price of {model!r}: unknown key {key!r}; {hint}")
    rates = {key: _money(model, key, value[key]) for key in RATES if value.get(key) is not None}
    if not rates.keys() & {"input", "output", "per_hour"}:
        raise ValueError(f"price of {model!r}: needs input, output or per_hour")
    since, until = _day(model, "from", value.get("from")), _day(model, "until", value.get("until"))
    if since is not None and until is not None and until <= since:
        raise ValueError(f"price of {model!r}: until {until} is not after from {since}")
    tier = value.get("tier")
    if tier is not None and not isinstance(tier, str):
        raise ValueError(f"price of {model!r}: tier must be a name{_unless_text(tier)}")
    when = " ".join(f"{word} {day}" for word, day in (("from", since), ("until", until)) if day is not None)
    row = describe(f"config: {model}", tier=tier, when=when)
    price = Price(
        model,
        "config",
        rates.get("input"),
        rates.get("output"),
        rates.get("cached"),
        rates.get("cache_write"),
        rates.get("per_hour"),
        row=row,
    )
    return Row(price, since, until, tier)


def _money(model: str, key: str, value: object) -> Money:
    problem = f"price of {model!r}: {key} must be a number of dollars, zero or more{_unless_text(value)}"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(problem)
    try:
        amount = Money.usd(value)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(problem) from None
    if amount.nano < 0:
        raise ValueError(problem)
    return amount


def _unless_text(value: object) -> str:
    """What a fault says of the value: nothing of any that may hold a secret in the wrong place."""
    return f", not {value!r}" if isinstance(value, int | float | Decimal) else ""


def _day(model: str, key: str, value: object) -> date | None:
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"price of {model!r}: {key} must be a day such as 2026-12-01") from None
