"""`gkt ask`: one prompt, its answer and its receipt."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gateway import telemetry
from gateway.chat import Placement, StrategyName
from gateway.cli import show
from gateway.cli.group import ConfigFile, KeyEnv, changed
from gateway.config import Config


def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    url: Annotated[
        str | None, typer.Option(help="A running gateway; without it, one is started for this question.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model name to ask for: a route of the configuration.")] = "gkt",
    system: Annotated[str | None, typer.Option(help="A system message before the prompt.")] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="Instead of the route's.")] = None,
    guidance_tokens: Annotated[int | None, typer.Option(min=1, help="How much the teacher may write.")] = None,
    guidance_prompt: Annotated[str | None, typer.Option(help="Name of the instruction to the teacher.")] = None,
    placement: Annotated[Placement | None, typer.Option(help="Where the guidance goes.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Name of an upstream.")] = None,
    student: Annotated[str | None, typer.Option(help="Name of an upstream.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens the answer may have.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text; up to four times.")] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many answers.")] = None,
    stream: Annotated[bool, typer.Option(help="Show the words as they come.")] = True,
    key_env: KeyEnv = None,
    config: ConfigFile = None,
) -> None:
    """Ask one question through the official OpenAI SDK; show who wrote what of the answer, and its receipt."""
    content = sys.stdin.read() if prompt == "-" else prompt
    overrides = given(
        strategy=strategy,
        guidance_tokens=guidance_tokens,
        guidance_prompt=guidance_prompt,
        placement=placement,
        teacher=teacher,
        student=student,
    )
    request = given(
        model=model,
        messages=[*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": content}],
        max_completion_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop or None,
        n=n,
        stream=stream or None,
        extra_body={"gkt": overrides} if overrides else None,
    )
    asyncio.run(_ask(request, url, key_env, config))


def given(**said: Any) -> dict[str, Any]:
    """What was said, without what was not."""
    return {name: value for name, value in said.items() if value is not None}


async def _ask(request: Mapping[str, Any], url: str | None, key_env: str | None, config: Path | None) -> None:
    from gateway.cli.client import client, key_from, tell

    out, progress = show.console(), show.console(stderr=True)
    async with AsyncExitStack() as stack:
        key = key_from(key_env)
        if url is None:
            with show.working(progress, "starting a gateway for this question"):
                url, key = await _start(stack, config)
        sdk = await stack.enter_async_context(client(url, key))
        if request.get("stream"):
            # The receipt, and with it who wrote what, comes last: until then all words look alike.
            told = await tell(sdk, request, lambda text: out.print(Text(text), end="", soft_wrap=True))
            out.print("\n")
        else:
            with show.working(progress, "waiting for the answer"):
                told = await tell(sdk, request)
    if request.get("stream") and len(told.texts) == 1:
        show.split(out, told.receipt, told.texts[0])
    else:
        for text in told.texts:
            show.answer(out, told.receipt, text)
    show.receipt(out, told.receipt)


async def _start(stack: AsyncExitStack, config: Path | None) -> tuple[str, str]:
    """A gateway on a free port that lives as long as `stack`: its address, and a key that it takes."""
    from gateway.bootstrap import keys
    from gateway.cli.hosting import bound, hosted

    telemetry.configure(level=logging.WARNING)
    settings = changed(Config.load(config), host="127.0.0.1", port=0)
    host = await stack.enter_async_context(hosted(settings, bound("127.0.0.1", 0)))
    key = next(iter(keys(settings, os.environ)), None)
    if key is None:  # of keys that were made later, nobody knows the secrets
        key = secrets.token_urlsafe(32)
        host.gateway.auth.admit(key)
    return host.url, key
