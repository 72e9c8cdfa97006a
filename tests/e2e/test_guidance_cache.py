"""Guidance that is kept, as the official client, the teacher and the accounts see it: `gkt serve` over strict fakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from gateway.ledger.entry import Query
from gateway.ledger.reading import read_savings
from gateway.ledger.upkeep import check
from tests.e2e.answers import Answer, ask, check_accounts, nano, whole
from tests.e2e.gateways import KEY_ENV, PRICES, routes, talking
from tests.e2e.served import Served, eventually, serving
from tests.e2e.talkers import told
from tests.fakes import OpenAI
from tests.gateway.shared.server import RedisServer, redis_server

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes

LONG = 3600
KEYS = ("sk-first-tenant-0123456789", "sk-second-tenant-0123456789")
ADMIN = "sk-admin-0a1b2c3d4e5f"


def config(fakes: Fakes, **more: Any) -> dict[str, Any]:
    keeps = {name: {**route, "guidance_cache": LONG} for name, route in routes().items()}
    return {
        "upstreams": {"teacher": fakes.teachers_spec(), "student": fakes.students_spec()},
        "routes": {**keeps, "brief": {**keeps["gkt"], "guidance_cache": 1}, "off": routes()["gkt"]},
        "prices": PRICES,
        **more,
    }


@pytest.fixture(scope="module")
def own() -> Iterator[Fakes]:
    """Fakes that only these tests ask, each about a topic of its own."""
    with talking() as fakes:
        yield fakes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, own: Fakes) -> Iterator[Served]:
    """A gateway that only they ask."""
    with serving(tmp_path_factory.mktemp("keeping"), config(own), **{KEY_ENV: OpenAI.KEY}) as served:
        yield served


def counted(served: Served) -> Counter[str]:
    """What is on record so far, and what Prometheus was told."""
    rows = served.get("/gkt/v1/savings")["data"]
    return Counter(
        {
            "nano-dollars of guidance": sum(row["spent_by_stage"]["guidance"]["nano_usd"] for row in rows),
            "stored": int(served.sample("gkt_guidance_cache_total", outcome="stored")),
            "hit": int(served.sample("gkt_guidance_cache_total", outcome="hit")),
            "guidance": int(served.sample("gkt_stage_duration_seconds_count", stage="guidance")),
            "requests": sum(summed.requests for summed in read_savings(ledger(served), Query())),
        }
    )


def ledger(served: Served) -> str:
    return f"sqlite:///{served.folder}/ledger.db"


def cache(answer: Answer) -> str | None:
    return str(answer.receipt["guidance"]["cache"])


@pytest.mark.parametrize(("model", "strategy"), [("gkt", "cut-off"), ("gkt-concise", "concise"), ("gkt-hint", "hint")])
def test_the_teacher_is_asked_once(served: Served, own: Fakes, topic: str, model: str, strategy: str) -> None:
    before = counted(served)
    first = ask(served, topic, model=model, temperature=0.3)
    again = ask(served, topic, model=model, temperature=0.7)
    streamed = ask(served, topic, model=model, temperature=0.7, stream=True)
    assert [each.text for each in (first, again, streamed)] == [told(topic, strategy)] * 3
    assert [cache(each) for each in (first, again, streamed)] == ["stored", "hit", "hit"]
    assert len(own.teacher.about(topic)) == 1
    assert len(own.student.about(topic)) == 3
    assert [body["temperature"] for body in own.student.about(topic)] == [0.3, 0.7, 0.7]
    assert first.usage == again.usage == streamed.usage

    paid = nano(first.stage("guidance")["cost_usd"])
    assert paid
    check_accounts(served, first)
    for hit in (again, streamed):
        entry = check_accounts(served, hit)
        assert [stage["stage"] for stage in hit.receipt["stages"]] == ["answer"]
        assert (entry["guidance_cache"], entry["avoided"]) == ("hit", paid)
        assert nano(hit.receipt["guidance"]["avoided_usd"]) == paid
        assert hit.receipt["baseline"]["likely_usd"] == first.receipt["baseline"]["likely_usd"]
        assert entry["teacher_tokens"] == 0
    wanted = {"nano-dollars of guidance": paid, "stored": 1, "hit": 2, "guidance": 1, "requests": 3}
    assert counted(served) - before == wanted
    assert check(ledger(served)) == []


def test_other_questions_are_other_ones(served: Served, own: Fakes, topic: str) -> None:
    asked = 0
    for changed in (
        {},
        {"messages": [{"role": "user", "content": f"Tell me about {topic}."}]},
        {"extra_body": {"gkt": {"guidance_tokens": 7}}},
        {"max_completion_tokens": 3},
        {"service_tier": "default"},
        {"reasoning_effort": "none", "safety_identifier": "end-user-1"},
    ):
        for outcome in ("stored", "hit"):
            assert cache(ask(served, topic, **{"model": "gkt", **changed})) == outcome, changed
        asked += 1
        assert len(own.teacher.about(topic)) == asked
    ask(served, topic, model="off")
    assert len(own.teacher.about(topic)) == asked + 1


@pytest.mark.parametrize(
    "how", [{"extra_body": {"gkt": {"cache": False}}}, {"extra_headers": {"x-gkt-cache": "false"}}]
)
def test_a_request_may_pass_it_by(served: Served, own: Fakes, topic: str, how: dict[str, Any]) -> None:
    for outcome in ("stored", "hit"):
        assert cache(ask(served, topic, model="gkt")) == outcome
    passed = ask(served, topic, model="gkt", **how)
    assert cache(passed) == "bypassed"
    assert check_accounts(served, passed)["guidance_cache"] == "bypassed"
    assert len(own.teacher.about(topic)) == 2
    with pytest.raises(openai.BadRequestError, match="only false is allowed"):
        ask(served, topic, model="gkt", extra_body={"gkt": {"cache": True}})


def test_after_its_time_the_teacher_is_asked_anew(served: Served, own: Fakes, topic: str) -> None:
    first = ask(served, topic, model="brief")
    assert cache(first) == "stored"

    def anew() -> bool:
        return cache(ask(served, topic, model="brief")) == "stored"

    eventually(anew)
    assert len(own.teacher.about(topic)) == 2


def test_another_tenant_asks_anew(tmp_path: Path, own: Fakes, topic: str) -> None:
    keyed = config(own, server={"keys_env": "GKT_E2E_KEYS", "admin_key_env": "GKT_E2E_ADMIN"})
    environ = {KEY_ENV: OpenAI.KEY, "GKT_E2E_KEYS": ",".join(KEYS), "GKT_E2E_ADMIN": ADMIN}
    with serving(tmp_path, keyed, key=KEYS[0], **environ) as served:
        outcomes = []
        for key in (*KEYS, *KEYS):
            said: Any = [{"role": "user", "content": topic}]
            client = served.sdk.with_options(api_key=key)
            outcomes.append(cache(whole(client.chat.completions.create(model="gkt", messages=said))))
        assert outcomes == ["stored", "stored", "hit", "hit"]
        assert len(own.teacher.about(topic)) == 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield server


def test_replicas_share_it_in_redis_and_do_without(tmp_path: Path, own: Fakes, topic: str, redis: RedisServer) -> None:
    shared = config(own, shared={"redis_url_env": "GKT_E2E_REDIS"})
    environ = {KEY_ENV: OpenAI.KEY, "GKT_E2E_REDIS": redis.url}
    with ExitStack() as stack:
        served = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            served.append(stack.enter_context(serving(tmp_path / name, shared, **environ)))
        first, second = (ask(each, topic, model="gkt") for each in served)
        assert [cache(each) for each in (first, second)] == ["stored", "hit"]
        assert first.text == second.text == told(topic)
        assert len(own.teacher.about(topic)) == 1
        assert check_accounts(served[1], second)["avoided"] == nano(first.stage("guidance")["cost_usd"])
        with redis.client() as client:
            keys = [str(key) for key in client.scan_iter("*{cache}*")]
        assert len(keys) == 3
        assert not any(topic in key for key in keys)

        redis.kill()
        alone = ask(served[0], topic, model="gkt")
        assert (cache(alone), alone.text) == ("miss", told(topic)), "it is not there, and cannot be kept"
        assert served[0].sample("gkt_redis_outages_total") == 1
        assert served[0].sample("gkt_redis_away") == 1
        redis.start()
        for each in served:  # each finds out for itself that it is back

            def hit(each: Served = each) -> bool:
                return cache(ask(each, topic, model="gkt")) == "hit"

            eventually(hit)
