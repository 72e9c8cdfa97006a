"""Acceptance: what guidance kept from the teacher lately.

Of the rungs of cascades, as all processes on the ledger have seen it; of fixed guidance, as this process has.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

import structlog

from gateway.cascade import gate
from gateway.cascade.gate import Seen
from gateway.cascade.policy import Policy
from gateway.chat import Plan
from gateway.ledger.entry import Ledger

WINDOW_SECONDS = 30 * 86_400.0
"""How far back requests count: models and their use change."""

NEWEST = 2_000
"""Requests of a route that are looked at, or remembered."""

log = structlog.get_logger("gateway.acceptance")


class Acceptance:
    """What was seen of the rungs of the policies that hold, nothing until `refresh`; and of guidance for all."""

    def __init__(self) -> None:
        self._seen: Mapping[str, tuple[Policy, Mapping[int, Seen]]] = {}
        self._fixed: dict[tuple[str, str], _Newest] = {}

    def saw(self, route: str, strategy: str, *, kept: bool) -> None:
        """A request with fixed guidance is over; `kept`: the teacher was asked for no more than that."""
        self._fixed.setdefault((route, strategy), _Newest()).add(kept=kept)

    def finished(self, route: str, strategy: str) -> Seen:
        """What became of the newest requests with fixed guidance."""
        newest = self._fixed.get((route, strategy))
        return Seen(0, 0) if newest is None else newest.seen

    def of(self, plan: Plan) -> Mapping[int, Seen]:
        """What was seen of a plan's guidance, by the places of its rungs; of fixed guidance at 0."""
        if plan.policy is not None:
            return self.seen(plan.route, plan.policy)
        return {0: self.finished(plan.route, plan.strategy)} if plan.guidance_tokens else {}

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


class _Newest:
    """The newest requests, counted as they come and go: every receipt asks for the sum."""

    def __init__(self) -> None:
        self._each: deque[bool] = deque()
        self.seen = Seen(0, 0)

    def add(self, *, kept: bool) -> None:
        gone = len(self._each) == NEWEST and self._each.popleft()
        self._each.append(kept)
        self.seen = Seen(len(self._each), self.seen.kept + kept - gone)
