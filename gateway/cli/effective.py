"""`gkt config`: what the gateway would run on."""

from __future__ import annotations

import typer
import yaml
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from gateway.cli.group import ConfigFile
from gateway.config import Config


def show(config: ConfigFile = None) -> None:
    """Print the whole effective configuration as YAML, defaults included; a password in the ledger's URL as ***."""
    data = Config.load(config).model_dump(mode="json")
    data["ledger"]["url"] = shown(data["ledger"]["url"])
    typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120), nl=False)


def shown(url: str) -> str:
    """A database's URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
