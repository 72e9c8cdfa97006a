"""Each spelling against a server that accepts no other, and the probe."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from aiohttp import web
from pydantic import ValidationError

from pricing.usage import Usage
from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.errors import BadReply, Overloaded, Refused, Unavailable
from students.openai_api import OpenAIApi
from students.prefill import PROBE, SPELLINGS, Proof, prefilled, probe
from students.servers import Prefill
from students.spec import OpenAISpec
from tests.fake_servers import CHATML, LlamaCpp, Ollama, TransformersServe
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.fakes import Fake, Json
    from tests.students.conftest import Serve

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "Count."},)
COUNTING = Prompt(ASK, prefix="1, 2, 3, 4,", max_tokens=8)


def engine(fake: Fake, prefill: Prefill | Literal["auto"], **spec: Any) -> OpenAIApi:
    return OpenAIApi("student", OpenAISpec(model="m", base_url=fake.url, prefill=prefill, **spec))


async def told(api: OpenAIApi, prompt: Prompt = COUNTING) -> str:
    async with aclosing(api.stream(prompt)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


class TestSpellings:
    async def test_continue_flag(self, vllm: Fake) -> None:
        api = engine(vllm, "continue_flag")
        assert await told(api) == " 5, 6, 7, 8,"
        assert vllm.asked[-1]["messages"] == [*ASK, {"role": "assistant", "content": "1, 2, 3, 4,"}]
        await told(api, Prompt(ASK))
        assert "continue_final_message" not in vllm.asked[-1]
        assert vllm.asked[-1]["messages"] == list(ASK)
        await api.aclose()

    async def test_vllm_refuses_the_flag_without_its_partner(self, vllm: Fake) -> None:
        api = engine(vllm, "implicit")
        options = {"continue_final_message": True}
        with pytest.raises(Refused, match="Cannot set both"):
            await told(api, Prompt(ASK, prefix="1, 2,", options=options))
        await api.aclose()

    async def test_prefix_field(self, mistral: Fake) -> None:
        api = engine(mistral, "prefix_field", stream_usage=False)
        assert await told(api) == " 5, 6, 7, 8, 9, 10, 11, 12,"
        assert mistral.asked[-1]["messages"][-1] == {"role": "assistant", "content": "1, 2, 3, 4,", "prefix": True}
        await api.aclose()

    async def test_raw_completion_with_the_servers_own_template(self, llama_cpp: Fake) -> None:
        api = engine(llama_cpp, "raw_completion", limit_field="max_completion_tokens", reasoning_effort="none")
        sampling = Sampling(logprobs=True, stop=("\n",))
        options = {"chat_template_kwargs": {"style": "plain"}}
        prompt = Prompt(ASK, prefix="1, 2, 3, 4,", max_tokens=2, sampling=sampling, options=options)
        async with aclosing(api.stream(prompt)) as events:
            said = [event async for event in events]
        assert isinstance(said[0], Delta)
        assert (said[0].text, (said[0].logprobs or [{}])[0]["logprob"]) == (" 5,", -0.25)
        assert isinstance(said[-1], Finish)
        assert said[-1].reason == "length"
        assert llama_cpp.paths == ["/apply-template", "/v1/completions"]
        assert llama_cpp.asked == [
            {
                "messages": list(ASK),
                "add_generation_prompt": True,
                "chat_template_kwargs": {"enable_thinking": False, "style": "plain"},
            },
            {
                "model": "m",
                "stream": True,
                "stream_options": {"include_usage": True},
                "stop": ["\n"],
                "prompt": "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n1, 2, 3, 4,",
                "max_tokens": 2,
                "logprobs": 1,
            },
        ]
        await api.aclose()

    async def test_raw_completion_with_a_template_from_the_configuration(self, llama_cpp: Fake) -> None:
        api = engine(llama_cpp, "raw_completion", chat_template=CHATML)
        assert await told(api, replace(COUNTING, max_tokens=2)) == " 5, 6,"
        assert llama_cpp.paths == ["/v1/completions"]
        await api.aclose()

    async def test_a_server_without_templates(self, serve: Serve) -> None:
        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            return web.json_response({"text": "no"})

        api = engine(await serve(answer), "raw_completion")
        with pytest.raises(BadReply, match="apply-template"):
            await told(api)
        await api.aclose()

    def test_an_empty_assistant_message_is_never_made(self) -> None:
        for spelling in SPELLINGS.values():
            assert prefilled(spelling, ASK, "") == list(ASK)

    async def test_the_callers_messages_are_left_alone(self, mistral: Fake) -> None:
        messages = [dict(ASK[0])]
        api = engine(mistral, "prefix_field", stream_usage=False)
        await told(api, Prompt(messages, prefix="1, 2,"))
        assert messages == list(ASK)
        await api.aclose()


class TestEcho:
    async def test_only_a_server_that_echoes_loses_what_looks_like_an_echo(self, serve: Serve) -> None:
        """After the probe it is known which kind it is: "ha" continued with "ha" is then no echo."""

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            prefix = body["messages"][-1]["content"] if request.method == "POST" else ""
            text = "0, 11" if prefix.endswith("9, 1") else "haha"
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
            frame = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\ndata: [DONE]\n\n"
            return web.Response(body=frame, content_type="text/event-stream")

        api = engine(await serve(answer), "prefix_field")
        assert Ability.CONTINUE in await api.ready()
        assert await told(api, Prompt(ASK, prefix="ha")) == "haha"
        await api.aclose()


class Saying:
    """An engine that says one thing; enough of one for the probe."""

    name = "saying"
    model = "saying"
    abilities = Ability.CONTINUE

    def __init__(self, *words: str, finish: Finish | None = None) -> None:
        self._words = words
        self._finish = finish or Finish()
        self.asked: list[Prompt] = []

    async def stream(self, prompt: Prompt) -> Any:
        self.asked.append(prompt)
        for word in self._words:
            yield Delta(word)
        yield self._finish

    async def ready(self) -> Ability:
        return self.abilities

    async def aclose(self) -> None:
        return


class TestProbe:
    @pytest.mark.parametrize(
        ("words", "proven", "why"),
        [
            (("0", ", 11"), True, "goes on"),
            (("0.",), True, "goes on"),
            ((" 0, 11",), False, "says something else: '0, 11'"),
            (("0", "0"), False, "says something else: '00'"),
            (("10, 11, 12",), False, "says something else: '10, 11, 12'"),
            (("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",), False, "repeats the text"),
            (("1, 2",), False, "starts again"),
            (("Sure! ", "10"), False, "says something else: 'Sure! 10'"),
            (("x" * 99,), False, f"says something else: {'x' * 32!r}"),
            ((" ", "\n"), False, "says nothing"),
            ((), False, "says nothing"),
        ],
    )
    async def test_it_must_finish_the_number(self, words: tuple[str, ...], proven: bool, why: str) -> None:
        saying = Saying(*words)
        proof = await probe(saying)
        assert (proof.proven, proof.why) == (proven, why)
        assert saying.asked == [PROBE]

    @pytest.mark.parametrize(
        ("words", "finish", "limited"),
        [
            (["0, 11, 12, 1"], Finish(("length",)), True),
            (["0, 11, 12, 1"], Finish(("length",), Usage(output=8)), True),
            (["0, ", *[f"{number}, " for number in range(11, 31)]], Finish(), False),
            (["0, 11", " and so on"], Finish(("stop",), Usage(output=60)), False),
            (["0, 11"], Finish(), None),
        ],
    )
    async def test_it_notices_a_limit_that_is_not_kept(
        self, words: list[str], finish: Finish, limited: bool | None
    ) -> None:
        assert (await probe(Saying(*words, finish=finish))).limited is limited

    @pytest.mark.parametrize(("fake", "prefill"), [("vllm", "continue_flag"), ("mistral", "prefix_field")])
    async def test_a_server_that_continues(self, vllm: Fake, mistral: Fake, fake: str, prefill: Prefill) -> None:
        server = {"vllm": vllm, "mistral": mistral}[fake]
        api = engine(server, prefill, stream_usage=False)
        assert Ability.CONTINUE in await api.ready()
        assert Ability.CONTINUE in await api.ready()
        assert len(server.asked) == 1, "a probe is made once"
        assert api.proof is not None
        assert (api.proof.proven, api.proof.prefill, api.proof.echoes) == (True, prefill, fake == "mistral")
        await api.aclose()

    @pytest.mark.parametrize(
        ("fake", "prefill", "why"),
        [
            ("vllm", "implicit", "starts again"),
            ("mistral", "implicit", "refused: 400 invalid_request_error: Expected last role User"),
        ],
    )
    async def test_a_server_that_does_not(
        self, vllm: Fake, mistral: Fake, logs: list[dict[str, Any]], fake: str, prefill: Prefill, why: str
    ) -> None:
        server = {"vllm": vllm, "mistral": mistral}[fake]
        api = engine(server, prefill, stream_usage=False)
        assert Ability.CONTINUE in api.abilities
        assert Ability.CONTINUE not in await api.ready()
        assert Ability.CONTINUE not in api.abilities
        assert logs[-1]["event"] == "cannot continue a given text"
        assert logs[-1]["why"].startswith(why)
        assert await api.ready() == api.abilities
        assert len(server.asked) == 1
        with pytest.raises(ValueError, match="cannot continue"):
            await told(api)
        await api.aclose()

    async def test_a_limit_that_is_ignored_is_logged_and_does_not_hinder(
        self, serve: Serve, logs: list[dict[str, Any]]
    ) -> None:
        api = engine(await serve(Ollama()), "implicit", limit_field="max_completion_tokens")
        assert Ability.CONTINUE in await api.ready()
        assert api.proof == Proof(True, "goes on", "implicit", limited=False)
        assert logs[-1]["event"] == "does not keep to the token limit"
        await api.aclose()

    async def test_answers_in_one_piece_are_proven_as_well(self, serve: Serve) -> None:
        """llama.cpp's server repeats the text in them, and only in them."""
        fake = LlamaCpp()
        api = engine(await serve(fake), "implicit", streaming="as_asked", server="llama.cpp")
        assert Ability.CONTINUE in await api.ready()
        assert api.proof is not None
        assert api.proof.echoes
        assert [body["stream"] for body in fake.asked] == [True, False]
        assert await told(api, replace(COUNTING, stream=False, max_tokens=2)) == " 5, 6,"
        await api.aclose()

    async def test_a_server_that_only_streams_rightly_is_not_proven_for_both(self, serve: Serve) -> None:
        class Half(LlamaCpp):
            def prompt(self, body: Json) -> str:
                return super().prompt(body if body["stream"] else {**body, "messages": list(ASK)})

        api = engine(await serve(Half()), "implicit", streaming="as_asked", server="llama.cpp")
        assert Ability.CONTINUE not in await api.ready()
        assert api.proof is not None
        assert api.proof.why == "not streaming, it starts again"
        await api.aclose()

    @pytest.mark.parametrize(("prefill", "spec"), [("context", {}), ("continue_flag", {"probe": False})])
    async def test_no_probe_where_none_is_wanted(self, vllm: Fake, prefill: Prefill, spec: dict[str, Any]) -> None:
        api = engine(vllm, prefill, **spec)
        before = api.abilities
        assert await api.ready() == before
        assert vllm.asked == []
        await api.aclose()

    async def test_a_busy_server_proves_nothing(self, serve: Serve) -> None:
        busy = [True]

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            if request.method == "GET":
                return web.json_response({})
            if busy.pop() if busy else False:
                return web.json_response({"error": {"message": "busy"}}, status=429)
            choice = {"index": 0, "delta": {"content": "0"}, "finish_reason": "stop"}
            return web.Response(
                body=b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n", content_type="text/event-stream"
            )

        api = engine(await serve(answer), "implicit")
        with pytest.raises(Overloaded):
            await api.ready()
        assert Ability.CONTINUE in await api.ready()
        await api.aclose()


class TestAuto:
    async def test_the_first_way_that_is_proven_is_used(self, serve: Serve) -> None:
        fake = TransformersServe()
        api = engine(await serve(fake), "auto", chat_template=CHATML)
        assert Ability.CONTINUE in api.abilities
        assert Ability.CONTINUE in await api.ready()
        assert api.proof is not None
        assert (api.proof.prefill, api.proof.proven) == ("raw_completion", True)
        assert len(fake.asked) == 4
        assert await told(api, replace(COUNTING, max_tokens=2)) == " 5, 6,"
        assert fake.paths[-1] == "/v1/completions"
        assert len(fake.asked) == 5
        await api.aclose()

    async def test_what_is_asked_before_it_was_ready_waits_for_the_way(self, vllm: Fake) -> None:
        api = engine(vllm, "auto")
        assert await told(api) == " 5, 6, 7, 8,"
        assert vllm.asked[-1]["continue_final_message"] is True
        await api.aclose()

    async def test_where_there_is_no_way_each_is_told(self, openai: Fake) -> None:
        api = OpenAIApi("student", OpenAISpec(model="gpt-6-sol", base_url=openai.url, prefill="auto"), key=OpenAI.KEY)
        with pytest.raises(Refused, match="no way to continue"):
            await told(api)
        assert Ability.CONTINUE not in api.abilities
        assert api.proof is not None
        assert "continue_flag: refused: 400" in api.proof.why
        assert "implicit: says something else: 'The sky is blue.'" in api.proof.why
        assert "raw_completion: refused: 404" in api.proof.why
        await api.aclose()

    async def test_a_way_that_the_server_fails_at_is_passed_over(self, serve: Serve) -> None:
        class Crashes(Ollama):
            async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
                if "continue_final_message" in body:
                    return web.Response(status=500)
                return await super().answer(request, body)

        api = engine(await serve(Crashes()), "auto")
        assert Ability.CONTINUE in await api.ready()
        await api.aclose()

    async def test_a_server_that_fails_at_everything_proves_nothing(self, serve: Serve) -> None:
        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            return web.json_response({}) if request.method == "GET" else web.Response(status=500)

        api = engine(await serve(answer), "auto")
        with pytest.raises(Unavailable):
            await api.ready()
        assert Ability.CONTINUE in api.abilities, "it is tried again"
        await api.aclose()

    def test_it_needs_the_probe(self) -> None:
        with pytest.raises(ValidationError, match="found out by the probe"):
            OpenAISpec(model="m", prefill="auto", probe=False)
