"""`gkt serve`: the gateway, left running."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Annotated

import typer

from gateway import telemetry
from gateway.cli.group import ConfigFile, changed
from gateway.config import Config
from gateway.dashboard import PATH as DASHBOARD
from gateway.pipeline import Gateway

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
    (for server.drain_seconds at most; a second signal cuts them off), then the models are stopped. Log lines go to
    standard error.
    """
    from gateway.cli import hosting

    settings = changed(Config.load(config), host=host, port=port, ledger=ledger)
    hosting.check_exposure(settings)
    telemetry.configure()
    sock = hosting.bound(settings.server.host, settings.server.port)
    with asyncio.Runner(loop_factory=hosting.loop_factory()) as runner:
        runner.run(_serve(settings, sock))


async def _serve(config: Config, sock: socket.socket) -> None:
    from gateway.cli.hosting import Host, hosted

    host: Host | None = None
    loop, main = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if host is not None:
            host.stop()
        elif main is not None:
            main.cancel()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: loop.call_soon_threadsafe(stop))
    try:
        async with hosted(config, sock) as host:
            for line in stand_ins(host.gateway):
                typer.echo(line)
            typer.echo(f"dashboard: {host.url}{DASHBOARD}")
            typer.echo(f"{READY}{host.url}")  # echo flushes
            await host.ended()
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
