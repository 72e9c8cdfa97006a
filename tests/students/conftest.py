"""The strict fakes of `tests.fakes`, each in the event loop of the test that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import structlog
from aiohttp import web

from tests.fake_servers import LlamaCpp, Mistral
from tests.fakes import Answer, Answering, Fake, Json, OpenAI, Script, Vllm, served, sse

Serve = Callable[[Answer | Script | Fake], Awaitable[Fake]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a fake on a free port, and stops it after the test: one of `tests.fakes`, a function that answers, or the
    pieces of an event stream with pauses between them."""
    async with AsyncExitStack() as stack:

        async def start(what: Answer | Script | Fake) -> Fake:
            fake = what if isinstance(what, Fake) else Answering(what if callable(what) else partial(_play, what))
            return await stack.enter_async_context(served(fake))

        yield start


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[MutableMapping[str, Any]]:
    """What the HTTP engine and the guard log, however logging is set up for the rest of the suite."""
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger)
    monkeypatch.setattr("students.openai_api.log", logger)
    monkeypatch.setattr("students.guard.log", logger)
    return capture.entries


async def _play(script: Script, request: web.Request, body: Json) -> web.StreamResponse:
    return await sse(request, script)


@pytest.fixture
async def openai(serve: Serve) -> Fake:
    return await serve(OpenAI())


@pytest.fixture
async def vllm(serve: Serve) -> Fake:
    return await serve(Vllm())


@pytest.fixture
async def mistral(serve: Serve) -> Fake:
    return await serve(Mistral())


@pytest.fixture
async def llama_cpp(serve: Serve) -> Fake:
    return await serve(LlamaCpp())
