"""The sums of a ledger are those of plain Python over the same entries, to the nano-dollar; and so is what it finds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import count as numbers
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.chat import Outcome, Seat, Stage, StrategyName
from gateway.ledger import rollup, savings, upkeep
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.rows import day_of
from gateway.ledger.sql import SqlLedger
from gateway.ledger.sums import Brief, Sums
from pricing.baseline import Baseline, Method
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage
from tests.contracts.entries import NOON, call, entry
from tests.contracts.shadowed import served, shadow

nanos = st.integers(-(10**15), 10**15)
maybe_nanos = st.none() | nanos.map(Money)
maybe_tokens = st.none() | st.integers(0, 10**9)


# Around the limits of hours and days, and a little beside them.
moments = st.builds(
    lambda hours, beside: NOON + hours * 3_600 + beside,
    st.integers(-60, 60) | st.integers(-2_000, 2_000) | st.integers(-20_000, 20_000),
    st.sampled_from([0.0, 0.25, 1_800.0, -2e-6]),
)


@st.composite
def told(draw: st.DrawFn, request_id: str) -> Entry:
    shadow_of = draw(st.none() | st.just("of another"))
    calls = []
    for number in range(draw(st.integers(0, 4))):
        made = call(request_id, number, draw(st.sampled_from(get_args(Stage))), draw(st.sampled_from(get_args(Seat))))
        if draw(st.booleans()):
            amount, notional, bound = draw(maybe_nanos), draw(st.booleans()), draw(st.booleans())
            made.line = Line(made.stage, made.model, Usage(), None, amount, notional, bound)
        calls.append(made)
    baselines = st.builds(
        Baseline, st.sampled_from(get_args(Method)), maybe_nanos, maybe_nanos, maybe_nanos, maybe_tokens
    )
    return entry(
        request_id,
        calls,
        at=draw(moments),
        model=draw(st.sampled_from(["a", "B", "ä", ""])),
        route=draw(st.sampled_from(["a", "b"])),
        strategy=draw(st.sampled_from(get_args(StrategyName))),
        caller=draw(st.sampled_from(["x", "y"])),
        outcome=draw(st.sampled_from(get_args(Outcome))),
        wasted=draw(st.none() | st.sampled_from(["empty", "torn"])),
        teacher_tokens=draw(maybe_tokens),
        baseline=None if shadow_of else draw(st.none() | baselines),
        shadow_of=shadow_of,
    )


def at_stage(wanted: str) -> Callable[[Entry, str, Line], bool]:
    return lambda e, stage, line: stage == wanted


def outcomes(of: Iterable[Entry]) -> dict[str, int]:
    return dict(sorted(Counter(each.outcome for each in of).items()))


def folded(group: str, of: Sequence[Entry]) -> SavingsRow:
    """The sums as entry.py's docstring tells them, the slow way."""
    lines = [(entry, made.stage, made.line) for entry in of for made in entry.calls if made.line and made.line.amount]

    def total(which: Callable[[Entry, str, Line], bool]) -> Money:
        return Money.total(line.amount for entry, stage, line in lines if line.amount and which(entry, stage, line))

    pairs = [(e.spent, e.baseline) for e in of if e.spent is not None and e.baseline and e.baseline.likely is not None]
    likely = [base.likely for _, base in pairs if base.likely is not None]
    low = [base.low for _, base in pairs if base.low is not None]
    high = [base.high for _, base in pairs if base.high is not None]
    spent = Money.total(amount for amount, _ in pairs)
    counts = [
        (e.teacher_tokens, e.baseline.output_tokens)
        for e in of
        if e.teacher_tokens is not None and e.baseline and e.baseline.output_tokens is not None
    ]
    teacher, alone = sum(t for t, _ in counts), sum(b for _, b in counts)
    return SavingsRow(
        group=group,
        requests=sum(e.shadow_of is None for e in of),
        outcomes=outcomes(e for e in of if e.shadow_of is None),
        shadows=outcomes(e for e in of if e.shadow_of is not None),
        shadows_unpriced=sum(e.spent is None and e.shadow_of is not None for e in of),
        spent=total(lambda e, stage, line: True),
        spent_by_stage={wanted: total(at_stage(wanted)) for wanted in get_args(Stage)},
        baseline_by_method={
            method: Money.total(base.likely for _, base in pairs if base.method == method and base.likely is not None)
            for method in get_args(Method)
            if any(base.method == method for _, base in pairs)
        },
        baseline_low=Money.total(low) if pairs and len(low) == len(pairs) else None,
        baseline=Money.total(likely) if pairs else None,
        baseline_high=Money.total(high) if pairs and len(high) == len(pairs) else None,
        compared=len(pairs),
        compared_spent=spent,
        saved=Money.total(likely) - spent if pairs else None,
        share=spent.nano / Money.total(likely).nano if pairs and Money.total(likely) else None,
        wasted=sum(e.wasted is not None for e in of),
        wasted_spent=total(lambda e, stage, line: e.wasted is not None and stage == "guidance"),
        unpriced=sum(e.spent is None and e.shadow_of is None for e in of),
        notional=total(lambda e, stage, line: line.notional),
        bound=total(lambda e, stage, line: line.bound),
        teacher_output_tokens=teacher,
        baseline_output_tokens=alone,
        output_token_share=teacher / alone if alone else None,
    )


def assert_brief_is_whole(brief: Mapping[str, Brief], whole: Mapping[str, Sums]) -> None:
    """The same groups, and of each the same numbers."""
    told = {name: Brief(*(sums.of(measure) for measure in Brief._fields)) for name, sums in whole.items()}
    assert brief == told
    for name, sums in brief.items():
        row, full = sums.row(name), whole[name].row(name)
        assert all(getattr(row, each.name) == getattr(full, each.name) for each in fields(row))


@given(
    data=st.data(),
    count=st.integers(0, 12),
    by=st.sampled_from([None, "day", "model", "strategy", "caller", "caller", "hour", "route"]),
    since=st.none() | moments,
    until=st.none() | moments,
    model=st.sampled_from([None, None, "a"]),
    caller=st.sampled_from([None, None, "x"]),
)
@settings(max_examples=100, deadline=None)
def test_sums_are_exact(
    data: st.DataObject,
    count: int,
    by: str | None,
    since: float | None,
    until: float | None,
    model: str | None,
    caller: str | None,
) -> None:
    of = [data.draw(told(f"r{n}")) for n in range(count)]

    async def ask() -> Sequence[SavingsRow]:
        made = await SqlLedger.open("sqlite://")
        await asyncio.gather(*(made.settle(entry) for entry in of))
        found = await made.savings(Query(since, until, model, by=by, caller=caller))
        with made.store.transaction() as connection:
            assert rollup.differences(connection) == []
        if by in ("model", "strategy", "caller", "route"):  # of whole hours
            first, last = (None if at is None else at // 3_600 * 3_600 for at in (since, until))
            asked = Query(first, last, model, by=by, caller=caller)
            groups = {name: sums for name, sums in (await made.sums(asked)).items() if sums.requests}
            assert await made.names(asked, limit=9) == list(groups)
            for query in (asked, Query(since, until, model, by=by, caller=caller)):
                assert_brief_is_whole(await made.brief(query), await made.sums(query))
            ordered = sorted(groups, key=lambda name: groups[name].requests, reverse=True)
            one = await made.names(asked, limit=1)
            assert [groups[name].requests for name in one] == [groups[name].requests for name in ordered[:1]]
        await made.aclose()
        return found

    def group(of: Entry) -> str:
        hour = datetime.fromtimestamp(of.at // 3_600 * 3_600, UTC)
        times = {"day": day_of(of.at), "hour": hour.strftime("%Y-%m-%dT%H:%MZ")}
        return "all" if by is None else times[by] if by in times else str(getattr(of, by))

    of_range = [
        entry
        for entry in of
        if (since is None or entry.at >= since)
        and (until is None or entry.at < until)
        and (model is None or entry.model == model)
        and (caller is None or entry.caller == caller)
    ]
    names = ["all"] if by is None else sorted({group(entry) for entry in of_range})
    found = asyncio.run(ask())
    assert found == [folded(name, [entry for entry in of_range if group(entry) == name]) for name in names]


ids = numbers()


@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_brief_sums_are_the_whole_ones(data: st.DataObject, url: str, tmp_path: Path) -> None:
    """On each database, over whatever is in it by then: entries, measured ones, and those of earlier examples."""
    of = [data.draw(told(f"r{next(ids)}")) for _ in range(8)]
    measured = replace(served(f"r{next(ids)}"), at=data.draw(moments))
    queries = [
        Query(
            data.draw(st.none() | moments),
            data.draw(st.none() | moments),
            by=by,
            model=data.draw(st.sampled_from([None, None, "a"])),
            caller=data.draw(st.sampled_from([None, None, "x"])),
        )
        for by in ("caller", "model", "strategy", "route")
    ]

    async def ask() -> None:
        made = await SqlLedger.open(url, spool=tmp_path)
        await asyncio.gather(*(made.settle(entry) for entry in of))
        await made.settle(measured)
        await made.settle(shadow(measured))
        for query in queries:
            assert_brief_is_whole(await made.brief(query), await made.sums(query))
        await made.aclose()

    asyncio.run(ask())


@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_days_of_a_zone_are_its_hours_put_together(data: st.DataObject, url: str, tmp_path: Path) -> None:
    """On each database, whose clocks may be set forward and back in between."""
    of = [data.draw(told(f"r{next(ids)}")) for _ in range(8)]
    changes = sorted(data.draw(st.sets(st.integers(-300, 300), min_size=1, max_size=3)))
    ahead = tuple((int(NOON // 3_600) + hour, data.draw(st.integers(-12, 14))) for hour in changes)
    asked = Query(data.draw(st.none() | moments), data.draw(st.none() | moments))

    def day(hour: str) -> str:
        number = int(datetime.fromisoformat(hour).timestamp() // 3_600)
        shift = next((shift for since, shift in reversed(ahead) if since <= number), ahead[0][1])
        return day_of((number + shift) * 3_600)

    async def ask() -> tuple[Mapping[str, Sums], Mapping[str, Sums]]:
        made = await SqlLedger.open(url, spool=tmp_path)
        await asyncio.gather(*(made.settle(entry) for entry in of))
        found = await made.sums(replace(asked, by="hour")), await made.sums(replace(asked, by="day", ahead=ahead))
        await made.aclose()
        return found

    hours, days = asyncio.run(ask())
    together = {name: [sums for hour, sums in hours.items() if day(hour) == name] for name in sorted(map(day, hours))}
    assert list(days) == list(together)
    for name, parts in together.items():
        assert days[name].row(name) == Sums.total(parts).row(name)


def test_there_are_no_brief_sums_of_times() -> None:
    for by in ("day", "hour", None):
        with pytest.raises(ValueError, match="no brief sums"):
            savings.brief(Query(by=by))


@given(
    data=st.data(),
    count=st.integers(0, 30),
    since=st.none() | moments,
    until=st.none() | moments,
    model=st.sampled_from([None, "a", "nobody's"]),
    caller=st.sampled_from([None, "x"]),
    outcome=st.sampled_from([None, "ok"]),
    limit=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_filters_find_the_newest(
    data: st.DataObject,
    count: int,
    since: float | None,
    until: float | None,
    model: str | None,
    caller: str | None,
    outcome: str | None,
    limit: int,
) -> None:
    """Whatever is asked for, page by page, also when a part of the entries was pruned."""
    of = [data.draw(told(f"r{n:02d}")) for n in range(count)]
    pruned = data.draw(st.none() | moments)
    query = Query(since, until, model, caller=caller, outcome=outcome)

    async def ask() -> list[str]:
        made = await SqlLedger.open("sqlite://")
        await asyncio.gather(*(made.settle(entry) for entry in of))
        if pruned is not None:
            with made.store.transaction(write=True) as connection:
                upkeep._mark(connection, int(pruned // 3_600) // 24 * 24)
        found: list[str] = []
        before: tuple[float, str] | None = None
        while page := await made.entries(query, limit=limit, before=before):
            assert len(page) <= limit
            found += [each["request_id"] for each in page]
            before = (page[-1]["at"], page[-1]["request_id"])
        await made.aclose()
        return found

    wanted = [
        (entry.at, entry.request_id)
        for entry in of
        if entry.shadow_of is None
        and (since is None or entry.at >= since)
        and (until is None or entry.at < until)
        and (model is None or entry.model == model)
        and (caller is None or entry.caller == caller)
        and (outcome is None or entry.outcome == outcome)
    ]
    assert asyncio.run(ask()) == [request_id for _, request_id in sorted(wanted, reverse=True)]
