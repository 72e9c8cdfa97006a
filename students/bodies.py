"""A `Prompt` as the JSON of a request, and that as the body which is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter

from students.capabilities import Settings, settings
from students.engine import Prompt, Sampling
from students.errors import Refused
from students.prefill import SPELLINGS, Spelling, prefilled
from students.runs import Run
from students.servers import SERVERS
from students.spec import OpenAISpec

TEMPLATE_OPTIONS = "chat_template_kwargs"
"""The member of a request with variables of the chat template."""


class Sent(aiohttp.BytesPayload):
    """A body on its way: its run begins when there is a connection to write it to."""

    def __init__(self, body: bytes, run: Run) -> None:
        super().__init__(body, content_type="application/json")
        self._run = run

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._run.begin()
        await super().write_with_length(writer, content_length)


class Bodies:
    """Writes the requests of one upstream. Only what was said is sent; what is None is left to the upstream.

    Later wins: what switches reasoning off, `spec.extra_body`, `Prompt.options`, then the members that make the call
    what it is (model, messages, stream, ...). What the model does not accept (`students.capabilities`) is kept back:
    temperature, top_p, both penalties and logit_bias, `stop`, `logprobs`.
    """

    def __init__(self, spec: OpenAISpec) -> None:
        self._spec = spec
        self._server = SERVERS[spec.server]
        self._spelling = SPELLINGS.get(spec.prefill, Spelling()) if spec.prefill != "auto" else Spelling()
        usage = {"stream_options": {"include_usage": True}} if spec.stream_usage else {}
        self._streamed: dict[str, Any] = {"model": spec.model, "stream": True, **usage}
        self._whole: dict[str, Any] = {"model": spec.model, "stream": False}

    def streams(self, prompt: Prompt) -> bool:
        """Whether this prompt's answer is asked for as a stream."""
        return prompt.stream or self._spec.streaming == "always"

    def chat(self, prompt: Prompt) -> bytes:
        """For `/chat/completions`. Raises `Refused` when the prompt holds what JSON cannot."""
        asked = self._asked(prompt)
        body = self._common(asked, asked.begun({**self._spec.extra_body, **prompt.options}), prompt)
        body["messages"] = prompt.messages
        if prompt.prefix:
            body["messages"] = prefilled(self._spelling, prompt.messages, prompt.prefix)
            body |= self._spelling.body
            if self._server.thinking_switch:
                body[TEMPLATE_OPTIONS] = self.template_options(prompt)
        if prompt.max_tokens is not None:
            body[asked.limit_field] = prompt.max_tokens
        if prompt.sampling.logprobs and asked.logprobs:
            body["logprobs"] = True
            if prompt.sampling.top_logprobs is not None:
                body["top_logprobs"] = prompt.sampling.top_logprobs
        return encode(body)

    def template_options(self, prompt: Prompt) -> dict[str, Any]:
        """What a chat template is told when the beginning of the answer is given: above all, not to think first."""
        told = {**self._spec.extra_body, **prompt.options}.get(TEMPLATE_OPTIONS)
        return {"enable_thinking": False, **(told if isinstance(told, Mapping) else {})}

    def completion(self, prompt: Prompt, rendered: str) -> bytes:
        """For `/completions`, with all that the model reads, the prefix last. Raises `Refused`, as `chat`.

        The older API knows no reasoning effort, has one name for the limit, and gives log probabilities by number.
        """
        asked = self._asked(prompt)
        body = self._common(asked, {**self._spec.extra_body, **prompt.options}, prompt)
        body.pop(TEMPLATE_OPTIONS, None)  # has been used
        body["prompt"] = rendered
        if prompt.max_tokens is not None:
            body["max_tokens"] = prompt.max_tokens
        if prompt.sampling.logprobs and asked.logprobs:
            body["logprobs"] = max(prompt.sampling.top_logprobs or 0, 1)
        return encode(body)

    def _asked(self, prompt: Prompt) -> Settings:
        return settings(self._spec, prompt.model or self._spec.model)

    def _common(self, asked: Settings, base: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
        sampling = prompt.sampling
        body = {**base, **(self._streamed if self.streams(prompt) else self._whole)}
        if prompt.model is not None:
            body["model"] = prompt.model
        if prompt.n > 1:
            body["n"] = prompt.n
        if asked.samples(base):
            _put(body, sampling)
        if sampling.seed is not None:
            body[self._server.seed_field] = sampling.seed
        if sampling.stop and asked.stop:
            body["stop"] = sampling.stop
        return body


def _put(body: dict[str, Any], sampling: Sampling) -> None:
    if sampling.temperature is not None:
        body["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.presence_penalty is not None:
        body["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty is not None:
        body["frequency_penalty"] = sampling.frequency_penalty
    if sampling.logit_bias is not None:
        body["logit_bias"] = sampling.logit_bias


def encode(body: Mapping[str, Any]) -> bytes:
    """JSON; raises `Refused` for what it cannot hold (a lone surrogate, an integer beyond 64 bits)."""
    try:
        return orjson.dumps(body, default=_plain)
    except orjson.JSONEncodeError as error:
        raise Refused(f"the request cannot be written as JSON: {error}") from None


def _plain(value: object) -> object:
    # orjson writes dict, list and tuple; our types promise no more than Mapping and Sequence.
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(type(value).__name__)
