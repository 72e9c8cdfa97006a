"""Where limits and budgets are tried: what both suites need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from hypothesis import HealthCheck, settings

from gateway.shared.link import Link

PATIENT = 5.0
"""Seconds for a command: here a busy machine is not a Redis or a database that is away."""

SUBJECTS = ["key:1", "käse", "a}b{c", "", "x" * 300]

EXAMPLES = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[tuple[Link, str]]:
    """A link to the Redis at `url`, and a prefix that nobody else uses."""
    link = Link(url, seconds=PATIENT)
    try:
        yield link, f"test-{uuid4().hex}"
        assert not link.outages, "nothing here was answered without Redis"
    finally:
        await link.aclose()
