"""Screenshots: the dashboard's pages over a ledger that is made up here, as pictures for the documentation.

`python -m docs.screenshots [FOLDER]` starts a gateway, opens its pages in Chromium, and writes
`dashboard-overview.png` and `dashboard-request.png`, into `docs` when no folder is named. It needs Playwright's
package and a browser: see `docs.browser`.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from docs.browser import FLAGS, found
from gateway.chat import Call, Outcome, Seat, Stage, StrategyName
from gateway.cli.child import serving
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from pricing.baseline import measured, same_length
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

HERE = Path(__file__).parent
DAYS = 7
TEACHER = Price(
    "gpt-6-sol", "config", input=Money.usd(2), cached=Money.usd("0.2"), output=Money.usd(10), row="gpt-6-sol: 2/0.2/10"
)
STUDENT = Price(
    "llama-3.1-8b-instruct", "config", input=Money.usd("0.06"), output=Money.usd("1.11"), row="llama: 0.06/1.11"
)
CONFIG: dict[str, Any] = {
    "server": {"keys_env": "GKT_KEYS", "admin_key_env": "GKT_ADMIN_KEY"},
    "ledger": {"store_text": True},
    "upstreams": {
        "openai": {"kind": "scripted", "model": "gpt-6-sol", "says": "The sky is blue."},
        "llama": {"kind": "scripted", "model": "llama-3.1-8b-instruct", "says": "Light is scattered."},
    },
    "routes": {
        "gkt": {"strategy": "cut-off", "teacher": "openai", "student": "llama"},
        "*": {"strategy": "cut-off", "teacher": "openai", "student": "llama"},
    },
    "prices": {
        "gpt-6-sol": {"input": 2, "cached": 0.2, "output": 10},
        "llama-3.1-8b-instruct": {"input": 0.06, "output": 1.11},
    },
}
ANSWER = (
    "Sunlight holds all colours. Air scatters short waves far more than long ones, so blue light reaches us from "
    "every direction of the sky, and red light mostly straight from the sun."
)


def made_up(number: int, now: float, seed: int = 7) -> Iterator[Entry]:
    """So many requests of the last days, more of them by day than by night; the same ones for the same seed."""
    chance = random.Random(seed)
    midnight = now // 86_400 * 86_400
    for index in range(number):
        hour = min(23.9, max(0.0, chance.gauss(13.5, 3.6)))
        at = midnight - 86_400 * chance.randrange(DAYS) + hour * 3600
        at = at if at < now - 30 else now - chance.random() * 7200
        yield entry(f"chatcmpl-{index:05d}{chance.getrandbits(48):012x}", at, chance)


def entry(request_id: str, at: float, chance: random.Random) -> Entry:
    """One request as the gateway would have booked it."""
    strategies: list[StrategyName] = ["cut-off", "concise", "hint", "teacher", "student"]
    strategy = chance.choices(strategies, [62, 14, 9, 10, 5])[0]
    read, length = chance.randrange(120, 2_400), max(60, int(chance.lognormvariate(5.4, 0.5)))
    cached = 1_024 if read > 1_200 and chance.random() < 0.5 else 0
    outcomes: list[Outcome] = ["ok", "abandoned", "failed"]
    outcome = chance.choices(outcomes, [95, 4, 1])[0]
    wasted = "reasoning" if strategy in ("cut-off", "hint") and chance.random() < 0.02 else None
    fallback = strategy == "cut-off" and chance.random() < 0.025
    calls: list[Call] = []
    clock = at

    def add(stage: Stage, seat: Seat, inputs: int, outputs: int, *, wait: float, rate: float, hit: int = 0) -> None:
        nonlocal clock
        price, upstream = (TEACHER, "openai") if seat == "teacher" else (STUDENT, "llama")
        usage = Usage(inputs, outputs, cached=hit or None)
        took = wait + outputs / rate
        line = Line(stage, price.model, usage, price, price.cost(usage))
        made = Call(f"{request_id}/{len(calls)}", request_id, stage, seat, upstream, price.model, None, clock, None)
        made = replace(made, first_token=wait, duration=took, usage=usage, finish="stop", line=line)
        calls.append(made)
        clock += took + 0.004

    first, rate = chance.uniform(0.28, 0.7), chance.uniform(70, 110)
    if strategy == "teacher":
        add("answer", "teacher", read, length, wait=first, rate=rate, hit=cached)
    else:
        if strategy != "student":
            add("guidance", "teacher", read, 40, wait=first, rate=rate, hit=cached)
            calls[-1].finish = "length"
        wait, pace = chance.uniform(0.05, 0.16), chance.uniform(45, 75)
        add("answer", "student", read + 44, max(20, length - 40), wait=wait, rate=pace)
        if fallback:
            calls[-1].error, calls[-1].finish = "Unavailable", None
            add("fallback", "teacher", read, length, wait=first, rate=rate)
    baseline = same_length(TEACHER, input_tokens=read, output_tokens=length, cached=cached)
    if strategy == "teacher":
        spent = calls[0].line.amount if calls[0].line else None
        baseline = measured(spent, length)
    return Entry(
        request_id=request_id,
        at=at,
        model=chance.choices(["gpt-6-sol", "gkt", "support-bot", "summaries"], [50, 25, 17, 8])[0],
        route="*",
        strategy=strategy,
        why=f"route *: {strategy}",
        caller=chance.choices(["key-3f9a1c07", "key-b2d4e811", "key-77aa01c5", "key-0e5d9b36"], [46, 30, 16, 8])[0],
        outcome=outcome,
        stream=chance.random() < 0.8,
        calls=calls,
        baseline=baseline,
        teacher="openai",
        student="llama",
        error="upstream_timeout" if outcome == "failed" else None,
        wasted=wasted,
        first_token=calls[0].first_token,
        duration=clock - at,
        visible_input=read,
        visible_output=length,
        teacher_tokens=sum(call.usage.output or 0 for call in calls if call.usage and call.seat == "teacher"),
        text={"messages": [{"role": "user", "content": "Why is the sky blue?"}], "answer": ANSWER},
    )


async def fill(url: str, number: int) -> str:
    """Write made-up requests to the ledger at `url`; the id of the newest one that was guided and priced."""
    ledger = await SqlLedger.open(url, text=True)
    try:
        entries = sorted(made_up(number, time.time()), key=lambda each: each.at)
        await asyncio.gather(*(ledger.settle(each) for each in entries))
        return next(e.request_id for e in reversed(entries) if e.strategy == "cut-off" and len(e.calls) == 2)
    finally:
        await ledger.aclose()


async def shoot(folder: Path) -> None:
    """Write the pictures."""
    from playwright.async_api import async_playwright

    with tempfile.TemporaryDirectory(prefix="gkt-pictures-") as scratch:
        url = f"sqlite:///{scratch}/ledger.db"
        request_id = await fill(url, 4_000)
        config = Path(scratch) / "config.yaml"
        config.write_text(yaml.safe_dump(CONFIG), "utf-8")
        key = secrets.token_urlsafe()
        os.environ |= {"GKT_KEYS": secrets.token_urlsafe(), "GKT_ADMIN_KEY": key}
        options = ["--config", str(config), "--ledger", url]
        async with serving(options, Path(scratch) / "log") as gateway, async_playwright() as play:
            browser = await play.chromium.launch(executable_path=await asyncio.to_thread(found), args=FLAGS)
            page = await browser.new_page(viewport={"width": 1280, "height": 900})
            await page.goto(f"{gateway.url}/dashboard/login")
            await page.get_by_label("Admin key").fill(key)
            await page.get_by_role("button", name="Log in").click()
            await page.wait_for_url("**/dashboard")
            for name, path in (("overview", "?range=7d"), ("request", f"/requests/{request_id}")):
                await page.goto(f"{gateway.url}/dashboard{path}")
                if name == "overview":
                    await page.wait_for_selector("html[data-drawn]", state="attached")
                await page.screenshot(path=folder / f"dashboard-{name}.png")
            await browser.close()


if __name__ == "__main__":
    asyncio.run(shoot(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
