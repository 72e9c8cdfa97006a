"""Tally: the measures of one request in Python, for those who say what changes about it.

It is what `savings.SUMS` says, over one entry whose calls cost what they are told to (a test holds the two equal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.ledger.schema import GROUPED, MEASURES

Row = Mapping[Any, Any]
Amounts = dict[str, int | None]
"""What the calls of a request cost, by their ids; None: unknown."""


def amounts(of_entry: Sequence[Row], corrections: Sequence[Row]) -> Amounts:
    """What the calls of an entry cost, as they were booked and then corrected."""
    found: Amounts = {call["id"]: call["amount"] for call in of_entry}
    for correction in corrections:
        found |= {call: change["after"] for call, change in orjson.loads(correction["calls"]).items()}
    return found


def tally(entry: Row, of_entry: Sequence[Row], costs: Amounts, measurement: Row | None = None) -> Counter[str]:
    """The measures of a request whose calls cost `costs`, with the baseline that `measurement` gives it, if any.

    A `measured` baseline that was the request's own bill follows its cost; other baselines stay.
    """
    kind = "requests" if entry["shadow_of"] is None else "shadows"
    sums: Counter[str] = Counter({kind: 1})
    for call in of_entry:
        if call["is_open"]:
            continue  # its entry does not know of it; recovery adds it, if nobody settles it
        amount = costs[call["id"]]
        if amount is None:
            sums["unpriced" if kind == "requests" else "shadows_unpriced"] = 1
            continue
        sums["spent"] += amount
        sums[call["stage"]] += amount
        sums["notional"] += amount if call["notional"] else 0
        sums["bound"] += amount if call["is_bound"] else 0
    if entry["wasted"] is not None:
        sums["wasted"], sums["wasted_spent"] = 1, sums["guidance"]
    known = not (sums["unpriced"] or sums["shadows_unpriced"])
    low, likely, high, tokens = _baseline(entry, sums["spent"] if known else None, measurement)
    if known and likely is not None:
        sums.update(compared=1, compared_spent=sums["spent"], likely=likely)
        sums.update(low=low or 0, low_known=low is not None, high=high or 0, high_known=high is not None)
    if entry["teacher_tokens"] is not None and tokens is not None:
        sums.update(teacher_tokens=entry["teacher_tokens"], baseline_tokens=tokens)
    return sums


def correction(
    entry: Row, number: int, made: float, of: str | None, difference: Mapping[str, int], calls: str = "{}"
) -> dict[str, Any]:
    """A row of `corrections`: by how much the sums of `entry` under the method `of` differ."""
    return {
        "request_id": entry["request_id"],
        "number": number,
        "made": made,
        "calls": calls,
        "baseline_method": of,
        **{column: entry[column] for column in ("at", "day", *GROUPED)},
        **{measure: difference.get(measure, 0) for measure in MEASURES},
    }


def method(entry: Row, measurement: Row | None) -> str | None:
    """The method of the baseline that a request has, once it was measured."""
    return "measured" if _gives(entry, measurement) else entry["baseline_method"]


def _gives(entry: Row, measurement: Row | None) -> bool:
    """Whether the baseline is the measurement's: it has an amount, and the request was none already."""
    return measurement is not None and measurement["cost"] is not None and entry["baseline_method"] != "measured"


def _baseline(
    entry: Row, spent: int | None, measurement: Row | None
) -> tuple[int | None, int | None, int | None, int | None]:
    if measurement is not None and _gives(entry, measurement):
        cost = measurement["cost"]
        return cost, cost, cost, measurement["teacher_output"]
    told = (entry["baseline_low"], entry["baseline_likely"], entry["baseline_high"])
    if entry["baseline_method"] == "measured" and told == (entry["spent"],) * 3:
        told = (spent,) * 3
    return *told, entry["baseline_tokens"]
