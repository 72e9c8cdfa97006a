"""`gkt config`: what the gateway would run on."""

from __future__ import annotations

import typer
import yaml

from gateway.cli.group import ConfigFile
from gateway.config import Config


def show(config: ConfigFile = None) -> None:
    """Print the whole effective configuration as YAML, defaults included; it holds no secrets."""
    data = Config.load(config).model_dump(mode="json")
    typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120), nl=False)
