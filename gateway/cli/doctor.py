"""`gkt doctor`: what would fail, and how to mend it, in one screen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import telemetry
from gateway.cli import show
from gateway.cli.group import ConfigFile
from gateway.config import Config
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.cli.seat import Finding

STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}


def doctor(config: ConfigFile = None) -> None:
    """Try out the configuration: every upstream is reached and probed, every model priced, the ledger looked at.

    Exit status 1 when anything would fail, 0 when all is well or there are only warnings.
    """
    from gateway.cli.checkup import checkup
    from gateway.cli.seat import Finding

    telemetry.configure(level=logging.CRITICAL)
    out = show.console()
    try:
        settings = Config.load(config)
    except ConfigError as error:
        _report(out, [Finding("fail", "configuration", str(error))])
    else:
        with show.working(show.console(stderr=True), "looking at everything"):
            findings = asyncio.run(checkup(settings))
        _report(out, [Finding("ok", "configuration", "can be read"), *findings])


def _report(out: Console, findings: Sequence[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for each in findings:
        says = Text(each.says)
        if each.mend:
            says.append(f"\n-> {each.mend}", style="italic")
        table.add_row(Text(each.level, style=STYLES[each.level]), Text(each.about), says)
    out.print(table)
    failing = sum(each.level == "fail" for each in findings)
    warned = sum(each.level == "warn" for each in findings)
    out.print(Text(f"{failing or 'Nothing'} would fail; {warned or 'no'} warnings.", style="bold"))
    if failing:
        raise typer.Exit(1)
