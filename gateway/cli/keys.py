"""`gkt keys`: the keys of callers, in the ledger's database; a running gateway knows of a change within seconds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gateway.cli import show
from gateway.cli.group import ConfigFile, Trouble, moment
from gateway.config import Config

if TYPE_CHECKING:
    from gateway.allowance import Allowance
    from gateway.keys.key import Key
    from gateway.keys.store import KeyStore
    from pricing.money import Money

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, list, revoke and rotate the keys of callers, in the ledger's database (ledger.url); see their budgets.",
)

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

AsJson = Annotated[bool, typer.Option("--json", help="As `/gkt/v1/keys` answers it.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `gkt keys list` shows it.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    owner: Annotated[str | None, typer.Option(help="Who answers for it.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="A word to find it by; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="One that it may ask for, or a pattern (gpt-*); without it, all."),
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="One that it may use; without it, all.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An override that it may use; without it, those of the routes."),
    ] = None,
    no_overrides: Annotated[bool, typer.Option("--no-overrides", help="It may use none.")] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="A date, a time (UTC), or how long from now: 12h, 90d.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USD/PERIOD", help="Dollars per day, week, month or in total: 10/day, 500/total; may be repeated."
        ),
    ] = None,
    no_budget: Annotated[bool, typer.Option("--no-budget", help="None, whatever the configuration says.")] = False,
    rpm: Annotated[int | None, typer.Option(metavar="N", help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(metavar="N", help="Tokens per minute, of prompts and answers.")] = None,
    concurrent: Annotated[int | None, typer.Option(metavar="N", help="Requests at once.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Make a key, and print its secret: the only time that it can be seen."""
    from pydantic import ValidationError

    from gateway.keys.key import Grant

    if override and no_overrides:
        raise typer.BadParameter("cannot be given together with --override", param_hint="--no-overrides")
    if budget and no_budget:
        raise typer.BadParameter("cannot be given together with --budget", param_hint="--no-budget")
    try:
        grant = Grant(
            name=name,
            owner=owner,
            tags=tuple(tag or ()),
            models=_some(model),
            strategies=_some(strategy),
            overrides=() if no_overrides else _some(override),
            expires_at=_expiry(expires),
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            concurrent=concurrent,
            budgets=() if no_budget else _some([_budget(text) for text in budget or ()]),
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        said = f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
        raise typer.BadParameter(said) from None
    with _kept(config, make=True) as keys:
        key, secret = keys.create(grant)
    _made(key, secret, as_json)


@app.command("list")
def listed(
    everything: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List the keys that open the gateway, oldest first."""
    now = time.time()
    with _kept(config) as keys:
        found = [key for key in keys.all() if everything or key.status(now) == "active"]
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [key.plain(now) for key in found]}, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in (
        "id",
        "secret",
        "name",
        "owner",
        "tags",
        "models",
        "strategies",
        "overrides",
        "budgets",
        "made",
        "expires",
    ):
        table.add_column(heading, overflow="fold", no_wrap=heading == "id")
    table.add_column("status")
    for key in found:
        plain = key.plain(now)
        secrets = ", ".join(f"{each['hint']}..." for each in plain["secrets"])
        limits = [_limit(each) for each in (key.models, key.strategies, key.overrides)]
        limits.append(_dollars(key))
        cells = [key.id, secrets, key.name, key.owner or "", ", ".join(key.tags), *limits, _day(key.created_at)]
        cells += ["never" if key.expires_at is None else _day(key.expires_at), plain["status"]]
        table.add_row(*map(Text, cells))
    out = show.console()
    out.print(table if found else Text("There are no keys." if everything else "There are no keys in use."))


@app.command("revoke")
def revoke(key_id: KeyId, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Close a key for good. It stays on record, for the accounts."""
    with _kept(config) as keys:
        key = keys.revoke(key_id)
    if as_json:
        typer.echo(json.dumps(key.plain(time.time()), indent=2))
    else:
        typer.echo(f"{key.id} ({key.name}) is revoked; running gateways refuse it within seconds")


@app.command("rotate")
def rotate(
    key_id: KeyId,
    grace: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long the old secret is valid yet: 30m, 24h, 7d.")
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Give a key a new secret, and print it: the only time that it can be seen."""
    seconds = 0.0 if grace is None else _span(grace)
    if seconds is None:
        raise typer.BadParameter("expected a number with a unit, as in 30m, 24h or 7d", param_hint="--grace")
    with _kept(config) as keys:
        key, secret = keys.rotate(key_id, seconds)
    _made(key, secret, as_json)


@app.command("budget")
def budget(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or a caller's as the accounts show it.")],
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Count anew: what the ledger has booked, and what is under way now.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, in dollars.")] = False,
    config: ConfigFile = None,
) -> None:
    """Show what is used of a key's budgets, beside what the ledger has booked of its requests in the same periods.

    The difference is what is put aside for requests under way. Where there are none and there is one, whoever keeps the
    budgets has lost its memory, or has changed: --recompute mends that, also beside running gateways.
    """
    from gateway.errors import Busy

    settings = Config.load(config)
    with _kept(config) as keys:
        try:
            rows = asyncio.run(_budgets(settings, keys, key_id, recompute=recompute))
        except Busy as error:
            raise Trouble(str(error)) from None
    if as_json:
        told = [
            {**each.plain, "used_usd": used.plain, "ledger_usd": booked.plain, "beside_usd": (used - booked).plain}
            for each, used, booked in rows
        ]
        typer.echo(json.dumps({"id": key_id, "data": told}, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("budget", "used", "in the ledger", "beside it"):
        table.add_column(heading, justify="right")
    for each, used, booked in rows:
        period = "in total" if each.period == "total" else f"per {each.period}"
        table.add_row(f"{each.limit} {period}", str(used), str(booked), str(used - booked))
    show.console().print(table if rows else Text(f"{key_id} has no budget."))


async def _budgets(
    settings: Config, keys: KeyStore, key_id: str, *, recompute: bool
) -> list[tuple[Allowance, Money, Money]]:
    """Each budget, what is used of it, and what the ledger has."""
    from gateway.admission import Admission
    from gateway.bootstrap import redis_url
    from gateway.chat import Caller
    from gateway.errors import NotFound
    from gateway.shared import recount
    from gateway.shared.build import open_shared
    from pricing.money import Money

    try:
        caller = keys.get(key_id).caller
    except NotFound:
        if key_id.startswith("key_"):
            raise
        caller = Caller(key_id)  # its key is not in the database, and the configuration's budgets are its own
    allowances = Admission.budgets(caller, settings.limits)
    if not allowances:
        return []
    now = time.time()
    shared = settings.shared
    place = redis_url(settings, os.environ)
    async with open_shared(place, when_away="refuse", prefix=shared.prefix, store=keys.kept_in) as opened:
        if recompute:
            await opened.budget.recount(caller.id, allowances, now)
        used = await opened.budget.used(caller.id, allowances, now)
    with keys.kept_in.transaction() as connection:
        booked = recount.spent(connection, caller.id, allowances, now)
    return list(zip(allowances, used, map(Money, booked), strict=True))


@contextmanager
def _kept(config: Any, *, make: bool = False) -> Iterator[KeyStore]:
    """The keys of the configured ledger."""
    from sqlalchemy import exc

    from gateway.keys.store import KeyStore, opened

    store = opened(Config.load(config).ledger.url, make=make)
    try:
        yield KeyStore(store)
    except exc.DBAPIError as error:
        raise Trouble(f"the ledger's database failed: {error.orig}") from None
    finally:
        store.close()


def _made(key: Key, secret: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(key.plain(time.time()) | {"secret": secret}, indent=2))
        return
    typer.echo(f"{key.id} ({key.name}); keep its secret, it is not shown again:", err=True)
    typer.echo(secret)


def _some(words: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return tuple(words) if words else None


def _limit(words: Sequence[str] | None) -> str:
    return "all" if words is None else ", ".join(words) or "none"


def _budget(text: str) -> dict[str, str]:
    usd, slash, per = text.strip().removeprefix("$").partition("/")
    if not slash:
        raise typer.BadParameter(f"expected dollars and a period, as in 10/day, not {text!r}", param_hint="--budget")
    return {"usd": usd.strip(), "per": per.strip()}


def _dollars(key: Key) -> str:
    if key.budgets is None:
        return "default"
    return ", ".join(f"${each.usd}/{each.per}" for each in key.budgets) or "none"


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _span(text: str) -> float | None:
    """Seconds in `90d`; None when it is no such thing."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    return None if found is None else int(found[1]) * UNITS[found[2]]


def _expiry(text: str | None) -> float | None:
    seconds = None if text is None else _span(text)
    return moment("--expires", text) if seconds is None else time.time() + seconds
