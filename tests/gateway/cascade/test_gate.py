"""The gate of break-even: guidance is asked for where it keeps more from the teacher than it costs of its answer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer
from gateway.cascade.gate import Length, closed
from gateway.cascade.policy import Observed, Policy, Rung, Teacher, decide
from gateway.cascade.signals import Draft
from pricing.money import Money
from pricing.price import Price

EVIDENCE = {"mean_teacher_tokens": {"input": 100, "output": 300.4}}


def price(read: float = 2.5, write: float = 10) -> Price:
    return Price("big", "config", Money.usd(Decimal(str(read))), Money.usd(Decimal(str(write))))


def ladder(kept: float | None, needed: float = 0.0, evidence: dict[str, Any] | None = None) -> Policy:
    observed = None if kept is None else Observed(asked=90, accepted=0, escalated=0, kept=kept, needed=needed)
    weights: dict[str, Any] = {"gain": {"one": 1.0}, "cost": {"one": 1.0}}
    return Policy(
        name="test",
        teacher=Teacher(model="big"),
        worth=0.1,
        prefer=["a"],
        rungs=[
            Rung(student="a", next={"one": 2.0}, **weights),
            Rung(student="a", kind="guidance", guidance_tokens=48, observed=observed, **weights),
        ],
        evidence=EVIDENCE if evidence is None else evidence,
    )


def test_what_the_paper_and_the_design_say() -> None:
    """G / F at 48 of 300 tokens and 100 read, at 2.5 and 10 dollars: (250 + 480) / (250 + 3000) = 0.2246."""
    assert closed(ladder(0.23), price()) == {}
    assert closed(ladder(0.22), price()) == {
        1: "guidance of 48 tokens keeps 0.220 from the teacher and pays above 0.225"
    }


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 20), st.floats(0.01, 100))
def test_it_pays_iff_it_keeps_more_than_both_say(kept: float, needed: float, read: float, write: float) -> None:
    found = closed(ladder(kept, needed), price(round(read, 2), round(write, 2)))
    even = (round(read, 2) * 100 + round(write, 2) * 48) / (round(read, 2) * 100 + round(write, 2) * 300)
    if abs(kept - max(even, needed)) > 1e-9:
        assert (1 in found) == (kept <= max(even, needed))
    assert 0 not in found, "a student alone costs what the policy has weighed"


@pytest.mark.parametrize(
    ("teacher", "evidence"), [(None, EVIDENCE), (price(), {}), (price(), {"mean_teacher_tokens": 3})]
)
def test_without_prices_or_lengths_what_was_observed_counts(teacher: Price | None, evidence: dict[str, Any]) -> None:
    assert closed(ladder(0.2, 0.19, evidence), teacher) == {}
    assert 1 in closed(ladder(0.2, 0.21, evidence), teacher)


def test_what_nobody_has_seen_is_closed() -> None:
    unseen = "nobody has seen yet what guidance of 48 tokens keeps from the teacher"
    assert closed(ladder(None), price()) == {1: unseen}
    assert Length.of({"mean_teacher_tokens": {"input": 1}}) is None


def test_a_closed_rung_ends_the_ladder() -> None:
    policy, drafts = ladder(0.5), [Draft("a", Answer("number", "1"), 10)]
    assert decide(policy, drafts).action == "ask"
    decision = decide(policy, drafts, {1: "too dear"})
    assert (decision.action, decision.best) == ("escalate", 0)
    assert decision.why.endswith("; the next rung is closed: too dear")
    assert decide(policy.model_copy(update={"worth": 9.0}), drafts, {1: "too dear"}).action == "accept"
    assert decide(policy, [], {0: "too dear"}) == ("escalate", None, "too dear")
