"""The spool: a file in which what the database does not take waits, in order, until it does.

Framed records, one file for each process, locked while the process lives; a later process adopts the files whose lock
is free (see `backlog`). A record is on disk when `append` returns. It may be written to the database more than once,
when a process dies between that commit and the file's end: the database's own keys make the second time nothing.
"""

from __future__ import annotations

import mmap
import os
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any

import msgspec
import structlog

from gateway.ledger.rows import Intent, Row, Settlement
from gateway.ledger.schema import INTENDED, calls, entries

log = structlog.get_logger(__name__)

MARK = b"\x1egkt"
FRAME = Struct("<4sII")
"""The mark, the payload's length and its checksum. The mark finds the next record behind damage."""

Item = Intent | Settlement

COLUMNS = [[str(name) for name in names] for names in (INTENDED, calls.columns.keys(), entries.columns.keys())]

_ABSENT = {"measurement_spent": 0}
"""What an older version has not written, where that is not NULL."""


class Spool:
    """One file. Its owner alone uses it, from one thread; `size` and `waits` may be read from any."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file
        self._columns = COLUMNS
        self._at = self.size = os.fstat(file).st_size
        self._kept = 0  # damage before this was put aside already

    @classmethod
    def create(cls, folder: Path, prefix: str) -> Spool:
        """Make a new, locked file. Raises `OSError` when it cannot be."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"{prefix}{uuid.uuid4().hex}"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            if _locked(file, path):
                break
            os.close(file)  # another process adopted it before it was locked, found it empty and removed it
        made = cls(path, file)
        made._at = made.size = made._write([msgspec.msgpack.encode(COLUMNS)])
        _sync_folder(folder)
        return made

    @classmethod
    def adopt(cls, path: Path) -> Spool | None:
        """Take over the file of a process that is no more; None when it still has its owner."""
        try:
            file = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return None
        if not _locked(file, path):
            os.close(file)
            return None
        found = cls(path, file)
        found._at = 0
        return found

    @property
    def waits(self) -> bool:
        """Whether there is anything that `drop` was not called for."""
        return self._at < self.size

    def append(self, records: Sequence[bytes]) -> None:
        """Put `records` (see `record`) on disk, or raise `OSError`, and nothing is."""
        self.size += self._write(records)

    def read(self, most: int) -> tuple[list[Item], int]:
        """The first `most` items that wait, and the place behind them; damage is reported, kept aside and passed."""
        items: list[Item] = []
        self._shrink(os.fstat(self._file).st_size)
        at = self._at
        if at >= self.size:
            return items, at
        with mmap.mmap(self._file, self.size, access=mmap.ACCESS_READ) as data:
            for start, end, payload in frames(data, at):
                try:
                    if start == 0 and payload is not None:
                        self._columns = msgspec.msgpack.decode(payload)
                    else:
                        items.append(decoded(payload or b"", self._columns))
                except (ValueError, TypeError):
                    self._keep(data, start, end)
                at = end
                if len(items) == most:
                    break
        return items, at

    def drop(self, at: int) -> None:
        """What lies before `at` is in the database. An emptied file starts afresh."""
        self._at = at
        if at >= self.size and self._columns is COLUMNS:
            head = FRAME.size + len(msgspec.msgpack.encode(COLUMNS))
            if self.size >= head:
                os.ftruncate(self._file, head)
            else:  # somebody else has cut even that off
                os.ftruncate(self._file, 0)
                self.size = 0
                self._write([msgspec.msgpack.encode(COLUMNS)])
            self._at = self.size = head
            self._kept = 0

    def close(self) -> None:
        """Give up the file: it is removed when nothing waits in it, else left to be adopted. Idempotent."""
        if self._file < 0:
            return
        if not self.waits:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def refuse(self, item: Item) -> None:
        """Keep aside, for a human, what the database will never take."""
        told = frame(record(item) or repr(item).encode("utf-8", "backslashreplace"))
        self._aside("refused", told, head=frame(msgspec.msgpack.encode(COLUMNS)))

    def _write(self, payloads: Iterable[bytes]) -> int:
        data = memoryview(b"".join(map(frame, payloads)))
        try:
            os.lseek(self._file, self.size, os.SEEK_SET)
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            _sync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        return len(data)

    def _shrink(self, size: int) -> None:
        """Go on with what is left of a file that somebody else has cut off."""
        if size < self.size:
            log.critical("ledger spool was cut off from outside", spool=str(self.path), lost=self.size - size)
            self.size = size
            self._at = min(self._at, size)

    def _keep(self, data: mmap.mmap, start: int, end: int) -> None:
        """Put damage aside: once, however often it is read."""
        damaged = data[max(start, self._kept) : end]
        if damaged:
            kept = self._aside("damaged", damaged)
            self._kept = end
            log.error(
                "ledger spool has bytes that are no record", spool=str(self.path), bytes=len(damaged), kept=str(kept)
            )

    def _aside(self, what: str, data: bytes, head: bytes = b"") -> Path:
        """Add to the file of what is kept aside; it begins with `head`."""
        path = self.path.with_name(f"{what}-{self.path.name}")
        # Nobody else's to read, as the spool itself.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(opened, "ab") as file:
            file.write(data if file.tell() else head + data)
            file.flush()
            _sync(file.fileno())
        return path


def frame(payload: bytes) -> bytes:
    """A record as it lies in a file."""
    return FRAME.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def frames(data: mmap.mmap | bytes, at: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Start, end and payload of each frame from `at` on; a stretch that is none has the payload None."""
    start = at
    while at < len(data):
        payload = _payload(data, at)
        if payload is None:
            at = data.find(MARK, at + 1)
            at = len(data) if at < 0 else at
            continue
        if start < at:
            yield start, at, None
        start, at = at, at + FRAME.size + len(payload)
        yield start, at, payload
        start = at
    if start < at:
        yield start, at, None


def _payload(data: mmap.mmap | bytes, at: int) -> bytes | None:
    if at + FRAME.size > len(data):
        return None
    mark, length, checksum = FRAME.unpack_from(data, at)
    payload = data[at + FRAME.size : at + FRAME.size + length]
    return payload if mark == MARK and len(payload) == length and zlib.crc32(payload) == checksum else None


def record(item: Item) -> bytes | None:
    """`item` as bytes; None for one with a number or a text that no database would take either."""
    told = (item.call,) if isinstance(item, Intent) else (item.request_id, item.entry, item.calls)
    try:
        return msgspec.msgpack.encode(told)
    except (ValueError, OverflowError):
        return None


def decoded(payload: bytes, columns: Sequence[Sequence[str]]) -> Item:
    """An item as this version's tables have it: the file may have been written by an older one."""
    told: list[Any] = msgspec.msgpack.decode(payload)
    if len(told) == 1:
        return Intent(_fitted(told[0], columns, 0))
    request_id, entry, made = told
    return Settlement(request_id, _fitted(entry, columns, 2), [_fitted(row, columns, 1) for row in made])


def _fitted(row: Sequence[Any], columns: Sequence[Sequence[str]], table: int) -> Row:
    if columns is COLUMNS or columns[table] == COLUMNS[table]:
        return tuple(row)
    told = dict(zip(columns[table], row, strict=True))
    return tuple(told.get(name, _ABSENT.get(name)) for name in COLUMNS[table])


def _locked(file: int, path: Path) -> bool:
    """Lock the file until it is closed or its process ends; False when another has it, or it is no longer there."""
    try:
        _lock(file)
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    _HIGH = 1 << 30  # a byte that nobody reads: a locked one could not be read by others

    def _lock(file: int) -> None:
        os.lseek(file, _HIGH, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a loss of power, where the system can."""
    if sys.platform != "win32":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
