"""The backlog: all that waits on disk for one database, of this process and of those that are no more."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock

import structlog
from sqlalchemy import make_url

from gateway.ledger.rows import Settlement
from gateway.ledger.spool import FRAME, Item, Spool, record

log = structlog.get_logger(__name__)

FOLDER = "gkt-spool"
"""Where spools lie, in the working directory, when the database is not a file and nothing else is configured."""

RESERVE = 8
"""One part in so many of the bound is kept for settlements: their calls were admitted, and are money."""

INTENT = 1_024
"""More bytes than the record of an intent takes."""


class Backlog:
    """All that waits on disk for one database: this process's own spool, and those it adopted.

    For one thread, but that any may `take`. The own file grows to at most `limit` bytes; an eighth of it is for
    settlements alone.
    """

    def __init__(self, folder: Path, prefix: str, limit: int) -> None:
        self._folder = folder
        self._prefix = prefix
        self._limit = limit
        self._own = Spool.create(folder, prefix)
        self._adopted: list[Spool] = []
        self._changing = Lock()  # the end of the own file

    @property
    def waits(self) -> bool:
        """Whether anything of this process or of an adopted one waits."""
        return self._own.waits or bool(self._adopted)

    @property
    def own_waits(self) -> bool:
        """Whether anything of this process waits: what comes later must queue behind it."""
        return self._own.waits

    @property
    def full(self) -> bool:
        """There may be no room for another intent: what is left is for settlements."""
        return self._own.size + INTENT > self._limit - self._limit // RESERVE

    @property
    def size(self) -> int:
        """Bytes of this process's file."""
        return self._own.size

    def adopt(self) -> None:
        """Take over what dead processes left, oldest first."""
        mine = {spool.path for spool in (self._own, *self._adopted)}
        found = [path for path in self._folder.iterdir() if path.name.startswith(self._prefix) and path not in mine]
        for path in sorted(found, key=_age):
            spool = Spool.adopt(path)
            if spool is not None:
                self._adopted.append(spool)
                self.finished(spool)

    def take(self, items: Sequence[Item]) -> list[bool]:
        """Put on disk what there is room for; for each item, whether it is on disk now."""
        with self._changing:
            return self._take(items)

    def drop(self, spool: Spool, at: int) -> None:
        """What lies before `at` in `spool` is in the database; with nothing behind it, an adopted file goes."""
        with self._changing:
            spool.drop(at)
        self.finished(spool)

    def _take(self, items: Sequence[Item]) -> list[bool]:
        size = self._own.size
        records: list[bytes] = []
        taken: list[bool] = []
        for item in items:
            made = record(item)
            weight = FRAME.size + len(made or b"")
            room = self._limit if isinstance(item, Settlement) else self._limit - self._limit // RESERVE
            taken.append(made is not None and size + weight <= room)
            if made is not None and taken[-1]:
                records.append(made)
                size += weight
        try:
            if records:
                self._own.append(records)
        except OSError as error:
            log.error("ledger spool takes no more", spool=str(self._own.path), error=str(error))
            return [False] * len(items)
        return taken

    def refuse(self, items: Sequence[Item]) -> None:
        """Keep aside what the database will never take, beside this process's file; or raise `OSError`."""
        for item in items:
            self._own.refuse(item)

    def is_adopted(self, spool: Spool) -> bool:
        """Whether a dead process left it: nobody knows what of it was written before."""
        return spool is not self._own

    def first(self) -> Spool:
        """The spool to write to the database next."""
        return self._adopted[0] if self._adopted else self._own

    def finished(self, spool: Spool) -> None:
        """Remove an adopted spool of which nothing waits."""
        if spool is not self._own and not spool.waits:
            spool.close()
            self._adopted.remove(spool)

    def close(self) -> None:
        """Leave what waits to a later process."""
        for spool in (self._own, *self._adopted):
            if spool.waits:
                log.warning("ledger leaves on disk what its database did not take", spool=str(spool.path))
            spool.close()


def place(url: str, folder: Path | None) -> tuple[Path, str] | None:
    """The folder and the beginning of the names of a database's spools; None for one in memory.

    `folder` None: beside an SQLite file, or `FOLDER`. Names tell databases apart, so that they may share a folder.
    """
    where = make_url(url)
    if where.get_backend_name() != "sqlite":
        told = f"{where.host}:{where.port}/{where.database}?{sorted(where.query.items())}"
        return folder or Path(FOLDER), f"{where.database}-{sha256(told.encode()).hexdigest()[:8]}.spool-"
    if where.database in (None, "", ":memory:"):
        return None
    file = Path(str(where.database)).expanduser().absolute()
    told = "" if folder is None else f"-{sha256(str(file).encode()).hexdigest()[:8]}"
    return folder or file.parent, f"{file.name}{told}.spool-"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
