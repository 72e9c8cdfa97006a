"""Teachers that are not OpenAI-shaped: each provider's own wire, strict, and what comes of it on our side."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import pytest
from aiohttp import web
from pydantic import ValidationError

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Message, Prompt, Sampling
from students.errors import (
    BadReply,
    EngineError,
    Overloaded,
    PromptTooLong,
    Refused,
    TimedOut,
    Unavailable,
)
from students.litellm_api import LiteLLMApi
from students.spec import LiteLLMSpec
from tests.fakes import Answering, Json, served
from tests.fakes_providers import KEY, Anthropic, Azure, Bedrock, Gemini, Provider

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is not installed"),
]

ASK: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief, dear machine."},
    {"role": "user", "content": "Count, please, from 1 to 30."},
)
OLD = f"anthropic/{Anthropic.OLD}"
MODELS: dict[type[Provider], tuple[str, Json]] = {
    Anthropic: (OLD, {}),
    Gemini: ("gemini/gemini-3.5-flash", {}),
    Azure: ("azure/gpt-6-sol", {}),
    Bedrock: ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", {"aws_region_name": "us-east-1"}),
}
Some = TypeVar("Some", bound=Provider)


@asynccontextmanager
async def over(fake: Some, model: str = "", key: str | None = KEY, **spec: Any) -> AsyncIterator[LiteLLMApi]:
    """The engine over a provider, whose usual model it asks."""
    usual, options = next(asked for kind, asked in MODELS.items() if isinstance(fake, kind))
    async with served(fake):
        made = LiteLLMSpec(
            model=model or usual, api_key_env="KEY", api_base=fake.root, **{"options": options, "probe": False, **spec}
        )
        async with aclosing(LiteLLMApi("teacher", made, key=key)) as engine:
            yield engine


async def told(engine: LiteLLMApi, prompt: Prompt) -> tuple[str, Finish]:
    async with aclosing(engine.stream(prompt)) as stream:
        events: list[Event] = [event async for event in stream]
    finish = events.pop()
    assert isinstance(finish, Finish)
    return "".join(event.text for event in events if isinstance(event, Delta)), finish


async def failed(engine: LiteLLMApi, prompt: Prompt | None = None) -> EngineError:
    with pytest.raises(EngineError) as raised:
        await told(engine, prompt or Prompt(ASK, 3))
    assert raised.value.engine == "teacher"
    assert KEY not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("kind", MODELS)
async def test_each_provider_is_asked_in_its_own_words_and_answers_in_ours(kind: type[Provider]) -> None:
    fake = kind()
    async with over(fake) as engine:
        said, finish = await told(engine, Prompt(ASK, 20, sampling=Sampling(temperature=0.0)))
    assert said.startswith(" 1, 2, 3,")
    assert finish.reason == "length"
    assert len(fake.paths) == 1, "once, and nowhere else"


@pytest.mark.parametrize(
    ("kind", "usage"),
    [
        # 20 of the input were neither read from the cache (11) nor written to it (7).
        (Anthropic, Usage(38, 5, 11, 7, 2)),
        # 7 thoughts beside 5 candidates; what is cached is inside the prompt.
        (Gemini, Usage(30, 12, 10, None, 7)),
        (Azure, Usage(12, 8, 4, 5, 3)),
        (Bedrock, Usage(38, 5, 11, 7)),
    ],
)
async def test_every_token_is_counted_once_and_parts_are_parts(kind: type[Provider], usage: Usage) -> None:
    fake = kind()
    fake.says = [" a", " b", " c", " d", " e"] if kind is not Anthropic else [" a", " b", " c"]
    if isinstance(fake, Anthropic):
        fake.thinking = 2
    async with over(fake) as engine:
        _, finish = await told(engine, Prompt(ASK, 40))
    assert finish.reason == "stop"
    assert finish.usage is not None
    if usage.reasoning is None:
        assert not finish.usage.reasoning
        usage = Usage(usage.input, usage.output, usage.cached, usage.cache_write, finish.usage.reasoning)
    assert finish.usage == usage


@pytest.mark.parametrize("kind", [Anthropic, Azure])
async def test_usage_that_nobody_reported_is_not_made_up(kind: type[Provider]) -> None:
    fake = kind()
    fake.reports = False
    async with over(fake) as engine:
        _, finish = await told(engine, Prompt(ASK, 3))
    assert finish.usage is None


@pytest.mark.parametrize("kind", MODELS)
async def test_a_stream_that_ends_without_its_end_is_no_short_answer(kind: type[Provider]) -> None:
    fake = kind()
    fake.ends = False
    async with over(fake) as engine:
        assert isinstance(await failed(engine, Prompt(ASK, 20)), BadReply)


@pytest.mark.parametrize("kind", MODELS)
async def test_leaving_early_closes_the_connection(kind: type[Provider]) -> None:
    fake = kind()
    async with over(fake) as engine:
        stream = engine.stream(Prompt(ASK, 99))
        assert isinstance(await anext(stream), Delta)
        await stream.aclose()
        await asyncio.wait_for(fake.left.wait(), 1)


@pytest.mark.parametrize("kind", MODELS)
async def test_a_key_that_is_not_accepted_is_refused_and_not_repeated(kind: type[Provider]) -> None:
    async with over(kind(), key="sk-wrong-0123456789") as engine:
        error = await failed(engine)
    assert isinstance(error, Refused)
    assert error.status in (400, 401, 403)
    assert "sk-wrong" not in str(error)


async def test_what_a_model_does_not_take_is_not_sent() -> None:
    fake = Anthropic()
    sampled = Sampling(temperature=0.5, top_p=0.9, seed=7, presence_penalty=1.0, stop=("27",))
    async with over(fake) as engine:
        await told(engine, Prompt(ASK, 3, sampling=sampled))
        await told(engine, Prompt(ASK, 3, sampling=sampled, model=fake.NEW))
    old, new = fake.asked
    assert (old["temperature"], old["max_tokens"], old["stop_sequences"]) == (0.5, 3, ["27"])
    assert "thinking" not in old
    assert new["model"] == fake.NEW
    assert new["thinking"] == {"type": "disabled"}
    assert not {"temperature", "top_p"} & set(new)


async def test_a_prefix_goes_to_a_model_that_continues_it() -> None:
    fake = Anthropic()
    async with over(fake, probe=True) as engine:
        assert Ability.CONTINUE in await engine.ready()
        said, _ = await told(engine, Prompt(ASK, 2, prefix="1, 2, 3, 4,"))
    assert said == " 5, 6,"


async def test_a_new_model_claims_no_prefix_and_is_sent_none() -> None:
    fake = Anthropic()
    async with over(fake, f"anthropic/{fake.NEW}", probe=True) as engine:
        assert Ability.CONTINUE not in await engine.ready()
        with pytest.raises(ValueError, match="teacher cannot continue"):
            await told(engine, Prompt(ASK, 2, prefix="1, 2,"))


async def test_a_claim_that_the_model_refuses_is_taken_away_by_the_probe() -> None:
    fake = Anthropic()
    async with over(fake, f"anthropic/{fake.NEW}", probe=True, prefill="implicit") as engine:
        assert Ability.CONTINUE in engine.abilities
        assert Ability.CONTINUE not in await engine.ready()
        await engine.ready()
    assert len(fake.asked) == 1, "the probe is made once"


async def test_ready_finds_a_key_and_a_model_that_are_not_accepted() -> None:
    async with over(Anthropic(), key="sk-wrong", probe=True) as engine:
        with pytest.raises(Refused, match="401"):
            await engine.ready()
    async with over(Anthropic(), "anthropic/claude-unheard-of", probe=True) as engine:
        with pytest.raises(Refused, match="404"):
            await engine.ready()


async def test_a_callers_key_replaces_the_engines_own_and_nothing_is_sent_without_any() -> None:
    fake = Anthropic()
    async with over(fake, key=None, probe=True) as engine:
        await engine.ready()
        await told(engine, Prompt(ASK, 2, key=KEY))
        error = await failed(engine)
    assert isinstance(error, Refused)
    assert error.status == 401
    assert len(fake.asked) == 1


async def test_what_a_caller_sends_along_cannot_steer_the_library() -> None:
    fake, thief = Anthropic(), Anthropic()
    async with served(thief), over(fake) as engine:
        options = {
            "api_base": thief.root,
            "base_url": thief.root,
            "api_key": "sk-mine",
            "mock_response": "free",
            "custom_llm_provider": "openai",
            "extra_headers": {"x": "y"},
            "fallbacks": ["x"],
            "metadata": {"user_id": "someone"},
        }
        said, _ = await told(engine, Prompt(ASK, 2, options=options))
    assert said == " 1, 2,"
    assert thief.asked == []
    assert "x" not in fake.headers[-1]


async def test_tools_come_as_openai_has_them() -> None:
    fake = Tooled()
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    async with over(fake) as engine, aclosing(engine.stream(Prompt(ASK, 99, options={"tools": [tool]}))) as stream:
        events = [event async for event in stream]
    assert fake.asked[0]["tools"][0]["name"] == "look"
    finish = events.pop()
    assert isinstance(finish, Finish)
    assert finish.reason == "tool_calls"
    calls = [event.fields["tool_calls"][0] for event in events if isinstance(event, Delta) and event.fields]
    assert calls[0]["function"]["name"] == "look"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"at": 1}'


class Tooled(Anthropic):
    """Calls a tool."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        refusal = self.refusal(body)
        assert refusal is None, refusal
        text = (
            'event: message_start\ndata: {"type": "message_start", "message": {"usage": {"input_tokens": 9}}}\n\n'
            'event: content_block_start\ndata: {"type": "content_block_start", "index": 0, "content_block": '
            '{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}}\n\n'
            'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": '
            '{"type": "input_json_delta", "partial_json": "{\\"at\\""}}\n\n'
            'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "delta": '
            '{"type": "input_json_delta", "partial_json": ": 1}"}}\n\n'
            'event: content_block_stop\ndata: {"type": "content_block_stop", "index": 0}\n\n'
            'event: message_delta\ndata: {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": '
            '{"output_tokens": 5}}\n\nevent: message_stop\ndata: {"type": "message_stop"}\n\n'
        )
        return web.Response(text=text, content_type="text/event-stream")


async def test_a_prompt_that_is_too_long_and_one_that_is_quoted() -> None:
    async with over(Anthropic()) as engine:
        long = Prompt(({"role": "user", "content": "word " * 4000},), 3)
        assert isinstance(await failed(engine, long), PromptTooLong)

    async def quotes(request: web.Request, body: Json) -> web.Response:
        message = body["messages"][0]["content"][0]["text"]
        return web.json_response(
            {"type": "error", "error": {"type": "invalid_request_error", "message": message}}, status=400
        )

    async with against(quotes) as engine:
        error = await failed(engine)
    assert isinstance(error, Refused)
    assert "Count, please" not in str(error)


async def test_an_overload_says_how_long_to_wait_and_is_asked_once() -> None:
    async def busy(request: web.Request, body: Json) -> web.Response:
        body = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
        return web.json_response(body, status=429, headers={"retry-after": "7"})

    async with against(busy) as engine:
        error = await failed(engine)
    assert isinstance(error, Overloaded)
    assert error.retry_after == 7


async def test_an_overload_inside_the_stream_ends_it_in_overloaded() -> None:
    fake = Anthropic()
    fake.overloaded_after = 2
    async with over(fake) as engine:
        assert isinstance(await failed(engine, Prompt(ASK, 20)), Overloaded)


async def test_a_connection_that_breaks_is_not_asked_again() -> None:
    asked = 0

    async def breaks(request: web.Request, body: Json) -> web.Response:
        nonlocal asked
        asked += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with against(breaks) as engine:
        assert isinstance(await failed(engine), Unavailable)
    assert asked == 1, "it may have been answered and billed"


async def test_where_nobody_listens_it_is_unavailable() -> None:
    async with aclosing(
        LiteLLMApi("teacher", LiteLLMSpec(model=OLD, api_base="http://127.0.0.1:9"), key=KEY)
    ) as engine:
        assert isinstance(await failed(engine), Unavailable)


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    async def moved(request: web.Request, body: Json) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})

    async with against(moved) as engine:
        error = await failed(engine)
    assert isinstance(error, Refused)
    assert "redirects" in str(error)


@pytest.mark.parametrize(
    ("deadlines", "deadline"),
    [({"first_token": 0.2}, "first_token"), ({"total": 0.2}, "total"), ({"idle": 0.2}, "idle")],
)
async def test_each_deadline_names_itself(deadlines: Json, deadline: str) -> None:
    async def hangs(request: web.Request, body: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if deadline == "idle":
            await response.prepare(request)
            start = '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}'
            await response.write(f"event: content_block_delta\ndata: {start}\n\n".encode())
        await asyncio.sleep(20)
        return response

    async with against(hangs, deadlines=deadlines) as engine:
        await asyncio.to_thread(__import__, "litellm")
        error = await failed(engine)
    assert isinstance(error, TimedOut)
    assert error.deadline == deadline


@asynccontextmanager
async def against(answer: Any, **spec: Any) -> AsyncIterator[LiteLLMApi]:
    """The engine, asking for Claude, over one function."""
    fake = Answering(answer)
    async with served(fake):
        made = LiteLLMSpec(model=OLD, api_base=fake.url.removesuffix("/v1"), **{"probe": False, **spec})
        async with aclosing(LiteLLMApi("teacher", made, key=KEY)) as engine:
            yield engine


async def test_more_calls_than_places_wait() -> None:
    async with over(Anthropic(), max_concurrent=1) as engine:
        answers = await asyncio.gather(*(told(engine, Prompt(ASK, 3)) for _ in range(4)))
    assert {said for said, _ in answers} == {" 1, 2, 3,"}


async def test_nothing_is_logged_and_nothing_is_left_in_the_environment(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = dict(os.environ)
    async with over(Anthropic()) as engine:
        await told(engine, Prompt(ASK, 3))
        await failed(engine, Prompt(ASK, 3, model="claude-unheard-of"))
    assert KEY not in caplog.text
    assert "Count, please" not in caplog.text
    assert not any(KEY in value for value in os.environ.values())
    assert {name for name in os.environ if os.environ[name] != before.get(name)} <= {
        "LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_MODE", "PYTEST_CURRENT_TEST",
    }  # fmt: skip


async def test_a_provider_that_litellm_does_not_know_is_named() -> None:
    async with aclosing(LiteLLMApi("teacher", LiteLLMSpec(model="nobody/knows-this"), key=KEY)) as engine:
        with pytest.raises(Refused, match="'nobody/knows-this'"):
            await engine.ready()


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    program = (
        "import sys; from students.build import build; from students.spec import LiteLLMSpec; "
        "build('t', LiteLLMSpec(model='anthropic/x')); assert not {'litellm', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "openai/gpt-6-sol"},
        {"api_base": "https://me:secret@host"},
        {"options": {"api_key": "x"}},
        {"options": {"aws_secret_access_key": "x"}},
        {"options": {"vertex_credentials": "x"}},
    ],
)
def test_what_is_wrong_or_secret_is_refused_in_the_configuration(wrong: Json) -> None:
    with pytest.raises(ValidationError):
        LiteLLMSpec(**{"model": OLD, **wrong})


def test_the_seller_is_the_provider_in_the_models_name() -> None:
    assert LiteLLMSpec(model=OLD).seller == "anthropic"
    assert LiteLLMSpec(model=OLD, provider="me").seller == "me"
