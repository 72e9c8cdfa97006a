"""Reload: a changed configuration takes effect for new requests, without a restart and without dropping any.

`applicable` is the policy: what can change under a running gateway, and what has to wait. `Reloader` watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from gateway.config import Config, Server
from gateway.errors import ConfigError
from gateway.pipeline import Gateway

POLL_SECONDS = 2.0
"""Between two looks at the files. A change is taken up when two looks in a row saw the same."""

LIVE: frozenset[str] = frozenset({"max_in_flight", "max_body_bytes", "open_metrics"})
"""Settings of `server` that can change while it runs."""

FIXED = ("ledger", "shared", "telemetry", "upstreams")
"""Sections that need a restart."""

Stamps = Mapping[str, tuple[int, int, int]]
"""Of each watched file that is there, by its name: inode, size and time of change."""

log = structlog.get_logger("gateway.reload")


def stamps(files: Iterable[Path]) -> Stamps:
    """How the files are now; take it before they are read, or a change in between goes unseen."""
    found: dict[str, tuple[int, int, int]] = {}
    for file in files:
        with suppress(OSError):
            stat = file.stat()
            found[str(file)] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return found


def applicable(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """What of `wanted` can hold while `running` runs, and the names of the settings that need a restart.

    Raises `ConfigError` when the part that can change does not go with the part that cannot, as a route does that
    names a new upstream.
    """
    changed = [name for name in Server.model_fields if getattr(running.server, name) != getattr(wanted.server, name)]
    server = running.server.model_copy(update={name: getattr(wanted.server, name) for name in changed if name in LIVE})
    waiting = [f"server.{name}" for name in changed if name not in LIVE]
    kept: dict[str, Any] = {"server": server}
    for section in FIXED:
        before = kept[section] = getattr(running, section)
        waiting += [f"{section}.{name}" for name in _differing(before, getattr(wanted, section))]
    sections = {name: getattr(wanted, name) for name in Config.model_fields} | kept
    try:
        return Config.parse(sections), waiting
    except ConfigError as error:
        hint = f" (only a restart takes up: {', '.join(waiting)})" if waiting else ""
        raise ConfigError(f"{error}{hint}") from None


class Reloader:
    """Reloads the configuration of `gateway` when it is told to, and when a file changes.

    `load` reads the whole configuration as it was read at start, from `file`; None: there was none, and nothing is
    watched. `since` is how the files were before that.
    """

    def __init__(
        self,
        gateway: Gateway,
        load: Callable[[], Config],
        file: Path | None,
        since: Stamps,
        *,
        every: float = POLL_SECONDS,
    ) -> None:
        self._gateway = gateway
        self._load = load
        self._file = file
        self._applied = since
        self._every = every
        self._told = asyncio.Event()
        self._named: Stamps = {}

    def now(self) -> None:
        """Reload at once, changed or not. Call it in the event loop."""
        self._told.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        seen = self._applied
        while True:
            told = await self._waited()
            files = self._files()
            now = await asyncio.to_thread(stamps, files)
            # A file that is still being written changes again until the next look.
            if told or (now == seen and now != self._applied):
                await self.reload()
                # The new configuration may name other files: those that are new to us are no change.
                names = {str(file) for file in self._files()}
                now = self._applied = {name: at for name, at in {**self._named, **now}.items() if name in names}
            seen = now

    async def reload(self) -> str:
        """Read the configuration and let it take effect; the outcome is logged, counted and returned."""
        try:
            wanted = await asyncio.to_thread(self._read)
            config, waiting = applicable(self._gateway.config, wanted)
            changed = _differing(self._gateway.config, config)
            # Before their texts are read: what changes in between is seen at the next look.
            self._named = await asyncio.to_thread(stamps, _named(config))
            before = self._gateway.planner.ladders
            self._gateway.reload(config)
            after = self._gateway.planner.ladders
            changed += [f"routes.{name}.policy" for name in _differing(before, after)]
        except ConfigError as error:
            log.error("the configuration cannot be used; the old one stays", error=str(error))
            outcome = "rejected"
        except Exception:
            log.exception("the configuration could not be reloaded; the old one stays")
            outcome = "rejected"
        else:
            outcome = "partial" if waiting else "applied"
            log.info("the configuration was reloaded", changed=changed)
            if waiting:
                log.warning("some changes of the configuration need a restart", settings=waiting)
        self._gateway.metrics.reloaded(outcome)
        return outcome

    async def _waited(self) -> bool:
        """Wait for the next look; True when somebody asked for it."""
        try:
            async with asyncio.timeout(self._every):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        return True

    def _read(self) -> Config:
        file = self._file
        if file is not None and file.is_file() and Config.read(file) is None:
            # At start that means the defaults; here, more likely, somebody is about to write it.
            raise ConfigError(f"{file} is empty, or nothing but comments")
        return self._load()

    def _files(self) -> set[Path]:
        return set() if self._file is None else {self._file, *_named(self._gateway.config)}


def _named(config: Config) -> list[Path]:
    """The files that the configuration names and that can change while it runs: prompts, and policies of cascades."""
    policies = [route.policy for route in config.routes.values() if route.policy is not None]
    return [*config.prompts.values(), *policies]


def _differing(before: Any, after: Any) -> list[str]:
    """The names in two sections, models or mappings, whose values are not the same."""
    old, new = (each if isinstance(each, dict) else dict(each) for each in (before, after))
    return [
        name for name in dict.fromkeys((*old, *new)) if name not in old or name not in new or old[name] != new[name]
    ]
