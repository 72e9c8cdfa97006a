"""Client: the gateway seen from outside, through the official OpenAI SDK as it is."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gateway.cli.group import Trouble
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as a client gets it: the text of each choice, the gateway's receipt, and this side's own clock.

    `first_token` and `seconds` are seconds since the request was sent; `first_token` is None without a stream.
    """

    texts: Sequence[str]
    reasons: Sequence[str]
    receipt: Mapping[str, Any]
    usage: Mapping[str, Any] | None
    first_token: float | None
    seconds: float


def key_from(name: str | None) -> str:
    """The key in the environment variable `name`; without a name, a word that a gateway without keys ignores."""
    if name is None:
        return "none"
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(f"--key-env: the environment variable {name} is not set")
    return key


@asynccontextmanager
async def client(url: str, key: str) -> AsyncGenerator[AsyncOpenAI, None]:
    """The SDK on the gateway at `url`. What it raises becomes `Trouble`, in one line."""
    from openai import APIConnectionError, APIError, AsyncOpenAI, OpenAIError

    # A proxy is not asked for this very machine.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))
    try:
        async with AsyncOpenAI(base_url=url.rstrip("/").removesuffix("/v1") + "/v1", api_key=key) as sdk:
            yield sdk
    except APIConnectionError as error:
        raise Trouble(f"no gateway answers at {url}: {error.__cause__ or error}") from error
    except APIError as error:
        raise Trouble(f"the gateway answered with an error: {error.message}") from error
    except OpenAIError as error:
        raise Trouble(str(error)) from error


async def tell(sdk: AsyncOpenAI, request: Mapping[str, Any], on_text: Callable[[str], None] | None = None) -> Told:
    """Send one chat; `request` is what the SDK's `create` takes, `on_text` hears a stream's first choice grow."""
    create = cast("Any", sdk.chat.completions.create)  # the keywords are data here; the SDK types them one by one
    began = time.perf_counter()
    if not request.get("stream"):
        completion = await create(**request)
        told = completion.model_dump()
        return Told(
            [choice["message"]["content"] or "" for choice in told["choices"]],
            [choice["finish_reason"] for choice in told["choices"]],
            _receipt(told),
            told["usage"],
            None,
            time.perf_counter() - began,
        )
    texts: dict[int, list[str]] = {index: [] for index in range(request.get("n") or 1)}
    reasons: dict[int, str] = {}
    first_token: float | None = None
    last: dict[str, Any] = {}
    async with await create(**{"stream_options": {"include_usage": True}, **request}) as chunks:
        async for chunk in chunks:
            for choice in chunk.choices:
                if choice.finish_reason is not None:
                    reasons[choice.index] = choice.finish_reason
                if text := choice.delta.content:
                    first_token = first_token or time.perf_counter() - began
                    texts[choice.index].append(text)
                    if on_text is not None and choice.index == 0:
                        on_text(text)
            last = chunk.model_dump()
    return Told(
        ["".join(pieces) for pieces in texts.values()],
        [reasons.get(index, "") for index in texts],
        _receipt(last),
        last.get("usage"),
        first_token,
        time.perf_counter() - began,
    )


async def ask_savings(sdk: AsyncOpenAI, params: Mapping[str, Any]) -> dict[str, Any]:
    """`GET /gkt/v1/savings`; params that are None are left out."""
    url = str(sdk.base_url).rstrip("/").removesuffix("/v1") + "/gkt/v1/savings"
    said = {name: value for name, value in params.items() if value is not None}
    return cast("dict[str, Any]", await sdk.get(url, cast_to=object, options={"params": said}))


def _receipt(told: Mapping[str, Any]) -> Mapping[str, Any]:
    receipt = told.get("gkt")
    if not isinstance(receipt, dict):
        raise Trouble("there is no receipt on this answer: is it a GKT gateway that answers there?")
    return receipt
