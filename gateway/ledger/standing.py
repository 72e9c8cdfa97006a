"""Standing: the baseline that a request has by now, after what later prices and its measurement made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from gateway.ledger.basis import Range

Row = Mapping[Any, Any]


class Standing(NamedTuple):
    """A baseline: nano-dollars, None where unknown, and the tokens behind `likely`. `method` None: there is none."""

    method: str | None
    low: int | None
    likely: int | None
    high: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Reckoned:
    """The amounts behind it: of the baseline that the request settled with, and what the measurement of it cost.

    `measured` is None where nothing measured it, or without a price.
    """

    own: Range
    measured: int | None

    @classmethod
    def of(cls, entry: Row, measurement: Row | None, corrections: Sequence[Row] = ()) -> Reckoned:
        """As they were booked, and then corrected; `corrections` in the order of their numbers."""
        told = [orjson.loads(each["baseline"]) for each in corrections if each["baseline"] is not None]
        later: Mapping[str, Any] = told[-1] if told else {}
        low, likely, high = later.get("own", [entry[f"baseline_{name}"] for name in ("low", "likely", "high")])
        booked = None if measurement is None else measurement["cost"]
        return cls((low, likely, high), later.get("measured", booked))

    def dumps(self, *, measured: bool) -> str:
        """As JSON, for a correction; `measured`: there is a measurement."""
        return orjson.dumps({"own": self.own, **({"measured": self.measured} if measured else {})}).decode()


def standing(entry: Row, measurement: Row | None = None, reckoned: Reckoned | None = None) -> Standing:
    """The baseline of a request: the measurement's, where it has an amount and the request was none already.

    `reckoned` None: as it was booked.
    """
    amounts = reckoned or Reckoned.of(entry, measurement)
    if measurement is not None and amounts.measured is not None and entry["baseline_method"] != "measured":
        return Standing("measured", *(amounts.measured,) * 3, measurement["teacher_output"])
    return Standing(entry["baseline_method"], *amounts.own, entry["baseline_tokens"])
