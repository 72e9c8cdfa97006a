"""What becomes of calls whose process died, and of those whose process did not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from gateway.chat import Call
from gateway.ledger.entry import Entry, Query
from gateway.ledger.recovery import STALE, Process
from gateway.ledger.sql import SqlLedger
from pricing.money import Money
from tests.conftest import Children

pytestmark = pytest.mark.anyio

Calls = Callable[..., Call]
Entries = Callable[..., Entry]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

# Says what is on record, line by line: `intended ID` when intend returned, `settled ID` when settle returned.
UNDER_LOAD = """
import asyncio, sys
from gateway.chat import Call
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage

async def request(ledger, id, settles):
    call = Call("c", id, "answer", "teacher", "openai", "gpt-6-sol", None, 1.8e9, Money(1000),
                asked="fast", route="fast", strategy="hint", caller="bob")
    await ledger.intend(call)
    print("intended", id)
    if settles:
        await asyncio.sleep(0)
        call.line = Line("answer", "gpt-6-sol", Usage(), None, Money(10))
        await ledger.settle(Entry(id, 1.8e9, "fast", "fast", "hint", "", "bob", "ok", False, [call], None))
        print("settled", id)

async def worker(ledger, name, count):
    for n in range(count):
        await request(ledger, f"{name}-{n}", n % 2)

async def main(url, workers, count):
    ledger = await SqlLedger.open(url)
    await asyncio.gather(*(worker(ledger, f"w{w}", int(count)) for w in range(int(workers))))
    print("done")
    await asyncio.to_thread(sys.stdin.readline)
    await ledger.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def lines(process: subprocess.Popen[str]) -> list[str]:
    """All that a child said, as far as whole lines go."""
    assert process.stdout is not None
    return [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]


async def test_kill_in_the_middle_of_load(url: str, child: Children) -> None:
    process = child(UNDER_LOAD, url, "20", "100000")
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(2_000)]
    process.send_signal(signal.SIGKILL)
    said += lines(process)
    assert process.wait() == -signal.SIGKILL
    intended = {line.split()[1] for line in said if line.startswith("intended")}
    settled = {line.split()[1] for line in said if line.startswith("settled")}
    assert len(intended) > 500
    assert settled

    ledger = await SqlLedger.open(url)
    for request_id in intended:
        found = await ledger.entry(request_id)
        assert found is not None
        [made] = found["calls"]
        assert not made["is_open"]
        assert (found["caller"], found["strategy"], found["model"], found["route"]) == ("bob", "hint", "fast", "fast")
        if request_id in settled:
            assert found["outcome"] == "ok"
        if found["outcome"] == "recovered":
            assert (made["amount"], made["is_bound"], found["spent"]) == (1_000, True, 1_000)
        else:
            assert (made["amount"], made["is_bound"], found["spent"]) == (10, False, 10)
    [row] = await ledger.savings()
    recovered = row.outcomes["recovered"]
    assert row.requests >= len(intended)
    assert row.spent == Money(10 * (row.requests - recovered) + 1_000 * recovered)
    assert row.bound == Money(1_000 * recovered)
    assert row.spent_by_stage["answer"] == row.spent
    await ledger.aclose()


async def test_two_living_processes_share_a_database(
    url: str, child: Children, call: Calls, entry: Entries, until: Until
) -> None:
    other = child(UNDER_LOAD, url, "4", "50")
    assert other.stdin is not None
    assert other.stdout is not None
    first = other.stdout.readline().split()
    assert first[0] == "intended"
    ledger = await SqlLedger.open(url, heartbeat=0.05)  # looks for the dead twenty times a second

    async def request(name: str) -> None:
        made = call(name)
        await ledger.intend(made)
        await ledger.settle(entry(name, made))

    for n in range(40):
        await asyncio.gather(*(request(f"mine-{n}-{k}") for k in range(5)))
    said = [" ".join(first), *iter(lambda: str(other.stdout and other.stdout.readline()).strip(), "done")]
    settled = sum(line.startswith("settled") for line in said)
    assert settled == 100
    await asyncio.sleep(0.2)
    [row] = await ledger.savings()
    assert row.outcomes == {"ok": 300}, "the other's open calls are its own while it lives"
    # It ends in order with 100 calls open, which nobody else can settle now.
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.wait(10) == 0

    async def recovered() -> bool:
        return (await ledger.savings())[0].outcomes == {"ok": 300, "recovered": 100}

    await until(recovered)
    assert [r.group for r in await ledger.savings(Query(by="caller"))] == ["alice", "bob"]
    await ledger.aclose()


def execute(url: str, statement: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute(statement)


async def test_a_process_that_cannot_be_seen_is_dead_when_its_heart_stops(
    url: str, call: Calls, entry: Entries, until: Until
) -> None:
    now = 1_000.0
    far = await SqlLedger.open(url, clock=lambda: now, heartbeat=3_600)
    execute(url, "UPDATE runs SET host = 'elsewhere'")
    made = call("r", bound=900)
    await far.intend(made)
    near = await SqlLedger.open(url, clock=lambda: now, heartbeat=0.02)
    now += STALE - 1
    await asyncio.sleep(0.2)
    assert await near.entry("r") is None
    now += 2

    async def found_dead() -> bool:
        return await near.entry("r") is not None

    await until(found_dead)
    found = await near.entry("r")
    assert found is not None
    assert (found["outcome"], found["why"], found["spent"], found["bound_spent"]) == (
        "recovered",
        "recovered",
        900,
        900,
    )
    assert (found["model"], found["route"], found["strategy"]) == ("gpt-6-sol", "unknown", "unknown")

    # It was only slow: the truth takes the place of the guess.
    await far.settle(entry("r", made))
    found = await near.entry("r")
    assert found is not None
    assert (found["outcome"], found["spent"], found["bound_spent"]) == ("ok", 10, 0)
    assert (found["calls"][0]["amount"], found["calls"][0]["is_bound"]) == (10, False)
    await far.aclose()
    await near.aclose()


async def test_a_call_forgotten_by_its_entry_is_added_at_its_bound(url: str, call: Calls, entry: Entries) -> None:
    first = await SqlLedger.open(url)
    for name, bound in (("known", 900), ("unknown", None)):
        await first.intend(call(name, 1))
        await first.intend(call(name, 2, bound))
        await first.settle(entry(name, call(name, 1)))
    await first.aclose()
    second = await SqlLedger.open(url)
    known, unknown = await second.entry("known"), await second.entry("unknown")
    assert known is not None
    assert unknown is not None
    assert (known["outcome"], known["spent"], known["bound_spent"]) == ("ok", 910, 900)
    assert known["spent_by_stage"] == {"guidance": 910, "answer": 0, "fallback": 0, "measurement": 0}
    assert (unknown["spent"], unknown["unpriced"], unknown["priced_spent"]) == (None, True, 10)
    assert [made["is_bound"] for made in known["calls"]] == [False, True]
    await second.aclose()


async def test_an_unknown_bound_and_a_stand_in(url: str, call: Calls) -> None:
    first = await SqlLedger.open(url)
    await first.intend(call("unknown", bound=None))
    stand_in = call("stand-in", bound=900)
    stand_in.stand_in = "smollm2"
    await first.intend(stand_in)
    await first.aclose()
    second = await SqlLedger.open(url)
    unknown, played = await second.entry("unknown"), await second.entry("stand-in")
    assert unknown is not None
    assert played is not None
    assert (unknown["spent"], unknown["unpriced"], unknown["calls"][0]["amount"]) == (None, True, None)
    assert unknown["calls"][0]["is_bound"]
    assert (played["stand_in"], played["notional_spent"], played["calls"][0]["notional"]) == (True, 900, True)
    [row] = await second.savings()
    assert (row.spent, row.notional, row.unpriced) == (Money(900), Money(900), 1)
    await second.aclose()


async def test_recovery_happens_once(url: str, call: Calls) -> None:
    first = await SqlLedger.open(url)
    for n in range(10):
        await first.intend(call(f"r{n}"))
    await first.aclose()
    others = await asyncio.gather(*(SqlLedger.open(url) for _ in range(4)))
    [row] = await others[0].savings()
    assert (row.requests, row.spent) == (10, Money(9_000))
    await asyncio.gather(*(other.aclose() for other in others))


def test_a_process_is_told_from_another_with_its_pid() -> None:
    me = Process.mine()
    assert me.alive(heartbeat=0.0, now=1e9), "a machine that slept has old heartbeats and living processes"
    assert me.start
    assert not Process(me.host, me.pid, "another boot 1").alive(1e9, 1e9)
    assert socket.gethostname() in me.host


def test_a_dead_process_and_a_zombie_are_dead() -> None:
    process = subprocess.Popen(["sleep", "60"])
    running = Process(Process.mine().host, process.pid, _start_of(process.pid))
    assert running.alive(0.0, 1e9)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # over, but still in the table of processes
    assert not running.alive(1e9, 1e9)
    process.wait()
    assert not running.alive(1e9, 1e9)


def _start_of(pid: int) -> str:
    with open("/proc/sys/kernel/random/boot_id") as boot, open(f"/proc/{pid}/stat") as stat:
        return f"{boot.read().strip()} {stat.read().rpartition(')')[2].split()[19]}"


def test_a_process_elsewhere_is_judged_by_its_heartbeat() -> None:
    far = Process("elsewhere", os.getpid(), "")
    assert far.alive(1_000.0, 1_000.0 + STALE - 1)
    assert not far.alive(1_000.0, 1_000.0 + STALE + 1)
