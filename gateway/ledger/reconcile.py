"""Reconcile: a provider's own usage export beside what the ledger has of the same days and models.

The export is CSV, or JSON: a list of rows, an object with `data`, or the pages of OpenAI's usage API (grouped by
model), whose buckets hold `results`. `NAMES` says which columns are understood; others are passed over. Days are UTC.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, select

from gateway.errors import ConfigError
from gateway.ledger.reading import ledger_at
from gateway.ledger.rows import day_of
from gateway.ledger.schema import calls, corrections
from pricing.money import Money

NAMES: Mapping[str, Sequence[str]] = {
    "date": ("date", "day", "usage_date", "start_time_iso", "start_time", "timestamp", "aggregation_timestamp"),
    "model": ("model", "model_name", "snapshot_id"),
    "input": ("input_tokens", "prompt_tokens", "n_context_tokens_total"),
    "output": ("output_tokens", "completion_tokens", "n_generated_tokens_total"),
    "cost": ("cost", "cost_usd", "amount_usd", "amount_value"),
}
"""The names that each column may have; the first one there counts. Input includes cached tokens; costs are dollars."""

TOKENS = DOLLARS = 10**40
"""Beyond any number that a provider tells. One with a billion digits would be made in full."""

SNAPSHOT = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")

Key = tuple[str, str]
"""A day (ISO) and a model."""


@dataclass(slots=True)
class Used:
    """What was used by one model on one day. None: not told. `uncounted` are calls of which something is unknown."""

    input: int | None = 0
    output: int | None = 0
    cost: Money | None = None
    uncounted: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One number that differs: tokens, or dollars for `cost`. `uncounted` calls of the ledger may be why."""

    day: str
    model: str
    what: str
    theirs: int | Money
    ours: int | Money
    uncounted: int


def reconcile(
    url: str, path: Path, upstreams: Sequence[str] = (), tolerance: float = 0.0
) -> tuple[int, list[Difference]]:
    """How many days and models were compared, and what differs by more than `tolerance` (a share of the larger one).

    Compared are the days from the export's first to its last. With `upstreams`, all calls to those; without, all
    calls to the models that the export names and all others from the teacher's seat. Stand-ins were never asked at a
    provider and are left out. A dated snapshot (`gpt-4o-2024-08-06`) is its model where the ledger only knows that.
    Raises `ConfigError` when the file cannot be read or there is no ledger at `url`.
    """
    theirs = read(path)
    if not theirs:
        raise ConfigError(f"{path} has no usage in it")
    days = sorted(day for day, _ in theirs)
    with ledger_at(url) as connection:
        ours = _booked(connection, days[0], days[-1], {model for _, model in theirs}, upstreams)
    known = {model for _, model in ours}
    merged: dict[Key, Used] = {}
    for (day, model), used in theirs.items():
        plain = SNAPSHOT.sub("", model)
        _add(merged.setdefault((day, plain if model not in known and plain in known else model), Used()), used)
    keys = sorted({*merged, *ours})
    found = [each for key in keys for each in _compare(key, merged.get(key), ours.get(key), tolerance)]
    return len(keys), found


def read(path: Path) -> dict[Key, Used]:
    """The export, summed by day and model. Raises `ConfigError` when it is not understood."""
    found: dict[Key, Used] = {}
    try:
        text = path.read_text("utf-8-sig")
        rows: Iterable[Mapping[str, Any]] = (
            _rows(json.loads(text, parse_float=Decimal))
            if text.lstrip()[:1] in "[{"
            else csv.DictReader(io.StringIO(text, newline=""))
        )
        for number, row in enumerate(rows, 1):
            told = {name: _first(row, names) for name, names in NAMES.items()}
            if told["model"] is None or told["date"] is None:
                raise ValueError(
                    f"row {number} has no {'model' if told['model'] is None else 'date'} (see docs/ledger.md)"
                )
            used = Used(_count(told["input"]), _count(told["output"]), _dollars(told["cost"]))
            _add(found.setdefault((_day(told["date"]), str(told["model"])), Used()), used)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not understood: its brackets are too deep") from error
    except (ValueError, ArithmeticError, csv.Error) as error:
        raise ConfigError(f"{path} is not understood: {error}") from error
    return found


def _rows(data: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a page, of many, or of a plain list; a bucket's results have its time."""
    if isinstance(data, list):
        for each in data:
            yield from _rows(each)
    elif not isinstance(data, dict):
        raise ValueError("a row must be an object")
    elif isinstance(data.get("data"), list):
        yield from _rows(data["data"])
    elif isinstance(data.get("results"), list):
        for result in data["results"]:
            if not isinstance(result, dict):
                raise ValueError("a row must be an object")
            yield {**data, **result}
    else:
        yield data


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _count(value: Any) -> int | None:
    if value is None:
        return None
    count = Decimal(str(value))
    if not count.is_finite() or not 0 <= count < TOKENS or count != int(count):
        raise ValueError(f"{value} is no number of tokens")
    return int(count)


def _dollars(value: Any) -> Money | None:
    if value is None:
        return None
    amount = Decimal(str(value))
    if not amount.is_finite() or abs(amount) >= DOLLARS or (amount and abs(amount) * DOLLARS < 1):
        raise ValueError(f"{value} is no amount of dollars")
    return Money.usd(amount)


def _day(value: Any) -> str:
    text = str(value)
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return day_of(float(text))
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return date.fromisoformat(text).isoformat()
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date().isoformat()


def _add(to: Used, used: Used) -> None:
    to.input = None if to.input is None or used.input is None else to.input + used.input
    to.output = None if to.output is None or used.output is None else to.output + used.output
    to.cost = used.cost if to.cost is None else to.cost if used.cost is None else to.cost + used.cost
    to.uncounted += used.uncounted


def _booked(
    connection: Connection, first: str, last: str, models: set[str], upstreams: Sequence[str]
) -> dict[Key, Used]:
    """What the ledger has, as corrected, by the day on which a call began."""
    begin = datetime.fromisoformat(first).replace(tzinfo=UTC).timestamp()
    end = datetime.fromisoformat(last).replace(tzinfo=UTC).timestamp() + 86_400
    asked = [calls.c.started >= begin, calls.c.started < end, calls.c.stand_in.is_(None), ~calls.c.is_open]
    if upstreams:
        asked.append(calls.c.upstream.in_(upstreams))
    later: dict[tuple[str, str], int] = {}
    # An entry is settled after its calls began: the corrections of these calls are of this time or later.
    changed = select(corrections.c.request_id, corrections.c.calls).where(corrections.c.at >= begin - 86_400)
    for request_id, told in connection.execute(changed.order_by(corrections.c.request_id, corrections.c.number)):
        later |= {(request_id, call): change["after"] for call, change in orjson.loads(told).items()}
    names = {*models, *(SNAPSHOT.sub("", model) for model in models)}
    found: dict[Key, Used] = {}
    for call in connection.execution_options(yield_per=10_000).execute(select(calls).where(*asked)).mappings():
        if not upstreams and call["model"] not in names and call["seat"] != "teacher":
            continue
        amount = later.get((call["request_id"], call["id"]), call["amount"])
        unsure = amount is None or call["is_bound"] or call["input"] is None or call["output"] is None
        used = Used(
            call["input"] or 0,
            call["output"] or 0,
            None if amount is None else Money(amount),
            int(unsure or call["usage_source"] != "reported"),
        )
        _add(found.setdefault((day_of(call["started"]), call["model"]), Used()), used)
    return found


def _compare(key: Key, theirs: Used | None, ours: Used | None, tolerance: float) -> Iterator[Difference]:
    mine = ours or Used(cost=Money.ZERO)
    other = theirs or Used()
    for what in ("input", "output", "cost"):
        said: int | Money | None = getattr(other, what)
        booked: int | Money | None = getattr(mine, what)
        if said is None:
            continue  # the export does not tell it
        if booked is None:
            booked = Money.ZERO
        one, two = (value.nano if isinstance(value, Money) else value for value in (said, booked))
        if abs(one - two) > tolerance * max(abs(one), abs(two)):
            yield Difference(*key, what, said, booked, mine.uncounted)
