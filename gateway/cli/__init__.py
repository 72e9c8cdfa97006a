"""The command line: one module a command; `app` is all of them."""

from gateway.cli.main import app

__all__ = ["app"]
