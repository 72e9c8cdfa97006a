"""A gateway whose answers a test writes, and the real application around it on a real port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, cast

import pytest
import uvicorn

from gateway.api.app import create_app
from gateway.auth import Authenticator
from gateway.chat import Caller, Chat, Exchange, Plan
from gateway.config import Config
from gateway.errors import NotFound
from gateway.ledger.entry import Query, SavingsRow
from gateway.metrics import Metrics
from gateway.pipeline import Gateway
from students.engine import Delta, Event, Finish

KEY = "sk-test"
ADMIN = "sk-admin"


class Accounts:
    """The ledger that the stub keeps."""

    def __init__(self) -> None:
        self.asked: list[Query] = []
        self.rows: list[SavingsRow] = []
        self.entries: dict[str, Mapping[str, Any]] = {}

    async def savings(self, query: Query) -> Sequence[SavingsRow]:
        self.asked.append(query)
        return self.rows

    async def entry(self, request_id: str) -> Mapping[str, Any] | None:
        return self.entries.get(request_id)


async def hello(exchange: Exchange) -> AsyncGenerator[Event, None]:
    """What the stub answers when a test says nothing else."""
    yield Delta("Hello")
    yield Delta(" there.")
    yield Finish()


@dataclass
class Stub:
    """What the pipeline promises, with the answer written by the test."""

    config: Config = field(default_factory=lambda: Config.parse({"server": {"max_body_bytes": 5000}}))
    auth: Authenticator = field(default_factory=lambda: Authenticator([KEY], ADMIN))
    ledger: Accounts = field(default_factory=Accounts)
    metrics: Metrics = field(default_factory=lambda: Metrics(Config()))
    traces: None = None
    script: Callable[[Exchange], AsyncGenerator[Event, None]] = hello
    why: str = "the route says so"
    ready: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    endings: list[tuple[str, float]] = field(default_factory=list)
    """How each answer ended (ok, abandoned, or the name of an error) and when."""

    def open(self, chat: Chat, caller: Caller) -> Exchange:
        if chat.model == "nobody":
            raise NotFound("The model `nobody` does not exist.", param="model", code="model_not_found")
        exchange = Exchange(chat, caller, Plan("gkt", "cut-off", self.why), started=time.time())
        self.exchanges.append(exchange)
        return exchange

    async def answer(self, exchange: Exchange) -> AsyncGenerator[Event, None]:
        ending = "abandoned"
        script = self.script(exchange)
        try:
            async for event in script:
                if isinstance(event, Finish):
                    ending = "ok"
                yield event
        except Exception as error:
            ending = type(error).__name__
            raise
        finally:
            await script.aclose()
            await asyncio.sleep(0)  # as the books do: a clean-up may wait
            self.endings.append((ending, time.monotonic()))

    def receipt(self, exchange: Exchange) -> dict[str, Any]:
        return {"request_id": exchange.chat.id, "strategy": exchange.plan.strategy, "saved_usd": "0.001"}

    def models(self, caller: Caller) -> list[str]:
        return ["gkt", "org/model"]

    def knows(self, model: str, caller: Caller) -> bool:
        return model in self.models(caller)

    async def glance(self) -> None:
        """The gauges of the stub are not looked at."""

    async def readiness(self) -> dict[str, Any]:
        return {"ready": self.ready, "upstreams": {"student": {"ready": self.ready}}}

    def ended(self, within: float = 5.0) -> tuple[str, float]:
        """The next ending, waited for."""
        until = time.monotonic() + within
        while not self.endings:
            assert time.monotonic() < until, "the answer was not ended"
            time.sleep(0.002)
        return self.endings.pop(0)


@dataclass
class Live:
    """The application on a port of this machine."""

    stub: Stub
    port: int
    key: str = KEY
    admin: str = ADMIN

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, request: bytes) -> socket.socket:
        """A connection on which `request` was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(request)
        return connection


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    """The application around a stub, served by uvicorn as the command line does it."""
    stub = Stub()

    @asynccontextmanager
    async def opener(config: Config) -> AsyncGenerator[Gateway, None]:
        yield cast("Gateway", stub)

    app = create_app(stub.config, opener=opener)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.005)
    yield Live(stub, listener.getsockname()[1])
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


@pytest.fixture
def live(server: Live) -> Live:
    """The served application, its stub as new."""
    fresh = Stub()
    for each in fields(Stub):
        setattr(server.stub, each.name, getattr(fresh, each.name))
    return server
