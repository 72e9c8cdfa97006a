"""Listing: what one source says about one model, over all moments, tiers and prompt lengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Protocol

from pricing.price import Price


@dataclass(frozen=True, slots=True)
class Edges:
    """Where a listing's price may change; between two edges it does not, so a price found there can be kept.

    `dates` are seconds since the epoch at which a row begins or ends to hold (the edge belongs to what follows),
    `hours` are seconds after midnight UTC likewise, `sizes` are prompt tokens above which another row holds.
    """

    dates: frozenset[float] = frozenset()
    hours: frozenset[float] = frozenset()
    sizes: frozenset[int] = frozenset()

    @classmethod
    def union(cls, all_edges: Iterable[Edges]) -> Edges:
        """The edges of several listings that are asked one after the other."""
        kept = list(all_edges)
        return cls(
            frozenset().union(*(edges.dates for edges in kept)),
            frozenset().union(*(edges.hours for edges in kept)),
            frozenset().union(*(edges.sizes for edges in kept)),
        )


class Listing(Protocol):
    """One model in one source."""

    @property
    def edges(self) -> Edges:
        """Where `price` may change its answer."""
        ...

    def price(self, tier: str | None, moment: float, tokens: int) -> Price | None:
        """The price at `moment` (seconds since the epoch) of a prompt of `tokens` tokens.

        `tier` is the service tier, None for the default one. None when the source has no price for it; the
        default tier's price is never given for another tier.
        """
        ...


class Catalog(Protocol):
    """A source of prices. Loads its data on first use and never from a network."""

    def find(self, model: str, provider: str | None) -> Listing | None:
        """What the source lists under this name, or None."""
        ...


def band(sizes: Iterable[int], tokens: int) -> tuple[int, int | None]:
    """The prompt lengths (over, up to) between the two of `sizes` that `tokens` lies between."""
    below = [size for size in sizes if size < tokens]
    above = [size for size in sizes if size >= tokens]
    return max(below, default=0), min(above, default=None)


def describe(head: str, *, tier: str | None = None, over: int = 0, up_to: int | None = None, when: str = "") -> str:
    """The human-readable name of a row: `head, flex tier, from 2026-10-12, prompts up to 272,000 tokens`."""
    parts = [head]
    if tier:
        parts.append(f"{tier} tier")
    if when:
        parts.append(when)
    if over:
        parts.append(f"prompts over {over:,} tokens")
    elif up_to is not None:
        parts.append(f"prompts up to {up_to:,} tokens")
    return ", ".join(parts)


def midnight(day: date) -> float:
    """The first moment of `day`, UTC, in seconds since the epoch."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
