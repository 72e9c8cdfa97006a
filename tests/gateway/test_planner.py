"""The planner: who speaks, and why; what cannot be honoured is planned otherwise or refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.chat import Caller, Chat, Need, Overrides, Plan
from gateway.config import Config
from gateway.errors import BadRequest, ConfigError, Forbidden, NotFound, Unsupported
from gateway.planner import Planner
from students.engine import Ability, Sampling

EVERYTHING = Ability.CONTINUE | Ability.SAMPLES | Ability.LOGPROBS | Ability.TOOLS | Ability.SCHEMA | Ability.IMAGES
PAID = EVERYTHING & ~Ability.CONTINUE
SMALL = Ability.CONTINUE | Ability.LOGPROBS
ANYONE = Caller()


def planner(config: Config | None = None, *, teacher: Ability = PAID, student: Ability = SMALL) -> Planner:
    return Planner(config or Config(), lambda name: teacher if name == "teacher" else student, ("concise", "hint"))


def chat(model: str = "gkt", *needs: Need, **settings: Any) -> Chat:
    return Chat("id", model, [{"role": "user", "content": "hi"}], Sampling(), needs=frozenset(needs), **settings)


def plan(
    model: str = "gkt", *needs: Need, caller: Caller | None = None, by: Planner | None = None, **asked: Any
) -> Plan:
    return (by or planner()).plan(chat(model, *needs, overrides=Overrides(**asked)), caller or Caller())


def routes(**route: Any) -> Config:
    return Config.parse({"routes": {"r": {"teacher": "teacher", "student": "student", **route}}})


@pytest.mark.parametrize(
    ("model", "strategy", "prompt", "placement", "tokens"),
    [
        ("gkt", "cut-off", None, "prefix", 40),
        ("gkt-concise", "concise", "concise", "prefix", 40),
        ("gkt-hint", "hint", "hint", "context", 40),
        ("teacher", "teacher", None, "prefix", 0),
        ("student", "student", None, "prefix", 0),
    ],
)
def test_a_model_name_means_a_strategy(
    model: str, strategy: str, prompt: str | None, placement: str, tokens: int
) -> None:
    made = plan(model)
    assert (made.strategy, made.guidance_prompt, made.placement, made.guidance_tokens) == (
        strategy,
        prompt,
        placement,
        tokens,
    )
    assert made.why == f"route {model}: {strategy}"
    assert made.propensity == 1.0


def test_any_other_name_is_the_teachers_model() -> None:
    made = plan("gpt-9-large")
    assert (made.route, made.teacher_model, made.strategy) == ("*", "gpt-9-large", "cut-off")


def test_the_star_itself_is_no_model() -> None:
    with pytest.raises(NotFound):
        plan("*", by=planner(routes()))


def test_without_a_star_an_unknown_name_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        plan("gpt-9", by=planner(routes()))
    assert (caught.value.code, caught.value.param, caught.value.http_status) == ("model_not_found", "model", 404)


def test_the_papers_settings_are_the_default_of_the_students_sampling() -> None:
    made = plan()
    assert (made.student_sampling.temperature, made.student_sampling.top_p) == (0.8, 0.9)
    assert made.teacher_sampling.temperature == 0


def test_overrides_change_the_plan_and_are_told() -> None:
    made = plan(strategy="concise", guidance_tokens=10, placement="context")
    assert (made.strategy, made.guidance_tokens, made.placement, made.guidance_prompt) == (
        "concise",
        10,
        "context",
        "concise",
    )
    assert made.why == "route gkt: concise, asked for: strategy, guidance_tokens, placement"


def test_another_teacher_is_asked_for_its_own_model() -> None:
    made = plan("gpt-9", teacher="student")
    assert (made.teacher, made.teacher_model) == ("student", None)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"teacher": "nobody"}, "teacher, student"),
        ({"student": "nobody"}, "teacher, student"),
        ({"guidance_prompt": "rude"}, "concise, hint"),
        ({"strategy": "magic"}, "teacher, student, cut-off, concise, hint"),
        ({"placement": "behind"}, "prefix, context"),
        ({"strategy": "hint", "placement": "prefix"}, "allowed are: context"),
    ],
)
def test_wrong_overrides_are_refused_with_what_is_allowed(asked: dict[str, Any], allowed: str) -> None:
    with pytest.raises(BadRequest) as caught:
        plan(**asked)
    assert allowed in str(caught.value)
    assert caught.value.param is not None
    assert caught.value.param.startswith("gkt.")


def test_a_caller_or_a_route_may_limit_overrides() -> None:
    with pytest.raises(Forbidden, match="allowed are: strategy"):
        plan(guidance_tokens=3, caller=Caller(overrides=frozenset({"strategy"})))
    narrow = planner(routes(overrides=["strategy"]))
    assert plan("r", by=narrow, strategy="student").strategy == "student"
    with pytest.raises(Forbidden, match="allowed are: strategy"):
        plan("r", by=narrow, teacher="student")
    with pytest.raises(Forbidden, match="allowed are: none"):
        plan("r", by=narrow, strategy="hint", caller=Caller(overrides=frozenset({"teacher"})))


def test_a_strategy_without_its_models_is_refused() -> None:
    alone = planner(Config.parse({"routes": {"r": {"strategy": "student", "student": "student"}}}))
    with pytest.raises(BadRequest, match="needs a teacher"):
        plan("r", by=alone, strategy="cut-off")
    assert plan("r", by=alone, strategy="cut-off", teacher="teacher").teacher == "teacher"


@pytest.mark.parametrize(
    ("need", "instead"),
    [
        ("tools", "teacher"),
        ("json", "teacher"),
        ("images", "teacher"),
        ("audio", "teacher"),
        ("web_search", "teacher"),
        ("predicted_output", "teacher"),
        ("prefix", "student"),
    ],
)
def test_what_guidance_cannot_honour_is_planned_otherwise_and_told(need: Need, instead: str) -> None:
    made = plan("gkt", need)
    assert made.strategy == instead
    assert made.why == f"route gkt: cut-off; {need} cannot be guided: {instead}"
    assert made.guidance_tokens == 0


def test_samples_and_logprobs_can_be_guided() -> None:
    assert plan("gkt", "samples", "logprobs").strategy == "cut-off"


def test_the_rule_is_the_configurations() -> None:
    wide = planner(routes(unguidable={"json": "context", "tools": "refuse"}), student=EVERYTHING)
    made = plan("r", "json", by=wide)
    assert (made.strategy, made.placement) == ("cut-off", "context")
    with pytest.raises(Unsupported) as caught:
        plan("r", "tools", by=wide)
    assert caught.value.param == "tools"


def test_a_begun_answer_is_guided_when_both_models_can_go_on_from_it() -> None:
    both = planner(teacher=EVERYTHING)
    assert plan("gkt", "prefix", by=both).strategy == "cut-off"
    assert plan("gkt-hint", "prefix", by=both).strategy == "student"


def test_a_model_that_lacks_what_is_needed_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"tools: 'student'.*does not support") as caught:
        plan("student", "tools")
    assert caught.value.param == "tools"
    with pytest.raises(Unsupported, match="response_format"):
        plan("gkt", "json", by=planner(teacher=SMALL))


def test_a_guided_route_whose_student_cannot_continue_is_an_error_at_start() -> None:
    with pytest.raises(ConfigError, match="continues a given text"):
        planner(student=Ability.NONE).check()
    planner(routes(placement="context"), student=Ability.NONE).check()
    planner(routes(strategy="hint"), student=Ability.NONE).check()
    planner().check()


def test_an_override_to_a_student_that_cannot_continue_is_refused() -> None:
    with pytest.raises(BadRequest, match="placement"):
        plan(student="teacher")
    assert plan(student="teacher", placement="context").student == "teacher"


def test_an_unknown_guidance_prompt_is_an_error_at_start() -> None:
    with pytest.raises(ConfigError, match="guidance_prompt 'rude'"):
        planner(routes(guidance_prompt="rude"))


class TestWhatAKeyAllows:
    def test_a_model_that_it_does_not_allow_is_as_one_that_is_not_there(self) -> None:
        narrow = Caller(models=("gpt-6-*", "gkt"))
        assert plan("gkt", caller=narrow).route == "gkt"
        assert plan("gpt-6-sol", caller=narrow).teacher_model == "gpt-6-sol"
        told = []
        for model, by, caller in (
            ("gkt-hint", planner(), narrow),
            ("GKT", planner(), narrow),
            ("gkt-hint", planner(routes()), ANYONE),
        ):
            with pytest.raises(NotFound) as caught:
                plan(model, by=by, caller=caller)
            assert (caught.value.http_status, caught.value.code, caught.value.param) == (
                404,
                "model_not_found",
                "model",
            )
            told.append(str(caught.value).replace(model, "M"))
        assert len(set(told)) == 1, "nobody learns which it is"

    def test_a_strategy_that_it_does_not_allow(self) -> None:
        cheap = Caller(strategies=("cut-off", "student"))
        assert plan("gkt", caller=cheap).strategy == "cut-off"
        assert plan("student", caller=cheap).strategy == "student"
        with pytest.raises(Forbidden, match=r"'teacher'.*allowed are: cut-off, student") as caught:
            plan("teacher", caller=cheap)
        assert (caught.value.http_status, caught.value.param) == (403, "gkt.strategy")
        with pytest.raises(Forbidden, match="'hint'"):
            plan("gkt", caller=cheap, strategy="hint")

    def test_nor_by_the_rules_for_what_cannot_be_guided(self) -> None:
        """The rule would let the teacher answer alone, which this key may not pay for."""
        with pytest.raises(Forbidden, match=r"'teacher'.*tools cannot be guided"):
            plan("gkt", "tools", caller=Caller(strategies=("cut-off",)))


class TestACallersOwnKey:
    CONFIG = Config.parse(
        {
            "upstreams": {
                "teacher": {"kind": "openai_api", "model": "t", "api_key_env": "T"},
                "other": {"kind": "openai_api", "model": "o", "api_key_env": "T"},
                "student": {"kind": "scripted"},
            },
            "routes": {
                "own": {"teacher": "teacher", "student": "student", "pass_key": True},
                "ours": {"teacher": "teacher", "student": "student"},
            },
        }
    )

    def plan(self, model: str, **asked: Any) -> Plan:
        wanted = chat(model, overrides=Overrides(**asked), provider_key="sk-of-the-caller")
        return planner(self.CONFIG).plan(wanted, ANYONE)

    def test_is_passed_where_the_route_says_so(self) -> None:
        assert self.plan("own").pass_key
        assert self.plan("own", teacher="teacher").pass_key
        assert self.plan("own", strategy="teacher").pass_key
        assert not plan("ours", by=planner(self.CONFIG)).pass_key

    @pytest.mark.parametrize(("model", "asked"), [("ours", {}), ("own", {"teacher": "other"})])
    def test_is_refused_where_it_would_not_be_used(self, model: str, asked: dict[str, str]) -> None:
        with pytest.raises(BadRequest, match="leave the header out") as caught:
            self.plan(model, **asked)
        assert caught.value.param == "x-gkt-provider-key"
        assert "sk-of" not in str(caught.value)

    def test_is_in_no_representation_of_the_chat(self) -> None:
        assert "sk-of" not in repr(chat("own", provider_key="sk-of-the-caller"))


class Draws:
    """Draws what it is told, and says how often it was asked."""

    def __init__(self, *numbers: float) -> None:
        self._left = list(numbers)

    def __call__(self) -> float:
        return self._left.pop(0)

    @property
    def left(self) -> int:
        return len(self._left)


def drawing(*numbers: float, teacher: Ability = PAID, **route: Any) -> tuple[Planner, Draws]:
    draws = Draws(*numbers)
    config = routes(**route)
    return (
        Planner(config, lambda name: teacher if name == "teacher" else SMALL, ("concise", "hint"), draw=draws),
        draws,
    )


@pytest.mark.parametrize("strategy", ["cut-off", "concise", "hint", "student"])
def test_a_holdout_is_the_teacher_alone(strategy: str) -> None:
    by, draws = drawing(0.0499, strategy=strategy, holdout=0.05, shadow=0.5)
    held = plan("r", by=by)
    assert (held.strategy, held.arm, held.propensity) == ("teacher", "holdout", 0.05)
    assert held.why == f"holdout: the teacher alone, drawn with probability 0.05; route r: {strategy}"
    assert (held.guidance_tokens, held.guidance_prompt, held.placement) == (0, None, "prefix")
    assert (held.shadow, held.shadow_propensity, draws.left) == (False, None, 0), "the teacher answers already"


def test_what_is_not_held_out_is_the_routes_and_may_be_shadowed() -> None:
    by, draws = drawing(0.05, 0.49, 0.05, 0.5, holdout=0.05, shadow=0.5)
    for shadowed in (True, False):
        served = plan("r", by=by)
        assert (served.strategy, served.arm, served.propensity) == ("cut-off", "policy", 0.95)
        assert served.why == "route r: cut-off"
        assert (served.shadow, served.shadow_propensity) == (shadowed, 0.5)
    assert draws.left == 0


def test_without_one_the_other_is_drawn_alone() -> None:
    by, _ = drawing(0.1, shadow=0.2)
    served = plan("r", by=by)
    assert (served.arm, served.propensity, served.shadow, served.shadow_propensity) == (None, 1.0, True, 0.2)
    by, _ = drawing(0.1, holdout=0.05)
    served = plan("r", by=by)
    assert (served.arm, served.propensity, served.shadow, served.shadow_propensity) == ("policy", 0.95, False, None)


def test_certainty_is_no_draw_to_be_lucky_in() -> None:
    by, _ = drawing(0.999999, holdout=1)
    assert (plan("r", by=by).arm, plan("r", by=drawing(0.0, holdout=1)[0]).propensity) == ("holdout", 1.0)


@pytest.mark.parametrize(
    ("needs", "asked"),
    [
        (["tools"], {}),  # by a rule: the teacher anyway
        (["prefix"], {}),  # by a rule: the student
        (["predicted_output"], {}),  # by a rule: guided still, and placed elsewhere
        ([], {"strategy": "cut-off"}),
        ([], {"strategy": "teacher"}),
        ([], {"guidance_tokens": 9}),
    ],
)
def test_what_the_route_did_not_plan_takes_no_part(needs: list[Need], asked: dict[str, Any]) -> None:
    by, _ = drawing(holdout=0.5, shadow=0.5, unguidable={"predicted_output": "context"})
    served = plan("r", *needs, by=by, **asked)
    assert (served.arm, served.propensity, served.shadow, served.shadow_propensity) == (None, 1.0, False, None)


def test_a_rule_that_changes_nothing_takes_part() -> None:
    by, draws = drawing(
        0.9, 0.0, placement="context", holdout=0.5, shadow=0.5, unguidable={"predicted_output": "context"}
    )
    served = plan("r", "predicted_output", by=by)
    assert (served.placement, served.arm, served.shadow, draws.left) == ("context", "policy", True, 0)


def test_the_model_that_was_asked_for_changes_no_plan() -> None:
    route = {"strategy": "cut-off", "teacher": "teacher", "student": "student", "teacher_model": "*", "shadow": 0.5}
    by = Planner(Config.parse({"routes": {"*": route}}), lambda name: EVERYTHING, ("concise",), draw=Draws(0.0))
    served = plan("gpt-6-luna", by=by)
    assert (served.teacher_model, served.shadow) == ("gpt-6-luna", True)


def test_nothing_is_drawn_where_the_teacher_could_not_answer() -> None:
    by, _ = drawing(teacher=Ability.CONTINUE, strategy="student", holdout=0.5, shadow=0.5)
    assert plan("r", "logprobs", by=by).arm is None
    by, _ = drawing(0.9, 0.0, teacher=Ability.LOGPROBS, strategy="student", holdout=0.5, shadow=0.5)
    assert plan("r", "logprobs", by=by).shadow


def test_a_key_that_does_not_allow_the_teacher_is_not_held_out() -> None:
    by, draws = drawing(0.0, holdout=0.5, shadow=0.5)
    served = plan("r", by=by, caller=Caller(strategies=("cut-off",)))
    assert (served.strategy, served.arm, served.shadow, draws.left) == ("cut-off", None, True, 0)


def test_who_brings_a_key_takes_no_part() -> None:
    config = {"kind": "openai_api", "model": "m"}
    route = {"strategy": "cut-off", "teacher": "teacher", "student": "student", "pass_key": True}
    made = Config.parse(
        {
            "upstreams": {"teacher": config, "student": {"kind": "scripted"}},
            "routes": {"r": {**route, "holdout": 0.5, "shadow": 0.5}},
        }
    )
    by = Planner(made, lambda name: EVERYTHING, (), draw=Draws())
    assert by.plan(chat("r", provider_key="sk-own-0123456789"), ANYONE).arm is None


def test_a_holdout_asks_for_the_model_that_was_named() -> None:
    by = Planner(
        Config.parse(
            {"routes": {"*": {"teacher": "teacher", "student": "student", "teacher_model": "*", "holdout": 0.5}}}
        ),
        lambda name: EVERYTHING,
        (),
        draw=Draws(0.0),
    )
    assert plan("gpt-6-luna", by=by).teacher_model == "gpt-6-luna"


def thinking(route: dict[str, Any] | None = None, **teacher: Any) -> Config:
    return Config.parse(
        {
            "upstreams": {
                "teacher": {"kind": "openai_api", "model": "gpt-6-astra", **teacher},
                "student": {"kind": "scripted"},
            },
            "routes": {"r": {"teacher": "teacher", "student": "student", **(route or {})}},
        }
    )


@pytest.mark.parametrize("strategy", ["cut-off", "concise", "hint"])
def test_a_guide_that_cannot_stop_thinking_is_refused_at_load(strategy: str) -> None:
    by = planner(thinking({"strategy": strategy}))
    with pytest.raises(ConfigError, match=r"'gpt-6-astra' cannot.*strategy: teacher.*reasoning_effort"):
        by.check()


@pytest.mark.parametrize(
    "config",
    [
        thinking({"strategy": "teacher"}),
        thinking({"guidance_tokens": 2000}),
        thinking({"teacher_model": "gpt-6-sol"}),
        thinking(reasoning_effort="none"),
        thinking(model="never-heard-of"),
    ],
    ids=["alone", "much guidance", "another model", "told to stop", "unknown"],
)
def test_a_guide_that_can_be_used_passes(config: Config) -> None:
    planner(config).check()


def test_a_model_asked_for_that_cannot_stop_thinking_answers_alone() -> None:
    by = planner()
    by.check()
    made = plan("gpt-6.1-sol", by=by)
    assert (made.strategy, made.guidance_tokens, made.teacher_model) == ("teacher", 0, "gpt-6.1-sol")
    assert made.why == "route *: cut-off; gpt-6.1-sol cannot stop thinking: teacher"
    assert plan("gpt-6-sol", by=by).strategy == "cut-off"


@pytest.mark.parametrize(("policy", "strategy"), [("student", "student"), ("error", "teacher")])
def test_a_guide_whose_guidance_comes_to_nothing_is_not_asked_for_any(policy: str, strategy: str) -> None:
    by = planner(routes(on_teacher_failure=policy))
    for _ in range(3):
        by.waste.saw("teacher", "gpt-6-sol", "reasoning")
    made = plan("r", by=by)
    assert (made.strategy, made.guidance_tokens) == (strategy, 0)
    assert made.why == f"route r: cut-off; guidance of teacher came to nothing lately: {strategy}"
    assert plan("r", by=by, strategy="concise").strategy == "concise", "who asks for it gets it"
    by.waste.saw("teacher", "gpt-6-sol", None)
    assert plan("r", by=by).strategy == "cut-off"


def test_only_the_model_that_wastes_it_is_left_out() -> None:
    by = planner()
    for _ in range(3):
        by.waste.saw("teacher", "gpt-5.4", "empty")
    assert plan("gpt-5.4", by=by).strategy == "student"
    assert plan("gpt-5.5", by=by).strategy == "cut-off"
