"""A caller's own key for the provider reaches the teacher, whatever the plan, and nobody and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.bootstrap import open_gateway
from gateway.chat import Caller, Chat, Overrides
from gateway.config import Config
from gateway.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from gateway.pipeline import Gateway
from students.engine import Finish, Message, Sampling
from tests.fakes import Answering, Fake, OpenAI, Vllm, error, served

pytestmark = pytest.mark.anyio

OWN = "sk-own-fedcba9876543210"
OURS = "sk-ours-0123456789abcdef"
COUNT: list[Message] = [{"role": "user", "content": "Count from 1 to 8, separated by commas."}]


class Teacher(OpenAI):
    """An OpenAI that takes one key."""

    def __init__(self, key: str) -> None:
        super().__init__()
        setattr(self, "KEY", key)  # noqa: B010 - a constant of the fake's class

    def words(self, body: Mapping[str, Any]) -> list[str]:
        return ["1", ",", " 2", ",", " 3", ",", " 4", ",", " 5", "."]


@dataclass
class Home:
    """A gateway over strict fakes on real ports."""

    gateway: Gateway
    teacher: Fake
    student: Fake
    folder: Path

    async def ask(self, model: str, key: str | None = OWN, **asked: Any) -> str:
        """The answer; the caller's key is `key`."""
        overrides = Overrides(**asked)
        chat = Chat(
            f"chatcmpl-{key}-{len(self.teacher.asked)}".replace(str(key), "x"),
            model,
            COUNT,
            Sampling(),
            max_tokens=9,
            size=300,
            overrides=overrides,
            provider_key=key,
        )
        text = ""
        exchange = self.gateway.open(chat, Caller())
        async with aclosing(self.gateway.answer(exchange)) as events:
            async for event in events:
                text += "" if isinstance(event, Finish) else event.text
        assert OWN not in str(exchange.receipt)
        return text

    async def fails(self, model: str, key: str | None = OWN, **asked: Any) -> GatewayError:
        """The error that the caller is told, without any key in it."""
        with pytest.raises(GatewayError) as caught:
            await self.ask(model, key, **asked)
        told: BaseException | None = caught.value
        while told is not None:
            assert not any(secret in f"{told!r} {vars(told)}" for secret in (OWN, OURS))
            told = told.__cause__
        return caught.value

    def sent(self, fake: Fake) -> set[str | None]:
        """The keys that were sent with chats."""
        chats = [headers for headers, path in zip(fake.headers, fake.paths, strict=True) if path != "/v1/models"]
        assert all(
            OWN not in f"{name}: {value}"
            for headers in chats
            for name, value in headers.items()
            if name != "Authorization"
        )
        return {headers.get("Authorization") for headers in chats}


@asynccontextmanager
async def home(tmp_path: Path, *, key: str = OWN, teacher: Fake | None = None, **environ: str) -> AsyncIterator[Home]:
    """Its teacher takes `key`; `own` and so on are routes that pass the caller's."""
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(served(teacher or Teacher(key)))
        student = await stack.enter_async_context(served(Vllm()))
        both = {"teacher": "teacher", "student": "student", "guidance_tokens": 5, "pass_key": True}
        paid = {
            "kind": "openai_api",
            "model": "gpt-6-sol",
            "base_url": asked.url,
            "api_key_env": "OUR_KEY",
            "limit_field": "max_completion_tokens",
            "reasoning_effort": "none",
            "retries": 0,
        }
        local = {"kind": "openai_api", "model": "m", "base_url": student.url, "prefill": "continue_flag"}
        routes = {
            "own": {"strategy": "cut-off", **both, "on_teacher_failure": "error"},
            "own-concise": {"strategy": "concise", **both},
            "own-hint": {"strategy": "hint", **both},
            "own-teacher": {"strategy": "teacher", **both},
            "own-student": {"strategy": "student", **both},
            "free": {"strategy": "student", "student": "student"},
        }
        config = Config.parse(
            {
                "ledger": {"url": f"sqlite:///{tmp_path}/ledger.db", "store_text": True},
                "upstreams": {"teacher": paid, "student": local},
                "routes": routes,
            }
        )
        gateway = await stack.enter_async_context(open_gateway(config, environ=environ))
        yield Home(gateway, asked, student, tmp_path)


def written(folder: Path, *secrets: str) -> list[str]:
    """The files that hold one of the secrets."""
    return [file.name for file in folder.iterdir() if any(secret.encode() in file.read_bytes() for secret in secrets)]


@pytest.mark.parametrize("environ", [{}, {"OUR_KEY": OURS}], ids=["no key of our own", "one of our own"])
@pytest.mark.parametrize("model", ["own", "own-concise", "own-hint", "own-teacher"])
async def test_the_teacher_is_asked_with_it_and_the_student_without(
    tmp_path: Path, model: str, environ: dict[str, Any]
) -> None:
    async with home(tmp_path, **environ) as house:
        assert await house.ask(model)
        assert house.sent(house.teacher) == {f"Bearer {OWN}"}
        assert house.sent(house.student) == {None}
    assert not written(tmp_path, OWN)


async def test_without_it_the_configured_key_is_used(tmp_path: Path) -> None:
    async with home(tmp_path, key=OURS, OUR_KEY=OURS) as house:
        assert await house.ask("own", None)
        assert house.sent(house.teacher) == {f"Bearer {OURS}"}


@pytest.mark.parametrize("model", ["own", "own-teacher", "own-hint"])
async def test_without_either_it_is_asked_for(tmp_path: Path, model: str) -> None:
    async with home(tmp_path) as house:
        error = await house.fails(model, None)
        assert isinstance(error, Unauthorized)
        assert (error.code, error.http_status) == ("provider_key_required", 401)
        assert "x-gkt-provider-key" in str(error)
        assert house.sent(house.teacher) == set()
        assert await house.ask("own-student", None), "no teacher is asked here"


async def test_a_seat_that_is_asked_for_by_an_override_gets_none(tmp_path: Path) -> None:
    """Neither another teacher, nor the student's seat, nor a teacher that has no key of ours."""
    async with home(tmp_path) as house:
        assert isinstance(await house.fails("own", teacher="student"), BadRequest)
        assert isinstance(await house.fails("free"), BadRequest)
        assert isinstance(await house.fails("own-student", student="teacher"), Unauthorized)
        assert isinstance(await house.fails("free", None, strategy="teacher", teacher="teacher"), Unauthorized)
        assert house.sent(house.teacher) == set()
        assert house.sent(house.student) == {None}, "the probe"


async def test_the_fallback_is_the_teacher_too(tmp_path: Path) -> None:
    async with home(tmp_path) as house:
        await house.gateway.upstreams["student"].engine.aclose()
        assert "1, 2" in await house.ask("own")
        assert len(house.teacher.asked) == 2
        assert house.sent(house.teacher) == {f"Bearer {OWN}"}


async def test_one_that_the_provider_refuses_is_the_callers_to_mend(tmp_path: Path) -> None:
    """The fake quotes the key that it refuses, as some providers do."""
    async with home(tmp_path, key="sk-another-0123456789", OUR_KEY=OURS) as house:
        error = await house.fails("own-teacher")
        assert isinstance(error, Unauthorized)
        assert (error.http_status, error.code, error.param) == (401, "invalid_provider_key", "x-gkt-provider-key")
        ours = await house.fails("own-teacher", None)
        assert (ours.http_status, ours.code) == (502, "upstream_error")
        assert isinstance(await house.fails("own"), Unauthorized)
    assert not written(tmp_path, OWN, OURS)


async def test_one_that_may_not_do_this(tmp_path: Path) -> None:
    async def answer(*_: object) -> Any:
        return error(403, f"the key {OWN} may not use this model", "model_not_allowed")

    async with home(tmp_path, teacher=Answering(answer)) as house:
        assert isinstance(await house.fails("own-teacher"), Forbidden)


async def test_a_gateway_whose_callers_bring_the_keys_is_ready(tmp_path: Path) -> None:
    async with home(tmp_path) as house:
        assert (await house.gateway.readiness())["ready"]
