"""The report in a real Chromium: its numbers are the results', its filter filters, it can be read and used by all.

Skipped where there is no browser (`GKT_CHROMIUM` names one that lies elsewhere); where `GKT_NEED_BROWSER` is 1 it then
fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.conversations import shown
from evals.page import page
from evals.sheets import parts
from evals.summary import summarise
from tests.evals.looking import looking
from tests.evals.made_run import CELLS, NASTY, cell, result, results, run

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MORE = (
    *CELLS,
    *(
        cell(who, tokens, exemplars=8, concurrency=8)
        for who, tokens in (("teacher", None), ("student", None), ("cut-off", 40))
    ),
)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    told = [*results(MORE, count=30), result(MORE[4], NASTY, 0.0, answer=NASTY, guidance=NASTY[:9])]
    told.append(result(MORE[0], NASTY, 1.0, answer=NASTY))
    file = tmp_path / "report.html"
    file.write_text(page(summarise(run(MORE, name=NASTY), told), told), "utf-8")
    return file


async def test_a_reader_finds_the_numbers_and_the_disagreements(chromium: str, report: Path) -> None:
    told = [*results(MORE, count=30), result(MORE[4], NASTY, 0.0), result(MORE[0], NASTY, 1.0)]
    made = summarise(run(MORE), told)
    held = shown(run(MORE), told)
    async with looking(chromium, report) as look:
        for part in parts(made):
            for sheet in part.sheets:
                assert await look.table(sheet.id) == [list(row) for row in sheet.rows]
        await look.is_legible()
        picture = await look.traces("pareto-0")
        group = made.groups[0]
        points = {each.cell.strategy: each.point for each in group.rows if each.cell.strategy == "concise"}
        concise = points["concise"]
        assert concise is not None
        assert (picture["concise"]["x"], picture["concise"]["y"]) == ([concise.cost], [concise.accuracy])
        assert picture["random mixing"]["x"] == [point.cost for point in group.mix]
        assert picture["hull"]["y"] == [point.accuracy for point in group.hull]
        assert picture["oracle of both alone"]["x"] == [point.cost for point in group.oracle]
        assert (await look.traces("lengths-0"))["cut-off, batch 8"]["x"] == [10, 40, 60]
        assert (await look.traces("exemplars-0"))["cut-off 40, batch 8"]["x"] == [0, 8]
        assert set(await look.traces("stages-0")) == {"guidance", "answer"}

        counted = look.page.locator("#counted")
        assert await counted.inner_text() == f"{len(held.rows)} answers found, 20 shown"
        await look.page.get_by_label("Beside the teacher", exact=True).select_option(label="disagreements")
        disagree = [row for row in held.rows if row["outcome"] in ("lost", "won")]
        assert await counted.inner_text() == f"{len(disagree)} answers found, 20 shown"
        assert set(await look.outcomes()) <= {"teacher right, this wrong", "teacher wrong, this right"}
        await look.page.get_by_role("button", name="Show more").click()
        assert len(await look.outcomes()) == min(40, len(disagree))
        await look.page.get_by_label("Arm", exact=True).select_option(str(4))
        lost = [row for row in disagree if row["cell"] == 4]
        assert len(await look.outcomes()) == min(20, len(lost))
        await look.page.get_by_label("Words", exact=True).fill("onerror=ALERT")
        assert await look.outcomes() == ["teacher right, this wrong"]
        said = look.page.locator(".talk pre")
        assert await said.nth(0).inner_text() == NASTY
        assert await said.nth(0).locator("mark").inner_text() == NASTY[:9]
        assert await said.nth(1).inner_text() == NASTY
        assert await look.page.locator(".talk img, .talk script").count() == 0


async def test_it_can_be_read_on_a_phone_in_the_dark_and_by_keyboard(chromium: str, report: Path) -> None:
    async with looking(chromium, report, viewport={"width": 390, "height": 844}, color_scheme="dark") as look:
        await look.is_legible()
        await look.page.keyboard.press("Tab")
        assert await look.page.evaluate("document.activeElement.className") == "skip"
        await look.page.get_by_label("Arm", exact=True).focus()
        await look.page.keyboard.press("Tab")
        await look.page.keyboard.press("ArrowDown")
        assert await look.page.get_by_label("Beside the teacher", exact=True).input_value() == "lost won"
        assert "teacher" in (await look.outcomes())[0]
