"""The page as a file: sound HTML, nothing from elsewhere, nothing that a text can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape

import pytest

from evals.page import page
from evals.sheets import parts
from evals.summary import summarise
from tests.evals.made_run import CELLS, NASTY, cell, result, results, run


@pytest.fixture(scope="module")
def text() -> str:
    told = [result(each, NASTY, 1.0, answer=NASTY, why=NASTY, found=NASTY) for each in CELLS]
    told += list(results(count=20))
    return page(summarise(run(name=NASTY, notes=[NASTY]), told), told)


def scripts(text: str) -> list[tuple[str, str]]:
    """Attributes and content of every script element, as a browser takes them."""
    return re.findall(r"<script([^>]*)>(.*?)</script", text, re.DOTALL)


def test_nothing_comes_from_elsewhere(text: str) -> None:
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))  # type: ignore[union-attr]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r'(?:src|href|action)="(?!#|data:)', outside) == []


def test_the_policy_allows_the_page_s_own_scripts_and_no_others(text: str) -> None:
    allowed = set(re.findall(r"&#39;(sha256-[^&]+)&#39;", text))
    run = [body for attributes, body in scripts(text) if "application/json" not in attributes]
    (styles,) = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
    made = {f"sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}" for body in [*run, styles]}
    assert made == allowed
    assert len(run) == 2


def test_a_text_is_a_text(text: str) -> None:
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    (held,) = [json.loads(body) for attributes, body in scripts(text) if 'id="answers"' in attributes]
    assert any(row["answer"] == NASTY for row in held["rows"])


def test_every_table_stands_in_it(text: str) -> None:
    told = [result(each, NASTY, 1.0) for each in CELLS] + list(results(count=20))
    for sheet in parts(summarise(run(), told))[0].sheets:
        table = re.search(rf'<table id="{sheet.id}">(.*?)</table>', text, re.DOTALL)
        assert table is not None
        body = table.group(1).partition("<tbody>")[2]
        rows = [
            [unescape(re.sub(r"<[^>]+>", "", each)) for each in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
        ]
        assert rows == [list(row) for row in sheet.rows]


def test_what_is_left_out_is_said() -> None:
    told = list(results(count=20))
    made = summarise(run(), told)
    assert f"All {len(told)} answers." in page(made, told)
    short = page(made, told, limit=20_000)
    found = re.search(r"(\d+) of 160 answers are on this page", short)
    assert found is not None
    assert 0 < int(found.group(1)) < 160


def test_a_run_without_answers_is_a_page_too() -> None:
    text = page(summarise(run([cell("teacher")]), []), [])
    assert "Without any answer yet: teacher." in text
    assert "data-chart" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
