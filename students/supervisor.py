"""The keeper of a managed command: starts it, keeps its log, and leaves no process of it behind.

    python -I supervisor.py --grace 10 [--log FILE --log-bytes N] -- vllm serve MODEL --port 40123

Stdout gets one line of JSON, {"pid": 4711} or {"error": "..."}. The command runs in a session of its own, with the
supervisor's environment and no stdin. It is ended when stdin ends - whoever started the supervisor holds the other
end, and the kernel lets go of that even after a kill -9 - or on SIGTERM: its process group is asked first, and after
`grace` seconds everything that descends from it is killed. What a command that ended by itself leaves behind is killed
too. Then the supervisor ends as the command did: with its exit code, or by its signal.

On Linux, orphaned descendants become children of the supervisor, so that those in sessions of their own are found too,
and the command gets a SIGKILL should the supervisor itself be killed. Elsewhere the process group is all there is.

Imports nothing of this project, so that it can be run by its path, from any directory.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

STEP_SECONDS = 0.05
"""How often it is looked whether processes that were told to end are gone."""
KILL_SECONDS = 10.0
"""For processes that were killed to be gone; one may hang in the kernel, and the supervisor must not wait for it."""


def main() -> None:
    """Start the command, and return never: the process ends as the command did."""
    options = _options()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    log = Log(options.log, options.log_bytes)
    try:
        command = Command(options.command, log)
    except OSError as error:
        _say(error=f"{options.command[0]}: {error.strerror}")
        sys.exit(1)
    _say(pid=command.pid)
    while not command.reaped():
        readable, _, _ = select.select([0, wake, command.output], [], [])
        if command.output in readable:
            command.drain()
        if (0 in readable and not os.read(0, 4096)) or (wake in readable and signal.SIGTERM in os.read(wake, 4096)):
            command.stop(options.grace)
            break
    command.sweep()
    command.drain()
    log.write(f"[supervisor] the command ended: {command.status}\n".encode())
    _end_as(command.status)


def _say(**words: object) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="students.supervisor", description="Runs a command and ends all of it.")
    parser.add_argument("--grace", type=float, default=10.0, metavar="SECONDS", help="from SIGTERM to SIGKILL")
    parser.add_argument("--log", default=None, metavar="FILE", help="what the command writes; none: nowhere")
    parser.add_argument("--log-bytes", type=int, default=10_000_000, metavar="N", help="then FILE becomes FILE.1")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


class Log:
    """A file that becomes `FILE.1` when it is full, so that both together are at most twice `most` bytes.

    A disk that is full loses lines and nothing else.
    """

    def __init__(self, path: str | None, most: int) -> None:
        self._path = path
        self._most = most
        self._file = -1

    def write(self, data: bytes) -> None:
        if self._path is None:
            return
        with suppress(OSError):
            while data:
                room = self._most - (os.fstat(self._file).st_size if self._file >= 0 else self._most)
                if room > 0:
                    data = data[os.write(self._file, data[:room]) :]
                else:
                    self._turn(self._path)

    def _turn(self, path: str) -> None:
        """Open the file; put away the one that was full."""
        if self._file >= 0:
            os.replace(path, path + ".1")
            os.close(self._file)
            self._file = -1
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class Command:
    """The command and everything that descends from it. `status` is its exit code, or a signal's number below zero."""

    def __init__(self, argv: list[str], log: Log) -> None:
        """Raises OSError when it cannot be started."""
        self.output, end = os.pipe()
        os.set_blocking(self.output, False)
        self.status = 0
        self._log = log
        self._ended = False
        parent, prctl = os.getpid(), _prctl()
        if prctl is not None:
            prctl(PR_SET_CHILD_SUBREAPER, 1)

        def die_with_parent() -> None:
            if prctl is not None:
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:  # it died before it was asked for
                    os._exit(1)

        self._process = subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
        self.pid = self._process.pid
        os.close(end)

    def drain(self) -> None:
        """Move what it has written into the log."""
        with suppress(BlockingIOError):
            while data := os.read(self.output, 65_536):
                self._log.write(data)

    def reaped(self) -> bool:
        """Reap whoever has ended; true when the command itself has."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.pid:
                    self.status = self._process.returncode = os.waitstatus_to_exitcode(status)
                    self._ended = True
        return self._ended

    def stop(self, grace: float) -> None:
        """Ask its process group to end, and wait so many seconds for the command to."""
        ends = time.monotonic() + grace
        self._signal_group(signal.SIGTERM)
        while not self.reaped() and time.monotonic() < ends:
            time.sleep(STEP_SECONDS)
            self.drain()

    def sweep(self) -> None:
        """Kill all that is left. An orphan becomes a child of this process before it can be overlooked twice."""
        ends = time.monotonic() + KILL_SECONDS
        while time.monotonic() < ends:
            self._signal_group(signal.SIGKILL)
            left = _children(os.getpid())
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.reaped() and not left:
                return
            time.sleep(STEP_SECONDS / 10)

    def _signal_group(self, number: int) -> None:
        # The command leads the group; its number is not given to another while anyone in it lives.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _children(parent: int) -> list[int]:
    """The processes that have this parent, where there is a /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(entry.read_text("utf-8", "replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.parent.name))
    return found


def _prctl() -> Any:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end_as(status: int) -> None:
    if status >= 0:
        sys.exit(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its core, if it left one, tells more than ours would
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


if __name__ == "__main__":
    main()
