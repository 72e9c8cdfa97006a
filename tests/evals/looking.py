"""A report in a real Chromium: opened from its file, and what its console said."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from docs.browser import FLAGS
from tests.gateway.dashboard.test_browser import CONTRAST


@dataclass
class Look:
    """A page that is being looked at. `said`: warnings and errors of its console, and what it threw."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def drawn(self) -> None:
        """All charts are there."""
        await self.page.wait_for_selector("html[data-drawn]", state="attached")

    async def table(self, name: str) -> list[list[str]]:
        """The cells of a table's rows, as they are read."""
        rows: list[list[str]] = await self.page.eval_on_selector_all(
            f"#{name} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return rows

    async def traces(self, chart: str) -> dict[str, dict[str, Any]]:
        """What plotly drew, by the names of its traces."""
        told: list[dict[str, Any]] = await self.page.eval_on_selector(
            f'figure[data-chart="{chart}"] .plot', "plot => plot.data.map(({name, x, y}) => ({name, x, y}))"
        )
        return {str(each["name"]): each for each in told}

    async def outcomes(self) -> list[str]:
        """The mark of every conversation that is shown."""
        return await self.page.locator(".talk .tag").all_inner_texts()

    async def is_legible(self) -> None:
        """No part is wider than the screen, and every text contrasts with what it stands on."""
        width = self.page.viewport_size["width"] if self.page.viewport_size else 0
        assert await self.page.evaluate("document.documentElement.scrollWidth") <= width
        worst = await self.page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, worst


@asynccontextmanager
async def looking(chromium: str, file: Path, **context: Any) -> AsyncGenerator[Look, None]:
    """The file in the browser that lies at `chromium`; at the end, the console must be silent and nothing asked for."""
    async with async_playwright() as play:
        shown = await play.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = await shown.new_page(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **context})
            look = Look(page)
            page.on(
                "console", lambda m: look.said.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
            )
            page.on("pageerror", lambda error: look.said.append(f"thrown: {error}"))
            page.on("request", lambda request: look.asked.append(request.url))
            page.on("dialog", lambda dialog: look.said.append(f"dialog: {dialog.message}"))
            await page.goto(file.as_uri())
            await look.drawn()
            yield look
            assert look.said == []
            assert [each for each in look.asked if not each.startswith((file.as_uri(), "data:"))] == []
        finally:
            await shown.close()
