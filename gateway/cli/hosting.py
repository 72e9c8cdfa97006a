"""Hosting: a gateway behind a real HTTP server in this event loop; `serve` leaves it running, `ask` uses it once."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import structlog
import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from gateway.api.app import create_app
from gateway.api.door import is_loopback
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import Dashboard
from gateway.errors import ConfigError
from gateway.keys.store import usable_at
from gateway.pipeline import Gateway

SETTLING = 5.0
"""Seconds that answers get to be booked after they were cut off at the end of the drain."""

log = structlog.get_logger(__name__)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the event loop that the gateway runs on: uvloop, where there is one."""
    return auto_loop_factory()


def check_exposure(config: Config) -> None:
    """Raises `ConfigError` when everybody who can reach the machine could spend the operator's money.

    A key of the environment or one that can be used in the ledger's database will do.
    """
    server = config.server
    if is_loopback(server.host) or server.keys_env is not None or usable_at(config.ledger.url, time.time()):
        return
    raise ConfigError(
        f"the gateway asks for no key, so it listens on loopback only, not on {server.host}; make a key with "
        "`gkt keys create NAME`, or name the environment variable that holds your callers' keys: "
        "`server: {keys_env: GKT_KEYS}` in the configuration, and `export GKT_KEYS=key1,key2`"
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address that does not listen yet; port 0: any free one. Raises `ConfigError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}; try another --port") from error
    return sock


class Host:
    """A gateway that is being served, until somebody says `stop`."""

    def __init__(self, url: str, gateway: Gateway, server: uvicorn.Server, task: asyncio.Task[None]) -> None:
        self.url = url
        self.gateway = gateway
        self._server = server
        self._task = task

    def stop(self) -> None:
        """Take no more requests and let answers under way finish within the drain; the second time, cut them off."""
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True

    async def ended(self) -> None:
        """Returns when it was stopped and every answer is finished, or cut off and booked."""
        await asyncio.shield(self._task)
        left = self._server.server_state.tasks
        for task in left:
            if not task.cancelling():
                task.cancel()
        if left:
            await asyncio.wait(left, timeout=SETTLING)


@asynccontextmanager
async def hosted(config: Config, sock: socket.socket) -> AsyncGenerator[Host, None]:
    """Open the gateway of `config` and serve it on `sock`; at the end stop it, then close what it opened.

    Raises `ConfigError` as `open_gateway` does. Closes the socket.
    """
    with sock:
        async with open_gateway(config) as gateway:
            address = sock.getsockname()[0]
            if gateway.auth.open:
                if not is_loopback(address):  # the keys that `check_exposure` has seen are gone
                    raise ConfigError(f"the gateway asks for no key any more, and does not listen on {address}")
                log.info("no key is asked for; listening on loopback only", host=address)
            # The gateway is opened here and not by the application, whose server would swallow a ConfigError.
            app = create_app(config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
            server = _Server(
                uvicorn.Config(
                    app,
                    http="httptools",
                    ws="none",
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    log_config=None,
                    log_level="warning",
                    # uvicorn declares whole seconds, and hands the number to asyncio, which takes any.
                    timeout_graceful_shutdown=config.server.drain_seconds,  # type: ignore[arg-type]
                )
            )
            name, port = sock.getsockname()[:2]
            task = asyncio.create_task(server.serve(sockets=[sock]))
            while not server.started:
                if task.done():
                    await task
                    raise RuntimeError("the HTTP server ended before it began")
                await asyncio.sleep(0.005)
            rest()
            host = Host(f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}", gateway, server, task)
            try:
                yield host
            finally:
                server.should_exit = True
                await host.ended()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of the command; uvicorn would also raise them again after a stop in order."""
        yield


def rest() -> None:
    """Let the garbage collector alone with what is built by now, which lives as long as the process.

    Without this every full collection walks the price books and modules again: a tenth of a request's time, and half of
    that of a page that reads thousands of calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
