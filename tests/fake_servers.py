"""Strict fakes of servers that run students, each as its own source or documentation has it.

Behind all of them is one model, which is told as the real one is: a rendered chat. It counts when it is asked to, goes
on with a list that it finds unfinished in its own mouth, and answers to a list in somebody else's with the next number,
as models do. So a fake says only how its server reads a request and writes an answer, and a wrong way of asking goes
wrong by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web

from students.openai_api import OpenAIApi
from students.prefill import WAYS, Proof
from students.servers import Prefill, ServerKind
from students.spec import OpenAISpec
from tests.fakes import Fake, Json, error, served, sse

COUNT = ", ".join(str(number) for number in range(1, 31))
OPEN, CLOSE = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the model."""

SAMPLING = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "stop"})
CHAT = frozenset({"model", "messages", "stream", "tools", "tool_choice", "response_format", *SAMPLING})


class Rejected(Exception):
    """The server's answer to a request that it does not take."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def rendered(messages: Sequence[Json], *, generation: bool = True) -> str:
    """The chat as the model reads it."""
    turns = [f"{OPEN}{message['role']}\n{message['content']}{CLOSE}\n" for message in messages]
    return "".join(turns) + (f"{OPEN}assistant\n" if generation else "")


def unfinished(messages: Sequence[Json]) -> str:
    """The same, the last message left open."""
    return rendered(messages, generation=False).removesuffix(f"{CLOSE}\n")


def says(prompt: str) -> list[str]:
    """All the tokens that the model has to say to a rendered chat."""
    before, _, begun = prompt.rpartition(f"{OPEN}assistant\n")
    asked = before.rpartition(f"{OPEN}user\n")[2].partition(CLOSE)[0]
    if not before or CLOSE in begun:
        text = "?"
    elif begun:
        text = COUNT[len(begun) :] if COUNT.startswith(begun) else " and so on."
    elif asked.startswith("1, 2"):
        text = "10, 11, 12, and so on; what do you want to know about these numbers?"
    else:
        text = COUNT
    return re.findall(r"\s*\S+", text)


class Student(Fake):
    """A server of one model. Each kind overrides what it does in its own way.

    `known`: the members of a chat request that it takes; None: it ignores what it does not know. `limits`: the names of
    the limit that it honours. `usage`: when a stream ends in a report. `done`: a stream ends in [DONE].
    """

    kind: ServerKind
    known: frozenset[str] | None = None
    unknown_status = 422
    limits: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    samples = False
    logprobs = False
    usage: str = "asked"
    done = True
    keeps_stop = False
    """The text ends behind a stop string, not before it."""
    echoes: tuple[str, ...] = ()
    """What repeats the text that was given: `stream`, `whole`."""
    completions = True
    """It has /completions, which takes a text as it is."""
    pause = 0.002

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        path = "/" + request.path.partition("/")[2].partition("/")[2]  # without /v1
        if path == "/models":
            return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})
        try:
            if path == "/chat/completions":
                self.check(body)
                return await self.tell(request, body, self.prompt(body), "delta")
            if path == "/completions" and self.completions:
                self.check_completion(body)
                return await self.tell(request, body, self.text(body["prompt"]), "text")
        except Rejected as rejected:
            return self.refusal(rejected)
        return error(404, f"there is no {path}")

    def check(self, body: Json) -> None:
        """Raises `Rejected` for a chat request that is not valid."""
        if self.known is not None and (unknown := set(body) - self.known):
            raise Rejected(self.unknown_status, f"Extra inputs are not permitted: {', '.join(sorted(unknown))}")

    def check_completion(self, body: Json) -> None:
        """The same for `/completions`."""
        if not isinstance(body.get("prompt"), str) or "messages" in body:
            raise Rejected(422, "prompt: Field required")

    def prompt(self, body: Json) -> str:
        """What the model reads of a chat."""
        return rendered(body["messages"])

    def text(self, prompt: str) -> str:
        """What the model reads of a text."""
        return prompt

    def refusal(self, rejected: Rejected) -> web.Response:
        """How it says no."""
        return error(rejected.status, str(rejected))

    def given(self, body: Json) -> str:
        """The text that a chat's last message gives the answer to begin with."""
        last = body["messages"][-1] if body.get("messages") else {}
        return str(last["content"]) if last.get("role") == "assistant" else ""

    async def tell(self, request: web.Request, body: Json, prompt: str, kind: str) -> web.StreamResponse:
        """The model's answer: `delta`, to a chat, or `text`."""
        limit = next((body[name] for name in self.limits if body.get(name) is not None), None)
        everything = says(prompt)
        tokens, reason = everything[:limit], "length" if limit is not None and limit < len(everything) else "stop"
        stops = body.get("stop") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            for at in range(len(tokens)):
                if stop in "".join(tokens[: at + 1]):
                    tokens, reason = tokens[: at + self.keeps_stop], "stop"
                    break
        n = body.get("n", 1) if self.samples else 1
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(tokens) * n}
        usage["total_tokens"] = sum(usage.values())
        streams = bool(body.get("stream"))
        if kind == "delta" and ("stream" if streams else "whole") in self.echoes and self.given(body):
            tokens = [*re.findall(r".{1,4}", self.given(body)), *tokens]
        if not streams:
            await asyncio.sleep(self.pause * len(tokens))
            member: Json = {"text": "".join(tokens)}
            if kind == "delta":
                member = {"message": {"role": "assistant", "content": "".join(tokens)}}
            choices = [{"index": index, **member, "finish_reason": reason} for index in range(n)]
            return web.json_response({"id": "1", "choices": choices, "usage": usage})
        pieces: list[bytes | float] = []
        if kind == "delta":
            pieces += [self.frame({"delta": {"role": "assistant", "content": ""}}, index) for index in range(n)]
        for token in tokens:
            said: Json = {"delta": {"content": token}} if kind == "delta" else {"text": token}
            if self.logprobs and body.get("logprobs"):
                said["logprobs"] = (
                    {"content": [{"token": token, "logprob": -0.25, "bytes": None, "top_logprobs": []}]}
                    if kind == "delta"
                    else {"tokens": [token], "token_logprobs": [-0.25], "top_logprobs": [{token: -0.25}]}
                )
            pieces += [self.pause, *(self.frame(said, index) for index in range(n))]
        last: Json = {"delta": {}} if kind == "delta" else {"text": ""}
        beside = {"usage": usage} if self.usage == "beside" else {}
        pieces += [self.frame({**last, "finish_reason": reason}, index, **beside) for index in range(n)]
        wanted = (body.get("stream_options") or {}).get("include_usage", False)
        if self.usage == "always" or (self.usage == "asked" and wanted):
            pieces.append(self.frame(None, usage=usage))
        if self.done:
            pieces.append(b"data: [DONE]\n\n")
        return await sse(request, self.sent(pieces))

    def sent(self, pieces: Iterable[bytes | float]) -> Iterable[bytes | float]:
        """How a stream goes out."""
        return pieces

    def frame(self, choice: Json | None, index: int = 0, **members: Any) -> bytes:
        """One event of a stream."""
        choices = [] if choice is None else [{"index": index, "finish_reason": None, **choice}]
        return b"data: " + json.dumps({"id": "1", "choices": choices, **members}).encode() + b"\n\n"


class Vllm(Student):
    """vllm/entrypoints/openai: the two fields exclude each other's defaults; a trailing assistant message is closed."""

    kind = "vllm"
    samples = True
    logprobs = True

    def check(self, body: Json) -> None:
        if body.get("stream_options") and not body.get("stream"):
            raise Rejected(400, "Stream options can only be defined when `stream=True`.")
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise Rejected(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")

    def prompt(self, body: Json) -> str:
        if body.get("continue_final_message"):
            return unfinished(body["messages"])
        return rendered(body["messages"], generation=body.get("add_generation_prompt", True))


class Sglang(Student):
    """sglang/srt/entrypoints/openai/serving_chat.py: without the flag, a last assistant message becomes the user's."""

    kind = "sglang"
    samples = True
    logprobs = True

    def prompt(self, body: Json) -> str:
        *before, last = body["messages"]
        if last["role"] != "assistant":
            return rendered(body["messages"])
        if body.get("continue_final_message"):
            return rendered(before) + str(last["content"])
        return rendered([*before, {"role": "user", "content": last["content"]}])


class LlamaCpp(Student):
    """llama.cpp's tools/server: continues a trailing assistant message, unless a thinking template is to think."""

    kind = "llama.cpp"
    logprobs = True
    echoes = ("whole",)
    thinks = True
    """Its template knows `enable_thinking`, which is on unless a request says otherwise."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.path == "/apply-template":
            return web.json_response({"prompt": rendered(body["messages"])})
        return await super().answer(request, body)

    def check(self, body: Json) -> None:
        roles = [message["role"] for message in body["messages"]]
        if roles[-2:] == ["assistant", "assistant"]:
            raise Rejected(400, "Cannot have 2 or more assistant messages at the end of the list.")
        thinking = (body.get("chat_template_kwargs") or {}).get("enable_thinking", self.thinks)
        if roles[-1] == "assistant" and thinking:
            raise Rejected(400, "Assistant response prefill is incompatible with enable_thinking.")

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]) if self.given(body) else rendered(body["messages"])


class LlamaCppPython(Student):
    """llama_cpp/server/types.py: ignores what it does not know; its chat formats close every message; no usage."""

    kind = "llama-cpp-python"
    limits = ("max_tokens",)
    usage = "never"
    turn = 0

    def sent(self, pieces: Iterable[bytes | float]) -> Iterable[bytes | float]:
        """A new request ends the stream under way, without a reason (`interrupt_requests`, on by default)."""
        self.turn += 1
        mine = self.turn
        for piece in pieces:
            if self.turn != mine:
                yield b"data: [DONE]\n\n"
                return
            yield piece


class Ollama(Student):
    """openai/openai.go, server/prompt.go: no max_completion_tokens, no n; /completions renders the template as well."""

    kind = "ollama"
    limits = ("max_tokens",)

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]) if self.given(body) else rendered(body["messages"])

    def text(self, prompt: str) -> str:
        return rendered([{"role": "user", "content": prompt}])


class Tgi(Student):
    """router/src/infer/chat_template.rs, validation.rs: an assistant's last message is left open, and trimmed."""

    kind = "tgi"
    limits = ("max_tokens",)
    logprobs = True

    def check(self, body: Json) -> None:
        top_p = body.get("top_p")
        if top_p is not None and not 0.0 < top_p < 1.0:
            raise Rejected(422, "Input validation error: `top_p` must be > 0.0 and < 1.0")

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]).rstrip() if self.given(body) else rendered(body["messages"])

    def refusal(self, rejected: Rejected) -> web.Response:
        return web.json_response({"error": str(rejected), "error_type": "validation"}, status=rejected.status)


class LmStudio(Student):
    """As its users describe it: a trailing assistant message is continued, log probabilities are null, one choice."""

    kind = "lm-studio"

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]) if self.given(body) else rendered(body["messages"])


class TransformersServe(Student):
    """transformers/cli/serving: every chat gets a generation prompt; unknown fields are a 422; usage beside the end."""

    kind = "transformers-serve"
    known = CHAT | {"max_tokens", "max_completion_tokens", "seed", "n", "logprobs", "top_logprobs", "stream_options",
                    "reasoning_effort", "generation_config", "chat_template_kwargs", "user", "metadata"}  # fmt: skip
    usage = "beside"
    done = False
    keeps_stop = True

    def check_completion(self, body: Json) -> None:
        super().check_completion(body)
        taken = SAMPLING | {"model", "prompt", "stream", "max_tokens", "seed", "n", "logprobs", "stream_options"}
        if unknown := set(body) - taken:
            raise Rejected(422, f"Unexpected fields in the request: {unknown}")

    def refusal(self, rejected: Rejected) -> web.Response:
        return web.json_response({"detail": str(rejected)}, status=rejected.status)


class DeepSeek(Student):
    """api-docs.deepseek.com: `prefix: true` on a last assistant message, at the address that ends in /beta."""

    kind = "deepseek"
    limits = ("max_tokens",)
    logprobs = True
    completions = False

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if not request.path.startswith("/beta/") and body.get("messages", [{}])[-1].get("prefix"):
            return error(400, "prefix: only supported at base_url https://api.deepseek.com/beta")
        return await super().answer(request, body)

    def prompt(self, body: Json) -> str:
        return (
            unfinished(body["messages"]) if body["messages"][-1].get("prefix") is True else rendered(body["messages"])
        )


class Mistral(Student):
    """docs.mistral.ai: a last assistant message needs `prefix: true`; the answer repeats it; no member but its own."""

    kind = "mistral"
    known = CHAT - {"logit_bias"} | {"max_tokens", "random_seed", "n", "safe_prompt", "prediction", "prompt_mode"}
    limits = ("max_tokens",)
    samples = True
    usage = "always"
    echoes = ("stream", "whole")
    completions = False

    def check(self, body: Json) -> None:
        super().check(body)
        last = body["messages"][-1]
        if last["role"] == "assistant" and last.get("prefix") is not True:
            raise Rejected(400, "Expected last role User or Tool (or Assistant with prefix True) for serving")

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]) if self.given(body) else rendered(body["messages"])


class Anthropic(Student):
    """docs.anthropic.com, OpenAI SDK compatibility: an old Claude continues a last message that ends in no space."""

    kind = "anthropic"
    completions = False

    def check(self, body: Json) -> None:
        if body.get("n", 1) != 1:
            raise Rejected(400, "n: must be 1")
        if self.given(body) != self.given(body).rstrip():
            raise Rejected(400, "messages: final assistant content cannot end with trailing whitespace")

    def prompt(self, body: Json) -> str:
        return unfinished(body["messages"]) if self.given(body) else rendered(body["messages"])


STUDENTS: Mapping[ServerKind, type[Student]] = {
    each.kind: each
    for each in (
        Vllm, Sglang, LlamaCpp, LlamaCppPython, Ollama, Tgi, LmStudio, TransformersServe, DeepSeek, Mistral, Anthropic
    )
}  # fmt: skip
"""A fake of every kind of server that is known."""


def spec(fake: Fake, **keys: Any) -> OpenAISpec:
    """How a configuration names this fake, at the address where it is served."""
    kind = fake.kind if isinstance(fake, Student) else "other"
    url = fake.url.removesuffix("/v1") + ("/beta" if kind == "deepseek" else "/v1")
    asked = OpenAISpec.model_validate({"server": kind, "model": "m", "base_url": url, "retries": 0, **keys})
    if asked.prefill == "raw_completion" and kind != "llama.cpp" and asked.tokenizer is None:
        return asked.model_copy(update={"chat_template": CHATML})
    return asked


async def proofs() -> Mapping[tuple[ServerKind, Prefill], Proof]:
    """What the probe finds of every way at every kind of server."""
    found: dict[tuple[ServerKind, Prefill], Proof] = {}
    for kind, student in STUDENTS.items():
        async with served(student()) as fake:
            for way in WAYS:
                async with aclosing(OpenAIApi(kind, spec(fake, prefill=way))) as engine:
                    await engine.ready()
                    assert engine.proof is not None
                    found[kind, way] = engine.proof
    return found
