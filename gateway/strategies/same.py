"""Same: which earlier answer to a chat says the same as a new one, where their form does not tell.

Answers become a partition: a new one is compared with one of each group, and takes its form if they are the same, so
that equal answers are equal objects to everything after (`gateway.cascade`, the ledger, shadows). What cannot be found
out, since a model failed or could not be understood, is not the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from gateway.answers import Answer
from gateway.chat import Climb, Comparing, Exchange, Stage
from gateway.errors import GatewayError
from gateway.prompt_tests import tests
from gateway.strategies.base import Upstreams
from students.embeddings import cosine
from students.engine import Delta, Message, Prompt, Sampling
from students.errors import EngineError

LONGEST = 8_000
"""Characters of an answer, and of the question, that are compared: its beginning and its end, half each."""

RUN_SECONDS = 30.0
"""For the tests of a program that failed them together, one by one; then it is as no other."""

SAME = "SAME"

JUDGE = """\
Two answers to one question follow. Say nothing but one word: SAME when both tell the asker the same thing (wording, \
order and length do not matter; facts, numbers and conclusions do), DIFFERENT otherwise.

Question:
{question}

Answer 1:
{one}

Answer 2:
{other}
"""


async def placed(
    exchange: Exchange,
    upstreams: Upstreams,
    climb: Climb,
    answer: Answer | None,
    known: Sequence[Answer | None],
    *,
    measuring: bool = False,
) -> Answer | None:
    """The one of `known` that `answer` is the same as, else itself; None: it is none, since it is code that fails.

    What is asked for it is booked as a part of the answer, or of the measurement where that is what it is for.
    """
    how = exchange.plan.comparing
    if answer is not None and answer.kind == "code" and how.run:
        answer = await _passed(exchange, upstreams, answer)
    if answer is None or answer in known or answer.kind != "meaning" or how.checker is None:
        return answer
    groups = list(dict.fromkeys(each for each in known if each is not None and each.kind == "meaning"))
    stage: Stage = "measurement" if measuring else "answer"
    if not groups:
        return answer
    try:
        if how.threshold is not None:
            return await _nearest(upstreams, climb, answer, groups, how.checker, how.threshold, stage)
        for group in groups:
            if await _judged_same(exchange, upstreams, answer, group, how, stage):
                return group
    except (EngineError, GatewayError):
        return answer  # the call on record says what went wrong
    return answer


async def _nearest(
    upstreams: Upstreams,
    climb: Climb,
    answer: Answer,
    groups: Sequence[Answer],
    checker: str,
    threshold: float,
    stage: Stage,
) -> Answer:
    """The group whose first answer is the nearest, if it is near enough. All that has no vector yet gets it at once."""
    missing = [each.value for each in (*groups, answer) if each.value not in climb.vectors]
    found = await upstreams.embed(stage, [shortened(text) for text in missing], checker)
    climb.vectors.update(zip(missing, found, strict=True))
    own = tuple(climb.vectors[answer.value])
    near = [(cosine(own, tuple(climb.vectors[group.value])), -place) for place, group in enumerate(groups)]
    best, place = max(near)
    return groups[-place] if best >= threshold else answer


async def _judged_same(
    exchange: Exchange, upstreams: Upstreams, answer: Answer, other: Answer, how: Comparing, stage: Stage
) -> bool:
    """Whether the judge says the one word for it; whatever else it says, they are not the same."""
    asked = shortened(question(exchange.chat.messages))
    text = JUDGE.format(question=asked, one=shortened(other.value), other=shortened(answer.value))
    prompt = Prompt([{"role": "user", "content": text}], how.max_tokens, sampling=Sampling(temperature=0), stream=False)
    said = ""
    async with aclosing(upstreams.ask("checker", stage, prompt, how.checker)) as events:
        async for event in events:
            said += event.text if isinstance(event, Delta) else ""
    return said.strip().strip(".*").upper() == SAME


async def _passed(exchange: Exchange, upstreams: Upstreams, answer: Answer) -> Answer | None:
    """The tests of the prompt that a program passes, which is what it is compared by; None: not one.

    The program itself where the prompt brings no tests, or they could not be run.
    """
    wanted = tests(question(exchange.chat.messages))
    if not wanted:
        return answer
    whole = await upstreams.passes(answer.value, "\n".join(wanted))
    passed: list[bool | None] = [whole] * len(wanted)
    if whole is False and len(wanted) > 1:
        try:
            async with asyncio.timeout(RUN_SECONDS):
                passed = [await upstreams.passes(answer.value, test) for test in wanted]
        except TimeoutError:
            return answer
    if None in passed:
        return answer
    return Answer("code", "passes " + "".join("01"[bool(each)] for each in passed)) if any(passed) else None


def question(messages: Sequence[Message]) -> str:
    """The text of the user's last message."""
    last: Mapping[str, Any] = next((each for each in reversed(messages) if each.get("role") == "user"), {})
    content = last.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def shortened(text: str) -> str:
    """At most `LONGEST` characters of a text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} [...] {text[7 - LONGEST // 2 :]}"
