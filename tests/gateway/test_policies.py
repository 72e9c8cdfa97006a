"""Policies of routes: found, checked against what the route wants, and planned by."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gateway import policies
from gateway.cascade.policy import Observed, Policy, Rung, Teacher
from gateway.chat import Caller, Plan
from gateway.config import Config
from gateway.errors import BadRequest, ConfigError, Forbidden, Unsupported
from gateway.planner import Planner
from gateway.upstreams import check_keyless
from students.engine import Ability
from tests.gateway.conftest import make_chat
from tests.gateway.test_planner import EVERYTHING, Draws

EVIDENCE: dict[str, Any] = {"retention_low": 0.981}
WEIGHTS: dict[str, Any] = {"gain": {"one": 1.0}, "cost": {"one": 1.0}}
UPSTREAMS = {
    "teacher": {"kind": "scripted", "model": "big"},
    "small": {"kind": "scripted", "model": "llama-8b"},
    "other": {"kind": "scripted", "model": "gemma-9b"},
    "twin": {"kind": "scripted", "model": "gemma-9b"},
}
RULED = Observed(asked=9, accepted=1, escalated=0, kept=1, needed=0)


def policy(*students: str, evidence: dict[str, Any] = EVIDENCE, guided: bool = False, **more: Any) -> Policy:
    rungs = [Rung(student=name, next={"one": 1.0}, **WEIGHTS) for name in students]
    last = {"kind": "guidance", "guidance_tokens": 48, "observed": RULED} if guided else {}
    rungs[-1] = Rung(student=students[-1], **WEIGHTS, **last)
    return Policy(
        name="sums", teacher=Teacher(model="big"), worth=0.1, prefer=[*students], rungs=rungs, evidence=evidence, **more
    )


def config(folder: Path, made: Policy, **route: Any) -> Config:
    (folder / "sums.yaml").write_text(made.dump(), "utf-8")
    whole = {"strategy": "cascade", "teacher": "teacher", "policy": "sums.yaml", **route}
    return Config.parse({"upstreams": UPSTREAMS, "routes": {"r": whole}}, base=folder)


def planner(made: Config, abilities: Ability = EVERYTHING, **more: Any) -> Planner:
    return Planner(made, lambda name: abilities if name != "teacher" else EVERYTHING, (), **more)


def plan(made: Config, *needs: Any, by: Planner | None = None, **chat: Any) -> Plan:
    return (by or planner(made)).plan(make_chat("r", needs=needs, **chat), Caller())


class TestSeats:
    def test_a_student_is_an_upstream_of_its_name_or_the_one_with_its_model(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small", "llama-8b", "other"))
        assert policies.load(made)["r"].students == {"small": "small", "llama-8b": "small", "other": "other"}
        mapped = config(tmp_path, policy("small", "gemma-9b"), students={"gemma-9b": "twin", "gone": "other"})
        assert policies.load(mapped)["r"].students == {"small": "small", "gemma-9b": "twin"}

    @pytest.mark.parametrize(
        ("student", "said"),
        [
            (
                "nobody",
                r"'nobody', and no upstream has this name; .*`students: \{nobody: UPSTREAM\}`",
            ),
            ("gemma-9b", r"several upstreams have this model \(other, twin\)"),
            ("big", "whose upstream is the teacher's own"),
        ],
    )
    def test_one_that_cannot_be_found_is_named_with_its_mend(self, student: str, said: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"route 'r': the policy sums\.yaml asks .*" + said):
            planner(config(tmp_path, policy(student)))

    def test_a_file_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small"))
        (tmp_path / "sums.yaml").write_text("name: [", "utf-8")
        with pytest.raises(ConfigError, match=r"route 'r': the policy sums\.yaml is no YAML"):
            planner(made)
        (tmp_path / "sums.yaml").write_text("name: 2026-02-30", "utf-8")
        with pytest.raises(ConfigError, match="is no YAML"):
            planner(made)
        (tmp_path / "sums.yaml").unlink()
        with pytest.raises(ConfigError, match=r"route 'r': the policy sums\.yaml cannot be read: No such file"):
            planner(made)

    def test_a_student_without_a_key_is_a_fault(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small", "other"))
        check_keyless(made, {"twin"}, planner(made).students)
        with pytest.raises(ConfigError, match="route 'r' asks upstream 'other' with a key of the gateway's own"):
            check_keyless(made, {"other"}, planner(made).students)


class TestLogprobs:
    def test_a_policy_that_weighs_them_needs_upstreams_that_tell_them(self, tmp_path: Path) -> None:
        made = policy("small", "other")
        rungs = [made.rungs[0].model_copy(update={"gain": {"one": 1.0, "worst": 0.1}}), made.rungs[1]]
        weighed = config(tmp_path, made.model_copy(update={"rungs": rungs}))
        planner(weighed).check()
        by = planner(weighed, EVERYTHING & ~Ability.LOGPROBS)
        with pytest.raises(
            ConfigError, match=r"route 'r': its policy weighs how likely the tokens of 'small' were, .* calibrate anew"
        ):
            by.check()
        planner(config(tmp_path, made), EVERYTHING & ~Ability.LOGPROBS).check()


class TestTarget:
    def test_what_the_evidence_shows_is_enough_or_it_is_not(self, tmp_path: Path) -> None:
        policies.load(config(tmp_path, policy("small"), target={"retention": 0.98}))
        with pytest.raises(
            ConfigError, match=r"vouches for a retention of 0\.981, and target asks for 0\.99; calibrate"
        ):
            policies.load(config(tmp_path, policy("small"), target={"retention": 0.99}))
        with pytest.raises(ConfigError, match="has no `retention_low` in its evidence"):
            policies.load(config(tmp_path, policy("small", evidence={}), target={"retention": 0.5}))
        assert policies.load(config(tmp_path, policy("small", evidence={})))

    @pytest.mark.parametrize(
        ("told", "asked", "said"),
        [
            (0.5, None, "with a confidence of 0.5, and target asks for more than 0.5, which is an even chance"),
            (0.8, 0.9, "with a confidence of 0.8, and target asks for 0.9; calibrate anew with .*--confidence 0.9"),
            (None, 0.9, "without saying how surely, and target asks for 0.9"),
            (0.9, 0.9, None),
            (0.6, None, None),
            (None, None, None),
        ],
    )
    def test_an_even_chance_vouches_for_nothing(
        self, told: float | None, asked: float | None, said: str | None, tmp_path: Path
    ) -> None:
        evidence = EVIDENCE | ({} if told is None else {"target": {"retention": 0.98, "confidence": told}})
        target = {"retention": 0.98, "confidence": asked}
        made = config(tmp_path, policy("small", evidence=evidence), target=target)
        with pytest.raises(ConfigError, match=said) if said else nullcontext():
            policies.load(made)

    def test_evidence_is_of_one_teacher(self, tmp_path: Path) -> None:
        good = {"target": {"retention": 0.98}}
        assert policies.load(config(tmp_path, policy("small"), **good, teacher="teacher"))
        assert policies.load(config(tmp_path, policy("small"), **good, teacher="twin", teacher_model="big"))
        with pytest.raises(ConfigError, match="was calibrated on the teacher 'big', which is not this route's"):
            policies.load(config(tmp_path, policy("small"), **good, teacher="twin"))


class TestPlans:
    def test_a_plan_has_all_that_the_strategy_needs(self, tmp_path: Path) -> None:
        made = plan(config(tmp_path, policy("small", "other"), answers="choice"))
        assert (made.strategy, made.teacher, made.student, made.why) == (
            "cascade",
            "teacher",
            "small",
            "route r: cascade",
        )
        assert (made.students, made.answers, made.closed) == ({"small": "small", "other": "other"}, "choice", {})
        assert made.policy == policy("small", "other")
        kind = config(tmp_path, policy("small", kind="number"), answers="choice")
        assert plan(kind).answers == "number", "what it was calibrated by"

    def test_an_override_needs_a_policy_and_leaves_its_students_alone(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small"), strategy="student", student="other")
        assert plan(made).policy is None
        assert plan(made, strategy="cascade").students == {"small": "small"}
        assert plan(made, strategy="cascade", teacher="twin").teacher == "twin"
        with pytest.raises(BadRequest, match="are those of its policy"):
            plan(made, strategy="cascade", student="twin")
        without = Config.parse({"upstreams": UPSTREAMS, "routes": {"r": {"teacher": "teacher", "student": "small"}}})
        with pytest.raises(BadRequest, match="'cascade' needs a policy, and route 'r' has none"):
            plan(without, strategy="cascade")
        cascade = config(tmp_path, policy("small"))
        assert plan(cascade, strategy="cut-off", student="other").policy is None
        with pytest.raises(BadRequest, match="needs a student"):
            plan(cascade, strategy="cut-off")
        with pytest.raises(Forbidden):
            planner(cascade).plan(make_chat("r"), Caller(strategies=("student",)))

    @pytest.mark.parametrize("need", ["tools", "json", "prefix", "samples"])
    def test_nothing_is_glued_so_nothing_is_lost(self, need: Any, tmp_path: Path) -> None:
        assert plan(config(tmp_path, policy("small")), need).strategy == "cascade"

    def test_ids_of_one_vocabulary_are_for_one_model(self, tmp_path: Path) -> None:
        alone = plan(config(tmp_path, policy("small")), logit_bias={"1": 1.0})
        assert (alone.strategy, alone.policy) == ("teacher", None)
        assert "logit_bias is of one vocabulary" in alone.why

    def test_what_nobody_could_compare_goes_by_the_rules(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small"), unguidable={"predicted_output": "context", "web_search": "refuse"})
        alone = plan(made, "audio")
        assert (alone.strategy, alone.policy, alone.students, alone.closed) == ("teacher", None, {}, {})
        assert alone.why == "route r: cascade; audio cannot be drafted: teacher"
        assert plan(made, "predicted_output").strategy == "cascade"
        with pytest.raises(Unsupported, match="answers with a cascade"):
            plan(made, "web_search")

    def test_what_the_teacher_cannot_do_nobody_does(self, tmp_path: Path) -> None:
        by = Planner(config(tmp_path, policy("small")), lambda name: Ability.NONE, ())
        with pytest.raises(Unsupported, match="response_format: 'teacher'"):
            plan(config(tmp_path, policy("small")), "json", by=by)

    def test_guidance_is_closed_where_it_cannot_be(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small", "other", guided=True))
        assert plan(made).closed == {}
        assert plan(made).barred == frozenset()
        assert plan(made, "tools").closed == {1: "tools cannot be guided"}
        assert plan(made, "tools").barred == {1}
        assert plan(made, n=2).closed == {1: "n cannot be guided"}
        by = planner(made)
        for _ in range(3):
            by.waste.saw("teacher", "big", "empty")
        assert plan(made, by=by).closed == {1: "guidance of big came to nothing lately"}

    def test_a_teacher_that_begins_anew_guides_twice(self, tmp_path: Path) -> None:
        made = policy("small", "other", guided=True)
        guided = made.rungs[1]
        ahead: dict[str, Any] = {"next": {"one": 1.0}}
        grown = [guided.model_copy(update={**ahead, "guidance_tokens": tokens}) for tokens in (48, 48, 96)]
        rungs = [made.rungs[0], *grown, guided.model_copy(update={"guidance_tokens": 144})]
        tall = config(tmp_path, made.model_copy(update={"rungs": rungs}))
        assert plan(tall).closed == {}
        by = Planner(tall, lambda name: EVERYTHING & ~Ability.CONTINUE, ())
        assert plan(tall, by=by).closed == {4: "teacher cannot go on from its own words, and reads all anew"}
        assert plan(tall, by=by).barred == {4}, "two students that go on from the same words are one length"

    def test_holdouts_and_shadows_are_drawn(self, tmp_path: Path) -> None:
        made = config(tmp_path, policy("small", "other", guided=True), holdout=0.1, shadow=0.2)
        held = plan(made, by=planner(made, draw=Draws(0.05)))
        assert (held.strategy, held.arm, held.propensity, held.policy) == ("teacher", "holdout", 0.1, None)
        served = plan(made, by=planner(made, draw=Draws(0.5, 0.1)))
        assert (served.strategy, served.arm, served.propensity, served.shadow) == ("cascade", "policy", 0.9, True)
