"""Calls and entries to put on record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.chat import Call
from gateway.ledger.entry import Entry
from pricing.bill import Line
from pricing.money import Money
from pricing.usage import Usage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def call() -> Callable[..., Call]:
    """`call(request_id, number=1, bound=900)`: a teacher's call that has not been made."""

    def made(request_id: str, number: int = 1, bound: int | None = 900) -> Call:
        money = None if bound is None else Money(bound)
        return Call(f"call-{number}", request_id, "guidance", "teacher", "openai", "gpt-6-sol", None, 1.8e9, money)

    return made


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """`entry(request_id, *calls)`: they cost 10 nano-dollars each."""

    def made(request_id: str, *calls: Call) -> Entry:
        for call in calls:
            call.line = Line(call.stage, call.model, Usage(), None, Money(10))
        return Entry(request_id, 1.8e9, "gpt-6-sol", "*", "cut-off", "route *", "alice", "ok", True, calls, None)

    return made


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """`await until(condition)`: come back when it holds; the test fails when it does not hold within ten seconds."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(500):
            if await condition():
                return
            await asyncio.sleep(0.02)
        pytest.fail("waited for ten seconds in vain")

    return wait
