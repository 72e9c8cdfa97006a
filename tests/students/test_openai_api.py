"""The HTTP engine against servers that are strict, slow, rude or dying."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import aclosing
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt, Sampling
from students.errors import (
    BadReply,
    EngineError,
    Overloaded,
    PromptTooLong,
    Refused,
    TimedOut,
    Unavailable,
)
from students.openai_api import OpenAIApi
from students.spec import Deadlines, OpenAISpec

if TYPE_CHECKING:
    from tests.fakes import Fake, Json
    from tests.students.conftest import Serve

pytestmark = pytest.mark.anyio

KEY = "sk-real-0123456789abcdef"
ASK = ({"role": "user", "content": "Why is the sky blue on most days?"},)


def word(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


END = word("", "stop") + b"data: [DONE]\n\n"


def engine(fake: Fake | str, *, key: str | None = None, **spec: Any) -> OpenAIApi:
    url = fake if isinstance(fake, str) else fake.url
    return OpenAIApi("upstream", OpenAISpec(model="m", base_url=url, **spec), key=key)


async def told(api: OpenAIApi, prompt: Prompt | None = None) -> tuple[str, Finish]:
    """The whole answer of one call; the engine is left open."""
    events: list[Event] = []
    async with aclosing(api.stream(prompt or Prompt(ASK))) as stream:
        events = [event async for event in stream]
    *deltas, finish = events
    assert isinstance(finish, Finish)
    assert all(isinstance(delta, Delta) for delta in deltas)
    return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), finish


async def fails(api: OpenAIApi, prompt: Prompt | None = None) -> EngineError:
    """The error of a call that must fail; it is named after its engine."""
    with pytest.raises(EngineError) as raised:
        await told(api, prompt)
    assert raised.value.engine == "upstream"
    return raised.value


TEACHER: dict[str, Any] = {
    "limit_field": "max_completion_tokens",
    "sampling": False,
    "stop": False,
    "reasoning_effort": "none",
}


class TestWhatIsSent:
    async def test_a_strict_openai_accepts_it_and_its_answer_is_understood(self, openai: Fake) -> None:
        api = engine(openai, key=KEY, **TEACHER)
        sampling = Sampling(temperature=0.2, top_p=0.5, presence_penalty=1.0, frequency_penalty=1.0, stop=("x",) * 9)
        text, finish = await told(api, Prompt(ASK, max_tokens=3, sampling=sampling, stream=False))
        assert text == "The sky is"
        assert finish == Finish(
            ("length",), Usage(12, 6, cached=4, reasoning=3), "m-2026-08-01", service_tier="default", fingerprint="fp_1"
        )
        assert openai.asked == [
            {
                "model": "m",
                "messages": list(ASK),
                "stream": True,
                "stream_options": {"include_usage": True},
                "reasoning_effort": "none",
                "max_completion_tokens": 3,
            }
        ]
        await api.aclose()

    async def test_the_fake_is_strict(self, openai: Fake) -> None:
        """What the settings of a teacher keep back is refused without them."""
        warm = Prompt(ASK, sampling=Sampling(temperature=0.2))
        for spec, prompt in (
            ({}, Prompt(ASK, max_tokens=3)),
            ({}, warm),
            ({"extra_body": {"top_k": 3}}, Prompt(ASK)),
            ({}, Prompt(ASK, options={"top_k": 3})),
        ):
            api = engine(openai, key=KEY, **spec)
            assert type(await fails(api, prompt)) is Refused
            await api.aclose()

    async def test_everything_a_student_can_be_told(self, serve: Serve) -> None:
        fake = await serve([word("ok"), END])
        api = engine(fake, extra_body={"top_k": 40, "min_p": 0.1, "reasoning_effort": "low"}, reasoning_effort="none")
        prompt = Prompt(
            messages=tuple(MappingProxyType(dict(message)) for message in ASK),
            max_tokens=7,
            sampling=Sampling(0.8, 0.9, 1, 0.1, 0.2, {"5": -100}, ("a", "b"), logprobs=True, top_logprobs=2),
            n=1,
            options=MappingProxyType(
                {"min_p": 0.2, "response_format": {"type": "text"}, "stream": False, "model": "x"}
            ),
            model="other",
        )
        await told(api, prompt)
        assert fake.asked == [
            {
                "top_k": 40,
                "min_p": 0.2,
                "reasoning_effort": "low",
                "response_format": {"type": "text"},
                "model": "other",
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0.8,
                "top_p": 0.9,
                "presence_penalty": 0.1,
                "frequency_penalty": 0.2,
                "logit_bias": {"5": -100},
                "seed": 1,
                "stop": ["a", "b"],
                "messages": list(ASK),
                "max_tokens": 7,
                "logprobs": True,
                "top_logprobs": 2,
            }
        ]
        await api.aclose()

    async def test_nothing_is_sent_that_was_not_said(self, serve: Serve) -> None:
        fake = await serve([word("ok"), END])
        api = engine(fake, stream_usage=False)
        await told(api)
        assert fake.asked == [{"model": "m", "stream": True, "messages": list(ASK)}]
        assert "Authorization" not in fake.headers[0]
        await api.aclose()

    async def test_headers(self, serve: Serve) -> None:
        fake = await serve([word("ok"), END])
        api = engine(fake, key=KEY, extra_headers={"x-team": "blue"})
        await told(api)
        assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert fake.headers[0]["x-team"] == "blue"
        await api.aclose()

    async def test_what_json_cannot_hold_is_refused_before_it_is_sent(self, serve: Serve) -> None:
        fake = await serve([END])
        api = engine(fake)
        assert type(await fails(api, Prompt(ASK, sampling=Sampling(seed=2**80)))) is Refused
        assert fake.asked == []
        await api.aclose()

    async def test_a_plan_beyond_its_abilities_is_a_mistake(self, serve: Serve) -> None:
        api = engine(await serve([END]), samples=False)
        assert Ability.CONTINUE not in api.abilities
        assert Ability.SAMPLES not in api.abilities
        with pytest.raises(ValueError, match="cannot continue"):
            await told(api, Prompt(ASK, prefix="The"))
        with pytest.raises(ValueError, match="n = 2"):
            await told(api, Prompt(ASK, n=2))

    async def test_the_key_is_in_no_repr(self) -> None:
        assert KEY not in repr(engine("http://127.0.0.1:1/v1", key=KEY))


class TestWhatIsUnderstood:
    async def test_bytes_cut_anywhere(self, serve: Serve) -> None:
        data = b": ping\r\n\r\n" + word("Grö") + b"event: x\n" + word("ße ☀").replace(b"\n\n", b"\r\n\r\n") + END
        fake = await serve([data[at : at + 3] for at in range(0, len(data), 3)])
        api = engine(fake)
        assert (await told(api))[0] == "Größe ☀"
        await api.aclose()

    async def test_words_come_when_they_are_said(self, serve: Serve) -> None:
        api = engine(await serve([word("a"), 0.2, word("b"), 0.2, END]))
        start = monotonic()
        first, second, last = [monotonic() - start async for _ in api.stream(Prompt(ASK))]
        assert first < 0.15
        assert 0.18 < second < 0.36
        assert last > 0.38
        await api.aclose()

    async def test_a_server_that_does_not_stream(self, serve: Serve) -> None:
        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            message = {"role": "assistant", "content": "1, 2, 3"}
            return web.json_response(
                {
                    "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
                }
            )

        api = engine(await serve(answer), prefill="implicit")
        text, finish = await told(api, Prompt(ASK, prefix="1, 2,"))
        assert text == " 3"
        assert finish == Finish(("length",), Usage(1, 2))
        await api.aclose()

    @pytest.mark.parametrize("pieces", [[word("a")], [word("a"), b"data: {"], [b""], [b"<html></html>"]])
    async def test_a_stream_without_its_end_is_never_a_short_answer(self, serve: Serve, pieces: list[bytes]) -> None:
        api = engine(await serve(pieces))
        assert type(await fails(api)) is BadReply
        await api.aclose()

    async def test_an_error_frame_after_words(self, serve: Serve) -> None:
        fault = b'data: {"error": {"message": "CUDA out of memory", "type": "server_error", "code": 500}}\n\n'
        fake = await serve([word("a") + fault])
        api = engine(fake)
        stream = api.stream(Prompt(ASK))
        assert await anext(stream) == Delta("a")
        with pytest.raises(Unavailable, match="out of memory"):
            await anext(stream)
        assert len(fake.asked) == 1
        await api.aclose()

    async def test_a_server_that_dies_in_the_middle(self, serve: Serve) -> None:
        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(word("a"))
            assert request.transport is not None
            request.transport.abort()
            return response

        fake = await serve(answer)
        api = engine(fake)
        assert type(await fails(api)) is Unavailable
        assert len(fake.asked) == 1
        await api.aclose()


def refusing(status: int, body: object, **headers: str) -> Any:
    async def answer(request: web.Request, asked: Json) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(text=text, status=status, headers=names)

    return answer


def openai_error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "some_error", "param": None, "code": code}}


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "leaf", "code"),
        [
            (400, openai_error("bad", "unsupported_value"), Refused, "unsupported_value"),
            (400, openai_error("long", "context_length_exceeded"), PromptTooLong, "context_length_exceeded"),
            (400, openai_error("This model's maximum context length is 4096 tokens."), PromptTooLong, "some_error"),
            (
                400,
                {"error": {"code": 400, "message": "no room", "type": "exceed_context_size_error"}},
                PromptTooLong,
                "exceed_context_size_error",
            ),
            (401, openai_error("who", "invalid_api_key"), Refused, "invalid_api_key"),
            (403, openai_error("no"), Refused, "some_error"),
            (404, {"detail": "Not Found"}, Refused, None),
            (404, "<html>nginx</html>", Refused, None),
            (422, {"detail": [{"loc": ["body"], "msg": "field required", "input": "secret"}]}, Refused, None),
            (307, "", Refused, None),
            (429, openai_error("slow", "rate_limit_exceeded"), Overloaded, "rate_limit_exceeded"),
            (529, openai_error("busy"), Overloaded, "some_error"),
            (500, openai_error("boom"), Unavailable, "some_error"),
            (502, "<html>Bad Gateway</html>", Unavailable, None),
            (503, "", Unavailable, None),
            (504, "timeout", Unavailable, None),
        ],
    )
    async def test_a_status_is_a_leaf(
        self, serve: Serve, status: int, body: object, leaf: type[EngineError], code: str | None
    ) -> None:
        fake = await serve(refusing(status, body, location="/elsewhere"))
        api = engine(fake)
        error = await fails(api)
        assert type(error) is leaf
        assert (error.status, error.code) == (status, code)
        assert str(status) in str(error)
        assert "secret" not in str(error)
        assert "<" not in str(error)
        assert len(fake.asked) == 1
        await api.aclose()

    async def test_408_is_a_deadline(self, serve: Serve) -> None:
        api = engine(await serve(refusing(408, "")))
        error = await fails(api)
        assert isinstance(error, TimedOut)
        assert error.deadline == "first_token"
        await api.aclose()

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry_after": "7"}, 7.0),
            ({"retry_after_ms": "1500", "retry_after": "2"}, 1.5),
            ({"retry_after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.0),
            ({"retry_after": "soon"}, None),
            ({}, None),
        ],
    )
    async def test_retry_after(self, serve: Serve, headers: dict[str, str], seconds: float | None) -> None:
        api = engine(await serve(refusing(429, openai_error("slow"), **headers)))
        error = await fails(api)
        assert isinstance(error, Overloaded)
        assert error.retry_after == seconds
        await api.aclose()

    async def test_503_with_retry_after_is_overloaded(self, serve: Serve) -> None:
        api = engine(await serve(refusing(503, "", retry_after="30")))
        error = await fails(api)
        assert isinstance(error, Overloaded)
        assert error.retry_after == 30
        await api.aclose()

    @pytest.mark.parametrize(
        "message",
        [
            "cannot read 'Why is the sky blue on most days?'",
            "1 validation error, input_value='Why is the sky blue on mo...'",
            "x" * 250 + "Why is the sky blue on most days?",
        ],
    )
    async def test_a_message_that_quotes_the_prompt_is_withheld(self, serve: Serve, message: str) -> None:
        api = engine(await serve(refusing(400, openai_error(message, "bad_value"))))
        error = await fails(api)
        assert "sky blue" not in str(error)
        assert str(error) == "400 bad_value: (message withheld: it quotes the prompt)"
        await api.aclose()

    async def test_a_message_holds_no_key_and_is_bounded(self, serve: Serve) -> None:
        api = engine(await serve(refusing(401, openai_error(f"Incorrect key {KEY}. " + "x" * 5000))), key=KEY)
        error = await fails(api)
        assert str(error).startswith("401 some_error: Incorrect key [key]. xxx")
        assert len(str(error)) == 300
        await api.aclose()

    async def test_nobody_listens(self) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            api = engine(f"http://127.0.0.1:{held.getsockname()[1]}/v1")
            assert type(await fails(api)) is Unavailable
        await api.aclose()


class TestTries:
    @pytest.mark.parametrize("status", [500, 503, 429])
    async def test_a_call_that_fails_is_made_once(self, serve: Serve, status: int) -> None:
        fake = await serve(refusing(status, "", retry_after_ms="1"))
        api = engine(fake, retries=3)
        await fails(api)
        assert len(fake.asked) == 1, "what is tried again, the guard decides"
        await api.aclose()


class TestDeadlines:
    @pytest.mark.parametrize(
        ("pieces", "deadlines", "which"),
        [
            ([5.0], {"first_token": 0.3}, "first_token"),
            ([b": ping\n\n", 0.2] * 20, {"first_token": 0.3}, "first_token"),
            ([word("a"), 5.0], {"idle": 0.3}, "idle"),
            ([word("a"), 0.1, word("b"), 5.0], {"idle": 0.2}, "idle"),
            ([5.0], {"total": 0.3}, "total"),
            ([word("a"), 0.1] * 20, {"total": 0.3}, "total"),
        ],
    )
    async def test_each_names_itself_and_ends_the_call(
        self, serve: Serve, pieces: list[bytes | float], deadlines: dict[str, float], which: str
    ) -> None:
        fake = await serve(pieces)
        api = engine(fake, deadlines=Deadlines(**deadlines))
        start = monotonic()
        error = await fails(api)
        assert isinstance(error, TimedOut)
        assert error.deadline == which
        assert 0.25 < monotonic() - start < 0.6
        await asyncio.wait_for(fake.left.wait(), 0.5)
        await api.aclose()

    async def test_connect(self) -> None:
        with socket.socket() as full:
            # A listener whose queue is full answers no further connection, and refuses none.
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.socket() as one, socket.socket() as two:
                for client in (one, two):
                    client.setblocking(False)
                    client.connect_ex(full.getsockname())
                api = engine(f"http://127.0.0.1:{full.getsockname()[1]}/v1", deadlines=Deadlines(connect=0.3))
                error = await fails(api)
        assert isinstance(error, TimedOut)
        assert error.deadline == "connect"
        await api.aclose()

    async def test_any_bytes_keep_an_answer_alive(self, serve: Serve) -> None:
        silence: list[bytes | float] = [0.15, b": ping\n\n"] * 4
        api = engine(await serve([word("a"), *silence, word("b"), END]), deadlines=Deadlines(idle=0.3))
        assert (await told(api))[0] == "ab"
        await api.aclose()

    async def test_a_slow_reader_is_not_an_idle_upstream(self, serve: Serve) -> None:
        api = engine(await serve([word("a"), 0.1, word("b"), END]), deadlines=Deadlines(idle=0.2))
        text = ""
        async for event in api.stream(Prompt(ASK)):
            if isinstance(event, Delta):
                text += event.text
                await asyncio.sleep(0.5)
        assert text == "ab"
        await api.aclose()

    async def test_waiting_for_a_place_is_part_of_the_total(self, serve: Serve) -> None:
        api = engine(await serve([word("a"), 5.0]), max_concurrent=1, deadlines=Deadlines(total=0.4))
        async with aclosing(api.stream(Prompt(ASK))) as first:
            await anext(first)
            error = await fails(api)
            assert isinstance(error, TimedOut)
            assert error.deadline == "place"
        await api.aclose()


class TestConnections:
    async def test_an_answer_that_ended_leaves_its_connection_to_the_next(self, serve: Serve) -> None:
        fake = await serve([word("a"), word("b"), END, 0.02])
        api = engine(fake)
        for _ in range(5):
            await told(api)
        assert len(fake.peers) == 1
        await api.aclose()

    async def test_the_connection_is_kept_even_if_the_reader_stops_at_finish(self, serve: Serve) -> None:
        fake = await serve([word("a"), END])
        api = engine(fake)
        for _ in range(3):
            async with aclosing(api.stream(Prompt(ASK))) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        break
        assert len(fake.peers) == 1
        await api.aclose()

    async def test_a_connection_that_died_in_the_pool_is_not_a_failed_try(
        self, serve: Serve, logs: list[dict[str, Any]]
    ) -> None:
        """llama.cpp promises to keep a connection alive and closes it after each stream."""
        answered: set[object] = set()

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            assert request.transport is not None
            if request.transport in answered:
                request.transport.abort()
            answered.add(request.transport)
            return web.Response(body=word("a") + END, content_type="text/event-stream")

        fake = await serve(answer)
        api = engine(fake)
        for _ in range(4):
            assert (await told(api))[0] == "a"
        assert logs == []
        assert (len(fake.peers), len(fake.asked)) == (4, 7)
        await asyncio.gather(*(told(api) for _ in range(8)))  # one of them on that connection, beside seven new ones
        assert len(fake.peers) == 12
        await asyncio.gather(*(told(api) for _ in range(12)))
        await api.aclose()

    async def test_nor_is_it_while_other_calls_make_connections(self, serve: Serve) -> None:
        answered: set[object] = set()
        asked_again, die = asyncio.Event(), asyncio.Event()

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            assert request.transport is not None
            if request.transport in answered:
                asked_again.set()
                await die.wait()
                request.transport.abort()
            answered.add(request.transport)
            return web.Response(body=word("a") + END, content_type="text/event-stream")

        fake = await serve(answer)
        api = engine(fake)
        await told(api)
        on_the_old_one = asyncio.create_task(told(api))
        await asked_again.wait()
        assert (await told(api))[0] == "a"
        die.set()
        assert (await on_the_old_one)[0] == "a"
        await api.aclose()

    async def test_a_name_that_cannot_be_found_is_asked_once(self) -> None:
        api = engine("http://nowhere.invalid/v1")
        assert type(await fails(api)) is Unavailable
        await api.aclose()

    async def test_a_server_that_says_done_and_hangs_does_not_hold_the_answer(self, serve: Serve) -> None:
        fake = await serve([word("a"), END, 5.0])
        api = engine(fake)
        start = monotonic()
        assert (await told(api))[0] == "a"
        assert monotonic() - start < 0.4
        await asyncio.wait_for(fake.left.wait(), 0.2)
        await api.aclose()

    async def test_closing_early_closes_the_connection_at_once(self, serve: Serve) -> None:
        fake = await serve([word("a"), 10.0, END])
        api = engine(fake)
        stream = api.stream(Prompt(ASK))
        await anext(stream)
        start = monotonic()
        await stream.aclose()
        await asyncio.wait_for(fake.left.wait(), 1)
        assert fake.left_at - start < 0.1
        await api.aclose()

    @pytest.mark.parametrize("pieces", [[word("a"), 10.0], [10.0], [b": ping\n\n", 10.0]])
    async def test_cancelling_closes_the_connection_at_once(self, serve: Serve, pieces: list[bytes | float]) -> None:
        fake = await serve(pieces)
        api = engine(fake)
        task = asyncio.create_task(told(api))
        await asyncio.sleep(0.2)
        start = monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(fake.left.wait(), 1)
        assert fake.left_at - start < 0.1
        await api.aclose()

    async def test_places_are_given_back_however_a_call_ends(self, serve: Serve) -> None:
        fake = await serve([word("a"), 0.3, END])
        api = engine(fake, max_concurrent=1)
        for _ in range(3):
            stream = api.stream(Prompt(ASK))
            await anext(stream)
            await stream.aclose()
        task = asyncio.create_task(told(api))
        waiting = asyncio.create_task(told(api))
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert (await task)[0] == (await told(api))[0] == "a"
        await api.aclose()

    async def test_no_more_calls_at_once_than_allowed(self, serve: Serve) -> None:
        running, most = [0], [0]

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.02)
            running[0] -= 1
            return web.Response(body=word("a") + END, content_type="text/event-stream")

        api = engine(await serve(answer), max_concurrent=3)
        await asyncio.gather(*(told(api) for _ in range(12)))
        assert most == [3]
        await api.aclose()

    async def test_nothing_is_sent_before_the_first_step(self, serve: Serve) -> None:
        fake = await serve([word("a"), END])
        api = engine(fake)
        await api.stream(Prompt(ASK)).aclose()
        await asyncio.sleep(0.05)
        assert fake.paths == []
        await api.aclose()

    @pytest.mark.parametrize("pieces", [[word("a"), 10.0], [b": ping\n\n", 10.0], [10.0]])
    async def test_closing_the_engine_ends_running_streams(self, serve: Serve, pieces: list[bytes | float]) -> None:
        api = engine(await serve(pieces))
        running = asyncio.create_task(fails(api))
        await asyncio.sleep(0.1)
        await api.aclose()
        await api.aclose()
        assert type(await asyncio.wait_for(running, 0.5)) is Unavailable
        assert type(await fails(api)) is Unavailable


class TestReady:
    async def test_a_wrong_key_is_refused_with_the_name_of_its_variable(self, openai: Fake) -> None:
        api = engine(openai, key="sk-wrong-key", api_key_env="TEACHER_KEY")
        with pytest.raises(Refused, match="TEACHER_KEY") as raised:
            await api.ready()
        assert "sk-wrong-key" not in str(raised.value)
        assert raised.value.engine == "upstream"
        await api.aclose()

    async def test_a_right_key(self, openai: Fake) -> None:
        api = engine(openai, key=KEY)
        assert await api.ready() == api.abilities
        assert openai.paths == ["/v1/models"]
        await api.aclose()

    async def test_a_server_that_is_down(self, serve: Serve) -> None:
        api = engine(await serve(refusing(503, "loading the model")))
        with pytest.raises(Unavailable, match="loading"):
            await api.ready()
        await api.aclose()
        api = engine("http://127.0.0.1:9/v1")
        with pytest.raises(Unavailable):
            await api.ready()
        await api.aclose()

    async def test_abilities_come_from_the_configuration(self) -> None:
        spec: dict[str, Any] = {"samples": False, "logprobs": False, "tools": False, "json_schema": False}
        assert engine("http://x/v1", **spec).abilities == Ability.NONE
        assert engine("http://x/v1", **spec, images=True).abilities == Ability.IMAGES
        assert engine("http://x/v1", **spec, prefill="implicit").abilities == Ability.CONTINUE


OWN = "sk-own-fedcba9876543210"


class TestSomebodyElsesKey:
    async def test_it_is_sent_instead_of_the_engines_own(self, openai: Fake) -> None:
        setattr(openai, "KEY", OWN)  # noqa: B010 - a member of one fake
        api = engine(openai, key=KEY, **TEACHER)
        assert (await told(api, Prompt(ASK, max_tokens=3, key=OWN)))[0] == "The sky is"
        assert [headers["Authorization"] for headers in openai.headers] == [f"Bearer {OWN}"]
        await api.aclose()

    async def test_it_is_of_one_call_alone(self, openai: Fake) -> None:
        api = engine(openai, key=KEY, **TEACHER)
        assert type(await fails(api, Prompt(ASK, max_tokens=3, key=OWN))) is Refused
        assert (await told(api, Prompt(ASK, max_tokens=3)))[0] == "The sky is"
        assert [headers["Authorization"] for headers in openai.headers] == [f"Bearer {OWN}", f"Bearer {KEY}"]
        await api.aclose()

    async def test_neither_key_is_in_a_message(self, serve: Serve) -> None:
        api = engine(await serve(refusing(400, openai_error(f"{OWN} and {KEY}", f"x-{OWN}"))), key=KEY)
        error = await fails(api, Prompt(ASK, key=OWN))
        assert str(error) == "400 x-[key]: [key] and [key]"
        assert error.code == "x-[key]"
        await api.aclose()

    async def test_it_is_sent_with_the_rendering_of_the_template_too(self, llama_cpp: Fake) -> None:
        api = engine(llama_cpp, prefill="raw_completion")
        await told(api, Prompt(ASK, prefix="1, 2, 3, 4,", key=OWN))
        assert llama_cpp.paths == ["/apply-template", "/v1/completions"]
        assert [headers["Authorization"] for headers in llama_cpp.headers] == [f"Bearer {OWN}"] * 2
        await api.aclose()

    async def test_it_is_in_no_representation(self) -> None:
        assert OWN not in repr(Prompt(ASK, key=OWN))

    async def test_an_engine_without_a_key_of_its_own_is_ready_when_somebody_answers(self, openai: Fake) -> None:
        api = engine(openai, api_key_env="TEACHER_KEY", prefill="implicit")
        assert Ability.CONTINUE not in await api.ready(), "what cannot be proven is not claimed"
        assert openai.paths[0] == "/v1/models"
        await api.aclose()
