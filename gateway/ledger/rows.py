"""Between the gateway's data and the ledger's rows: tuples in the order of the table's columns, and back to plain data.

Tuples, because they go to the database driver as they are: this is on the path of every request. An intent's is the
beginning of a call's: a driver takes as long for a NULL as for a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from gateway.cascade import kept
from gateway.chat import Call
from gateway.ledger.entry import Entry, Stay
from gateway.ledger.schema import calls, entries
from pricing.book import Price
from pricing.money import Money

Row = tuple[Any, ...]

STAGES = ("guidance", "answer", "fallback", "measurement")
RATES = ("input", "output", "cached", "cache_write", "per_hour")
SHADOW_OF = entries.columns.keys().index("shadow_of")
AT = entries.columns.keys().index("at")
STARTED = calls.columns.keys().index("started")
NO_USAGE = (None,) * 7
NANO = 1_000_000_000
RAN = ("engine", "after_s", "took_s", "share_s")
USAGE = ("input", "output", "cached", "cache_write", "reasoning", "seconds")


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that is about to be made."""

    call: Row

    @property
    def request_id(self) -> str:
        """Whose call it is."""
        return str(self.call[0])

    @property
    def at(self) -> float:
        """When it begins, in seconds since the epoch."""
        return float(self.call[STARTED])


@dataclass(frozen=True, slots=True)
class Settlement:
    """An entry and all its calls, to be written together."""

    request_id: str
    entry: Row
    calls: Sequence[Row]

    @property
    def at(self) -> float:
        """When the client asked, in seconds since the epoch."""
        return float(self.entry[AT])

    @property
    def shadow_of(self) -> str | None:
        """The request that it measures; None: it is a client's."""
        return None if self.entry[SHADOW_OF] is None else str(self.entry[SHADOW_OF])

    @property
    def measures(self) -> bool:
        """Whether it is a shadow's: its request's baseline follows from it."""
        return self.entry[SHADOW_OF] is not None


def intent(call: Call, run: int) -> Intent:
    """The open row of `call`, as it is now: later changes to `call` do not reach it."""
    return Intent((*_identity(call, run), True, call.cut, _nano(call.bound), False, False))


def settlement(entry: Entry, run: int, *, text: bool) -> Settlement:
    """The rows of `entry`; its text is left out unless `text`."""
    calls = [_call_row(call, run) for call in entry.calls]
    return Settlement(entry.request_id, _entry_row(entry, text=text), calls)


def day_of(at: float) -> str:
    """The ISO date, in UTC, of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _nano(amount: Money | None) -> int | None:
    return None if amount is None else amount.nano


@lru_cache(maxsize=4096)
def price_text(price: Price) -> str:
    """The rates of a price, where they come from, and the row that says so, as JSON."""
    rates = {name: _nano(getattr(price, name)) for name in RATES}
    return orjson.dumps({"model": price.model, "source": price.source, **rates, "row": price.row}).decode()


def _identity(call: Call, run: int) -> Row:
    return (
        call.request_id,
        call.id,
        run,
        call.stage,
        call.seat,
        call.upstream,
        call.model,
        call.stand_in,
        call.asked,
        call.route,
        call.strategy,
        call.caller,
        call.started,
    )


def _call_row(call: Call, run: int) -> Row:
    line = call.line
    usage = call.usage or (line.usage if line else None)
    return (
        *_identity(call, run),
        False,
        call.cut,
        _nano(call.bound),
        line.notional if line else False,
        line.bound if line else False,
        call.first_token,
        call.duration,
        call.finish,
        call.error,
        *(
            (usage.input, usage.output, usage.cached, usage.cache_write, usage.reasoning, usage.seconds, usage.source)
            if usage
            else NO_USAGE
        ),
        price_text(line.price) if line and line.price else None,
        _nano(line.amount) if line else None,
        call.tier,
        machines(call) if line and line.price and line.price.per_hour is not None else None,
    )


def machines(call: Call) -> str | None:
    """When the call ran where, as JSON: of each run the engine, and the seconds from the call's begin to it, that it
    took, and that were its share (`students.runs`). None: no engine said.
    """
    told = [
        (run.engine, round(run.began - call.started, 6), round(run.lasted, 6), run.share / NANO)
        for run in call.runs
        if run.began is not None and run.lasted is not None and run.share is not None
    ]
    return orjson.dumps(told).decode() if told else None


def stays(text: str | None, started: float) -> Sequence[Stay]:
    """What `machines` wrote of a call that began then."""
    if text is None:  # most calls, of which a page may read thousands
        return ()
    told = orjson.loads(text)
    return [Stay(engine, started + after, started + after + took, share) for engine, after, took, share in told]


def _entry_row(entry: Entry, *, text: bool) -> Row:
    stages = dict.fromkeys(STAGES, 0)
    notional = bound = 0
    unpriced = False
    for call in entry.calls:
        line = call.line
        if line is None or line.amount is None:
            unpriced = True
            continue
        nano = line.amount.nano
        stages[call.stage] += nano
        notional += nano if line.notional else 0
        bound += nano if line.bound else 0
    priced = sum(stages.values())
    base = entry.baseline
    return (
        entry.request_id,
        entry.at,
        day_of(entry.at),
        entry.model,
        entry.route,
        entry.strategy,
        entry.why,
        entry.caller,
        entry.outcome,
        entry.stream,
        entry.teacher,
        entry.student,
        entry.error,
        entry.wasted,
        entry.guidance_cache,
        _nano(entry.avoided),
        entry.stand_in,
        entry.propensity,
        entry.arm,
        entry.shadow_propensity,
        entry.shadow_drawn,
        entry.shadow_of,
        entry.first_token,
        entry.duration,
        entry.visible_input,
        entry.visible_output,
        entry.teacher_tokens,
        None if unpriced else priced,
        unpriced,
        *stages.values(),
        priced,
        notional,
        bound,
        *(
            (base.method, _nano(base.low), _nano(base.likely), _nano(base.high), base.output_tokens)
            if base
            else (None, None, None, None, None)
        ),
        entry.baseline_of.dumps() if entry.baseline_of else None,
        kept.dumps(entry.drafts) if entry.drafts else None,
        orjson.dumps(entry.text, default=str).decode() if text and entry.text is not None else None,
    )


def call_data(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One call as plain data: usage and price nested, amounts in nano-dollars, None where unknown."""
    call = dict(row)
    source = call.pop("usage_source")
    usage = {name: call.pop(name) for name in USAGE}
    call["usage"] = None if source is None else {**usage, "source": source}
    call["price"] = None if call["price"] is None else orjson.loads(call["price"])
    ran = call.pop("machines", None)
    call["machines"] = [dict(zip(RAN, each, strict=True)) for each in orjson.loads(ran)] if ran else []
    return call


def entry_data(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One entry as plain data: baseline and spending by stage nested, amounts in nano-dollars, None where unknown."""
    entry = dict(row)
    entry["spent_by_stage"] = {stage: entry.pop(f"{stage}_spent") for stage in STAGES}
    baseline = {name: entry.pop(f"baseline_{name}") for name in ("method", "low", "likely", "high", "tokens")}
    baseline["output_tokens"] = baseline.pop("tokens")
    entry["baseline"] = None if baseline["method"] is None else baseline
    entry["baseline_of"] = None if entry["baseline_of"] is None else orjson.loads(entry["baseline_of"])
    entry["drafts"] = [] if entry["drafts"] is None else orjson.loads(entry["drafts"])
    entry["text"] = None if entry["text"] is None else orjson.loads(entry["text"])
    return entry
