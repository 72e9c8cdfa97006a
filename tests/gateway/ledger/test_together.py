"""Those who work on one database at once: who waits for whom, and that nobody counts twice or waits in a circle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update

from gateway.ledger import mending, recovery, reprice, rollup, rows, store, upkeep
from gateway.ledger.entry import Entry, Query, SavingsRow
from gateway.ledger.reprice import Repriced
from gateway.ledger.schema import corrections, entries, rollups
from gateway.ledger.store import Store
from pricing.book import Price
from pricing.money import Money
from tests.conftest import Postgres
from tests.contracts.shadowed import DEARER, NOON, call, cost, served, shadow

A_WHILE = 0.7
"""Seconds for another thread to get through, or to be found waiting."""

Meanwhile = Callable[..., "Future[Any]"]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meanwhile]:
    """`meanwhile(module, name, work)`: when this thread comes to the function, `work` is done in another one.

    It goes on when that is done or has waited for `A_WHILE`. `nth`: not at the first call. The future is `work`'s.
    """
    main = threading.get_ident()
    pool = ThreadPoolExecutor(1)

    def start(module: Any, name: str, work: Callable[[], Any], nth: int = 1) -> Future[Any]:
        real = getattr(module, name)
        begin, told = threading.Event(), 0

        def run() -> Any:
            assert begin.wait(30), f"{name} was not called"
            return work()

        future = pool.submit(run)

        def patched(*args: Any, **rest: Any) -> Any:
            nonlocal told
            if threading.get_ident() == main:
                told += 1
                if told == nth:
                    begin.set()
                    wait([future], A_WHILE)
            return real(*args, **rest)

        monkeypatch.setattr(module, name, patched)
        return future

    yield start
    pool.shutdown()


@pytest.fixture
def server(postgres: Postgres) -> str:
    """A database with many writers; SQLite has one."""
    return postgres()


class Process:
    """A gateway, as far as the database sees one."""

    def __init__(self, url: str) -> None:
        self.store = Store.open(url)
        self.run = self.store.join(NOON)

    def settle(self, *of: Entry) -> None:
        self.store.write([rows.settlement(each, self.run, text=False) for each in of])

    def sums(self) -> SavingsRow:
        [row] = self.store.savings(Query())
        return row

    def proven(self) -> bool:
        with self.store.transaction() as connection:
            return rollup.differences(connection) == []


@pytest.fixture
def process() -> Iterator[Callable[[str], Process]]:
    made: list[Process] = []

    def start(url: str) -> Process:
        made.append(Process(url))
        return made[-1]

    yield start
    for each in made:
        each.store.close()


Processes = Callable[[str], Process]


def dearer(url: str) -> Repriced:
    def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
        return DEARER if model == "sol" else None

    return reprice.reprice(url, quote, Query(), NOON + 9)


def spoil(of: Process) -> None:
    """Give a rebuild something to do."""
    with of.store.transaction(write=True) as connection:
        connection.execute(update(rollups).values(spent=rollups.c.spent + 1))


def test_pruning_while_sums_are_proven_takes_none_with_it(
    database: str, process: Processes, meanwhile: Meanwhile
) -> None:
    """Between the look at what was pruned and the look at the entries, some go: their sums must not go with them."""
    mine = process(database)
    mine.settle(*(replace(served(f"r{n}"), at=NOON - 10 * 86_400) for n in range(20)))
    before = mine.sums()
    spoil(mine)
    pruned = meanwhile(rollup, "_compared", lambda: upkeep.prune(database, NOON, "entries"))
    assert upkeep.rebuild(database)
    assert pruned.result(30)[1] == 20
    assert mine.sums() == before
    assert mine.proven()


def test_who_settles_while_sums_are_proven_is_counted_once(
    server: str, process: Processes, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry comes just before the others are summed up, and nobody has to wait."""
    mine = process(server)
    mine.settle(served("r"))
    before = mine.sums()
    spoil(mine)
    other = process(server)
    settled = meanwhile(rollup, "_compared", lambda: other.settle(served("new")))
    waited: list[bool] = []
    real = mending._add

    def add(*told: Any) -> bool:
        waited.append(not settled.done())
        return real(*told)

    monkeypatch.setattr(mending, "_add", add)
    assert upkeep.rebuild(server)
    settled.result(30)
    assert waited == [False]
    after = mine.sums()
    assert (after.requests, after.spent) == (2, before.spent + before.spent)
    assert mine.proven()


def test_of_two_that_mend_each_mends_what_the_other_has_not(
    database: str, process: Processes, meanwhile: Meanwhile
) -> None:
    """Both have measured the same; whoever comes second measures again."""
    mine = process(database)
    mine.settle(*(served(f"r{n}") for n in range(3)))
    before = mine.sums()
    spoil(mine)
    other = meanwhile(mending, "_add", lambda: upkeep.rebuild(database))
    assert upkeep.rebuild(database) == [], "the other was quicker"
    assert other.result(30)
    assert mine.sums() == before
    assert mine.proven()


def test_many_wrong_sums_are_mended_in_chunks(
    database: str, process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "CHUNK", 7)
    mine = process(database)
    mine.settle(*(replace(served(f"r{n}"), at=NOON - n * 30_000, caller=f"c{n % 3}") for n in range(30)))
    before = mine.sums()
    spoil(mine)
    with mine.store.transaction(write=True) as connection:
        connection.execute(delete(rollups).where(rollups.c.caller == "c1"))
        connection.execute(update(rollups).where(rollups.c.level == 4).values(requests=9))
    assert not mine.proven()
    assert upkeep.rebuild(database)
    assert mine.proven()
    assert mine.sums() == before
    assert upkeep.rebuild(database) == []


def test_pruning_leaves_what_somebody_changes_to_the_next_time(server: str, process: Processes) -> None:
    mine = process(server)
    mine.settle(*(replace(served(f"r{n}"), at=NOON - 10 * 86_400) for n in range(3)))
    with ThreadPoolExecutor(1) as pool:
        with mine.store.transaction(write=True) as connection:
            connection.execute(select(entries).where(entries.c.request_id == "r1").with_for_update()).all()
            pruned = pool.submit(upkeep.prune, server, NOON, "entries")
            wait([pruned], 5)
            waited = not pruned.done()
        assert pruned.result(30)[1] == 2
    assert not waited
    assert upkeep.prune(server, NOON, "entries")[1] == 1


def test_two_that_recover_book_a_forgotten_call_once(server: str, process: Processes) -> None:
    """Its request was settled and its run ended in order, so that both find it."""
    dead = process(server)
    dead.settle(served("r"))
    dead.store.write([rows.intent(call("r", 7, "guidance", "teacher", 1, None), dead.run)])
    before = dead.sums()
    dead.store.leave(dead.run, NOON)
    first, second = process(server), process(server)
    with ThreadPoolExecutor(1) as pool:
        with first.store.transaction(write=True) as connection:
            assert recovery.recover(connection, first.run, NOON) == 1
            also = pool.submit(second.store.recover, second.run, NOON)
            wait([also], A_WHILE)
        assert also.result(30) == 0
    after = first.sums()
    assert (after.bound, after.spent) == (Money(900), before.spent + Money(900))
    assert first.proven()


def test_a_call_that_is_settled_just_now_is_not_recovered(server: str, process: Processes) -> None:
    """Its process was thought dead, and commits between the look at its run and the look at its calls."""
    late, mine = process(server), process(server)
    request = served("r")
    late.store.write([rows.intent(each, late.run) for each in request.calls])
    late.store.leave(late.run, NOON)
    with ThreadPoolExecutor(1) as pool:
        with late.store.transaction(write=True) as connection:
            late.store._put(connection.connection.cursor(), [], {"r": rows.settlement(request, late.run, text=False)})
            rollup.add(connection, ["r"])
            recovered = pool.submit(mine.store.recover, mine.run, NOON)
            wait([recovered], A_WHILE)
        assert recovered.result(30) == 0
    assert (mine.sums().outcomes, mine.sums().bound) == ({"ok": 1}, Money.ZERO)
    assert mine.proven()


def test_a_run_that_is_recovered_keeps_nobody_from_writing_its_calls(server: str, process: Processes) -> None:
    """As who adopted its spool does: to wait for the other's runs with entries in hand is half a circle."""
    dead, mine, other = process(server), process(server), process(server)
    dead.store.write([rows.intent(call("r", 0, "guidance", "teacher", 1, None), dead.run)])
    dead.store.leave(dead.run, NOON)
    with mine.store.transaction(write=True) as connection:
        assert recovery.recover(connection, mine.run, NOON) == 1
        with ThreadPoolExecutor(1) as pool:
            late = rows.intent(call("late", 0, "guidance", "teacher", 1, None), dead.run)
            written = pool.submit(other.store.write, [late])
            wait([written], 5)
            waited = not written.done()
            connection.rollback()
            written.result(30)
    assert not waited
    assert mine.store.recover(mine.run, NOON) == 2


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repricing does not try again, so that waiting in a circle shows."""
    monkeypatch.setattr(reprice, "TRIES", 1)


def check_measured_and_repriced(of: Process) -> None:
    row = of.sums()
    # What the other one guessed is the price of nothing that is on record: it is not compared any more.
    assert (row.requests, row.compared, row.shadows) == (2, 1, {"ok": 1})
    assert row.baseline == cost(120, DEARER)
    assert row.spent_by_stage["guidance"] == cost(40, DEARER) + cost(40, DEARER)
    assert of.proven()


@pytest.mark.usefixtures("impatient")
def test_measuring_and_then_repricing_wait_for_each_other_in_one_order(
    server: str, process: Processes, meanwhile: Meanwhile
) -> None:
    mine = process(server)
    mine.settle(served("q"), served("r"))
    done = meanwhile(store, "measure", lambda: dearer(server))
    mine.settle(shadow(served("r")))
    assert done.result(30).changed >= 2
    check_measured_and_repriced(mine)


@pytest.mark.usefixtures("impatient")
def test_repricing_and_then_measuring_wait_for_each_other_in_one_order(
    server: str, process: Processes, meanwhile: Meanwhile
) -> None:
    mine, other = process(server), process(server)
    mine.settle(served("a"), shadow(served("a")), served("r"))
    settled = meanwhile(rollup, "correct", lambda: other.settle(shadow(served("r"))))
    assert dearer(server).changed == 3
    settled.result(30)
    row = mine.sums()
    # The second shadow came later, with the price that its process knew.
    assert (row.requests, row.shadows, row.baseline) == (2, {"ok": 2}, cost(120, DEARER) + cost(120))
    assert mine.proven()


def test_two_that_measure_wait_for_each_other_in_one_order(
    server: str, process: Processes, meanwhile: Meanwhile
) -> None:
    one, other = process(server), process(server)
    one.settle(served("r"))
    bob = replace(served("b"), caller="bob")
    settled = meanwhile(store, "measure", lambda: other.settle(served("r2"), bob, shadow(bob)))
    one.settle(shadow(served("r")))
    settled.result(30)
    row = one.sums()
    assert (row.requests, row.shadows, row.baseline) == (3, {"ok": 2}, cost(120) + cost(120) + Money(1_000))
    assert one.proven()


@pytest.mark.usefixtures("impatient")
def test_what_was_recovered_gives_way_beside_a_shadow_without_waiting_in_a_circle(
    server: str, process: Processes, meanwhile: Meanwhile
) -> None:
    mine, late = process(server), process(server)
    mine.settle(served("r"))
    slow = served("slow")
    late.store.write([rows.intent(each, late.run) for each in slow.calls])
    late.store.leave(late.run, NOON)
    assert mine.store.recover(mine.run, NOON) == 2
    done = meanwhile(store, "measure", lambda: dearer(server))
    late.settle(slow, shadow(served("r")))
    assert done.result(30).changed >= 1
    row = mine.sums()
    assert (row.outcomes, row.shadows, row.baseline) == ({"ok": 2}, {"ok": 1}, cost(120, DEARER))
    assert mine.proven()


@pytest.mark.usefixtures("impatient")
def test_of_two_that_reprice_the_second_sees_what_the_first_did(
    server: str, process: Processes, meanwhile: Meanwhile
) -> None:
    mine = process(server)
    mine.settle(served("q"), served("r"))
    second = meanwhile(rollup, "correct", lambda: dearer(server))
    assert dearer(server).changed == 2
    assert second.result(30).changed == 0
    assert mine.sums().corrected == cost(40) + cost(40)
    assert mine.proven()


def test_a_page_that_the_database_gave_up_is_tried_again_and_counted_once(
    server: str, process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the locks the other way round, as nobody should; PostgreSQL ends the one that notices first."""
    mine, other = process(server), process(server)
    mine.settle(served("q"), served("r"))
    locked = threading.Event()

    def wrong_way_round() -> None:
        with other.store.transaction(write=True) as connection:
            for limit in ("deadlock_timeout = '1min'", "lock_timeout = 0", "statement_timeout = 0"):
                connection.execute(text(f"SET LOCAL {limit}"))
            connection.execute(update(rollups).values(spent=rollups.c.spent))
            locked.set()
            connection.execute(select(entries).with_for_update()).all()

    real = rollup.correct
    tries: list[int] = []

    def correct(connection: Any, these: Any) -> None:
        tries.append(len(these))
        if len(tries) == 1:
            pool.submit(wrong_way_round)
            assert locked.wait(30)
        real(connection, these)

    monkeypatch.setattr(rollup, "correct", correct)
    with ThreadPoolExecutor(1) as pool:
        done = dearer(server)
    assert tries == [2, 2]
    assert (done.requests, done.changed, done.calls, done.difference) == (2, 2, 2, cost(40) + cost(40))
    assert mine.sums().corrected == done.difference
    assert mine.proven()


def test_a_page_that_can_never_be_written_is_not_tried_for_ever(
    database: str, process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = process(database)
    mine.settle(served("r"))
    tries: list[int] = []

    def twice(connection: Any, these: Any) -> None:
        tries.append(len(these))
        for _ in range(2):
            connection.execute(insert(corrections), [dict(each) for each in these])

    monkeypatch.setattr(rollup, "correct", twice)
    with pytest.raises(Exception, match=r"(?i)unique"):
        dearer(database)
    assert tries == [1]
    assert mine.proven()
