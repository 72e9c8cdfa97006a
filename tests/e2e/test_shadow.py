"""A shadow and a holdout as the official client and the accounts see them: `gkt serve` over strict fakes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.cli.savings import parsed
from gateway.ledger.entry import Query, SavingsRow
from gateway.ledger.reading import read_savings
from gateway.ledger.upkeep import check
from tests.e2e.answers import ask, check_accounts, nano
from tests.e2e.gateways import KEY_ENV, PRICES, routes
from tests.e2e.served import eventually, serving
from tests.e2e.talkers import BUDGET, LENGTH, told
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes

pytestmark = pytest.mark.anyio

SLOW = 1.0
"""Seconds that the teacher takes for a whole answer; its guidance comes at once."""


def pace(body: dict[str, Any]) -> tuple[float, float]:
    return (0.0, 0.0) if body.get("max_completion_tokens") == BUDGET else (SLOW, 0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_has_its_answer_long_before_the_teacher(
    tmp_path: Path, own: Fakes, topic: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own.teacher, "pace", pace)
    config = {
        "upstreams": {"teacher": own.teachers_spec(), "student": own.students_spec()},
        "routes": routes(
            shadowed={**routes()["gkt"], "shadow": 1}, held={**routes()["gkt"], "holdout": 1, "shadow": 1}
        ),
        "prices": PRICES,
    }
    with serving(tmp_path, config, **{KEY_ENV: OpenAI.KEY}) as served:
        answer = ask(served, topic, model="shadowed", stream=stream, max_completion_tokens=30, temperature=0.5)
        assert answer.text == told(topic)
        assert len(own.teacher.about(topic)) <= 2
        entry = check_accounts(served, answer)
        assert (entry["shadow"], entry["shadow_propensity"], entry["arm"]) == (None, 1.0, None), "it is not over yet"
        assert entry["baseline"]["method"] == "same_length"

        shadow = eventually(lambda: served.entry(answer.id)["shadow"])
        guidance, whole = own.teacher.about(topic)
        assert (guidance["max_completion_tokens"], whole["max_completion_tokens"]) == (BUDGET, 30)
        assert whole["messages"] == [{"role": "user", "content": topic}]
        assert whole["temperature"] == 0.5
        (call,) = shadow["calls"]
        assert (call["stage"], call["seat"], call["is_open"]) == ("measurement", "teacher", False)
        assert (shadow["outcome"], shadow["measured"]["teacher_output"]) == ("ok", LENGTH)
        assert shadow["measured"]["cost"] == shadow["spent"] == call["amount"] <= call["bound_amount"]
        after = served.entry(answer.id)
        assert after["spent"] == nano(answer.receipt["cost_usd"]), "what the client was told stays"

        row = row_of(served.get("/gkt/v1/savings"))
        assert (row.requests, row.shadows) == (1, {"ok": 1})
        assert row.measurement.nano == shadow["spent"]
        assert row.spent.nano == after["spent"] + shadow["spent"]
        assert {name: amount.nano for name, amount in row.baseline_by_method.items()} == {"measured": shadow["spent"]}
        assert row.saved is not None
        assert row.saved.nano == shadow["spent"] - after["spent"]
        plain = served.get("/gkt/v1/savings")["data"][0]
        assert plain["saved_after_measurement"]["nano_usd"] == -after["spent"]
        assert served.sample("gkt_shadows_total", outcome="ok") == 1

        held = ask(served, topic, model="held", stream=stream)
        assert held.text == told(topic, "teacher")
        assert held.receipt["why"].startswith("holdout: the teacher alone")
        entry = check_accounts(served, held)
        assert (entry["arm"], entry["propensity"], entry["shadow"]) == ("holdout", 1.0, None)
    url = f"sqlite:///{tmp_path}/ledger.db"
    assert check(url) == []
    [row] = read_savings(url, Query())
    assert (row.requests, row.shadows) == (2, {"ok": 1})


def test_a_stop_does_not_wait_for_it(tmp_path: Path, own: Fakes, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.teacher, "pace", lambda body: (pace(body)[0] * 60, 0.0))
    config = {
        "upstreams": {"teacher": own.teachers_spec(), "student": own.students_spec()},
        "routes": routes(shadowed={**routes()["gkt"], "shadow": 1}),
        "prices": PRICES,
    }
    with serving(tmp_path, config, **{KEY_ENV: OpenAI.KEY}) as served:
        answer = ask(served, topic, model="shadowed")
        eventually(lambda: len(own.teacher.about(topic)) == 2)
    [row] = read_savings(f"sqlite:///{tmp_path}/ledger.db", Query())
    assert (row.requests, row.outcomes, row.shadows) == (1, {"ok": 1}, {"abandoned": 1})
    assert answer.text == told(topic)
    eventually(lambda: own.teacher.parted(topic))


def row_of(answer: Any) -> SavingsRow:
    """The only row of an answer, as `gkt savings --url` reads it."""
    (row,) = answer["data"]
    return parsed(row)
