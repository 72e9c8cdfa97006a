"""Ring: all stored keys in memory, so that no request waits for the database to know its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self, TypeVar

import structlog

from gateway.keys.key import Grant, Held, Key
from gateway.keys.store import KeyStore
from gateway.ledger.asking import asked

REFRESH_SECONDS = 2.0
"""How long a change that another process made may take to be known here."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Keyring:
    """The keys of a running gateway. Belongs to the event loop in which it is opened; close it with `aclose`.

    While the database cannot be read, the last state holds, and the log says so.
    """

    def __init__(self, store: KeyStore, every: float = REFRESH_SECONDS) -> None:
        self._store = store
        self._every = every
        self._version = -1
        self._held: Mapping[bytes, Held] = {}
        self._refreshing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._blind = False

    @classmethod
    async def open(cls, store: KeyStore, *, every: float = REFRESH_SECONDS) -> Self:
        """Read all keys, and go on looking for changes every `every` seconds."""
        ring = cls(store, every)
        await ring._read()
        ring._watch = asyncio.create_task(ring._watching())
        return ring

    def __len__(self) -> int:
        """How many secrets there are, of revoked and expired keys too."""
        return len(self._held)

    def find(self, digest: bytes) -> Held | None:
        """The secret of that digest, whatever became of it."""
        return self._held.get(digest)

    async def create(self, grant: Grant) -> tuple[Key, str]:
        """See `KeyStore.create`; the key opens this gateway when this returns. Raises `Busy`, as all of these."""
        return await self._changed(self._store.create, grant)

    async def all(self) -> list[Key]:
        """See `KeyStore.all`."""
        return await asked(self._store.all)

    async def get(self, key_id: str) -> Key:
        """See `KeyStore.get`."""
        return await asked(self._store.get, key_id)

    async def revoke(self, key_id: str) -> Key:
        """See `KeyStore.revoke`; the key is refused here when this returns, elsewhere within seconds."""
        return await self._changed(self._store.revoke, key_id)

    async def rotate(self, key_id: str, grace: float = 0.0) -> tuple[Key, str]:
        """See `KeyStore.rotate`."""
        return await self._changed(self._store.rotate, key_id, grace)

    async def refresh(self) -> None:
        """Look for changes now. What fails is logged, once until it works again."""
        try:
            await self._read()
        except Exception as error:  # noqa: BLE001 - a database that is away must not end the watch
            if not self._blind:
                log.error("keys cannot be read; those known before still hold", error=type(error).__name__)
            self._blind = True
        else:
            if self._blind:
                log.info("keys can be read again")
            self._blind = False

    async def aclose(self) -> None:
        """Stop looking. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.refresh()

    async def _read(self) -> None:
        async with self._refreshing:  # one after the other, so that an older state never replaces a newer one
            # The number first: a change in between is then read twice rather than never.
            version = await asyncio.to_thread(self._store.version)
            if version != self._version:
                self._held = await asyncio.to_thread(self._store.held)
                self._version = version

    async def _changed(self, change: Callable[..., T], *args: Any) -> T:
        made = await asked(change, *args)
        await self.refresh()
        return made
