"""A model server that runs as a child process: one owner starts it, watches it, starts it again, and ends it.

    new ──first use──> starting ──it answers──> up ──the process ended──> down ──pause──> starting ...
                           └──────failed────────────────────────────────────┘
    any ──aclose──> closed

One task lives as long as the child does. It alone starts it, changes `state`, and ends it, so there is never a second
child and never one without an owner; callers only wait for it. What is started and how it is met is a `Launcher`'s.
"""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Protocol, runtime_checkable

import structlog

from students.engine import Ability, Event, Prompt
from students.errors import BadReply, Unavailable
from students.openai_api import OpenAIApi
from students.samples import samples

log = structlog.get_logger("students.child")

State = Literal["new", "starting", "up", "down", "closed"]

STEADY_SECONDS = 60.0
"""A child that lived this long did not fail at the start; the next one is started without delay."""
LONGEST_PAUSE = 30.0
REASON_SECONDS = 0.2
"""When a child dies its connections break first: how long its owner gets to find out why."""
CLOSED = "the engine is closed"


@dataclass(slots=True)
class Pace:
    """When a fallen child may be started again: at once, then after 1, 2, 4 ... 30 seconds. Pure.

    A life of `STEADY_SECONDS` makes the next fall a first one again.
    """

    falls: int = 0

    def fell(self, lived: float) -> float:
        """The seconds until the next start, after a life of so many seconds."""
        self.falls = 1 if lived > STEADY_SECONDS else self.falls + 1
        return min(2.0 ** min(self.falls - 2, 10), LONGEST_PAUSE) if self.falls > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Born:
    """A process that was started. `pid` is what people look for: the server's, where `process` is but its keeper."""

    process: Process
    pid: int


@runtime_checkable
class Parent(Protocol):
    """An engine whose model runs in a child process of its own."""

    def told(self) -> dict[str, Any]:
        """What there is to know about the process, for `/readyz`: `Child.told`, and where its log is."""
        ...


class Launcher(Protocol):
    """How one kind of child is started, met and ended. Called by the child's owner only, one at a time."""

    @property
    def what(self) -> str:
        """What it is, for messages: "the llama.cpp server"."""
        ...

    async def start(self) -> Born:
        """Start the process. Raises `Unavailable` when it cannot be."""
        ...

    async def meet(self, born: Born) -> OpenAIApi:
        """Wait until it serves, and return a client for it. Raises `Unavailable` when it does not, or not in time."""
        ...

    async def end(self, born: Born) -> None:
        """Returns when the process is gone and reaped; also when it had ended by itself."""
        ...


class Child:
    """The owner of a model server in a child process, and the way to ask it.

    The first use starts it. When it ends by itself, answers under way end in `Unavailable`; it is started again when
    `Pace` allows, by the next use or, when it `revives`, by itself. Until then every use is `Unavailable`.
    """

    def __init__(self, name: str, launcher: Launcher, *, revives: bool = False) -> None:
        self.state: State = "new"
        self.pid: int | None = None
        """The process id while it lives."""
        self.starts = 0
        self.last_exit: str | None = None
        """How its last life ended, or why it did not begin; None: it has not ended yet."""
        self._name = name
        self._launcher = launcher
        self._revives = revives
        self._pace = Pace()
        self._not_before = 0.0
        self._life: asyncio.Task[None] | None = None
        self._birth: asyncio.Future[OpenAIApi | str] | None = None
        self._born: Born | None = None
        self._fallen = asyncio.Event()

    def told(self) -> dict[str, Any]:
        """Its state, process id, restarts and last ending, for `/readyz`."""
        restarts = max(0, self.starts - 1)
        return {"state": self.state, "pid": self.pid, "restarts": restarts, "last_exit": self.last_exit}

    async def api(self, patience: float | None = None) -> OpenAIApi:
        """The client of the running child; starts one when there is none.

        Raises `Unavailable` when it is down, could not be started, or is not up within `patience` seconds; None: wait
        for the whole start, which the launcher bounds. A caller that leaves does not end a start for the others.
        """
        if self._life is not None and self.state == "down" and not self._revives:
            await asyncio.wait([self._life])  # one child at a time
        if self.state == "closed":
            raise self._unavailable(CLOSED)
        if self.state == "down" and (pause := self._not_before - monotonic()) > 0:
            raise self._unavailable(f"{self.last_exit}; it is started again in {pause:.0f} s")
        if self._birth is None or self._life is None or self._life.done():
            self._birth = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._own(), name=f"child {self._name}")
        try:
            async with asyncio.timeout(patience):
                born = await asyncio.shield(self._birth)
        except TimeoutError:
            raise self._unavailable(f"{self._launcher.what} is still starting") from None
        if isinstance(born, str):
            raise self._unavailable(born)
        return born

    async def stream(self, prompt: Prompt, patience: float | None = None) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`, and `api` for `patience`. `n` samples are `n` calls where the server answers but one."""
        api = await self.api(patience)
        several = prompt.n > 1 and Ability.SAMPLES not in api.abilities
        events = samples(api.stream, prompt) if several else api.stream(prompt)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except (Unavailable, BadReply) as error:
            if error.status is None and self.state == "up":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._fallen.wait(), REASON_SECONDS)
            if self.state != "up":
                raise self._unavailable(CLOSED if self.state == "closed" else self.last_exit or str(error)) from None
            raise

    async def aclose(self) -> None:
        """End the child. Idempotent; running streams end in `Unavailable`."""
        self.state = "closed"
        self._fallen.set()
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._born is not None:
            await self._end(self._born)

    async def _own(self) -> None:
        """All lives of a child that revives, else one. Cancelled by `aclose`, which ends what is left."""
        try:
            while True:
                began = monotonic()
                try:
                    self.last_exit = await self._live()
                except Unavailable as error:
                    self.last_exit = str(error)
                log.warning("a child is down", engine=self._name, reason=self.last_exit)
                self._fall(self._pace.fell(monotonic() - began), self.last_exit)
                if self._born is not None:
                    await self._end(self._born)
                if not self._revives:
                    return
                await asyncio.sleep(self._not_before - monotonic())
        finally:
            self._answer(CLOSED)

    async def _live(self) -> str:
        """One life, from before its start until its end, and how that was. The process is left to `_own`."""
        self.state = "starting"
        self.starts += 1
        began = monotonic()
        self._born = born = await self._launcher.start()
        self.pid = born.pid
        api = await self._launcher.meet(born)
        try:
            self.state = "up"
            self._fallen.clear()
            log.info("a child is up", engine=self._name, pid=born.pid, seconds=round(monotonic() - began, 3))
            self._answer(api)
            return f"{self._launcher.what} ended ({how(await born.process.wait())})"
        finally:
            await api.aclose()

    def _fall(self, pause: float, why: str) -> None:
        self.state = "down"
        self._not_before = monotonic() + pause
        self._answer(why)
        if self._revives:
            self._birth = asyncio.get_running_loop().create_future()  # who asks from now on waits for the next life
        self._fallen.set()

    def _answer(self, born: OpenAIApi | str) -> None:
        """Tell those who wait for the start how it went."""
        if self._birth is not None and not self._birth.done():
            self._birth.set_result(born)

    async def _end(self, born: Born) -> None:
        await self._launcher.end(born)
        self._born = self.pid = None

    def _unavailable(self, message: str) -> Unavailable:
        return Unavailable(message, engine=self._name)


def how(code: int) -> str:
    """An exit code in words: `code 1`, `SIGKILL`."""
    if code >= 0:
        return f"code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


async def end(process: Process, seconds: float) -> None:
    """Ask a process to end, and kill it after so many seconds. Returns when it is gone and reaped."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
