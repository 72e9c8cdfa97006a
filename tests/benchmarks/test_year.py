"""The requests that the ledger's benchmark makes up are such as a gateway writes: their sums can be proven."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from benchmarks import year
from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.ledger.schema import calls, corrections, entries, measurements, scores
from gateway.ledger.store import Store


def test_a_year_is_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/ledger.db")
    year.fill(store, year.Shape(entries=4_000, callers=50, calls=2, detailed=300, end=1.8e9))
    assert "4,000 requests of 50 callers" in capsys.readouterr().out
    (whole,) = store.savings(Query())
    assert whole.requests == 4_000
    assert store.savings(Query(since=1.8e9)) == store.savings(Query(until=1.8e9 - year.DAYS * year.DAY))
    with store.transaction() as connection:
        assert rollup.differences(connection) == []
        assert connection.scalar(select(func.count()).where(entries.c.day != func.date(entries.c.at, "unixepoch"))) == 0
        counted = {table: connection.scalar(select(func.count()).select_from(table)) for table in year.TABLES}
    shadows = sum(whole.shadows.values())
    assert counted[entries] == 4_000 + shadows
    assert counted[measurements] == shadows > 0
    assert counted[corrections] == 2 * shadows
    assert counted[scores] or shadows < 0
    # The shadows' calls are of the same requests, detailed or not.
    assert 600 <= (counted[calls] or 0) <= 700
    found, more = store.observed(None, None)
    assert not more
    assert set(found) == {year.MEASURED}
    assert any(found[year.MEASURED].requests["holdout"])
    store.close()
