"""Acceptance: what the rungs of guidance kept from the teacher lately, as all processes on the ledger have seen it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from gateway.cascade import gate
from gateway.cascade.gate import Seen
from gateway.cascade.policy import Policy
from gateway.ledger.entry import Ledger

WINDOW_SECONDS = 30 * 86_400.0
"""How far back requests count: models and their use change."""

NEWEST = 2_000
"""Requests of a route that are looked at."""

log = structlog.get_logger("gateway.acceptance")


class Acceptance:
    """What was seen of the rungs of the policies that hold; nothing until `refresh`."""

    def __init__(self) -> None:
        self._seen: Mapping[str, tuple[Policy, Mapping[int, Seen]]] = {}

    def seen(self, route: str, policy: Policy) -> Mapping[int, Seen]:
        """What was seen of a route's policy, by the rungs' places; of another policy than was looked for, nothing."""
        looked, found = self._seen.get(route, (None, {}))
        return found if looked is policy else {}

    async def refresh(self, ledger: Ledger, policies: Mapping[str, Policy]) -> None:
        """Look at the ledger for what these policies would do; when it does not answer, what was known stays."""
        guided = {route: policy for route, policy in policies.items() if any(r.guidance_tokens for r in policy.rungs)}
        found = {route: known for route, known in self._seen.items() if guided.get(route) is known[0]}
        for route, policy in guided.items():
            try:
                requests = await ledger.climbed(route, time.time() - WINDOW_SECONDS, NEWEST)
            except Exception as error:  # noqa: BLE001 - the database is away: answers go on by what was known
                log.warning("what guidance kept from the teacher could not be read", route=route, error=str(error))
                continue
            # On a thread: the loop has chats to answer.
            found[route] = (policy, await asyncio.to_thread(gate.seen, policy, requests))
        self._seen = found
