"""A whole gateway loses its database, or its life, under load: nobody hangs, and its budgets agree with its ledger."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.e2e import gateways
from tests.e2e.gateways import Fakes
from tests.e2e.served import Served, eventually, serving
from tests.fakes import OpenAI
from tests.gateway.shared.server import redis_server
from tests.postgres_server import SECONDS, PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ADMIN = "sk-admin-5e4d3c2b1a09"
PROMPT = 12.0
"""Seconds within which each request is answered, one way or another, on a machine that has other things to do."""


def options(own: Fakes, **more: Any) -> tuple[dict[str, Any], dict[str, str]]:
    config = {
        "server": {"admin_key_env": "GKT_E2E_ADMIN"},
        "upstreams": {"teacher": own.teachers_spec(), "student": own.students_spec()},
        "routes": gateways.routes(),
        "prices": gateways.PRICES,
        **more,
    }
    return config, {gateways.KEY_ENV: OpenAI.KEY, "GKT_E2E_ADMIN": ADMIN}


def admin(served: Served, method: str, path: str, **body: Any) -> Any:
    sent = json.dumps(body).encode() if body else b""
    status, _, answer = served.raw(method, path, sent, authorization=f"Bearer {ADMIN}")
    assert status in (200, 201), answer
    return answer


def used(served: Served, key: str) -> str:
    (found,) = admin(served, "GET", f"/gkt/v1/keys/{key}")["used"]
    return str(found["used_usd"])


def booked(served: Served, key: str) -> dict[str, Any]:
    rows = {row["group"]: row for row in admin(served, "GET", "/gkt/v1/savings?by=caller")["data"]}
    return dict(rows[key])


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    made = PostgresServer(tmp_path_factory.mktemp("outage"))
    yield made
    made.close()


@dataclass
class Clients:
    """Callers who ask one request after the other."""

    url: str
    stop: bool = False
    slowest: float = 0.0
    answered: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, list[int]] = field(default_factory=dict)

    async def ask(self, name: str, secret: str) -> None:
        answered, refused = self.answered.setdefault(name, []), self.refused.setdefault(name, [])
        messages: Any = [{"role": "user", "content": "Tell me of item-sea."}]
        async with AsyncOpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0, timeout=30) as sdk:
            while not self.stop:
                began = time.monotonic()
                try:
                    done = await sdk.chat.completions.create(model="gkt", messages=messages, max_tokens=32)
                    answered.append(done.id)
                except APIStatusError as error:
                    refused.append(error.status_code)
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(0.02)

    def count(self, name: str) -> int:
        return len(self.answered.get(name, ()))


async def test_an_outage_of_a_whole_gateway(server: PostgresServer, tmp_path: Path, own: Fakes) -> None:
    """Callers without a budget notice nothing; those with one are told to come again; not a cent is missing."""
    config, environ = options(own, ledger={"url": server.url})
    with serving(tmp_path, config, **environ) as served:
        ask = asyncio.to_thread
        keys = {
            "free": await ask(admin, served, "POST", "/gkt/v1/keys", name="free"),
            "bound": await ask(
                admin, served, "POST", "/gkt/v1/keys", name="bound", budgets=[{"usd": "100", "per": "total"}]
            ),
        }
        clients = Clients(served.url)
        tasks = [
            asyncio.create_task(clients.ask(name, keys[name]["secret"])) for name in ("free", "bound") for _ in range(4)
        ]
        await ask(eventually, lambda: clients.count("free") > 8 and clients.count("bound") > 8)
        await ask(server.kill)
        await asyncio.sleep(SECONDS / 2)
        middle = clients.count("free")
        await asyncio.sleep(SECONDS / 2)
        during = clients.count("free")
        assert during > middle, "they are served while it is away"
        assert served.sample_of(ADMIN, "gkt_ledger_away") == 1
        assert served.sample_of(ADMIN, "gkt_ledger_spool_bytes") > 0
        await ask(server.start)
        before = clients.count("bound")
        await ask(eventually, lambda: clients.count("bound") > before + 4)
        clients.stop = True
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert clients.slowest < PROMPT, "nobody hung"
        assert clients.refused["free"] == []
        assert set(clients.refused["bound"]) <= {503}
        await ask(eventually, lambda: served.sample_of(ADMIN, "gkt_ledger_spool_bytes") == 0)
        for name, key in keys.items():
            row = await ask(booked, served, key["id"])
            assert row["outcomes"] == {"ok": clients.count(name)}
            for request_id in clients.answered[name]:
                entry = await ask(admin, served, "GET", f"/gkt/v1/requests/{request_id}")
                assert (entry["outcome"], entry["caller"]) == ("ok", key["id"])
        bound = keys["bound"]["id"]
        spent = (await ask(booked, served, bound))["spent"]["usd"]
        await ask(eventually, lambda: used(served, bound) == spent)
        assert "all sums are what the entries say" in await ask(served.run, "ledger", "rebuild", "--check")


@pytest.mark.parametrize("where", ["database", "redis"])
async def test_after_a_kill_budgets_and_ledger_agree(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, own: Fakes, where: str
) -> None:
    """Three requests are under way whose most is far more than what their calls are booked at."""
    with ExitStack() as stack:
        config, environ = options(own)
        if where == "redis":
            redis = stack.enter_context(redis_server(tmp_path_factory.mktemp("redis")))
            config["shared"] = {"redis_url_env": "GKT_E2E_REDIS"}
            environ["GKT_E2E_REDIS"] = redis.url
        ask = asyncio.to_thread
        with serving(tmp_path, config, **environ) as served:
            key = await ask(admin, served, "POST", "/gkt/v1/keys", name="team", budgets=[{"usd": "10", "per": "total"}])
            own.teacher.paces["item-slow"] = (60.0, 0.0)
            async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key["secret"], max_retries=0) as sdk:

                async def one(text: str) -> Any:
                    messages: Any = [{"role": "user", "content": text}]
                    return await sdk.chat.completions.create(model="gkt", messages=messages)

                await one("Tell me of item-sea.")
                tasks = [asyncio.create_task(one("item-slow")) for _ in range(3)]
                await ask(eventually, lambda: len(served.sql("SELECT id FROM calls WHERE is_open")) == 3)
                assert float(await ask(used, served, key["id"])) > 1, "the most that they can cost is put aside"
                served.process.kill()
                await ask(served.process.wait, 30)
                await asyncio.gather(*tasks, return_exceptions=True)
        with serving(tmp_path, config, **environ) as again:
            row = await ask(booked, again, key["id"])
            assert row["outcomes"] == {"ok": 1, "recovered": 3}
            spent = row["spent"]["usd"]
            await ask(eventually, lambda: used(again, key["id"]) == spent)
            (shown,) = json.loads(await ask(again.run, "keys", "budget", key["id"], "--json"))["data"]
            assert shown["used_usd"] == shown["ledger_usd"] == spent
            if where == "redis":
                with redis.client() as client:
                    client.flushall()
                assert float(await ask(used, again, key["id"])) == 0
            else:
                assert again.sql("SELECT id FROM reservations WHERE run IS NOT NULL") == []
            told = await ask(again.run, "keys", "budget", key["id"], "--recompute", "--json")
            assert json.loads(told)["data"] == [shown]
            assert await ask(used, again, key["id"]) == spent
