"""Capabilities: what a model can do, by its name: how its limit is spelled, whether it stops thinking. Data, no I/O.

The rows are in `capabilities.toml`, beside this file. What an upstream's configuration says comes before them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Literal

from students.servers import LimitField
from students.spec import Hosted

Reasoning = Literal["never", "optional", "always"]
Accepted = Literal["always", "off", "never"]

REASONING = ("reasoning_effort", "thinking")
"""Members of a request that say something about hidden reasoning."""

AS_IT_IS = "default"
"""The `reasoning_effort` of an upstream that is told nothing about reasoning."""

_BEFORE = re.compile(r"^(ft:|.*/)?([a-z-]{2,10}\.)?((anthropic|amazon|meta|mistral|deepseek)\.)?")
"""What stands before a model's own name: `ft:`, a path of providers, Bedrock's region and vendor."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What is known about a model; None: it is not known.

    `models`: the patterns of its row, empty for a model that no row fits. `off`: the members of a request that switch
    hidden reasoning off, where it is optional. `sampling` says when temperature, top_p, the penalties and logit_bias
    are accepted; off: while reasoning is switched off. `least_output` is in tokens.
    """

    models: tuple[str, ...] = ()
    limit_field: LimitField | None = None
    reasoning: Reasoning | None = None
    off: Mapping[str, Any] = field(default_factory=dict)
    sampling: Accepted | None = None
    stop: bool | None = None
    prefill: bool | None = None
    images: bool | None = None
    logprobs: bool | None = None
    least_output: int | None = None
    source: str = ""

    @property
    def known(self) -> bool:
        """True when a row fits."""
        return bool(self.models)


UNKNOWN = Capabilities()


@cache
def rows() -> tuple[Capabilities, ...]:
    """Every row, in the order in which they are tried."""
    data = tomllib.loads(files("students").joinpath("capabilities.toml").read_text("utf-8"))
    return tuple(Capabilities(**{**row, "models": tuple(row["models"])}) for row in data["model"])


@lru_cache(maxsize=1024)
def find(model: str) -> Capabilities:
    """What is known about the model of that name at its upstream; `UNKNOWN` when no row fits."""
    name = _BEFORE.sub("", model.lower())
    for row in rows():
        if any(fnmatchcase(name, pattern) for pattern in row.models):
            return row
    return UNKNOWN


@dataclass(frozen=True, slots=True)
class Settings:
    """How one model is asked at one upstream: the configuration's word, else the table's, else a careful default.

    `effort`: members of every request that says nothing about reasoning itself. `sampling`: False or never: none may be
    sent; off: while the members in `off` are what the request says about reasoning.
    """

    limit_field: LimitField
    effort: Mapping[str, Any]
    stop: bool
    logprobs: bool
    images: bool
    sampling: bool | Accepted
    off: Mapping[str, Any]

    def begun(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """These members of a request, after what is said about reasoning where they say nothing."""
        return {**members} if any(name in members for name in REASONING) else {**self.effort, **members}

    def samples(self, members: Mapping[str, Any]) -> bool:
        """Whether a request with these members may say how tokens are chosen."""
        if self.sampling != "off":
            return self.sampling in (True, "always")
        return all(members.get(name) in (self.off.get(name), self.off.get(name, "none")) for name in REASONING)


def settings(spec: Hosted, model: str) -> Settings:
    """The settings for `model` at the upstream. A model that is not known is taken to be an ordinary one.

    Its limit is `max_completion_tokens` at OpenAI, whose new models take nothing else, and `max_tokens` elsewhere:
    every other server knows that name, and some ignore the new one, which would lift the limit without a word.
    """
    known = find(model)
    off = known.off if known.reasoning == "optional" else {}
    effort = spec.reasoning_effort
    return Settings(
        limit_field=spec.limit_field or known.limit_field or spec.usual_limit_field,
        effort={} if effort == AS_IT_IS else off if effort is None else {"reasoning_effort": effort},
        stop=_first(spec.stop, known.stop, True),
        logprobs=_first(spec.logprobs, known.logprobs, True),
        images=_first(spec.images, known.images, False),
        sampling=spec.sampling if spec.sampling is not None else known.sampling or "always",
        off=off,
    )


def thinks_always(spec: object, model: str) -> bool:
    """True for a model that is known not to stop thinking, unless the configuration says with which effort it does."""
    return isinstance(spec, Hosted) and spec.reasoning_effort is None and find(model).reasoning == "always"


def _first(*values: bool | None) -> bool:
    return next(value for value in values if value is not None)
