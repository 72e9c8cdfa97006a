"""Strict stand-ins for providers whose API is not OpenAI's, written from their own rules of validation.

Each counts from one, a number a token, as `tests.contracts.test_engine` asks. `words` says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.fakes import Fake, Json

KEY = "sk-ant-real-0123456789abcdef"
PACE = 0.004
"""Seconds between two words."""


class Provider(Fake):
    """What the providers here have in common."""

    says: Sequence[str] | None = None
    """Its words, where it is not to count."""
    ends = True
    """False: the answer breaks off before its end."""
    reports = True
    """False: no usage is told."""

    @property
    def root(self) -> str:
        """Its address without a path."""
        return self.url.removesuffix("/v1")

    def words(self, after: str, limit: int) -> tuple[list[str], bool]:
        """What it says after a text, and whether the limit cut it."""
        count = "".join(f" {number}," for number in range(1, 31)).removeprefix(f" {after}" if after else "")
        words = list(self.says) if self.says is not None else re.findall(r" ?\d+,", count)
        return words[:limit], len(words) > limit


class Anthropic(Provider):
    """The Messages API: refuses unknown members, a missing limit, and what the model of that name does not take."""

    OLD, NEW, THINKS = "claude-sonnet-4-5", "claude-opus-5", "claude-sonnet-5-5"
    KNOWN = frozenset(
        [
            "model",
            "messages",
            "max_tokens",
            "system",
            "stop_sequences",
            "stream",
            "temperature",
            "top_p",
            "top_k",
            "tools",
            "tool_choice",
            "metadata",
            "thinking",
            "service_tier",
            "output_config",
        ]
    )
    usage: Mapping[str, int] = {"input_tokens": 20, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 11}
    thinking = 0
    """Tokens of hidden reasoning that it bills."""
    overloaded_after: int | None = None
    """Words after which it says so, inside the stream."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.headers.get("x-api-key") != KEY:
            return _error(401, "authentication_error", "invalid x-api-key")
        if request.path != "/v1/messages":
            return _error(404, "not_found_error", "Not found")
        if "anthropic-version" not in request.headers:
            return _error(400, "invalid_request_error", "anthropic-version: header is required")
        refusal = self.refusal(body)
        if refusal is not None:
            return _error(*refusal)
        last = body["messages"][-1]
        prefix = _text(last["content"]) if last["role"] == "assistant" else ""
        words, cut = self.words(prefix, body["max_tokens"])
        return await self._say(request, body, words, "max_tokens" if cut else "end_turn")

    def refusal(self, body: Json) -> tuple[int, str, str] | None:
        bad = 400, "invalid_request_error"
        for name in ("model", "max_tokens", "messages"):
            if name not in body:
                return *bad, f"{name}: Field required"
        if unknown := sorted(set(body) - self.KNOWN):
            return *bad, f"{unknown[0]}: Extra inputs are not permitted"
        model, messages = body["model"], body["messages"]
        if model not in (self.OLD, self.NEW, self.THINKS):
            return 404, "not_found_error", f"model: {model}"
        if not messages or messages[0]["role"] != "user":
            return *bad, 'messages: first message must use the "user" role'
        for message in messages:
            if set(message) != {"role", "content"} or message["role"] not in ("user", "assistant"):
                return *bad, "messages: Input tag found does not match any of the expected tags"
            if not _text(message["content"]):
                return *bad, "messages: text content blocks must be non-empty"
        if sum(len(_text(message["content"])) for message in messages) > 10_000:
            return *bad, "prompt is too long: 215000 tokens > 200000 maximum"
        if messages[-1]["role"] == "assistant":
            if model != self.OLD:
                return *bad, (
                    "This model does not support assistant message prefill. The conversation must end with a user "
                    "message."
                )
            if _text(messages[-1]["content"]) != _text(messages[-1]["content"]).rstrip():
                return *bad, "messages: final assistant content cannot end with trailing whitespace"
        sampled = sorted({"temperature", "top_p", "top_k"} & set(body))
        if sampled and model != self.OLD:
            return *bad, f"{sampled[0]}: is not supported by this model"
        if "temperature" in body and not 0 <= body["temperature"] <= 1:
            return *bad, "temperature: range: 0..1"
        if any(not stop.strip() for stop in body.get("stop_sequences", ())):
            return *bad, "stop_sequences: each stop sequence must contain non-whitespace"
        thinking = body.get("thinking", {"type": "disabled"})
        if thinking["type"] == "disabled" and "thinking" in body and model == self.THINKS:
            return *bad, "thinking: cannot be disabled for this model"
        if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
            return *bad, "thinking.budget_tokens: must be at least 1024 and below max_tokens"
        return None

    async def _say(self, request: web.Request, body: Json, words: Sequence[str], reason: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(kind: str, **members: Any) -> None:
            data = json.dumps({"type": kind, **members})
            await response.write(f"event: {kind}\ndata: {data}\n\n".encode())

        usage = {**self.usage} if self.reports else {}
        started: Json = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [],
            "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip
        await send("message_start", message=started | ({"usage": usage | {"output_tokens": 1}} if usage else {}))
        await send("content_block_start", index=0, content_block={"type": "text", "text": ""})
        await send("ping")
        said = 0
        for word in words:
            if said == self.overloaded_after:
                await send("error", error={"type": "overloaded_error", "message": "Overloaded"})
                return response
            if any(stop in word for stop in body.get("stop_sequences", ())):
                reason = "stop_sequence"
                break
            await asyncio.sleep(PACE)
            await send("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            said += 1
        if not self.ends:
            return response
        await send("content_block_stop", index=0)
        told = usage | {
            "output_tokens": said + self.thinking,
            "output_tokens_details": {"thinking_tokens": self.thinking},
        }
        delta = {"stop_reason": reason, "stop_sequence": None}
        await send("message_delta", delta=delta, **({"usage": told} if usage else {}))
        await send("message_stop")
        return response


class Gemini(Provider):
    """`streamGenerateContent`: thoughts are counted apart from candidates, cached tokens inside the prompt."""

    KNOWN = frozenset(
        ["contents", "systemInstruction", "system_instruction", "generationConfig", "tools", "toolConfig"]
    )
    thoughts = 7

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.headers.get("x-goog-api-key") != KEY:
            return _google(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT")
        name, _, method = request.path.rpartition("/")[2].partition(":")
        if name not in ("gemini-2.5-flash", "gemini-3.5-flash") or method != "streamGenerateContent":
            return _google(404, f"models/{name} is not found for API version v1beta", "NOT_FOUND")
        if unknown := sorted(set(body) - self.KNOWN):
            return _google(400, f'Invalid JSON payload received. Unknown name "{unknown[0]}"', "INVALID_ARGUMENT")
        if any(content["role"] not in ("user", "model") for content in body["contents"]):
            return _google(400, "Please use a valid role: user, model.", "INVALID_ARGUMENT")
        config = body.get("generationConfig", {})
        thinking = config.get("thinkingConfig", {})
        if name.startswith("gemini-3") and "thinkingBudget" in thinking:
            return _google(400, "Thinking budget is not supported for this model.", "INVALID_ARGUMENT")
        hidden = 0 if thinking.get("thinkingBudget") == 0 else self.thoughts
        words, cut = self.words("", max(config.get("max_output_tokens", 99) - hidden, 0))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        prompt: Json = {"promptTokenCount": 30, "cachedContentTokenCount": 10}
        for at, word in enumerate(words):
            await asyncio.sleep(PACE)
            candidate: Json = {"content": {"parts": [{"text": word}], "role": "model"}, "index": 0}
            counts: Json = {**prompt, "totalTokenCount": 30}
            if at == len(words) - 1 and self.ends:
                candidate["finishReason"] = "MAX_TOKENS" if cut else "STOP"
                counts |= {"candidatesTokenCount": len(words), "totalTokenCount": 30 + len(words) + hidden}
                counts |= {"thoughtsTokenCount": hidden} if hidden else {}
            told = {"candidates": [candidate], "usageMetadata": counts, "modelVersion": f"{name}-001"}
            await response.write(b"data: " + json.dumps(told).encode() + b"\r\n\r\n")
        return response


class Azure(Provider):
    """OpenAI's chat completions behind a deployment's path and an api-key header."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.headers.get("api-key") != KEY:
            return _openai(401, "401", "Access denied due to invalid subscription key or wrong API endpoint.")
        if request.path != "/openai/deployments/gpt-6-sol/chat/completions" or "api-version" not in request.query:
            return _openai(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
        if "max_tokens" in body:
            return _openai(400, "unsupported_parameter", "Unsupported parameter: 'max_tokens'.")
        if body.get("temperature", 1) != 1 and body.get("reasoning_effort") != "none":
            return _openai(400, "unsupported_value", "Unsupported value: 'temperature'.")
        words, cut = self.words("", body.get("max_completion_tokens", 99))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(**members: Any) -> None:
            told = {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "gpt-6-sol-2026-08-01",
                **members,
            }
            await response.write(b"data: " + json.dumps(told).encode() + b"\n\n")

        await send(choices=[], prompt_filter_results=[])
        for word in words:
            await asyncio.sleep(PACE)
            await send(choices=[{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        if not self.ends:
            return response
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "length" if cut else "stop"}])
        if self.reports and body.get("stream_options", {}).get("include_usage"):
            written = len(words) + 3
            usage = {
                "prompt_tokens": 12, "completion_tokens": written, "total_tokens": 12 + written,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 3},
            }  # fmt: skip
            await send(choices=[], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        return response


class Bedrock(Provider):
    """`converse-stream`: frames of Amazon's event stream, each with two checksums."""

    async def answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"message": "The security token included in the request is invalid."}, status=403)
        if not request.path.endswith("/converse-stream"):
            return web.json_response({"message": "UnknownOperationException"}, status=404)
        if unknown := set(body) - {
            "messages",
            "system",
            "inferenceConfig",
            "toolConfig",
            "additionalModelRequestFields",
        }:
            return web.json_response({"message": f"Unknown member: {sorted(unknown)}"}, status=400)
        words, cut = self.words("", body["inferenceConfig"]["maxTokens"])
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        await response.write(_frame("messageStart", {"role": "assistant"}))
        for word in words:
            await asyncio.sleep(PACE)
            await response.write(_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}))
        if not self.ends:
            return response
        await response.write(_frame("contentBlockStop", {"contentBlockIndex": 0}))
        await response.write(_frame("messageStop", {"stopReason": "max_tokens" if cut else "end_turn"}))
        usage = {
            "inputTokens": 20, "outputTokens": len(words), "totalTokens": 38 + len(words),
            "cacheReadInputTokens": 11, "cacheWriteInputTokens": 7,
        }  # fmt: skip
        await response.write(_frame("metadata", {"usage": usage, "metrics": {"latencyMs": 5}}))
        return response


def _frame(kind: str, payload: Json) -> bytes:
    """One message of Amazon's event stream: lengths, a checksum of them, headers, payload, a checksum of all."""
    headers = b""
    for name, value in {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}.items():
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    data = json.dumps(payload).encode()
    head = struct.pack("!II", 16 + len(headers) + len(data), len(headers))
    whole = head + struct.pack("!I", zlib.crc32(head)) + headers + data
    return whole + struct.pack("!I", zlib.crc32(whole))


def _text(content: str | Sequence[Json]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _error(status: int, kind: str, message: str) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return web.json_response(body, status=status, headers={"retry-after": "7"} if status == 429 else None)


def _google(status: int, message: str, code: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "status": code}}, status=status)


def _openai(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
