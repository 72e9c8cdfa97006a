"""`gkt ledger`: upkeep of the accounts: proof, retention, export."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gateway.cli.group import Commands, ConfigFile, Since, Trouble, Until, moment
from gateway.config import Config
from gateway.ledger.entry import Query

app = typer.Typer(
    cls=Commands,
    help="Look after the ledger's database (ledger.url of the configuration); the gateway may be running.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SHOWN = 20
"""Differences that are printed; the others are counted."""


@app.command("rebuild")
def rebuild(
    check: Annotated[bool, typer.Option("--check", help="Only compare; exit status 1 when they differ.")] = False,
    config: ConfigFile = None,
) -> None:
    """Prove the sums that savings are read from equal to the entries, and make them anew.

    Reads all entries: some seconds for a million. Days whose entries were pruned are left as they are.
    """
    from gateway.ledger import upkeep

    url = Config.load(config).ledger.url
    found = upkeep.check(url) if check else upkeep.rebuild(url)
    for wrong in found[:SHOWN]:
        typer.echo(_difference(wrong))
    if len(found) > SHOWN:
        typer.echo(f"... and {len(found) - SHOWN:,} more")
    if check and found:
        raise Trouble(f"{len(found):,} sums are not what the entries say; `gkt ledger rebuild` makes them anew")
    typer.echo(
        "all sums are what the entries say" if not found else f"{len(found):,} sums were wrong and are made anew"
    )


@app.command("prune")
def prune(
    before: Annotated[str | None, typer.Option(metavar="DATE", help="Everything before this day (UTC).")] = None,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Everything older: 90d, 12w.")] = None,
    texts: Annotated[bool, typer.Option("--texts", help="Remove the texts of prompts and answers.")] = False,
    entries: Annotated[
        bool, typer.Option("--entries", help="Remove whole entries with all that belongs to them.")
    ] = False,
    kept_aside: Annotated[
        bool, typer.Option("--aside", help="Remove files of what was refused or damaged, beside the spool.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Remove old texts, old entries, or old files of what was kept aside; sums stay.

    A day (UTC) is removed as a whole or not at all. `gkt savings` goes on counting what was removed. What was kept
    aside was never counted: try `gkt ledger replay` first.
    """
    from gateway.ledger import upkeep

    if (texts, entries, kept_aside).count(True) != 1:
        raise typer.BadParameter("say one of --texts, --entries and --aside")
    limit = _limit(before, older_than)
    if kept_aside:
        from gateway.ledger import aside

        accounts = Config.load(config).ledger
        typer.echo(
            f"removed {aside.prune(accounts.url, accounts.spool, limit):,} files from before {upkeep.day(limit)}"
        )
        return
    start, removed = upkeep.prune(Config.load(config).ledger.url, limit, "texts" if texts else "entries")
    typer.echo(f"removed {removed:,} {'texts' if texts else 'entries'} from before {upkeep.day(start)}")


@app.command("replay")
def replay(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="refused-... or damaged-...; all that there are.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Try again to write what was kept aside beside the spool: refused by the database, or damaged.

    What is on record already counts once. A file goes when all of it is written, else it keeps the rest: what is
    refused again, what cannot be read, and what is from days that were pruned since, which may have been counted and
    pruned already. Exit status 1 when something is left.
    """
    from gateway.ledger import aside

    accounts = Config.load(config).ledger
    done = aside.Replayed()
    for file in files or aside.kept(accounts.url, accounts.spool):
        done.add(aside.replay(accounts.url, file))
    told = f"{done.written:,} records are on record now"
    if done.left:
        raise Trouble(
            f"{told}; kept aside: {done.refused:,} refused again, {done.late:,} of pruned days, "
            f"{done.unreadable:,} unreadable"
        )
    typer.echo(told)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written when it is whole; replaced if it is there.")],
    form: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Parquet needs pyarrow.")] = "csv",
    rows: Annotated[Literal["requests", "calls"], typer.Option(help="What a row is.")] = "requests",
    since: Since = None,
    until: Until = None,
    config: ConfigFile = None,
) -> None:
    """Write settled requests, or their calls, to a file, oldest first.

    Amounts stand there as whole nano-dollars (`_nano`) and as the same number in dollars (`_usd`); unknown is empty.
    Texts of prompts and answers are not exported.
    """
    from gateway.ledger.export import export as written

    query = Query(moment("--since", since), moment("--until", until))
    count = written(Config.load(config).ledger.url, file, form, rows, query)
    typer.echo(f"{count:,} {rows} written to {file}")


@app.command("reprice")
def reprice(
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="From this date or time on (UTC).")],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to this date or time, not included.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be corrected.")] = False,
    config: ConfigFile = None,
) -> None:
    """Price settled calls again, by what the prices of now say of their moment, and write down the differences.

    Nothing is edited: corrections stand beside the entries, and savings include them and say how much they are. Doing
    it twice adds nothing. What the teacher alone would have cost follows the same prices; where it cannot be reckoned
    again, the request is not compared any more.
    """
    from gateway.bootstrap import max_seconds
    from gateway.ledger.reprice import reprice as priced
    from pricing.book import Price, PriceBook

    settings = Config.load(config)
    book = PriceBook.from_config(settings.prices)
    sellers = {name: spec.seller for name, spec in settings.upstreams.items()}

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
        if upstream not in sellers:
            return None  # who sold it is not known any more
        return book.price(model, provider=sellers[upstream], tier=tier, moment=moment, input_tokens=tokens)

    query = Query(moment("--from", since), moment("--to", until))
    longest = {name: max_seconds(settings, spec) for name, spec in settings.upstreams.items()}
    done = priced(settings.ledger.url, quote, query, time.time(), longest=longest, dry_run=dry_run)
    corrected = "would be corrected" if dry_run else "corrected"
    typer.echo(f"{done.changed:,} of {done.requests:,} requests {corrected}, {done.calls:,} calls: {done.difference}")
    for count, what in (
        (done.priced, "calls had no price and have one now"),
        (done.still, "calls still have no price"),
        (done.unknown, "calls keep what was booked: there is no price for them any more"),
        (done.baselines, "baselines follow"),
        (done.lost, "of them are unknown now, and not compared: of what they were the price is not on record"),
        (done.kept, "baselines keep what was booked: there is no price for them any more"),
    ):
        if count:
            typer.echo(f"{count:,} {what}")


@app.command("reconcile")
def reconcile(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON: date, model, tokens, perhaps cost.")],
    upstream: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only calls to it; may be repeated.")
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="PERCENT", help="Differences up to this are none.")] = 0.0,
    config: ConfigFile = None,
) -> None:
    """Compare a provider's usage export with the ledger, by day (UTC) and model, and list what differs.

    Understands OpenAI's usage export, grouped by model; see docs/ledger.md for the names of columns. Exit status 1
    when there are differences.
    """
    from gateway.ledger.reconcile import reconcile as compared

    count, found = compared(Config.load(config).ledger.url, file, upstream or (), tolerance / 100)
    for each in found:
        unsure = f" ({each.uncounted:,} calls counted here, not reported)" if each.uncounted else ""
        theirs, ours = (f"{value:,}" if isinstance(value, int) else str(value) for value in (each.theirs, each.ours))
        typer.echo(f"{each.day} {each.model} {each.what}: export {theirs}, ledger {ours}{unsure}")
    if found:
        raise Trouble(f"{len(found):,} differences in {count:,} days and models")
    typer.echo(f"{count:,} days and models agree")


def _difference(wrong: Mapping[str, Any]) -> str:
    from gateway.ledger.schema import LEVELS, MEASURES
    from gateway.ledger.upkeep import moment as hour

    kept, should = wrong["kept"] or {}, wrong["should"] or {}
    [level] = [level for level in LEVELS if level.number == wrong["level"]]
    said = [
        f"{name} {kept.get(name, 0)}, not {should.get(name, 0)}" for name in MEASURES if _differ(kept, should, name)
    ]
    kept_apart = [name for name in ("model", "strategy", "route") if level.by_plan]
    plan = [wrong[name] for name in kept_apart] or ["all models"]
    caller = wrong["caller"] if level.by_caller else "all callers"
    names = [caller, *plan, wrong["outcome"], wrong["method"] or "no baseline"]
    return f"{hour(wrong['hour'])} {level.hours} h, {', '.join(names)}: {'; '.join(said)}"


def _differ(kept: Mapping[str, int], should: Mapping[str, int], name: str) -> bool:
    return kept.get(name, 0) != should.get(name, 0)


def _limit(before: str | None, older_than: str | None) -> float:
    if older_than is None and (limit := moment("--before", before)) is not None:
        return limit
    if before is not None or older_than is None:
        raise typer.BadParameter("say either --before or --older-than")
    age = re.fullmatch(r"(\d{1,5})([dw])", older_than)
    if age is None:
        raise typer.BadParameter("expected days or weeks: 90d, 12w", param_hint="--older-than")
    return time.time() - int(age[1]) * (7 if age[2] == "w" else 1) * 86_400
