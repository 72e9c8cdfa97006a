"""Asking: one request to a gateway, and what its answer and its receipt say.

The gateway is one that runs elsewhere, or one that is opened in this process, or the server is none but one of OpenAI's
API; all are asked over HTTP by the official client, as an application would.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from openai.types.chat import ChatCompletion

from evals.quotes import Quotes
from evals.results import Stage
from gateway.api.wire import parse
from gateway.chat import Caller
from gateway.cli.hosting import bound, hosted
from gateway.config import Config
from gateway.errors import GatewayError
from pricing.money import Money
from pricing.usage import Usage
from students.spec import ReplaySpec

Bound = Callable[[Mapping[str, Any]], Money | None]
"""The most that a request with that body can cost; None: unknown."""

GIVE_UP = frozenset({"insufficient_quota", "invalid_api_key", "model_not_found"})
"""Errors that every further request would meet too."""

WAIT = frozenset({"rate_limit_exceeded", "overloaded"})
"""Errors by which the gateway says to come again, before it has asked any model."""

UNPAID = GIVE_UP | WAIT
"""Errors of requests for which no model was asked; what another failure cost is not known."""

EXTRA = ("gkt", "chat_template_kwargs")
"""Members of a request that the client's own methods do not know."""

LONGEST_MESSAGE = 300
"""Characters of an error's message that are told."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer with what its receipt says; or `error`, the code of a request that failed, with the `message` it had.

    `cost`, `baseline`: nano-dollars, None where unknown. `final`: further requests would fail in the same way.
    `again`: seconds after which to come again, when the gateway had no room; None: it is no use, or it was not said.
    `cut`: the answer ends because it reached its limit. `refused`: no model was asked, whatever the code.
    """

    text: str = ""
    guidance: str = ""
    stages: tuple[Stage, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: int | None = None
    baseline: int | None = None
    seconds: float | None = None
    first_token: float | None = None
    why: str | None = None
    error: str | None = None
    final: bool = False
    again: float | None = None
    message: str | None = None
    cut: bool = False
    refused: bool = False

    @property
    def unpaid(self) -> bool:
        """True when it failed before any model was asked; what another failure cost is not known."""
        return self.refused or self.error in UNPAID

    @property
    def trouble(self) -> str | None:
        """What failed, in words: the code, and the message that came with it."""
        return f"{self.error}: {self.message}" if self.error and self.message else self.error


class Asker:
    """Asks one server, once: a try that failed may have been paid, so whoever tries again should know (`UNPAID`).

    `bound` is None where it cannot be known what a request may cost, `config` where it is not known what the gateway is
    configured with. `recorded` names upstreams that play recordings back, whose seconds are no model's: every time that
    holds them is told as unknown. `elsewhere` is the address of a server that was not opened for this. `plain`: a
    server of OpenAI's API that is no such gateway; models are asked by the names that requests have for upstreams, and
    `quotes` prices what it reports. Close it with `aclose`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        bound: Bound | None = None,
        config: Config | None = None,
        timeout: float = 600.0,
        plain: bool = False,
        quotes: Quotes | None = None,
        elsewhere: str | None = None,
    ) -> None:
        self.bound = bound if bound is not None or quotes is None else quotes.most
        self.config, self.plain, self.elsewhere = config, plain, elsewhere
        self.quotes = quotes
        replays = config.upstreams.items() if config is not None else ()
        self.recorded = frozenset(name for name, spec in replays if isinstance(spec, ReplaySpec))
        self._client = AsyncOpenAI(base_url=f"{root(url)}/v1", api_key=key, max_retries=0, timeout=timeout)

    async def ask(self, body: Mapping[str, Any]) -> Told:
        """The answer to `body`, a chat completion's. A failure is told, not raised."""
        began = time.perf_counter()
        known, extra = self._parts(body)
        try:
            answer = await self._client.chat.completions.create(**known, extra_body=extra or None)
        except APIStatusError as error:
            return self._failed(error)
        except APIConnectionError as error:
            # Of a server that nobody reached, no model was asked.
            reason, refused = error.__cause__, isinstance(error.__cause__, httpx.ConnectError)
            return Told(error=type(error).__name__, message=str(reason or error)[:LONGEST_MESSAGE], refused=refused)
        except ValueError as error:
            return Told(error="unreadable", message=str(error)[:LONGEST_MESSAGE])
        text = (answer.choices[0].message.content or "") if answer.choices else ""
        cut = bool(answer.choices) and answer.choices[0].finish_reason == "length"
        receipt: Mapping[str, Any] = (answer.model_extra or {}).get("gkt") or {}
        guidance = receipt.get("guidance") or {}
        baseline = receipt.get("baseline") or {}
        usage = answer.usage
        if not receipt:
            return self._counted(body, answer, text, cut, time.perf_counter() - began)
        stages = receipt.get("stages", ())
        timed = not any(each["upstream"] in self.recorded for each in stages)
        return Told(
            text=text,
            guidance=text[: guidance.get("text_chars") or 0],
            stages=tuple(_stage(each, timed=each["upstream"] not in self.recorded) for each in stages),
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
            cost=_nano(receipt.get("cost_usd")),
            baseline=_nano(baseline.get("likely_usd")),
            seconds=receipt.get("total_s") or time.perf_counter() - began if timed else None,
            first_token=receipt.get("first_token_s") if timed else None,
            why=receipt.get("why"),
            cut=cut,
        )

    def _parts(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the client's own method knows of a request, and what it does not."""
        known = {name: value for name, value in body.items() if name not in EXTRA}
        extra = {name: body[name] for name in EXTRA if body.get(name)}
        if self.plain:
            overrides = extra.pop("gkt", {})
            known["model"] = overrides.get("teacher") or overrides.get("student") or known["model"]
            if "openai" not in (self._client.base_url.host or ""):  # most others know the older name alone
                known["max_tokens"] = known.pop("max_completion_tokens")
        return known, extra

    def _failed(self, error: APIStatusError) -> Told:
        limited = "rate_limit_exceeded" if error.status_code == 429 else f"http_{error.status_code}"
        code = error.code if isinstance(error.code, str) and error.code else limited
        told = error.body.get("message") if isinstance(error.body, Mapping) else None
        return Told(
            error=code,
            message=str(told or error.message)[:LONGEST_MESSAGE],
            final=code in GIVE_UP or error.status_code in (401, 403),
            again=_seconds(error.response.headers.get("retry-after")) if code in WAIT else None,
            # A gateway's 400 may be its second model's, after the first was paid.
            refused=error.status_code in (401, 403) or (self.plain and error.status_code < 500),
        )

    def _counted(self, body: Mapping[str, Any], answer: ChatCompletion, text: str, cut: bool, seconds: float) -> Told:
        """An answer without a receipt: one call, priced by what it says that it read and wrote."""
        usage, overrides = answer.usage, body.get("gkt") or {}
        read, wrote = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        details = usage.prompt_tokens_details if usage else None
        names = (answer.model, self._parts(body)[0]["model"])
        cost = None
        if self.quotes is not None:
            cost = self.quotes.paid(names, Usage(read, wrote, details.cached_tokens if details else None))
        seat: Literal["teacher", "student"] = "student" if overrides.get("strategy") == "student" else "teacher"
        stage = Stage("answer", seat, answer.model or names[1], read, wrote, cost, None, seconds)
        return Told(text, "", (stage,), read, wrote, cost, seconds=seconds, cut=cut)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()


def root(url: str) -> str:
    """The address without what every request adds to it."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def shown(url: str) -> str:
    """The address as it may be written down: without a name and a password."""
    parts = urlsplit(root(url))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


async def is_plain(url: str, key: str) -> bool:
    """True when the server answers as one that is no gateway of this kind: its models are nobody's, or not listed.

    False too when it cannot be told: requests will then say what is wrong.
    """
    async with AsyncOpenAI(base_url=f"{root(url)}/v1", api_key=key, max_retries=0, timeout=10.0) as client:
        try:
            models = (await client.models.list()).data
        except APIStatusError as error:
            return error.status_code in (404, 405)
        except (APIConnectionError, ValueError):
            return False
    return bool(models) and all(getattr(model, "owned_by", None) != "gkt" for model in models)


@asynccontextmanager
async def in_process(config: Config) -> AsyncGenerator[Asker, None]:
    """A gateway of that configuration in this process, on a free port of 127.0.0.1, until the end of the block.

    Raises `ConfigError`.
    """
    async with hosted(config, bound("127.0.0.1", 0)) as host:

        def most(body: Mapping[str, Any]) -> Money | None:
            try:
                return host.gateway.worst_case(parse(orjson.dumps(body)), Caller("evaluation"))
            except GatewayError:
                return Money.ZERO  # it will be refused

        key = secrets.token_urlsafe(32)
        host.gateway.auth.admit(key)  # whatever keys its callers have
        asker = Asker(host.url, key, bound=most, config=config)
        try:
            yield asker
        finally:
            await asker.aclose()


def _stage(told: Mapping[str, Any], *, timed: bool) -> Stage:
    usage = told.get("usage") or {}
    return Stage(
        stage=told["stage"],
        seat=told["seat"],
        model=told["model"],
        input_tokens=usage.get("input"),
        output_tokens=usage.get("output"),
        cost=_nano(told.get("cost_usd")),
        started=None,
        seconds=told.get("total_s") if timed else None,
    )


def _seconds(text: str | None) -> float:
    try:
        return max(0.1, float(text or 1))
    except ValueError:
        return 1.0


def _nano(dollars: str | None) -> int | None:
    return None if dollars is None else int(Decimal(dollars) * 1_000_000_000)
