"""Sandbox: whether a program that a model wrote passes tests, found out in a process of its own.

The process (`gateway.sandboxed`) has an isolated interpreter, an empty directory, an empty environment, limits, and no
input. Where Linux lets it, it has no network, no other processes, runs no other program and writes nothing outside of
its directory (`isolated`). That keeps mistakes in; whoever expects malice puts a container around the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

CHILD = Path(__file__).with_name("sandboxed.py")

UNSHARE = ("--user", "--map-root-user", "--net", "--pid", "--ipc", "--fork", "--kill-child")

LONGEST = 100_000
"""Characters of a program, or of its tests, that are run."""

ANSWER = 16_384
"""Bytes of what the process says that are read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use: `seconds` of the clock and `cpu` of the processor, `memory` and `file_size` in bytes.

    `files` may be open at once; of `processes` the user may have so many (root is not held to it, but what is forked
    is ended with the rest).
    """

    seconds: float = 20.0
    cpu: int = 8
    memory: int = 1 << 30
    file_size: int = 1 << 20
    files: int = 64
    processes: int = 16


class Ran(NamedTuple):
    """Whether the tests passed; None: they could not be run. `why` says what kept them from it, else is empty."""

    passed: bool | None
    why: str


class Sandbox:
    """Runs programs, `at_once` of them (None: as many as there are cores), each within `limits`."""

    def __init__(self, limits: Limits | None = None, at_once: int | None = None) -> None:
        self._limits = limits or Limits()
        self._room = asyncio.Semaphore(at_once or os.cpu_count() or 1)

    async def passes(self, program: str, tests: str) -> Ran:
        """Run `tests` after `program`, in its names. A program that ends early, or late, does not pass.

        Closing: when the caller is cancelled, the process is ended first.
        """
        if max(len(program), len(tests)) > LONGEST:
            return Ran(None if len(tests) > LONGEST else False, f"longer than {LONGEST:,} characters")
        async with self._room:
            # Whether it may be isolated is tried out once, by a process that takes no time to speak of.
            command = [*isolated(), sys.executable, "-I", "-B", str(CHILD)]
            with tempfile.TemporaryDirectory(prefix="gkt-", ignore_cleanup_errors=True) as folder:
                return await self._run(command, folder, program, tests)

    async def _run(self, command: list[str], folder: str, program: str, tests: str) -> Ran:
        # Only who passed every test can say this word: a program that ends itself does not know it.
        token = secrets.token_hex(16)
        told = {"program": program, "tests": tests, "token": token, "limits": asdict(self._limits)}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
                start_new_session=True,
                limit=ANSWER,
            )
        except OSError as error:
            return Ran(None, f"no process could be started: {error.strerror}")
        ready = False
        try:
            async with asyncio.timeout(self._limits.seconds):
                ready = bool(await _said(process, json.dumps(told).encode()))
                return _read(await _line(process), token) if ready else Ran(None, "the process ended at its start")
        except TimeoutError:
            late = f"not done after {self._limits.seconds:g} seconds"
            return Ran(False, late) if ready else Ran(None, "the process did not start in time")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _said(process: asyncio.subprocess.Process, told: bytes) -> bytes:
    """Tell the process what to run; its first line, which it says before it runs it, empty when it ended."""
    if process.stdin is not None:
        with suppress(ConnectionError):
            process.stdin.write(told)
            await process.stdin.drain()
            process.stdin.close()
    return await _line(process)


async def _line(process: asyncio.subprocess.Process) -> bytes:
    with suppress(ValueError):  # longer than anything that the child says
        return b"" if process.stdout is None else await process.stdout.readline()
    return b""


def _read(line: bytes, token: str) -> Ran:
    try:
        told = json.loads(line)
        if told.get("token") == token:
            return Ran(True, "")
        return Ran(None if told.get("cannot") else False, str(told.get("cannot") or told.get("error"))[:500])
    except (ValueError, AttributeError):
        return Ran(False, "it ended before its tests did")


@cache
def isolated() -> tuple[str, ...]:
    """What is put before a command so that it has no network and takes its children with it; empty: not here."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(  # noqa: S603 - a constant command, whose program was looked up
            [unshare, *UNSHARE, "true"], check=True, capture_output=True, timeout=10
        )
        return (unshare, *UNSHARE)
    return ()
