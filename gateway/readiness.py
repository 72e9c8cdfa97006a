"""Readiness: whether the models behind the gateway can be reached, and what each proved to be able to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from gateway.metrics import Metrics
from gateway.upstreams import Upstream
from students.child import Parent
from students.errors import EngineError
from students.guard import Guard
from students.pool import Pool
from students.prefill import proof_of

LOOK_SECONDS = 2.0
"""How long the state of the upstreams is taken for true."""

GLANCE_SECONDS = 1.0
"""How long a scrape waits for a look; it goes on alone, and the next scrape sees what it found."""

log = structlog.get_logger("gateway")


class Readiness:
    """Looks at the upstreams, at most every `LOOK_SECONDS`, however often it is asked; tells `metrics` of each."""

    def __init__(self, upstreams: Mapping[str, Upstream], metrics: Metrics) -> None:
        self._upstreams = upstreams
        self._metrics = metrics
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self._state: dict[str, Any] | None = None
        self._glance: asyncio.Task[Any] | None = None

    async def state(self) -> dict[str, Any]:
        """`ready`, and under `upstreams` the state of each by its name; see `/readyz`."""
        async with self._looking:
            if self._state is None or time.monotonic() - self._looked > LOOK_SECONDS:
                self._state, self._looked = await self._look(), time.monotonic()
            return self._state

    async def glance(self) -> None:
        """Look, and wait for it no longer than `GLANCE_SECONDS`."""
        if self._glance is None or self._glance.done():
            self._glance = asyncio.create_task(self.state())
        await asyncio.wait([self._glance], timeout=GLANCE_SECONDS)

    async def _look(self) -> dict[str, Any]:
        found = await asyncio.gather(*(_ready(upstream) for upstream in self._upstreams.values()))
        states = dict(zip(self._upstreams, found, strict=True))
        for name, state in states.items():
            self._metrics.ready(name, state["ready"])
        return {"ready": all(state["ready"] for state in states.values()), "upstreams": states}


async def _ready(upstream: Upstream) -> dict[str, Any]:
    state: dict[str, Any] = {"ready": True, "model": upstream.model, "stand_in": upstream.stand_in}
    inner = upstream.engine
    if isinstance(inner, Guard):
        state["breaker"] = inner.breaker.position.state
        inner = inner.engine
    if isinstance(inner, Pool):
        state["members"] = inner.state()
    try:
        proven = await upstream.engine.ready()
        state |= {"abilities": sorted(ability.name.lower() for ability in proven if ability.name)}
    except EngineError as error:
        state |= {"ready": False, "error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a fault of one engine must not hide the state of the others
        log.exception("an engine failed to say whether it is ready", upstream=upstream.name)
        state |= {"ready": False, "error": type(error).__name__}
    if isinstance(inner, Parent):
        state |= {"process": inner.told()}
    proof = proof_of(inner)
    if proof is not None:
        state["continues"] = proof.told()
    return state
