"""Drafts: what the ledger keeps of the answers that a cascade had, and that its shadow had beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from gateway.cascade.kept import Kept, grouped
from gateway.chat import Call, Climb, Exchange, Plan


def kept(exchange: Exchange) -> Sequence[Kept]:
    """The drafts of a cascade that is over, and the teacher's answer if it gave a whole one; of no other, nothing.

    Of a shadow, what it had beside the request that it measures, numbered together with that one's. Nothing of chats
    for several answers: each is a cascade of its own, and nobody knows which of their calls was whose.
    """
    policy = exchange.plan.policy
    if policy is None or len(exchange.climbs) != 1:
        return []
    (climb,) = exchange.climbs
    made = list(_drafts(exchange.plan, climb, (call for call in exchange.calls if not _whole(call))))
    answers = [draft.answer for draft in climb.drafts]
    limit = policy.teacher.max_tokens if exchange.shadow_of is None else None
    for call in filter(_whole, exchange.calls):
        if call.error is None and call.finish is not None:
            output = call.usage.output if call.usage is not None else None
            given = exchange.shadow_of is None and climb.given is None
            made.append(Kept(None, call.upstream, output, limit=limit, given=given, calls=(call.id,)))
            answers.append(climb.teacher)
    return grouped(made, answers)[climb.former :]


def _whole(call: Call) -> bool:
    """Whether the teacher was asked for a whole answer, not for a rung's first words."""
    return call.seat == "teacher" and call.stage != "guidance"


def _drafts(plan: Plan, climb: Climb, calls: Iterator[Call]) -> Iterator[Kept]:
    rungs = plan.policy.rungs if plan.policy is not None else []
    for number, (draft, taken) in enumerate(zip(climb.drafts, climb.taken, strict=True)):
        rung = rungs[taken.place]
        of_it = () if number < climb.former else tuple(call.id for call in islice(calls, taken.calls))
        yield Kept(
            taken.place,
            draft.student,
            draft.tokens,
            logprob=draft.logprob,
            limit=rung.max_tokens,
            guidance=rung.guidance_tokens,
            told=draft.told,
            given=climb.given == taken.place,
            calls=of_it,
        )
