"""`gkt prices MODEL`: what each source says a model costs, and which one is believed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gateway.cli import show
from gateway.cli.group import ConfigFile
from gateway.config import Config
from pricing.book import DEFAULT_TIERS, PriceBook
from pricing.configured import Configured
from pricing.genai import GenaiPrices
from pricing.listing import Catalog
from pricing.litellm_map import LitellmMap, installed
from pricing.price import RATES, Price


def prices(
    model: Annotated[str, typer.Argument(help="A model's name, as the upstream knows it.")],
    tier: Annotated[str | None, typer.Option(help="Service tier: flex, priority, batch ...")] = None,
    on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="DATE", help="As of this day (UTC), not today.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Show the price rows that each source has for a model, in the order in which they are asked.

    Dollars per million tokens, and per hour of a machine of your own. Exit status 1 when no source has a price.
    """
    settings = Config.load(config)
    moment = (on.replace(tzinfo=UTC) if on else datetime.now(UTC)).timestamp()
    book = PriceBook.from_config(settings.prices)
    out = show.console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("source", *RATES):
        table.add_column(name.replace("_", " "), justify="left" if name == "source" else "right", no_wrap=True)
    table.add_column("row", overflow="fold")
    table.add_column("")
    believed = False
    for source, catalog in sources(settings):
        found = list(_rows(catalog, model, tier, moment))
        if not found:
            table.add_row(Text(source), *[""] * len(RATES), Text("nothing"), "")
        for price in found:
            # Asked of the book itself, for a prompt of a length that this row is for.
            used = book.price(model, tier=tier, moment=moment, input_tokens=price.over + 1) == price
            believed = believed or used
            rates = [_rate(price, name) for name in RATES]
            table.add_row(Text(source), *rates, Text(price.row), Text("used" if used else "", style="bold green"))
    out.print(
        Text(f"{model}, {tier or 'default'} tier, as of {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC")
    )
    out.print(table)
    if not believed:
        out.print(Text(f"No source has a price: its calls would be counted as unpriced. {mend(model)}"))
        raise typer.Exit(1)


def sources(config: Config) -> Iterator[tuple[str, Catalog]]:
    """The sources of prices in the order in which the gateway's own `PriceBook` asks them."""
    yield "config", Configured.parse(config.prices)
    yield "genai-prices", GenaiPrices()
    yield "litellm" if installed() else "litellm (not installed)", LitellmMap()


def mend(model: str) -> str:
    """What to write into the configuration for a model without a price."""
    return f"Add to the configuration, in dollars per million tokens: `prices: {{{model}: {{input: .., output: ..}}}}`"


def _rows(catalog: Catalog, model: str, tier: str | None, moment: float) -> Iterator[Price]:
    """The prices for each range of prompt lengths, shortest first."""
    listing = catalog.find(model, None)
    if listing is None:
        return
    for over in (0, *sorted(listing.edges.sizes)):
        price = listing.price(None if tier in DEFAULT_TIERS else tier, moment, over + 1)
        if price is not None and price.over == over:
            yield price


def _rate(price: Price, name: str) -> Text:
    rate = getattr(price, name)
    return Text("" if rate is None else str(rate))
