"""Payoff: what break-even says of how a request was answered, in one clause for its receipt. Pure.

Fixed guidance is a rung of guidance (`gateway.cascade.gate`) that every request climbs: it pays where the student
finishes a larger share of answers alone than it costs of the teacher's whole answer. Nobody closes it: a route that
asks for it gets it, and here it is only said.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor
from typing import NamedTuple

from gateway.cascade.gate import Seen, Verdict, verdicts
from gateway.cascade.policy import Policy
from gateway.chat import Plan
from gateway.config import GUIDED
from pricing.breakeven import Rates, break_even_length, needed_accept_rate
from pricing.money import Money
from pricing.price import Price

BEGINS = "break-even: "

ALONE: Mapping[str, str] = {
    "teacher": "none, the teacher answers alone and at its whole price",
    "student": "none, the student answers alone and nothing of the teacher's was bought",
}


class Terms(NamedTuple):
    """What an answer came to. Prices and counts are None where they are not known.

    `read` is the teacher's input, `written` the tokens of its whole answer, by which `method` (see `Baseline`).
    `prompt` is what the student read but for the guidance, `tried` what students cost, `alone` the teacher's whole
    answer. `needless`:
    the guidance was kept from before, and nothing was paid for it. `complete`: the teacher ended within it. `answers`
    of one request.
    """

    teacher: Price | None
    student: Price | None = None
    read: int | None = None
    written: int | None = None
    method: str = "same_length"
    prompt: int | None = None
    tried: Money | None = None
    alone: Money | None = None
    needless: bool = False
    complete: bool = False
    answers: int = 1


def said(plan: Plan, terms: Terms, seen: Mapping[int, Seen], told: str = "") -> str:
    """One line of plain words. `seen`: what became of requests at the rungs of its policy; of fixed guidance, at 0.

    `told` is what `why` says already, and need not be said again.
    """
    if plan.policy is not None:
        return BEGINS + _cascade(plan, plan.policy, terms, seen, told)
    if plan.strategy in GUIDED:
        return BEGINS + _guidance(plan, terms, seen.get(0, Seen(0, 0)))
    return BEGINS + ALONE[plan.strategy]


def _cascade(plan: Plan, policy: Policy, terms: Terms, seen: Mapping[int, Seen], told: str) -> str:
    parts = [] if policy.rungs[0].guidance_tokens else [_drafts(policy, terms)]
    for place, verdict in verdicts(policy, terms.teacher, seen).items():
        shut = plan.closed.get(place)
        if shut is None:
            parts.append(str(verdict))
        else:
            parts.append(f"{verdict.named} is closed" + ("" if shut in told else f": {shut}"))
    return "; ".join(dict.fromkeys(parts))


def _drafts(policy: Policy, terms: Terms) -> str:
    observed = policy.rungs[0].observed
    if observed is not None and observed.asked:
        return (
            f"the drafts keep {observed.kept:.3f} from the teacher and pay above {observed.needed:.3f}, as calibrated"
        )
    if terms.tried is None or not terms.alone:
        return "what the drafts cost of the teacher's answer is not known, nor what they keep from the teacher"
    cost = terms.tried.nano / terms.alone.nano
    return f"the drafts cost {cost:.3f} of the teacher's whole answer and pay above that kept from it; not observed yet"


def _guidance(plan: Plan, terms: Terms, seen: Seen) -> str:
    verdict = Verdict(plan.guidance_tokens, seen.kept / seen.asked if seen.asked else None, None)
    if terms.needless:
        return f"{verdict.named} was kept from before and cost nothing that has to pay"
    if terms.complete:
        return f"{verdict.named} was all of the teacher's answer, and leaves nothing to save"
    observed = f"observed: {seen.kept} of {seen.asked} finished alone" if seen.asked else "not observed yet"
    hint, whole = _shares(plan.guidance_tokens, terms)
    if hint is None:
        return f"what {verdict.named} costs of the teacher's answer is not known, nor when it pays; {observed}"
    verdict = verdict._replace(needed=whole if whole is not None else hint)
    beside = "without the student's part, which is not known" if whole is None else f"{whole:.3f} with the student's"
    answer = f"the teacher's whole answer of {terms.written} tokens ({terms.method})"
    parts = [f"{verdict.named} costs {hint:.3f} of {answer}, {beside}: {_rule(plan, terms, verdict)}", observed]
    if verdict.pays is False:
        parts.append("it does not pay here, and is given as asked: only a cascade closes its guidance")
    return "; ".join(parts)


def _shares(tokens: int, terms: Terms) -> tuple[float | None, float | None]:
    """What guidance costs of the teacher's whole answer; and with what the student costs."""
    price, read, written = terms.teacher, terms.read, terms.written
    if price is None or read is None or not written:
        return None, None

    def share(student: Money) -> Fraction | None:
        return needed_accept_rate(price, input_tokens=read, guidance=tokens, length=written, student=student)

    hint, whole = share(Money.ZERO), None if terms.tried is None else share(terms.tried)
    return None if hint is None else float(hint), None if whole is None else float(whole)


def _rule(plan: Plan, terms: Terms, verdict: Verdict) -> str:
    """Above which share it pays, and from which length of an answer on."""
    here = verdict.needed is not None and verdict.needed < 1
    said = "it pays where the student finishes more than that alone" if here else "it pays nowhere at this length"
    rates = Rates.of(terms.teacher, terms.student) if terms.teacher is not None and terms.student is not None else None
    if rates is None or terms.prompt is None or terms.answers > 1:
        return said
    again = plan.placement == "context"
    even = break_even_length(rates, prompt=terms.prompt, guidance=plan.guidance_tokens, again=again)
    if even is None:
        return f"{said}, nor at another"
    return f"{said}, {'and' if here else 'only'} for answers of {floor(even) + 1} tokens or more"
