"""The program `gkt`: its commands, each an ordinary function that Typer reads the options from."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from gateway.cli import ask, demo, doctor, effective, keys, ledger, prices, savings, serve
from gateway.cli.group import Commands

app = typer.Typer(
    name="gkt",
    cls=Commands,
    help="An OpenAI-compatible gateway: the teacher's first words, the student's answer, one receipt.",
    epilog="The configuration is --config FILE, else $GKT_CONFIG, else ./config.yaml, else built-in defaults.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help texts are the same at every width and in docs/cli.md.
    rich_markup_mode=None,
    # A traceback with its local variables could show a key.
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gkt {version('gkt-gateway')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """See `app`."""


app.command("serve")(serve.serve)
app.command("ask")(ask.ask)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("savings")(savings.savings)
app.command("prices")(prices.prices)
app.add_typer(keys.app, name="keys")
app.command("config")(effective.show)
app.add_typer(ledger.app, name="ledger")
app.command("reconcile")(ledger.reconcile)  # as `gkt ledger reconcile`
