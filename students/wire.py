"""The bytes of a chat completion, understood: server-sent events in, `Delta` and `Finish` out. Pure; no I/O.

bytes -> Frames -> payloads -> Reply -> Delta, Delta, ..., Finish
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from pricing.usage import Usage
from students.engine import Delta, Finish
from students.errors import BadReply, EngineError
from students.faults import failure

MOST_TOKENS = 2**40
"""A larger count is no count: it is taken as not reported."""

FRAME_LIMIT = 16 * 2**20
"""Bytes of one event; an upstream that sends more without a blank line is not speaking server-sent events."""


_LF = 10


class Frames:
    """Splits a stream of bytes, cut anywhere, into the data of its server-sent events.

    Follows the WHATWG grammar: LF, CRLF or CR ends a line, a blank line ends an event, data lines are joined by LF,
    comments and other fields are skipped. One difference: `end` also yields an event that was complete but for its
    blank line, because some servers leave it out after their last one.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that these bytes complete."""
        if self._tail:
            data = self._tail + data
        elif data.find(b"\n") == len(data) - 2 and data.startswith(b"data: ") and data[-1] == _LF and b"\r" not in data:
            return [data[6:-2]]  # exactly one event of one line: how nearly every word of a stream arrives
        held = b""
        if b"\r" in data:
            # A CR at the very end may be half of a CRLF: it waits for what follows.
            if data.endswith(b"\r"):
                data, held = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = data.rfind(b"\n\n")
        if end < 0:
            if len(data) > FRAME_LIMIT:
                raise BadReply(f"one event of the answer is longer than {FRAME_LIMIT} bytes")
            self._tail = data + held
            return []
        self._tail = data[end + 2 :] + held
        return [
            payload
            for block in data[:end].split(b"\n\n")
            if (payload := block[6:] if block.startswith(b"data: ") and b"\n" not in block else _data(block))
            is not None
        ]

    def end(self) -> list[bytes]:
        """The last event, when only its blank line is missing; call it once, when no more bytes come."""
        tail, self._tail = self._tail, b""
        payload = _data(tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        return [] if payload is None else [payload]


def _data(block: bytes) -> bytes | None:
    """The data of one event; None when it has none."""
    lines = []
    for line in block.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk (`delta`), of a whole answer (`message`), or of a text completion (`text`)."""

    index: int = 0
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class Chunk(msgspec.Struct, gc=False):
    """What we read of a chunk, or of a whole answer; other members are skipped."""

    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    model: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode


class Reply:
    """One answer as it arrives. Feed it bytes, pass on the deltas, and when it has `ended` ask for its `finish`.

    `echo`: a text that this upstream repeats before it goes on; an exact repetition is taken away. Text that may be
    its beginning is held back until that is known, and its log probabilities are dropped, since they fit no longer.
    `echoed` tells which it was; None: no text has come, or too little.

    `failure` is what ended the answer before its time; deltas that came before it have been handed out.
    """

    __slots__ = (
        "_echo",
        "_fingerprint",
        "_frames",
        "_held",
        "_model",
        "_n",
        "_reasons",
        "_tier",
        "_totals",
        "_usage",
        "begun",
        "echoed",
        "ended",
        "failure",
    )

    def __init__(self, n: int = 1, echo: str = "") -> None:
        self.begun = False
        self.ended = False
        self.echoed: bool | None = None
        self.failure: EngineError | None = None
        self._n = n
        self._echo = echo
        self._held = dict.fromkeys(range(n), "") if echo else {}
        self._frames = Frames()
        self._reasons: dict[int, str | None] = {}
        self._usage: dict[str, Any] | None = None
        self._totals: list[dict[str, Any]] = []
        self._model: str | None = None
        self._tier: str | None = None
        self._fingerprint: str | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas in these bytes of an event stream; none after the answer has ended."""
        deltas: list[Delta] = []
        try:
            self._read(self._frames.feed(data), deltas)
        except EngineError as error:
            self._fail(error)
        return deltas

    def end(self) -> list[Delta]:
        """What is left when no more bytes come."""
        deltas: list[Delta] = []
        try:
            self._read(self._frames.end(), deltas)
        except EngineError as error:
            self._fail(error)
        if not self.ended:
            self._release(deltas)
            if not self.begun or any(self._reasons.get(index) is None for index in range(self._n)):
                self._fail(BadReply("the stream ended without its end (no [DONE], no finish reason)"))
            self.ended = True
        return deltas

    def whole(self, body: bytes) -> list[Delta]:
        """The deltas of an answer that came in one piece of JSON, though a stream was asked for."""
        deltas: list[Delta] = []
        try:
            self._read((body, b"[DONE]"), deltas)
        except EngineError as error:
            self._fail(error)
        return deltas

    def finish(self) -> Finish:
        """The end of the answer. Raises what ended it instead, or `BadReply` when a choice never came.

        A choice that has no finish reason though the upstream said [DONE] is taken to have ended by itself.
        """
        if self.failure is not None:
            raise self.failure
        if len(self._reasons) < self._n:
            raise BadReply(f"{len(self._reasons)} of {self._n} choices were answered")
        return Finish(
            reasons=tuple(self._reasons[index] or "stop" for index in range(self._n)),
            usage=self._all_usage(),
            model=self._model,
            service_tier=self._tier,
            fingerprint=self._fingerprint,
        )

    def _all_usage(self) -> Usage | None:
        """The last report of a chunk of its own, else the last beside a choice.

        llama.cpp reports each choice by itself: as many chunks as choices, each with the whole prompt.
        """
        usage = read_usage(self._totals[-1] if self._totals else self._usage)
        if usage is None or self._n == 1 or len(self._totals) != self._n:
            return usage
        each = [read_usage(total) or Usage() for total in self._totals]
        return replace(usage, output=_sum(one.output for one in each), reasoning=_sum(one.reasoning for one in each))

    def _fail(self, error: EngineError) -> None:
        self.failure = error
        self.ended = True

    def _read(self, payloads: Iterable[bytes], deltas: list[Delta]) -> None:
        for payload in payloads:
            if self.ended:
                return
            if payload[:1] == b"[" and payload.startswith(b"[DONE]"):
                self._release(deltas)
                self.ended = True
                return
            try:
                chunk = _decode(payload)
            except msgspec.DecodeError as error:
                raise BadReply(f"a chunk of the answer cannot be read: {error}") from None
            if chunk.error is not None:
                self._release(deltas)
                raise failure(chunk.error)
            self.begun = True
            if chunk.usage is not None:
                if chunk.choices:
                    self._usage = chunk.usage
                else:
                    self._totals.append(chunk.usage)
            if chunk.model:
                self._model = chunk.model
            if chunk.service_tier is not None:
                self._tier = chunk.service_tier
            if chunk.system_fingerprint is not None:
                self._fingerprint = chunk.system_fingerprint
            if chunk.choices is not None:
                for choice in chunk.choices:
                    self._take(choice, deltas)

    def _take(self, choice: Choice, deltas: list[Delta]) -> None:
        index = choice.index
        if not 0 <= index < self._n:
            raise BadReply(f"choice {index} was answered, of {self._n} asked for")
        if choice.finish_reason:
            self._reasons[index] = choice.finish_reason
        elif index not in self._reasons:
            self._reasons[index] = None

        members = choice.delta
        if members is None:
            members = {"content": choice.text} if choice.message is None else choice.message
        text = members.pop("content", None) or ""
        if type(text) is not str:
            raise BadReply("the content of the answer is not text")
        members.pop("role", None)
        fields = {name: value for name, value in members.items() if value is not None} if members else None
        logprobs = None if choice.logprobs is None else read_logprobs(choice.logprobs)

        if index in self._held and text:
            held = self._held[index]
            text = self._without_echo(index, text)
            if held or self.echoed is not False:
                logprobs = None
        if not (text or fields or logprobs):
            return
        last = deltas[-1] if deltas else None
        if not (fields or logprobs) and last is not None and last.index == index and not (last.fields or last.logprobs):
            last.text += text  # what arrives together is one delta: under load, that is most of it
        else:
            deltas.append(Delta(text, index, logprobs, fields or None))

    def _without_echo(self, index: int, text: str) -> str:
        text = self._held[index] + text
        if text.startswith(self._echo):
            self.echoed = True
            del self._held[index]
            return text[len(self._echo) :]
        if self._echo.startswith(text):
            self._held[index] = text
            return ""
        self.echoed = False
        del self._held[index]
        return text

    def _release(self, deltas: list[Delta]) -> None:
        """Hands out text that looked like the beginning of an echo and was not."""
        deltas.extend(Delta(text, index) for index, text in self._held.items() if text)
        self._held = {}


def read_usage(usage: Mapping[str, Any] | None) -> Usage | None:
    """An upstream's `usage` as our inclusive buckets; None when it holds no count.

    OpenAI counts hidden reasoning inside `completion_tokens`. xAI and Gemini leave it out there and in
    `prompt_tokens` but not in `total_tokens`, and bill it as output: what the total has over the sum is added.
    DeepSeek names cached tokens `prompt_cache_hit_tokens`, inside `prompt_tokens` all the same.
    """
    if usage is None:
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None and completion is None:
        return None
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    total = _count(usage, "total_tokens")
    if total is not None and prompt is not None and completion is not None:
        hidden = total - prompt - completion
        if hidden > 0:
            completion += hidden
            reasoning = max(reasoning or 0, hidden)
    return Usage(
        input=prompt,
        output=completion,
        cached=_count(usage, "prompt_cache_hit_tokens") if cached is None else cached,
        cache_write=_count(usage.get("prompt_tokens_details"), "cache_write_tokens"),
        reasoning=reasoning,
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _count(members: object, name: str) -> int | None:
    value = members.get(name) if isinstance(members, dict) else None
    return value if isinstance(value, int) and 0 <= value <= MOST_TOKENS else None


def read_logprobs(logprobs: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The entries of `logprobs.content`; those of a text completion are brought into that shape."""
    content = logprobs.get("content")
    if content is not None:
        return content or None
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not tokens or not values:
        return None
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {
            "token": token,
            "logprob": value,
            "bytes": list(token.encode()),
            "top_logprobs": [
                {"token": other, "logprob": number, "bytes": list(other.encode())}
                for other, number in (top or {}).items()
            ],
        }
        for token, value, top in zip(tokens, values, tops, strict=False)
    ]
