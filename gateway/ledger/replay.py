"""Replay: rows into the database, as far as it takes them: from the queue, and from what waited on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from gateway.ledger.backlog import Backlog
from gateway.ledger.rows import Settlement
from gateway.ledger.spool import Item
from gateway.ledger.store import Store

log = structlog.get_logger(__name__)

LARGEST = 1000
"""The most items of one transaction; a longer one would keep other processes waiting."""


def commit(store: Store, items: Sequence[Item], refused: dict[int, Exception], start: int = 0) -> int:
    """Write `items`; how many of the first are dealt with: fewer than all when the database fails.

    One transaction, unless the database refuses a row: rows fail alone, and halving finds them. They are put into
    `refused` by their number, counted from `start`.
    """
    if not items:
        return 0
    try:
        store.write(items)
    except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it and the thread live on
        if store.transient(error):
            log.warning("ledger write failed, will be tried again", items=len(items), error=str(error))
            return 0
        if len(items) == 1:
            log.error("ledger refused a row", error=str(error))
            refused[start] = error
            return 1
        half = len(items) // 2
        count = commit(store, items[:half], refused, start)
        return count if count < half else half + commit(store, items[half:], refused, start + half)
    return len(items)


def replay(store: Store, backlog: Backlog) -> bool:
    """Write one batch from disk to the database; False when that did not work now."""
    spool = backlog.first()
    refused: dict[int, Exception] = {}
    try:
        items, end = spool.read(LARGEST)
        late = _late(store, items) if backlog.is_adopted(spool) else []
        gone = {item.request_id for item in late}
        items = [item for item in items if item.request_id not in gone]
        if commit(store, items, refused) < len(items):
            return False
        if backlog.is_adopted(spool):
            store.charge([item.request_id for item in items if isinstance(item, Settlement)], time.time())
        aside = [*late, *(items[n] for n in refused)]
        for item in aside:
            spool.refuse(item)
        backlog.drop(spool, end)
    except Exception as error:  # noqa: BLE001 - what waits is tried again, whatever it is; the thread must live on
        log.error("ledger cannot write what waits in its spool", spool=str(spool.path), error=str(error))
        return False
    if aside:
        log.critical(
            "ledger keeps aside what its database refused", spool=str(spool.path), items=len(aside), pruned=len(late)
        )
    if not backlog.waits:
        log.warning("ledger has written everything that waited on disk")
    return True


def _late(store: Store, items: Sequence[Item]) -> list[Item]:
    """What of a dead process's items is from before `upkeep.prune`.

    It may have been written, counted and pruned by now: nothing would keep it from counting again.
    """
    since = store.kept_from()

    def before(item: Item) -> bool:
        try:
            return item.at < since
        except (IndexError, TypeError, ValueError):
            return False  # no row of ours, of a file whose head is damaged: the database will say so

    gone = {item.request_id for item in items if before(item)}
    return [item for item in items if item.request_id in gone]
