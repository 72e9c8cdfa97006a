"""What every ledger must do with a baseline when a price was wrong: follow it to the nano-dollar, or not compare."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from gateway.cascade.kept import Kept
from gateway.ledger import upkeep
from gateway.ledger.basis import Basis, Quote, Unasked
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.reprice import Repriced, reprice
from gateway.ledger.schema import entries
from gateway.ledger.sql import SqlLedger
from pricing.baseline import calibrated, measured, same_length
from pricing.bill import line
from pricing.book import Price
from pricing.length_ratio import LengthRatio, Pairs
from pricing.money import Money
from pricing.usage import Usage
from tests.contracts.shadowed import DEARER, NOON, SMALL, SOL, call, cost, reckoned, served, shadow

pytestmark = pytest.mark.anyio

RATIO = LengthRatio(shown=200, teacher=300, low=1.25, high=1.75, pairs=30)
BY = (None, "day", "hour", "model", "strategy", "caller")


@pytest.fixture
async def ledger(database: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(database, spool=tmp_path)
    yield made
    await made.aclose()


def at(sol: Price | None, small: Price | None = SMALL) -> Quote:
    """A price list."""

    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
        assert upstream in ("teacher", "student")
        return {"sol": sol, "small": small}.get(model)

    return quote


async def repriced(url: str, quote: Quote, query: Query = Query(), **more: Any) -> Repriced:  # noqa: B008 - frozen
    found = await asyncio.to_thread(reprice, url, quote, query, 2e9, **more)
    assert await asyncio.to_thread(upkeep.check, url) == []
    return found


async def sums(ledger: SqlLedger) -> list[list[SavingsRow]]:
    """By every grouping, but for the line that says how much of it was corrected."""
    rows = [await ledger.savings(Query(by=by)) for by in BY]
    return [[replace(row, corrected=Money.ZERO) for row in found] for found in rows]


async def test_what_was_saved_is_not_invented(ledger: SqlLedger, database: str) -> None:
    """The teacher's price was doubled: so is what it alone would have cost, in all its range."""
    await ledger.settle(served("r", **reckoned()))
    [before] = await ledger.savings()
    done = await repriced(database, at(DEARER))
    assert (done.baselines, done.lost, done.kept) == (1, 0, 0)
    [after] = await ledger.savings()
    assert (after.baseline_low, after.baseline, after.baseline_high) == (
        cost(40, DEARER),
        cost(80, DEARER),
        cost(160, DEARER),
    )
    assert after.saved == cost(80, DEARER) - after.compared_spent
    assert before.saved is not None
    assert after.saved > before.saved
    found = await ledger.entry("r")
    assert found is not None
    assert found["baseline"]["likely"] == cost(80).nano, "what was booked stays"
    [correction] = found["corrections"]
    assert correction["baseline"] == {"own": [cost(tokens, DEARER).nano for tokens in (40, 80, 160)]}
    again = await repriced(database, at(DEARER))
    assert (again.changed, again.baselines) == (0, 0)
    await repriced(database, at(SOL))
    [back] = await ledger.savings()
    assert replace(back, corrected=Money.ZERO) == before


async def test_a_dry_run_says_the_same_and_changes_nothing(ledger: SqlLedger, database: str) -> None:
    await ledger.settle(served("r", **reckoned()))
    before = await sums(ledger)
    would = await repriced(database, at(DEARER), dry_run=True)
    assert await sums(ledger) == before
    assert await repriced(database, at(DEARER)) == would


async def test_a_shadow_beyond_the_range_still_moves_its_requests_baseline(ledger: SqlLedger, database: str) -> None:
    request = served("r", **reckoned())
    await ledger.settle(request)
    await ledger.settle(shadow(request))
    done = await repriced(database, at(DEARER), Query(until=NOON + 0.5))
    assert (done.requests, done.baselines) == (1, 1)
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": cost(120, DEARER)}
    assert row.measurement == cost(120), "its own spending is of another moment"
    await repriced(database, at(DEARER))
    [row] = await ledger.savings()
    assert (row.baseline_by_method, row.measurement) == ({"measured": cost(120, DEARER)}, cost(120, DEARER))


async def test_of_a_cascades_shadow_the_teachers_whole_answer_alone_measures(ledger: SqlLedger, database: str) -> None:
    """It may have asked the teacher for the first words of a rung as well, and students."""
    request = served("r", **reckoned())
    beside = shadow(request)
    words = call("r-shadow", 1, "measurement", "teacher", 40, SOL)
    student = call("r-shadow", 2, "measurement", "student", 90, SMALL)
    alone = Kept(None, "teacher", 120, calls=(beside.calls[0].id,))
    rung = Kept(0, "student", 130, guidance=40, calls=(words.id, student.id))
    calls = [words, *beside.calls, student]
    await ledger.settle(request)
    await ledger.settle(replace(beside, calls=calls, drafts=[alone, rung], teacher_tokens=160))
    other = served("q", **reckoned())
    unasked = call("q-shadow", 1, "measurement", "teacher", 40, SOL)
    await ledger.settle(other)
    await ledger.settle(replace(shadow(other), calls=[unasked], drafts=[Kept(0, "student", 9, calls=(unasked.id,))]))
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": cost(120), "same_length": cost(80)}
    assert await ledger.lengths(0.0) == {("gkt", "cut-off", "sol"): Pairs.of([(80, 120)])}
    await repriced(database, at(DEARER))
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": cost(120, DEARER), "same_length": cost(80, DEARER)}


async def test_a_shadow_that_had_no_price_measures_when_it_has_one(ledger: SqlLedger, database: str) -> None:
    request = served("r", **reckoned())
    await ledger.settle(request)
    await ledger.settle(shadow(request, price=None))
    [row] = await ledger.savings()
    assert (row.baseline_by_method, row.shadows_unpriced) == ({"same_length": cost(80)}, 1)
    await repriced(database, at(DEARER))
    [row] = await ledger.savings()
    assert (row.baseline_by_method, row.shadows_unpriced) == ({"measured": cost(120, DEARER)}, 0)
    assert (row.requests, row.compared, row.baseline_output_tokens) == (1, 1, 120)


async def test_a_baseline_that_had_no_price_gets_one(ledger: SqlLedger, database: str) -> None:
    unpriced = served("r", **reckoned(price=None))
    unpriced.calls[0].line = line("guidance", "sol", Usage(100, 40), None)
    await ledger.settle(unpriced)
    assert (await ledger.savings())[0].compared == 0
    done = await repriced(database, at(SOL))
    assert (done.priced, done.still, done.baselines, done.lost) == (1, 0, 1, 0)
    [row] = await ledger.savings()
    assert (row.compared, row.unpriced, row.baseline) == (1, 0, cost(80))


async def test_without_a_price_any_more_both_sides_keep_what_was_booked(ledger: SqlLedger, database: str) -> None:
    await ledger.settle(served("r", **reckoned()))
    before = await sums(ledger)
    done = await repriced(database, at(None))
    assert (done.changed, done.unknown, done.kept, done.lost) == (0, 1, 1, 0)
    assert await sums(ledger) == before


async def test_a_teacher_that_is_priced_again_never_stands_beside_an_old_baseline(
    ledger: SqlLedger, database: str
) -> None:
    """Its call named a tier, which has a price; the baseline was reckoned in one that has none any more."""
    told = reckoned()
    basis: Basis = told["baseline_of"]
    assert basis.unasked is not None
    told["baseline_of"] = Basis((), replace(basis.unasked, model="gone"))
    await ledger.settle(served("r", **told))
    done = await repriced(database, at(DEARER))
    assert (done.changed, done.baselines, done.lost, done.kept) == (1, 1, 1, 0)
    [row] = await ledger.savings()
    assert (row.compared, row.saved, row.baseline_by_method) == (0, None, {})
    assert row.spent == cost(40, DEARER) + (SMALL.cost(Usage(100, 40)) or Money.ZERO)


async def forgotten(ledger: SqlLedger) -> None:
    """As an older version wrote it: nothing is kept of what baselines are the price of."""
    with ledger.store.transaction(write=True) as connection:
        connection.execute(update(entries).values(baseline_of=None))


@pytest.mark.parametrize("method", ["same_length", "calibrated", "measured"])
async def test_older_entries_are_priced_again_where_what_was_booked_bears_it_out(
    ledger: SqlLedger, database: str, method: str
) -> None:
    request = served("r", **reckoned())
    if method == "calibrated":
        base = calibrated(SOL, input_tokens=100, output_tokens=80, ratio=RATIO)
        request = replace(request, baseline=base)
    elif method == "measured":
        request = replace(request, calls=request.calls[:1], baseline=measured(cost(40), 40), strategy="teacher")
    await ledger.settle(request)
    await forgotten(ledger)
    done = await repriced(database, at(DEARER))
    assert (done.baselines, done.lost) == (1, 0)
    [row] = await ledger.savings()
    low, likely, high = {"same_length": (40, 80, 160), "calibrated": (100, 120, 140), "measured": (40, 40, 40)}[method]
    assert (row.baseline_low, row.baseline, row.baseline_high) == (
        cost(low, DEARER),
        cost(likely, DEARER),
        cost(high, DEARER),
    )


async def test_older_entries_of_which_that_is_unknown_are_compared_no_more(ledger: SqlLedger, database: str) -> None:
    """Nothing that the call tells makes what was booked: the baseline is not kept at the old price."""
    await ledger.settle(served("r"))  # it guesses 1000 nano-dollars
    before = await sums(ledger)
    same = await repriced(database, at(SOL))
    assert (same.changed, same.lost) == (0, 0), "the price has not changed, whatever it is the price of"
    done = await repriced(database, at(DEARER))
    assert (done.baselines, done.lost) == (1, 1)
    [row] = await ledger.savings()
    assert (row.requests, row.compared, row.baseline, row.saved) == (1, 0, None, None)
    back = await repriced(database, at(SOL))
    assert (back.baselines, back.lost) == (1, 0)
    assert await sums(ledger) == before


async def test_older_entries_whose_teacher_was_not_asked(ledger: SqlLedger, database: str) -> None:
    """Today's price of the model that was asked for makes it, or nobody knows what it is the price of."""
    told = reckoned()
    alone = replace(served("r", **told), calls=[call("r", 1, "answer", "student", 80, SMALL)], model="sol")
    await ledger.settle(alone)
    await forgotten(ledger)
    assert (await repriced(database, at(SOL))).changed == 0
    assert (await ledger.savings())[0].baseline == cost(80)
    assert (await repriced(database, at(DEARER))).lost == 1
    assert (await ledger.savings())[0].compared == 0


async def test_what_failed_before_a_word_is_a_loss_at_any_price(ledger: SqlLedger, database: str) -> None:
    nothing = same_length(None, input_tokens=0, output_tokens=None)
    loss = replace(nothing, low=Money.ZERO, likely=Money.ZERO, high=Money.ZERO, output_tokens=0)
    for name, basis in (("new", Basis()), ("old", None)):
        await ledger.settle(served(name, baseline=loss, baseline_of=basis, outcome="failed", visible_output=0))
    done = await repriced(database, at(DEARER))
    assert (done.changed, done.lost) == (2, 0)
    [row] = await ledger.savings()
    assert (row.compared, row.baseline) == (2, Money.ZERO)


async def test_words_from_the_cache_are_measured_by_the_price_of_their_call(ledger: SqlLedger, database: str) -> None:
    recalled = Usage(100, 40)
    basis = Basis((), Unasked("sol", (None,), NOON, (recalled, recalled, recalled)))
    await ledger.settle(served("r", baseline=measured(cost(40), 40), baseline_of=basis, calls=[]))
    await repriced(database, at(DEARER))
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": cost(40, DEARER)}


async def test_of_a_cascade_the_teachers_answer_alone_is_measured(ledger: SqlLedger, database: str) -> None:
    drafted = call("r", 1, "answer", "student", 90, SMALL)
    given = call("r", 2, "answer", "teacher", 50, SOL)
    kept = served("r", calls=[drafted, given], baseline=measured(cost(50), 50), baseline_of=Basis([given.id]))
    await ledger.settle(replace(kept, strategy="cascade"))
    other = [replace(each, id=f"q/{number}", request_id="q") for number, each in enumerate((drafted, given))]
    await ledger.settle(
        replace(served("q", calls=other, baseline=measured(cost(50), 50)), strategy="cascade", baseline_of=None)
    )
    await repriced(database, at(DEARER))
    [row] = await ledger.savings()
    assert row.baseline_by_method == {"measured": Money(2 * cost(50, DEARER).nano)}


async def test_a_call_that_had_no_price_can_get_one_by_the_hour(ledger: SqlLedger, database: str) -> None:
    """How long it took is on record of every call; charged is at most what its upstream may take."""
    short, long = served("short", baseline=None), served("long", baseline=None)
    for request, seconds in ((short, 9.0), (long, 7_200.0)):
        student = request.calls[1]
        student.duration, student.line = seconds, line("answer", "small", Usage(100, 40), None)
    await ledger.settle(short)
    await ledger.settle(long)
    done = await repriced(database, at(SOL, None))
    assert (done.changed, done.still) == (0, 2)
    machine = Price("small", "config", per_hour=Money.usd(4), row="machine")
    done = await repriced(database, at(SOL, machine), longest={"student": 3_600.0})
    assert (done.priced, done.still) == (2, 0)
    [row] = await ledger.savings()
    assert row.spent_by_stage["answer"] == Money.usd("0.01") + Money.usd(4)


# One request as it is told, and how it was measured: everything that a price is put to.
tokens = st.integers(0, 3_000)
TOLD: st.SearchStrategy[Mapping[str, Any]] = st.fixed_dictionaries(
    {
        "shown": st.integers(40, 3_000),
        "cached": st.integers(0, 100),
        "method": st.sampled_from([None, "same_length", "calibrated", "measured", "recalled"]),
        "shadow": st.none() | tokens,
        "hour": st.integers(0, 60),
        "failed": st.booleans(),
    }
)
rates = st.integers(0, 10**11).map(Money)
PRICES = st.builds(
    lambda i, o, c: Price("sol", "config", input=i, output=o, cached=c, row="drawn"), rates, rates, rates
)


def settled(number: int, told: Mapping[str, Any], price: Price) -> Sequence[Entry]:
    """The request and its shadow, as the gateway would book them by `price`."""
    moment = NOON + 3_600 * told["hour"]
    name = f"r{number}"
    asked = call(name, 0, "guidance", "teacher", 40, price)
    asked.usage = Usage(100, 40, cached=told["cached"])
    asked.line = line("guidance", "sol", asked.usage, price)
    made = [asked, call(name, 1, "answer", "student", told["shown"] - 40, SMALL)]
    shown: dict[str, Any] = {"input_tokens": 100, "output_tokens": told["shown"], "cached": told["cached"]}
    rest: dict[str, Any] = {"baseline": None}
    if told["method"] in ("same_length", "calibrated"):
        guess = (
            same_length(price, **shown) if told["method"] == "same_length" else calibrated(price, ratio=RATIO, **shown)
        )
        assert guess.usages is not None
        rest = {"baseline": guess, "baseline_of": Basis((), Unasked("sol", (None,), moment, guess.usages))}
    elif told["method"] == "measured":
        rest = {"baseline": measured(asked.line.amount, 40), "baseline_of": Basis([asked.id])}
    elif told["method"] == "recalled":
        usage = Usage(100, told["shown"])
        unasked = Unasked("sol", (None,), moment, (usage, usage, usage))
        rest = {"baseline": measured(price.cost(usage), told["shown"]), "baseline_of": Basis((), unasked)}
    request = replace(served(name, told["shown"], calls=made, **rest), at=moment)
    if told["shadow"] is None:
        return [request]
    return [request, shadow(request, told["shadow"], price=price, outcome="failed" if told["failed"] else "ok")]


@given(of=st.lists(TOLD, max_size=8), old=PRICES, new=PRICES)
@settings(max_examples=25, deadline=None)
def test_the_sums_are_those_of_the_right_price_to_the_nano_dollar(
    of: Sequence[Mapping[str, Any]], old: Price, new: Price
) -> None:
    async def booked(url: str, price: Price, then: Callable[[], Any] | None = None) -> list[list[SavingsRow]]:
        ledger = await SqlLedger.open(url)
        for number, told in enumerate(of):
            for each in settled(number, told, price):
                await ledger.settle(each)
        if then is not None:
            await then()
        found = await sums(ledger)
        await ledger.aclose()
        return found

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        got = asyncio.run(booked(url, old, lambda: repriced(url, at(new))))
        assert asyncio.run(booked("sqlite://", new)) == got
