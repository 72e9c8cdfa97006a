"""Asking: a question to the ledger's database from the event loop, and what is answered when it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog
from sqlalchemy import exc

from gateway.errors import Busy

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


async def asked(ask: Callable[P, T], *args: P.args, **rest: P.kwargs) -> T:
    """What `ask` returns, run on a thread. Raises `Busy` in place of whatever the database's driver raises."""
    try:
        return await asyncio.to_thread(ask, *args, **rest)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        # Not its own words: they hold the values of the statement.
        cause = type(getattr(error, "orig", error)).__name__
        log.error("the database does not answer", asked=getattr(ask, "__name__", "?"), error=cause)
        raise Busy("The ledger's database does not answer; try again shortly.") from None
