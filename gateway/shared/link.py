"""Link: the way to Redis, and what is known about whether it is open.

No request waits for a Redis that is away: the first one that fails closes the way for all, those that wait for a
connection turn round, and a task of the link's own looks every second whether Redis takes writes again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.errors import ConfigError

SECONDS = 1.0
"""Longer than any Redis that is well takes to connect and answer."""
LOOKS = 20
"""How often the event loop looks at its sockets in that time: under full load it may look away for longer."""
RETRY_SECONDS = 1.0
CONNECTIONS = 32
"""Commands under way at once; more wait their turn, and turn round when the way closes."""

FAULTS = (RedisError, OSError, TimeoutError)
"""What a Redis that is away, full, read-only or badly configured answers with."""

log = structlog.get_logger("gateway.shared")


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError in the block after `seconds` of a loop that attends to its sockets, looking `LOOKS` times.

    A loop that was busy with other work for longer than that has the answer before it, unread: that is no timeout.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def look(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_later(seconds / LOOKS, look, left - 1)
        else:
            limit.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as limit:
            look(LOOKS)
            yield
    finally:
        if timer is not None:
            timer.cancel()


class Away(Exception):
    """Redis cannot be asked. `sent`: it was tried, so that Redis may have done it all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("Redis does not answer")
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script that Redis runs as one step; it is sent once and then called by its digest."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        """The script in `lua/{name}.lua`."""
        text = files("gateway.shared").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Link:
    """Connections to one Redis. Whoever makes it closes it with `aclose`.

    For metrics: `away` (now), `outages` (how often it became so), `local` and `refused` (requests that were admitted,
    or answered 503, without Redis). Raises `ConfigError` for a `url` that is none; a URL is never shown, it may hold
    a password. `prefix` begins the one key that it sets itself, to see whether Redis takes writes.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = SECONDS,
        retry: float = RETRY_SECONDS,
        prefix: str = "gkt",
    ) -> None:
        try:
            self._client: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=None,  # `_in_time` bounds everything
                socket_timeout=None,
                retry=Retry(NoBackoff(), 0),  # a script may have run although its answer was lost
                protocol=2,
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
            )
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # connects nothing, but knows what a URL may ask for
        except (ValueError, TypeError):
            raise ConfigError(
                "the Redis URL is none: write redis://, rediss:// or unix://, with options that there are"
            ) from None
        self.away = False
        self.outages = 0
        self.local = 0
        self.refused = 0
        self._seconds = seconds
        self._retry = retry
        self._probed = f"{prefix}:probe"
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._returning: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def on_return(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        """Await `catch_up` when Redis is back, before anybody else may ask it, and once more for what went on
        meanwhile. It uses `ask`.
        """
        self._returning.append(catch_up)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the requests, until it ends or the link is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """What the script returns; numbers as int, texts as str. Raises `Away` within a second of an attentive loop."""
        if self.away:
            raise Away(sent=False)
        async with self._room:
            if self.away:  # that was found out while this one waited
                raise Away(sent=False)
            try:
                return await self.ask(script, keys, args)
            except FAULTS as error:
                self._lost(error)
                raise Away(sent=True) from error

    async def ask(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """The same while Redis is thought to be away. Raises one of `FAULTS`."""

        async def send() -> Any:
            try:
                return await self._client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                return await self._client.eval(script.text, len(keys), *keys, *args)

        return await self._in_time(send())

    async def look(self) -> None:
        """Find out whether Redis is there; `away` tells."""
        try:
            await self._probe()
        except FAULTS as error:
            self._lost(error)

    async def doubts(self) -> list[str]:
        """Settings by which this Redis may forget what it is told, in its own words; a Redis that tells none has none.

        Raises one of `FAULTS` when it cannot be reached.
        """
        try:
            said: dict[str, str] = await self._in_time(self._client.config_get("appendonly"))
            said |= await self._in_time(self._client.config_get("maxmemory*"))
        except ResponseError:  # it does not let everybody see its settings
            return []
        found = [] if said.get("appendonly") != "no" else ["appendonly no"]
        policy = said.get("maxmemory-policy", "noeviction")
        if policy != "noeviction" and said.get("maxmemory") not in ("0", None):
            found.append(f"maxmemory-policy {policy}")
        return found

    async def aclose(self) -> None:
        """Stop what runs beside the requests and close the connections; from then on it is away."""
        self.away = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _probe(self) -> None:
        await self._in_time(self._client.set(self._probed, "1", px=1000))  # a full or read-only Redis is of no use

    async def _in_time(self, command: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            async with patience(self._seconds):
                return await command
        finally:
            # Python 3.11's `wait_for`, in the client, drops a cancellation that comes together with what it waits for.
            if task and task.cancelling() > before:
                raise asyncio.CancelledError

    def _lost(self, error: BaseException) -> None:
        if self.away:
            return
        self.away = True
        self.outages += 1
        log.error("redis is away", error=f"{type(error).__name__}: {error}", outages=self.outages)
        self.spawn(self._watch())

    async def _watch(self) -> None:
        """Look at once, for it may have been one slow moment, and then every second."""
        while True:
            if await self._returned():
                break
            await asyncio.sleep(self._retry)
        self.away = False
        log.warning("redis is back", outages=self.outages, local=self.local, refused=self.refused)
        try:
            await self._catch_up()
        except FAULTS as error:
            self._lost(error)

    async def _returned(self) -> bool:
        try:
            await self._probe()
            await self._catch_up()
        except FAULTS:
            return False
        except Exception:
            log.exception("catching up with redis failed")  # and the way stays closed: the counts would be wrong
            return False
        return True

    async def _catch_up(self) -> None:
        for catch_up in self._returning:
            await catch_up()
