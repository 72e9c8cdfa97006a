"""A gateway over scripted models, in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.bootstrap import open_gateway
from gateway.chat import Caller, Chat, Exchange, Need, Overrides
from gateway.config import Config
from gateway.pipeline import Gateway
from gateway.planner import CHANCE
from students.engine import Delta, Engine, Finish, Sampling

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@dataclass
class Answer:
    """What a client would have seen."""

    exchange: Exchange
    deltas: list[Delta]
    finish: Finish

    @property
    def text(self) -> str:
        """The first choice."""
        return self.choice(0)

    def choice(self, index: int) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    @property
    def receipt(self) -> Mapping[str, Any]:
        assert self.exchange.receipt is not None
        return self.exchange.receipt


@dataclass
class House:
    """A gateway, and how to ask it."""

    gateway: Gateway

    def open(self, model: str = "gkt", **chat: Any) -> Exchange:
        """A chat that is planned and not yet answered."""
        return self.gateway.open(make_chat(model, **chat), Caller())

    async def ask(self, model: str = "gkt", **chat: Any) -> Answer:
        """One chat to its end; errors are raised."""
        exchange = self.open(model, **chat)
        deltas: list[Delta] = []
        async with aclosing(self.gateway.answer(exchange)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    return Answer(exchange, deltas, event)
                deltas.append(event)
        raise AssertionError("no finish")

    async def entry(self, request_id: str = "chatcmpl-1") -> Mapping[str, Any]:
        """What the ledger holds of a request."""
        found = await self.gateway.ledger.entry(request_id)
        assert found is not None
        return found


def make_chat(model: str, **fields: Any) -> Chat:
    """A parsed chat; `sampling` and `overrides` fields may be given flat."""
    needs: set[Need] = set(fields.pop("needs", ()))
    sampling = Sampling(**{name: fields.pop(name) for name in Sampling.__slots__ if name in fields})
    overrides = Overrides(**{name: fields.pop(name) for name in Overrides.__slots__ if name in fields})
    messages = fields.pop("messages", QUESTION)
    if messages[-1]["role"] == "assistant":
        needs.add("prefix")
    request_id = fields.pop("request_id", "chatcmpl-1")
    return Chat(request_id, model, messages, sampling, needs=frozenset(needs), overrides=overrides, size=400, **fields)


Opened = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture(scope="session")
def house() -> Opened:
    """`async with house(teacher=..., student=..., **config)`: a gateway whose upstreams are these engines."""

    @asynccontextmanager
    async def opened(
        *,
        teacher: Engine | None = None,
        student: Engine | None = None,
        route: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        draw: Callable[[], float] = CHANCE,
        **config: Any,
    ) -> AsyncGenerator[House, None]:
        engines = {name: engine for name, engine in (("teacher", teacher), ("student", student)) if engine is not None}
        if route is not None:
            config["routes"] = {"gkt": {"teacher": "teacher", "student": "student", **route}}
        made = Config.parse({"ledger": {"url": "sqlite://"}, **config})
        async with open_gateway(made, engines=engines, environ=environ or {}, draw=draw) as gateway:
            yield House(gateway)

    return opened
