"""A GGUF model on the real llama.cpp server, which runs as a child process: the embedded default student."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from students import exemplars
from students.bodies import TEMPLATE_OPTIONS
from students.child import Born, Child, State, end, how
from students.engine import Ability, Event, Prompt
from students.errors import Unavailable
from students.openai_api import OpenAIApi
from students.prefill import Proof
from students.spec import LlamaCppSpec, OpenAISpec
from students.wheels import smollm2

XLLAMACPP = "pip install xllamacpp==2026.10.11549"

BATCH = 32
"""Prompt tokens that are read in one step. The server notices that a reader has left only when it writes to it, and
while it reads a prompt it writes once a step. A third of a second on one core; larger steps are 10 % faster there."""

TERMINATE_SECONDS = 2.0


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
        if spec.gguf is not None and not spec.base:
            self.abilities |= Ability.TOOLS  # `ready` looks into its chat template; the default model knows none
        self._spec = spec
        self._child = Child(name, _LlamaServer(name, spec))
        self.proof: Proof | None = None
        """What the probe found; None: it has not been made."""

    def __repr__(self) -> str:
        return f"LlamaCpp({self.name!r}, {self.state})"

    @property
    def state(self) -> State:
        """Where the child is in its life; see `students.child`."""
        return self._child.state

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._child.pid

    def told(self) -> dict[str, Any]:
        """`Child.told`, and where the log is."""
        return self._child.told() | {"log": None if self._spec.log is None else str(self._spec.log)}

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. Starts the child when it is not up."""
        if self._spec.base:
            stop = (*prompt.sampling.stop, *exemplars.STOP)
            prompt = replace(prompt, sampling=replace(prompt.sampling, stop=stop))
        async with aclosing(self._child.stream(prompt)) as events:
            async for event in events:
                yield event

    async def ready(self) -> Ability:
        """Start the child, prove that it continues a text, and see whether its chat template knows tools.

        Raises `Unavailable` when a package, the model file or the memory is missing, or it does not start in time.
        """
        api = await self._child.api()
        if self.proof is None:
            self.abilities = await api.ready() | Ability.SAMPLES
            self.proof = api.proof
        return self.abilities

    async def aclose(self) -> None:
        """End the child: asked first, killed after two seconds. Idempotent; running streams end in `Unavailable`."""
        await self._child.aclose()


class _LlamaServer:
    """The `Launcher` of `students.llama_server`, which says itself when it is ready."""

    what = "the llama.cpp server"

    def __init__(self, name: str, spec: LlamaCppSpec) -> None:
        self._name = name
        self._spec = spec
        self._key = ""
        self._exemplars: Sequence[Mapping[str, str]] = ()

    async def start(self) -> Born:
        if importlib.util.find_spec("xllamacpp") is None:
            raise Unavailable(f"the llama.cpp server is not installed: {XLLAMACPP}")
        spec = self._spec
        try:
            self._exemplars = exemplars.read(spec.exemplars)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"exemplars cannot be read: {error}") from None
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # run by its path, so that neither directory nor PYTHONPATH matters, and its folder is not searched
            str(Path(__file__).with_name("llama_server.py")),
            f"--model={spec.gguf or smollm2()}",
            f"--alias={spec.model}",
            f"--context={spec.context}",
            f"--slots={spec.slots}",
            f"--threads={spec.threads or max(1, _cores() - 1)}",
            f"--batch={max(BATCH, 2 * spec.slots)}",
            f"--template={exemplars.TEMPLATE if spec.base else ''}",
            f"--log={spec.log or os.devnull}",
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the gateway, which lets answers end
        )
        self._key = secrets.token_urlsafe(24)
        if child.stdin is not None:
            child.stdin.write(f"{self._key}\n".encode())
        return Born(child, child.pid)

    async def meet(self, born: Born) -> OpenAIApi:
        child = born.process
        try:
            async with asyncio.timeout(self._spec.start_seconds):
                line = await child.stdout.readline() if child.stdout is not None else b""
        except TimeoutError:
            raise Unavailable(f"the llama.cpp server was not up in {self._spec.start_seconds:g} s") from None
        if not line:
            ended = how(await child.wait())
            raise Unavailable(
                f"the llama.cpp server ended at its start ({ended}); the option `log` says where to see why"
            )
        said: dict[str, Any] = json.loads(line)
        if not said["ready"]:
            raise Unavailable(f"the llama.cpp server did not start: {said['error']}")
        return OpenAIApi(self._name, self._inner(said), key=self._key)

    async def end(self, born: Born) -> None:
        await end(born.process, TERMINATE_SECONDS)

    def _inner(self, said: dict[str, Any]) -> OpenAISpec:
        """The child as one more OpenAI-compatible server."""
        # What makes the server write during the prompt as well: see BATCH.
        body: dict[str, Any] = {"return_progress": True}
        if self._exemplars:
            body[TEMPLATE_OPTIONS] = {exemplars.VARIABLE: self._exemplars}
        return OpenAISpec(
            model=self._spec.model,
            base_url=f"{said['url']}/v1",
            prefill="continue_flag",
            samples=False,  # its own n is limited to the slots, and it reports the usage of one sample
            tools=said["tools"],
            extra_body=body,
            # It promises to keep the connection and closes it after each stream: a second use would meet a closed door.
            extra_headers={"Connection": "close"},
            deadlines=self._spec.deadlines,
            max_concurrent=self._spec.max_concurrent,
            max_output=self._spec.max_output,
        )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
