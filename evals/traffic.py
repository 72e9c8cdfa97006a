"""Traffic: a workload from the gateway's own ledger, of requests that were shadowed, without a word of them.

A shadow of a cascade has every student's answer and the teacher's beside the one that was shown (`gateway.drafts`).
Requests are used as they were drawn for it, by chance and at one rate: what they were asked decides nothing about
whether they are in, so that they stand for all of the route's traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

from evals.recorded import Arm, Guided, Manifest, Question, Rate, Workload
from gateway.answers import Answer, Kind
from gateway.cascade.policy import Policy
from gateway.cascade.signals import student_of, who
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.ledger import drafted as ledger
from gateway.ledger.drafted import Asked, Drafted
from gateway.ledger.reading import ledger_at

Labels = Literal["agreement", "feedback"]

NANO = 1000
"""Nano-dollars in a micro-dollar; dollars per million tokens are micro-dollars per token."""

CHECKER = "checker"
"""The seat of whoever says whether two answers are the same."""

WHOLE = 0.5
"""A score above this says that an answer was right, where all that can be concluded from it is right or wrong."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The shadowed requests of a route, and how they were drawn: one `rate` for all.

    `window`: the moments of the first and the last of them. `left_out` counts, by the reason, those that are no
    question: something about them is not known. `said`: by the question's id the answer that was shown, and the score
    that feedback gives it. `stand_in`: some models only stood in for others, and so did their prices.
    """

    workload: Workload
    rate: ledger.Rate
    window: tuple[float, float]
    left_out: Mapping[str, int]
    said: Mapping[str, tuple[Answer, float]]
    stand_in: bool

    @property
    def requests(self) -> int:
        """How many requests the cascade answered for these questions, shadowed or not."""
        return self.rate.requests

    def labelled(self, labels: Labels) -> tuple[Workload, dict[str, Any]]:
        """The workload with what counts as right, and what the evidence of a policy should say of where it is from.

        `agreement`: whatever the teacher answered. `feedback`: what callers said of the answer that they were shown,
        and what follows from it (see `_scored`). ConfigError: nothing is left that can be scored so.
        """
        if labels == "agreement":
            workload = self.workload.by_agreement()
            return workload, self._evidence(labels, workload)
        teacher = self.workload.manifest.teacher
        said = [(each, *self.said[each.id]) for each in self.workload.questions if each.id in self.said]
        found = [scored for each in said if (scored := _scored(*each, teacher)) is not None]
        questions, guessed = [question for question, _ in found], sum(not sure for _, sure in found)
        if not questions:
            raise ConfigError("no request that was shadowed has feedback that its answers could be scored by")
        unscored = len(self.workload.questions) - len(questions)
        workload = replace(self.workload, questions=questions, unscored=unscored)
        return workload, self._evidence(labels, workload) | {"guessed": guessed}

    def _evidence(self, labels: Labels, workload: Workload) -> dict[str, Any]:
        return {
            "labels": labels,
            "route": workload.manifest.name,
            "window": {"first": _moment(self.window[0]), "last": _moment(self.window[1])},
            "requests": self.rate.requests,
            "shadowed": self.rate.drawn,
            "propensity": self.rate.propensity,
            "left_out": dict(self.left_out),
            "unscored": workload.unscored,
            **({"stand_in": True} if self.stand_in else {}),
        }


def load(config: Config, route: str, since: float | None, until: float | None) -> Traffic:
    """What the configuration's ledger has of a route, looked at from outside. ConfigError: see `read`, `ledger_at`."""
    if route not in config.routes:
        raise ConfigError(f"there is no route {route!r}; there are: {', '.join(config.routes)}")
    spec = config.routes[route]
    kind = Policy.load(spec.policy).kind if spec.policy is not None else None
    with ledger_at(config.ledger.url) as connection:
        rates = ledger.rates(connection, route, since, until)
        requests = ledger.drafted(connection, route, since, until)
    return read(requests, rates, route, kind or spec.answers)


def read(requests: Sequence[Drafted], rates: Sequence[ledger.Rate], route: str, kind: Kind | None) -> Traffic:
    """The workload of a route's shadowed requests. ConfigError: there is none, or it was not drawn at one rate."""
    if not requests or not rates:
        raise ConfigError(
            f"no request of route {route!r} was answered by its cascade and shadowed in this time; `shadow: 0.05` on "
            "the route asks for that"
        )
    if len(rates) > 1:
        told = ", ".join(f"{rate.propensity:.4g} since {_moment(rate.since)}" for rate in rates)
        raise ConfigError(
            f"shadows of route {route!r} were drawn at several rates in this time ({told}); requests of different "
            f"rates do not weigh the same: choose a time of one, `--since {_moment(rates[-1].since)}` for the last"
        )
    left_out: Counter[str] = Counter()
    lots: list[_Lot] = []
    for request in requests:
        found = _lot(request)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            lots.append(found)
    if not lots:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        raise ConfigError(f"of no shadowed request of route {route!r} all is known: {why}")
    teacher, students, same = _alike(lots)
    if other := len(lots) - len(same):
        left_out["without a draft of every student, or with another teacher"] = other
    alone = [name for name in students if same[0].answers[name].guidance == 0]
    guided = [name for name in students if name not in alone]
    models = (teacher, *alone)
    manifest = Manifest(
        name=route,
        teacher=teacher,
        students=alone,
        guided=[_guided(name, same[0].answers[name].guidance) for name in guided],
        prices={model: _rate(same, model) for model in models},
        limits=_limits(same, students),
        answer=kind,
        recorded=f"route {route}, {_moment(same[0].at)} to {_moment(same[-1].at)}",
    )
    questions = [Question(lot.id, {name: lot.answers[name] for name in (*models, *guided)}) for lot in same]
    workload = Workload(manifest, questions, 0, sum(left_out.values()))
    said = {lot.id: (lot.shown, lot.score) for lot in same if lot.shown is not None and lot.score is not None}
    window = same[0].at, same[-1].at
    return Traffic(workload, rates[0], window, left_out, said, any(lot.stand_in for lot in same))


def _guided(name: str, tokens: int) -> Guided:
    return Guided(student=student_of(name, tokens), tokens=tokens)


def _alike(lots: Sequence[_Lot]) -> tuple[str, tuple[str, ...], list[_Lot]]:
    """A teacher and students, and the requests that all of them answered: those that leave most answers to learn from.

    Policies come and go, and a shadow that failed has no more than what was asked before it.
    """

    def of(teacher: str, students: tuple[str, ...]) -> list[_Lot]:
        return [lot for lot in lots if lot.teacher == teacher and set(students) <= lot.answers.keys()]

    found = {(lot.teacher, lot.students): of(lot.teacher, lot.students) for lot in lots}
    teacher, students = max(found, key=lambda one: (len(found[one]) * len(one[1]), found[one][-1].at))
    return teacher, students, found[teacher, students]


@dataclass(slots=True)
class _Lot:
    """All answers to one request by who gave them, and the calls behind each.

    `begun`: nano-dollars of the teacher's first words, by their limit of tokens.
    """

    id: str
    at: float
    score: float | None
    stand_in: bool
    teacher: str = ""
    students: tuple[str, ...] = ()
    shown: Answer | None = None
    answers: dict[str, Arm] = field(default_factory=dict)
    parts: dict[str, list[Asked]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)


def _lot(request: Drafted) -> _Lot | str:
    """The request's answers; in words what is not known of them."""
    lot = _Lot(request.request_id, request.at, request.score, request.stand_in)
    # A teacher that was cut by the policy's limit has answered again, whole, for the shadow.
    teachers = [each for each in request.answers if each.place is None and (each.limit is None or each.given)]
    drafts = sorted((each for each in request.answers if each.place is not None), key=lambda each: each.place or 0)
    if not teachers:
        return "without the teacher's answer"
    for each in (*drafts, teachers[-1]):
        name = who(each.model, each.guidance)
        if name in lot.answers:
            continue
        # Who compared it with other drafts is a part of what it costs, and of nothing else.
        every = [request.calls[call] for call in each.calls if call in request.calls]
        made, checks = [one for one in every if one.seat != CHECKER], [one for one in every if one.seat == CHECKER]
        cost, inputs = [call.amount for call in every], [call.read for call in made]
        if not (made or each.complete) or None in cost:
            return "with a call that has no price"
        if each.output is None or None in inputs:
            return "with a call whose tokens are not known"
        own = [call for call in made if each.guidance == 0 or call.seat == "student"]
        spent, whole = sum(call.amount or 0 for call in (*own, *checks)), sum(filter(None, cost))
        if each.guidance:
            lot.begun[each.guidance] = lot.begun.get(each.guidance, 0) + whole - spent
        read = sum(call.read or 0 for call in own)
        arm = Arm(each.answer, 0.0, read, each.output, spent / NANO, each.logprob)
        lot.answers[name] = replace(
            arm, guidance=each.guidance, told=each.told, complete=each.complete, least=each.least
        )
        lot.parts[name] = own
        if each.limit is not None and each.place is not None:
            lot.limits[name] = each.limit
        if each.given:
            lot.shown = each.answer
    for name, arm in lot.answers.items():
        lot.answers[name] = replace(arm, begun=lot.begun.get(arm.guidance, 0) / NANO)
    lot.teacher = teachers[-1].model
    lot.students = tuple(dict.fromkeys(who(each.model, each.guidance) for each in drafts if each.model != lot.teacher))
    return lot if any(lot.answers[name].guidance == 0 for name in lot.students) else "without a student's draft"


def _scored(question: Question, shown: Answer, score: float, teacher: str) -> tuple[Question, bool] | None:
    """The question with what follows from what was said of the answer shown; and whether all of it does follow.

    Answers equal to the one shown are as good as it. Where that was right, others are wrong. Where it was wrong, nobody
    knows of others: then the teacher counts as right, as do those who agree with it, and the rest as wrong. None where
    the teacher's answer has no form that it could be compared by.
    """
    stands = question.arms[teacher].answer
    if stands is None:
        return None
    wrong = score <= WHOLE

    def value(arm: Arm) -> float:
        return score if arm.answer == shown else float(wrong and arm.answer == stands)

    arms = {model: replace(arm, score=value(arm)) for model, arm in question.arms.items()}
    return Question(question.id, arms), not wrong or all(arm.answer == shown for arm in arms.values())


def _rate(lots: Sequence[_Lot], model: str) -> Rate:
    """What a model charges, by the newest price of its calls; one by the hour, by what a token of its answers cost."""
    priced = (call.rates for lot in reversed(lots) for call in lot.parts[model] if call.rates)
    rates = next(priced, {})
    if rates.get("per_hour") is None and rates.get("output") is not None:
        return Rate(input=_per_million(rates.get("input")), output=_per_million(rates["output"]))
    arms = [lot.answers[model] for lot in lots]
    written = sum(arm.written for arm in arms)
    return Rate(input=0.0, output=sum(arm.cost for arm in arms) / written if written else 0.0)


def _per_million(nano: Any) -> float:
    return float(Fraction(int(nano or 0), 10**9))


def _limits(lots: Sequence[_Lot], students: Sequence[str]) -> dict[str, int]:
    """The least limit of tokens that each student was asked with: of longer answers nobody knows the end."""
    said = {name: [lot.limits[name] for lot in lots if name in lot.limits] for name in students}
    return {name: min(limits) for name, limits in said.items() if limits}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
