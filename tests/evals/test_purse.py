"""The purse: whatever requests cost, fail by and are cut off at, the budget is not passed and nothing is forgotten."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.asking import Told
from evals.purse import SPENT, Empty, Purse
from gateway.errors import ConfigError
from pricing.money import Money

End = Literal["answer", "unpriced", "failed", "refused", "cut"]


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, int, End]:
    """The most that it can cost, what it does cost, and how it ends."""
    most = draw(st.integers(0, 100))
    end: End = draw(st.sampled_from(("answer", "unpriced", "failed", "refused", "cut")))
    return most, 0 if end == "refused" else draw(st.integers(0, most)), end


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(requests(), max_size=12), min_size=1, max_size=3),
    st.integers(0, 1500),
    st.integers(1, 5),
    st.data(),
)
def test_the_budget_is_never_passed(
    runs: list[list[tuple[int, int, End]]], budget: int, at_once: int, data: st.DataObject
) -> None:
    """Several runs into one folder, many requests at once; `cut`: the process dies while the request is under way."""
    truly_paid = 0

    async def one_run(folder: Path, wanted: list[tuple[int, int, End]]) -> None:
        nonlocal truly_paid
        left = iter(wanted)
        with closing(Purse(folder, Money(budget))) as purse:
            assert truly_paid <= purse.spent.nano <= budget

            async def place() -> None:
                for most, cost, end in left:

                    async def ask(most: int = most, cost: int = cost, end: End = end) -> Told:
                        nonlocal truly_paid
                        for _ in range(data.draw(st.integers(0, 3))):
                            await asyncio.sleep(0)
                        truly_paid += cost
                        assert truly_paid <= budget
                        if end == "cut":
                            raise asyncio.CancelledError
                        if end in ("failed", "refused"):
                            return Told(error="upstream_error" if end == "failed" else "rate_limit_exceeded")
                        return Told("text", cost=cost if end == "answer" else None)

                    try:
                        await purse.pay(Money(most), ask)
                    except Empty:
                        return

            await asyncio.gather(*(place() for _ in range(at_once)), return_exceptions=True)
            assert truly_paid <= purse.spent.nano <= budget

    with tempfile.TemporaryDirectory() as folder:
        for wanted in runs:
            asyncio.run(one_run(Path(folder), wanted))


@pytest.mark.anyio
async def test_what_others_do_not_need_is_waited_for(tmp_path: Path) -> None:
    with closing(Purse(tmp_path, Money(150))) as purse:
        asked: list[int] = []

        async def ask() -> Told:
            asked.append(1)
            await asyncio.sleep(0.01)
            return Told("text", cost=10)

        await asyncio.gather(*(purse.pay(Money(100), ask) for _ in range(6)))
        assert (len(asked), purse.spent) == (6, Money(60))
        with pytest.raises(Empty, match="the next request may cost"):
            await purse.pay(Money(91), ask)


def test_a_torn_line_is_a_request_under_way(tmp_path: Path) -> None:
    lines = [{"call": 0, "settled": False, "most": 70}, {"call": 0, "settled": True, "paid": 5}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / SPENT).write_text(text[:-4])
    with closing(Purse(tmp_path, Money(100))) as purse:
        assert purse.spent == Money(70)
    assert (tmp_path / SPENT).read_text().endswith("\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"call": 0, "settled": false}', "is not known"), ('{"call": "x"}', "spent.jsonl:1"), ("?", "spent.jsonl:1")],
)
def test_a_log_that_says_too_little_keeps_no_budget(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / SPENT).write_text(line + "\n")
    with pytest.raises(ConfigError, match=said):
        Purse(tmp_path, Money(100))
