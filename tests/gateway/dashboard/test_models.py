"""The page of models: prices, speeds, and what a machine by the hour did nothing for."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.ledger.entry import Entry
from pricing.money import Money

pytestmark = pytest.mark.anyio


async def test_models(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("/models", range="all")
        told = {line["upstream"]: line for line in await site.rows("/models", range="all")}
        assert set(told) == {"teacher", "student"}
        calls = [call for each in site.entries for call in each.calls]
        for name, line in told.items():
            own = [call for call in calls if call.upstream == name]
            amounts = [call.line.amount for call in own if call.line and call.line.amount is not None]
            assert line["calls"] == str(len(own))
            assert line["spent_usd"] == Money.total(amounts).plain
            assert float(line["tokens_per_second"]) == pytest.approx(40 / 1.5)
            assert float(line["first_token_median_s"]) == 0.25
            assert line["state"] == "ready"
        assert told["student"]["failed"] == "1"
        assert told["teacher"]["input_usd_per_million"] == "2"
        assert told["student"]["input_usd_per_million"] == ""
        assert "its calls stay unpriced" in page.text


async def test_a_machine_by_the_hour_shows_what_it_did_nothing_for(pages: Any, made: Any) -> None:
    """Calls that run at once are one busy machine, whatever each of them pays."""
    day = datetime(2026, 3, 2, tzinfo=UTC).timestamp()

    def asked(name: str, begin: float, took: float | None, nano: int) -> Entry:
        call = made.call(name, 0, "answer", "student", nano, day + begin, duration=took)
        entry: Entry = made.entry(name, day + begin, [call], strategy="student")
        return entry

    entries = [
        asked("a", 0, 100, 7),
        asked("b", 50, 100, 11),
        asked("c", 50, 50, 13),
        asked("before", -10, 20, 1_000),  # runs 10 s into the range, within those of a
        asked("across", 86_390, 100, 17),  # and this one 10 s to its end
        asked("lost", 200, None, 19),
    ]
    async with pages(entries, prices={"mine": {"per_hour": 3.6}}) as site:
        days = {"range": "custom", "from": "2026-03-02", "to": "2026-03-02"}
        (student,) = (line for line in await site.rows("/models", **days) if line["upstream"] == "student")
        assert float(student["busy_s"]) == pytest.approx(160, abs=1e-4)
        assert float(student["elapsed_s"]) == 86_400
        assert float(student["utilisation"]) == pytest.approx(160 / 86_400)
        assert student["machine_usd"] == "86.4"
        assert Money.usd(student["working_usd"]) + Money.usd(student["idle_usd"]) == Money.usd("86.4")
        assert float(student["working_usd"]) == pytest.approx(0.16, abs=1e-6)
        assert student["booked_usd"] == Money(7 + 11 + 13 + 17 + 19).plain
        page = (await site.get("/models", **days)).text.replace("\xa0", " ")
        assert "Utilisation of its machine0.2 %busy 160.00 s of 86,400.00 s" in page
        assert "1 call of unknown length left out" in page
        assert "Idle$86.24on nobody’s bill" in page
        (teacher,) = (line for line in await site.rows("/models", **days) if line["upstream"] == "teacher")
        assert teacher["busy_s"] == teacher["machine_usd"] == ""
        empty = await site.get("/models", range="custom", **{"from": "2026-03-05", "to": "2026-03-05"})
        assert "busy 0 ms of 86,400.00 s" in empty.text.replace("\xa0", " ")


async def test_a_machine_costs_nothing_before_its_first_call(pages: Any, made: Any) -> None:
    """Nor in a range that has not begun."""
    day = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
    calls = [made.call("a", 0, "answer", "student", 7, day + 3_600, duration=10)]
    async with pages([made.entry("a", day + 3_600, calls)], prices={"mine": {"per_hour": 3.6}}) as site:

        async def told(first: str, last: str) -> dict[str, str]:
            rows = await site.rows("/models", **{"range": "custom", "from": first, "to": last})
            found: dict[str, str] = next(line for line in rows if line["upstream"] == "student")
            return found

        (line, after) = (await told("2026-02-01", "2026-03-02"), await told("2026-03-02", "2026-03-03"))
        assert (line["elapsed_s"], after["elapsed_s"]) == (str(82_800.0), str(82_800.0 + 86_400))
        assert line["machine_usd"] == "82.8"
        assert (await told("2026-03-03", "2026-03-03"))["idle_usd"] == "86.4", "it is on record by then"
        for first, last in (("2026-02-01", "2026-03-01"), ("2999-01-01", "2999-01-02")):
            assert (await told(first, last))["machine_usd"] == ""
            await site.get("/models", **{"range": "custom", "from": first, "to": last})


async def test_more_calls_than_a_page_reads_are_said_to_be(
    pages: Any, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dashboard.machines.READ", 3)
    now = time.time()

    def asked(number: int) -> Entry:
        at = now - 10 * number - 10
        entry: Entry = made.entry(f"r{number}", at, [made.call(f"r{number}", 0, "answer", "student", 5, at)])
        return entry

    async with pages([asked(number) for number in range(4)], prices={"mine": {"per_hour": 1}}) as site:
        (student,) = (line for line in await site.rows("/models") if line["upstream"] == "student")
        assert float(student["busy_s"]) == pytest.approx(4.5, abs=1e-4)
        assert 30 <= float(student["elapsed_s"]) < 60, "from the begin of the third newest on"
        assert student["booked_usd"] == Money(15).plain
        page = (await site.get("/models")).text
        assert "more calls than this page reads: this is since the 3 newest began" in page
        (whole,) = (line for line in await site.rows("/models", range="today") if line["upstream"] == "student")
        assert whole["booked_usd"] == Money(15).plain
