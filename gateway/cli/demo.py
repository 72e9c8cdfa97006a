"""`gkt demo`: the main job from end to end, on real models: the gateway, real questions, receipts, and their sum."""

from __future__ import annotations

import asyncio
import os
import select
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from gateway.chat import StrategyName
from gateway.cli import show
from gateway.cli.group import ConfigFile, Trouble
from gateway.cli.savings import parsed
from gateway.config import Config
from gateway.dashboard import PATH as DASHBOARD
from gateway.errors import ConfigError
from gateway.ledger.entry import SavingsRow
from gateway.planner import ANY
from pricing.money import Money

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask, in one strategy; `settings` are the SDK's, `overrides` the gateway's own.

    `as_the_teacher`: ask for the teacher's own model name, as an application does that knows of no gateway.
    """

    strategy: StrategyName
    prompt: str
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    as_the_teacher: bool = False


QUESTIONS = (
    Question(
        "cut-off",
        "Why is the sky blue? Answer in two or three sentences.",
        {"stream": True, "temperature": 0.4, "top_p": 0.9, "seed": 1, "max_completion_tokens": 120},
        as_the_teacher=True,
    ),
    Question(
        "concise",
        "A box holds 4 pencils. How many pencils are in 3 boxes? Show the calculation.",
        {"temperature": 0.0, "max_completion_tokens": 120},
    ),
    Question(
        "hint",
        "Write a very short story about a lighthouse keeper and a whale.",
        {"stream": True, "temperature": 0.9, "top_p": 0.95, "seed": 3, "max_completion_tokens": 150},
    ),
    Question("student", "What is the capital of France?", {"temperature": 0.2, "seed": 4, "max_completion_tokens": 60}),
    Question(
        "teacher",
        "Name the three primary colours of paint, in one sentence.",
        {"stream": True, "max_completion_tokens": 60},
    ),
    Question(
        "cut-off",
        "List five fruits, one on each line, with numbers.",
        {"stream": True, "temperature": 0.0, "stop": ["5."], "max_completion_tokens": 80},
        {"guidance_tokens": 12},
    ),
    Question(
        "cut-off",
        "Suggest a name for a small bakery, and say why in one sentence.",
        {"n": 2, "temperature": 1.0, "top_p": 0.95, "frequency_penalty": 0.3, "max_completion_tokens": 80},
        {"guidance_tokens": 8},
    ),
)


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the ledger and the log there, instead of in a new temporary folder."),
    ] = None,
    stay: Annotated[
        bool | None,
        typer.Option(
            "--serve/--no-serve",
            help="Leave the gateway running afterwards, with its dashboard over these requests, until Enter or Ctrl-C, "
            "or end at once; by default it is left running where somebody sits at a terminal.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Start a gateway, ask it real questions through the official OpenAI SDK, and show what was saved.

    Each answer is shown with the teacher's words set apart from the student's, and with its receipt; at the end the
    sums are read back from the running gateway and checked against the receipts. The teacher is OpenAI when
    OPENAI_API_KEY is set (that costs about a cent), else a stand-in, and every line says so.
    """
    from gateway.bootstrap import admin_key, keys

    settings = Config.load(config)
    key = next(iter(keys(settings, os.environ)), "none")
    requests = [asked(settings, question) for question in QUESTIONS]
    options = ["--config", str(config)] if config else []
    folder = keep or Path(tempfile.mkdtemp(prefix="gkt-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    admin = admin_key(settings, os.environ) or key
    if stay is None:
        stay = sys.stdin.isatty() and sys.stdout.isatty()
    asyncio.run(_demo(folder.absolute(), options, (key, admin), requests, show.console(), stay=stay))
    typer.echo(f"kept: {folder}")
    command = shlex.join(["gkt", "serve", *options, "--port", "8080", "--ledger", ledger(folder)])
    again = "shows these requests again" if stay else "shows these requests"
    typer.echo(f"dashboard: http://127.0.0.1:8080{DASHBOARD} {again} while this runs:")
    typer.echo(f"  {command}")


def ledger(folder: Path) -> str:
    """Where the demo keeps its accounts."""
    return f"sqlite:///{folder.absolute() / 'ledger.db'}"


def asked(config: Config, question: Question) -> dict[str, Any]:
    """The request for a question: its strategy by the name of a route that has it, else as an override.

    Raises `ConfigError` when no route has both a teacher and a student.
    """
    overrides = dict(question.overrides)
    routes = config.routes
    able = [name for name, route in routes.items() if route.teacher and route.student]
    if not able:
        raise ConfigError("the demo needs a route with a teacher and a student, and the configuration has none")
    by_name = [name for name, route in routes.items() if name != ANY and route.strategy == question.strategy]
    if question.as_the_teacher and ANY in able and routes[ANY].strategy == question.strategy:
        model = config.upstreams[str(routes[ANY].teacher)].model
    elif by_name:
        model = by_name[0]
    else:
        model = able[0]
        overrides["strategy"] = question.strategy
    request = {"model": model, "messages": [{"role": "user", "content": question.prompt}], **question.settings}
    return {**request, "extra_body": {"gkt": overrides}} if overrides else request


async def _demo(
    folder: Path,
    options: Sequence[str],
    keys: tuple[str, str],
    requests: Sequence[Mapping[str, Any]],
    out: Console,
    *,
    stay: bool = False,
) -> None:
    from gateway.cli.child import serving
    from gateway.cli.client import ask_savings, client

    began = time.time()
    options = [*options, "--ledger", ledger(folder)]
    async with AsyncExitStack() as stack:
        with show.working(out, "Starting the gateway and its models"):
            child = await stack.enter_async_context(serving(options, folder / "gateway.log"))
        for line in (*child.said, f"The gateway is ready on {child.url}; {len(requests)} questions follow."):
            out.print(Text(line))
        sdk = await stack.enter_async_context(client(child.url, keys[0]))
        receipts = [await _put(sdk, number, request, out) for number, request in enumerate(requests, 1)]
        accounts = await stack.enter_async_context(client(child.url, keys[1]))
        rows = (await ask_savings(accounts, {"since": f"{began:.3f}"}))["data"]
        row = parsed(rows[0])
        out.print(Rule(style="dim"))
        notice = next(filter(None, map(show.stand_in, receipts)), "")
        title = f"Savings, as the running gateway's ledger adds them up{f' ({notice})' if notice else ''}"
        show.sums(out, row, title)
        checks = list(agree(receipts, row))
        _tell(checks, out)
        if stay:
            how = "Enter or Ctrl-C stops" if sys.stdin.isatty() else "Ctrl-C stops"
            out.print(Text(f"dashboard: {child.url}{DASHBOARD} shows these requests; {how} the gateway"))
            await _stopped()
        with show.working(out, "Stopping the gateway"):
            await stack.aclose()
    stopped = ("the gateway stopped in order", child.status == 0)
    _tell([stopped], out)
    if not all(holds for _, holds in (*checks, stopped)):
        raise Trouble(f"the demo found a fault: see above, and {folder / 'gateway.log'}")


def _tell(checks: Iterable[tuple[str, bool]], out: Console) -> None:
    for says, holds in checks:
        out.print(Text(f"check: {says}: {'yes' if holds else 'NO'}", style="green" if holds else "bold red"))


async def _stopped() -> None:
    """Returns when the user says so: by Ctrl-C, or by Enter where there is somebody who can press it."""
    said = asyncio.Event()
    loop = asyncio.get_running_loop()
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    if keyboard is not None:
        loop.add_reader(keyboard, said.set)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, lambda *_: loop.call_soon_threadsafe(said.set))
    try:
        await said.wait()
        if keyboard is not None and select.select([keyboard], [], [], 0)[0]:
            sys.stdin.readline()  # or the shell would get it
    finally:
        if keyboard is not None:
            loop.remove_reader(keyboard)
        for each, handler in before.items():
            signal.signal(each, handler)


async def _put(sdk: AsyncOpenAI, number: int, request: Mapping[str, Any], out: Console) -> Mapping[str, Any]:
    """Ask one question and print all that came of it; its receipt."""
    from gateway.cli.client import tell

    said = {name: value for name, value in request.items() if name not in ("messages", "extra_body")}
    said |= request.get("extra_body", {}).get("gkt", {})
    out.print(Rule(style="dim"))
    with show.working(out, f"Question {number}") as working:
        told = await tell(sdk, request, working.hear)
    # Said after the answer: only then is it known who sat in the teacher's seat, and every line tells.
    notice = show.stand_in(told.receipt)
    out.print(Text(f"{number}. {request['messages'][0]['content']}", style="bold"))
    settings = ", ".join(f"{name}={value}" for name, value in said.items())
    out.print(Text(f"  {settings}{f' ({notice})' if notice else ''}", style="dim"))
    for text in told.texts:
        show.answer(out, told.receipt, text)
    show.receipt(out, told.receipt)
    return told.receipt


def agree(receipts: Sequence[Mapping[str, Any]], row: SavingsRow) -> Iterator[tuple[str, bool]]:
    """Whether receipts and ledger say the same, to the nano-dollar; what is said, and whether it holds."""
    yield f"{row.requests} requests on record, {len(receipts)} receipts", row.requests == len(receipts)
    priced = [receipt for receipt in receipts if receipt["cost_usd"] is not None]
    stages = _total(stage["cost_usd"] for receipt in receipts for stage in receipt["stages"])
    yield f"the stages of all receipts come to {stages}, the ledger's to {row.spent}", stages == row.spent
    compared = [receipt for receipt in priced if receipt["baseline"] and receipt["baseline"]["likely_usd"] is not None]
    alone, booked = _total(receipt["baseline"]["likely_usd"] for receipt in compared), row.baseline or Money.ZERO
    yield f"the teacher alone would have cost {alone} by the receipts, {booked} by the ledger", alone == booked
    saved, kept = _total(receipt["saved_usd"] for receipt in compared), row.saved or Money.ZERO
    yield f"saved {saved} by the receipts, {kept} by the ledger", saved == kept
    yield f"{row.unpriced} requests unpriced", row.unpriced == len(receipts) - len(priced)


def _total(amounts: Iterable[str | None]) -> Money:
    return Money.total(Money.usd(Decimal(amount)) for amount in amounts if amount is not None)
