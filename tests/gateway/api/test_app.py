"""Everything beside the chat: models, health, accounts, and errors in one shape wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from gateway.api.admin import instant
from gateway.ledger.entry import Query, SavingsRow
from pricing.money import Money


@pytest.fixture
def http(live: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {live.key}"}, timeout=10) as http:
        yield http


@pytest.fixture
def admin(live: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {live.admin}"}, timeout=10) as admin:
        yield admin


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must be in OpenAI's shape and carry an id."""
    assert response.status_code == status
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_models_with_the_sdk(live: Any) -> None:
    with OpenAI(base_url=live.url + "/v1", api_key=live.key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["gkt", "org/model"]
        assert client.models.retrieve("org/model").id == "org/model"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("nobody/here")
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gkt", "/gkt/v1/savings", "/gkt/v1/requests/x"])
def test_a_key_is_asked_for(live: Any, path: str) -> None:
    assert error(httpx.get(live.url + path), 401)["code"] == "invalid_api_key"


def test_health_needs_no_key(live: Any) -> None:
    assert httpx.get(live.url + "/healthz").json() == {"status": "ok"}
    assert httpx.get(live.url + "/readyz").status_code == 200
    live.stub.ready = False
    response = httpx.get(live.url + "/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False}  # the state of the upstreams is for those who may ask them
    known = httpx.get(live.url + "/readyz", headers={"Authorization": f"Bearer {live.key}"})
    assert known.json() == {"ready": False, "upstreams": {"student": {"ready": False}}}
    assert httpx.get(live.url + "/healthz").status_code == 200
    assert httpx.head(live.url + "/healthz").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/embeddings", "/chat/completions", "/docs", "/openapi.json", "/v1/models-"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path(http: httpx.Client, method: str, path: str) -> None:
    fault = error(http.request(method, path), 404)
    assert (fault["code"], fault["type"]) == ("unknown_url", "invalid_request_error")
    assert path in fault["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/gkt", "GET"),
        ("PUT", "/healthz", "GET"),
        ("POST", "/gkt/v1/savings", "GET"),
    ],
)
def test_a_method_that_is_not_allowed(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = http.request(method, path)
    assert error(response, 405)["code"] == "method_not_allowed"
    assert allowed in response.headers["allow"]
    options = http.options(path)
    assert (options.status_code, options.content) == (204, b"")
    assert allowed in options.headers["allow"]


def test_the_sdk_sees_a_404_for_what_is_not_there(live: Any) -> None:
    client = OpenAI(base_url=live.url + "/v1", api_key=live.key, max_retries=0)
    with client, pytest.raises(openai.NotFoundError, match="Invalid URL"):
        client.embeddings.create(model="gkt", input="x")


def test_a_fault_of_our_own(live: Any, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("the secret is 42")

    monkeypatch.setattr(live.stub.ledger, "savings", broken)
    response = admin.get("/gkt/v1/savings")
    assert error(response, 500)["type"] == "server_error"
    assert "secret" not in response.text


def row(**fields: Any) -> SavingsRow:
    usual: dict[str, Any] = {
        "group": "2026-11-24",
        "requests": 3,
        "outcomes": {"ok": 2, "failed": 1},
        "spent": Money(1_234_567),
        "spent_by_stage": {"guidance": Money(34_567), "answer": Money(1_200_000)},
        "baseline_by_method": {"same_length": Money(5_000_000_000)},
        "baseline_low": Money(1),
        "baseline": Money(5_000_000_000),
        "baseline_high": None,
        "compared": 2,
        "compared_spent": Money(1_000_000),
        "saved": Money(-1_500_000_000),
        "share": 0.25,
        "wasted": 1,
        "wasted_spent": Money.ZERO,
        "unpriced": 0,
        "notional": Money.ZERO,
        "bound": Money.ZERO,
        "teacher_output_tokens": 40,
        "baseline_output_tokens": 400,
        "output_token_share": None,
    }
    return SavingsRow(**{**usual, **fields})


def test_savings_are_exact(live: Any, admin: httpx.Client) -> None:
    live.stub.ledger.rows = [row(), row(group="2026-11-25")]
    answer = admin.get("/gkt/v1/savings", params={"by": "day", "since": "2026-11-24", "until": "2026-11-26T00:00Z"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["currency"], body["by"]) == ("list", "USD", "day")
    assert [each["group"] for each in body["data"]] == ["2026-11-24", "2026-11-25"]
    first = body["data"][0]
    assert first["spent"] == {"usd": "0.001234567", "nano_usd": 1_234_567}
    assert first["saved"] == {"usd": "-1.5", "nano_usd": -1_500_000_000}
    assert first["baseline"]["usd"] == "5"
    assert first["baseline_high"] is None
    assert first["spent_by_stage"]["guidance"] == {"usd": "0.000034567", "nano_usd": 34_567}
    assert (first["share"], first["outcomes"], first["compared"]) == (0.25, {"ok": 2, "failed": 1}, 2)
    assert live.stub.ledger.asked == [Query(since=1_795_478_400.0, until=1_795_651_200.0, by="day")]


def test_savings_are_filtered(live: Any, admin: httpx.Client) -> None:
    assert admin.get("/gkt/v1/savings").json()["data"] == []
    admin.get("/gkt/v1/savings", params={"model": "org/model", "strategy": "hint"})
    assert live.stub.ledger.asked == [Query(), Query(model="org/model", strategy="hint")]


@pytest.mark.parametrize(
    ("query", "param", "told"),
    [
        ("by=week", "by", "day"),
        ("since=yesterday", "since", "date"),
        ("strategy=wing-it", "strategy", "cut-off"),
        ("strateggy=hint", "strateggy", "strategy"),
        ("by=day&by=model&untill=1", "untill", "until"),
    ],
)
def test_a_wrong_question_about_savings(admin: httpx.Client, query: str, param: str, told: str) -> None:
    fault = error(admin.get(f"/gkt/v1/savings?{query}"), 400)
    assert fault["param"] == param
    assert told in fault["message"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("1795478400.5", 1_795_478_400.5),
        ("2026-11-24", 1_795_478_400.0),
        ("2026-11-24T01:00", 1_795_482_000.0),
        ("2026-11-24T01:00:00+01:00", 1_795_478_400.0),
        ("2026-11-24T01:00:00 01:00", 1_795_478_400.0),
        ("2026-11-24T00:00:00Z", 1_795_478_400.0),
    ],
)
def test_instants(text: str, seconds: float) -> None:
    assert instant(text) == seconds


def test_accounts_need_the_admins_key(http: httpx.Client) -> None:
    assert error(http.get("/gkt/v1/savings"), 401)["message"] == "This needs the admin key."


def test_a_caller_sees_its_own_requests_only(live: Any, http: httpx.Client) -> None:
    mine = live.stub.auth.caller(f"Bearer {live.key}").id
    live.stub.ledger.entries["chatcmpl-1"] = {"request_id": "chatcmpl-1", "caller": mine}
    live.stub.ledger.entries["chatcmpl-2"] = {"request_id": "chatcmpl-2", "caller": "key-of-others"}
    assert http.get("/gkt/v1/requests/chatcmpl-1").json()["caller"] == mine
    assert error(http.get("/gkt/v1/requests/chatcmpl-2"), 404)["code"] == "request_not_found"


def test_one_request(live: Any, admin: httpx.Client) -> None:
    live.stub.ledger.entries["chatcmpl-1"] = {"request_id": "chatcmpl-1", "calls": [{"amount": 5, "usage": None}]}
    assert admin.get("/gkt/v1/requests/chatcmpl-1").json()["calls"] == [{"amount": 5, "usage": None}]
    assert error(admin.get("/gkt/v1/requests/chatcmpl-2"), 404)["code"] == "request_not_found"


def test_every_answer_has_an_id_of_its_own(http: httpx.Client) -> None:
    body = json.dumps({"model": "gkt", "messages": [{"role": "user", "content": "x"}]})
    answers = [http.get("/healthz"), http.get("/nowhere"), http.post("/v1/chat/completions", content=body)]
    answers += [
        http.get("/healthz", headers={"x-request-id": "mine"}),
        http.head("/v1/models"),
        http.options("/v1/models"),
    ]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(each) == 1 for each in ids)
    assert len({each[0] for each in ids}) == len(answers)
    assert ["mine"] not in ids
