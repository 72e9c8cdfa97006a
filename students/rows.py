"""One answer of a model in this process, token by token: its settings, its text, its end. No tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pricing.usage import Usage
from students.engine import Delta, Event, Finish, Sampling
from students.errors import EngineError, Refused
from students.outlet import Outlet, Piece

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one row's tokens are chosen, fully decided.

    Applied in this order: bias, repetition, presence and frequency; then temperature, top_k, top_p, min_p. A
    `temperature` of 0 takes the most likely token. `logprobs`: how many alternatives are told beside each token; None:
    nothing is told. A `seed` makes the row repeatable, whoever shares its steps; None: it is drawn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None

    @classmethod
    def of(
        cls, sampling: Sampling, options: Mapping[str, Any], defaults: Mapping[str, Any], vocabulary: int
    ) -> Settings:
        """What the caller said, else the model's own `defaults`, else no influence.

        `top_k`, `min_p` and `repetition_penalty` are further fields of the request. Raises `Refused` for a value that
        means nothing.
        """
        bias = {}
        for key, value in (sampling.logit_bias or {}).items():
            if not str(key).isdecimal() or int(key) >= vocabulary:
                raise Refused(f"logit_bias names no token of this model: it has {vocabulary}")
            bias[int(key)] = float(value)
        return cls(
            temperature=_number(_first(sampling.temperature, defaults.get("temperature"), 1.0), "temperature", 0, 1e3),
            top_p=_number(_first(sampling.top_p, defaults.get("top_p"), 1.0), "top_p", 0, 1),
            top_k=int(_number(_first(options.get("top_k"), defaults.get("top_k"), 0), "top_k", -1, 1e9)),
            min_p=_number(_first(options.get("min_p"), defaults.get("min_p"), 0.0), "min_p", 0, 1),
            presence=_number(_first(sampling.presence_penalty, None, 0.0), "presence_penalty", -1e3, 1e3),
            frequency=_number(_first(sampling.frequency_penalty, None, 0.0), "frequency_penalty", -1e3, 1e3),
            repetition=_number(
                _first(options.get("repetition_penalty"), defaults.get("repetition_penalty"), 1.0),
                "repetition_penalty",
                1e-3,
                1e3,
            ),
            bias=bias,
            seed=sampling.seed,
            logprobs=(sampling.top_logprobs or 0) if sampling.logprobs else None,
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """One token, as it was chosen. `logprob` and `top` (id, log probability) are the model's own, before settings."""

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclass(eq=False, slots=True)
class Row:
    """What the `Batcher` moves: a prompt, and the answer to it as far as it is written.

    `ids`: what the model that writes reads, the answer's given beginning included. `source`: what an encoder reads
    before; empty without one. `answer`: the last of `ids` that belong to the answer; penalties count them too.
    `ends`: tokens that end an answer. `decode`: a token's new text, None while a character is unfinished. `piece`: the
    text and bytes of one token by itself. `tell` is called in the owner thread.
    """

    name: str
    ids: list[int]
    settings: Settings
    limit: int
    ends: frozenset[int]
    decode: Callable[[int], str | None]
    piece: Callable[[int], tuple[str, list[int] | None]]
    tell: Callable[[Event | EngineError], None]
    stop: tuple[str, ...] = ()
    source: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    model: str | None = None

    seconds: float = 0.0
    """The machine's time that this answer took: its own reading, and its equal share of each step."""
    left: bool = False
    """Nobody listens any more; set by `Batcher.leave`."""
    over: bool = False
    """Nothing more is to be written."""
    written: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    """How often each token stands in the answer so far."""
    last: int = 0
    """The token that the next step reads."""
    random: random.Random = field(default_factory=random.Random)
    """This row's own source of chance, drawn from once a token, so that nobody else's tokens move it."""
    _outlet: Outlet = field(default_factory=Outlet)

    def __post_init__(self) -> None:
        self.last = self.ids[-1]
        self._outlet = Outlet(self.stop)
        if self.settings.seed is not None:
            self.random.seed(self.settings.seed)
        for token in self.answer:
            self.counts[token] = self.counts.get(token, 0) + 1

    def take(self, chosen: Chosen) -> None:
        """Write one token down, and tell what may be shown."""
        token = self.last = chosen.id
        self.written += 1
        if token in self.ends:
            self._finish("stop")
            return
        self.counts[token] = self.counts.get(token, 0) + 1
        text = self.decode(token) or ""
        self._say(self._outlet.feed(text, self._entry(chosen)))
        if self._outlet.stopped:
            self._finish("stop")
        elif self.written >= self.limit:
            self._finish("length")

    def fail(self, error: EngineError) -> None:
        """Tell that the answer cannot go on."""
        if not self.over:
            self.over = True
            self.tell(error)

    def _finish(self, reason: str) -> None:
        self.over = True
        self._say(self._outlet.finish())
        usage = Usage(input=len(self.source) + len(self.ids), output=self.written, seconds=self.seconds)
        self.tell(Finish((reason,), usage, model=self.model))

    def _say(self, piece: Piece) -> None:
        if piece.text or piece.logprobs:
            self.tell(Delta(piece.text, logprobs=piece.logprobs))

    def _entry(self, chosen: Chosen) -> list[dict[str, Any]] | None:
        if chosen.logprob is None:
            return None
        top = [self._told(token, logprob) for token, logprob in chosen.top]
        return [{**self._told(chosen.id, chosen.logprob), "top_logprobs": top}]

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.piece(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


def _first(said: Value | None, default: Value | None, neutral: Value) -> Value:
    return said if said is not None else default if default is not None else neutral


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)
