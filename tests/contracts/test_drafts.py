"""What every ledger must do with drafts: they are written with their entry, once, and go with it."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway.cascade import kept
from gateway.cascade.kept import Kept
from gateway.ledger import rows
from gateway.ledger.export import export
from gateway.ledger.spool import Spool, place, record
from gateway.ledger.sql import SqlLedger
from gateway.ledger.upkeep import prune
from tests.contracts.shadowed import NOON, served, shadow

pytestmark = pytest.mark.anyio

DRAFTS = (
    Kept(0, "small", 40, 0, "number", logprob=-0.25, limit=64, calls=("r/0",)),
    Kept(1, "other", 38, 1, "number", odd=True, given=True, calls=("r/1",)),
)
REST = (Kept(2, "third", 41, 1, "number", odd=True, calls=("r-shadow/0",)), Kept(None, "teacher", 50, 0, "number"))


def plain(drafts: tuple[Kept, ...]) -> list[dict[str, object]]:
    told: list[dict[str, object]] = msgspec.json.decode(kept.dumps(drafts))
    return told


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(url, spool=tmp_path)
    yield made
    await made.aclose()


async def test_a_request_and_its_shadow_keep_their_drafts(ledger: SqlLedger) -> None:
    request = replace(served("r"), drafts=DRAFTS, shadow_drawn=True)
    await ledger.settle(request)
    await ledger.settle(replace(request, drafts=DRAFTS[:1]))  # a second settle of the same id is ignored
    await ledger.settle(replace(shadow(request), drafts=REST, shadow_drawn=None))
    found = await ledger.entry("r")
    assert found is not None
    assert (found["drafts"], found["shadow"]["drafts"]) == (plain(DRAFTS), plain(REST))
    assert (found["shadow_drawn"], found["shadow"]["shadow_drawn"]) == (True, None)
    await ledger.settle(served("plain"))
    other = await ledger.entry("plain")
    assert other is not None
    assert (other["drafts"], other["shadow_drawn"]) == ([], None)


async def test_drafts_are_exported_without_a_word_and_go_with_their_entry(
    url: str, tmp_path: Path, ledger: SqlLedger
) -> None:
    if url == "sqlite://":
        pytest.skip("nobody else can see a ledger in memory")
    await ledger.settle(replace(served("r"), drafts=DRAFTS))
    export(url, tmp_path / "out.csv", "csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert kept.loads(row["drafts"]) == list(DRAFTS)
    assert prune(url, NOON + 2 * 86_400, "entries")[1] == 1
    assert await ledger.entry("r") is None


async def test_drafts_wait_on_disk_with_their_entry(url: str, tmp_path: Path) -> None:
    """A process died with them in its spool."""
    where = place(url, tmp_path)
    if where is None:
        pytest.skip("a ledger in memory has no spool")
    left = Spool.create(*where)
    told = [rows.settlement(replace(served(name), drafts=DRAFTS), 1, text=False) for name in ("r", "s")]
    left.append([made for item in told if (made := record(item)) is not None])
    again, _ = left.read(9)
    assert again == told
    left.close()
    ledger = await SqlLedger.open(url, spool=tmp_path)
    try:
        for name in ("r", "s"):
            found = await ledger.entry(name)
            assert found is not None
            assert found["drafts"] == plain(DRAFTS)
    finally:
        await ledger.aclose()
