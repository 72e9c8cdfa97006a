"""Models whose API is not OpenAI's (Anthropic, Gemini, Bedrock, Azure, ...), through the litellm library.

litellm translates; everything else stays here. Each call has a line of its own under litellm's HTTP client:

    Prompt -> litellm.acompletion -> Line -> one pooled httpx transport -> the provider

because litellm by itself asks a second time when a connection breaks, does not close the connection of a stream that
is left early, wraps errors in texts of its own, and makes up a finish reason or a usage that the provider did not send.
The line (`students.line`) asks once, keeps the provider's own words about a failure, and closes.

The library is imported by `ready` or the first call, in a thread: that takes seconds. It is kept from fetching its
price map, from reporting to anybody, and from logging, which would show prompts.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from students.capabilities import find, settings
from students.engine import Ability, Delta, Event, Finish, Prompt
from students.errors import BadReply, EngineError, Refused, TimedOut, Unavailable
from students.faults import failure, present, quoted, read_error
from students.line import Line
from students.prefill import Proof, probe
from students.runs import Machine
from students.spec import LiteLLMSpec
from students.wire import read_logprobs, read_usage

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger("students.litellm_api")

FORM = frozenset(["tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking"])
"""Of `Prompt.options`, what decides the form of the answer: a provider that cannot is an error, never left out."""

HINTS = frozenset(["verbosity", "service_tier", "prompt_cache_key", "safety_identifier", "user"])
"""What may be left out for a provider that does not know it. Nothing else of a caller's reaches litellm, which would
take an address, a key or a file from the same place."""

HELLO = Prompt(({"role": "user", "content": "Say hello."},), max_tokens=16)

REASONS = frozenset(["stop", "length", "tool_calls", "content_filter"])


@cache
def _library() -> Any:
    """litellm, silent and offline. Raises ImportError. Its types change with each release, and none is used here."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # or it reads a .env file
    library: Any = importlib.import_module("litellm")
    library.telemetry = False
    library.suppress_debug_info = True
    library.turn_off_message_logging = True
    library.callbacks = []
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return library


class LiteLLMApi:
    """An `Engine` over litellm. `key` goes with each call, never into the environment; `Prompt.key` replaces it.

    `Prompt.prefix` without `Ability.CONTINUE` and `Prompt.n` above 1 are a `ValueError`: the plan was wrong.
    """

    def __init__(self, name: str, spec: LiteLLMSpec, *, key: str | None = None) -> None:
        self.name = name
        self.model = spec.model
        self.abilities = _claimed(spec)
        self._spec = spec
        self._key = key
        self._keyless = key is None and spec.api_key_env is not None
        self._slots = asyncio.Semaphore(spec.max_concurrent)
        self._machine = Machine(name)
        self._pool: httpx.AsyncHTTPTransport | None = None
        self._lines: set[Line] = set()
        self._closed = False
        self._proving = asyncio.Lock()
        self._reached = False
        self.proof: Proof | None = None

    def __repr__(self) -> str:
        return f"LiteLLMApi({self.name!r}, model={self.model!r})"

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. The connection and the place are free again when `Finish` is yielded."""
        if prompt.prefix and Ability.CONTINUE not in self.abilities:
            raise ValueError(f"{self.name} cannot continue a given text")
        if prompt.n > 1:
            raise ValueError(f"{self.name} cannot answer n = {prompt.n} in one call")
        ends = monotonic() + self._spec.deadlines.total
        line: Line | None = None
        try:
            await self._enter()
            try:
                library = await self._load()
                line = Line(self._transport(), self._spec.deadlines, self._machine.run(prompt.runs))
                self._lines.add(line)
                answer, chunk = await self._open(library, prompt, line, ends)
                reply = _Reply(prompt.model or self.model)
                try:
                    while chunk is not None:
                        for delta in reply.feed(chunk):
                            yield delta
                        async with asyncio.timeout(max(ends - monotonic(), 0.0)):
                            chunk = await anext(answer, None)
                finally:
                    with suppress(Exception):
                        await answer.aclose()
            finally:
                if line is not None:
                    self._lines.discard(line)
                    await line.close()
                self._slots.release()
            yield reply.finish(answer, line)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 - litellm raises what it likes; each is one of our leaves
            raise self._present(self._meant(error, line), prompt) from None

    async def ready(self) -> Ability:
        """Import the library, and prove by one small call, made once, that the model answers and continues a text.

        litellm has no free way to ask a provider whether a key and a model are accepted. Raises `Unavailable` without
        the library, `Refused` when it does not know the provider, and whatever the call raises.
        """
        try:
            library = await self._load()
            try:
                library.get_llm_provider(self.model)
            except Exception:  # noqa: BLE001 - it raises different ones
                message = f"litellm knows no provider of {self.model!r}; it is named before the model: anthropic/..."
                raise Refused(message, engine=self.name) from None
        except EngineError as error:
            error.engine = self.name
            raise
        async with self._proving:
            if self._spec.probe and not (self._reached or self._keyless):
                await self._try()
                self._reached = True
        if self.proof is not None and not self.proof.proven:
            self.abilities &= ~Ability.CONTINUE
        return self.abilities

    async def _try(self) -> None:
        """One small call: that the continuation works where it is claimed, else that there is an answer at all."""
        if Ability.CONTINUE in self.abilities:
            try:
                self.proof = await probe(self)
            except Refused as error:
                if error.status != 400:
                    raise
                log.warning("probe refused", engine=self.name, error=str(error))
                self.proof = Proof(False, f"refused: {error}")
        else:
            async with aclosing(self.stream(HELLO)) as events:
                async for _ in events:
                    pass

    async def aclose(self) -> None:
        """Close the connections. Idempotent; running streams end in `Unavailable`."""
        self._closed = True
        for line in list(self._lines):
            await line.close()
        if self._pool is not None:
            await self._pool.aclose()

    async def _load(self) -> Any:
        if self._closed:
            raise Unavailable("is closed")
        if not _library.cache_info().currsize:
            try:
                return await asyncio.to_thread(_library)
            except ImportError as error:
                message = f"needs litellm: pip install 'gkt-gateway[litellm]' ({type(error).__name__})"
                raise Unavailable(message) from None
        return _library()

    def _transport(self) -> httpx.AsyncHTTPTransport:
        if self._pool is None:
            import httpx

            limits = httpx.Limits(max_connections=self._spec.max_concurrent, max_keepalive_connections=20)
            self._pool = httpx.AsyncHTTPTransport(limits=limits)
        return self._pool

    async def _enter(self) -> None:
        try:
            async with asyncio.timeout(self._spec.deadlines.total):
                await self._slots.acquire()
        except TimeoutError:
            raise TimedOut("no place became free in time", deadline="place") from None

    async def _open(self, library: Any, prompt: Prompt, line: Line, ends: float) -> tuple[Any, Any]:
        """Ask until the first chunk has come: the stream of chunks, and the first."""
        first = self._spec.deadlines.first_token
        seconds, deadline = min((first, "first_token"), (max(ends - monotonic(), 0.0), "total"))
        answer = None
        try:
            async with asyncio.timeout(seconds):
                answer = await library.acompletion(**self._asked(library, prompt, line))
                return answer, await anext(answer, None)
        except BaseException as error:
            if answer is not None:
                with suppress(Exception):
                    await answer.aclose()
            if isinstance(error, TimeoutError):
                raise TimedOut("no answer began in time", deadline=deadline) from None
            raise

    def _asked(self, library: Any, prompt: Prompt, line: Line) -> dict[str, Any]:
        """The arguments of litellm's call."""
        spec, sampling, model = self._spec, prompt.sampling, prompt.model or self.model
        if "/" in spec.model and "/" not in model:
            model = f"{spec.model.partition('/')[0]}/{model}"
        known = settings(spec, model)
        messages = list(prompt.messages)
        if prompt.prefix:
            messages.append({"role": "assistant", "content": prompt.prefix})
        key = prompt.key or self._key
        if key is None and self._keyless:
            raise Refused("401: a key is needed for this model", status=401, code="invalid_api_key")
        _, provider, *_ = library.get_llm_provider(model)
        line.last = LAST_WORD.get(provider)
        accepted = library.get_supported_openai_params(model, provider) or ()
        options = {
            name: value
            for name, value in prompt.options.items()
            if name in FORM or (name in HINTS and name in accepted)
        }
        asked: dict[str, Any] = {**spec.options, **known.begun(options)}
        hints: dict[str, Any] = {"seed": sampling.seed}
        if known.samples(asked):
            hints |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty,
                "logit_bias": sampling.logit_bias,
            }
        if sampling.stop and known.stop:
            hints["stop"] = list(sampling.stop)
        asked |= {name: value for name, value in hints.items() if value is not None and name in accepted}
        if sampling.logprobs and known.logprobs:
            asked["logprobs"] = True
            if sampling.top_logprobs is not None:
                asked["top_logprobs"] = sampling.top_logprobs
        if prompt.max_tokens is not None:
            asked[known.limit_field] = prompt.max_tokens
        return asked | {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "api_key": key,
            "api_base": spec.api_base,
            "timeout": spec.deadlines.total,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            "caching": False,
            "_skip_mcp_handler": True,  # tools are the caller's; litellm would import another package to look at them
            "client": self._client(provider, key, line),
        }

    def _client(self, provider: str, key: str | None, line: Line) -> Any:
        """The client that litellm sends this call with: its own kind, or for Azure OpenAI's, over our line."""
        if provider == "azure":
            openai, httpx = importlib.import_module("openai"), importlib.import_module("httpx")
            return openai.AsyncAzureOpenAI(
                api_key=key,
                azure_endpoint=self._spec.api_base or "",
                api_version=self._spec.options.get("api_version", AZURE_VERSION),
                max_retries=0,
                http_client=httpx.AsyncClient(transport=line.transport, trust_env=False),
            )
        handlers = importlib.import_module("litellm.llms.custom_httpx.http_handler")
        return handlers.AsyncHTTPHandler(transport=line.transport, follow_redirects=False)

    def _meant(self, error: Exception, line: Line | None) -> EngineError:
        """The leaf of `EngineError` that a failed call means."""
        if self._closed:
            return Unavailable("is closed")
        if isinstance(error, EngineError):
            return error
        if isinstance(error, TimeoutError):
            return TimedOut("the answer took too long", deadline="total")
        if line is not None and line.failure is not None:
            return line.failure
        inner = getattr(error, "original_exception", None) or error
        status = getattr(inner, "status_code", None)
        if isinstance(status, int):
            text = str(getattr(inner, "message", inner)).partition("\nTraceback")[0]
            # Anthropic's `overloaded_error` inside a stream comes as a 500.
            return failure(read_error(text.encode()), 529 if "overloaded" in text.lower() else status)
        return BadReply(f"litellm could not translate: {type(inner).__name__}")

    def _present(self, error: EngineError, prompt: Prompt) -> EngineError:
        return present(error, engine=self.name, keys=(self._key, prompt.key), texts=quoted(prompt))


LAST_WORD = {"gemini": b'"finishReason":', "vertex_ai": b'"finishReason":'}
"""What an answer of a provider ends with, where litellm says `stop` whether it has come or not."""

AZURE_VERSION = "2025-04-01-preview"
"""Of Azure's API, when `options` name none."""


class _Reply:
    """One answer as it arrives, in litellm's chunks."""

    def __init__(self, asked: str) -> None:
        self._asked = asked.rpartition("/")[2]
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._fingerprint: str | None = None

    def feed(self, chunk: Any) -> list[Delta]:
        """What is new in one chunk."""
        self._model = getattr(chunk, "model", None) or self._model
        self._tier = getattr(chunk, "service_tier", None) or self._tier
        self._fingerprint = getattr(chunk, "system_fingerprint", None) or self._fingerprint
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self._usage = usage.model_dump(exclude_none=True)
        deltas = []
        for choice in chunk.choices:
            self._reason = choice.finish_reason or self._reason
            members = choice.delta.model_dump(exclude_none=True)
            text = members.pop("content", None) or ""
            fields = {name: members[name] for name in SAID if members.get(name)}
            logprobs = getattr(choice, "logprobs", None)
            entries = None if logprobs is None else read_logprobs(_plain(logprobs))
            if text or fields or entries:
                deltas.append(Delta(text, 0, entries, fields or None))
        return deltas

    def finish(self, answer: Any, line: Line) -> Finish:
        """The end of the answer. Raises `BadReply` when the provider gave none: litellm would make one up."""
        said = getattr(answer, "received_finish_reason", None) or getattr(answer, "intermittent_finish_reason", None)
        if said is None or self._reason is None or not line.ended:
            raise BadReply("the stream ended without its end (no finish reason)")
        reported = any(getattr(chunk, "usage", None) is not None for chunk in getattr(answer, "chunks", ()))
        return Finish(
            (self._reason if self._reason in REASONS else "stop",),
            read_usage(self._usage) if reported else None,
            self._model if self._model != self._asked else None,
            self._tier,
            self._fingerprint,
        )


SAID = ("tool_calls", "refusal", "reasoning_content")
"""Members of a delta that are passed on."""


def _plain(value: Any) -> Mapping[str, Any]:
    plain: Mapping[str, Any] = value if isinstance(value, Mapping) else value.model_dump()
    return plain


def _claimed(spec: LiteLLMSpec) -> Ability:
    asked = settings(spec, spec.model)
    mode = spec.prefill or ("implicit" if find(spec.model).prefill else "context")
    claims = {
        Ability.CONTINUE: mode == "implicit",
        Ability.LOGPROBS: asked.logprobs,
        Ability.TOOLS: spec.tools,
        Ability.SCHEMA: spec.json_schema,
        Ability.IMAGES: asked.images,
    }
    abilities = Ability.NONE
    for ability, claimed in claims.items():
        if claimed:
            abilities |= ability
    return abilities
