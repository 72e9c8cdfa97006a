"""A provider's export beside the ledger: what agrees, what differs, what each file may look like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.chat import Call, Seat
from gateway.errors import ConfigError
from gateway.ledger.entry import Entry, Query
from gateway.ledger.reconcile import Difference, Used, read, reconcile
from gateway.ledger.reprice import reprice
from gateway.ledger.sql import SqlLedger
from pricing.bill import Line, line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

pytestmark = pytest.mark.anyio

MIDNIGHT = 1_800_057_600.0  # 2027-01-16
DAY = 86_400.0
PRICE = Price("sol", "config", input=Money.usd(2), output=Money.usd(10))
DEARER = Price("sol", "config", input=Money.usd(4), output=Money.usd(20))

HEAD = "date,model,input_tokens,output_tokens,cost\n"
AGREES = HEAD + "2027-01-16,sol-2026-11-01,300,30,0.0009\n2027-01-17,sol-2026-11-01,100,10,0.0003\n"


def entry(name: str, at: float, seat: Seat = "teacher", model: str = "sol", stand_in: str | None = None) -> Entry:
    upstream = "openai" if seat == "teacher" else "local"
    call = Call("c", name, "answer", seat, upstream, model, stand_in, at, Money(900), usage=Usage(100, 10))
    call.line = line("answer", model, Usage(100, 10), PRICE)
    return Entry(name, at, "m", "*", "teacher", "", "x", "ok", True, [call], None)


@pytest.fixture
async def ledger(database: str, tmp_path: Path) -> SqlLedger:
    """Three calls on the sixteenth, one on each day around, and some that no provider saw."""
    made = await SqlLedger.open(database, spool=tmp_path)
    moments = (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 5, MIDNIGHT + DAY - 1, MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)
    of = [entry(f"r{n}", at) for n, at in enumerate(moments)]
    of += [entry("played", MIDNIGHT, stand_in="small"), entry("own", MIDNIGHT, "student", "small")]
    await asyncio.gather(*(made.settle(each) for each in of))
    await made.intend(Call("c", "open", "answer", "teacher", "openai", "sol", None, MIDNIGHT, Money(900)))
    await made.aclose()
    return made


async def compared(
    database: str, folder: Path, text: str, upstreams: Sequence[str] = (), tolerance: float = 0.0
) -> tuple[int, list[Difference]]:
    file = folder / "export"
    await asyncio.to_thread(file.write_text, text, "utf-8")
    return await asyncio.to_thread(reconcile, database, file, upstreams, tolerance)


async def test_what_agrees(ledger: SqlLedger, database: str, tmp_path: Path) -> None:
    assert await compared(database, tmp_path, AGREES) == (2, [])


async def test_what_differs(ledger: SqlLedger, database: str, tmp_path: Path) -> None:
    text = HEAD + "2027-01-16,sol,303,30,0.0009\n2027-01-17,luna,5,0,\n"
    found = [
        Difference("2027-01-16", "sol", "input", 303, 300, 0),
        Difference("2027-01-17", "luna", "input", 5, 0, 0),
        Difference("2027-01-17", "sol", "input", 0, 100, 0),
        Difference("2027-01-17", "sol", "output", 0, 10, 0),
    ]
    assert await compared(database, tmp_path, text) == (3, found)
    assert (await compared(database, tmp_path, text, tolerance=0.009))[1] == found
    assert (await compared(database, tmp_path, text, tolerance=0.011))[1] == found[1:]
    dearer = AGREES.replace("0.0003", "0.0004")
    assert (await compared(database, tmp_path, dearer))[1] == [
        Difference("2027-01-17", "sol", "cost", Money.usd("0.0004"), Money.usd("0.0003"), 0)
    ]


async def test_an_upstream_of_ones_own_is_compared_when_it_is_named(
    ledger: SqlLedger, database: str, tmp_path: Path
) -> None:
    own = HEAD + "2027-01-16,small,100,10,\n"
    assert (await compared(database, tmp_path, own, ["local"])) == (1, [])
    count, found = await compared(database, tmp_path, own)
    assert (count, {each.model for each in found}) == (2, {"sol"})


async def test_corrections_count_and_guesses_are_told(ledger: SqlLedger, database: str, tmp_path: Path) -> None:
    again = await SqlLedger.open(database, spool=tmp_path)
    call = Call("c", "cut", "answer", "teacher", "openai", "sol", None, MIDNIGHT, Money(900))
    call.usage = Usage(100, 7, source="counted")
    call.line = Line("answer", "sol", call.usage, None, None)
    await again.settle(Entry("cut", MIDNIGHT, "m", "*", "teacher", "", "x", "abandoned", True, [call], None))
    await again.aclose()
    text = HEAD + "2027-01-16,sol,400,40,0.0018\n"
    await asyncio.to_thread(reprice, database, lambda *asked: DEARER, Query(), 2e9)
    assert (await compared(database, tmp_path, text))[1] == [
        Difference("2027-01-16", "sol", "output", 40, 37, 2),
        # The call that was open has been settled at its bound meanwhile.
        Difference("2027-01-16", "sol", "cost", Money.usd("0.0018"), Money(2_340_900), 2),
    ]


def test_openais_pages(tmp_path: Path) -> None:
    def bucket(start: float, *results: dict[str, object]) -> dict[str, object]:
        return {"object": "bucket", "start_time": int(start), "end_time": int(start + DAY), "results": list(results)}

    one = {"object": "organization.usage.completions.result", "model": "sol", "input_tokens": 7, "output_tokens": 2}
    page = {"object": "page", "data": [bucket(MIDNIGHT, one, {**one, "batch": True}), bucket(MIDNIGHT + DAY)]}
    file = tmp_path / "usage.json"
    file.write_text(json.dumps(page))
    assert read(file) == {("2027-01-16", "sol"): Used(14, 4)}
    file.write_text(json.dumps([page, page]))
    assert read(file) == {("2027-01-16", "sol"): Used(28, 8)}
    file.write_text(json.dumps({"data": [bucket(MIDNIGHT, {**one, "model": None})]}))
    with pytest.raises(ConfigError, match="row 1 has no model"):
        read(file)


LISTED = '[{"date":"2027-01-16","model":"sol","input_tokens":7,"output_tokens":2,"cost_usd":0.000000001}]'
LEGACY = '{"data":[{"aggregation_timestamp":1800057600,"snapshot_id":"sol","n_context_tokens_total":7}]}'
ISO = "\ufeffstart_time,start_time_iso,model,input_tokens,output_tokens\n1,2027-01-16T00:00:00+00:00,sol,7,2\n"


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("day,model_name,prompt_tokens,completion_tokens\n2027-01-16,sol,7,2\n", Used(7, 2)),
        (ISO, Used(7, 2)),
        ("timestamp,model,input_tokens,cost\n2027-01-16T23:00:00-05:00,sol,7,0.1\n", None),
        ("timestamp,model,input_tokens,cost\n2027-01-16 23:00:00,sol,7.0,0.1\n", Used(7, None, Money.usd("0.1"))),
        (LISTED, Used(7, 2, Money(1))),
        (LEGACY, Used(7, None)),
    ],
)
def test_the_names_that_are_understood(tmp_path: Path, text: str, used: Used | None) -> None:
    file = tmp_path / "usage"
    file.write_text(text, "utf-8")
    assert read(file).get(("2027-01-16", "sol")) == used


def test_a_name_may_have_a_line_break_in_it(tmp_path: Path) -> None:
    file = tmp_path / "usage"
    file.write_text('date,model,input_tokens\n2027-01-16,"sol\nand\u2028luna",7\n', "utf-8")
    assert read(file) == {("2027-01-16", "sol\nand\u2028luna"): Used(7, None)}


BROKEN = ("soon,sol,1,1,1", "2027-01-16,sol,-1,1,1", "2027-01-16,sol,1.5,1,1", "2027-01-16,sol,1,1,dear")
STRANGE = (
    "2027-01-16,sol,inf,1,1",
    "2027-01-16,sol,1,snan,1",
    "2027-01-16,sol,1e999999999,1,1",
    "2027-01-16,sol,1,1,Infinity",
    "2027-01-16,sol,1,1,nan",
    "2027-01-16,sol,1,1,1e999999999",
    "2027-01-16,sol,1,1,1e-999999999",
    "9999-12-31T23:59:59-05:00,sol,1,1,1",
    "0001-01-01T00:00:00+05:00,sol,1,1,1",
    f"2027-01-16,{'s' * 140_000},1,1,1",
)
NO_ROWS = (
    '[{"date":"2027-01-16","model":"sol","input_tokens":Infinity}]',
    '{"data":[{"start_time":1800057600,"results":[null]}]}',
    '{"data":[{"start_time":1800057600,"results":["sol"]}]}',
    "[" * 100_000,
)


@pytest.mark.parametrize("text", ["", "{", "[1]", HEAD, *NO_ROWS, *(f"{HEAD}{row}\n" for row in BROKEN + STRANGE)])
def test_what_is_not_understood_is_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "usage"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"usage (is not understood|has no usage)"):
        reconcile(f"sqlite:///{tmp_path}/none.db", file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none")
