"""What every ledger must do with drafts: they are written with their entry, once, and go with it."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cascade import kept
from gateway.cascade.kept import Kept
from gateway.chat import Call
from gateway.ledger import drafted, rows
from gateway.ledger.backlog import place
from gateway.ledger.entry import Entry, Query
from gateway.ledger.export import export
from gateway.ledger.spool import Spool, record
from gateway.ledger.sql import SqlLedger
from gateway.ledger.store import Store
from gateway.ledger.upkeep import prune
from pricing.money import Money
from tests.contracts.shadowed import NOON, SMALL, call, served, shadow

pytestmark = pytest.mark.anyio

DRAFTS = (
    Kept(0, "small", 40, 0, "number", logprob=-0.25, limit=64, calls=("r/0",)),
    Kept(1, "other", 38, 1, "number", odd=True, given=True, calls=("r/1",)),
)
REST = (Kept(2, "third", 41, 1, "number", odd=True, calls=("r-shadow/0",)), Kept(None, "teacher", 50, 0, "number"))


def plain(drafts: tuple[Kept, ...]) -> list[dict[str, object]]:
    made: list[dict[str, object]] = msgspec.json.decode(kept.dumps(drafts))
    return made


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(url, spool=tmp_path)
    yield made
    await made.aclose()


async def test_a_request_and_its_shadow_keep_their_drafts(ledger: SqlLedger) -> None:
    request = replace(served("r"), drafts=DRAFTS, shadow_drawn=True)
    await ledger.settle(request)
    await ledger.settle(replace(request, drafts=DRAFTS[:1]))  # a second settle of the same id is ignored
    await ledger.settle(replace(shadow(request), drafts=REST, shadow_drawn=None))
    found = await ledger.entry("r")
    assert found is not None
    assert (found["drafts"], found["shadow"]["drafts"]) == (plain(DRAFTS), plain(REST))
    assert (found["shadow_drawn"], found["shadow"]["shadow_drawn"]) == (True, None)
    await ledger.settle(served("plain"))
    other = await ledger.entry("plain")
    assert other is not None
    assert (other["drafts"], other["shadow_drawn"]) == ([], None)


async def test_drafts_are_exported_without_a_word_and_go_with_their_entry(
    url: str, tmp_path: Path, ledger: SqlLedger
) -> None:
    if url == "sqlite://":
        pytest.skip("nobody else can see a ledger in memory")
    await ledger.settle(replace(served("r"), drafts=DRAFTS))
    export(url, tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert kept.loads(row["drafts"]) == list(DRAFTS)
    assert prune(url, NOON + 2 * 86_400, "entries")[1] == 1
    assert await ledger.entry("r") is None


async def test_drafts_wait_on_disk_with_their_entry(url: str, tmp_path: Path) -> None:
    """A process died with them in its spool."""
    where = place(url, tmp_path)
    if where is None:
        pytest.skip("a ledger in memory has no spool")
    left = Spool.create(*where)
    items = [rows.settlement(replace(served(name), drafts=DRAFTS), 1, text=False) for name in ("r", "s")]
    left.append([made for item in items if (made := record(item)) is not None])
    again, _ = left.read(9)
    assert again == items
    left.close()
    ledger = await SqlLedger.open(url, spool=tmp_path)
    try:
        for name in ("r", "s"):
            found = await ledger.entry(name)
            assert found is not None
            assert found["drafts"] == plain(DRAFTS)
    finally:
        await ledger.aclose()


def told(number: int, costs: tuple[int, int, int], **rest: Any) -> tuple[Entry, Entry]:
    """A request that two students answered, and its shadow's teacher; their calls cost so many nano-dollars."""
    name = f"q{number}"
    made = [billed(call(name, place, "answer", "student", 40, SMALL), cost) for place, cost in enumerate(costs[:2])]
    drafts = [Kept(place, f"s{place}", 40, 0, "number", calls=(each.id,)) for place, each in enumerate(made)]
    request = replace(
        served(name), at=NOON + number, strategy="cascade", calls=made, drafts=drafts, shadow_drawn=True, **rest
    )
    beside = replace(shadow(request), shadow_drawn=None)
    billed(beside.calls[0], costs[2])
    return request, replace(beside, drafts=[Kept(None, "teacher", 120, 0, "number", calls=(beside.calls[0].id,))])


def billed(of: Call, cost: int) -> Call:
    assert of.line is not None
    of.line = replace(of.line, amount=Money(cost))
    return of


async def test_the_requests_that_were_drawn_are_found_with_all_their_answers(ledger: SqlLedger) -> None:
    request, beside = told(0, (5, 7, 100))
    for each in (request, beside):
        await ledger.settle(each)
    await ledger.score("q0", "feedback", 0.25)
    await ledger.score("q0", "agreement", 1.0)
    alone, _ = told(1, (1, 2, 3))  # its shadow is not there (yet)
    await ledger.settle(alone)
    others: list[dict[str, Any]] = [
        {"shadow_drawn": False},
        {"shadow_drawn": None, "shadow_propensity": None},
        {"outcome": "failed"},
        {"route": "other"},
        {"strategy": "teacher"},
    ]
    for number, changes in enumerate(others, 2):
        await ledger.settle(replace(told(number, (1, 2, 3))[0], **changes))
    later, _ = told(9, (1, 2, 3), shadow_propensity=0.25)
    await ledger.settle(later)
    with ledger.store.transaction() as connection:
        first, second, third = drafted.drafted(connection, "gkt", None, None)
        assert [each.request_id for each in drafted.drafted(connection, "gkt", NOON + 1, NOON + 9)] == ["q1"]
        found = drafted.rates(connection, "gkt", None, None)
    assert [each.model for each in first.answers] == ["s0", "s1", "teacher"]
    assert [first.calls[each.calls[0]].amount for each in first.answers] == [5, 7, 100]
    assert [first.calls[each.calls[0]].read for each in first.answers] == [100, 100, 100]
    assert (first.calls["q0/0"].rates or {})["output"] == 80_000_000
    assert (first.at, first.score, first.stand_in) == (NOON, 0.25, False)
    assert [each.model for each in second.answers] == ["s0", "s1"]
    assert (second.score, third.request_id) == (None, "q9")
    assert [(rate.requests, rate.drawn, rate.since) for rate in found] == [(3, 2, NOON), (1, 1, NOON + 9)]
    assert [rate.propensity for rate in found] == pytest.approx([0.9 * 0.5, 0.9 * 0.25])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 3), min_size=1, max_size=6))
def test_what_the_answers_cost_is_what_was_spent(costs: list[tuple[int, int, int]]) -> None:
    """To the nano-dollar: of each answer, and together what savings say, corrections included."""
    store = Store.open("sqlite://")
    run = store.join(0.0)
    pairs = [told(number, each) for number, each in enumerate(costs)]
    store.write([rows.settlement(each, run, text=False) for pair in pairs for each in pair])
    with store.transaction() as connection:
        found = drafted.drafted(connection, "gkt", None, None)
    (row,) = store.savings(Query())
    amounts = [[request.calls[call].amount for each in request.answers for call in each.calls] for request in found]
    assert amounts == [list(each) for each in costs]
    assert sum(amount or 0 for each in amounts for amount in each) == row.spent.nano
    store.close()


async def test_the_newest_drafts_of_a_route_are_found_with_their_shadows(ledger: SqlLedger) -> None:
    for number in range(3):
        request, beside = told(number, (5, 7, 100))
        await ledger.settle(request)
        if number != 1:
            await ledger.settle(beside)
    strangers: list[dict[str, Any]] = [
        {"route": "other"},
        {"strategy": "teacher"},
        {"outcome": "failed"},
        {"drafts": ()},
    ]
    for number, changes in enumerate(strangers, 3):
        await ledger.settle(replace(told(number, (1, 2, 3))[0], **changes))
    found = await ledger.climbed("gkt", NOON, 2)
    assert [[each.model for each in request] for request in found] == [["s0", "s1", "teacher"], ["s0", "s1"]]
    assert len(await ledger.climbed("gkt", NOON, 9)) == 3
    assert await ledger.climbed("gkt", NOON + 2.5, 9) == []
