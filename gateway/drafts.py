"""Drafts: what the ledger keeps of the answers that a cascade had, and that its shadow had beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.cascade.kept import Kept, grouped
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.signals import Draft
from gateway.chat import Climb, Exchange, Opening, Taken


def kept(exchange: Exchange) -> Sequence[Kept]:
    """The drafts of a cascade that is over, and the teacher's answer if it gave a whole one; of no other, nothing.

    Of a shadow, what it had beside the request that it measures, numbered together with that one's. Nothing of chats
    for several answers: each is a cascade of its own, and nobody knows which of their calls was whose.
    """
    policy = exchange.plan.policy
    if policy is None or len(exchange.climbs) != 1:
        return []
    (climb,) = exchange.climbs
    own = exchange.shadow_of is None
    known = climb.drafts[: climb.former]
    new = list(zip(climb.drafts[climb.former :], climb.taken[climb.former :], strict=True))
    made = [_draft(draft, taken, policy.rungs[taken.place], climb) for draft, taken in new]
    answers = [draft.answer for draft, _ in new]
    of_rungs = {call for taken in climb.taken for call in taken.calls}
    for call in exchange.calls:
        if call.seat != "teacher":
            continue
        if call.id not in of_rungs and call.error is None and call.finish is not None:  # the teacher's, for all of it
            output, limit = call.usage.output if call.usage is not None else None, policy.teacher.max_tokens
            given = own and climb.given is None
            made.append(Kept(None, call.upstream, output, limit=limit if own else None, given=given, calls=(call.id,)))
            answers.append(climb.teacher)
    ended = next((draft.answer for draft, _ in new if draft.complete), None)
    if climb.opening is not None and climb.opening.guidance.complete and any(draft.complete for draft, _ in new):
        made += _ended(exchange, policy, climb, climb.opening)
        answers += [ended] * (len(made) - len(answers))
    # A shadow's answers are numbered after the request's, which were its drafts and then the teacher's.
    before = [draft.answer for draft in known] + ([climb.stood] if not own and climb.given is None else [])
    resort = climb.resort
    if resort is not None and climb.teacher != climb.stood:  # served uncompared, it is told again
        output = resort.usage.output if resort.usage is not None else None
        made.append(Kept(None, resort.upstream, output, given=True, calls=(resort.id,)))
        answers.append(climb.teacher)
    return grouped(made, answers, before)


def _draft(draft: Draft, taken: Taken, rung: Rung, climb: Climb) -> Kept:
    return Kept(
        taken.place,
        draft.student,
        draft.tokens,
        logprob=draft.logprob,
        least=draft.least,
        limit=rung.max_tokens,
        guidance=draft.guidance,
        told=draft.told,
        complete=draft.complete,
        given=climb.given == taken.place,
        calls=tuple(taken.calls),
    )


def _ended(exchange: Exchange, policy: Policy, climb: Climb, opening: Opening) -> Iterator[Kept]:
    """A teacher that ended within its first words: that is its answer, and what all say who go on from them."""
    tokens = opening.guidance.tokens
    read = [call.upstream for call in exchange.calls if call.id in opening.calls]
    if exchange.shadow_of is None and read:
        yield Kept(None, read[-1], tokens, given=True, calls=tuple(opening.calls))
    taken = {each.place for each in climb.taken}
    for place, rung in enumerate(policy.rungs):
        if rung.kind == "guidance" and place not in taken:
            yield Kept(place, rung.student, tokens, guidance=rung.guidance_tokens, told=True, complete=True)
