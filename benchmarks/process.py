"""A server in a process of its own: started on one core, waited for, its CPU time read, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; whoever entered `serving` owns it."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"http://{HOST}:{self.port}"


class NotServing(RuntimeError):
    """A server ended, or was not ready in time; the message carries the end of its log."""


def cores() -> tuple[int | None, int | None]:
    """Two cores: one for what is measured, one for all that stands around it. (None, None): there is one core only."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[-1], allowed[0]) if len(allowed) > 1 else (None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started inside run on this core, with all their threads. None, or no permission: on any core."""
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    name: str,
    arguments: Sequence[str],
    port: int,
    *,
    core: int | None,
    log: Path,
    ready: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    seconds: float = 60.0,
) -> Iterator[Server]:
    """Run `python ARGUMENTS` from the repository's root until the block ends.

    Yields when the port accepts connections and, if `ready` names a path, when that path answers 200. Raises
    `NotServing` when this does not happen within `seconds`. Standard output and error go to `log`.
    """
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + seconds
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                what = f"ended with {process.returncode}" if process.poll() is not None else f"not ready in {seconds} s"
                raise NotServing(f"{name}: {what}\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield Server(name, process.pid, port)
    finally:
        process.send_signal(stop)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int, path: str | None) -> bool:
    try:
        if path is None:
            socket.create_connection((HOST, port), timeout=1).close()
            return True
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of a process and its children, user and system, all threads, ended ones included.

    Read from the kernel's process clock: /proc/PID/stat counts the same in steps of 10 ms. Children count, so that
    a server cannot look cheap by handing its work to another process; one that has ended is lost.
    """
    return sum(time.clock_gettime_ns(_cpu_clock(member)) for member in _family(pid))


def _cpu_clock(pid: int) -> int:
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error), str(pid))
    return clock.value


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended, or the kernel does not list children
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
