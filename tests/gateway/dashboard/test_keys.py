"""The page of keys: who spent what, and what is left of budgets."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.dashboard import PATH
from gateway.errors import Busy
from gateway.keys.key import Grant
from pricing.money import Money

pytestmark = pytest.mark.anyio


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
        told = {line["caller"]: line for line in await site.rows("/keys")}
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
        for reason in ("requests",) * 2 + ("budget",) * 3:
            site.gateway.admission.refusals.add(key.id, reason)
        (told,) = await site.rows("/keys", table="limits")
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
        assert "Budgets and limits" in page.text
        cells = page.text.partition("Budget hit")[2].partition("Used:")[0]
        assert "unknown" not in cells, "no limit is none, and known to be"


async def test_none_is_no_unknown(pages: Any) -> None:
    async with pages([]) as site:
        limited, _ = await site.gateway.keys.create(Grant(name="limited", concurrent=2))
        (told,) = await site.rows("/keys", table="limits")
        assert (told["caller"], told["concurrent"], told["budget_usd"], told["used_share"]) == (limited.id, "2", "", "")
        page = await site.get("/keys")
        said = [cell["title"] for cell in page.all("span") if cell.get("title")]
        assert said == ["none"] * 6


async def test_budgets_are_found_behind_any_number_of_keys_without(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.dashboard.budgets.ASKED_ABOUT", 2)
    async with pages([]) as site:
        for number in range(3):
            await site.gateway.keys.create(Grant(name=f"free-{number}"))
        grants = [{"name": f"k{number}", "budgets": [{"usd": 1, "per": "day"}]} for number in range(2)]
        for grant in grants:
            await site.gateway.keys.create(Grant.model_validate(grant))
        assert [line["name"] for line in await site.rows("/keys", table="limits")] == ["k0", "k1"]
        assert "not looked at" not in (await site.get("/keys")).text
        await site.gateway.keys.create(Grant(name="one", concurrent=2))
        assert "1 more key with budgets or limits is not looked at here" in (await site.get("/keys")).text
        await site.gateway.keys.create(Grant(name="another", concurrent=2))
        assert "2 more keys with budgets or limits are not looked at here" in (await site.get("/keys")).text


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
        told = await site.rows("/keys", table="limits")
        assert [(line["caller"], line["used_usd"]) for line in told] == [(key.id, "") for key in made]
        assert len(asked) == 1
