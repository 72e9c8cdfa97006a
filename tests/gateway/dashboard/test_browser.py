"""The pages in a real Chromium, over a real gateway on a real port: what a person does, and what a person sees.

Skipped where there is no browser (`GKT_CHROMIUM` names one that lies elsewhere) or no Playwright; where
`GKT_NEED_BROWSER` is 1 they then fail.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml
from playwright.async_api import ConsoleMessage, Page, async_playwright

from docs.browser import FLAGS, found
from gateway.cli.child import serving
from gateway.ledger.entry import Entry, Query
from gateway.ledger.sql import SqlLedger
from pricing.money import Money
from tests.gateway.dashboard.conftest import known, measured

NEEDED = os.environ.get("GKT_NEED_BROWSER") == "1"

ARTIFACTS = Path(__file__).parents[3] / "artifacts" / "dashboard"
"""Where pictures of the pages are kept after a run; not under version control."""

ADMIN = "admin-key-of-the-test"

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Scheme = Literal["light", "dark"]


@cache
def browser() -> str | None:
    return found()


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's path; without one the test is skipped, or fails where one is needed."""
    path = browser()
    if path is None and NEEDED:
        pytest.fail("GKT_NEED_BROWSER is set and there is no browser: `make browser` installs one")
    return path or pytest.skip("there is no browser: `make browser` installs one")


CONFIG: dict[str, Any] = {
    "server": {"keys_env": "GKT_TEST_KEYS", "admin_key_env": "GKT_TEST_ADMIN"},
    "upstreams": {
        "teacher": {"kind": "scripted", "model": "gpt-6-sol", "says": "The sky is"},
        "student": {"kind": "scripted", "model": "mine", "says": "blue."},
    },
    "routes": {"gkt": {"teacher": "teacher", "student": "student"}},
    "prices": {"gpt-6-sol": {"input": 2, "output": 10}, "mine": {"input": 1, "output": 1}},
}


@dataclass
class House:
    """A served gateway, what it has answered, and its ledger."""

    url: str
    entries: list[Entry]
    ledger: SqlLedger


@dataclass
class Site(House):
    """A gateway, and the page of a browser that looks at it. `said`: warnings and errors of the console."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def look(self, width: int = 1280, height: int = 900, scheme: Scheme = "light") -> None:
        """As a reader who comes for the first time: without cookies, on a screen of this size."""
        await self.page.context.clear_cookies()
        await self.page.set_viewport_size({"width": width, "height": height})
        await self.page.emulate_media(color_scheme=scheme)

    async def open(self, path: str = "", *, charts: bool = False) -> None:
        await self.page.goto(f"{self.url}/dashboard{path}")
        if charts:
            await self.drawn()

    async def drawn(self) -> None:
        await self.page.wait_for_selector("html[data-drawn]", state="attached")

    async def log_in(self) -> None:
        await self.page.get_by_label("Admin key").fill(ADMIN)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url(lambda url: "/login" not in url)

    async def traces(self, chart: str) -> list[dict[str, Any]]:
        """What plotly drew, as it holds it."""
        found: list[dict[str, Any]] = await self.page.eval_on_selector(
            f'figure[data-chart="{chart}"] .plot',
            "plot => plot.data.map(({name, x, y, customdata}) => ({name, x, y, customdata}))",
        )
        return found

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.type}: {message.text}")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all of them, for the browser is of all of them."""
    return "asyncio"


@pytest.fixture(scope="module")
async def page(chromium: str) -> AsyncGenerator[Page, None]:
    """The page that every test looks at: what a new one costs is to read plotly anew, as much as four looks."""
    async with async_playwright() as play:
        shown = await play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield await shown.new_page(timezone_id="Asia/Tokyo", locale="en-GB")
        await shown.close()


@asynccontextmanager
async def answering(folder: Path, entries: list[Entry]) -> AsyncGenerator[House, None]:
    """A gateway that has answered `entries`."""
    url = f"sqlite:///{folder}/ledger.db"
    ledger = await SqlLedger.open(url)
    try:
        await asyncio.gather(*(ledger.settle(each) for each in entries))
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(CONFIG), "utf-8")
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("GKT_TEST_KEYS", "callers-key")
            environ.setenv("GKT_TEST_ADMIN", ADMIN)
            async with serving(["--config", str(file), "--ledger", url], folder / "log") as gateway:
                yield House(gateway.url, entries, ledger)
    finally:
        await ledger.aclose()


@asynccontextmanager
async def looked_at(house: House, page: Page) -> AsyncGenerator[Site, None]:
    """The gateway in the browser; at the end, the console must be silent and nobody else asked for anything."""
    site = Site(house.url, house.entries, house.ledger, page)
    await site.look()
    heard: dict[Any, Callable[[Any], None]] = {
        "console": site.hear,
        "pageerror": lambda error: site.said.append(f"thrown: {error}"),
        "request": lambda request: site.asked.append(request.url),
    }
    for event, hear in heard.items():
        page.on(event, hear)
    try:
        yield site
    finally:
        for event, hear in heard.items():
            page.remove_listener(event, hear)
    assert site.said == []
    assert [each for each in site.asked if not each.startswith((house.url, "data:"))] == []


@pytest.fixture(scope="module")
async def known_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House, None]:
    """A gateway that has answered the known requests, for tests that only look."""
    async with answering(tmp_path_factory.mktemp("known"), known(time.time())) as house:
        yield house


@pytest.fixture
async def site(known_house: House, page: Page) -> AsyncGenerator[Site, None]:
    """The same, looked at."""
    async with looked_at(known_house, page) as site:
        yield site


Requests = Callable[[], list[Entry]]


async def test_names_are_drawn_as_they_are(made: Any, tmp_path: Path, page: Page) -> None:
    """Neither links nor bold, nor a colour of the style sheet, nor a time."""
    names = ['<a href="//e.test">x</a>', "<b>bold</b>", "a &lt; b", "--accent", "2026-01-01T00:00:00Z", "%{x} $x$"]
    at = time.time() - 60
    entries = [
        made.entry(f"r{index}", at, [made.call(f"r{index}", 0, "answer", "student", 5 + index, at)], model=name)
        for index, name in enumerate(names)
    ]
    async with answering(tmp_path, entries) as house, looked_at(house, page) as site:
        await site.open()
        await site.log_in()
        await site.drawn()
        plot = site.page.locator('figure[data-chart="models"] .plot')
        ticks = plot.locator(".yaxislayer-above text")
        assert sorted(text.strip() for text in await ticks.all_text_contents()) == sorted(names)
        await plot.locator(".bars .point path").first.hover(force=True)  # plotly lays what listens over its bars
        told = plot.locator(".hoverlayer .hovertext text.nums")
        await told.first.wait_for(timeout=10_000)
        assert await plot.locator("a").count() == 0
        hovered = "".join(await told.all_text_contents())
        assert any(name in hovered for name in names)


async def test_a_morning(site: Site) -> None:
    """Log in, look at the sums and a chart, filter, open a request, log out."""
    page = site.page
    await site.open("?range=30d")
    assert "/dashboard/login?next=" in page.url
    assert await page.evaluate("document.activeElement.id") == "key"
    await site.log_in()
    assert page.url == f"{site.url}/dashboard?range=30d", "the page that was wanted"
    await site.drawn()

    # A chart that was drawn from known requests shows known amounts.
    lines = [call.line for each in site.entries if each.request_id != "old-1" for call in each.calls]
    known = {
        stage: Money.total(line.amount for line in lines if line and line.amount and line.stage == stage)
        for stage in ("guidance", "answer", "fallback")
    }
    drawn = {trace["name"]: trace for trace in await site.traces("over-time")}
    for stage, amount in known.items():
        assert Money.total(Money.usd(text[1:]) for text in drawn[stage]["customdata"]) == amount
        assert sum(round(value * 1e9) for value in drawn[stage]["y"]) == amount.nano
    bars = page.locator('figure[data-chart="over-time"] .barlayer .point path')
    assert await bars.count() == 3 * 30
    split = {
        name: value for trace in await site.traces("split") for name, value in zip(trace["y"], trace["x"], strict=True)
    }
    assert round(split["fallback"] * 1e9) == known["fallback"].nano
    (strategies,) = await site.traces("strategies")
    assert dict(zip(strategies["y"], strategies["x"], strict=True)) == {"cut-off": 8, "teacher": 1, "student": 1}
    (row,) = await site.ledger.savings(Query())
    assert row.requests == len(site.entries)

    await page.get_by_role("link", name="Requests", exact=True).click()
    await page.get_by_label("Strategy").select_option("teacher")  # sends the form by itself
    await page.wait_for_url("**strategy=teacher**")
    opened = page.locator("tbody th a")
    assert await opened.count() == 1
    await opened.click()
    assert await page.get_by_role("heading", level=1).inner_text() == "teacher-1"
    assert await page.locator("#spent data.money").first.get_attribute("value") == "0.500000009"
    box = await page.locator("svg .answer-fill").last.bounding_box()
    assert box is not None
    assert box["width"] > 100

    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login")
    await site.open("/requests/teacher-1")
    assert "/login" in page.url


async def test_times_are_the_viewer_s(site: Site) -> None:
    await site.open()
    await site.log_in()
    await site.open("/requests/guided-0")
    time = site.page.locator("time").first
    utc, shown = await time.get_attribute("title"), await time.inner_text()
    assert utc is not None
    hour = (int(utc.split()[1][:2]) + 9) % 24
    assert f"{hour:02d}:{utc.split()[1][3:]}" in shown
    assert "Asia/Tokyo" in await site.page.locator("footer").inner_text()
    # Hours on a chart are the viewer's too; what the page was sent is UTC.
    await site.open("?range=today", charts=True)
    (trace, *_) = await site.traces("over-time")
    assert trace["x"][0].endswith("T00:30:00"), "the range begins with the viewer's day"
    assert "today, Asia/Tokyo" in await site.page.locator("main").inner_text()
    assert "ranges in Asia/Tokyo" in await site.page.locator("footer").inner_text()


async def test_it_can_be_read(answered: Requests, tmp_path: Path, page: Page) -> None:
    """No page is wider than the screen, everything contrasts, and pictures of all are kept (`ARTIFACTS`)."""
    async with answering(tmp_path, measured(answered())) as house, looked_at(house, page) as site:
        for number in range(100):
            await site.ledger.score(f"drawn-{number}", "feedback", float(number % 3 > 0))
        for width, scheme in itertools.product((390, 1280), get_args(Scheme)):
            await site.look(width, 844, scheme)
            await site.open("/login")
            await site.page.screenshot(path=ARTIFACTS / f"login-{scheme}-{width}.png")
            await site.log_in()
            pages = {"overview": "?range=all", "requests": "/requests", "request": "/requests/fallback-1"}
            others = {"models": "/models", "keys": "/keys?range=all", "trade-off": "/tradeoff?range=all"}
            for name, path in {**pages, **others}.items():
                await site.open(path, charts=name in ("overview", "keys", "trade-off"))
                seen = f"{name}-{scheme}-{width}"
                assert await site.page.evaluate("document.documentElement.scrollWidth") <= width, seen
                await site.page.screenshot(path=ARTIFACTS / f"{seen}.png", full_page=True)
                assert await site.page.evaluate(CUT_OFF) == [], seen
                worst = await site.page.evaluate(CONTRAST)
                assert worst["ratio"] >= 4.5, (seen, worst)


@pytest.mark.parametrize("width", [390, 1280])
async def test_a_screen_reader_is_told_of_tables_at_any_width(width: int, site: Site) -> None:
    """By Chromium's own tree of what it tells such programs, where a `display` that is no table's counts."""
    await site.look(width, 844)
    await site.open()
    await site.log_in()
    for path, name in (("/requests?range=all", "Requests"), ("/keys?range=all", "Keys by what they spent")):
        await site.open(path)
        told = await site.page.context.new_cdp_session(site.page)
        nodes = (await told.send("Accessibility.getFullAXTree"))["nodes"]
        known = {node["nodeId"]: node for node in nodes}
        (table,) = (node for node in nodes if role(node) == "table" and name in node["name"]["value"])
        inside = list(below(known, table))
        counts = {each: sum(role(node) == each for node in inside) for each in ("row", "rowheader", "columnheader")}
        shown = await site.page.locator("table.stack tbody tr").count()
        columns = await site.page.locator("table.stack thead th").count()
        assert counts == {"row": shown + 1, "rowheader": shown, "columnheader": columns}
        assert sum(role(node) in ("cell", "gridcell") for node in inside) == shown * (columns - 1)


def role(node: dict[str, Any]) -> str:
    return str(node.get("role", {}).get("value"))


def below(known: dict[str, dict[str, Any]], node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes within one."""
    for child in node.get("childIds", ()):
        if child in known:
            yield known[child]
            yield from below(known, known[child])


async def test_the_form_of_a_range_is_on_the_screen(site: Site) -> None:
    """Also where the range that was chosen takes a line of its own."""
    for width in (360, 390, 1280):
        await site.look(width, 844)
        await site.open()
        await site.log_in()
        for chosen in ("", "&from=2026-01-01", "&to=2026-01-01", "&from=2026-01-01&to=2026-01-31"):
            await site.open(f"/tradeoff?range={'custom' if chosen else 'all'}{chosen}")
            await site.page.locator(".ranges summary").click()
            form = await site.page.locator(".ranges form").bounding_box()
            assert form is not None
            assert 0 <= form["x"] <= form["x"] + form["width"] <= width, (width, chosen)
            assert await site.page.evaluate("document.documentElement.scrollWidth") <= width, (width, chosen)


async def test_by_keyboard_alone(site: Site) -> None:
    await site.open()
    await site.page.keyboard.type(ADMIN)
    await site.page.keyboard.press("Enter")
    await site.page.wait_for_url("**/dashboard")
    await site.page.keyboard.press("Tab")
    assert await site.page.evaluate("document.activeElement.className") == "skip"
    assert (await site.page.locator(".skip").bounding_box() or {"y": -1})["y"] >= 0, "it is seen when it is reached"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await site.page.evaluate(outline) == "solid"
    await site.page.keyboard.press("Enter")
    await site.page.keyboard.press("Tab")
    assert await site.page.evaluate("document.activeElement.closest('main') !== null")


async def test_a_change_to_dark_repaints_the_charts(site: Site) -> None:
    await site.open()
    await site.log_in()
    await site.drawn()
    colour = "document.querySelector('figure[data-chart=split] .plot').layout.font.color"
    light = await site.page.evaluate(colour)
    await site.page.emulate_media(color_scheme="dark")
    await site.page.wait_for_selector('html[data-drawn="dark"]', state="attached")
    assert await site.page.evaluate(colour) != light


CUT_OFF = """() => {
  const outside = (of, box) => [...of].filter((each) => {
    const at = each.getBoundingClientRect(), text = document.createRange();
    text.selectNodeContents(each);
    return at.right > box.right + 1 || at.left < box.left - 1 || text.getClientRects().length > 1;
  }).map((each) => each.textContent);
  const menu = document.querySelector(".bar nav").getBoundingClientRect();
  const wide = location.pathname.endsWith("/tradeoff") && innerWidth > 620;
  const tables = wide ? [...document.querySelectorAll(".scroll")] : [];
  const cells = tables.flatMap((each) => outside(each.querySelectorAll("thead th"), each.getBoundingClientRect()));
  return [...outside(document.querySelectorAll(".menu a"), menu), ...cells];
}"""
"""What of the menu, and of the trade-off's columns where they stand side by side, is outside of what shows them."""

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parsed = new Map();
  const parse = (text) => {
    if (!parsed.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      parsed.set(text, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return parsed.get(text);
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let worst = {ratio: 21};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), of = walker.currentNode.parentElement;
    if (!text || of.closest("svg, script, .plot, .hidden, .skip, datalist, option") || !of.checkVisibility()) continue;
    let under = of;
    while (parse(getComputedStyle(under).backgroundColor)[3] < 255 && under.parentElement) under = under.parentElement;
    const pair = [getComputedStyle(of).color, getComputedStyle(under).backgroundColor].map(parse).map(light);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < worst.ratio) worst = {ratio, text: text.slice(0, 60)};
  }
  return worst;
}"""
