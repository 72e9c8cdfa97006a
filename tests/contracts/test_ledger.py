"""What every ledger must do, whatever database keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import create_engine, delete, func, insert, inspect, select, update

from gateway.cascade.kept import Kept
from gateway.errors import BadRequest, Busy
from gateway.ledger import migrate, rollup, rows
from gateway.ledger.entry import Ledger, Query, SavingsRow
from gateway.ledger.schema import entries, rollups, runs
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage
from students.runs import Machine
from tests.contracts.entries import DAY, NOON, billed, call, entry, pair

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(url, spool=tmp_path)
    yield made
    await made.aclose()


async def test_is_a_ledger(ledger: Ledger) -> None:
    assert await ledger.entry("nobody") is None


async def test_what_goes_in_comes_out(ledger: SqlLedger) -> None:
    first = call("r", 1)
    first.asked, first.route, first.strategy, first.caller = "gpt-6-sol", "*", "cut-off", "alice"
    second = call("r", 2, "answer", "student")
    second.stand_in = "smollm2"
    await ledger.intend(first)
    await ledger.intend(second)
    assert await ledger.entry("r") is None, "not settled yet"
    first.first_token, first.duration, first.finish, first.cut = 0.125, 0.5, "length", True
    first.tier = "flex"
    second.error = "TimedOut"
    second.bound = None
    billed(first, 1_024)
    baseline = Baseline("same_length", Money(5), Money(7_000), Money(2**62), 410)
    told = entry(
        "r",
        [first, second],
        baseline=baseline,
        teacher="openai",
        student="local",
        error="TimedOut",
        wasted="empty",
        stand_in=True,
        propensity=0.25,
        arm="policy",
        shadow_propensity=0.5,
        guidance_cache="bypassed",
        avoided=Money(3),
        shadow_drawn=True,
        drafts=[
            Kept(0, "small", 40, 0, "number", logprob=-0.25, calls=("call-2",)),
            Kept(None, "openai", 12, given=True),
        ],
        first_token=0.125,
        duration=2.5,
        visible_input=312,
        visible_output=450,
        teacher_tokens=40,
    )
    await ledger.settle(told)
    assert await ledger.entry("r") == {
        "request_id": "r",
        "baseline_of": None,
        "at": NOON,
        "day": "2027-01-15",
        "model": "gpt-6-sol",
        "route": "*",
        "strategy": "cut-off",
        "why": "route *",
        "caller": "alice",
        "outcome": "ok",
        "stream": True,
        "teacher": "openai",
        "student": "local",
        "error": "TimedOut",
        "wasted": "empty",
        "guidance_cache": "bypassed",
        "avoided": 3,
        "shadow_drawn": True,
        "drafts": [
            {
                "place": 0,
                "model": "small",
                "output": 40,
                "group": 0,
                "kind": "number",
                "logprob": -0.25,
                "calls": ["call-2"],
            },
            {"place": None, "model": "openai", "output": 12, "given": True},
        ],
        "stand_in": True,
        "propensity": 0.25,
        "arm": "policy",
        "shadow_propensity": 0.5,
        "shadow_of": None,
        "first_token": 0.125,
        "duration": 2.5,
        "visible_input": 312,
        "visible_output": 450,
        "teacher_tokens": 40,
        "spent": None,
        "unpriced": True,
        "priced_spent": 1_024,
        "notional_spent": 0,
        "bound_spent": 0,
        "spent_by_stage": {"guidance": 1_024, "answer": 0, "fallback": 0, "measurement": 0},
        "baseline": {"method": "same_length", "low": 5, "likely": 7_000, "high": 2**62, "output_tokens": 410},
        "text": None,
        "corrections": [],
        "scores": {},
        "shadow": None,
        "calls": [
            {
                "request_id": "r",
                "id": "call-1",
                "run": 1,
                "stage": "guidance",
                "seat": "teacher",
                "upstream": "openai",
                "model": "gpt-6-sol",
                "stand_in": None,
                "asked": "gpt-6-sol",
                "route": "*",
                "strategy": "cut-off",
                "caller": "alice",
                "started": NOON + 1,
                "is_open": False,
                "cut": True,
                "bound_amount": 900,
                "notional": False,
                "is_bound": False,
                "first_token": 0.125,
                "duration": 0.5,
                "finish": "length",
                "error": None,
                "amount": 1_024,
                "tier": "flex",
                "machines": [],
                "usage": {
                    "input": 312,
                    "output": 40,
                    "cached": 256,
                    "cache_write": None,
                    "reasoning": 0,
                    "seconds": 0.25,
                    "source": "counted",
                },
                "price": {
                    "model": "gpt-6-sol",
                    "source": "config",
                    "input": 2_000_000_000,
                    "output": 10_000_000_000,
                    "cached": None,
                    "cache_write": None,
                    "per_hour": None,
                    "row": "gpt-6-sol: 2/10",
                },
            },
            {
                "request_id": "r",
                "id": "call-2",
                "run": 1,
                "stage": "answer",
                "seat": "student",
                "upstream": "openai",
                "model": "gpt-6-sol",
                "stand_in": "smollm2",
                "asked": None,
                "route": None,
                "strategy": None,
                "caller": None,
                "started": NOON + 2,
                "is_open": False,
                "cut": False,
                "bound_amount": None,
                "notional": False,
                "is_bound": False,
                "first_token": None,
                "duration": None,
                "finish": None,
                "error": "TimedOut",
                "amount": None,
                "tier": None,
                "machines": [],
                "usage": None,
                "price": None,
            },
        ],
    }


async def test_a_call_without_an_intent_is_settled_with_its_entry(ledger: SqlLedger) -> None:
    await ledger.settle(entry("r", pair("r")))
    found = await ledger.entry("r")
    assert found is not None
    assert [made["amount"] for made in found["calls"]] == [1_024, 31]


async def test_the_first_settle_counts(ledger: SqlLedger) -> None:
    await ledger.settle(entry("r", pair("r")))
    await ledger.settle(entry("r", [*pair("r", 5, 5), billed(call("r", 3), 77)], caller="mallory"))
    both = [ledger.settle(entry("s", pair("s", n, n))) for n in (1, 2)]
    await asyncio.gather(ledger.settle(entry("r", pair("r", 6))), *both)
    found = await ledger.entry("r")
    assert found is not None
    assert (found["spent"], found["caller"], len(found["calls"])) == (1_055, "alice", 2)
    [row] = await ledger.savings()
    assert (row.requests, row.spent) == (2, Money(1_057))


async def test_a_late_intent_does_not_open_what_is_settled(ledger: SqlLedger) -> None:
    await ledger.settle(entry("r", pair("r")))
    await ledger.intend(call("r", 1))
    found = await ledger.entry("r")
    assert found is not None
    assert not any(made["is_open"] for made in found["calls"])
    assert found["calls"][0]["amount"] == 1_024


@pytest.mark.parametrize("switch", [True, False])
async def test_text_is_stored_only_when_asked_for(url: str, tmp_path: Path, *, switch: bool) -> None:
    made = await SqlLedger.open(url, text=switch, spool=tmp_path)
    await made.settle(entry("with", pair("with"), text={"answer": "The sky \u0000 is blue \U0001f30c"}))
    await made.settle(entry("without", pair("without")))
    found, other = await made.entry("with"), await made.entry("without")
    assert found is not None
    assert other is not None
    assert found["text"] == ({"answer": "The sky \u0000 is blue \U0001f30c"} if switch else None)
    assert other["text"] is None
    await made.aclose()


async def test_savings_of_nothing(ledger: SqlLedger) -> None:
    [row] = await ledger.savings()
    assert (row.group, row.requests, row.spent, row.saved, row.share) == ("all", 0, Money.ZERO, None, None)
    assert await ledger.savings(Query(by="day")) == []


async def test_savings_compare_only_what_is_known_on_both_sides(ledger: SqlLedger) -> None:
    base = Baseline("same_length", Money(1_000), Money(2_000), Money(3_000), 100)
    await ledger.settle(entry("both", pair("both", 300, 100), baseline=base, teacher_tokens=40))
    await ledger.settle(entry("unpriced", pair("unpriced", 500, None), baseline=base, teacher_tokens=40))
    await ledger.settle(entry("no-baseline", pair("no-baseline", 7, 0), wasted="empty", outcome="failed"))
    dear = Baseline("measured", None, Money(50), Money(60))
    await ledger.settle(entry("dear", pair("dear", 90, 0), baseline=dear, teacher_tokens=40))
    [row] = await ledger.savings()
    assert row == SavingsRow(
        group="all",
        requests=4,
        outcomes={"failed": 1, "ok": 3},
        spent=Money(997),
        spent_by_stage={
            "guidance": Money(897),
            "answer": Money(100),
            "fallback": Money.ZERO,
            "measurement": Money.ZERO,
        },
        baseline_by_method={"measured": Money(50), "same_length": Money(2_000)},
        baseline_low=None,  # one of the two has no known low
        baseline=Money(2_050),
        baseline_high=Money(3_060),
        compared=2,
        compared_spent=Money(490),
        saved=Money(1_560),
        share=490 / 2_050,
        wasted=1,
        wasted_spent=Money(7),
        unpriced=1,
        notional=Money.ZERO,
        bound=Money.ZERO,
        teacher_output_tokens=80,
        baseline_output_tokens=200,
        output_token_share=0.4,
    )


async def test_savings_may_be_negative(ledger: SqlLedger) -> None:
    small = Baseline("same_length", Money(1), Money(10), Money(20))
    await ledger.settle(entry("r", pair("r", 30, 5), baseline=small))
    [row] = await ledger.savings()
    assert (row.saved, row.share) == (Money(-25), 3.5)


async def test_savings_by_group_and_by_time(ledger: SqlLedger) -> None:
    for n, (at, model, caller) in enumerate(
        [(NOON, "a", "x"), (NOON + DAY, "b", "x"), (NOON + DAY, "a", "y"), (NOON + 2 * DAY, "a", "x")]
    ):
        await ledger.settle(entry(f"r{n}", pair(f"r{n}", 10**n, 0), at=at, model=model, caller=caller))

    async def spent(query: Query) -> dict[str, int]:
        return {row.group: row.spent.nano for row in await ledger.savings(query)}

    assert await spent(Query(by="day")) == {"2027-01-15": 1, "2027-01-16": 110, "2027-01-17": 1_000}
    assert await spent(Query(by="model")) == {"a": 1_101, "b": 10}
    assert await spent(Query(by="caller")) == {"x": 1_011, "y": 100}
    assert await spent(Query(by="strategy")) == {"cut-off": 1_111}
    assert await spent(Query(since=NOON + DAY, until=NOON + 2 * DAY)) == {"all": 110}, "the end is not included"
    assert await spent(Query(model="a", by="day")) == {"2027-01-15": 1, "2027-01-16": 100, "2027-01-17": 1_000}
    assert await spent(Query(strategy="hint")) == {"all": 0}
    assert await spent(Query(by="hour", until=NOON + DAY)) == {"2027-01-15T08:00Z": 1}
    assert await spent(Query(by="day", since=NOON + 0.5, until=NOON + 2 * DAY + 0.5)) == {
        "2027-01-16": 110,
        "2027-01-17": 1_000,
    }
    assert await spent(Query(by="hour", since=NOON - 0.5, until=NOON + 0.5)) == {"2027-01-15T08:00Z": 1}
    with pytest.raises(BadRequest, match="day, model, strategy, caller"):
        await ledger.savings(Query(by="route; drop table entries"))


async def test_entries_come_newest_first(ledger: SqlLedger) -> None:
    for n in range(5):
        await ledger.settle(entry(f"r{n}", pair(f"r{n}"), at=NOON + n, model="b" if n == 3 else "a"))
    assert [found["request_id"] for found in await ledger.entries(limit=3)] == ["r4", "r3", "r2"]
    assert [found["request_id"] for found in await ledger.entries(Query(model="a", until=NOON + 4))] == [
        "r2",
        "r1",
        "r0",
    ]


async def test_closing_writes_what_waits(url: str, tmp_path: Path) -> None:
    made = await SqlLedger.open(url, spool=tmp_path)
    tasks = [asyncio.create_task(made.settle(entry(f"r{n}", pair(f"r{n}")))) for n in range(300)]
    await asyncio.sleep(0)  # every task has put its entry, none has an answer
    await asyncio.gather(made.aclose(), made.aclose())
    await asyncio.gather(*tasks)
    with pytest.raises(Busy):
        await made.intend(call("late"))
    with pytest.raises(Busy):
        await made.settle(entry("late", []))
    if url != "sqlite://":
        again = await SqlLedger.open(url, spool=tmp_path)
        [row] = await again.savings()
        assert (row.requests, row.spent) == (300, Money(300 * 1_055))
        await again.aclose()


async def test_rollups_are_kept_through_crash_and_correction(url: str, tmp_path: Path) -> None:
    base = Baseline("same_length", Money(1_000), Money(2_000), Money(3_000), 100)
    now = NOON
    ledger = await SqlLedger.open(url, spool=tmp_path, clock=lambda: now, heartbeat=3_600)
    store = ledger.store
    with store.transaction(write=True) as connection:
        connection.execute(update(runs).values(host="elsewhere"))
    for n in range(4):
        await ledger.intend(call(f"r{n}", 1))
        await ledger.intend(call(f"r{n}", 2))
    for n in (0, 1):  # each forgets its second call
        await ledger.settle(entry(f"r{n}", [billed(call(f"r{n}", 1), 7)], baseline=base, at=NOON - n * DAY))
    await ledger.settle(entry("new", pair("new"), baseline=base))
    now += 10_000  # the heart of that process has stopped for everyone else
    other = store.join(now)
    with store.transaction(write=True) as connection:
        connection.execute(update(runs).where(runs.c.id != other).values(heartbeat=0.0, ended=None))
    assert store.recover(other, now) == 6
    [row] = await ledger.savings()
    assert (row.outcomes, row.bound) == ({"ok": 3, "recovered": 2}, Money(6 * 900))
    with store.transaction() as connection:
        assert rollup.differences(connection) == []
    # It was only slow: the truth takes the place of the guess, among new entries and some that are known already.
    late = [entry(f"r{n}", pair(f"r{n}"), baseline=base, at=NOON + DAY, caller="bob") for n in (0, 2, 3)]
    await asyncio.gather(*(ledger.settle(each) for each in [*late, entry("newer", pair("newer")), late[1]]))
    found = await ledger.savings(Query(by="caller"))
    assert [(row.group, row.requests, row.outcomes) for row in found] == [
        ("alice", 4, {"ok": 4}),
        ("bob", 2, {"ok": 2}),
    ]
    with store.transaction(write=True) as connection:
        assert rollup.differences(connection) == []
        connection.execute(update(rollups).where(rollups.c.requests > 0).values(spent=rollups.c.spent + 1))
        wrong = rollup.differences(connection)
        assert all(each["kept"]["spent"] == each["should"]["spent"] + 1 for each in wrong if each["level"] == 1)
        connection.execute(delete(rollups).where(rollups.c.level == 4))
        assert {each["level"] for each in rollup.differences(connection)} >= {1, 4}
        rollup.hold(connection)
        rollup.rebuild(connection)
        assert rollup.differences(connection) == []
    await ledger.aclose()


async def test_an_older_database_gets_its_rollups(url: str) -> None:
    if url.startswith("sqlite:///"):
        Store.open(url).close()  # makes the folder
        url += ".old"
    old = create_engine(url)
    with old.begin() as connection:
        command.upgrade(migrate.config(connection), "0002")
        there = {column["name"] for column in inspect(connection).get_columns("entries")}
        base = Baseline("same_length", None, Money(2_000), Money(3_000), 100)
        for n in range(40):
            told = entry(
                f"r{n}",
                pair(f"r{n}", 10**n % 999, None if n % 7 == 0 else n),
                at=NOON + n * 1_800.5,
                baseline=base if n % 3 else None,
                wasted="empty" if n % 5 == 0 else None,
                teacher_tokens=n if n % 4 else None,
                model="ab"[n % 2],
            )
            row = rows.settlement(told, 1, text=False).entry
            known = zip(entries.columns.keys(), row, strict=True)
            connection.execute(insert(entries).values({name: value for name, value in known if name in there}))
        migrate.upgrade(connection)
        assert migrate.current(connection) == migrate.HEAD
        assert rollup.differences(connection) == []
        assert connection.scalar(select(func.sum(rollups.c.requests)).where(rollups.c.level == 3)) == 40
    old.dispose()


async def test_entries_and_sums_of_one_caller_or_outcome(ledger: SqlLedger) -> None:
    for number, (caller, outcome) in enumerate([("a", "ok"), ("a", "failed"), ("b", "ok")]):
        await ledger.settle(entry(f"r{number}", pair(f"r{number}"), caller=caller, outcome=outcome))
    for query, ids in ((Query(caller="a"), {"r0", "r1"}), (Query(outcome="ok"), {"r0", "r2"})):
        assert {each["request_id"] for each in await ledger.entries(query)} == ids
        (row,) = await ledger.savings(query)
        assert row.requests == 2
    (row,) = await ledger.savings(Query(caller="a", outcome="failed", by="strategy"))
    assert row.requests == 1


async def test_pages_of_entries_hold_each_once(ledger: SqlLedger) -> None:
    for number in range(11):  # four at each moment: a page may end among equals
        await ledger.settle(entry(f"r{number:02d}", pair(f"r{number:02d}"), at=NOON + number // 4 + 0.1))
    whole = [each["request_id"] for each in await ledger.entries()]
    paged: list[str] = []
    before: tuple[float, str] | None = None
    while found := await ledger.entries(limit=3, before=before):
        paged += [each["request_id"] for each in found]
        before = (found[-1]["at"], found[-1]["request_id"])
    assert paged == whole == sorted(whole, reverse=True)


async def test_the_calls_of_the_newest_entries(ledger: SqlLedger) -> None:
    for number in range(3):
        await ledger.settle(entry(f"r{number}", pair(f"r{number}"), at=NOON + number))
    await ledger.intend(call("open"))
    assert len(await ledger.calls()) == 6
    newest = await ledger.calls(limit=2)
    assert {each.request_id for each in newest} == {"r1", "r2"}
    assert newest[0].output == 40
    assert len(await ledger.calls(Query(until=NOON + 1))) == 2


async def test_the_times_of_the_newest_calls_to_one_upstream(ledger: SqlLedger) -> None:
    for number in range(3):
        made = pair(f"r{number}", guidance=10 + number, answer=None)
        made[0].started, made[0].duration, made[1].upstream = NOON + number, 0.5 * number or None, "elsewhere"
        await ledger.settle(entry(f"r{number}", made))
    await ledger.intend(call("open"))
    upstream = pair("x")[0].upstream

    async def told(**limits: Any) -> list[tuple[float, float | None, int | None]]:
        return [(each.started, each.duration, each.amount) for each in await ledger.timed(upstream, **limits)]

    assert await told() == [(NOON + 2, 1.0, 12), (NOON + 1, 0.5, 11), (NOON, None, 10)]
    assert await told(limit=1) == [(NOON + 2, 1.0, 12)]
    assert await told(since=NOON + 1, until=NOON + 2) == [(NOON + 1, 0.5, 11)]
    assert [each.amount for each in await ledger.timed("elsewhere")] == [None] * 3
    assert await ledger.timed("nobody") == []


async def test_where_and_how_long_a_call_ran_of_a_price_by_the_hour(ledger: SqlLedger) -> None:
    now = [0]
    machines = {name: Machine(name, lambda: now[0]) for name in ("one", "two")}
    made = pair("r")
    for number, each in enumerate(made):
        for name in ("one", "two"):
            run = machines[name].run(each.runs)
            run.begin()
            now[0] += 1_250_000_000
            run.end()
        for run, after in zip(each.runs, (0.25, 2.0), strict=True):
            run.began = each.started + after
        two = Money.usd(2)
        rate = Price("m", "config", input=two) if number else Price("m", "config", per_hour=two)
        each.usage = Usage(1, 1, seconds=2.5)
        each.line = Line(each.stage, "m", each.usage, rate, Money(7))
    await ledger.settle(entry("r", made))
    [timed] = await ledger.timed(made[0].upstream, limit=1, until=made[0].started + 1e-3)
    assert timed.seconds == 2.5
    at = made[0].started
    assert [(stay.engine, stay.share) for stay in timed.stays] == [("one", 1.25), ("two", 1.25)]
    spans = [moment - at for stay in timed.stays for moment in (stay.began, stay.ended)]
    assert spans == pytest.approx([0.25, 1.5, 2.0, 3.25], abs=1e-5)
    found = await ledger.entry("r")
    assert found is not None
    assert found["calls"][0]["machines"][1]["engine"] == "two"
    assert found["calls"][1]["machines"] == [], "of tokens nobody needs it"


async def test_sums_by_the_hour(ledger: SqlLedger) -> None:
    for number, at in enumerate([NOON - 0.001, NOON, NOON + 3_599.9, NOON + 3_600]):
        await ledger.settle(entry(f"r{number}", pair(f"r{number}"), at=at))
    rows = {row.group: row.requests for row in await ledger.savings(Query(by="hour"))}
    assert rows == {"2027-01-15T07:00Z": 1, "2027-01-15T08:00Z": 2, "2027-01-15T09:00Z": 1}
