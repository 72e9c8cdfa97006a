"""Tags: what the keys of each tag spent and saved, from the sums of their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gateway.dashboard.tables import Column, Table, by_group, dearest
from gateway.keys.key import Key
from gateway.ledger.entry import SavingsRow
from gateway.ledger.savings import ALL, nothing
from pricing.money import Money

NO_TAG = "no tag"

BESIDE = ("requests", "spent_usd", "saved_usd", "saved_share")
"""What of the table stands beside the chart of the overview."""


def by_tag(callers: Sequence[SavingsRow], held: Sequence[Key]) -> list[SavingsRow]:
    """One row a tag, the dearest first, and one of the keys without any: those of the environment have none.

    A key with two tags counts under each, so that the rows may sum to more than there was.
    """
    tags = {key.id: set(key.tags) for key in held}
    groups: dict[str | None, list[SavingsRow]] = {}
    for row in callers:
        for tag in tags.get(row.group) or (None,):
            groups.setdefault(tag, []).append(row)
    return dearest([merged(rows, NO_TAG if tag is None else tag) for tag, rows in groups.items()])


def table(rows: Sequence[SavingsRow]) -> Table:
    """All their sums."""
    return by_group("tags", "By tag of the key", rows, Column("tag", "Tag"))


def merged(rows: Sequence[SavingsRow], group: str = ALL) -> SavingsRow:
    """The sum of rows that have no request in common, as the ledger itself would have summed them."""
    if not rows:
        return nothing(group)
    compared = [row for row in rows if row.compared]
    baseline = _known(row.baseline for row in compared)
    spent = Money.total(row.compared_spent for row in rows)
    teacher, whole = (sum(getattr(row, f"{who}_output_tokens") for row in rows) for who in ("teacher", "baseline"))
    return SavingsRow(
        group=group,
        requests=sum(row.requests for row in rows),
        outcomes=dict(sorted(_counted(row.outcomes for row in rows).items())),
        spent=Money.total(row.spent for row in rows),
        spent_by_stage=_summed(row.spent_by_stage for row in rows),
        baseline_by_method=dict(sorted(_summed(row.baseline_by_method for row in rows).items())),
        baseline_low=_known(row.baseline_low for row in compared),
        baseline=baseline,
        baseline_high=_known(row.baseline_high for row in compared),
        compared=sum(row.compared for row in rows),
        compared_spent=spent,
        saved=None if baseline is None else baseline - spent,
        share=spent.nano / baseline.nano if baseline else None,
        wasted=sum(row.wasted for row in rows),
        wasted_spent=Money.total(row.wasted_spent for row in rows),
        unpriced=sum(row.unpriced for row in rows),
        notional=Money.total(row.notional for row in rows),
        bound=Money.total(row.bound for row in rows),
        teacher_output_tokens=teacher,
        baseline_output_tokens=whole,
        output_token_share=teacher / whole if whole else None,
        corrected=Money.total(row.corrected for row in rows),
        shadows=dict(sorted(_counted(row.shadows for row in rows).items())),
        shadows_unpriced=sum(row.shadows_unpriced for row in rows),
    )


def _known(amounts: Iterable[Money | None]) -> Money | None:
    """Their sum; None when there is none, or one of them is unknown."""
    known: list[Money] = []
    for amount in amounts:
        if amount is None:
            return None
        known.append(amount)
    return Money.total(known) if known else None


def _summed(parts: Iterable[Mapping[str, Money]]) -> dict[str, Money]:
    return {name: Money(nano) for name, nano in _counted(_nanos(part) for part in parts).items()}


def _nanos(part: Mapping[str, Money]) -> dict[str, int]:
    return {name: amount.nano for name, amount in part.items()}


def _counted(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)  # unlike `+`, keeps what is 0 or less
    return dict(total)
