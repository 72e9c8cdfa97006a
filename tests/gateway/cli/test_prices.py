"""`gkt prices`: every source's rows, and the one that is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Write = Callable[..., Path]
Run = Callable[..., Result]

DATED = [
    {"input": 1, "output": 2, "until": "2026-12-01"},
    {"input": 3, "output": 4, "from": "2026-12-01"},
    {"input": 0.5, "output": 1, "tier": "flex"},
]


def used(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.rstrip().endswith("used")]


def test_the_configuration_is_believed_before_all_others(write: Write, run: Run) -> None:
    result = run("prices", "gpt-4o", "--config", write(prices={"gpt-4o": {"input": 7, "output": 8}}))
    assert result.exit_code == 0
    (line,) = used(result)
    assert line.split()[:3] == ["config", "$7", "$8"]
    assert "genai-prices" in result.stdout.replace(line, "")


def test_a_model_of_the_catalogues(write: Write, run: Run) -> None:
    lines = used(run("prices", "gpt-6-sol", "--config", write()))
    assert lines
    assert all(line.startswith("genai-prices") for line in lines)
    assert lines[0].split()[1:5] == ["$2", "$0.2", "$2.5", "$10"]
    assert "prompts up to" in lines[0]
    assert "prompts over" in lines[1]


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (["--on", "2026-11-30"], ["$1", "$2"]),
        (["--on", "2026-12-01"], ["$3", "$4"]),
        (["--tier", "flex"], ["$0.5", "$1"]),
        (["--on", "2026-11-30", "--tier", "default"], ["$1", "$2"]),
    ],
)
def test_days_and_tiers(words: list[str], rates: list[str], write: Write, run: Run) -> None:
    (line,) = used(run("prices", "mine", *words, "--config", write(prices={"mine": DATED})))
    assert line.split()[1:3] == rates


def test_no_price_is_told_with_the_mend(write: Write, run: Run) -> None:
    result = run("prices", "mine", "--tier", "priority", "--config", write(prices={"mine": DATED}))
    assert result.exit_code == 1
    assert used(result) == []
    assert "prices: {mine: {input: .., output: ..}}" in " ".join(result.stdout.split())
