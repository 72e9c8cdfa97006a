"""Strict fake upstreams on real loopback ports: they refuse what the real servers refuse.

A fake is served in the event loop of a test (`served`) or in a thread beside it (`beside`).
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

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
        self.departures: list[tuple[float, Json]] = []
        """When a reader left its answer (`time.monotonic`), and what it had asked."""

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
            self.departures.append((self.left_at, body))
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


@asynccontextmanager
async def served(fake: Fake) -> AsyncIterator[Fake]:
    """The fake on a free port, in this event loop."""
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{tail:.*}", fake.handle)
    # handler_cancellation: a handler whose client leaves is cancelled, as vLLM and llama.cpp do it.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}/v1"
        yield fake
    finally:
        await runner.cleanup()


@contextmanager
def beside(*fakes: Fake) -> Iterator[None]:
    """The fakes on free ports, in an event loop and a thread of their own."""
    up, down = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for fake in fakes:
                await stack.enter_async_context(served(fake))
            up.set()
            await down.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="fakes", daemon=True)
    thread.start()
    assert up.wait(10), "the fakes did not start"
    try:
        yield
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join(10)
        assert not thread.is_alive()


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


def frames(
    words: Iterable[str], finish: str = "stop", usage: Json | None = None, n: int = 1, **members: Any
) -> list[bytes]:
    """A whole answer in frames: role, words, finish, usage when given, [DONE]; `n` samples are all the same."""
    sent = [chunk({"role": "assistant", "content": ""}, index=index, **members) for index in range(n)]
    sent += [chunk({"content": word}, index=index, **members) for word in words for index in range(n)]
    sent += [chunk({}, finish, index=index, **members) for index in range(n)]
    if usage is not None:
        sent.append(chunk(None, usage=usage, **members))
    return [*sent, b"data: [DONE]\n\n"]


def completion(words: Iterable[str], finish: str = "stop", n: int = 1, **members: Any) -> web.Response:
    """The same in one piece, for who wants no stream."""
    message = {"role": "assistant", "content": "".join(words), "refusal": None}
    choices = [{"index": at, "message": message, "logprobs": None, "finish_reason": finish} for at in range(n)]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": choices, **members}
    return web.json_response(body)


def paced(sent: Sequence[bytes], between: float) -> Sequence[bytes | float]:
    """The frames with a pause before each but the first."""
    return [each for frame in sent for each in (between, frame)][1:] if between else sent


async def sse(
    request: web.Request, pieces: Iterable[bytes | float], *, end: bool = True, **headers: str
) -> web.StreamResponse:
    """Sends pieces of an event stream; a number is a pause in seconds. Without `end` it stays open."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **headers})
    await response.prepare(request)
    for piece in pieces:
        if isinstance(piece, float):
            await asyncio.sleep(piece)
        else:
            await response.write(piece)
    if end:
        await response.write_eof()
    return response


class OpenAI(Fake):
    """Refuses what api.openai.com refuses of its reasoning models; answers `WORDS`, cut at the limit."""

    hidden = 3
    """Tokens of reasoning that it bills."""

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
        words = self.words(body)
        said, n = words[:limit], body.get("n", 1)
        written = (len(said) + self.hidden) * n
        usage = {
            "prompt_tokens": 12,
            "completion_tokens": written,
            "total_tokens": 12 + written,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.hidden * n, "audio_tokens": 0},
        }
        finish = "length" if len(said) == limit else "stop"
        first, between = self.pace(body)
        await asyncio.sleep(first)
        members: Json = {
            "model": f"{body['model']}-2026-08-01",
            "service_tier": "default",
            "system_fingerprint": "fp_1",
        }
        if not body.get("stream"):
            await asyncio.sleep(between * len(said))
            return completion(said, finish, n, usage=usage, **members)
        asked_for_usage = body.get("stream_options", {}).get("include_usage", False)
        sent = frames(said, finish, usage if asked_for_usage else None, n, **members)
        return await sse(request, paced(sent, between))

    def words(self, body: Json) -> Sequence[str]:
        """What it says if it is let."""
        return WORDS

    def pace(self, body: Json) -> tuple[float, float]:
        """Seconds before the first frame, and before each one after it."""
        return 0.0, 0.0

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
        words = self.words(body, last["content"] if flag else "")
        first, between = self.pace(body)
        await asyncio.sleep(first)
        usage = {"prompt_tokens": 30, "completion_tokens": len(words)}
        return await sse(request, paced(frames(words, self.finish(body, words), usage), between))

    def words(self, body: Json, prefix: str) -> Sequence[str]:
        """What follows `prefix`."""
        text = "".join(f" {number}," for number in range(1, 31))
        return re.findall(r" ?\d+,", text.removeprefix(f" {prefix}" if prefix else ""))[
            : body.get("max_tokens", 99) // 2
        ]

    def finish(self, body: Json, words: Sequence[str]) -> str:
        """Why it ended."""
        return "stop"

    def pace(self, body: Json) -> tuple[float, float]:
        """Seconds before the first frame, and before each one after it."""
        return 0.0, 0.0


class Embeddings(Fake):
    """`/v1/embeddings`, as strict as OpenAI's. A text's vector counts its words, so that like texts are near.

    `status`: answers that instead; `broken`: changes the body of an answer before it is sent.
    """

    def __init__(self, status: int = 200, broken: Callable[[Json], Json] = lambda body: body) -> None:
        super().__init__()
        self.status = status
        self._broken = broken

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.method != "POST" or request.path != "/v1/embeddings":
            return error(404, "no such page")
        if self.status != 200:
            return error(self.status, "not now")
        texts = body.get("input")
        if set(body) != {"model", "input", "encoding_format"} or body["encoding_format"] != "float":
            return error(400, f"unknown or missing fields: {sorted(body)}")
        if not isinstance(texts, list) or not texts or not all(isinstance(each, str) and each for each in texts):
            return error(400, "'$.input' is invalid")
        rows = [
            {"object": "embedding", "index": place, "embedding": word_counts(text)} for place, text in enumerate(texts)
        ]
        tokens = sum(len(text.split()) for text in texts)
        told = {
            "object": "list",
            "data": rows[::-1],  # the index says which is which, not the order
            "model": body["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return web.json_response(self._broken(told))


def word_counts(text: str, size: int = 97) -> list[float]:
    """How often a text has words, by a number of each word."""
    counts = [0.0] * size
    for word in re.findall(r"\w+", text.lower()):
        counts[sum(ord(char) * 31**place for place, char in enumerate(word)) % size] += 1
    return counts
