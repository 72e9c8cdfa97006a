"""Strict fake upstreams on real loopback ports: they refuse what the real servers refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic
from typing import Any

import pytest
import structlog
from aiohttp import web

Json = dict[str, Any]
WORDS = ("The", " sky", " is", " blue", ".")


class Fake:
    """A server that remembers what it was asked, over how many connections, and when a reader left."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.peers: set[Any] = set()
        self.left = asyncio.Event()
        self.left_at = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        body = json.loads(await request.read() or b"{}")
        if request.method == "POST":
            self.asked.append(body)
        try:
            return await self.answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left_at = monotonic()
            self.left.set()
            raise

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        """Overridden by each fake."""
        raise NotImplementedError


Answer = Callable[[web.Request, Json], Awaitable[web.StreamResponse]]


class Answering(Fake):
    """A fake made of one function."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        return await self._answer(request, body)


Script = Sequence[bytes | float]
Serve = Callable[[Answer | Script | Fake], Awaitable[Fake]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a fake on a free port, and stops it after the test: one of those below, a function that answers, or the
    pieces of an event stream with pauses between them."""
    async with AsyncExitStack() as stack:

        async def start(what: Answer | Script | Fake) -> Fake:
            fake = what if isinstance(what, Fake) else Answering(what if callable(what) else partial(_play, what))
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{tail:.*}", fake.handle)
            # handler_cancellation: a handler whose client leaves is cancelled, as vLLM and llama.cpp do it.
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            fake.url = f"http://{host}:{port}/v1"
            return fake

        yield start


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[MutableMapping[str, Any]]:
    """What the HTTP engine logs, however logging is set up for the rest of the suite."""
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger)
    monkeypatch.setattr("students.openai_api.log", logger)
    return capture.entries


def error(status: int, message: str, code: str | None = None, **headers: str) -> web.Response:
    """An error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return web.json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": code}},
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def chunk(delta: Json | None, finish: str | None = None, index: int = 0, **members: Any) -> bytes:
    """One frame of a stream, as OpenAI writes it."""
    choices = [] if delta is None else [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": choices, **members}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def frames(words: Iterable[str], finish: str = "stop", usage: Json | None = None, **members: Any) -> list[bytes]:
    """A whole answer in frames: role, words, finish, usage when given, [DONE]."""
    sent = [chunk({"role": "assistant", "content": ""}, **members)]
    sent += [chunk({"content": word}, **members) for word in words]
    sent.append(chunk({}, finish, **members))
    if usage is not None:
        sent.append(chunk(None, usage=usage, **members))
    return [*sent, b"data: [DONE]\n\n"]


async def sse(request: web.Request, pieces: Sequence[bytes | float], **headers: str) -> web.StreamResponse:
    """Sends pieces of an event stream; a number is a pause in seconds."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **headers})
    await response.prepare(request)
    for piece in pieces:
        if isinstance(piece, float):
            await asyncio.sleep(piece)
        else:
            await response.write(piece)
    await response.write_eof()
    return response


async def _play(script: Script, request: web.Request, body: Json) -> web.StreamResponse:
    return await sse(request, script)


class OpenAI(Fake):
    """Refuses what api.openai.com refuses of its reasoning models; answers `WORDS`, cut at the limit."""

    KNOWN = frozenset(
        [
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "n",
            "stop",
            "seed",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "response_format",
            "reasoning_effort",
            "verbosity",
            "prompt_cache_key",
            "safety_identifier",
            "service_tier",
            "store",
            "metadata",
            "modalities",
            "audio",
            "prediction",
            "web_search_options",
            "user",
        ]
    )
    KEY = "sk-real-0123456789abcdef"

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.KEY}":
            given = request.headers.get("Authorization", "none")
            return error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "gpt-6-sol", "object": "model"}]})
        if request.path != "/v1/chat/completions":
            return error(404, f"Invalid URL (POST {request.path})")
        refusal = self.refusal(body)
        if refusal is not None:
            return error(400, *refusal)
        limit = body.get("max_completion_tokens", 99)
        said = WORDS[:limit]
        usage = {
            "prompt_tokens": 12,
            "completion_tokens": len(said) + 3,
            "total_tokens": 15 + len(said),
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
        }
        asked_for_usage = body.get("stream_options", {}).get("include_usage", False)
        return await sse(
            request,
            frames(
                said,
                "length" if len(said) == limit else "stop",
                usage if asked_for_usage else None,
                model=f"{body['model']}-2026-08-01",
                service_tier="default",
                system_fingerprint="fp_1",
            ),
        )

    def refusal(self, body: Json) -> tuple[str, str] | None:
        for name in body:
            if name not in self.KNOWN:
                return f"Unrecognized request argument supplied: {name}", "unknown_parameter"
        if "max_tokens" in body:
            return (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "unsupported_parameter",
            )
        if body.get("temperature", 1) != 1 and body.get("reasoning_effort") != "none":
            return "Unsupported value: 'temperature' does not support this value with this model.", "unsupported_value"
        if "stream_options" in body and not body.get("stream"):
            return "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "invalid_value"
        if len(body.get("stop", ())) > 4:
            return "Invalid 'stop': array too long.", "array_above_max_length"
        for message in body["messages"]:
            if set(message) - {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio"}:
                return "Unknown parameter in 'messages'.", "unknown_parameter"
            if not message.get("content") and "tool_calls" not in message:
                return "Invalid value for 'content': expected a string, got null.", "invalid_type"
        if sum(len(str(message["content"])) for message in body["messages"]) > 10_000:
            return (
                "This model's maximum context length is 2000 tokens. However, your messages resulted in more.",
                "context_length_exceeded",
            )
        return None


class Vllm(Fake):
    """Refuses the continue flag without its partner; counts on from what it is given, as long as it is let."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": []})
        last = body["messages"][-1]
        if not last["content"]:
            return error(400, "the content of a message is empty", "BadRequestError")
        flag, generation = body.get("continue_final_message", False), body.get("add_generation_prompt", True)
        if flag and generation:
            return error(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "400")
        if flag and last["role"] != "assistant":
            return error(400, "continue_final_message is set but the final message is not of role assistant", "400")
        start = int(last["content"].rstrip(",. ").rpartition(" ")[2]) if flag else 0
        end = min(start + body.get("max_tokens", 99) // 2, 8)
        words = [f" {number}," for number in range(start + 1, end + 1)]
        return await sse(request, frames(words, usage={"prompt_tokens": 30, "completion_tokens": len(words)}))


class Mistral(Fake):
    """Knows `prefix: true` only, refuses unknown members, and repeats the prefix in its reply, in odd pieces."""

    echoes = True

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": []})
        if unknown := set(body) - {"model", "messages", "stream", "stream_options", "max_tokens", "temperature"}:
            return error(422, f"Extra inputs are not permitted: {sorted(unknown)}")
        last = body["messages"][-1]
        if last["role"] == "assistant" and last.get("prefix") is not True:
            return error(400, "Expected last role User or Tool (or Assistant with prefix True) for serving")
        prefix = last["content"] if last["role"] == "assistant" else ""
        text = (prefix if self.echoes else "") + " 5, 6, 7, 8"
        pieces = [text[at : at + 4] for at in range(0, len(text), 4)]
        return await sse(request, frames(pieces, usage={"prompt_tokens": 9, "completion_tokens": 12}))


class Completions(Fake):
    """Continues only at `/completions`; renders its own template at `/apply-template`, as llama.cpp's server does."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.path == "/apply-template":
            lines = [f"<|{message['role']}|>{message['content']}" for message in body["messages"]]
            return web.json_response({"prompt": "\n".join([*lines, "<|assistant|>"])})
        if request.path == "/v1/models":
            return error(404, "no such path")
        assert request.path == "/v1/completions", request.path
        if unknown := set(body) & {"messages", "max_completion_tokens", "reasoning_effort"}:
            return error(400, f"not a member of a text completion: {sorted(unknown)}")
        if not body["prompt"].endswith("<|assistant|>1, 2, 3, 4,"):
            return error(400, "the prompt does not end in the text to be continued")
        logprobs = {
            "tokens": [" 5"],
            "token_logprobs": [-0.25],
            "top_logprobs": [{" 5": -0.25, " 6": -2.0}],
            "text_offset": [0],
        }
        sent: list[Json] = [
            {"choices": [{"index": 0, "text": " 5", "logprobs": logprobs if "logprobs" in body else None}]},
            {"choices": [{"index": 0, "text": ", 6", "logprobs": None, "finish_reason": "length"}]},
        ]
        return await sse(
            request, [*(b"data: " + json.dumps(one).encode() + b"\n\n" for one in sent), b"data: [DONE]\n\n"]
        )


@pytest.fixture
async def openai(serve: Serve) -> Fake:
    return await serve(OpenAI())


@pytest.fixture
async def vllm(serve: Serve) -> Fake:
    return await serve(Vllm())


@pytest.fixture
async def mistral(serve: Serve) -> Fake:
    return await serve(Mistral())


@pytest.fixture
async def completions(serve: Serve) -> Fake:
    return await serve(Completions())
