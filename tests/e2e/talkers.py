"""Strict fakes that talk about the topic of their prompt (`item-7`), so that every answer tells whose it is."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence

from aiohttp import web

from tests.fakes import Fake, Json, OpenAI, Vllm, error, frames, sse

TOPIC = re.compile(r"item-\w+")
LENGTH = 12
"""Words of a whole answer about a topic."""


def topics(body: Json) -> set[str]:
    """What a prompt is about: all topics that stand in its messages."""
    return {topic for message in body["messages"] for topic in TOPIC.findall(str(message["content"]))}


def teachers_words(topic: str) -> list[str]:
    """The teacher's whole answer about a topic, a token each."""
    return [f"{' ' if number else ''}T.{topic}.{number}" for number in range(LENGTH)]


def students_words(topic: str) -> list[str]:
    """What a student says about it from wherever it begins."""
    return [f" S.{topic}.{number}" for number in range(LENGTH)]


BUDGET = 5
"""Guidance tokens of the routes over fakes."""

SHOWN = 4
"""Words of guidance that are shown: the last one of the budget may be torn, and is held back."""

NAMES = {"teacher": "teacher", "student": "student", "cut-off": "gkt", "concise": "gkt-concise", "hint": "gkt-hint"}
"""The strategies, and the names under which the gateways of these tests offer them."""


def told(topic: str, strategy: str = "cut-off") -> str:
    """What teacher and student say together about a topic."""
    if strategy == "teacher":
        return "".join(teachers_words(topic))
    if strategy in ("student", "hint"):
        return "".join(students_words(topic)).lstrip()
    return "".join(teachers_words(topic)[:SHOWN] + students_words(topic))


def sky(topic: str) -> list[dict[str, str]]:
    """A question that real models can answer too."""
    return [{"role": "user", "content": f"Explain in a few sentences why the sky is blue. Ticket {topic}."}]


class Topical(Fake):
    """What `Teacher` and `Student` share: when they speak, and what they were asked about what."""

    def __init__(self) -> None:
        super().__init__()
        self.paces: dict[str, tuple[float, float]] = {}
        """By topic, seconds before the first word and between two words; the topic "" is all others."""
        self.gate = threading.Event()
        """Nobody is answered while it is not set."""
        self.gate.set()
        self.alarm: tuple[str, Callable[[], None]] | None = None
        """What is done at once when it is asked about a topic."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if self.alarm is not None and body and self.alarm[0] in topics(body):
            self.alarm[1]()
        while not self.gate.is_set():  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.005)
        return await super().answer(request, body)

    def about(self, topic: str) -> list[Json]:
        """What it was asked about this topic."""
        return [body for body in self.asked if topic in topics(body)]

    def parted(self, topic: str) -> float | None:
        """When the reader of its answer about this topic left (`time.monotonic`); None: it did not."""
        return next((at for at, body in self.departures if topic in topics(body)), None)

    def pace(self, body: Json) -> tuple[float, float]:
        """See `OpenAI.pace`."""
        for topic in topics(body):
            if topic in self.paces:
                return self.paces[topic]
        return self.paces.get("", (0.0, 0.0))


class Teacher(Topical, OpenAI):
    """A strict OpenAI whose words are about the topic of the prompt; goes on from what it is told it said before."""

    hidden = 0
    json = '{"fruit": "pear", "number": 7}'
    """What it answers to whoever wants JSON."""

    def words(self, body: Json) -> Sequence[str]:
        if "response_format" in body:
            return re.findall(r"\S+\s*", self.json)
        (topic,) = topics(body)
        said = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
        words = teachers_words(topic)
        return words[len(said[-1].split()) :] if said else words


class Student(Topical, Vllm):
    """A strict vLLM that continues what the teacher said about the same topic, and refuses to mix two."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        about = topics(body) if body else set()
        if len(about) > 1:
            return error(400, f"two prompts in one: {sorted(about)}", "mixed")
        return await super().answer(request, body)

    def words(self, body: Json, prefix: str) -> Sequence[str]:
        about = topics(body)
        if not about:
            return super().words(body, prefix)  # the probe
        words = students_words(*about)[: body.get("max_tokens", LENGTH)]
        return words if prefix else [words[0].lstrip(), *words[1:]]

    def finish(self, body: Json, words: Sequence[str]) -> str:
        return "length" if topics(body) and len(words) == body.get("max_tokens") else "stop"


class Dying(Student):
    """Says its first word, and breaks the connection."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.method == "GET":
            return await super().answer(request, body)
        response = await sse(request, frames(self.words(body, "x"))[:2], end=False)
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response
