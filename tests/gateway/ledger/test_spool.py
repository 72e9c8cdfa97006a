"""The spool: on disk when it says so, whole or not at all, and read again whatever happened to the file."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from gateway.chat import Call
from gateway.errors import Busy, ConfigError
from gateway.ledger import backlog, rollup, rows, spool, upkeep
from gateway.ledger.backlog import Backlog, place
from gateway.ledger.entry import Entry
from gateway.ledger.rows import Intent, Settlement
from gateway.ledger.schema import calls
from gateway.ledger.spool import FRAME, Item, Spool, record
from gateway.ledger.sql import SqlLedger
from tests.conftest import Children

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@contextmanager
def locked(url: str) -> Iterator[None]:
    """A database that takes no writes."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def spools(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if ".spool-" in path.name)


def aside(folder: Path, what: str) -> bytes:
    [kept] = folder.glob(f"{what}-*")
    return kept.read_bytes()


def emptied(ledger: SqlLedger) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return ledger.spooled == 0

    return condition


def records(items: list[Item]) -> list[bytes]:
    return [made for item in items if (made := record(item)) is not None]


@pytest.fixture
def items(call: Calls, entry: Entries) -> list[Item]:
    settled = rows.settlement(entry("ä\u0000\U0001f30c", call("r", 1), call("r", 2)), 7, text=False)
    return [rows.intent(call("r"), 7), settled, rows.intent(call("s", bound=None), 7)]


def test_what_goes_in_comes_out_in_order(tmp_path: Path, items: list[Item]) -> None:
    made = Spool.create(tmp_path / "new", "x-")
    assert not made.waits
    made.append(records(items))
    made.append(records(items[:1]))
    first, end = made.read(2)
    assert first == items[:2]
    assert made.read(2)[0] == items[:2], "not dropped yet"
    made.drop(end)
    rest, end = made.read(100)
    assert rest == [items[2], items[0]]
    made.drop(end)
    assert not made.waits
    size = made.path.stat().st_size
    made.append(records(items))
    assert made.read(100)[0] == items
    assert size < 3_000, "an emptied file starts afresh"
    made.close()
    assert made.path.exists(), "what waits stays"


def test_a_file_has_one_owner_and_then_another(tmp_path: Path, items: list[Item]) -> None:
    made = Spool.create(tmp_path, "x-")
    made.append(records(items))
    assert Spool.adopt(made.path) is None
    made.close()
    made.close()
    found = Spool.adopt(made.path)
    assert found is not None
    again, end = found.read(100)
    assert again == items
    found.drop(end)
    found.close()
    assert list(tmp_path.iterdir()) == []
    assert Spool.adopt(made.path) is None


@given(st.data())
def test_damage_costs_only_what_it_touches(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("spool")
    made = Spool.create(folder, "x-")
    head = made.size
    wanted: list[Item] = [Intent((f"r{n}", "\x1egkt" * n)) for n in range(5)]
    ends = [head]
    for item in wanted:
        made.append(records([item]))
        ends.append(made.size)
    made.close()
    start = data.draw(st.integers(head, ends[-1] - 1))
    length = data.draw(st.integers(1, 60))
    content = bytearray(made.path.read_bytes())
    if data.draw(st.booleans(), "torn"):
        length = len(content) - start
        del content[start:]
    else:
        content[start : start + length] = b"\xff" * min(length, len(content) - start)
    made.path.write_bytes(content)
    found = Spool.adopt(made.path)
    assert found is not None
    found._columns = spool.COLUMNS
    left, end = found.read(100)
    assert left == [item for n, item in enumerate(wanted) if ends[n + 1] <= start or ends[n] >= start + length]
    found.drop(end)
    found.close()


def test_damage_is_reported_and_kept(tmp_path: Path, items: list[Item], logs: list[EventDict]) -> None:
    made = Spool.create(tmp_path, "x-")
    made.append(records(items))
    made.close()
    with made.path.open("ab") as file:
        file.write(FRAME.pack(b"\x1egkt", 1_000, 0) + b"torn")
    found = Spool.adopt(made.path)
    assert found is not None
    again, end = found.read(100)
    assert again == items
    assert [(log["log_level"], log["bytes"]) for log in logs] == [("error", FRAME.size + 4)]
    assert (tmp_path / f"damaged-{made.path.name}").read_bytes().endswith(b"torn")
    found.drop(end)
    found.close()


def test_damage_is_kept_once_however_often_it_is_read(tmp_path: Path, items: list[Item], logs: list[EventDict]) -> None:
    made = Spool.create(tmp_path, "x-")
    made.append(records(items))
    made.close()
    torn = made.path.read_bytes()[:-10]
    made.path.write_bytes(torn)
    found = Spool.adopt(made.path)
    assert found is not None
    for _ in range(3):
        assert found.read(100)[0] == items[:2]
    kept = tmp_path / f"damaged-{made.path.name}"
    assert len(kept.read_bytes()) == logs[0]["bytes"] == len(torn) - torn.rindex(spool.MARK)
    assert len(logs) == 1
    with made.path.open("ab") as file:
        file.write(b"more")
    found.size += 4
    assert found.read(100)[0] == items[:2]
    assert kept.read_bytes() == torn[torn.rindex(spool.MARK) :] + b"more", "and what has come to it"
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(made.path.stat().st_mode) == 0o600
    found.close()


@pytest.mark.parametrize("left", ["nothing", "some", "head", "one"])
def test_a_file_that_is_cut_off_from_outside_goes_on(
    tmp_path: Path, items: list[Item], logs: list[EventDict], left: str
) -> None:
    made = Spool.create(tmp_path, "x-")
    head = made.size
    begins = made.path.read_bytes()
    made.append(records(items[:1]))
    one = made.size
    made.append(records(items[1:]))
    os.truncate(made.path, {"nothing": 0, "some": 10, "head": head, "one": one}[left])
    again, end = made.read(100)
    assert again == (items[:1] if left == "one" else [])
    assert logs[0]["log_level"] == "critical"
    made.drop(end)
    assert not made.waits
    made.append(records(items))
    made.close()
    assert made.path.read_bytes().startswith(begins), "it still says what its records are"
    found = Spool.adopt(made.path)
    assert found is not None
    assert found.read(100)[0] == items
    found.close()


def test_what_is_left_over_is_adopted_oldest_first(tmp_path: Path, items: list[Item]) -> None:
    for _ in range(6):
        made = Spool.create(tmp_path, "x-")
        made.append(records(items))
        made.close()
    found = list(tmp_path.iterdir())  # in the order in which the system tells them
    for age, path in enumerate(found):
        os.utime(path, (1e9 - age, 1e9 - age))
    backlog = Backlog(tmp_path, "x-", 100_000)
    backlog.adopt()
    order: list[Path] = []
    while backlog.first().path in found:
        order.append(backlog.first().path)
        backlog.first().drop(backlog.first().size)
        backlog.finished(backlog.first())
    assert order == found[::-1]
    backlog.close()


def test_a_file_of_an_older_version_fits_todays_tables(
    tmp_path: Path, call: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rows.intent(call("r"), 7).call
    older = [["is_open", "request_id"], *spool.COLUMNS[1:]]
    monkeypatch.setattr(spool, "COLUMNS", older)
    made = Spool.create(tmp_path, "x-")
    made.append(records([Intent((True, "r"))]))
    made.close()
    monkeypatch.undo()
    found = Spool.adopt(made.path)
    assert found is not None
    [item], _ = found.read(100)
    assert isinstance(item, Intent)
    assert len(item.call) == len(row)
    assert dict(zip(calls.columns.keys(), item.call, strict=False))["request_id"] == "r"
    found.close()


def test_an_entry_of_an_older_version_had_measured_nothing(
    tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = next(item for item in items if isinstance(item, Settlement))
    names = list(spool.COLUMNS[2])
    newer = {"arm", "shadow_propensity", "shadow_of", "measurement_spent"}
    kept = [name for name in names if name not in newer]
    row = dict(zip(names, settled.entry, strict=True))
    monkeypatch.setattr(spool, "COLUMNS", [*spool.COLUMNS[:2], kept])
    made = Spool.create(tmp_path, "x-")
    made.append(records([Settlement(settled.request_id, tuple(row[name] for name in kept), settled.calls)]))
    made.close()
    monkeypatch.undo()
    found = Spool.adopt(made.path)
    assert found is not None
    assert found.read(100)[0] == [settled]
    found.close()


def test_a_disk_that_fails_takes_nothing(
    tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch, logs: list[EventDict]
) -> None:
    backlog = Backlog(tmp_path, "x-", 100_000)
    assert backlog.take(items) == [True] * 3
    before = backlog.first().path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_sync", full)
    assert backlog.take(items) == [False] * 3
    assert backlog.first().path.read_bytes() == before
    assert "No space left" in str(logs)
    monkeypatch.undo()
    assert backlog.take(items[:1]) == [True]
    assert backlog.first().read(100)[0] == [*items, items[0]]
    backlog.close()


def test_the_last_eighth_is_for_settlements_and_the_bound_holds(tmp_path: Path, items: list[Item]) -> None:
    limit = 20_000
    backlog = Backlog(tmp_path, "x-", limit)
    intent, settled = items[:2]
    while backlog.take([intent]) == [True]:
        pass
    assert limit * 0.85 < backlog.size <= limit * 0.875
    while backlog.take([settled]) == [True]:
        pass
    assert backlog.full
    assert limit * 0.95 < backlog.size <= limit
    backlog.close()


def test_what_no_database_takes_the_spool_does_not_take_either(tmp_path: Path, items: list[Item]) -> None:
    backlog = Backlog(tmp_path, "x-", 100_000)
    poison: list[Item] = [Intent(("\ud800",)), items[0], Intent((2**64,))]
    assert backlog.take(poison) == [False, True, False]
    assert backlog.first().read(100)[0] == items[:1]
    backlog.close()


def test_databases_that_share_a_folder_do_not_share_spools(tmp_path: Path) -> None:
    assert place("sqlite://", tmp_path) is None
    assert place(f"sqlite:///{tmp_path}/a.db", None) == (tmp_path, "a.db.spool-")
    server = "postgresql+psycopg://u:{}@{}/d"
    urls = [
        f"sqlite:///{tmp_path}/a.db",
        f"sqlite:///{tmp_path}/b/a.db",
        server.format("secret", "one"),
        server.format("secret", "two"),
    ]
    found = [place(url, tmp_path) for url in urls]
    assert len({where[1] for where in found if where}) == 4
    assert place(server.format("changed", "one"), tmp_path) == found[2]
    assert place(urls[2], None) == (Path(backlog.FOLDER), found[2][1] if found[2] else "")


async def test_a_folder_that_cannot_be_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="/proc/none"):
        await SqlLedger.open(url, spool=Path("/proc/none"))


# --- The ledger with it.


async def test_a_database_that_is_away_stops_nobody(
    url: str, tmp_path: Path, call: Calls, entry: Entries, logs: list[EventDict], until: Until
) -> None:
    ledger = await SqlLedger.open(url)

    async def request(name: str) -> None:
        made = call(name)
        await ledger.intend(made)
        await ledger.settle(entry(name, made))

    with locked(url):
        await asyncio.wait_for(asyncio.gather(*(request(f"r{n}") for n in range(50))), 8)
        assert ledger.spooled > 0
        assert (await ledger.savings())[0].requests == 0
    await until(emptied(ledger))
    [row] = await ledger.savings()
    assert (row.requests, row.spent.nano, row.outcomes) == (50, 500, {"ok": 50})
    await ledger.aclose()
    assert "everything that waited on disk" in str(logs)
    assert spools(tmp_path) == []


async def test_admission_stops_before_the_bound(url: str, call: Calls, entry: Entries, until: Until) -> None:
    ledger = await SqlLedger.open(url, spool_bytes=30_000, patience=0.2)
    admitted: list[Call] = []

    async def admit() -> None:
        while True:
            admitted.append(call(f"r{len(admitted)}"))
            await ledger.intend(admitted[-1])

    with locked(url):
        with pytest.raises(Busy, match="room on disk"):
            await admit()
        refused = admitted.pop()
        assert len(admitted) > 20
        settled = [asyncio.create_task(ledger.settle(entry(made.request_id, made))) for made in admitted]
        await asyncio.sleep(1.5)
        assert any(task.done() for task in settled), "the reserve is theirs"
        assert not all(task.done() for task in settled), "the rest waits in memory"
        assert ledger.spooled <= 30_000
    await asyncio.wait_for(asyncio.gather(*settled), 10)
    await until(emptied(ledger))
    await ledger.intend(call("room again"))
    [row] = await ledger.savings()
    assert row.outcomes == {"ok": len(admitted)}
    assert await ledger.entry(refused.request_id) is None
    await ledger.aclose()


async def test_closing_leaves_on_disk_what_the_next_one_writes(url: str, call: Calls, entry: Entries) -> None:
    ledger = await SqlLedger.open(url, patience=0.2)
    with locked(url):
        await ledger.intend(call("open"))
        await ledger.settle(entry("s", call("s")))
        await asyncio.wait_for(ledger.aclose(), 8)
    again = await SqlLedger.open(url)
    [row] = await again.savings()
    assert row.outcomes == {"ok": 1}
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        found = other.execute("SELECT request_id, is_open FROM calls ORDER BY 1").fetchall()
    assert found == [("open", 1), ("s", 0)], "its process, this one, still runs"
    await again.aclose()


DIES = """
import asyncio, logging, sqlite3, sys
import structlog
from gateway.chat import Call
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from tests.conftest import Children
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage

async def main(url):
    ledger = await SqlLedger.open(url)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def request(n):
        call = Call("c", f"r{n}", "answer", "teacher", "openai", "gpt-6-sol", None, 1.8e9, Money(1000))
        await ledger.intend(call)
        if n % 2:
            call.line = Line("answer", "gpt-6-sol", Usage(), None, Money(10))
            await ledger.settle(Entry(f"r{n}", 1.8e9, "m", "*", "hint", "", "bob", "ok", False, [call], None))

    await asyncio.gather(*(request(n) for n in range(40)))
    print("on record")
    await asyncio.to_thread(sys.stdin.readline)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
asyncio.run(main(sys.argv[1]))
"""


async def test_a_kill_while_the_database_is_away_loses_nothing(url: str, tmp_path: Path, child: Children) -> None:
    process = child(DIES, url)
    assert process.stdout is not None
    assert process.stdout.readline() == "on record\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = {path: path.read_bytes() for path in spools(tmp_path)}
    assert len(left) == 1
    for _ in range(2):  # the second time as if the process that adopted it had died before it could remove the file
        ledger = await SqlLedger.open(url)
        [row] = await ledger.savings()
        assert row.outcomes == {"ok": 20, "recovered": 20}
        assert (row.spent.nano, row.bound.nano) == (20 * 1_010, 20 * 1_000)
        await ledger.aclose()
        assert spools(tmp_path) == []
        for path, content in left.items():
            path.write_bytes(content)


async def test_a_living_process_adopts_what_a_dead_one_left(
    url: str, tmp_path: Path, child: Children, until: Until
) -> None:
    process = child(DIES, url)
    assert process.stdout is not None
    assert process.stdout.readline() == "on record\n"
    mine: SqlLedger | None = None
    try:
        # Opening needs the lock that the child holds; it dies while this process waits for it.
        opening = asyncio.create_task(SqlLedger.open(url, heartbeat=0.05))
        await asyncio.sleep(0.3)
        process.kill()
        mine = await opening
        ledger = mine

        async def adopted() -> bool:
            return (await ledger.savings())[0].outcomes == {"ok": 20, "recovered": 20}

        await until(adopted)
    finally:
        if mine is not None:
            await mine.aclose()
    assert spools(tmp_path) == []


async def test_a_row_that_the_database_refuses_later_is_kept_aside(
    url: str, tmp_path: Path, call: Calls, entry: Entries, logs: list[EventDict], until: Until
) -> None:
    ledger = await SqlLedger.open(url)
    with locked(url):
        await ledger.intend(call("poison", bound=2**63))
        await ledger.settle(entry("s", call("s")))
    await until(emptied(ledger))
    [row] = await ledger.savings()
    assert row.requests == 1
    assert [log["items"] for log in logs if log["log_level"] == "critical"] == [1]
    await ledger.aclose()
    assert b"poison" in aside(tmp_path, "refused")


async def test_a_spool_that_was_cut_off_does_not_end_the_writing(
    url: str, tmp_path: Path, call: Calls, entry: Entries, until: Until
) -> None:
    ledger = await SqlLedger.open(url)
    with locked(url):
        await ledger.settle(entry("lost", call("lost")))
        [file] = spools(tmp_path)
        os.truncate(file, 10)
        await asyncio.sleep(0.2)
    await until(emptied(ledger))
    await asyncio.wait_for(ledger.settle(entry("s", call("s"))), 5)
    with locked(url):
        await ledger.settle(entry("t", call("t")))
    await until(emptied(ledger))
    assert [each["request_id"] for each in await ledger.entries()] == ["t", "s"]
    await ledger.aclose()


async def test_whatever_goes_wrong_with_a_spool_is_tried_again(
    url: str, call: Calls, entry: Entries, logs: list[EventDict], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await SqlLedger.open(url)

    def fails(*_: object) -> None:
        raise ValueError("nobody thought of that")

    with locked(url):
        await ledger.settle(entry("s", call("s")))
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "read", fails)

            async def seen() -> bool:
                return "nobody thought of that" in str(logs)

            await until(seen)
    await until(emptied(ledger))
    assert (await ledger.savings())[0].requests == 1
    await ledger.aclose()


async def test_what_was_written_and_pruned_does_not_come_back_from_a_dead_process(
    database: str, tmp_path: Path, call: Calls, entry: Entries, logs: list[EventDict]
) -> None:
    """It died between the commit and its file's end. What is younger than the pruned days is written all the same."""
    day = 86_400.0
    ledger = await SqlLedger.open(database, spool=tmp_path)
    old, young = entry("old", call("old")), entry("young", call("young"))
    young = replace(young, at=young.at + 5 * day)
    bare = entry("bare", call("bare"))  # its intent was in another file
    await ledger.settle(old)
    await ledger.settle(bare)
    where = place(database, tmp_path)
    assert where is not None
    left = Spool.create(*where)
    of_young = replace(call("young"), started=young.at)
    left.append(
        records(
            [
                rows.intent(call("old"), 1),
                rows.settlement(old, 1, text=False),
                rows.settlement(bare, 1, text=False),
                rows.intent(of_young, 1),
                rows.settlement(replace(young, calls=entry("young", of_young).calls), 1, text=False),
            ]
        )
    )
    os.close(left._file)
    await ledger.aclose()
    assert (await asyncio.to_thread(upkeep.prune, database, old.at + 2 * day, "entries"))[1] == 2
    again = await SqlLedger.open(database, spool=tmp_path)
    [row] = await again.savings()
    assert (row.requests, row.outcomes, row.spent.nano) == (3, {"ok": 3}, 30)
    assert [each["request_id"] for each in await again.entries()] == ["young"]
    with again.store.transaction() as connection:
        assert rollup.differences(connection) == []
    await again.aclose()
    assert aside(tmp_path, "refused").count(b"old") >= 2
    assert b"young" not in aside(tmp_path, "refused")
    assert [(log["items"], log["pruned"]) for log in logs if log["log_level"] == "critical"] == [(3, 3)]


async def test_a_row_that_makes_no_sense_keeps_no_other_waiting(
    url: str, tmp_path: Path, call: Calls, entry: Entries
) -> None:
    """As in a file of another version whose head is damaged."""
    where = place(url, tmp_path)
    assert where is not None
    left = Spool.create(*where)
    good = rows.settlement(entry("s", call("s")), 1, text=False)
    left.append(records([Settlement("odd", ("odd", None), []), Intent(("odd",)), good]))
    os.close(left._file)
    ledger = await SqlLedger.open(url, spool=tmp_path)
    assert (await ledger.savings())[0].requests == 1
    await ledger.aclose()
    assert aside(tmp_path, "refused").count(b"odd") == 3


def test_a_name_that_was_taken_away_before_it_was_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = spool._lock
    taken: list[str] = []

    def late(file: int) -> None:
        if not taken:
            [path] = tmp_path.iterdir()
            path.unlink()
            taken.append(path.name)
        lock(file)

    monkeypatch.setattr(spool, "_lock", late)
    made = Spool.create(tmp_path, "x-")
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name] != taken
    assert os.path.samestat(os.fstat(made._file), made.path.stat())
    made.close()
