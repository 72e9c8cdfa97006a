"""`gkt savings`: what the ledger adds up to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal, cast

import typer

from gateway.chat import StrategyName
from gateway.cli import show
from gateway.cli.group import ConfigFile, KeyEnv, Since, Until, moment
from gateway.config import Config
from gateway.ledger.entry import Query, SavingsRow
from pricing.money import Money


def savings(
    since: Since = None,
    until: Until = None,
    by: Annotated[
        Literal["day", "model", "strategy", "caller", "hour"] | None, typer.Option(help="A line each.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only requests that asked for this model name.")] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="Only this strategy.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The rows as `GET /gkt/v1/savings` answers them.")] = False,
    url: Annotated[str | None, typer.Option(help="Ask the gateway that runs there, instead of the database.")] = None,
    key_env: KeyEnv = None,
    config: ConfigFile = None,
) -> None:
    """Show what was spent, beside what the teacher alone would have cost.

    Reads the ledger's database (ledger.url of the configuration), or asks a running gateway with --url. Sums are
    exact. See docs/savings.md for what each line means.
    """
    query = Query(moment("--since", since), moment("--until", until), model, strategy, by)

    def rows(asked: Query) -> list[SavingsRow]:
        if url is not None:
            return asyncio.run(_remote(url, key_env, asked))
        from gateway.ledger.reading import read_savings

        return read_savings(Config.load(config).ledger.url, asked)

    found = rows(query)
    if as_json:
        from gateway.api.admin import savings_row

        data = [savings_row(row) for row in found]
        typer.echo(json.dumps({"object": "list", "currency": "USD", **asdict(query), "data": data}, indent=2))
        return
    out = show.console()
    if by is not None:
        show.groups(out, found, by)
        out.print()
        found = rows(replace(query, by=None))
    for row in found:
        show.sums(out, row, _title(since, until, model, strategy))


async def _remote(url: str, key_env: str | None, query: Query) -> list[SavingsRow]:
    from gateway.cli.client import ask_savings, client, key_from

    async with client(url, key_from(key_env)) as sdk:
        return [parsed(row) for row in (await ask_savings(sdk, asdict(query)))["data"]]


def parsed(data: Mapping[str, Any]) -> SavingsRow:
    """A row as the gateway's JSON has it."""
    return SavingsRow(**{each.name: _parsed(data[each.name]) for each in fields(SavingsRow)})


def _parsed(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "nano_usd" in value:
        return Money(value["nano_usd"])
    return {name: _parsed(item) for name, item in value.items()}


def _title(since: str | None, until: str | None, model: str | None, strategy: str | None) -> str:
    said = (("since", since), ("until", until), ("model", model), ("strategy", strategy))
    limits = [f"{name} {value}" for name, value in cast("tuple[tuple[str, str | None], ...]", said) if value]
    return f"Savings, {', '.join(limits) or 'all requests'}"
