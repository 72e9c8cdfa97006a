"""What the official client is told when something is wrong: with the request, with its key, or with a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e import gateways
from tests.e2e.answers import ask, check_accounts
from tests.e2e.served import serving
from tests.e2e.talkers import SHOWN, students_words, teachers_words, told
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served

CALLER = "sk-caller-4f1c9a7e2b8d"
OTHER = "sk-other-7c6b5a493827"
ADMIN = "sk-admin-5e4d3c2b1a09"
STRANGER = "sk-stranger-0d9e8f7a6b5c"
REVOKED = "sk-revoked-1a2b3c4d5e6f"
SECRETS = (CALLER, OTHER, ADMIN, STRANGER, REVOKED, OpenAI.KEY)


@pytest.fixture(scope="module")
def stern(tmp_path_factory: pytest.TempPathFactory, fakes: Fakes) -> Iterator[Served]:
    """A gateway that asks for keys, takes no long requests and serves no other names; some of its models are broken."""
    config = {
        "server": {"keys_env": "GKT_E2E_KEYS", "admin_key_env": "GKT_E2E_ADMIN", "max_body_bytes": 2000},
        "upstreams": {
            "teacher": fakes.teachers_spec(),
            "student": fakes.students_spec(),
            "dying": fakes.students_spec(base_url=fakes.dying.url, probe=False),
            "revoked": fakes.teachers_spec(api_key_env="GKT_E2E_REVOKED"),
            "absent": fakes.students_spec(base_url="http://127.0.0.1:9/v1", model="gpt-6-sol", provider="openai"),
        },
        "routes": gateways.routes(
            revoked={"strategy": "teacher", "teacher": "revoked"},
            strict={
                **gateways.routes()["gkt"],
                "teacher": "revoked",
                "on_teacher_failure": "error",
                "on_student_failure": "error",
            },
        ),
        "prices": gateways.PRICES,
    }
    environ = {
        gateways.KEY_ENV: OpenAI.KEY,
        "GKT_E2E_REVOKED": REVOKED,
        "GKT_E2E_KEYS": f"{CALLER},{OTHER}",
        "GKT_E2E_ADMIN": ADMIN,
    }
    with serving(tmp_path_factory.mktemp("stern"), config, key=CALLER, **environ) as served:
        yield served


class TestPaths:
    def test_models(self, faked: Served) -> None:
        listed = faked.sdk.models.list().data
        assert [model.id for model in listed] == ["gkt", "gkt-concise", "gkt-hint", "teacher", "student"]
        assert {model.object for model in listed} == {"model"}
        assert faked.sdk.models.retrieve("gkt").id == "gkt"
        assert faked.sdk.models.retrieve("any/other").id == "any/other"  # there is a `*`

    def test_an_unknown_model(self, stern: Served, topic: str) -> None:
        for asked in (lambda: stern.sdk.models.retrieve("gpt-9"), lambda: ask(stern, topic, model="gpt-9")):
            with pytest.raises(openai.NotFoundError) as caught:
                asked()
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
            assert "gpt-9" in caught.value.message

    def test_health(self, faked: Served, stern: Served) -> None:
        assert faked.raw("GET", "/healthz")[::2] == (200, {"status": "ok"})
        status, _, ready = faked.raw("GET", "/readyz")
        assert (status, ready["ready"]) == (200, True)
        assert set(ready["upstreams"]) == {"teacher", "student", "dying"}
        assert "continue" in ready["upstreams"]["student"]["abilities"]
        assert "continue" not in ready["upstreams"]["teacher"]["abilities"]
        # It is for machines, which have no key; to them it says no more than they need.
        assert stern.raw("GET", "/readyz")[::2] == (503, {"ready": False})
        status, _, ready = stern.raw("GET", "/readyz", authorization=f"Bearer {CALLER}")
        assert (status, ready["ready"]) == (503, False)
        assert [name for name, state in ready["upstreams"].items() if not state["ready"]] == ["revoked", "absent"]

    def test_no_such_path(self, faked: Served) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            faked.sdk.embeddings.create(model="gkt", input="x")
        assert (caught.value.type, caught.value.code) == ("invalid_request_error", "unknown_url")
        assert "/v1/embeddings" in caught.value.message
        assert caught.value.request_id is not None

    def test_no_such_method(self, faked: Served) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            faked.sdk.chat.completions.list()
        assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")
        assert "POST" in caught.value.message
        with pytest.raises(openai.APIStatusError) as caught:
            faked.sdk.models.delete("gkt")
        assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")

    def test_a_request_that_there_was_not(self, faked: Served) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            faked.entry("chatcmpl-0")
        assert caught.value.code == "request_not_found"

    @pytest.mark.parametrize(
        ("body", "code"),
        [(b"{", "invalid_json"), (b"[]", "invalid_json"), (b"\xff", "invalid_json"), (b"", "invalid_json")],
    )
    def test_no_json(self, faked: Served, body: bytes, code: str) -> None:
        status, headers, told = faked.raw("POST", "/v1/chat/completions", body, content_type="application/json")
        assert status == 400
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert (told["error"]["type"], told["error"]["code"]) == ("invalid_request_error", code)
        assert headers["x-request-id"] == headers["x-gkt-request-id"]

    def test_too_long(self, stern: Served, topic: str) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(stern, topic, model="gkt", messages=[{"role": "user", "content": "x" * 3000}])
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
        assert "2,000" in caught.value.message


class TestKeys:
    def test_without_the_right_key_nobody_is_served(self, stern: Served, fakes: Fakes, topic: str) -> None:
        with openai.OpenAI(base_url=f"{stern.url}/v1", api_key=STRANGER, max_retries=0) as sdk:
            asking: list[Callable[[], object]] = [
                lambda: sdk.chat.completions.create(model="gkt", messages=[{"role": "user", "content": topic}]),
                lambda: sdk.models.list(),
                lambda: sdk.get(f"{stern.url}/gkt/v1/savings", cast_to=object),
            ]
            for asked in asking:
                with pytest.raises(openai.AuthenticationError) as caught:
                    asked()
                assert caught.value.code == "invalid_api_key"
                assert STRANGER not in str(caught.value.body)
        assert stern.raw("GET", "/v1/models")[0] == 401
        assert fakes.teacher.about(topic) == []

    def test_with_it_the_caller_has_a_name(self, stern: Served, topic: str) -> None:
        answer = ask(stern, topic, model="gkt")
        entry = check_accounts(stern, answer)
        assert entry["caller"].startswith("key-")
        assert "caller" not in entry["caller"]
        # Its requests are its own: another caller does not see them, who keeps the accounts sees all.
        path = f"/gkt/v1/requests/{answer.id}"
        assert stern.raw("GET", path, authorization=f"Bearer {OTHER}")[0] == 404
        assert stern.raw("GET", path, authorization=f"Bearer {ADMIN}")[::2] == (200, entry)

    def test_accounts_are_read_with_the_key_for_them(self, stern: Served) -> None:
        with pytest.raises(openai.AuthenticationError):
            stern.get("/gkt/v1/savings")
        status, _, sums = stern.raw("GET", "/gkt/v1/savings", authorization=f"Bearer {ADMIN}")
        assert (status, len(sums["data"])) == (200, 1)

    def test_no_key_is_in_any_log_error_or_ledger(self, stern: Served, topic: str) -> None:
        """Not the callers', not the teacher's, and not one that the teacher quotes when it refuses it."""
        for key in (CALLER, STRANGER):
            with openai.OpenAI(base_url=f"{stern.url}/v1", api_key=key, max_retries=0) as sdk:
                for model in ("gkt", "revoked", "strict", "gpt-9"):
                    try:
                        sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": topic}])
                    except openai.APIStatusError as error:
                        said = f"{error.message} {error.body} {dict(error.response.headers)}"
                        assert not any(secret in said for secret in SECRETS)
        with pytest.raises(openai.APIStatusError) as caught:
            ask(stern, topic, model="revoked")
        assert caught.value.status_code == 502
        files = [stern.log().encode(), *(path.read_bytes() for path in stern.folder.glob("ledger.db*"))]
        for secret in SECRETS:
            assert not any(secret.encode() in file for file in files)
        assert topic not in stern.log()  # nor is what was asked
        assert os.environ.get(gateways.KEY_ENV) is None  # the key was the gateway's alone


class TestModelsThatFail:
    def test_a_student_that_dies_after_its_first_word_ends_the_stream_in_an_error(
        self, faked: Served, topic: str
    ) -> None:
        said: list[str] = []
        request: Any = {"model": f"dies-{topic}", "messages": [{"role": "user", "content": topic}]}
        create = faked.sdk.chat.completions.create
        chunks = create(stream=True, extra_body={"gkt": {"student": "dying"}}, **request)

        def listen() -> None:
            for chunk in chunks:
                said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - kept when the loop fails

        with chunks, pytest.raises(openai.APIError) as caught:
            listen()
        assert "".join(said) == "".join(teachers_words(topic)[:SHOWN] + students_words(topic)[:1])
        assert not isinstance(caught.value, openai.APIStatusError)
        assert caught.value.type == "upstream_error"
        self.booked_as_failed(faked, f"dies-{topic}")

    def test_without_a_stream_it_is_a_status(self, faked: Served, topic: str) -> None:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(faked, topic, model=f"dies-{topic}", extra_body={"gkt": {"student": "dying"}})
        assert caught.value.status_code == 502
        assert caught.value.type == "upstream_error"
        assert caught.value.response.headers["x-should-retry"] == "false"
        self.booked_as_failed(faked, f"dies-{topic}")

    @staticmethod
    def booked_as_failed(faked: Served, model: str) -> None:
        (row,) = faked.entries(model)
        entry = faked.entry(row["request_id"])
        assert entry["outcome"] == "failed"
        assert entry["error"] is not None
        teacher, student = entry["calls"]
        assert (teacher["error"], student["error"]) == (None, entry["error"])
        assert teacher["amount"] > 0
        assert student["amount"] > 0  # counted: nobody reported it
        assert student["usage"]["source"] != "reported"

    @pytest.mark.parametrize("stream", [False, True])
    def test_without_a_student_the_teacher_completes(self, stern: Served, stream: bool, topic: str) -> None:
        answer = ask(stern, topic, model="gkt", extra_body={"gkt": {"student": "absent"}}, stream=stream)
        assert answer.text == told(topic, "teacher")
        assert [stage["stage"] for stage in answer.receipt["stages"]] == ["guidance", "answer", "fallback"]
        assert answer.stage("answer")["error"] == "Unavailable"
        assert answer.stage("answer")["cost_usd"] == "0"
        check_accounts(stern, answer)

    @pytest.mark.parametrize("teacher", ["absent", "revoked"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_without_a_teacher_the_student_answers_alone(
        self, stern: Served, teacher: str, stream: bool, topic: str
    ) -> None:
        answer = ask(stern, topic, model="gkt", extra_body={"gkt": {"teacher": teacher}}, stream=stream)
        assert answer.text == told(topic, "student")
        assert answer.receipt["guidance"]["wasted"] == "failed"
        assert answer.stage("guidance")["cost_usd"] == "0"
        entry = check_accounts(stern, answer)
        assert entry["wasted"] == "failed"

    def test_where_the_route_says_so_it_is_an_error(self, stern: Served, fakes: Fakes, topic: str) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(stern, topic, model="strict", stream=True)
        assert caught.value.status_code == 502
        assert fakes.student.about(topic) == []
