"""The overview says what the ledger holds, to the nano-dollar; and with an empty ledger, what to do first."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.dashboard import PATH
from gateway.dashboard.overview import LONGEST
from gateway.dashboard.period import buckets
from gateway.keys.key import Grant
from gateway.ledger.entry import Entry, Query
from gateway.ledger.sums import Sums
from pricing.money import Money
from tests.gateway.dashboard.conftest import FORMULA

pytestmark = pytest.mark.anyio


def spent(entries: Sequence[Entry]) -> Money:
    """Every priced line, added up here and not by the ledger."""
    return Money.total(c.line.amount for e in entries for c in e.calls if c.line and c.line.amount is not None)


def compared(entries: Sequence[Entry]) -> list[Entry]:
    return [each for each in entries if each.spent is not None and each.baseline is not None]


def recent(entries: Sequence[Entry]) -> list[Entry]:
    return [each for each in entries if each.request_id != "old-1"]


async def test_the_overview_is_exact(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("", range="30d")
        entries = recent(site.entries)
        base = [each.baseline for each in compared(entries) if each.baseline]
        likely = Money.total(each.likely for each in base if each.likely)
        alone = Money.total(each.spent for each in compared(entries) if each.spent)
        low = Money.total(each.low for each in base if each.low)
        high = Money.total(each.high for each in base if each.high)
        assert page.amounts("spent") == [spent(entries).plain, Money(17).plain]
        assert page.amounts("baseline") == [likely.plain, low.plain, high.plain]
        saved, least, most = likely - alone, low - alone, high - alone
        assert page.amounts("saved") == [saved.plain, least.plain, most.plain, alone.plain]
        assert f"{saved.nano / likely.nano * 100:.1f} %" in page.text.replace("\xa0", " ")
        assert "measured and same_length, over 9 of 10 requests" in page.text
        assert "1 failed, 9 ok" in page.text
        assert re.search(r"Unpriced *1 *requests with a call that has no known price", page.text)
        assert "Output-token ratio (the paper’s)" in page.text
        assert "All-in cost ratio" in page.text


async def test_the_figures_are_the_ledger_s(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("", range="30d")
        charts = {each["layout"].get("xaxis", {}).get("type", ""): each for each in map(json.loads, page.scripts[:1])}
        over_time = charts["date"]
        drawn = {trace["name"]: trace for trace in over_time["data"]}
        (row,) = await site.gateway.ledger.savings(Query(since=time.time() - 30 * 86_400))
        assert not row.measurement
        assert "measurement" not in drawn, "a stage that is rare is drawn where there is any"
        for stage in ("guidance", "answer", "fallback"):
            amount = row.spent_by_stage[stage]
            told = [Money.usd(text.replace("$", "")) for text in drawn[stage]["customdata"]]
            assert Money.total(told) == amount
            assert sum(round(value * 1e9) for value in drawn[stage]["y"]) == amount.nano
        assert Money.total(Money.usd(t.replace("$", "")) for t in drawn["teacher alone"]["customdata"]) == row.baseline
        assert len(drawn["answer"]["x"]) == 30


@pytest.mark.parametrize(
    ("table", "by"), [("strategies", "strategy"), ("models", "model"), ("keys", "caller"), ("time", "day")]
)
async def test_tables_are_exact(pages: Any, table: str, by: str) -> None:
    async with pages() as site:
        told = await site.rows("", range="all", table=table)
        held = {row.group: row for row in await site.gateway.ledger.savings(Query(by=by))}
        assert len(told) == len(held)
        for line in told:
            group = next(iter(line.values()))
            row = held[group.removeprefix("'") if group.startswith("'=") else group]
            assert line["spent_usd"] == row.spent.plain
            assert line["requests"] == str(row.requests)
            assert line["saved_usd"] == ("" if row.saved is None else row.saved.plain)
            assert line["unpriced"] == str(row.unpriced)
            assert line["guidance_usd"] == row.spent_by_stage["guidance"].plain
        assert sum(Money.usd(line["spent_usd"]).nano for line in told) == spent(site.entries).nano


async def test_the_smaller_tables(pages: Any) -> None:
    async with pages() as site:
        (sums,) = await site.rows("", range="all", table="sums")
        assert sums["spent_usd"] == spent(site.entries).plain
        assert sums["wasted_usd"] == Money(7).plain
        assert sums["notional_usd"] == Money(17).plain
        split = {line["stage"]: line["spent_usd"] for line in await site.rows("", range="all", table="split")}
        assert split["fallback"] == Money(900_000_031).plain
        methods = {
            line["method"]: line["teacher_alone_usd"] for line in await site.rows("", range="all", table="methods")
        }
        assert methods["measured"] == Money(500_000_009).plain
        assert (await site.http.get(PATH, params={"format": "csv", "table": "no"})).status_code == 404
        assert (await site.http.get(PATH, params={"format": "xml"})).status_code == 400


async def test_by_the_hour(pages: Any) -> None:
    async with pages() as site:
        now = datetime.now(UTC)
        told = await site.rows(
            "", range="custom", **{"from": (now.date()).isoformat(), "to": now.date().isoformat()}, table="time"
        )
        today = [each for each in site.entries if datetime.fromtimestamp(each.at, UTC).date() == now.date()]
        assert sum(int(line["requests"]) for line in told) == len(today)
        assert {line["hour_utc"] for line in told} == {
            datetime.fromtimestamp(each.at, UTC).strftime("%Y-%m-%dT%H:00Z") for each in today
        }


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"])
async def test_by_the_day_of_the_viewer(pages: Any, made: Any, zone: str) -> None:
    """Each request counts on the day that its viewer's calendar had, and none twice."""
    now = time.time()
    entries = [
        made.entry(f"r{number}", at, [made.call(f"r{number}", 0, "answer", "teacher", 1_000 + number, at)])
        for number, at in enumerate(now - 3_600 * hours for hours in range(1, 24 * 6, 5))
    ]
    async with pages(entries) as site:
        site.http.cookies.set("gkt_zone", zone.replace("/", "%2F"))
        told = {line["day"]: line for line in await site.rows("", range="7d", table="time")}
        days = defaultdict(list)
        for each in entries:
            days[datetime.fromtimestamp(each.at, ZoneInfo(zone)).date().isoformat()].append(each)
        assert {day: line["spent_usd"] for day, line in told.items()} == {
            day: spent(of).plain for day, of in days.items()
        }
        assert {day: line["requests"] for day, line in told.items()} == {day: str(len(of)) for day, of in days.items()}
        page = await site.get("", range="7d")
        assert f"the last 7 days, {zone}" in page.text
        assert f"Day ({zone})" in page.text
        assert f"ranges in {zone}" in page.text
        whole = await site.get("", range="all")
        assert "Day (UTC)" in whole.text, "of years the ledger has the days of UTC"


async def test_an_early_begin_costs_no_more_than_what_is_shown(pages: Any) -> None:
    """A million hours and more were named to show the last ones, on the loop that has chats to answer."""
    begun = time.perf_counter()
    last = list(buckets("hour", 0.0, 32e9, LONGEST))
    took = time.perf_counter() - begun
    assert len(last) == LONGEST
    assert last[-1] == "2984-01-15T08:00Z"
    assert took < 0.5
    async with pages() as site:
        page = await site.get("", **{"range": "custom", "from": "1970-01-01"})
        assert f"spent in {LONGEST:,} days" in page.text


async def test_names_are_no_markup_for_plotly(pages: Any, made: Any) -> None:
    at = time.time() - 60
    name = '<a href="//e.test">&lt;</a>'
    entry = made.entry("r", at, [made.call("r", 0, "answer", "student", 5, at)], model=name, strategy="<b>new</b>")
    async with pages([entry]) as site:
        page = await site.get()
        drawn = [json.loads(text) for text in page.scripts if text]
        assert not [each for chart in drawn for trace in chart["data"] for each in trace["y"] if "<" in str(each)]
        shown = {each for chart in drawn for trace in chart["data"] for each in trace["y"] if "&" in str(each)}
        assert shown == {'&lt;a href="//e.test"&gt;&amp;lt;&lt;/a&gt;', "&lt;b&gt;new&lt;/b&gt;"}
        assert f"Most spent: {name}" in page.text, "words of the page are escaped once"


async def test_sums_of_groups_are_the_sums_of_all(pages: Any) -> None:
    async with pages() as site:
        for since in (None, time.time() - 86_400, time.time() - 5_000, time.time() + 60):
            (whole,) = await site.gateway.ledger.savings(Query(since=since))
            for by in ("caller", "strategy", "model", "route"):
                groups = await site.gateway.ledger.sums(Query(since=since, by=by))
                assert Sums.total(groups.values()).row() == whole
                assert [sums.row(name) for name, sums in groups.items()] == await site.gateway.ledger.savings(
                    Query(since=since, by=by)
                )


async def test_measurements_are_spending_and_no_requests(pages: Any, made: Any) -> None:
    at = time.time() - 60
    served = made.entry("r", at, [made.call("r", 0, "answer", "student", 500, at)])
    shadow = made.entry(
        "r-shadow",
        at + 1,
        [made.call("r-shadow", 0, "measurement", "teacher", 7_000, at + 1)],
        shadow_of="r",
        baseline=None,
    )
    async with pages([served, shadow]) as site:
        (told,) = await site.rows("", table="strategies")
        assert (told["requests"], told["shadows"]) == ("1", "1")
        assert (told["measurement_usd"], told["spent_usd"]) == (Money(7_000).plain, Money(7_500).plain)
        (whole,) = await site.gateway.ledger.savings()
        assert Sums.total((await site.gateway.ledger.sums(Query(by="caller"))).values()).row() == whole
        split = {line["stage"]: line["spent_usd"] for line in await site.rows("", table="split")}
        assert split["measurement"] == Money(7_000).plain
        assert "measurement" in (await site.get()).text
        page = await site.get()
        saved = Money(7_000 - 500)  # the measurement is the baseline, and measuring cost as much
        assert page.amounts("saved")[0] == saved.plain
        assert page.amounts("after-measurement") == [(saved - Money(7_000)).plain, Money(7_000).plain]
        (sums,) = await site.rows("", table="sums")
        assert sums["saved_usd"] == saved.plain
        assert sums["saved_after_measurement_usd"] == (saved - Money(7_000)).plain
        assert sums["shadows_unpriced"] == "0"


async def test_measurements_that_were_skipped_stand_beside_what_was_measured(pages: Any, made: Any) -> None:
    at = time.time() - 60
    both = [made.entry(name, at, [made.call(name, 0, "answer", "student", 500, at)]) for name in "rq"]
    paid = [made.call("r-shadow", 0, "measurement", "teacher", 7_000, at + 1)]
    measured = made.entry("r-shadow", at + 1, paid, shadow_of="r", baseline=None)
    skipped = made.entry("q-shadow", at + 1, [], shadow_of="q", baseline=None, outcome="skipped")
    async with pages([*both, measured, skipped]) as site:
        (sums,) = await site.rows("", table="sums")
        assert (sums["requests"], sums["shadows"], sums["shadows_missed"]) == ("2", "1", "1")
        assert "shadows that measured nothing, and not by chance: 1 skipped" in " ".join(
            (await site.get()).text.split()
        )
        assert "skipped" not in (await site.get("/requests")).text, "no request is"


async def test_a_measurement_without_a_price_is_counted(pages: Any, made: Any) -> None:
    at = time.time() - 60
    served = made.entry("r", at, [made.call("r", 0, "answer", "student", 500, at)])
    calls = [made.call("r-shadow", 0, "measurement", "teacher", None, at + 1)]
    async with pages([served, made.entry("r-shadow", at + 1, calls, shadow_of="r", baseline=None)]) as site:
        (sums,) = await site.rows("", table="sums")
        assert (sums["unpriced"], sums["shadows"], sums["shadows_unpriced"]) == ("0", "1", "1")
        page = await site.get()
        assert "and 1 measurement without a price" in page.text
        assert page.amounts("after-measurement") == []


async def test_by_tag(pages: Any, made: Any) -> None:
    at = time.time() - 60

    def spending(name: str, nano: int, caller: str) -> Entry:
        entry: Entry = made.entry(name, at, [made.call(name, 0, "answer", "student", nano, at)], caller=caller)
        return entry

    async with pages([]) as site:
        assert "once a key has one" not in (await site.get()).text, "there is nothing yet that tags could split"
        both, red, none = [
            (await site.gateway.keys.create(Grant(name=name, tags=tags)))[0]
            for name, tags in (("both", ("red", "blue")), ("red", ("red", "red", FORMULA)), ("none", ()))
        ]
        entries = [(both, 100), (red, 20), (none, 3), (none, 4)]
        for number, (key, nano) in enumerate(entries):
            await site.gateway.ledger.settle(spending(f"r{number}", nano, key.id))
        await site.gateway.ledger.settle(spending("env", 1, "key-of-the-environment"))
        told = {line["tag"]: line for line in await site.rows("", table="tags")}
        spent = {tag: (int(line["requests"]), Money.usd(line["spent_usd"]).nano) for tag, line in told.items()}
        assert spent == {"red": (2, 120), "blue": (1, 100), f"'{FORMULA}": (1, 20), "no tag": (3, 8)}
        assert Money.usd(told["red"]["saved_usd"]).nano == 2 * 2_000_000_011 - 120
        page = await site.get()
        assert "A key with several tags counts under each of them" in page.text
        drawn = json.loads(next(text for text in page.scripts if "no tag" in text))
        (bars,) = (trace for trace in drawn["data"] if trace["name"] == "spent")
        amounts = dict(zip(bars["y"], bars["customdata"], strict=True))
        assert amounts["red"] == f"${Money(120).plain}"


async def test_without_tags_the_page_says_how_to_make_one(pages: Any) -> None:
    async with pages() as site:
        page = await site.get()
        assert "Spending by tag is shown here once a key has one" in page.text
        assert 'data-chart="tags"' not in page.text
        assert [line["tag"] for line in await site.rows("", range="all", table="tags")] == ["no tag"]


@pytest.mark.parametrize("keys", ["callers-key", None])
async def test_an_empty_ledger_says_what_to_do_first(pages: Any, keys: str | None) -> None:
    async with pages([], keys=keys) as site:
        page = await site.get()
        assert "No requests yet" in page.text
        assert "curl http://gateway.test/v1/chat/completions" in page.text
        assert '"model": "gkt"' in page.text
        assert ("Authorization: Bearer $GKT_KEY" in page.text) is (keys is not None)
        assert not page.scripts
        for path in ("/requests", "/models", "/keys"):
            await site.get(path)


async def test_an_empty_range_is_not_an_empty_ledger(pages: Any, made: Any) -> None:
    old = time.time() - 100 * 86_400
    async with pages([made.entry("old", old, [made.call("old", 0, "answer", "student", 1, old)])]) as site:
        page = await site.get("", range="today")
        assert "No requests in this range" in page.text
        assert "curl" not in page.text
        await site.get("/requests", range="today")
