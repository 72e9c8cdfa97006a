"""The gate of break-even: guidance is asked for where it keeps more from the teacher than it costs of its answer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer
from gateway.cascade.gate import Length, Seen, closed, seen
from gateway.cascade.kept import Kept
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


def test_what_was_seen_since_counts_the_more_the_more_it_is() -> None:
    """Evidence of 90 requests beside what was seen: 0.3 of 90, and then none of 30, 60 and so on."""
    policy = ladder(0.3)
    assert closed(policy, price(), {1: Seen(0, 0)}) == {}
    assert closed(policy, price(), {1: Seen(30, 0)}) == {}, "27 of 120 are kept, and 22.5 % are needed"
    assert closed(policy, price(), {1: Seen(31, 0)}) == {
        1: "guidance of 48 tokens keeps 0.223 from the teacher and pays above 0.225"
    }
    assert closed(ladder(0.1), price(), {1: Seen(90, 60)}) == {}, "and it opens what did not pay before"


def test_evidence_however_much_does_not_outweigh_what_is_seen() -> None:
    policy = ladder(0.9)
    rung = policy.rungs[1]
    assert rung.observed is not None
    much = rung.model_copy(update={"observed": rung.observed.model_copy(update={"asked": 100_000})})
    told = policy.model_copy(update={"rungs": [policy.rungs[0], much]})
    assert closed(told, price(), {1: Seen(300, 0)}) == {}, "90 of 400"
    assert 1 in closed(told, price(), {1: Seen(301, 0)})


def test_a_rung_without_evidence_opens_when_enough_was_seen_and_its_price_is_known() -> None:
    assert 1 in closed(ladder(None), price(), {1: Seen(29, 29)})
    assert closed(ladder(None), price(), {1: Seen(30, 29)}) == {}
    unknown = "nobody knows what guidance of 48 tokens costs of the teacher's answer"
    assert closed(ladder(None), None, {1: Seen(30, 29)}) == {1: unknown}


def test_who_goes_on_from_the_same_words_costs_only_its_own() -> None:
    policy = ladder(0.5)
    rungs = [policy.rungs[0], *(policy.rungs[1].model_copy(update={"next": {"one": 1.0}}) for _ in range(2))]
    seldom = Observed(asked=90, accepted=0.02, escalated=0.98, kept=0.02, needed=0.01)
    rungs[2] = policy.rungs[1].model_copy(update={"observed": seldom})
    assert closed(policy.model_copy(update={"rungs": rungs}), price()) == {}
    assert 1 in closed(policy.model_copy(update={"rungs": [rungs[0], rungs[2]]}), price())


def kept(place: int | None, group: int | None, **rest: Any) -> Kept:
    return Kept(place, "a", 10, group, None if group is None else "number", **rest)


def test_requests_are_decided_anew_over_what_is_kept_of_them() -> None:
    """The ladder asks its second rung always, and then the teacher unless both agree."""
    policy = ladder(None)
    rungs = [policy.rungs[0], policy.rungs[1].model_copy(update={"gain": {"alone": 1.0}})]
    policy = policy.model_copy(update={"rungs": rungs})
    agreed = [kept(0, 0), kept(1, 0, guidance=48)]
    apart = [kept(0, 0), kept(1, 1, guidance=48), kept(None, 1)]
    ended = [kept(0, 0), kept(1, 1, guidance=48, told=True, complete=True)]
    assert seen(policy, [agreed, apart, ended]) == {1: Seen(3, 2)}
    unknown: list[list[Kept]] = [
        [kept(0, 0)],  # it was closed, and there was no shadow
        [kept(0, 0), kept(1, 0, guidance=40)],
        [kept(0, 0), kept(1, 0, guidance=48, limit=9)],
        [kept(0, 0), Kept(1, "b", 10, 0, "number", guidance=48)],
        [],
    ]
    assert seen(policy, unknown) == {}


def test_a_closed_rung_ends_the_ladder() -> None:
    policy, drafts = ladder(0.5), [Draft("a", Answer("number", "1"), 10)]
    assert decide(policy, drafts).action == "ask"
    decision = decide(policy, drafts, {1: "too dear"})
    assert (decision.action, decision.best) == ("escalate", 0)
    assert decision.why.endswith("; the next rung is closed: too dear")
    assert decide(policy.model_copy(update={"worth": 9.0}), drafts, {1: "too dear"}).action == "accept"
    assert decide(policy, [], {0: "too dear"}) == ("escalate", None, "too dear")
