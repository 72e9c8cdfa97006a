"""What all commands share: how they fail, and the options that many of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.config import Config
from gateway.errors import GatewayError

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration.")]
KeyEnv = Annotated[
    str | None,
    typer.Option("--key-env", metavar="NAME", help="Environment variable with the key that the gateway wants."),
]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="From this date or time on (UTC).")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to this date or time, not included.")]


class Trouble(Exception):
    """A command could not do its job, and the message says why; exit status 1."""


class Commands(TyperGroup):
    """Commands that end in one readable line, and no traceback, when they cannot work.

    Status 1: `Trouble`. Status 2: a configuration or a request that cannot be used, and wrong usage.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Trouble as error:
            typer.echo(f"gkt: {error}", err=True)
            raise typer.Exit(1) from error
        except GatewayError as error:
            typer.echo(f"gkt: {error}", err=True)
            raise typer.Exit(2) from error


def moment(option: str, text: str | None) -> float | None:
    """The date or time (UTC) that `option` says, as seconds since the epoch. Raises `typer.BadParameter`."""
    from gateway.api.admin import instant

    try:
        return None if text is None else instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def changed(config: Config, *, host: str | None = None, port: int | None = None, ledger: str | None = None) -> Config:
    """`config` with what the command line says otherwise; None: nothing is said."""
    said = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    sections: dict[str, Any] = {"server": config.server.model_copy(update=said)}
    if ledger is not None:
        sections["ledger"] = config.ledger.model_copy(update={"url": ledger})
    return config.model_copy(update=sections)
