"""A spec becomes an engine. The engine's module is imported here, and only when a configuration names its kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import assert_never

from students.engine import Engine
from students.guard import Guard
from students.spec import (
    EngineSpec,
    LiteLLMSpec,
    LlamaCppSpec,
    ManagedSpec,
    OpenAISpec,
    ReplaySpec,
    ScriptedSpec,
    TransformersSpec,
)


class MissingKey(ValueError):
    """The environment `variable` that should hold the key of `engine` is not set, or empty."""

    def __init__(self, engine: str, variable: str) -> None:
        super().__init__(f"{engine}: the environment variable {variable} is not set")
        self.engine = engine
        self.variable = variable


def build(name: str, spec: EngineSpec, *, environ: Mapping[str, str] = os.environ, keyless: bool = False) -> Guard:
    """The engine that `spec` describes, in a guard; does no I/O. The caller closes it (`Engine.aclose`).

    Raises `MissingKey`, unless it may be `keyless`: then whoever asks it brings a key (`Prompt.key`). A `stand_in` is
    not looked at: who takes an empty seat is the caller's decision.
    """
    return Guard(_bare(name, spec, environ, keyless=keyless), spec)


def _bare(name: str, spec: EngineSpec, environ: Mapping[str, str], *, keyless: bool) -> Engine:
    match spec:
        case OpenAISpec():
            from students.openai_api import OpenAIApi

            return OpenAIApi(name, spec, key=_key(name, spec, environ, keyless=keyless))
        case LiteLLMSpec():
            from students.litellm_api import LiteLLMApi

            return LiteLLMApi(name, spec, key=_key(name, spec, environ, keyless=keyless))
        case LlamaCppSpec():
            from students.llamacpp import LlamaCpp

            return LlamaCpp(name, spec)
        case ManagedSpec():
            from students.managed import Managed

            return Managed(name, spec, environ=environ)
        case TransformersSpec():
            from students.in_process import InProcess

            return InProcess(name, spec)
        case ReplaySpec():
            from students.replay import Replay

            return Replay(name, spec)
        case ScriptedSpec():
            from students.scripted import Scripted

            return Scripted.from_spec(name, spec)
        case _:
            assert_never(spec)


def _key(name: str, spec: OpenAISpec | LiteLLMSpec, environ: Mapping[str, str], *, keyless: bool) -> str | None:
    if spec.api_key_env is None:
        return None
    key = environ.get(spec.api_key_env, "").strip()
    if not key and not keyless:
        raise MissingKey(name, spec.api_key_env)
    return key or None
