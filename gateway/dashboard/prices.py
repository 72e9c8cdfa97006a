"""Prices: what a table says of the price of a model or a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dashboard.tables import Column
from pricing.money import Money
from pricing.price import RATES, Price

COLUMNS = (
    Column("price_source", "Price source"),
    Column("price_row", "Price row"),
    Column("input_usd_per_million", "Input", "money"),
    Column("cached_usd_per_million", "Cached", "money"),
    Column("cache_write_usd_per_million", "Cache write", "money"),
    Column("output_usd_per_million", "Output", "money"),
    Column("usd_per_hour", "Per hour", "money"),
)


def cells(price: Price | None) -> list[Any]:
    """In the order of `COLUMNS`."""
    said = (None, None) if price is None else (price.source, price.row)
    return [*said, *(getattr(price, name, None) for name in RATES)]


def recorded(price: Mapping[str, Any] | None) -> Price | None:
    """The price of a call as the ledger has it."""
    if price is None:
        return None
    rates: dict[str, Any] = {name: Money(nano) for name in RATES if (nano := price.get(name)) is not None}
    return Price(price["model"], price["source"], row=price["row"], **rates)
