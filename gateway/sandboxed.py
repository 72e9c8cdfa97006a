"""Sandboxed: the process in which `gateway.sandbox` runs a program and its tests; nobody imports it.

Reads one JSON object from its input, takes away from itself what it does not need, and says two lines: that it begins,
and then the token, or the error, or what it cannot do. What the program prints goes nowhere.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

CREATE, ADD, RESTRICT = 444, 445, 446
"""Landlock's system calls, by the same numbers on every machine."""

NO_NEW_PRIVILEGES = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""All rights to files that a version of Landlock knows."""

TCP = 3
STARTS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen", "os.kill"})
"""Events of an interpreter that starts, replaces or signals a process."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def limit(limits: Mapping[str, Any]) -> None:
    """Take limits on. OSError, ValueError: one cannot be had; ImportError: there are none on this system."""
    import resource

    for kind, most in (
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file_size"]),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def confine(folder: str) -> bool:
    """Write nothing outside of `folder`, execute nothing, connect to nobody; False: the kernel has no Landlock."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    write = RIGHTS[min(version, max(RIGHTS))] & ~(READ_FILE | READ_DIR)
    rules = _Ruleset(write, TCP)
    size = ctypes.sizeof(rules) if version >= 4 else 8
    ruleset = libc.syscall(CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    beneath = _Beneath(write & ~EXECUTE, place)
    added = libc.syscall(ADD, ruleset, ctypes.c_int(1), ctypes.byref(beneath), ctypes.c_uint32(0))
    kept = added == 0 and libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    kept = kept and libc.syscall(RESTRICT, ruleset, ctypes.c_uint32(0)) == 0
    os.close(place)
    os.close(ruleset)
    return bool(kept)


def alone(event: str, _: Sequence[object]) -> None:
    """The hook by which a program starts no process, also where the kernel would let it."""
    if event in STARTS:
        raise PermissionError(f"{event} is not allowed here")


def main() -> None:
    """Run what was read, and say what came of it."""
    told = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1, 2):
        os.dup2(nowhere, each)
    try:
        limit(told["limits"])
        confine(os.getcwd())
    except (ImportError, OSError, ValueError) as error:
        os.write(out, b"{}\n")
        say(out, {"cannot": f"no limits could be set: {type(error).__name__}"})
    sys.addaudithook(alone)
    os.write(out, b"{}\n")
    token, names = told.pop("token"), {"__name__": "program", "__builtins__": __builtins__}
    try:
        exec(compile(told["program"], "program", "exec"), names)  # noqa: S102 - it is what this process is for
        exec(compile(told["tests"], "tests", "exec"), names)  # noqa: S102 - the same
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a program that ends has not passed
        say(out, {"error": f"{type(error).__name__}: {error}"[:400]})
    else:
        say(out, {"token": token})


def say(out: int, what: Mapping[str, str]) -> NoReturn:
    """Write the one line, and end at once: no thread or exit handler of the program has a say after it."""
    os.write(out, json.dumps(what).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
