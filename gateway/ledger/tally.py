"""Tally: the measures of one request in Python, for those who say what changes about it.

It is what `savings.SUMS` says, over one entry whose calls cost what they are told to (a test holds the two equal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.ledger.schema import GROUPED, MEASURES
from gateway.ledger.standing import Standing, standing

Row = Mapping[Any, Any]
Amounts = dict[str, int | None]
"""What the calls of a request cost, by their ids; None: unknown."""


def amounts(of_entry: Sequence[Row], corrections: Sequence[Row]) -> Amounts:
    """What the calls of an entry cost, as they were booked and then corrected."""
    found: Amounts = {call["id"]: call["amount"] for call in of_entry}
    for correction in corrections:
        found |= {call: change["after"] for call, change in orjson.loads(correction["calls"]).items()}
    return found


def tally(entry: Row, of_entry: Sequence[Row], costs: Amounts, baseline: Standing | None = None) -> Counter[str]:
    """The measures of a request whose calls cost `costs`, and whose baseline is `baseline`; None: as it was booked."""
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
    _, low, likely, high, tokens = baseline or standing(entry)
    if known and likely is not None:
        sums.update(compared=1, compared_spent=sums["spent"], likely=likely)
        sums.update(low=low or 0, low_known=low is not None, high=high or 0, high_known=high is not None)
    if entry["teacher_tokens"] is not None and tokens is not None:
        sums.update(teacher_tokens=entry["teacher_tokens"], baseline_tokens=tokens)
    return sums


def correction(
    entry: Row,
    number: int,
    made: float,
    of: str | None,
    difference: Mapping[str, int],
    calls: str = "{}",
    baseline: str | None = None,
) -> dict[str, Any]:
    """A row of `corrections`: by how much the sums of `entry` under the method `of` differ."""
    return {
        "request_id": entry["request_id"],
        "number": number,
        "made": made,
        "calls": calls,
        "baseline": baseline,
        "baseline_method": of,
        **{column: entry[column] for column in ("at", "day", *GROUPED)},
        **{measure: difference.get(measure, 0) for measure in MEASURES},
    }


Move = tuple[str | None, Mapping[str, int]]


def moved(before: str | None, was: Mapping[str, int], now: str | None, will: Mapping[str, int]) -> list[Move]:
    """By how much the sums under each method differ, for a request that had `was` under one and has `will` under one.

    Of two, the last: all of it. The first gives back all that it had.
    """
    if before == now:
        return [(now, {name: will.get(name, 0) - was.get(name, 0) for name in MEASURES})]
    return [(before, {name: -was.get(name, 0) for name in MEASURES}), (now, dict(will))]
