"""A page: what a view hands over to be shown, or to be written as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.dashboard.tables import Table


@dataclass(frozen=True, slots=True)
class Page:
    """`template` is filled with `context`, in which `tables` is too. `tables`: what `?format=csv&table=NAME` gives."""

    template: str
    title: str
    context: Mapping[str, Any]
    tables: Mapping[str, Table] = field(default_factory=dict)
