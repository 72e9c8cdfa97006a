"""What every ledger must do with shadows: money of their own, measured baselines, sums that stay the entries'."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import BigInteger, cast, select, update

from gateway.chat import Outcome
from gateway.ledger import rollup, rows
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.reprice import reprice
from gateway.ledger.savings import SUMS
from gateway.ledger.schema import MEASURES, calls, entries, measurements, runs
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store
from gateway.ledger.tally import amounts, tally
from gateway.ledger.upkeep import rebuild
from pricing.baseline import Baseline
from pricing.bill import Line
from pricing.book import Price
from pricing.length_ratio import Pairs
from pricing.money import Money
from pricing.usage import Usage
from tests.conftest import Postgres
from tests.contracts.shadowed import DEARER, GUESS, NOON, SMALL, SOL, call, cost, reckoned, served, shadow

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ledger(database: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(database, spool=tmp_path)
    yield made
    await made.aclose()


def proven(ledger: SqlLedger) -> bool:
    with ledger.store.transaction() as connection:
        return rollup.differences(connection) == []


async def test_a_shadow_gives_a_measured_baseline_and_is_no_request(ledger: SqlLedger) -> None:
    request = served("r")
    await ledger.settle(request)
    [before] = await ledger.savings()
    await ledger.settle(shadow(request))
    [after] = await ledger.savings()
    alone = cost(120)
    assert before.spent_by_stage["measurement"] == Money.ZERO
    assert after == replace(
        before,
        spent=before.spent + alone,
        spent_by_stage={**before.spent_by_stage, "measurement": alone},
        baseline_by_method={"measured": alone},
        baseline_low=alone,
        baseline=alone,
        baseline_high=alone,
        saved=alone - before.compared_spent,
        share=before.compared_spent.nano / alone.nano,
        baseline_output_tokens=120,
        output_token_share=40 / 120,
        shadows={"ok": 1},
    )
    assert after.saved_after_measurement == -before.compared_spent
    assert proven(ledger)
    found = await ledger.entry("r")
    assert found is not None
    assert found["baseline"]["method"] == "same_length", "what was booked stays"
    assert found["shadow"]["measured"] == {
        "request_id": "r",
        "shadow_id": "r-shadow",
        "at": NOON,
        "route": "gkt",
        "strategy": "cut-off",
        "model": "sol",
        "propensity": 0.45,
        "shown_input": 100,
        "shown_output": 80,
        "teacher_input": 100,
        "teacher_output": 120,
        "cost": alone.nano,
        "price": {
            "model": "sol",
            "source": "config",
            "input": 2_000_000_000,
            "output": 10_000_000_000,
            "cached": None,
            "cache_write": None,
            "per_hour": None,
            "row": "sol: 2/10",
        },
    }
    assert [each["made"] for each in found["corrections"]] == [NOON + 3.0] * 2


async def test_it_counts_once_however_often_it_is_settled(ledger: SqlLedger) -> None:
    request = served("r")
    both = [ledger.settle(each) for each in (request, shadow(request), shadow(request, 500), request)]
    await asyncio.gather(*both, *(ledger.settle(shadow(request)) for _ in range(3)))
    await ledger.settle(shadow(request, 700))
    [row] = await ledger.savings()
    assert (row.requests, row.shadows, row.measurement, row.baseline) == (1, {"ok": 1}, cost(120), cost(120))
    assert proven(ledger)


@pytest.mark.parametrize(
    "more", [{"outcome": "failed"}, {"outcome": "abandoned"}, {"price": None}], ids=["failed", "abandoned", "unpriced"]
)
async def test_what_measured_no_cost_moves_no_baseline(ledger: SqlLedger, more: dict[str, Any]) -> None:
    request = served("r")
    await ledger.settle(request)
    await ledger.settle(shadow(request, **more))
    [row] = await ledger.savings()
    assert (row.baseline_by_method, row.shadows) == ({"same_length": Money(1_000)}, {more.get("outcome", "ok"): 1})
    assert (row.unpriced, row.shadows_unpriced) == (0, int("price" in more))
    assert (await ledger.lengths(0.0) == {}) == ("outcome" in more), "its length was measured all the same"
    assert proven(ledger)


async def test_a_shadow_whose_request_is_not_there_is_money_alone(ledger: SqlLedger) -> None:
    await ledger.settle(shadow(served("nobody")))
    [row] = await ledger.savings()
    assert (row.requests, row.measurement, row.baseline) == (0, cost(120), None)
    assert proven(ledger)


async def test_a_request_that_was_measured_already_stays(ledger: SqlLedger) -> None:
    request = served("r", baseline=Baseline("measured", Money(7), Money(7), Money(7), 1))
    await ledger.settle(request)
    await ledger.settle(shadow(request))
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": Money(7)}


async def test_one_that_had_no_baseline_gets_one(ledger: SqlLedger) -> None:
    request = served("r", baseline=None)
    await ledger.settle(request)
    await ledger.settle(shadow(request))
    [row] = await ledger.savings()
    assert (row.compared, row.baseline_by_method) == (1, {"measured": cost(120)})
    assert proven(ledger)


async def test_lengths_are_summed_by_route_strategy_and_model(ledger: SqlLedger) -> None:
    for number, (shown, output) in enumerate([(80, 120), (90, 60), (50, 50)]):
        request = replace(served(f"r{number}", shown), at=NOON + number)
        await ledger.settle(request)
        await ledger.settle(shadow(request, output))
    other = replace(served("other"), route="*")
    await ledger.settle(other)
    await ledger.settle(shadow(other, 5))
    assert await ledger.lengths(NOON) == {
        ("gkt", "cut-off", "sol"): Pairs.of([(80, 120), (90, 60), (50, 50)]),
        ("*", "cut-off", "sol"): Pairs.of([(80, 5)]),
    }
    assert await ledger.lengths(NOON + 2) == {("gkt", "cut-off", "sol"): Pairs.of([(50, 50)])}


async def test_sums_are_those_of_plain_python(ledger: SqlLedger, database: str) -> None:
    """Many requests, some shadowed, some shadows failed or unpriced: by every grouping, to the nano-dollar."""
    dice = random.Random(5)
    requests: list[Entry] = []
    shadowed: dict[str, Entry] = {}
    for number in range(60):
        base = dice.choice([None, GUESS, Baseline("calibrated", None, Money(number), Money(9_000), None)])
        request = replace(
            served(f"r{number}", dice.randrange(40, 300), baseline=base, wasted=dice.choice([None, "empty"])),
            at=NOON + number * 1_999.5,
            model=dice.choice("ab"),
            caller=dice.choice("xy"),
            strategy=dice.choice(["cut-off", "hint"]),
            teacher_tokens=dice.choice([None, 40]),
        )
        if dice.random() < 0.2:
            last = request.calls[-1]
            last.line = Line(last.stage, last.model, Usage(), None, None)
        requests.append(request)
        if dice.random() < 0.6:
            outcome: Outcome = dice.choice(["ok", "ok", "failed"])
            shadowed[request.request_id] = shadow(
                request, dice.randrange(400), price=dice.choice([SOL, SOL, None]), outcome=outcome
            )
    await asyncio.gather(*(ledger.settle(each) for each in requests))
    await asyncio.gather(*(ledger.settle(each) for each in shadowed.values()))
    assert proven(ledger)
    assert not await asyncio.to_thread(rebuild, database)

    def standing(request: Entry) -> Baseline | None:
        measured = shadowed.get(request.request_id)
        if measured is None or measured.outcome != "ok" or measured.spent is None:
            return request.baseline
        return Baseline("measured", measured.spent, measured.spent, measured.spent, measured.teacher_tokens)

    for by in (None, "model", "caller", "strategy", "day", "hour"):
        found = await ledger.savings(Query(by=by))
        assert sum(row.requests for row in found) == 60
        for row in found:
            if by in ("day", "hour"):
                continue
            of = [each for each in requests if by is None or getattr(each, by) == row.group]
            shadows = [each for each in shadowed.values() if by is None or getattr(each, by) == row.group]
            compared = [
                (each.spent, base, each)
                for each in of
                if each.spent is not None and (base := standing(each)) is not None and base.likely is not None
            ]
            methods: Counter[str] = Counter()
            for _, base, _ in compared:
                methods[base.method] += base.likely.nano if base.likely else 0
            assert {name: amount.nano for name, amount in row.baseline_by_method.items()} == methods
            assert (row.requests, row.compared) == (len(of), len(compared))
            assert row.compared_spent == Money.total(spent for spent, _, _ in compared)
            assert row.measurement == Money.total(each.spent for each in shadows if each.spent is not None)
            assert row.shadows == dict(sorted(Counter(each.outcome for each in shadows).items()))
            assert row.shadows_unpriced == sum(each.spent is None for each in shadows)
            assert row.unpriced == sum(each.spent is None for each in of)
            assert row.spent == Money.total(row.spent_by_stage.values())
            lengths = [
                (each.teacher_tokens, base.output_tokens)
                for each in of
                if each.teacher_tokens is not None
                and (base := standing(each)) is not None
                and base.output_tokens is not None
            ]
            assert row.teacher_output_tokens == sum(teacher for teacher, _ in lengths)
            assert row.baseline_output_tokens == sum(alone for _, alone in lengths)


async def test_a_tally_is_what_the_database_sums(ledger: SqlLedger) -> None:
    dear = Baseline("measured", None, Money(50), Money(60))
    settled = [served("r"), served("wasted", baseline=dear, wasted="empty"), served("bare", baseline=None)]
    open_ended = served("unpriced")
    open_ended.calls[0].line = None
    for each in [*settled, open_ended]:
        await ledger.settle(each)
    await ledger.settle(shadow(open_ended, price=None))
    with ledger.store.transaction() as connection:
        for entry in connection.execute(select(entries)).mappings():
            this = entries.c.request_id == entry["request_id"]
            sums = [cast(SUMS[name], BigInteger).label(name) for name in MEASURES]
            summed = connection.execute(select(*sums).where(this)).mappings().one()
            made = connection.execute(select(calls).where(calls.c.request_id == entry["request_id"])).mappings().all()
            tallied = tally(entry, made, amounts(made, []))
            assert {name: tallied[name] for name in MEASURES} == dict(summed)


async def test_later_prices_correct_both_and_land_under_the_right_method(ledger: SqlLedger, database: str) -> None:
    request = served("r")
    await ledger.settle(request)
    await ledger.settle(shadow(request))
    [before] = await ledger.savings()

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price:
        return DEARER if model == "sol" else SMALL

    done = await asyncio.to_thread(reprice, database, quote, Query(), 2e9)
    assert (done.requests, done.changed) == (2, 2)
    [after] = await ledger.savings()
    more = cost(40)
    assert after.compared_spent == before.compared_spent + more
    assert after.measurement == cost(120, DEARER)
    assert after.baseline_by_method == {"measured": cost(120, DEARER)}, "what the shadow costs by now"
    assert after.corrected == more + cost(120)
    assert after.saved == cost(120, DEARER) - after.compared_spent, "of one price list, not of two"
    assert proven(ledger)
    assert not await asyncio.to_thread(rebuild, database)
    assert (await asyncio.to_thread(reprice, database, quote, Query(), 2e9)).changed == 0


async def test_a_correction_before_the_shadow_moves_too(ledger: SqlLedger, database: str) -> None:
    """As when the shadow waited on disk."""
    request = served("r", **reckoned())
    await ledger.settle(request)

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price:
        return DEARER if model == "sol" else SMALL

    await asyncio.to_thread(reprice, database, quote, Query(), 2e9)
    [before] = await ledger.savings()
    assert before.baseline_by_method == {"same_length": cost(80, DEARER)}
    await ledger.settle(shadow(request))
    [after] = await ledger.savings()
    assert (after.compared_spent, after.corrected) == (before.compared_spent, before.corrected)
    assert (after.requests, after.baseline_by_method) == (1, {"measured": cost(120)})
    assert proven(ledger)


async def test_what_a_crash_left_open_is_booked_at_its_bound_and_measures_nothing(
    database: str, tmp_path: Path
) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path, heartbeat=3_600)
    store: Store = ledger.store
    request = served("r")
    await ledger.settle(request)
    truth = shadow(request)
    await ledger.intend(truth.calls[0])
    other = store.join(NOON)
    with store.transaction(write=True) as connection:
        connection.execute(update(runs).where(runs.c.id != other).values(host="elsewhere", heartbeat=0.0))
    assert store.recover(other, NOON) == 1
    [row] = await ledger.savings()
    assert (row.requests, row.outcomes, row.shadows) == (1, {"ok": 1}, {"recovered": 1})
    assert (row.measurement, row.bound) == (Money(900), Money(900))
    assert row.baseline_by_method == {"same_length": Money(1_000)}
    found = await ledger.entry("r")
    assert found is not None
    assert (found["shadow"]["shadow_of"], found["shadow"]["measured"]) == ("r", None)
    assert proven(ledger)
    # The process lived after all.
    await ledger.settle(truth)
    [row] = await ledger.savings()
    assert (row.shadows, row.measurement, row.bound) == ({"ok": 1}, cost(120), Money.ZERO)
    assert row.baseline_by_method == {"measured": cost(120)}
    assert proven(ledger)
    await ledger.aclose()


async def dead_to_others(ledger: SqlLedger) -> int:
    """Another process takes this one for dead and settles what it left open; the number of calls."""
    store: Store = ledger.store
    other = store.join(NOON)
    with store.transaction(write=True) as connection:
        connection.execute(update(runs).where(runs.c.id != other).values(host="elsewhere", heartbeat=0.0, ended=None))
    return await asyncio.to_thread(store.recover, other, NOON)


async def test_a_recovered_request_is_measured_when_it_is_settled_after_all(database: str, tmp_path: Path) -> None:
    ledger = await SqlLedger.open(database, spool=tmp_path, heartbeat=3_600)
    request = served("r")
    for each in request.calls:
        await ledger.intend(each)
    assert await dead_to_others(ledger) == 2
    await ledger.settle(shadow(request))
    [row] = await ledger.savings()
    assert (row.outcomes, row.shadows, row.compared) == ({"recovered": 1}, {"ok": 1}, 0), "nothing is known of it"
    assert proven(ledger)
    for _ in range(2):
        await ledger.settle(request)
        [row] = await ledger.savings()
        assert (row.requests, row.outcomes, row.bound) == (1, {"ok": 1}, Money.ZERO)
        assert (row.compared, row.compared_spent) == (1, request.spent)
        assert row.baseline_by_method == {"measured": cost(120)}
        assert row.spent == cost(120) + (request.spent or Money.ZERO)
        assert proven(ledger)
    await ledger.aclose()


Step = Literal["recover", "measure", "reprice"]


@pytest.mark.parametrize("bound", [Money(900), None], ids=["bound", "unbounded"])
@pytest.mark.parametrize("own", [False, True], ids=["guessed", "own bill"])
async def test_a_forgotten_call_is_added_right_whatever_was_corrected_before(
    postgres: Postgres, tmp_path: Path, bound: Money | None, own: bool
) -> None:
    """Recovering, measuring and repricing come to the same sums in whichever order they happen."""

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price:
        return DEARER if model == "sol" else SMALL

    async def sums(url: str, *steps: Step) -> SavingsRow:
        ledger = await SqlLedger.open(url, spool=tmp_path, heartbeat=3_600)
        request = served("r")
        if own:
            request = replace(request, baseline=Baseline("measured", request.spent, request.spent, request.spent, 40))
        await ledger.settle(request)
        await ledger.settle(served("q"))
        forgotten = call("r", 7, "guidance", "teacher", 1, None)
        forgotten.bound = bound
        await ledger.intend(forgotten)
        for step in steps:
            if step == "recover":
                assert await dead_to_others(ledger) == 1
            elif step == "measure":
                await ledger.settle(shadow(request))
            else:
                await asyncio.to_thread(reprice, url, quote, Query(), 2e9)
            assert proven(ledger), (step, steps)
        assert not await asyncio.to_thread(rebuild, url)
        [row] = await ledger.savings()
        await ledger.aclose()
        return row

    numbers = count()

    def fresh() -> str:
        return f"sqlite:///{tmp_path}/{next(numbers)}.db"

    async def same(first: Sequence[Step], *others: Sequence[Step]) -> None:
        wanted = await sums(fresh(), *first)
        assert (wanted.requests, wanted.bound, wanted.unpriced) == (2, bound or Money.ZERO, int(bound is None))
        for steps in others:
            assert await sums(fresh(), *steps) == wanted, steps
        assert await sums(postgres(), *others[-1]) == wanted

    await same(("recover", "measure"), ("measure", "recover"))
    await same(("recover", "reprice"), ("reprice", "recover"))
    # A shadow that is there by then is priced again too.
    late: list[Sequence[Step]] = [("reprice", "recover", "measure"), ("reprice", "measure", "recover")]
    await same(("recover", "reprice", "measure"), *late)
    early: list[Sequence[Step]] = [("measure", "recover", "reprice"), ("measure", "reprice", "recover")]
    await same(("recover", "measure", "reprice"), *early)


async def test_a_baseline_that_was_its_own_bill_stays_that_beside_a_measurement(
    ledger: SqlLedger, database: str
) -> None:
    bill = served("r").spent
    request = served("r", baseline=Baseline("measured", bill, bill, bill, 40))
    await ledger.settle(request)
    await ledger.settle(shadow(request))

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price:
        return DEARER if model == "sol" else SMALL

    await asyncio.to_thread(reprice, database, quote, Query(), 2e9)
    [row] = await ledger.savings()
    assert row.compared_spent == (bill or Money.ZERO) + cost(40)
    assert row.baseline_by_method == {"measured": row.compared_spent}
    assert proven(ledger)


async def test_many_processes_measure_at_once(database: str, tmp_path: Path) -> None:
    ledgers = [await SqlLedger.open(database, spool=tmp_path / str(number)) for number in range(3)]
    requests = [served(f"r{number}") for number in range(60)]

    async def work(number: int, own: Sequence[Entry]) -> None:
        ledger = ledgers[number]
        for each in own:
            await ledger.settle(each)
            await ledger.settle(shadow(each))

    shares = [requests[number::3] for number in range(3)]
    await asyncio.gather(*(work(number, own) for number, own in enumerate(shares)))
    # On a busy machine some of it may have gone to disk, which is as good to who settles it.
    for _ in range(1_500):
        if not any(ledger.spooled for ledger in ledgers):
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("the database did not take what waits on disk")
    [row] = await ledgers[0].savings()
    assert (row.requests, row.shadows, row.baseline) == (60, {"ok": 60}, Money(60 * cost(120).nano))
    assert proven(ledgers[0])
    for ledger in ledgers:
        await ledger.aclose()


def test_a_failure_half_way_writes_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shadow and what it measured come together or not at all; a second try does both."""
    store = Store.open(database)
    run = store.join(NOON)
    request = served("r")
    items = [rows.settlement(each, run, text=False) for each in (request, shadow(request))]

    def fails(*_: object) -> None:
        raise OSError("pulled out")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.ledger.store.measure", fails)
        with pytest.raises(OSError, match="pulled out"):
            store.write(items)
    with store.transaction() as connection:
        assert connection.execute(select(entries)).all() == []
    store.write(items)
    store.write(items)
    with store.transaction() as connection:
        assert len(connection.execute(select(measurements)).all()) == 1
        assert rollup.differences(connection) == []
    store.close()
