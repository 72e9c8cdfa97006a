"""The sums of savings: one grouped query, in whole nano-dollars, and its fold into rows.

The database groups finer than was asked, by outcome and baseline method too, so that one pass over one table
counts everything; the fold adds whole numbers, so nothing is rounded on the way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, select

from gateway.errors import BadRequest
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.rows import STAGES
from gateway.ledger.schema import entries
from pricing.money import Money

GROUPS = {"day": entries.c.day, "model": entries.c.model, "strategy": entries.c.strategy, "caller": entries.c.caller}
"""What savings can be grouped by."""

ALL = "all"
"""The name of the only group when nothing was asked for."""


def _sum(column: ColumnElement[Any], when: ColumnElement[bool] | None = None) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column if when is None else case((when, column), else_=0)), 0)


def _count(when: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((when, 1), else_=0))


_row = entries.c
_compared = and_(_row.spent.is_not(None), _row.baseline_likely.is_not(None))
_lengths = and_(_row.teacher_tokens.is_not(None), _row.baseline_tokens.is_not(None))
_wasted = _row.wasted.is_not(None)

_sums: dict[str, ColumnElement[Any]] = {
    "requests": func.count(),
    "spent": _sum(_row.priced_spent),
    **{stage: _sum(_row[f"{stage}_spent"]) for stage in STAGES},
    "unpriced": _count(_row.unpriced),
    "notional": _sum(_row.notional_spent),
    "bound": _sum(_row.bound_spent),
    "wasted": _count(_wasted),
    "wasted_spent": _sum(_row.guidance_spent, _wasted),
    "compared": _count(_compared),
    "compared_spent": _sum(_row.spent, _compared),
    "likely": _sum(_row.baseline_likely, _compared),
    "low": _sum(_row.baseline_low, _compared),
    "low_known": _count(and_(_compared, _row.baseline_low.is_not(None))),
    "high": _sum(_row.baseline_high, _compared),
    "high_known": _count(and_(_compared, _row.baseline_high.is_not(None))),
    "teacher_tokens": _sum(_row.teacher_tokens, _lengths),
    "baseline_tokens": _sum(_row.baseline_tokens, _lengths),
}


def wanted(query: Query) -> list[ColumnElement[bool]]:
    """The conditions that `query` puts on an entry."""
    conditions: list[ColumnElement[bool]] = []
    if query.since is not None:
        conditions.append(_row.at >= query.since)
    if query.until is not None:
        conditions.append(_row.at < query.until)
    if query.model is not None:
        conditions.append(_row.model == query.model)
    if query.strategy is not None:
        conditions.append(_row.strategy == query.strategy)
    return conditions


def statement(query: Query) -> Select[Any]:
    """The sums that `query` asks for. Raises `BadRequest` for a grouping that there is not."""
    parts = [_row.outcome.label("outcome"), _row.baseline_method.label("method")]
    if query.by is not None:
        if query.by not in GROUPS:
            raise BadRequest(f"by must be one of {', '.join(GROUPS)}, not {query.by!r}", param="by")
        parts.append(GROUPS[query.by].label("group"))
    sums = [column.label(name) for name, column in _sums.items()]
    return select(*parts, *sums).where(*wanted(query)).group_by(*(part.element for part in parts))


@dataclass(slots=True)
class _Group:
    sums: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[Any, Any]) -> None:
        # PostgreSQL sums whole numbers into numeric, which arrives as Decimal.
        counted = {name: int(row[name]) for name in _sums}
        self.sums.update(counted)
        self.outcomes[row["outcome"]] += counted["requests"]
        if counted["compared"]:
            self.methods[row["method"]] += counted["likely"]


def fold(rows: Iterable[Mapping[Any, Any]], query: Query) -> list[SavingsRow]:
    """The rows of `statement(query)` as one `SavingsRow` a group, ordered by group."""
    groups: defaultdict[str, _Group] = defaultdict(_Group)
    if query.by is None:
        groups[ALL]  # all of nothing is a row of zeros
    for row in rows:
        groups[row["group"] if query.by else ALL].add(row)
    return [_savings(name, groups[name]) for name in sorted(groups)]


def _savings(name: str, group: _Group) -> SavingsRow:
    s = group.sums
    compared = s["compared"]
    return SavingsRow(
        group=name,
        requests=s["requests"],
        outcomes=dict(sorted(group.outcomes.items())),
        spent=Money(s["spent"]),
        spent_by_stage={stage: Money(s[stage]) for stage in STAGES},
        baseline_by_method={method: Money(nano) for method, nano in sorted(group.methods.items())},
        baseline_low=Money(s["low"]) if compared and s["low_known"] == compared else None,
        baseline=Money(s["likely"]) if compared else None,
        baseline_high=Money(s["high"]) if compared and s["high_known"] == compared else None,
        compared=compared,
        compared_spent=Money(s["compared_spent"]),
        saved=Money(s["likely"] - s["compared_spent"]) if compared else None,
        share=s["compared_spent"] / s["likely"] if compared and s["likely"] else None,
        wasted=s["wasted"],
        wasted_spent=Money(s["wasted_spent"]),
        unpriced=s["unpriced"],
        notional=Money(s["notional"]),
        bound=Money(s["bound"]),
        teacher_output_tokens=s["teacher_tokens"],
        baseline_output_tokens=s["baseline_tokens"],
        output_token_share=s["teacher_tokens"] / s["baseline_tokens"] if s["baseline_tokens"] else None,
    )
