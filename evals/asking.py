"""Asking: one request to a gateway, and what its answer and its receipt say.

The gateway is one that runs elsewhere, or one that is opened in this process; both are asked over HTTP by the official
client, as an application would.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from evals.results import Stage
from gateway.api.wire import parse
from gateway.chat import Caller
from gateway.cli.hosting import bound, hosted
from gateway.config import Config
from gateway.errors import GatewayError
from pricing.money import Money
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


@dataclass(frozen=True, slots=True)
class Told:
    """An answer with what its receipt says; or `error`, the code of a request that failed, and nothing else.

    `cost`, `baseline`: nano-dollars, None where unknown. `final`: further requests would fail in the same way.
    `again`: seconds after which to come again, when the gateway had no room; None: it is no use, or it was not said.
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


class Asker:
    """Asks one gateway, once: a try that failed may have been paid, so whoever tries again should know (`UNPAID`).

    `bound` is None where it cannot be known what a request may cost, `config` where the gateway runs elsewhere.
    `recorded` names upstreams that play recordings back, whose seconds are no model's: every time that holds them is
    told as unknown. Close it with `aclose`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        bound: Bound | None = None,
        config: Config | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.bound = bound
        self.config = config
        replays = config.upstreams.items() if config is not None else ()
        self.recorded = frozenset(name for name, spec in replays if isinstance(spec, ReplaySpec))
        self._client = AsyncOpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key, max_retries=0, timeout=timeout)

    async def ask(self, body: Mapping[str, Any]) -> Told:
        """The answer to `body`, a chat completion's. A failure is told, not raised."""
        began = time.perf_counter()
        known = {name: value for name, value in body.items() if name not in EXTRA}
        extra = {"gkt": {}, **{name: body[name] for name in EXTRA if name in body}}
        try:
            answer = await self._client.chat.completions.create(**known, extra_body=extra)
        except APIStatusError as error:
            code = error.code or f"http_{error.status_code}"
            again = _seconds(error.response.headers.get("retry-after")) if code in WAIT else None
            return Told(error=code, final=code in GIVE_UP or error.status_code in (401, 403), again=again)
        except APIConnectionError as error:
            return Told(error=type(error).__name__)
        except ValueError:
            return Told(error="unreadable")
        text = (answer.choices[0].message.content or "") if answer.choices else ""
        receipt: Mapping[str, Any] = (answer.model_extra or {}).get("gkt") or {}
        guidance = receipt.get("guidance") or {}
        baseline = receipt.get("baseline") or {}
        usage = answer.usage
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
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.close()


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
