"""An engine behind `students.serving` on a real port, in the event loop of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from students.engine import Engine
from students.serving import app


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[str]:
    """The URL of the engine, served by uvicorn; the engine is left open."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app(engine), log_level="critical", lifespan="off", ws="none"))
        task = asyncio.create_task(server.serve([sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
        finally:
            server.should_exit = server.force_exit = True
            await task
