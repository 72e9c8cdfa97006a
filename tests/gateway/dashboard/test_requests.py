"""The list of requests, filtered and paged; and one of them opened whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.dashboard import PATH
from gateway.ledger.entry import Entry
from pricing.money import Money

pytestmark = pytest.mark.anyio


def recent(entries: Sequence[Entry]) -> list[Entry]:
    return [each for each in entries if each.request_id != "old-1"]


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
            told = await site.rows("/requests", range="all", **{name: value})
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
        told = await site.rows("/requests/fallback-1")
        assert [each["cost_usd"] for each in told] == [Money(n).plain for n in (7, 5, 900_000_031)]
        assert told[0]["input_usd_per_million"] == "2"
        assert (await site.get("/requests/unpriced-1")).amounts("spent") == []
        assert "No settled request has the id" in (await site.get("/requests/nobody", 404)).text


async def test_what_was_measured_afterwards_stands_with_its_request(pages: Any, made: Any) -> None:
    at = time.time() - 60
    calls = [made.call("r", 0, "answer", "student", 500, at)]
    served = made.entry("r", at, calls, shadow_propensity=0.5)
    plain = made.entry("plain", at, [made.call("plain", 0, "answer", "student", 500, at)], shadow_propensity=0.5)
    measuring = [made.call("r-shadow", 0, "measurement", "teacher", 7_001, at + 1)]
    shadow = made.entry("r-shadow", at + 1, measuring, shadow_of="r", baseline=None)
    async with pages([served, plain, shadow]) as site:
        page = await site.get("/requests/r")
        assert "Measured afterwards" in page.text
        assert page.amounts("measured") == [Money(7_001).plain]
        assert page.amounts("spent")[0] == Money(500).plain
        assert "Tokens out40the client was sent 160" in page.text
        assert f"{PATH}/requests/r-shadow" in [said["href"] for said in page.all("a")]
        page = await site.get("/requests/r-shadow")
        assert "A measurement: no client’s request" in page.text
        assert f"{PATH}/requests/r" in [said["href"] for said in page.all("a")]
        assert "Measured afterwards" not in (await site.get("/requests/plain")).text
        listed = await site.get("/requests")
        assert "r-shadow" not in listed.text
        assert "Measurements made afterwards (shadows) are not in this list" in listed.text


async def test_a_measurement_that_was_skipped_is_no_answer_of_nothing(pages: Any, made: Any) -> None:
    at = time.time() - 60
    served = made.entry("r", at, [made.call("r", 0, "answer", "student", 500, at)], shadow_propensity=0.5)
    skipped = made.entry("r-shadow", at + 1, [], shadow_of="r", baseline=None, outcome="skipped")
    async with pages([served, skipped]) as site:
        page = await site.get("/requests/r")
        assert "a measurement was drawn and not made" in page.text
        assert "The teacher alone, measured" not in page.text


async def test_guidance_from_the_cache_is_no_call_and_is_shown(pages: Any, made: Any) -> None:
    at = time.time() - 60
    calls = [made.call("r", 0, "answer", "student", 500, at)]
    hit = made.entry("r", at, calls, guidance_cache="hit", avoided=Money(1_234_567), teacher_tokens=0)
    whole = made.entry("whole", at, [], guidance_cache="hit", avoided=None, teacher_tokens=0)
    async with pages(
        [hit, whole, made.entry("plain", at, [made.call("plain", 0, "answer", "student", 5, at)])]
    ) as site:
        page = await site.get("/requests/r")
        assert "teacher: teacher, from the cache" in page.text
        assert "Guidance cachehitthe teacher was not asked, which would have cost" in page.text
        assert page.amounts("guidance-cache") == [Money(1_234_567).plain]
        (line,) = (said for said in page.all("div") if said.get("class") == "lines")
        assert line["aria-label"].startswith(
            "guidance by teacher: from the cache, at once; answer by student: asked at"
        )
        assert [each["stage"] for each in await site.rows("/requests/r")] == ["answer"]
        page = await site.get("/requests/whole")
        assert "No model was asked." in page.text
        assert "teacher: teacher, from the cache" in page.text
        assert "which would have cost unknown" in page.text
        assert "cache" not in (await site.get("/requests/plain")).text.replace("128 cached", "")


@pytest.mark.parametrize(("nano", "word"), [(0, "asked for"), (7, "paid for")])
async def test_first_words_that_cost_nothing_were_not_paid_for(pages: Any, made: Any, nano: int, word: str) -> None:
    """A teacher that cannot be reached takes no money."""
    at = time.time() - 60
    calls = [
        made.call("r", 0, "guidance", "teacher", nano, at, error="Unavailable"),
        made.call("r", 1, "answer", "student", 500, at),
    ]
    async with pages([made.entry("r", at, calls, wasted="failed")]) as site:
        assert f"The teacher’s first words were {word} and could not be used" in (await site.get("/requests/r")).text
        assert "1 request asked for first words that could not be used" in (await site.get()).text


@pytest.mark.parametrize("stored", [True, False])
async def test_text_is_shown_only_where_it_was_stored(pages: Any, made: Any, stored: bool) -> None:
    text = {"messages": [{"role": "user", "content": "A secret <b>question</b>"}], "answer": "Its answer."}
    one = made.entry("told", time.time(), [made.call("told", 0, "answer", "student", 1, time.time())], text=text)
    async with pages([one], text=stored) as site:
        page = await site.get("/requests/told")
        assert ("A secret <b>question</b>" in page.text) is stored
        assert ("Its answer." in page.text) is stored
        assert ("Not stored." in page.text) is not stored


async def test_why_there_is_nothing_to_compare_with(pages: Any, made: Any) -> None:
    def asked(name: str, **rest: Any) -> Any:
        one = made.call(name, 0, "answer", "teacher", 7, 1_800_000_000.0)
        return made.entry(name, 1_800_000_000.0, [one], baseline=None, **rest)

    entries = [
        asked("died", outcome="recovered", teacher=None, strategy="teacher"),
        asked("alone", strategy="student", teacher=None),
        asked("alone-shadow", shadow_of="alone"),
    ]
    async with pages(entries) as site:
        told = {each.request_id: (await site.get(f"/requests/{each.request_id}")).text for each in entries}
    assert "unknownthe process died before anybody could tell" in told["died"].replace("alone unknown", "unknown")
    assert "names no teacher" not in told["died"]
    assert "this route names no teacher to compare with" in told["alone"]
    assert "this is itself the measurement of a request" in told["alone-shadow"]
