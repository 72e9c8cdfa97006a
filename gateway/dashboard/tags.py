"""Tags: what the keys of each tag spent and saved, from the sums of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from gateway.dashboard.tables import SUMS, Column, Row, Summed, Table, by_group, dearest
from gateway.keys.key import Key

NO_TAG = "no tag"

BESIDE = ("requests", "spent_usd", "saved_usd", "saved_share")
"""What of the table stands beside the chart of the overview."""


S = TypeVar("S", bound=Summed[Row])


def by_tag(callers: Mapping[str, S], held: Sequence[Key], total: Callable[[Iterable[S]], S]) -> Sequence[Row]:
    """One row a tag, the dearest first, and one of the keys without any: those of the environment have none.

    `total` adds up sums. A key with two tags counts under each, so that the rows may sum to more than there was.
    """
    tags = {key.id: set(key.tags) for key in held}
    groups: dict[str | None, list[S]] = {}
    for caller, sums in callers.items():
        for tag in tags.get(caller) or (None,):
            groups.setdefault(tag, []).append(sums)
    rows = [(NO_TAG if tag is None else tag, total(parts)) for tag, parts in groups.items()]
    return dearest(rows)


def table(rows: Sequence[Row], columns: Sequence[Column] = SUMS) -> Table:
    """Their sums."""
    return by_group("tags", "By tag of the key", rows, Column("tag", "Tag"), columns=columns)
