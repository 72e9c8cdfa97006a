"""What the pages say is what the ledger holds, to the nano-dollar; whatever callers call their models."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.dashboard import PATH
from gateway.dashboard.tags import merged
from gateway.errors import Busy
from gateway.keys.key import Grant
from gateway.ledger.entry import Entry, Query
from pricing.money import Money

pytestmark = pytest.mark.anyio

FORMULA = '=HYPERLINK("http://x")'
NASTY = "<script>alert(1)</script>&\"'"


def spent(entries: Sequence[Entry]) -> Money:
    """Every priced line, added up here and not by the ledger."""
    return Money.total(c.line.amount for e in entries for c in e.calls if c.line and c.line.amount is not None)


def compared(entries: Sequence[Entry]) -> list[Entry]:
    return [each for each in entries if each.spent is not None and each.baseline is not None]


def rows(response: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(response.text)))


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


async def test_every_figure_is_one_that_plotly_knows(pages: Any) -> None:
    from plotly import graph_objects

    async with pages() as site:
        for path, count in (("", 5), ("/keys", 1)):
            page = await site.get(path, range="all")
            assert len(page.scripts) == count
            for script in page.scripts:
                text = script.replace('"--', '"#').replace("#", "")  # names of our colours are not plotly's
                for name in ("guidance", "answer", "fallback", "wasted", "baseline", "accent"):
                    text = text.replace(f'"color":"{name}"', '"color":"red"')
                figure = json.loads(text)
                for trace in figure["data"]:
                    if isinstance(trace.get("marker", {}).get("color"), list):
                        trace["marker"]["color"] = ["red"] * len(trace["marker"]["color"])
                graph_objects.Figure(figure)


@pytest.mark.parametrize(
    ("table", "by"), [("strategies", "strategy"), ("models", "model"), ("keys", "caller"), ("time", "day")]
)
async def test_tables_are_exact(pages: Any, table: str, by: str) -> None:
    async with pages() as site:
        told = rows(await site.csv("", range="all", table=table))
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
        (sums,) = rows(await site.csv("", range="all", table="sums"))
        assert sums["spent_usd"] == spent(site.entries).plain
        assert sums["wasted_usd"] == Money(7).plain
        assert sums["notional_usd"] == Money(17).plain
        split = {line["stage"]: line["spent_usd"] for line in rows(await site.csv("", range="all", table="split"))}
        assert split["fallback"] == Money(900_000_031).plain
        methods = {
            line["method"]: line["teacher_alone_usd"] for line in rows(await site.csv("", range="all", table="methods"))
        }
        assert methods["measured"] == Money(500_000_009).plain
        assert (await site.http.get(PATH, params={"format": "csv", "table": "no"})).status_code == 404
        assert (await site.http.get(PATH, params={"format": "xml"})).status_code == 400


async def test_by_the_hour(pages: Any) -> None:
    async with pages() as site:
        now = datetime.now(UTC)
        told = rows(
            await site.csv(
                "", range="custom", **{"from": (now.date()).isoformat(), "to": now.date().isoformat()}, table="time"
            )
        )
        today = [each for each in site.entries if datetime.fromtimestamp(each.at, UTC).date() == now.date()]
        assert sum(int(line["requests"]) for line in told) == len(today)
        assert {line["hour_utc"] for line in told} == {
            datetime.fromtimestamp(each.at, UTC).strftime("%Y-%m-%dT%H:00Z") for each in today
        }


async def test_names_of_callers_are_only_text(pages: Any) -> None:
    async with pages() as site:
        for path in ("", "/requests", "/requests/unpriced-1", "/keys"):
            page = await site.get(path, range="all")
            assert all(script.strip().startswith("{") for script in page.scripts)
        assert "<script>alert(1)</script>" in (await site.get("/requests", range="all")).text
        page = await site.get("/requests", range="all", model=NASTY)
        assert {said.get("value") for said in page.all("input") if said.get("id") == "model"} == {NASTY}
        page = await site.get("/requests", 400, strategy=NASTY)
        assert NASTY in page.text


async def test_spreadsheets_run_nothing(pages: Any) -> None:
    async with pages() as site:
        told = rows(await site.csv("/requests", range="all", table="requests"))
        assert {line["model"] for line in told if "HYPERLINK" in line["model"]} == {'\'=HYPERLINK("http://x")'}


async def test_requests_newest_first_and_filtered(pages: Any) -> None:
    async with pages() as site:
        links = [said["href"] for said in (await site.get("/requests")).all("a") if "/requests/" in said["href"]]
        newest = sorted(recent(site.entries), key=lambda each: -each.at)
        assert links == [f"{PATH}/requests/{each.request_id}" for each in newest]
        for name, value in (
            ("caller", "key-bbbb"),
            ("outcome", "failed"),
            ("strategy", "teacher"),
            ("model", "gkt"),
        ):
            told = rows(await site.csv("/requests", range="all", **{name: value}))
            wanted = [each.request_id for each in newest if getattr(each, name) == value]
            assert [line["request_id"] for line in told] == wanted
            assert wanted
            page = await site.get("/requests", range="all", **{name: value})
            assert f"{len(wanted)} request" in page.text
        page = await site.get("/requests", caller="nobody")
        assert "No request fits" in page.text


async def test_paging_shows_each_request_once(pages: Any, made: Any) -> None:
    now = time.time()
    # Many at the very same moment: the page's end then lies among equals.
    entries = [
        made.entry(
            f"r-{number:03d}", now - number // 40, [made.call(f"r-{number:03d}", 0, "answer", "student", 1, now)]
        )
        for number in range(120)
    ]
    async with pages(entries) as site:
        seen: list[str] = []
        page = await site.get("/requests")
        while True:
            seen += [s["href"].rpartition("/")[2] for s in page.all("a") if "/requests/" in s["href"]]
            older = [said["href"] for said in page.all("a") if said.get("rel") == "next"]
            if not older:
                break
            page = await site.get(older[0].removeprefix(PATH))
        assert len(seen) == len(set(seen)) == 120
        assert seen == [e.request_id for e in sorted(entries, key=lambda e: (e.at, e.request_id), reverse=True)]
        assert (await site.http.get(f"{PATH}/requests?before=nonsense")).status_code == 400


async def test_one_request_opened_whole(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("/requests/fallback-1")
        total = Money(7 + 5 + 900_000_031)
        assert page.amounts("spent")[0] == total.plain
        assert page.amounts("saved") == [(Money(2_000_000_011) - total).plain]
        assert page.amounts("baseline") == [Money(n).plain for n in (2_000_000_011, 1_500_000_007, 3_000_000_013)]
        for text in (
            "Wasted guidance: reasoning",
            "Unavailable",
            "route *: cut-off",
            "config: gpt-6-sol",
            "128 cached",
        ):
            assert text in page.text
        bars = [said for said in page.all("rect") if said["class"] != "track"]
        assert len(bars) == 5, "three stages, of which one said no word"
        for said in bars:
            begin, width = (float(said[name].removesuffix("%")) for name in ("x", "width"))
            assert 0 <= begin <= begin + width <= 100.01
        (line,) = (said for said in page.all("div") if said.get("class") == "lines")
        assert "answer by student: asked at 0.00 s, no word came" in line["aria-label"]
        told = rows(await site.csv("/requests/fallback-1"))
        assert [each["cost_usd"] for each in told] == [Money(n).plain for n in (7, 5, 900_000_031)]
        assert told[0]["input_usd_per_million"] == "2"
        assert (await site.get("/requests/unpriced-1")).amounts("spent") == []
        assert "No settled request has the id" in (await site.get("/requests/nobody", 404)).text


@pytest.mark.parametrize("stored", [True, False])
async def test_text_is_shown_only_where_it_was_stored(pages: Any, made: Any, stored: bool) -> None:
    text = {"messages": [{"role": "user", "content": "A secret <b>question</b>"}], "answer": "Its answer."}
    one = made.entry("told", time.time(), [made.call("told", 0, "answer", "student", 1, time.time())], text=text)
    async with pages([one], text=stored) as site:
        page = await site.get("/requests/told")
        assert ("A secret <b>question</b>" in page.text) is stored
        assert ("Its answer." in page.text) is stored
        assert ("Not stored." in page.text) is not stored


async def test_models(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("/models", range="all")
        told = {line["upstream"]: line for line in rows(await site.csv("/models", range="all"))}
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


async def test_keys(pages: Any) -> None:
    async with pages() as site:
        page = await site.get("/keys", range="all")
        assert "4 keys asked" in page.text
        links = [said["href"] for said in page.all("a") if "caller=" in said["href"]]
        assert [each.partition("caller=")[2] for each in links] == ["key-aaaa", "key-bbbb", "key-cccc", "key-old"]
        assert "1 request CSV" in (await site.get(links[-1].removeprefix(PATH))).text


async def test_keys_have_names_and_those_that_nobody_used_are_there_too(pages: Any, made: Any) -> None:
    async with pages([]) as site:
        used, _ = await site.gateway.keys.create(Grant(name="Ada's laptop", owner="ada", tags=("research",)))
        unused, _ = await site.gateway.keys.create(Grant(name="spare"))
        await site.gateway.keys.revoke(unused.id)
        now = time.time()
        one = made.entry("r", now, [made.call("r", 0, "answer", "student", 11, now)], caller=used.id)
        await site.gateway.ledger.settle(one)
        told = {line["caller"]: line for line in rows(await site.csv("/keys"))}
        assert (told[used.id]["name"], told[used.id]["owner"], told[used.id]["tags"]) == (
            "Ada's laptop",
            "ada",
            "research",
        )
        assert told[used.id]["spent_usd"] == Money(11).plain
        assert (told[unused.id]["requests"], told[unused.id]["spent_usd"], told[unused.id]["saved_usd"]) == (
            "0",
            "0",
            "",
        )
        assert (told[used.id]["status"], told[unused.id]["status"]) == ("active", "revoked")
        page = await site.get("/keys")
        assert "1 key asked, 1 did not" in page.text
        assert json.loads(page.scripts[0])["data"][0]["y"] == ["Ada's laptop"]
        assert "Ada's laptop" in (await site.get()).text
        assert used.secrets[0].hint not in page.text


async def test_budgets_and_limits(pages: Any) -> None:
    async with pages([]) as site:
        assert "No key has a budget or a limit" in (await site.get("/keys")).text
        grant = {"name": "both", "requests_per_minute": 60, "budgets": [{"usd": 10, "per": "day"}]}
        key, _ = await site.gateway.keys.create(Grant.model_validate(grant))
        await site.gateway.keys.create(Grant(name="neither"))
        caller, budget = key.caller, site.gateway.admission.shared.budget
        now = time.time()
        await budget.settle(await budget.reserve(key.id, caller.budgets, Money.usd(4), now), Money.usd("2.5"))
        site.gateway.admission.refused[key.id, "requests"] += 2
        site.gateway.admission.refused[key.id, "budget"] += 3
        (told,) = rows(await site.csv("/keys", table="limits"))
        assert told == {
            "caller": key.id,
            "name": "both",
            "budget_usd": "10",
            "per": "day",
            "used_usd": "2.5",
            "used_share": "0.25",
            "requests_per_minute": "60",
            "tokens_per_minute": "",
            "concurrent": "",
            "limits_hit": "2",
            "budget_hit": "3",
        }
        page = await site.get("/keys")
        page.check()
        assert "Budgets and limits now" in page.text


async def test_sums_of_groups_are_the_sums_of_all(pages: Any) -> None:
    """Field by field: what is added to a row of savings must be added to `merged` too."""
    async with pages() as site:
        for since in (None, time.time() - 86_400, time.time() - 5_000, time.time() + 60):
            (whole,) = await site.gateway.ledger.savings(Query(since=since))
            for by in ("caller", "strategy", "model"):
                rows_of = await site.gateway.ledger.savings(Query(since=since, by=by))
                assert merged(rows_of) == whole
                assert all(merged([row], row.group) == row for row in rows_of)


async def test_the_tradeoff_of_known_requests(pages: Any) -> None:
    async with pages() as site:
        told = {line["strategy"]: line for line in rows(await site.csv("/tradeoff", range="all"))}
        ledger = {row.group: row for row in await site.gateway.ledger.savings(Query(by="strategy"))}
        assert told.keys() == ledger.keys()
        for name, line in told.items():
            row = ledger[name]
            assert line["cost_share"] == ("" if row.share is None else str(row.share))
            assert line["retention"] == "", "nobody has scored an answer"
            if row.share is not None and row.baseline_low and row.baseline_high:
                assert float(line["cost_share_low"]) <= row.share <= float(line["cost_share_high"])
        page = await site.get("/tradeoff", range="all")
        page.check()
        assert "Accuracy is not measured" in page.text
        assert "same_length" in page.text


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
        (told,) = rows(await site.csv("", table="strategies"))
        assert (told["requests"], told["shadows"]) == ("1", "1")
        assert (told["measurement_usd"], told["spent_usd"]) == (Money(7_000).plain, Money(7_500).plain)
        (whole,) = await site.gateway.ledger.savings()
        assert merged(await site.gateway.ledger.savings(Query(by="caller"))) == whole
        split = {line["stage"]: line["spent_usd"] for line in rows(await site.csv("", table="split"))}
        assert split["measurement"] == Money(7_000).plain
        assert "measurement" in (await site.get()).text


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
        told = {line["tag"]: line for line in rows(await site.csv("", table="tags"))}
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
        assert [line["tag"] for line in rows(await site.csv("", range="all", table="tags"))] == ["no tag"]


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
        (student,) = (line for line in rows(await site.csv("/models", **days)) if line["upstream"] == "student")
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
        (teacher,) = (line for line in rows(await site.csv("/models", **days)) if line["upstream"] == "teacher")
        assert teacher["busy_s"] == teacher["machine_usd"] == ""
        empty = await site.get("/models", range="custom", **{"from": "2026-03-05", "to": "2026-03-05"})
        assert "busy 0 ms of 86,400.00 s" in empty.text.replace("\xa0", " ")


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
        (student,) = (line for line in rows(await site.csv("/models")) if line["upstream"] == "student")
        assert float(student["busy_s"]) == pytest.approx(4.5, abs=1e-4)
        assert 30 <= float(student["elapsed_s"]) < 60, "from the begin of the third newest on"
        assert student["booked_usd"] == Money(15).plain
        page = (await site.get("/models")).text
        assert "more calls than this page reads: this is since the 3 newest began" in page
        (whole,) = (line for line in rows(await site.csv("/models", range="today")) if line["upstream"] == "student")
        assert whole["booked_usd"] == Money(15).plain


async def test_budgets_that_nobody_can_tell_are_unknown_and_asked_for_once(
    pages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pages([]) as site:
        grant = Grant.model_validate({"name": "k", "budgets": [{"usd": 1, "per": "day"}]})
        made = [(await site.gateway.keys.create(grant))[0] for _ in range(3)]
        asked: list[str] = []

        async def used(subject: str, budgets: Any, now: float) -> Any:
            asked.append(subject)
            raise Busy("away")

        monkeypatch.setattr(site.gateway.admission.shared.budget, "used", used)
        told = rows(await site.csv("/keys", table="limits"))
        assert [(line["caller"], line["used_usd"]) for line in told] == [(key.id, "") for key in made]
        assert len(asked) == 1


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


async def test_what_cannot_be_shown_is_a_page(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pages() as site:
        assert "There is no range" in (await site.get("", 400, range="year")).text
        assert "is not a date" in (await site.get("", 400, range="custom", to="2026-13-01")).text
        assert "ends before it begins" in (await site.get("", 400, **{"from": "2026-11-02", "to": "2026-11-01"})).text
        await site.get("/no-such-page", 404)
        assert (await site.http.post(PATH)).status_code == 405

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("the secret is 42")

        monkeypatch.setattr(site.gateway.ledger, "savings", broken)
        page = await site.get("", 500)
        assert "Its log has the reason" in page.text
        assert "secret" not in page.text


async def test_assets_are_kept_for_ever_under_the_name_of_their_content(pages: Any) -> None:
    async with pages(log_in=False) as site:
        page = await site.get("/login")
        urls = [s.get("href", s.get("src", "")) for tag in ("link", "script", "img") for s in page.all(tag)]
        assert len(urls) >= 3
        for url in urls:
            response = await site.http.get(url)
            assert response.status_code == 200
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
            wrong = url.replace(url.split("/")[3], "0" * 16)
            assert (await site.http.get(wrong)).status_code == 404
        assert (await site.http.get(f"{PATH}/assets/{'0' * 16}/..%2Fapp.py")).status_code == 404


async def test_plotly_s_script_is_the_wheel_s_own(pages: Any) -> None:
    from plotly.offline import get_plotlyjs

    async with pages() as site:
        page = await site.get("", range="all")
        (url,) = (said["src"] for said in page.all("script") if "plotly" in said.get("src", ""))
        plain = await site.http.get(url, headers={"accept-encoding": "identity"})
        packed = await site.http.get(url, headers={"accept-encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert plain.text == packed.text == get_plotlyjs()


async def test_chats_do_not_pass_through_here(pages: Any) -> None:
    async with pages() as site:
        assert (await site.http.get("/dashboards")).json()["error"]["code"] == "unknown_url"
        assert (await site.http.get("/healthz")).json() == {"status": "ok"}
