"""Keys as their holders see them: the official client with a stored key, and with a provider key of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e import gateways
from tests.e2e.answers import ask, check_accounts
from tests.e2e.served import Served, eventually, serving
from tests.e2e.talkers import told
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes

ADMIN = "sk-admin-5e4d3c2b1a09"
OWN = "sk-own-fedcba9876543210"
STRANGER = "sk-stranger-9a8b7c6d5e4f"


@dataclass
class Office:
    """A gateway with an admin, and every secret that was ever seen near it."""

    served: Served
    fakes: Fakes
    secrets: set[str] = field(default_factory=lambda: {ADMIN, OWN, STRANGER, OpenAI.KEY})

    def admin(self, method: str, path: str = "", **body: Any) -> Any:
        """Ask about keys as the admin does."""
        sent = json.dumps(body).encode() if body else b""
        status, _, answer = self.served.raw(method, f"/gkt/v1/keys{path}", sent, authorization=f"Bearer {ADMIN}")
        assert status in (200, 201), answer
        if "secret" in answer:
            self.secrets.add(answer["secret"])
        return answer

    def client(self, key: str, **headers: str) -> openai.OpenAI:
        """The official client with that key."""
        return openai.OpenAI(
            base_url=f"{self.served.url}/v1", api_key=key, max_retries=0, timeout=20, default_headers=headers
        )


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A gateway whose callers' keys are all stored; `own` passes their provider keys to a teacher that takes one."""
    with gateways.talking() as fakes, gateways.talking() as others:
        setattr(others.teacher, "KEY", OWN)  # noqa: B010 - a constant of the fake's class
        config = {
            "server": {"admin_key_env": "GKT_E2E_ADMIN"},
            "upstreams": {
                "teacher": fakes.teachers_spec(),
                "student": fakes.students_spec(),
                "theirs": fakes.teachers_spec(base_url=others.teacher.url, api_key_env="GKT_E2E_ABSENT"),
            },
            "routes": gateways.routes(
                own={**gateways.routes()["gkt"], "teacher": "theirs", "pass_key": True, "on_teacher_failure": "error"},
                both={**gateways.routes()["gkt"], "pass_key": True},
            ),
            "prices": gateways.PRICES,
        }
        environ = {gateways.KEY_ENV: OpenAI.KEY, "GKT_E2E_ADMIN": ADMIN}
        with serving(tmp_path_factory.mktemp("office"), config, **environ) as served:
            office = Office(served, gateways.Fakes(others.teacher, fakes.student, fakes.dying))
            first = office.admin("POST", name="the tests' own")
            served.key = first["secret"]
            yield office


def hello(client: openai.OpenAI, model: str, topic: str, **more: Any) -> str:
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": topic}], **more)
    return completion.choices[0].message.content or ""


def test_a_key_that_was_made_over_http(office: Office, topic: str) -> None:
    key = office.admin("POST", name="laptop", owner="ada", models=["gkt*"], strategies=["cut-off"], overrides=[])
    with office.client(key["secret"]) as client:
        assert hello(client, "gkt", topic) == told(topic)
        assert [model.id for model in client.models.list()] == ["gkt", "gkt-concise", "gkt-hint"]
        with pytest.raises(openai.NotFoundError) as missing:
            hello(client, "teacher", topic)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("teacher")
        with pytest.raises(openai.PermissionDeniedError, match="allowed are: cut-off"):
            hello(client, "gkt-hint", topic)
        with pytest.raises(openai.PermissionDeniedError, match="override"):
            hello(client, "gkt", topic, extra_body={"gkt": {"guidance_tokens": 3}})
        office.admin("DELETE", f"/{key['id']}")
        with pytest.raises(openai.AuthenticationError, match="was revoked") as revoked:
            hello(client, "gkt", topic)
        assert revoked.value.code == "invalid_api_key"


def test_limits_as_the_client_sees_them(office: Office, topic: str) -> None:
    key = office.admin("POST", name="slow", requests_per_minute=2, tokens_per_minute=100_000)
    with office.client(key["secret"]) as client:
        ask: Any = {"model": "gkt", "messages": [{"role": "user", "content": topic}]}
        for stream in (False, True):
            raw = client.chat.completions.with_raw_response.create(**ask, stream=stream)
            assert raw.headers["x-ratelimit-limit-requests"] == "2"
            assert raw.headers["x-ratelimit-remaining-requests"] == "01"[not stream]
            assert int(raw.headers["x-ratelimit-remaining-tokens"]) < 100_000
            if stream:
                list(raw.parse())
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(**ask)
    error, headers = limited.value, limited.value.response.headers
    assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_exceeded")
    assert 0 < int(headers["retry-after"]) <= 30
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")


def test_a_budget_as_the_client_sees_it(office: Office, topic: str) -> None:
    key = office.admin("POST", name="poor", budgets=[{"usd": 0.05, "per": "month"}, {"usd": "1", "per": "total"}])
    assert key["budgets"] == [{"usd": "0.05", "per": "month"}, {"usd": "1", "per": "total"}]
    with office.client(key["secret"]) as client:
        completion = client.chat.completions.create(
            model="gkt", messages=[{"role": "user", "content": topic}], max_tokens=200
        )
        receipt = completion.model_dump()["gkt"]
        used = office.admin("GET", f"/{key['id']}")["used"]
        assert [each["used_usd"] for each in used] == [receipt["cost_usd"]] * 2
        # Without max_tokens the answer may be as long as the teacher can write, should the student fail.
        with pytest.raises(openai.RateLimitError, match=r"budget of \$0\.05 per month") as over:
            hello(client, "gkt", topic)
    assert (over.value.code, over.value.type) == ("insufficient_quota", "insufficient_quota")
    assert over.value.response.headers["x-should-retry"] == "false"
    assert office.admin("GET", f"/{key['id']}")["used"] == used


def test_limits_and_budgets_at_a_terminal(office: Office) -> None:
    words = ["--budget", "10/day", "--budget", "$99.5/total", "--rpm", "60", "--tpm", "90000", "--concurrent", "4"]
    made = json.loads(office.served.run("keys", "create", "limited", *words, "--json"))
    office.secrets.add(made["secret"])
    assert made["budgets"] == [{"usd": "10", "per": "day"}, {"usd": "99.5", "per": "total"}]
    assert (made["requests_per_minute"], made["tokens_per_minute"], made["concurrent"]) == (60, 90_000, 4)
    assert "$10/day, $99.5/total" in " ".join(office.served.run("keys", "list").split())


def test_a_key_that_was_made_at_a_terminal(office: Office, topic: str) -> None:
    made = json.loads(office.served.run("keys", "create", "script", "--json"))
    office.secrets.add(made["secret"])
    with office.client(made["secret"]) as client:
        assert eventually(lambda: works(client, topic))
        new = office.served.run("keys", "rotate", made["id"]).strip()
        office.secrets.add(new)
        assert eventually(lambda: not works(client, topic))
    with office.client(new) as client:
        assert works(client, topic)


def works(client: openai.OpenAI, topic: str) -> bool:
    try:
        return hello(client, "gkt", topic) == told(topic)
    except openai.AuthenticationError:
        return False


def test_a_key_of_one_process_is_a_key_of_all(office: Office, tmp_path: Any, topic: str) -> None:
    import yaml

    assert office.served.config is not None
    config = yaml.safe_load(office.served.config.read_text())
    key = office.admin("POST", name="both")
    environ = {gateways.KEY_ENV: OpenAI.KEY, "GKT_E2E_ADMIN": ADMIN}
    with serving(tmp_path, config, key=key["secret"], **environ) as second:
        assert hello(second.sdk, "gkt", topic) == told(topic)
        office.admin("DELETE", f"/{key['id']}")
        assert eventually(lambda: not works(second.sdk, topic))


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_key_of_ones_own(office: Office, stream: bool, topic: str) -> None:
    headers = {"x-gkt-provider-key": OWN}
    answer = ask(office.served, topic, model="own", stream=stream, extra_headers=headers)
    assert answer.text == told(topic)
    entry = check_accounts(office.served, answer)
    assert OWN not in json.dumps([entry, answer.receipt, dict(answer.headers)])
    assert office.fakes.teacher.about(topic)
    assert {each.get("Authorization") for each in office.fakes.teacher.headers[-1:]} == {f"Bearer {OWN}"}
    assert office.fakes.student.about(topic)
    for each in office.fakes.student.headers:
        assert "Authorization" not in each
        assert OWN not in str(each)


def test_a_provider_key_that_is_wrong_or_not_there(office: Office, topic: str) -> None:
    with office.client(office.served.key, **{"x-gkt-provider-key": STRANGER}) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            hello(client, "own", topic)
        assert wrong.value.code == "invalid_provider_key"
        with pytest.raises(openai.BadRequestError, match="leave the header out"):
            hello(client, "gkt", topic)
    with pytest.raises(openai.AuthenticationError, match="x-gkt-provider-key") as without:
        hello(office.served.sdk, "own", topic)
    assert without.value.code == "provider_key_required"
    assert STRANGER not in f"{wrong.value} {wrong.value.body}"
    assert office.fakes.student.about(topic) == []


def test_where_the_gateway_has_a_key_too_the_callers_comes_first(office: Office, topic: str) -> None:
    assert hello(office.served.sdk, "both", topic) == told(topic)
    with office.client(office.served.key, **{"x-gkt-provider-key": OWN}) as client:
        # The teacher takes the gateway's key only, so the student answers alone: it is the caller's that was sent.
        assert hello(client, "both", topic) == told(topic, "student")
        with pytest.raises(openai.AuthenticationError):
            hello(client, "both", topic, extra_body={"gkt": {"strategy": "teacher"}})


def test_nothing_that_the_gateway_writes_holds_a_secret(office: Office, topic: str) -> None:
    """Log, database with its files beside it, lists of keys, errors; after keys were made, used, misused and lost."""
    key = office.admin("POST", name="grep")
    said = [json.dumps(office.admin("GET"))]
    for secret, headers in (
        (key["secret"], {"x-gkt-provider-key": OWN}),
        (key["secret"], {"x-gkt-provider-key": STRANGER}),
        (STRANGER, {}),
        (ADMIN, {}),
        (key["secret"], {"x-gkt-provider-key": f"{OWN} and more"}),
    ):
        with office.client(secret, **headers) as client:
            for model in ("own", "both", "gkt", "gpt-9"):
                for stream in (False, True):
                    try:
                        request: Any = {"model": model, "messages": [{"role": "user", "content": topic}]}
                        said += [str(each) for each in client.chat.completions.create(stream=stream, **request)]
                    except openai.APIStatusError as error:
                        said.append(f"{error.message} {error.body} {dict(error.response.headers)}")
    said.append(json.dumps(office.admin("DELETE", f"/{key['id']}")))
    said += [office.served.run("keys", "list", "--all"), office.served.run("keys", "list", "--all", "--json")]
    said.append(office.served.log())
    files = [path.read_bytes() for path in office.served.folder.iterdir()]
    assert len(office.secrets) > 5
    for secret in office.secrets:
        assert not any(secret in text for text in said)
        assert not any(secret.encode() in file for file in files)
