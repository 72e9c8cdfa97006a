"""What every ledger must do with scores: the last word counts, and a route's report gets all that is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from gateway.ledger.schema import entries
from gateway.ledger.sql import SqlLedger
from gateway.ledger.telling import Telling
from gateway.ledger.upkeep import prune
from pricing.baseline import Baseline
from pricing.live import Observed
from pricing.money import Money
from tests.contracts.shadowed import NOON, cost, served, shadow

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[SqlLedger]:
    made = await SqlLedger.open(url, spool=tmp_path)
    yield made
    await made.aclose()


async def test_the_last_word_counts(ledger: SqlLedger) -> None:
    await ledger.settle(served("r"))
    await ledger.score("r", "feedback", 0.0, "bad")
    await ledger.score("r", "feedback", 0.75)
    await ledger.score("r", "agreement", 1.0)
    found = await ledger.entry("r")
    assert found is not None
    told = {source: (score["value"], score["label"]) for source, score in found["scores"].items()}
    assert told == {"feedback": (0.75, None), "agreement": (1.0, None)}


async def test_a_route_has_its_requests_as_they_were_seen(ledger: SqlLedger) -> None:
    """One shadowed and scored, a holdout, the teacher's own, one of which nothing is known, one that failed."""
    one = served("one")
    await ledger.settle(one)
    await ledger.settle(shadow(one))
    await ledger.score("one", "feedback", 1.0)
    await ledger.score("one", "agreement", 0.5)
    alone = Baseline("measured", Money(70), Money(70), Money(70), 90)
    held = replace(
        served("held"),
        at=NOON + 1,
        arm="holdout",
        propensity=0.1,
        shadow_propensity=None,
        baseline=alone,
        strategy="teacher",
    )
    await ledger.settle(held)
    own = replace(served("own"), at=NOON + 2, baseline=alone, arm="policy")
    await ledger.settle(own)
    await ledger.settle(replace(served("plain"), at=NOON + 3, shadow_propensity=None))
    await ledger.settle(replace(served("failed"), at=NOON + 4, outcome="failed"))
    await ledger.settle(replace(served("other"), at=NOON + 5, route="other"))
    found, more = await ledger.observed()
    assert not more
    assert set(found) == {"gkt", "other"}
    traffic = found["gkt"]
    spent = one.spent
    assert spent is not None
    first, second, third = traffic.requests.rows()
    assert first == Observed(
        NOON, False, 0.9, 0.5, False, 100, 80, spent.nano, cost(120).nano, 1_000, score=1.0, agreement=0.5
    )
    assert (second.holdout, second.propensity, second.shadow_propensity) == (True, 0.1, None)
    assert second.teacher_cost == second.cost
    assert not second.own
    assert (third.own, third.teacher_cost, third.score) == (True, 70, None)
    assert (traffic.spent, traffic.unpriced, traffic.notional) == (cost(120).nano, 0, False)
    assert traffic.strategies == {"cut-off": 2}
    early, _ = await ledger.observed(NOON - 10, NOON + 1)
    assert [len(each.requests) for each in early.values()] == [1]
    later, _ = await ledger.observed(since=NOON + 2)
    assert list(later["gkt"].requests["at"]) == [NOON + 2]


async def test_what_a_look_has_kept_is_what_it_would_read(url: str, ledger: SqlLedger) -> None:
    """Newer and older requests, scores and shadows that come between two looks, and another window."""

    async def agree(since: float | None = None) -> None:
        with ledger.store.transaction() as connection:
            fresh, more = Telling(most=5).observed(connection, since, None)
            kept, more_too = telling.observed(connection, since, None)
        assert more == more_too
        assert fresh.keys() == kept.keys()
        for route, traffic in fresh.items():
            assert traffic.requests.rows() == kept[route].requests.rows()
            assert replace(traffic, requests=kept[route].requests) == kept[route]

    telling = Telling(most=5)
    await agree()
    one = served("one")
    await ledger.settle(one)
    await agree()
    with ledger.store.transaction() as connection:
        first, _ = telling.observed(connection, None, None)
        again, _ = telling.observed(connection, None, None)
    assert first["gkt"].requests is again["gkt"].requests, "nothing differs, so nothing is made anew"
    await ledger.settle(replace(served("newer"), at=NOON + 50))
    await agree()
    await ledger.settle(replace(served("older"), at=NOON - 50, route="other"))
    await agree()
    await ledger.settle(shadow(one))
    await ledger.score("older", "feedback", 0.5)
    await agree()
    await ledger.score("older", "feedback", 1.0)
    await ledger.settle(replace(served("unseen"), at=NOON + 20, propensity=1.0, shadow_propensity=None))
    await ledger.score("unseen", "feedback", 0.0)
    await agree()
    with ledger.store.transaction(write=True) as connection:  # as recovery adds a call that was left open
        connection.execute(update(entries).where(entries.c.request_id == "newer").values(spent=entries.c.spent + 7))
    await agree()
    await agree(NOON)
    for number in range(4):
        await ledger.settle(replace(served(f"more-{number}"), at=NOON + 100 + number))
    await agree()
    await agree(NOON + 101)


async def test_a_shadow_without_a_price_is_counted(ledger: SqlLedger) -> None:
    request = served("r")
    await ledger.settle(request)
    await ledger.settle(shadow(request, price=None))
    found, _ = await ledger.observed()
    assert (found["gkt"].spent, found["gkt"].unpriced) == (0, 1)
    assert found["gkt"].requests.rows()[0].teacher_cost is None


async def test_scores_go_with_their_requests(url: str, tmp_path: Path, ledger: SqlLedger) -> None:
    if url == "sqlite://":
        pytest.skip("nobody else can see a ledger in memory")
    await ledger.settle(served("r"))
    await ledger.score("r", "feedback", 1.0)
    assert prune(url, NOON + 2 * 86_400, "entries")[1] == 1
    await ledger.settle(served("r"))
    found = await ledger.entry("r")
    assert found is not None
    assert found["scores"] == {}
