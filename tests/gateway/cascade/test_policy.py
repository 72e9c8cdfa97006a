"""The policy: what drafts show, what is decided of it, and a file that cannot be misread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Answer
from gateway.cascade.policy import Policy, decide, weigh
from gateway.cascade.signals import FLOOR, Draft, likelihood, read
from gateway.errors import ConfigError

NAMES = ("a", "b", "c")
answers = st.none() | st.sampled_from([Answer("number", "18"), Answer("number", "3/4"), Answer("text", "x+1")])
texts = st.builds(Draft, st.just("a"), answers, st.integers(0, 5000), st.none() | st.floats(-5, 0))


def number(student: str, value: str | None, tokens: int = 100) -> Draft:
    return Draft(student, None if value is None else Answer("number", value), tokens)


def file(**changes: Any) -> dict[str, Any]:
    return {
        "name": "sums",
        "teacher": {"model": "big"},
        "worth": 0.3,
        "prefer": ["b", "a"],
        "rungs": [
            {"student": "a", "gain": {"one": 0.1}, "cost": {"one": 1.0}, "next": {"one": 0.05, "length": -0.02}},
            {"student": "b", "gain": {"one": 0.0, "alone": 0.5}, "cost": {"one": 1.0}},
        ],
        **changes,
    }


@given(st.lists(texts, min_size=1, max_size=3))
def test_the_best_draft_has_the_most_votes(drafts: list[Draft]) -> None:
    named = [draft._replace(student=name) for draft, name in zip(drafts, NAMES, strict=False)]
    seen = read(named, NAMES)
    chosen = named[seen.best].answer
    assert seen.votes == (0 if chosen is None else sum(draft.answer == chosen for draft in named))
    for draft in named:
        assert draft.answer is None or sum(draft.answer == other.answer for other in named) <= seen.votes
    assert (chosen is None) <= all(draft.answer is None for draft in named)
    assert seen.signals["alone"] == float(len(named) > 1 and seen.votes < 2)


@given(st.permutations([number("a", "1", 10), number("b", "1", 20), number("c", "2", 30)]))
def test_the_order_of_the_drafts_makes_no_difference(drafts: list[Draft]) -> None:
    seen = read(drafts, NAMES)
    assert drafts[seen.best].student == "a"
    assert seen.votes == 2
    assert seen.signals["without:c"] == 1.0
    assert seen.signals["without:a"] == 0.0


def test_equal_votes_go_to_the_preferred_student() -> None:
    assert read([number("a", "1"), number("b", "2")], ["b", "a"]).best == 1
    assert read([number("a", "1"), number("b", None)], ["b", "a"]).best == 0


@pytest.mark.parametrize(("value", "odd"), [("18", 0.0), ("3/4", 1.0), (None, 0.0)])
def test_a_whole_number_is_not_odd(value: str | None, odd: float) -> None:
    assert read([number("a", value)], NAMES).signals["odd"] == odd


def test_words_are_odd_and_choices_are_not() -> None:
    for kind, odd in (("text", 1.0), ("choice", 0.0), ("json", 0.0)):
        assert read([Draft("a", Answer(kind, "A"), 5)], NAMES).signals["odd"] == odd  # type: ignore[arg-type]


def test_no_drafts_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="no drafts"):
        read([], NAMES)


@given(st.lists(st.floats(max_value=0, allow_nan=False), max_size=9))
def test_an_answer_is_as_likely_as_its_tokens(told: list[float]) -> None:
    mean, least = likelihood(told)
    if not told:
        assert (mean, least) == (None, None)
    else:
        assert mean is not None
        assert least == max(min(told), FLOOR)
        assert least - 1e-9 <= mean <= 1e-9
    assert likelihood([*told, float("nan")]) == (None, None)


def test_what_is_not_known_says_so() -> None:
    sure = read([Draft("a", Answer("number", "1"), 9, -0.5, least=-3.0)], NAMES).signals
    assert (sure["doubt"], sure["worst"], sure["unsure"]) == (0.5, 3.0, 0.0)
    assert read([Draft("a", Answer("number", "1"), 9)], NAMES).signals["unsure"] == 1.0
    assert read([Draft("a", Answer("number", "1"), 9, -0.5)], NAMES).signals["unsure"] == 1.0
    best = [Draft("a", Answer("number", "1"), 9), Draft("b", Answer("number", "1"), 9, -0.5, least=-3.0)]
    assert read(best, ["b", "a"]).signals["unsure"] == 0.0, "of the draft that is given"


def doubting(**first: Any) -> Policy:
    """Accepts what is certain: `doubt` 0 would be that."""
    rungs = file()["rungs"]
    rungs[0] |= {"gain": {"doubt": 1.0}, "next": {"doubt": 0.5}, **first}
    rungs[1] |= {"gain": {"worst": 1.0}}
    return Policy.model_validate(file(rungs=rungs))


def test_a_draft_that_is_not_known_to_be_likely_is_not_accepted() -> None:
    policy, silent = doubting(), number("a", "18")
    certain = silent._replace(logprob=0.0, least=0.0)
    assert decide(policy, [certain]).action == "accept"
    assert decide(policy, [silent]) == (
        "ask",
        0,
        "one draft; its log-probabilities, which count here, are not known; the next student first",
    )
    closed = decide(policy, [silent], {1: "too dear"})
    assert (closed.action, closed.best) == ("escalate", 0)
    assert decide(policy, [silent, number("b", "18")]).action == "escalate"
    assert decide(policy, [silent, certain._replace(student="b")]).action == "accept"
    assert decide(Policy.model_validate(file()), [silent._replace(tokens=5000)]).action == "accept", "not weighed"


def test_who_must_tell_log_probabilities() -> None:
    assert doubting().sure == ["a", "b"]
    assert Policy.model_validate(file()).sure == []
    known = doubting(gain={"doubt": 1.0, "unsure": 0.2})
    assert known.sure == ["a", "b"], "the second rung has not seen what it means"
    rungs = [known.rungs[0], known.rungs[1].model_copy(update={"gain": {"worst": 1.0, "unsure": 0.1}})]
    assert known.model_copy(update={"rungs": rungs}).sure == []
    told = [rungs[0], rungs[1].model_copy(update={"logprobs": True})]
    assert known.model_copy(update={"rungs": told}).sure == ["b"]


def test_it_climbs_and_says_why() -> None:
    policy = Policy.model_validate(file())
    assert decide(policy, []).action == "ask"
    first = decide(policy, [number("a", "18", 5)])
    assert first.action == "ask"
    agreed = decide(policy, [number("a", "18"), number("b", "18")])
    assert (agreed.action, agreed.why.partition(";")[0]) == ("accept", "2 of 2 drafts agree")
    apart = decide(policy, [number("a", "18"), number("b", "19")])
    assert (apart.action, apart.best) == ("escalate", 1)
    assert "would add +0.500, worth it from 0.300 on" in apart.why


def test_a_long_draft_is_not_worth_a_second_one_here() -> None:
    assert decide(Policy.model_validate(file()), [number("a", "18", 5000)]).action == "accept"


def test_more_drafts_than_rungs_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="3 drafts for 2 rungs"):
        decide(Policy.model_validate(file()), [number(name, "1") for name in NAMES])


@given(st.floats(0, 3), st.lists(texts, min_size=1, max_size=2))
def test_what_is_worth_more_is_asked_for_less(worth: float, drafts: list[Draft]) -> None:
    """Raising the price of accuracy never turns an acceptance into an escalation."""
    low, high = (Policy.model_validate(file(worth=each)) for each in (worth, worth + 0.5))
    if decide(high, drafts).action == "escalate":
        assert decide(low, drafts).action == "escalate"


def test_a_signal_that_is_not_there_does_not_count() -> None:
    assert weigh({"one": 1.0, "without:z": 5.0}, {"one": 1.0}) == 1.0


def test_a_file_is_read_back(tmp_path: Path) -> None:
    policy = Policy.model_validate(file())
    path = tmp_path / "policy.yaml"
    path.write_text(policy.dump())
    assert Policy.load(path) == policy


def test_a_rung_of_guidance_has_a_place() -> None:
    rungs = file()["rungs"]
    rungs[1] |= {"kind": "guidance", "guidance_tokens": 48}
    assert Policy.model_validate(file(rungs=rungs)).rungs[1].guidance_tokens == 48


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version"),
        ({"worth": -1}, "worth"),
        ({"worth": float("nan")}, "worth"),
        ({"rungs": []}, "rungs"),
        ({"wroth": 1}, "wroth"),
        ({"rungs": file()["rungs"][:1]}, "every rung but the last"),
        ({"rungs": [{**file()["rungs"][1], "kind": "guidance"}]}, "guidance_tokens"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_mend(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(file(**changes)))
    with pytest.raises(ConfigError, match=said):
        Policy.load(path)


def test_no_file_and_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Policy.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("{")
    with pytest.raises(ConfigError, match="no YAML"):
        Policy.load(tmp_path / "bad.yaml")
