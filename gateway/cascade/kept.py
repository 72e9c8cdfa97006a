"""Kept: the answers to one request as the ledger keeps them, without a word of them. Pure.

What drafts show (`signals.read`) needs to know which answers are equal, and which are odd; not what they say. So equal
answers to one request have the same small number, the rest is told, and `Kept.draft` makes a draft that reads the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.answers import Answer, Kind
from gateway.cascade.signals import Draft, odd


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's whole answer to a request.

    `place` is the rung that asked for it, and `model` the student that the policy names there; of the teacher's answer
    `place` is None, and `model` its upstream. `output` are the tokens that it wrote, as the policy saw them (0: nothing
    came of it), `logprob` their mean log-probability and `least` the least, None where it is not told. `group` is its
    final answer's number, equal within the request for equal answers; None: it has none. `kind` and `odd` are the
    answer's. `limit` is the most tokens that it might have, by the policy; None: it set none. `guidance`: the budget of
    the teacher's first words before it; `told`: the answer was in these; `complete`: they were all of it. `given`: it
    is what the client was shown. `calls` are the ids of the calls that it took, whose tokens and price the ledger has:
    of several answers that go on from the same words, the first has the teacher's.
    """

    place: int | None
    model: str
    output: int | None
    group: int | None = None
    kind: Kind | None = None
    odd: bool = False
    logprob: float | None = None
    limit: int | None = None
    guidance: int = 0
    told: bool = False
    complete: bool = False
    given: bool = False
    calls: tuple[str, ...] = ()
    least: float | None = None

    @property
    def answer(self) -> Answer | None:
        """An answer that stands for the one that was given: equal where that was equal, and as odd."""
        if self.group is None or self.kind is None:
            return None
        if self.kind == "number":
            return Answer("number", f"{2 * self.group + 1}/2" if self.odd else str(self.group))
        return Answer(self.kind, str(self.group))

    @property
    def draft(self) -> Draft:
        """The draft as a policy sees it, which reads as the one that was made."""
        return Draft(
            self.model,
            self.answer,
            self.output or 0,
            self.logprob,
            self.told,
            self.guidance,
            self.complete,
            self.least,
        )


def grouped(kept: Sequence[Kept], answers: Sequence[Answer | None], before: Sequence[Answer | None] = ()) -> list[Kept]:
    """The same, each with what is kept of its answer: numbers from 0 in the order in which answers are first seen.

    Those `before` have their numbers already, in their order, in what is kept of the same request elsewhere.
    """
    numbers = {answer: place for place, answer in enumerate(dict.fromkeys(filter(None, before)))}

    def told(one: Kept, answer: Answer | None) -> Kept:
        if answer is None:
            return one
        group = numbers.setdefault(answer, len(numbers))
        return msgspec.structs.replace(one, group=group, kind=answer.kind, odd=odd(answer))

    return [told(*each) for each in zip(kept, answers, strict=True)]


def dumps(kept: Sequence[Kept]) -> str:
    """As JSON."""
    return msgspec.json.encode(kept).decode()


def loads(text: str) -> list[Kept]:
    """From JSON. Fields of later versions are passed over."""
    return msgspec.json.decode(text, type=list[Kept])
