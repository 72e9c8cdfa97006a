"""What holds for every page: callers' names are only text, faults are pages, files are kept; and the trade-off."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.dashboard import PATH
from gateway.ledger.entry import Query
from gateway.report import reports
from tests.gateway.dashboard.conftest import NASTY, measured

pytestmark = pytest.mark.anyio


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
        told = await site.rows("/requests", range="all", table="requests")
        assert {line["model"] for line in told if "HYPERLINK" in line["model"]} == {'\'=HYPERLINK("http://x")'}


async def test_the_tradeoff_of_known_requests(pages: Any) -> None:
    async with pages() as site:
        told = {line["strategy"]: line for line in await site.rows("/tradeoff", range="all")}
        ledger = {row.group: row for row in await site.gateway.ledger.savings(Query(by="strategy"))}
        assert told.keys() == ledger.keys()
        for name, line in told.items():
            row = ledger[name]
            assert line["cost_share"] == ("" if row.share is None else str(row.share))
            assert not {"retention", "accuracy"} & set(line), "nobody has scored an answer"
            if row.share is not None and row.baseline_low and row.baseline_high:
                assert float(line["cost_share_low"]) <= row.share <= float(line["cost_share_high"])
        page = await site.get("/tradeoff", range="all")
        page.check()
        assert "Accuracy is not measured" in page.text
        assert "Accuracy kept" not in page.text, "an empty column says nothing"
        assert "same_length" in page.text


async def test_the_tradeoff_of_a_measured_route(pages: Any, answered: Any) -> None:
    async with pages(measured(answered())) as site:
        ledger = site.gateway.ledger
        for number in range(100):
            good = number % 3 > 0 if number % 5 else number % 4 > 0
            await ledger.score(f"drawn-{number}", "feedback", float(good))
        page = await site.get("/tradeoff", range="all")
        assert "Accuracy is not measured" not in page.text
        assert "gkt keeps what too few failures were seen to tell" in page.text
        assert "too few failures" in page.text
        assert "for 20 holdouts" in page.text
        (line,) = await site.rows("/tradeoff", range="all", table="live")
        found = (await reports(ledger, site.gateway.config))[0][0].found
        assert found.retention is not None
        assert found.cost_share is not None
        assert (line["route"], line["retention_by"], line["cost_share_by"]) == ("gkt", "scores", "holdout")
        assert line["retention"] == str(found.retention.value)
        assert (line["cost_share_low"], line["cost_share_high"]) == tuple(map(str, found.cost_share.interval))
        assert 0.2 < float(line["cost_share"]) < 0.25
        rows = await site.rows("/tradeoff", range="all", table="frontier")
        assert [row["what"] for row in rows] == ["route", "teacher", "hull"], "of the route nothing is claimed yet"
        (figure,) = [json.loads(text) for text in page.scripts if '"error_y"' in text]
        points, teacher, hull = figure["data"]
        assert points["y"] == [found.retention.value]
        assert points["marker"]["symbol"] == ["circle-open"]
        assert points["error_x"]["arrayminus"][0] == pytest.approx(
            found.cost_share.value - found.cost_share.interval.low
        )
        assert (teacher["x"], teacher["y"], hull["x"]) == ([1.0], [1.0], [1.0])
        empty = await site.get("/tradeoff", range="custom", to="2020-01-01")
        assert "Accuracy is not measured" in empty.text


async def test_what_cannot_be_shown_is_a_page(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pages() as site:
        assert "There is no range" in (await site.get("", 400, range="year")).text
        assert "is not a date" in (await site.get("", 400, range="custom", to="2026-13-01")).text
        for name in ("from", "to"):
            for day in ("0001-01-01", "1969-12-31", "3000-01-01", "9999-12-31"):
                assert (
                    "is not a date from 1970 to 2999" in (await site.get("", 400, range="custom", **{name: day})).text
                )
            for path in ("", "/requests", "/models", "/keys", "/tradeoff"):
                for day in ("1970-01-01", "2999-12-31"):
                    await site.get(path, range="custom", **{name: day})
        assert "ends before it begins" in (await site.get("", 400, **{"from": "2026-11-02", "to": "2026-11-01"})).text
        await site.get("/no-such-page", 404)
        assert (await site.http.post(PATH)).status_code == 405

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("the secret is 42")

        monkeypatch.setattr(site.gateway.ledger, "sums", broken)
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
