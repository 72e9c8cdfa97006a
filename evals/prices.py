"""Prices: what the models of a run charge, as its reader sees them."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config import Config
from gateway.errors import ConfigError
from pricing.book import PriceBook


def listed(config: Config, upstreams: Iterable[str]) -> dict[str, dict[str, str]]:
    """Dollars per million tokens of each upstream's model, now; nothing of one that has no price, or one by the hour.

    ConfigError: there is no upstream of that name.
    """
    book, told = PriceBook.from_config(config.prices), dict[str, dict[str, str]]()
    for name in upstreams:
        spec = config.upstreams.get(name)
        if spec is None:
            raise ConfigError(f"no upstream {name!r}; there are: {', '.join(config.upstreams)}")
        price = book.price(spec.model, provider=spec.seller)
        both = {"input": price.input, "output": price.output} if price else {}
        told[spec.model] = {way: amount.plain for way, amount in both.items() if amount is not None}
    return told
