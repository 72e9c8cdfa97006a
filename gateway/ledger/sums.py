"""Sums: the measures of a group of requests as whole numbers, which add up, and the row of savings that they come to.

A row of savings is made for a reader, and making one takes longer than adding up what a database answers: where there
are thousands of groups, only those that somebody looks at become rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

from gateway.ledger.entry import BriefRow, SavingsRow
from gateway.ledger.rows import STAGES
from gateway.ledger.schema import MEASURES
from pricing.money import Money

ALL = "all"
"""The name of the only group when nothing was asked for."""

_REQUESTS, _SPENT, _SHADOWS, _COMPARED, _LIKELY = (
    MEASURES.index(name) for name in ("requests", "spent", "shadows", "compared", "likely")
)


@dataclass(slots=True)
class Sums:
    """Sums over the entries of one group, in the order of `MEASURES`, and by outcome and baseline method."""

    measures: list[int] = field(default_factory=lambda: [0] * len(MEASURES))
    outcomes: dict[str, int] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    shadows: dict[str, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many."""
        return self.measures[_REQUESTS]

    @property
    def spent(self) -> int:
        """Nano-dollars."""
        return self.measures[_SPENT]

    def of(self, measure: str) -> int:
        """The sum of one measure."""
        return self.measures[MEASURES.index(measure)]

    def add(self, outcome: str, method: str | None, measures: Sequence[int]) -> None:
        """Add what entries of one outcome and one method come to."""
        self.measures = list(map(add, self.measures, measures))
        _more(self.outcomes, outcome, measures[_REQUESTS])
        if measures[_SHADOWS]:
            _more(self.shadows, outcome, measures[_SHADOWS])
        if measures[_COMPARED] or measures[_LIKELY]:
            _more(self.methods, method or "", measures[_LIKELY])
            _more(self.compared, method or "", measures[_COMPARED])

    @classmethod
    def total(cls, parts: Iterable[Sums]) -> Sums:
        """The sum of groups that have no request in common, as the ledger itself would have summed them."""
        whole = cls()
        for part in parts:
            whole.measures = list(map(add, whole.measures, part.measures))
            for name in ("outcomes", "methods", "compared", "shadows"):
                counts = getattr(whole, name)
                for each, count in getattr(part, name).items():
                    _more(counts, each, count)
        return whole

    def row(self, group: str = ALL) -> SavingsRow:
        """The same for a reader."""
        s = dict(zip(MEASURES, self.measures, strict=True))
        compared = s["compared"]
        baseline, saved, share = _saved(compared, s["compared_spent"], s["likely"])
        return SavingsRow(
            group=group,
            requests=s["requests"],
            outcomes=_some(self.outcomes),
            spent=_money(s["spent"]),
            spent_by_stage={stage: _money(s[stage]) for stage in STAGES},
            baseline_by_method={
                method: _money(nano) for method, nano in sorted(self.methods.items()) if nano or self.compared[method]
            },
            baseline_low=_money(s["low"]) if compared and s["low_known"] == compared else None,
            baseline=baseline,
            baseline_high=_money(s["high"]) if compared and s["high_known"] == compared else None,
            compared=compared,
            compared_spent=_money(s["compared_spent"]),
            saved=saved,
            share=share,
            wasted=s["wasted"],
            wasted_spent=_money(s["wasted_spent"]),
            unpriced=s["unpriced"],
            notional=_money(s["notional"]),
            bound=_money(s["bound"]),
            teacher_output_tokens=s["teacher_tokens"],
            baseline_output_tokens=s["baseline_tokens"],
            output_token_share=s["teacher_tokens"] / s["baseline_tokens"] if s["baseline_tokens"] else None,
            corrected=_money(s["corrected"]),
            shadows=_some(self.shadows),
            shadows_unpriced=s["shadows_unpriced"],
        )


class Brief(NamedTuple):
    """The measures of a group that a page has room for, and those that tell whether there is such a group."""

    requests: int
    spent: int
    compared: int
    compared_spent: int
    likely: int
    unpriced: int
    shadows: int

    @classmethod
    def total(cls, parts: Iterable[Brief]) -> Brief:
        """The sum of groups that have no request in common."""
        return cls(*map(sum, zip(*parts, strict=True)))

    def row(self, group: str) -> BriefRow:
        """The same for a reader."""
        baseline, saved, share = _saved(self.compared, self.compared_spent, self.likely)
        return BriefRow(group, self.requests, Money(self.spent), baseline, saved, share, self.unpriced)


NOTHING = Brief(0, 0, 0, 0, 0, 0, 0)


def _saved(compared: int, spent: int, likely: int) -> tuple[Money | None, Money | None, float | None]:
    """The baseline of what can be compared, how much less was spent, and what part of it; None: nothing can be."""
    if not compared:
        return None, None, None
    return Money(likely), Money(likely - spent), spent / likely if likely else None


def _money(nano: int) -> Money:
    return Money(nano) if nano else Money.ZERO  # half of what thousands of rows are made of


def _more(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _some(counts: dict[str, int]) -> dict[str, int]:
    """The counts that are not zero, by name; sums of rows may come to nothing."""
    return {name: count for name, count in sorted(counts.items()) if count}
