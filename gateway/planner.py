"""Planner: a model name, a caller and a chat become a `Plan`, with its reason. Policy only.

No I/O but this: the policies of cascades are read when a planner is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from secrets import SystemRandom
from typing import get_args

import structlog

from gateway import policies
from gateway.acceptance import Acceptance
from gateway.cascade import gate
from gateway.chat import (
    PROVIDER_KEY,
    Caller,
    Chat,
    Comparing,
    Need,
    Overrides,
    Placement,
    Plan,
    Speaker,
    StrategyName,
    Unguidable,
)
from gateway.config import GUIDED, Config, Instead, Route
from gateway.errors import BadRequest, ConfigError, Forbidden, NotFound, Unsupported
from gateway.waste import Waste
from pricing.price import Price
from students.capabilities import thinks_always
from students.engine import Ability

ANY = "*"
ANEW = 2
"""Lengths of guidance for a teacher that begins each anew, and is paid for the whole prompt each time."""

THOUGHTFUL = 1024
"""Tokens of guidance of which hidden reasoning is likely to leave some."""

PROMPT_OF: Mapping[StrategyName, str | None] = {"cut-off": None, "concise": "concise", "hint": "hint"}
PLACEMENT_OF: Mapping[StrategyName, Placement] = {"cut-off": "prefix", "concise": "prefix", "hint": "context"}
ABILITY_FOR: Mapping[Need, Ability] = {
    "tools": Ability.TOOLS,
    "json": Ability.SCHEMA,
    "images": Ability.IMAGES,
    "logprobs": Ability.LOGPROBS,
}
UNHEARD: tuple[Unguidable, ...] = ("audio", "web_search", "predicted_output")
"""What students' drafts are not asked for: nobody could compare them, or they could not honour it."""

RULES_IN_ORDER: tuple[Unguidable, ...] = (
    "audio",
    "images",
    "web_search",
    "predicted_output",
    "tools",
    "json",
    "prefix",
)

log = structlog.get_logger("gateway.planner")

Abilities = Callable[[str], Ability]
"""What the upstream of that name can do: as claimed before it was probed, as proven after."""


Quote = Callable[[str, str], Price | None]
"""The teacher's price now, by the names of its upstream and its model; None: it has none, or none is known."""

Draw = Callable[[], float]
"""A number from 0 up to 1, every one as likely as another."""

CHANCE: Draw = SystemRandom().random
"""The only randomness of planning; from the system, so that processes that were forked do not draw the same."""


class Planner:
    """Decides who speaks. Plans of requests without overrides and special needs are made once and reused.

    `draw` decides which chats are held out, and which are answered by the teacher too (`Route.holdout`, `shadow`).
    `waste` knows whose guidance comes to nothing, `acceptance` how much of it kept the teacher from being asked; the
    gateway tells both. `quote` prices the guidance of cascades. `ladders` are the policies of the routes that have one.
    Raises `ConfigError`.
    """

    def __init__(
        self,
        config: Config,
        abilities: Abilities,
        prompts: tuple[str, ...],
        *,
        draw: Draw = CHANCE,
        waste: Waste | None = None,
        quote: Quote = lambda upstream, model: None,
        acceptance: Acceptance | None = None,
    ) -> None:
        self.draw = draw
        self.ladders = policies.load(config)
        self._quote = quote
        self.waste = waste or Waste()
        self.acceptance = acceptance or Acceptance()
        self._config = config
        self._abilities = abilities
        self._prompts = prompts
        self._plain = {name: self._base(name, route, route.strategy) for name, route in config.routes.items()}
        for name, route in config.routes.items():
            if route.guidance_prompt is not None and route.guidance_prompt not in prompts:
                raise ConfigError(
                    f"route {name!r}: guidance_prompt {route.guidance_prompt!r} is not among: {', '.join(prompts)}"
                )

    def check(self) -> None:
        """Raises `ConfigError` when a route needs an ability that its upstream lacks; call again after the probes."""
        for name, plan in self._plain.items():
            if plan.strategy in GUIDED and plan.placement == "prefix" and not self._continues(plan):
                raise ConfigError(
                    f"route {name!r}: strategy {plan.strategy!r} needs a student that continues a given text, and "
                    f"{plan.student!r} cannot (its prefill mode is context, or the probe failed); set "
                    "placement: context, or the student's right prefill mode"
                )
            self._check_guide(name, plan)
        for name, ladder in self.ladders.items():
            for student in ladder.policy.sure:
                if Ability.LOGPROBS not in self._abilities(ladder.students[student]):
                    raise ConfigError(
                        f"route {name!r}: its policy weighs how likely the tokens of {student!r} were, and the "
                        f"upstream {ladder.students[student]!r} does not tell log-probabilities; calibrate anew on "
                        "answers without them, or take a server that has them (and `logprobs: true` on the upstream)"
                    )

    def warn(self) -> None:
        """Log what will do less than it could: cascades whose students can hardly be seen to agree."""
        for name, said in policies.incomparable(self._config, self.ladders).items():
            log.warning("drafts of this route can hardly agree", route=name, mend=said)

    def _check_guide(self, name: str, plan: Plan) -> None:
        if plan.strategy in GUIDED and plan.teacher_model != ANY and self._thinks(plan):
            _, model = self.guide(plan)
            raise ConfigError(
                f"route {name!r}: strategy {plan.strategy!r} needs a teacher that can stop thinking, and {model!r} "
                f"cannot: its hidden reasoning would eat the {plan.guidance_tokens} tokens of guidance. Take another "
                f"model, or strategy: teacher, or at least {THOUGHTFUL} guidance_tokens; if it can be told to stop, "
                "set the upstream's reasoning_effort"
            )

    @property
    def students(self) -> dict[str, list[str]]:
        """The upstreams that the policies of routes ask, and who compares answers, by the routes' names."""
        found = {name: list(ladder.students.values()) for name, ladder in self.ladders.items()}
        for name, route in self._config.routes.items():
            if route.meaning is not None:
                found.setdefault(name, []).append(route.meaning.upstream)
        return found

    def models(self) -> list[str]:
        """The names that `/v1/models` lists; `*` stands for every other name and is not one."""
        return [name for name in self._config.routes if name != ANY]

    def route(self, model: str) -> tuple[str, Route]:
        """The route that serves `model`. Raises `NotFound`."""
        routes = self._config.routes
        name = model if model in routes and model != ANY else ANY
        if name not in routes:
            raise _unknown(model)
        return name, routes[name]

    def plan(self, chat: Chat, caller: Caller) -> Plan:
        """Who speaks for this chat, and why. Raises `NotFound`, `BadRequest`, `Unsupported` or `Forbidden`."""
        if not caller.may_ask(chat.model):
            raise _unknown(chat.model)
        name, route = self.route(chat.model)
        plan = self._plain[name]
        asked = chat.overrides.named()
        if asked:
            plan = self._overridden(plan, route, name, chat.overrides, asked, caller)
        if plan.teacher_model == ANY:
            plan = replace(plan, teacher_model=chat.model)
        if plan.strategy in GUIDED and self._thinks(plan):
            why = f"{plan.why}; {plan.teacher_model or plan.teacher} cannot stop thinking: teacher"
            plan = self._instead_of(plan, "teacher", why)
        elif plan.strategy in GUIDED and not asked and self.waste.paused(*self.guide(plan)):
            seat: Speaker = "student" if plan.on_teacher_failure == "student" else "teacher"
            said = plan.teacher_model or plan.teacher
            plan = self._instead_of(plan, seat, f"{plan.why}; guidance of {said} came to nothing lately: {seat}")
        if chat.needs:
            plan = self._honourable(plan, route, chat)
        if plan.policy is not None and chat.sampling.logit_bias:
            why = f"{plan.why}; logit_bias is of one vocabulary, and several models answer here: teacher"
            plan = self._instead_of(plan, "teacher", why)
        if plan.policy is not None:
            plan = self._gated(plan, chat)
        if plan.strategy in GUIDED and plan.placement == "prefix" and not self._continues(plan):
            if asked:
                raise BadRequest(
                    f"Student {plan.student!r} cannot continue a given text; ask for placement `context`.",
                    param="gkt.placement",
                )
            # It could not be reached at start, and its probe has failed since.
            plan = replace(plan, placement="context", why=f"{plan.why}; {plan.student} cannot continue a text: context")
        if caller.strategies is not None and plan.strategy not in caller.strategies:
            raise Forbidden(
                f"Your key does not allow the strategy {plan.strategy!r} ({plan.why}); allowed are: "
                f"{', '.join(caller.strategies)}.",
                param="gkt.strategy",
            )
        if chat.provider_key is not None and not plan.pass_key:
            raise BadRequest(
                "A key of your own is passed on to the route's own teacher only, and only by routes that say so "
                "(pass_key); leave the header out.",
                param=PROVIDER_KEY,
            )
        if (route.holdout or route.shadow) and not asked and self._is_plain(plan, name):
            return self._drawn(plan, route, chat, caller)
        return plan

    def _is_plain(self, plan: Plan, name: str) -> bool:
        """Whether the plan is what the route says, and nothing has changed it but the model that was asked for."""
        plain = replace(self._plain[name], why=plan.why, teacher_model=plan.teacher_model)
        return replace(plain, closed=plan.closed, barred=plan.barred) == plan

    def _drawn(self, plan: Plan, route: Route, chat: Chat, caller: Caller) -> Plan:
        """The plan that the route has for this chat, or the teacher alone; and whether the teacher answers too.

        Nothing is drawn where the teacher could not answer, nor for who brings a key of their own: who measures pays.
        """
        if chat.provider_key is not None or self._lacks(plan.teacher, chat) is not None:
            return plan
        if route.holdout and (caller.strategies is None or "teacher" in caller.strategies):
            if self.draw() < route.holdout:
                why = f"holdout: the teacher alone, drawn with probability {route.holdout:g}; {plan.why}"
                return replace(
                    self._instead_of(plan, "teacher", why), propensity=route.holdout, arm="holdout", placement="prefix"
                )
            plan = replace(plan, propensity=1 - route.holdout, arm="policy")
        if route.shadow:
            plan = replace(plan, shadow=self.draw() < route.shadow, shadow_propensity=route.shadow)
        return plan

    def _base(self, name: str, route: Route, strategy: StrategyName, why: str | None = None) -> Plan:
        guided = strategy in GUIDED
        placement = route.placement if guided and route.placement else PLACEMENT_OF.get(strategy, "prefix")
        ladder = self.ladders[name] if strategy == "cascade" else None
        return Plan(
            route=name,
            strategy=strategy,
            why=why or f"route {name}: {strategy}",
            teacher=route.teacher,
            student=route.student if ladder is None else ladder.students[ladder.policy.rungs[0].student],
            teacher_model=route.teacher_model,
            guidance_tokens=route.guidance_tokens if guided else 0,
            guidance_prompt=(route.guidance_prompt or PROMPT_OF[strategy]) if guided else None,
            placement="context" if strategy == "hint" else placement,
            on_teacher_failure=route.on_teacher_failure,
            on_student_failure=route.on_student_failure,
            teacher_sampling=route.teacher_sampling.sampling(),
            student_sampling=route.student_sampling.sampling(),
            pass_key=route.pass_key,
            guidance_cache=route.guidance_cache if guided else None,
            policy=ladder.policy if ladder else None,
            students=ladder.students if ladder else {},
            answers=(ladder.policy.kind or route.answers) if ladder else None,
            comparing=_comparing(route),
        )

    def _overridden(
        self, plan: Plan, route: Route, name: str, wanted: Overrides, asked: list[str], caller: Caller
    ) -> Plan:
        allowed = set(route.overrides) if route.overrides is not None else set(Overrides.__slots__)
        if caller.overrides is not None:
            allowed &= caller.overrides
        for override in asked:
            if override not in allowed:
                listed = ", ".join(sorted(allowed)) or "none"
                raise Forbidden(
                    f"The override {override!r} is not allowed here; allowed are: {listed}.", param=f"gkt.{override}"
                )
        if wanted.strategy is not None:
            _one_of("strategy", wanted.strategy, get_args(StrategyName))
            if wanted.strategy == "cascade" and name not in self.ladders:
                raise BadRequest(
                    f"Strategy 'cascade' needs a policy, and route {name!r} has none.", param="gkt.strategy"
                )
            plan = self._base(name, route, wanted.strategy)
        seats: tuple[Speaker, Speaker] = ("teacher", "student")
        for seat in seats:
            upstream = getattr(wanted, seat)
            if upstream is not None and seat == "student" and plan.policy is not None:
                raise BadRequest("The students of a cascade are those of its policy.", param="gkt.student")
            if upstream is not None:
                _one_of(seat, upstream, tuple(self._config.upstreams))
                plan = (
                    replace(plan, teacher=upstream, teacher_model=None, pass_key=self._passes(route, upstream))
                    if seat == "teacher"
                    else replace(plan, student=upstream)
                )
            if getattr(plan, seat) is None and (plan.strategy in GUIDED or plan.strategy == seat):
                raise BadRequest(
                    f"Strategy {plan.strategy!r} needs a {seat}, and route {name!r} has none; name one of: "
                    f"{', '.join(self._config.upstreams)}.",
                    param=f"gkt.{seat}",
                )
        if plan.strategy in GUIDED:
            if wanted.guidance_tokens is not None:
                plan = replace(plan, guidance_tokens=wanted.guidance_tokens)
            if wanted.guidance_prompt is not None:
                _one_of("guidance_prompt", wanted.guidance_prompt, self._prompts)
                plan = replace(plan, guidance_prompt=wanted.guidance_prompt)
            if wanted.placement is not None:
                allowed_places = ("context",) if plan.strategy == "hint" else get_args(Placement)
                _one_of("placement", wanted.placement, allowed_places)
                plan = replace(plan, placement=wanted.placement)
        return replace(plan, why=f"route {name}: {plan.strategy}, asked for: {', '.join(asked)}")

    def _honourable(self, plan: Plan, route: Route, chat: Chat) -> Plan:
        """The plan, or another where guidance could not honour what the chat needs, by the configured rule."""
        if plan.strategy in GUIDED:
            for need in RULES_IN_ORDER:
                if need in chat.needs and not (need == "prefix" and self._prefixes(plan)):
                    plan = self._instead(plan, route, need)
                    break
        elif plan.policy is not None:
            plan = self._heard(plan, route, chat)
        self._able(plan, chat)
        return plan

    def _heard(self, plan: Plan, route: Route, chat: Chat) -> Plan:
        """The cascade, or another plan where its students cannot do what the chat needs."""
        for need in UNHEARD:
            rule = route.unguidable.get(need) or self._config.unguidable[need]
            if need in chat.needs and rule != "context":  # nothing of the teacher's is glued to a draft anyway
                return self._instead(plan, route, need)
        for upstream in plan.students.values():
            lacking = self._lacks(upstream, chat)
            if lacking is not None:
                return self._instead_of(plan, "teacher", f"{plan.why}; {upstream} cannot do {lacking}: teacher")
        return plan

    def _gated(self, plan: Plan, chat: Chat) -> Plan:
        """The plan of a cascade without the rungs of guidance that do not pay, or that this chat cannot have."""
        rungs = plan.policy.rungs if plan.policy is not None else []
        guiding = {place: rung.guidance_tokens for place, rung in enumerate(rungs) if rung.kind == "guidance"}
        if plan.policy is None or not guiding:
            return plan
        teacher, model = self.guide(plan)
        unguidable = next((need for need in RULES_IN_ORDER if need in chat.needs), "n" if chat.n > 1 else None)
        cannot: dict[int, str] = {}
        if unguidable is not None:
            cannot = dict.fromkeys(guiding, f"{unguidable} cannot be guided")
        elif self.waste.paused(teacher, model):
            cannot = dict.fromkeys(guiding, f"guidance of {model or teacher} came to nothing lately")
        else:
            if Ability.CONTINUE not in self._abilities(teacher):
                most = sorted(set(guiding.values()))[:ANEW][-1]
                long = [place for place, tokens in guiding.items() if tokens > most]
                cannot = dict.fromkeys(long, f"{teacher} cannot go on from its own words, and reads all anew")
            if thinks_always(self._config.engine(teacher), model):
                short = [place for place, tokens in guiding.items() if tokens < THOUGHTFUL]
                cannot |= dict.fromkeys(short, f"{model or teacher} cannot stop thinking")
        shut = gate.closed(plan.policy, self._quote(teacher, model), self.acceptance.seen(plan.route, plan.policy))
        return replace(plan, closed=shut | cannot, barred=frozenset(cannot))

    def _instead(self, plan: Plan, route: Route, need: Unguidable) -> Plan:
        rule: Instead = route.unguidable.get(need) or self._config.unguidable[need]
        if rule == "refuse":
            raise Unsupported(f"This route answers with {_how(plan)}, which cannot honour {need}.", param=_PARAM[need])
        why = f"{plan.why}; {need} cannot be {'guided' if plan.policy is None else 'drafted'}: {rule}"
        if rule == "context":
            return replace(plan, placement="context", why=why)
        return self._instead_of(plan, rule, why)

    @staticmethod
    def _instead_of(plan: Plan, seat: Speaker, why: str) -> Plan:
        """The plan in which the model in that seat answers alone."""
        alone = replace(plan, strategy=seat, why=why, guidance_tokens=0, guidance_prompt=None, guidance_cache=None)
        return (
            alone
            if plan.policy is None
            else replace(alone, policy=None, students={}, closed={}, barred=frozenset(), answers=None)
        )

    def _able(self, plan: Plan, chat: Chat) -> None:
        """Raises `Unsupported` when the model that writes the answer lacks what the chat needs."""
        upstream = plan.teacher if plan.strategy in ("teacher", "cascade") else plan.student
        need = self._lacks(upstream, chat)
        if need is not None:
            raise Unsupported(
                f"{_PARAM[need]}: {upstream!r}, which writes the answer here ({plan.why}), does not support it.",
                param=_PARAM[need],
            )

    def _lacks(self, upstream: str | None, chat: Chat) -> Need | None:
        """The first thing that the chat needs and the upstream cannot do."""
        for need, ability in ABILITY_FOR.items():
            if upstream is not None and need in chat.needs and ability not in self._abilities(upstream):
                return need
        return None

    @staticmethod
    def _passes(route: Route, teacher: str) -> bool:
        """A caller's key is for the upstream that the route names, never for another that a request names."""
        return route.pass_key and teacher == route.teacher

    def guide(self, plan: Plan) -> tuple[str, str]:
        """The teacher of a guided plan, and the model that it is asked for."""
        teacher = plan.teacher or ""
        spec = self._config.upstreams.get(teacher)
        return teacher, plan.teacher_model or (spec.model if spec is not None else "")

    def _thinks(self, plan: Plan) -> bool:
        """True when the teacher would think the guidance away."""
        teacher, model = self.guide(plan)
        return plan.guidance_tokens < THOUGHTFUL and thinks_always(self._config.engine(teacher), model)

    def _continues(self, plan: Plan) -> bool:
        return plan.student is not None and Ability.CONTINUE in self._abilities(plan.student)

    def _prefixes(self, plan: Plan) -> bool:
        """True when both models can go on from the caller's own beginning of the answer."""
        return (
            self._continues(plan)
            and plan.teacher is not None
            and Ability.CONTINUE in self._abilities(plan.teacher)
            and plan.strategy != "hint"
        )


def _comparing(route: Route) -> Comparing:
    how = route.meaning
    if how is None:
        return Comparing(run=route.run_code)
    near = how.threshold if how.by == "embedding" else None
    return Comparing(how.upstream, near, how.max_tokens, route.run_code)


_PARAM: Mapping[Need, str] = {
    "tools": "tools",
    "json": "response_format",
    "images": "messages",
    "audio": "modalities",
    "prefix": "messages",
    "samples": "n",
    "logprobs": "logprobs",
    "predicted_output": "prediction",
    "web_search": "web_search_options",
}


def _how(plan: Plan) -> str:
    return "guidance" if plan.policy is None else "a cascade"


def _unknown(model: str) -> NotFound:
    """The same words for a model that is not there and for one that the key does not allow, as OpenAI has it."""
    return NotFound(
        f"The model `{model}` does not exist or you do not have access to it.", param="model", code="model_not_found"
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadRequest(
            f"gkt.{name}: {value!r} is not allowed; allowed are: {', '.join(allowed)}.", param=f"gkt.{name}"
        )
