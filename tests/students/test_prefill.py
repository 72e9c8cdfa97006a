"""Each spelling against a server that accepts no other, the probe, and chat templates."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from jinja2 import TemplateSyntaxError

from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.errors import BadReply, Overloaded, Refused
from students.openai_api import OpenAIApi
from students.prefill import PROBE, SPELLINGS, ChatTemplate, prefilled, probe
from students.servers import Prefill
from students.spec import OpenAISpec

if TYPE_CHECKING:
    from tests.fakes import Fake, Json
    from tests.students.conftest import Serve

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "Count."},)
COUNTING = Prompt(ASK, prefix="1, 2, 3, 4,", max_tokens=8)


def engine(fake: Fake, prefill: Prefill, **spec: Any) -> OpenAIApi:
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
        api = engine(mistral, "prefix_field")
        assert await told(api) == " 5, 6, 7, 8"
        assert mistral.asked[-1]["messages"][-1] == {"role": "assistant", "content": "1, 2, 3, 4,", "prefix": True}
        await api.aclose()

    async def test_raw_completion_with_the_servers_own_template(self, completions: Fake) -> None:
        api = engine(completions, "raw_completion", limit_field="max_completion_tokens", reasoning_effort="none")
        prompt = Prompt(ASK, prefix="1, 2, 3, 4,", max_tokens=4, sampling=Sampling(logprobs=True, stop=("\n",)))
        async with aclosing(api.stream(prompt)) as events:
            said = [event async for event in events]
        (entry,) = said[0].logprobs or [] if isinstance(said[0], Delta) else []
        assert (entry["token"], entry["logprob"]) == (" 5", -0.25)
        assert isinstance(said[1], Delta)
        assert (said[1].text, said[1].logprobs) == (", 6", None)
        assert said[2] == Finish(("length",))
        assert completions.paths == ["/apply-template", "/v1/completions"]
        assert completions.asked == [
            {"messages": list(ASK), "add_generation_prompt": True},
            {
                "model": "m",
                "stream": True,
                "stream_options": {"include_usage": True},
                "stop": ["\n"],
                "prompt": "<|user|>Count.\n<|assistant|>1, 2, 3, 4,",
                "max_tokens": 4,
                "logprobs": 1,
            },
        ]
        await api.aclose()

    async def test_raw_completion_with_a_template_from_the_configuration(self, completions: Fake) -> None:
        template = (
            "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        api = engine(completions, "raw_completion", chat_template=template)
        assert await told(api) == " 5, 6"
        assert completions.paths == ["/v1/completions"]
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
        api = engine(mistral, "prefix_field")
        await told(api, Prompt(messages, prefix="1, 2,"))
        assert messages == list(ASK)
        await api.aclose()


class TestEcho:
    async def test_only_a_server_that_echoes_loses_what_looks_like_an_echo(self, serve: Serve) -> None:
        """After the probe it is known which kind it is: "ha" continued with "ha" is then no echo."""

        async def answer(request: web.Request, body: Json) -> web.StreamResponse:
            prefix = body["messages"][-1]["content"] if request.method == "POST" else ""
            text = " 5, 6" if prefix.endswith("4,") else "haha"
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

    def __init__(self, *words: str) -> None:
        self._words = words
        self.asked: list[Prompt] = []

    async def stream(self, prompt: Prompt) -> Any:
        self.asked.append(prompt)
        for word in self._words:
            yield Delta(word)
        yield Finish()

    async def ready(self) -> Ability:
        return self.abilities

    async def aclose(self) -> None:
        return


class TestProbe:
    @pytest.mark.parametrize(
        ("words", "proven"),
        [
            ((" 5", ", 6"), True),
            (("5",), True),
            (("\n", " ", "5, 6, 7, 8."), True),
            (("1, 2, 3, 4, 5",), False),
            (("1, 2",), False),
            (("Sure! ", "5"), False),
            (("50",), False),
            ((), False),
        ],
    )
    async def test_it_must_go_on_with_five(self, words: tuple[str, ...], proven: bool) -> None:
        saying = Saying(*words)
        assert await probe(saying) is proven
        assert saying.asked == [PROBE]

    @pytest.mark.parametrize(("fake", "prefill"), [("vllm", "continue_flag"), ("mistral", "prefix_field")])
    async def test_a_server_that_continues(self, vllm: Fake, mistral: Fake, fake: str, prefill: Prefill) -> None:
        server = {"vllm": vllm, "mistral": mistral}[fake]
        api = engine(server, prefill)
        assert Ability.CONTINUE in await api.ready()
        assert Ability.CONTINUE in await api.ready()
        assert len(server.asked) == 1, "a probe is made once"
        await api.aclose()

    @pytest.mark.parametrize(("fake", "prefill"), [("vllm", "implicit"), ("mistral", "implicit")])
    async def test_a_server_that_does_not(
        self, vllm: Fake, mistral: Fake, logs: list[dict[str, Any]], fake: str, prefill: Prefill
    ) -> None:
        server = {"vllm": vllm, "mistral": mistral}[fake]
        api = engine(server, prefill)
        assert Ability.CONTINUE in api.abilities
        assert Ability.CONTINUE not in await api.ready()
        assert Ability.CONTINUE not in api.abilities
        assert logs[-1]["event"] == "cannot continue a given text"
        assert await api.ready() == api.abilities
        assert len(server.asked) == 1
        with pytest.raises(ValueError, match="cannot continue"):
            await told(api)
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
            choice = {"index": 0, "delta": {"content": " 5"}, "finish_reason": "stop"}
            return web.Response(
                body=b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n", content_type="text/event-stream"
            )

        api = engine(await serve(answer), "implicit")
        with pytest.raises(Overloaded):
            await api.ready()
        assert Ability.CONTINUE in await api.ready()
        await api.aclose()


class TestChatTemplate:
    def test_it_renders_as_transformers_does(self) -> None:
        source = (
            "{{ bos_token }}{% for message in messages %}\n"
            "    {% if message.role == 'skip' %}{% continue %}{% endif %}\n"
            "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\n"
            "{% endfor %}\n"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
        )
        messages = [{"role": "skip", "content": "x"}, {"role": "user", "content": "<b> & 'ä'"}]
        assert ChatTemplate(source).render(messages) == (
            "<|im_start|>user\n<b> & 'ä'<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_tojson_does_not_escape(self) -> None:
        assert ChatTemplate("{{ messages[0] | tojson }}").render([{"a": "<ä>'"}]) == '{"a": "<ä>\'"}'

    def test_a_template_may_reject_the_messages(self) -> None:
        template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
        with pytest.raises(Refused, match="roles must alternate"):
            template.render(ASK)

    def test_a_template_can_reach_nothing_outside(self) -> None:
        with pytest.raises(Refused):
            ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}").render(ASK)
        with pytest.raises(Refused):
            ChatTemplate("{{ messages.append(1) }}").render(ASK)

    def test_a_broken_template_is_found_when_the_engine_is_built(self) -> None:
        with pytest.raises(TemplateSyntaxError):
            OpenAIApi("x", OpenAISpec(model="m", prefill="raw_completion", chat_template="{% if %}"))
