"""Aside: what the database refused and what damage left, beside the spool: tried again when it may work, or removed.

It is money that was not booked, and with `ledger.store_text` it holds texts. Nobody but its owner can read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from gateway.errors import ConfigError
from gateway.ledger.backlog import place
from gateway.ledger.reading import ledger_at
from gateway.ledger.replay import LARGEST, commit
from gateway.ledger.rows import Intent, Settlement
from gateway.ledger.spool import COLUMNS, Item, decoded, frames
from gateway.ledger.store import Store

KINDS = ("refused-", "damaged-")
TAKEN = ".replaying"
"""The end of the name of a file that is being tried again: what a gateway keeps aside meanwhile goes to a new one."""


@dataclass(slots=True)
class Replayed:
    """What became of the records of a file: `written` are on record now, if they were not before.

    The others stay in the file: the database `refused` them again; they are `late`, from days that were pruned since,
    and may have been counted and pruned already; or they are `unreadable`.
    """

    written: int = 0
    refused: int = 0
    late: int = 0
    unreadable: int = 0

    @property
    def left(self) -> int:
        """How many stay."""
        return self.refused + self.late + self.unreadable

    def add(self, more: Replayed) -> None:
        """Count those of another file too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))


def kept(url: str, folder: Path | None) -> list[Path]:
    """The files that were kept aside of the ledger at `url`; `folder` as in `spool.place`."""
    where = place(url, folder)
    if where is None or not where[0].is_dir():
        return []
    return sorted(path for kind in KINDS for path in where[0].glob(f"{kind}*") if path.name.startswith(kind + where[1]))


def prune(url: str, folder: Path | None, before: float) -> int:
    """Remove those to which nothing was added since `before`; how many."""
    old = [path for path in kept(url, folder) if path.stat().st_mtime < before]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def replay(url: str, file: Path) -> Replayed:
    """Write to the ledger at `url` what is in `file`; what cannot be written stays there, else the file goes.

    Nothing counts twice: what is on record already is left as it is. Raises `ConfigError` when there is no ledger, or
    it does not answer; the file is then as it was.
    """
    with ledger_at(url):
        pass  # one is there, of this version
    own = file.with_name(file.name.removesuffix(TAKEN))
    try:
        taken = file if file.name.endswith(TAKEN) else file.rename(file.with_name(file.name + TAKEN))
        data = taken.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    result = Replayed()
    store = Store.open(url)
    try:
        rest = _written(store, data, result)
    except BaseException:
        _put_back(own, data, taken)
        raise
    finally:
        store.close()
    # Somebody may have had it open when it was renamed.
    _put_back(own, (rest if result.left else b"") + taken.read_bytes()[len(data) :], taken)
    return result


def _written(store: Store, data: bytes, result: Replayed) -> bytes:
    """Write what is in `data`; the rest of it."""
    parts = list(_read(data))
    items = [(number, item) for number, (_, item) in enumerate(parts) if isinstance(item, Intent | Settlement)]
    since = store.kept_from()
    late = {item.request_id for _, item in items if item.at < since}
    result.late += sum(item.request_id in late for _, item in items)
    result.unreadable += sum(item is None for _, item in parts)
    items = [(number, item) for number, item in items if item.request_id not in late]
    written: set[int] = set()
    for start in range(0, len(items), LARGEST):
        batch = items[start : start + LARGEST]
        refused: dict[int, Exception] = {}
        if commit(store, [item for _, item in batch], refused) < len(batch):
            raise ConfigError("the ledger's database does not answer; try again later")
        written |= {number for place, (number, _) in enumerate(batch) if place not in refused}
        result.refused += len(refused)
    result.written += len(written)
    return b"".join(part for number, (part, _) in enumerate(parts) if number not in written)


Columns = list[list[str]]


def _read(data: bytes) -> Iterator[tuple[bytes, Item | Columns | None]]:
    """Each stretch of a file and what it is; `Columns`: how the rows behind it are to be read; None: unreadable.

    Rows of which the file does not say so are read as this version's.
    """
    columns = COLUMNS
    for start, end, payload in frames(data, 0):
        found: Item | Columns | None
        try:
            told = msgspec.msgpack.decode(payload or b"")
            if isinstance(told, list) and len(told) == len(COLUMNS) and all(isinstance(each, list) for each in told):
                found = columns = told
            else:
                found = decoded(payload or b"", columns)
                found.request_id, found.at  # noqa: B018 - an item that has neither is none
        except (ValueError, TypeError, IndexError):
            found = None
        yield data[start:end], found


def _put_back(file: Path, data: bytes, taken: Path) -> None:
    """Add to the file what is left, in order and readable by nobody else; then the one that was taken is not needed."""
    if not data:
        taken.unlink()
        return
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(opened, "ab") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    taken.unlink()
