"""Several gateways as one, on one PostgreSQL, and with one Redis beside it: keys, budgets, limits, accounts agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest

from tests.e2e import gateways
from tests.e2e.served import Served, eventually, serving
from tests.fakes import OpenAI
from tests.gateway.shared.server import redis_server

ADMIN = "sk-admin-5e4d3c2b1a09"
ASK: dict[str, Any] = {
    "model": "gkt",
    "messages": [{"role": "user", "content": "Tell me of the sea."}],
    "max_tokens": 64,
}
BOTH = ("database", "redis")


@pytest.fixture(scope="module", params=BOTH)
def replicas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Callable[[], str]
) -> Iterator[list[Served]]:
    """Two gateways on one ledger in PostgreSQL, whose budgets are there or in Redis."""
    pytest.importorskip("psycopg")
    with ExitStack() as stack:
        fakes = stack.enter_context(gateways.talking())
        config = {
            "server": {"admin_key_env": "GKT_E2E_ADMIN"},
            "ledger": {"url": postgres()},
            "upstreams": {"teacher": fakes.teachers_spec(), "student": fakes.students_spec()},
            "routes": gateways.routes(),
            "prices": gateways.PRICES,
        }
        environ = {gateways.KEY_ENV: OpenAI.KEY, "GKT_E2E_ADMIN": ADMIN}
        if request.param == "redis":
            server = stack.enter_context(redis_server(tmp_path_factory.mktemp("redis")))
            config["shared"] = {"redis_url_env": "GKT_E2E_REDIS"}
            environ["GKT_E2E_REDIS"] = server.url
        folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
        served = [stack.enter_context(serving(folder, config, **environ)) for folder in folders]
        admin(served[0], "POST", "/gkt/v1/keys", name="first")  # until it knows of one, a gateway asks for none
        eventually(lambda: not any(known(each, "nobody's") for each in served))
        yield served


def admin(served: Served, method: str, path: str, **body: Any) -> Any:
    sent = json.dumps(body).encode() if body else b""
    status, _, answer = served.raw(method, path, sent, authorization=f"Bearer {ADMIN}")
    assert status in (200, 201), answer
    return answer


def known(served: Served, secret: str) -> bool:
    status, _, _ = served.raw("GET", "/v1/models", authorization=f"Bearer {secret}")
    return status == 200


async def burst(replicas: list[Served], secret: str, count: int) -> tuple[int, set[str | None]]:
    """So many requests at once, in turn through each replica: how many were answered, and how the others were not."""
    clients = [
        openai.AsyncOpenAI(base_url=f"{each.url}/v1", api_key=secret, max_retries=0, timeout=60) for each in replicas
    ]
    refused: set[str | None] = set()

    async def one(number: int) -> bool:
        try:
            await clients[number % len(clients)].chat.completions.create(**ASK)
        except openai.RateLimitError as error:
            refused.add(error.code)
            return False
        return True

    answered = sum(await asyncio.gather(*(one(number) for number in range(count))))
    for client in clients:
        await client.close()
    return answered, refused


def test_a_budget_is_one_for_both(replicas: list[Served]) -> None:
    first, second = replicas
    key = admin(first, "POST", "/gkt/v1/keys", name="team", budgets=[{"usd": "0.02", "per": "total"}])
    eventually(lambda: known(second, key["secret"]))
    answered, refused = asyncio.run(burst(replicas, key["secret"], 60))
    assert refused == {"insufficient_quota"}
    assert 0 < answered < 60
    (row,) = admin(second, "GET", "/gkt/v1/savings?by=caller")["data"]
    assert (row["group"], row["requests"]) == (key["id"], answered)
    for each in replicas:
        (used,) = admin(each, "GET", f"/gkt/v1/keys/{key['id']}")["used"]
        assert used["used_usd"] == row["spent"]["usd"]
    assert float(row["spent"]["usd"]) <= 0.02


def test_a_limit_is_one_for_both_with_redis(replicas: list[Served], request: pytest.FixtureRequest) -> None:
    first, second = replicas
    key = admin(first, "POST", "/gkt/v1/keys", name="slow", requests_per_minute=10)
    eventually(lambda: known(second, key["secret"]))
    answered, refused = asyncio.run(burst(replicas, key["secret"], 40))
    together = "redis" in request.node.callspec.id
    # A bucket refills while the burst lasts; each process has one of its own where there is no Redis.
    most = 10 if together else 20
    assert most <= answered <= most + 4
    assert refused == {"rate_limit_exceeded"}


def test_accounts_are_the_same_through_each(replicas: list[Served]) -> None:
    first, second = replicas
    key = admin(first, "POST", "/gkt/v1/keys", name="free")
    eventually(lambda: known(second, key["secret"]))
    client = openai.OpenAI(base_url=f"{first.url}/v1", api_key=key["secret"], max_retries=0)
    with client:
        completion = client.chat.completions.create(**ASK)
    entry = admin(second, "GET", f"/gkt/v1/requests/{completion.id}")
    assert entry["caller"] == key["id"]
    assert admin(first, "GET", "/gkt/v1/savings") == admin(second, "GET", "/gkt/v1/savings")
