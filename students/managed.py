"""Any server that speaks OpenAI's API, started and kept by the gateway: vLLM, SGLang, llama-server.

The command runs under `students.supervisor`, which ends all of it however the gateway ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import aiohttp

from students.child import Born, Child, end, how
from students.engine import Ability, Event, Prompt
from students.errors import Unavailable
from students.openai_api import OpenAIApi
from students.prefill import Proof
from students.spec import ManagedSpec

SUPERVISOR = Path(__file__).with_name("supervisor.py")

PASSED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""Variables that every command gets: none of them holds a secret, and little runs without them."""

SUPERVISOR_SECONDS = 20.0
"""For the supervisor to start, and to kill what did not end: longer than it takes itself."""
LOOK_SECONDS = 0.1
"""Between two looks at the command's health while it starts."""
READY_SECONDS = 5.0
"""How long `ready` waits for a start that somebody else began; `/readyz` must not hang while a large model loads."""


class Managed:
    """An `Engine` that owns the server of a `ManagedSpec`, which `ready` or the first `stream` starts.

    The command gets the variables that `env` names, `PASSED`, and a key made up for each start; nothing else of the
    environment. When it ends by itself it is started again, with pauses (`students.child.Pace`), on another port.
    """

    def __init__(self, name: str, spec: ManagedSpec, *, environ: Mapping[str, str] = os.environ) -> None:
        self.name = name
        self.model = spec.model
        self.abilities = OpenAIApi(name, spec.api).abilities | Ability.SAMPLES
        self._spec = spec
        self._child = Child(name, Launch(name, spec, environ), revives=True)
        self.proof: Proof | None = None
        """What the probe found; None: it has not been made."""
        self._proven = False

    def __repr__(self) -> str:
        return f"Managed({self.name!r}, {self._child.state})"

    def told(self) -> dict[str, Any]:
        """`Child.told`, and where the log is."""
        return self._child.told() | {"log": None if self._spec.log is None else str(self._spec.log)}

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. Waits for a start as long as for a first token."""
        if prompt.prefix and Ability.CONTINUE not in self.abilities:
            raise ValueError(f"{self.name} cannot continue a given text")
        async with aclosing(self._child.stream(prompt, self._spec.deadlines.first_token)) as events:
            async for event in events:
                yield event

    async def ready(self) -> Ability:
        """Start the command and prove that it continues a text. Who starts it waits for it, others a few seconds.

        Raises `Unavailable` when it cannot be started, is not up in time, or is down.
        """
        api = await self._child.api(None if self._child.state == "new" else READY_SECONDS)
        if not self._proven:
            self.abilities = await api.ready() | Ability.SAMPLES
            self.proof, self._proven = api.proof, True
        return self.abilities

    async def aclose(self) -> None:
        """End the command and all that it started. Idempotent; running streams end in `Unavailable`."""
        await self._child.aclose()


class Launch:
    """The `Launcher` of a command under its supervisor, which is met by asking for its health until it answers 200."""

    def __init__(self, name: str, spec: ManagedSpec, environ: Mapping[str, str]) -> None:
        self.what = Path(spec.command[0]).name
        self._name = name
        self._spec = spec
        self._environ = {variable: environ[variable] for variable in (*PASSED, *spec.env) if variable in environ}
        self._key: str | None = None
        self._port = 0

    async def start(self) -> Born:
        spec = self._spec
        environ = dict(self._environ)
        if spec.key_variable is not None:
            self._key = environ[spec.key_variable] = secrets.token_urlsafe(24)
        self._port = _free_port()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(SUPERVISOR),
            f"--grace={spec.stop_seconds}",
            f"--log-bytes={spec.log_bytes}",
            *(() if spec.log is None else (f"--log={spec.log.absolute()}",)),
            "--",
            *(part.replace("{port}", str(self._port)) for part in spec.command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environ,
            start_new_session=True,  # Ctrl-C in a terminal is for the gateway, which lets answers end
        )
        try:
            async with asyncio.timeout(SUPERVISOR_SECONDS):
                line = await process.stdout.readline() if process.stdout is not None else b""
            said: dict[str, Any] = json.loads(line or '{"error": "the supervisor ended"}')
        except BaseException as error:
            await end(process, SUPERVISOR_SECONDS)
            if isinstance(error, TimeoutError):
                raise Unavailable("the supervisor did not start in time") from None
            raise
        if "error" in said:
            await process.wait()
            raise Unavailable(f"the command cannot be started: {said['error']}")
        return Born(process, said["pid"])

    async def meet(self, born: Born) -> OpenAIApi:
        spec = self._spec
        root = f"http://127.0.0.1:{self._port}"
        ended = asyncio.create_task(born.process.wait())
        try:
            async with asyncio.timeout(spec.start_seconds), aiohttp.ClientSession() as http:
                while not await self._healthy(http, root + spec.health):
                    await asyncio.wait([ended], timeout=LOOK_SECONDS)
                    if ended.done():
                        raise Unavailable(f"{self.what} ended at its start ({how(ended.result())}){self._see()}")
        except TimeoutError:
            raise Unavailable(f"{self.what} was not up in {spec.start_seconds:g} s{self._see()}") from None
        finally:
            ended.cancel()
        return OpenAIApi(self._name, spec.upstream(f"{root}/v1"), key=self._key)

    async def end(self, born: Born) -> None:
        await end(born.process, self._spec.stop_seconds + SUPERVISOR_SECONDS)
        if born.process.returncode == -signal.SIGKILL:
            # It may have been the supervisor that was killed, and not the command.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(born.pid, signal.SIGKILL)

    async def _healthy(self, http: aiohttp.ClientSession, url: str) -> bool:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            seconds = aiohttp.ClientTimeout(total=5)
            async with http.get(url, headers=headers, timeout=seconds, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _see(self) -> str:
        return "; the option `log` names a file for why" if self._spec.log is None else f"; see {self._spec.log}"


def _free_port() -> int:
    """A port that was free a moment ago; a command that finds it taken ends, and is started again on another one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
