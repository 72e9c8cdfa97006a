"""Keys over HTTP: the real application over a real ledger, asked with the admin's key and without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.errors import Busy

pytestmark = pytest.mark.anyio

ADMIN = "sk-admin-5e4d3c2b1a09"


@asynccontextmanager
async def gateway(url: str, *, admin: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with one scripted model, which sends the admin's key."""
    server = {"admin_key_env": "ADMIN"} if admin else {}
    route = {"strategy": "student", "student": "s"}
    config = Config.parse(
        {
            "ledger": {"url": url},
            "server": server,
            "upstreams": {"s": {"kind": "scripted"}},
            "routes": {"gkt": route, "other": route},
        }
    )
    async with open_gateway(config, environ={"ADMIN": ADMIN}) as opened:
        app = create_app(config, opener=lambda _: nullcontext(opened))
        async with app.router.lifespan_context(app):
            door = httpx.ASGITransport(app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {ADMIN}"}
            async with httpx.AsyncClient(transport=door, base_url="http://127.0.0.1", headers=headers) as client:
                yield client


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(url) as client:
        yield client


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must be in OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return dict(response.json()["error"])


def written(folder: Path, secret: str) -> list[str]:
    """The files that hold the secret."""
    return [file.name for file in folder.iterdir() if secret.encode() in file.read_bytes()]


async def chat(http: httpx.AsyncClient, secret: str, model: str = "gkt", **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {secret}", **headers})


async def test_what_is_used_of_budgets_and_that_nobody_knows(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await http.post("/gkt/v1/keys", json={"name": "k", "budgets": [{"usd": 2, "per": "week"}]})).json()
    key = (await http.get(f"/gkt/v1/keys/{made['id']}")).json()
    assert key["used"] == [{"usd": "2", "per": "week", "used_usd": "0"}]

    async def away(*_: Any) -> None:
        raise Busy("away")

    monkeypatch.setattr("gateway.shared.sql_budget.SqlBudget.used", away)
    response = await http.get(f"/gkt/v1/keys/{made['id']}")
    assert (response.status_code, response.json()) == (200, {**key, "used": None})


async def test_the_life_of_a_key(http: httpx.AsyncClient, tmp_path: Path) -> None:
    made = await http.post(
        "/gkt/v1/keys",
        json={"name": "laptop", "owner": "ada", "tags": ["a"], "models": ["gk?"], "expires_at": "2999-01-01"},
    )
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    secret, key_id = key.pop("secret"), key["id"]
    assert (key["object"], key["status"], key["models"], key["expires_at"]) == ("key", "active", ["gk?"], 32472144000.0)
    assert key["secrets"][0]["hint"] == secret[:8]
    listed = (await http.get("/gkt/v1/keys")).json()
    assert listed == {"object": "list", "data": [key]}
    assert (await http.get(f"/gkt/v1/keys/{key_id}")).json() == key | {"used": []}

    assert (await chat(http, secret)).status_code == 200
    assert error(await chat(http, secret, "other"), 404)["code"] == "model_not_found"
    assert error(await chat(http, "gkt_wrong"), 401)["code"] == "invalid_api_key"
    models = await http.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert [model["id"] for model in models.json()["data"]] == ["gkt"]
    hidden = await http.get("/v1/models/other", headers={"authorization": f"Bearer {secret}"})
    assert error(hidden, 404)["code"] == "model_not_found"

    rotated = await http.post(f"/gkt/v1/keys/{key_id}/rotate", json={"grace_seconds": 60})
    new = rotated.json().pop("secret")
    assert new != secret
    assert [(await chat(http, each)).status_code for each in (secret, new)] == [200, 200]
    newer = (await http.post(f"/gkt/v1/keys/{key_id}/rotate")).json()["secret"]
    assert [(await chat(http, each)).status_code for each in (secret, new, newer)] == [401, 401, 200]
    assert "replaced by a new one" in error(await chat(http, new), 401)["message"]

    gone = await http.delete(f"/gkt/v1/keys/{key_id}")
    assert (gone.status_code, gone.json()["status"], gone.json()["secrets"]) == (200, "revoked", [])
    assert (await http.delete(f"/gkt/v1/keys/{key_id}")).json() == gone.json()
    assert error(await chat(http, newer), 401)["message"] == "This API key was revoked."
    assert error(await http.post(f"/gkt/v1/keys/{key_id}/rotate"), 400)["code"] == "key_revoked"
    rest = (await http.get("/gkt/v1/keys")).text + gone.text
    for each in (secret, new, newer):
        assert each not in rest
        assert not written(tmp_path, each)


async def test_the_accounts_know_a_caller_by_its_key(http: httpx.AsyncClient) -> None:
    key = (await http.post("/gkt/v1/keys", json={"name": "k"})).json()
    answer = (await chat(http, key["secret"])).json()
    entry = await http.get(f"/gkt/v1/requests/{answer['id']}", headers={"authorization": f"Bearer {key['secret']}"})
    assert entry.json()["caller"] == key["id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gkt/v1/keys"),
        ("POST", "/gkt/v1/keys"),
        ("GET", "/gkt/v1/keys/key_1"),
        ("DELETE", "/gkt/v1/keys/key_1"),
        ("POST", "/gkt/v1/keys/key_1/rotate"),
    ],
)
async def test_only_the_admin_may(http: httpx.AsyncClient, url: str, method: str, path: str) -> None:
    secret = (await http.post("/gkt/v1/keys", json={"name": "k"})).json()["secret"]
    for header in (f"Bearer {secret}", "Bearer wrong", "Basic x", ""):
        response = await http.request(method, path, headers={"authorization": header}, content=b"{" * 10_000_000)
        assert error(response, 401)["code"] == "invalid_api_key", "and the body is not looked at"
    async with gateway(url.replace("ledger", "other"), admin=False) as without:
        assert "admin_key_env" in error(await without.request(method, path), 403)["message"]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        (b"{}", "name", "required"),
        (b'{"name": 1}', "name", "string"),
        (b'{"name": ""}', "name", "printable"),
        (b'{"name": "a\\u0000"}', "name", "printable"),
        (b'{"name": "k", "model": ["gkt"]}', None, "did you mean 'models'?"),
        (b'{"name": "k", "models": [1]}', "models.0", "string"),
        (b'{"name": "k", "strategies": ["cutoff"]}', "strategies.0", "cut-off"),
        (b'{"name": "k", "overrides": ["tokens"]}', "overrides", "guidance_tokens"),
        (b'{"name": "k", "expires_at": "tomorrow"}', "expires_at", "2026-11-24"),
        (b'{"name": "k", "expires_at": "2020-01-01"}', "expires_at", "future"),
        (b'{"name": "k", "id": "key_mine"}', None, "unknown key 'id'"),
        (b"[]", None, "Invalid request"),
        (b"{", None, "not valid JSON"),
    ],
)
async def test_a_key_that_cannot_be_made(http: httpx.AsyncClient, body: bytes, param: str | None, told: str) -> None:
    fault = error(await http.post("/gkt/v1/keys", content=body), 400)
    assert (fault["param"], fault["type"]) == (param, "invalid_request_error")
    assert told in fault["message"]
    assert (await http.get("/gkt/v1/keys")).json()["data"] == []


@pytest.mark.parametrize("grace", [b'"x"', b"-1", b"1e300", b"NaN"])
async def test_a_grace_that_cannot_be_given(http: httpx.AsyncClient, grace: bytes) -> None:
    key = (await http.post("/gkt/v1/keys", json={"name": "k"})).json()
    response = await http.post(f"/gkt/v1/keys/{key['id']}/rotate", content=b'{"grace_seconds": %s}' % grace)
    assert response.status_code == 400
    assert (await chat(http, key["secret"])).status_code == 200


async def test_what_is_not_there(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", "key_1"), ("DELETE", "key_1"), ("POST", "key_1/rotate")):
        assert error(await http.request(method, f"/gkt/v1/keys/{path}"), 404)["code"] == "key_not_found"
    assert error(await http.put("/gkt/v1/keys"), 405)["code"] == "method_not_allowed"
    assert error(await http.post("/gkt/v1/keys", content=b" " * 100_000), 413)["code"] == "request_too_large"


async def test_many_keys_at_once(http: httpx.AsyncClient) -> None:
    made = await asyncio.gather(*(http.post("/gkt/v1/keys", json={"name": f"k{n}"}) for n in range(20)))
    secrets = [each.json()["secret"] for each in made]
    answers = await asyncio.gather(*(chat(http, secret) for secret in secrets))
    assert {answer.status_code for answer in answers} == {200}
    assert len((await http.get("/gkt/v1/keys")).json()["data"]) == 20


async def test_strategies_and_overrides_of_a_key(http: httpx.AsyncClient) -> None:
    limits = {"name": "k", "strategies": ["cut-off"], "overrides": ["strategy"]}
    secret = (await http.post("/gkt/v1/keys", json=limits)).json()["secret"]
    fault = error(await chat(http, secret), 403)
    assert (fault["code"], fault["param"]) == ("permission_denied", "gkt.strategy")
    assert "allowed are: cut-off" in fault["message"]
    narrow = (await http.post("/gkt/v1/keys", json={"name": "k", "overrides": []})).json()["secret"]
    assert "allowed are: none" in error(await chat(http, narrow, **{"x-gkt-student": "s"}), 403)["message"]
