"""`gkt serve`: the gateway, left running."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import telemetry
from gateway.cli.group import ConfigFile, changed
from gateway.config import Config
from gateway.dashboard import PATH as DASHBOARD

if TYPE_CHECKING:
    from gateway.pipeline import Gateway
    from gateway.reload import Reloader

READY = "gkt is ready on "
"""Other programs wait for the line that begins so; the gateway's address follows."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = None,
    ledger: Annotated[str | None, typer.Option(metavar="URL", help="Keep accounts here instead.")] = None,
    config: ConfigFile = None,
) -> None:
    """Run the gateway until it is stopped.

    Prints one line with its address once it is ready. SIGTERM or Ctrl-C stops it: answers under way are finished
    (for server.drain_seconds at most; a second signal cuts them off), then the models are stopped. A changed
    configuration is taken up by itself, and on SIGHUP: prices, routes, prompts and limits, for new requests. Log
    lines go to standard error.
    """
    from gateway.cli import hosting
    from gateway.reload import Reloader, stamps

    file = Config.find(config)

    def load() -> Config:
        return changed(Config.load(file), host=host, port=port, ledger=ledger)

    files = [] if file is None else [file]
    since = stamps(files)
    settings = load()
    since = {**stamps(settings.prompts.values() if files else ()), **since}
    hosting.check_exposure(settings)
    telemetry.configure()
    sock = hosting.bound(settings.server.host, settings.server.port)
    with asyncio.Runner(loop_factory=hosting.loop_factory()) as runner:
        runner.run(_serve(settings, sock, lambda gateway: Reloader(gateway, load, file, since)))


async def _serve(config: Config, sock: socket.socket, reloading: Callable[[Gateway], Reloader]) -> None:
    from gateway.cli.hosting import Host, hosted

    host: Host | None = None
    reloader: Reloader | None = None
    terminal = sys.stderr.isatty()
    loop, main = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if host is not None:
            host.stop()
        elif main is not None:
            main.cancel()

    def hangup() -> None:
        if terminal and not sys.stderr.isatty():
            stop()  # the terminal in which it ran was closed
        elif reloader is not None:
            reloader.now()

    for each, react in {"SIGINT": stop, "SIGTERM": stop, "SIGHUP": hangup}.items():
        if hasattr(signal, each):
            signal.signal(getattr(signal, each), lambda *_, react=react: loop.call_soon_threadsafe(react))
    try:
        async with hosted(config, sock) as host:
            reloader = reloading(host.gateway)
            watching = asyncio.create_task(reloader.run())
            try:
                for line in stand_ins(host.gateway):
                    typer.echo(line)
                typer.echo(f"dashboard: {host.url}{DASHBOARD}")
                typer.echo(f"{READY}{host.url}")  # echo flushes
                await host.ended()
            finally:
                watching.cancel()
    except asyncio.CancelledError:
        typer.echo("stopped before it was ready", err=True)


def stand_ins(gateway: Gateway) -> list[str]:
    """A line for each upstream in whose seat another one sits."""
    lines = []
    for upstream in gateway.upstreams.values():
        if upstream.stand_in is not None:
            key = getattr(gateway.config.upstreams[upstream.name], "api_key_env", None)
            sits = f"{upstream.stand_in!r} ({upstream.engine.model})"
            lines.append(
                f"{upstream.name}: {key} is not set; {sits} is its stand-in, priced as if it were {upstream.model}"
            )
    return lines
