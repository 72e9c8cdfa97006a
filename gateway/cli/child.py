"""Child: `gkt serve` as a child process, the way another program would run it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.group import Trouble
from gateway.cli.serve import READY

START_SECONDS = 120.0
LAST_LINES = 12


@dataclass(slots=True)
class Child:
    """A running gateway. `said` is what it printed before the line with its address `url`.

    `status`: its exit status once the block is over; None before.
    """

    url: str
    said: Sequence[str]
    status: int | None = None


@asynccontextmanager
async def serving(options: Sequence[str], log: Path) -> AsyncGenerator[Child, None]:
    """Run `gkt serve` on a free port of 127.0.0.1 until the end of the block; its log lines go to the file `log`.

    Raises `Trouble`, with the last lines of the log, when it does not become ready.
    """
    command = (sys.executable, "-m", "gateway.cli", "serve", "--host", "127.0.0.1", "--port", "0", *options)
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=errors)
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                child = await _ready(process)
        except TimeoutError:
            child = None
        if child is None:
            raise Trouble("\n".join(["the gateway did not start; the end of its log:", *_tail(log)]))
        yield child
        _end(process)
        child.status = await process.wait()
    finally:
        if process.returncode is None:
            _end(process)
            await process.wait()


def _end(process: Process) -> None:
    with suppress(ProcessLookupError):  # Ctrl-C reached it too, and it has stopped already
        process.terminate()


def _tail(log: Path) -> Sequence[str]:
    return log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]


async def _ready(process: Process) -> Child | None:
    said: list[str] = []
    if process.stdout is None:
        return None  # it is a pipe
    async for line in process.stdout:
        text = line.decode().rstrip("\n")
        if text.startswith(READY):
            return Child(text.removeprefix(READY), said)
        said.append(text)
    return None
