"""Feedback and the report made of it: a real gateway, its real ledger, and callers who see their own alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.pipeline import Gateway
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

ALICE, BOB, ADMIN = "key-of-alice", "key-of-bob", "key-of-the-admin"
CHAT = {"model": "gkt", "messages": [{"role": "user", "content": "What is 3 * 6?"}]}


class Talk:
    """The application, asked by whoever holds a key."""

    def __init__(self, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.http = http

    async def ask(self, key: str = ALICE) -> str:
        """Ask the question; the id of the request."""
        response = await self.http.post("/v1/chat/completions", json=CHAT, headers=bearer(key))
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    async def say(self, body: Any, key: str | None = ALICE) -> httpx.Response:
        content = body if isinstance(body, bytes) else None
        json = None if content is not None else body
        return await self.http.post("/gkt/v1/feedback", content=content, json=json, headers=bearer(key) if key else {})

    async def tradeoff(self, status: int = 200, key: str = ADMIN, **query: str) -> dict[str, Any]:
        response = await self.http.get("/gkt/v1/tradeoff", params=query, headers=bearer(key))
        assert response.status_code == status, response.text
        return dict(response.json())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def talk(folder: Path, draw: Any = lambda: 0.5, **route: Any) -> AsyncGenerator[Talk, None]:
    config = Config.parse(
        {
            "server": {"admin_key_env": "T_ADMIN", "keys_env": "T_KEYS"},
            "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
            "upstreams": {
                "teacher": {"kind": "scripted", "model": "gpt-6-sol"},
                "student": {"kind": "scripted", "model": "mine"},
            },
            "routes": {"gkt": {"strategy": "student", "teacher": "teacher", "student": "student", **route}},
            "prices": {"gpt-6-sol": {"input": 2, "output": 10}, "mine": {"input": 0.1, "output": 0.1}},
        }
    )
    engines = {"teacher": Scripted("teacher", "It is #### 18"), "student": Scripted("student", "Is it not #### 18")}
    environ = {"T_KEYS": f"{ALICE},{BOB}", "T_ADMIN": ADMIN}
    async with open_gateway(config, environ=environ, engines=engines, draw=draw) as gateway:
        app = create_app(config, opener=lambda _: nullcontext(gateway))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            yield Talk(gateway, http)


async def test_the_last_word_of_the_caller_counts(tmp_path: Path) -> None:
    async with talk(tmp_path) as site:
        name = await site.ask()
        first = await site.say({"request_id": name, "label": "bad"})
        assert first.json() == {"object": "feedback", "request_id": name, "score": 0.0, "label": "bad"}
        assert (await site.say({"request_id": name, "score": 0.5})).status_code == 200
        entry = (await site.http.get(f"/gkt/v1/requests/{name}", headers=bearer(ALICE))).json()
        assert entry["scores"]["feedback"]["value"] == 0.5
        assert entry["scores"]["feedback"]["label"] is None
        assert (await site.say({"request_id": name, "score": 1}, ADMIN)).status_code == 200, "the admin may too"


async def test_others_have_no_say(tmp_path: Path) -> None:
    async with talk(tmp_path, shadow=1) as site:
        name = await site.ask()
        for body, key, status in (
            ({"request_id": name, "score": 0}, BOB, 404),
            ({"request_id": "nobody", "score": 0}, ALICE, 404),
            ({"request_id": f"{name}-shadow", "score": 0}, ADMIN, 404),
            ({"request_id": name, "score": 0}, None, 401),
            ({"request_id": name, "score": 0}, "wrong", 401),
        ):
            response = await site.say(body, key)
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        entry = (await site.http.get(f"/gkt/v1/requests/{name}", headers=bearer(ALICE))).json()
        assert "feedback" not in entry["scores"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"request_id": "x"}, None),
        ({"request_id": "x", "score": 1, "label": "good"}, None),
        ({"request_id": "x", "score": 1.1}, "score"),
        ({"request_id": "x", "score": -0.1}, "score"),
        ({"request_id": "x", "label": "fine"}, "label"),
        ({"request_id": "", "score": 1}, "request_id"),
        ({"request_id": "x" * 201, "score": 1}, "request_id"),
        ({"score": 1}, "request_id"),
        ({"request_id": "x", "score": 1, "comment": "nice"}, "comment"),
        (b'{"request_id": "x", "score": NaN}', "score"),
        (b"no json", None),
    ],
)
async def test_what_is_no_feedback(tmp_path: Path, body: Any, param: str | None) -> None:
    async with talk(tmp_path) as site:
        response = await site.say(body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] in (param, None)
        large = await site.say(b'{"request_id": "' + b"x" * 5_000)
        assert large.status_code == 413


async def test_a_report_says_what_to_do_first(tmp_path: Path) -> None:
    async with talk(tmp_path) as site:
        told = await site.tradeoff()
        (route,) = told["data"]
        assert (route["route"], route["requests"], route["retention"]) == ("gkt", 0, {"status": "not_measured"})
        assert "holdout: 0.05" in route["advice"]
        assert (await site.tradeoff(400, by="day"))["error"]["message"].endswith("Allowed are: since, until.")
        await site.tradeoff(401, ALICE)


async def test_a_report_of_holdouts_and_scores(tmp_path: Path) -> None:
    """Every third request is a holdout; of its answers all are good, of the others half."""
    turns = iter(range(10_000))
    async with talk(tmp_path, draw=lambda: 0.0 if next(turns) % 3 == 0 else 0.9, holdout=0.3333) as site:
        for number in range(60):
            name = await site.ask()
            good = number % 3 == 0 or number % 2 == 0
            await site.say({"request_id": name, "label": "good" if good else "bad"})
        (route,) = (await site.tradeoff())["data"]
        assert (route["requests"], route["holdouts"], route["scored"]) == (60, 20, 40)
        assert route["accuracy"]["value"] == pytest.approx(0.5, abs=0.05)
        assert route["retention"]["status"] == "too_few_failures", "the teacher never failed"
        assert route["retention"]["low"] < 0.5 < route["retention"]["high"]
        assert route["costs_measured_by"] == "holdout"
        assert route["cost_share"]["status"] == "measured"
        assert route["cost_share"]["smallest_propensity"] == pytest.approx(0.3333)
        assert 0 < route["cost_share"]["low"] <= route["cost_share"]["value"] <= route["cost_share"]["high"] < 0.5
        assert float(route["measurement"]["holdouts_extra_usd"]) > 0
        assert route["measurement"]["shadows_usd"] == "0"
        assert "Fewer than ten failures" in route["advice"]
        nobody = await site.tradeoff(until="2020-01-01")
        assert nobody["data"][0]["requests"] == 0


async def test_a_report_of_shadows_without_a_label(tmp_path: Path) -> None:
    async with talk(tmp_path, shadow=1) as site:
        for _ in range(12):
            await site.ask()
            await site.gateway.idle()
        (route,) = (await site.tradeoff())["data"]
        assert (route["shadows"], route["agreement"]["value"]) == (12, 1.0)
        assert route["agreement"]["status"] == "too_few_failures"
        assert route["agreement"]["low"] < 0.8
        assert route["costs_measured_by"] == "shadow"
        assert float(route["measurement"]["shadows_usd"]) > 0
