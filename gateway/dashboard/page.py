"""A page: what a view hands over to be shown, or to be written as CSV."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.dashboard.tables import Table
from gateway.pipeline import Gateway

Said = Mapping[str, str]
"""What an address asks for."""


@dataclass(frozen=True, slots=True)
class Page:
    """`template` is filled with `context`, in which `tables` is too.

    `tables`: what `?format=csv&table=NAME` gives, but for those that the view makes alone.
    """

    template: str
    title: str
    context: Mapping[str, Any]
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """A page of the menu, by its name there.

    `tables`: those whose CSV tells more than the page has room for, each made without the rest of the page; the first
    of them is the page's own first.
    """

    name: str
    page: Callable[[Gateway, Said], Awaitable[Page]]
    tables: Mapping[str, Callable[[Gateway, Said], Awaitable[Table]]] = field(default_factory=dict)
