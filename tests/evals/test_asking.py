"""Asking servers that run elsewhere: one that is no gateway of ours, and a gateway whose configuration is at hand."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from rich.console import Console

from evals.asking import Asker, in_process, is_plain, root, shown
from evals.quotes import Quotes
from evals.results import Cell, read
from evals.run_command import asking, execute
from evals.runner import Options, most, run
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money
from tests.evals.test_runner import CELLS, COUNT, config, sums

pytestmark = pytest.mark.anyio

KNOWN = {"model", "messages", "temperature", "max_tokens", "seed", "stop"}
CELL = Cell("gsm8k", "teacher", teacher="acme-1", concurrency=2)


@dataclass
class Plain:
    """A server as strict as some are: it takes no member that it does not know. `fails`: what it says instead."""

    url: str = ""
    fails: list[tuple[int, Any]] = field(default_factory=list)
    bodies: list[Mapping[str, Any]] = field(default_factory=list)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "acme-1", "object": "model", "owned_by": "acme"}]})

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if unknown := sorted(set(body) - KNOWN):
            return web.json_response({"error": {"message": f"unknown {unknown}", "code": None}}, status=400)
        if self.fails:
            status, told = self.fails.pop(0)
            return web.json_response(told, status=status)
        said = {"role": "assistant", "content": "The answer is 6."}
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "acme-1-2026",
                "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27},
            }
        )


@asynccontextmanager
async def plain() -> AsyncGenerator[Plain, None]:
    server, app = Plain(), web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def priced(folder: Path) -> Path:
    (folder / "prices.yaml").write_text(yaml.safe_dump({"prices": {"acme-1": {"input": 2, "output": 10}}}))
    return folder / "prices.yaml"


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_any_server_is_asked_and_priced_by_what_it_reports(tmp_path: Path, ending: str) -> None:
    task, out = sums(tmp_path, 4), Console(file=io.StringIO())
    bounds: list[Money | None] = []

    def agreed(bound: Money | None) -> bool:
        bounds.append(bound)
        return True

    async with plain() as server, asking(f"{server.url}{ending}", "NO_KEY", priced(tmp_path)) as asker:
        ended = await execute([task], [CELL], tmp_path / "run", Options(), asker=asker, out=out, agreed=agreed)
        assert ended is not None
        assert (ended.missing, ended.why) == (0, None)
        assert {body["model"] for body in server.bodies} == {"acme-1"}
    made, results = read(tmp_path / "run")
    assert (made.settings["elsewhere"], made.prices) == (server.url, {"acme-1": {"input": "2", "output": "10"}})
    assert [each.cost for each in results] == [20 * 2000 + 7 * 10_000] * 4
    assert results[0].stages[0].model == "acme-1-2026"
    assert results[0].stages[0].seat == "teacher"
    assert results[0].seconds is not None
    assert bounds[0] is not None
    assert bounds[0].nano >= sum(each.cost or 0 for each in results)


async def test_a_budget_holds_there_too(tmp_path: Path) -> None:
    task = sums(tmp_path, 30)
    async with plain() as server, asking(server.url, "NO_KEY", priced(tmp_path)) as asker:
        whole = most([task], [CELL], asker, Options())
        assert whole is not None
        dearest = whole.nano // 30  # they differ by a digit
        budget = Money(dearest + 10 * 110_000)
        ended = await run("sums", [task], [CELL], tmp_path / "run", asker, Options(budget=budget))
        assert ended.missing
        assert "the next request may cost" in str(ended.why)
        _, results = read(tmp_path / "run")
        paid = sum(each.cost or 0 for each in results)
        assert paid == len(server.bodies) * 110_000
        assert 9 * 110_000 <= paid <= budget.nano
    async with plain() as server, asking(server.url, "NO_KEY", None) as asker:  # nobody says what acme-1 costs
        assert most([task], [CELL], asker, Options()) is None
        ended = await run("sums", [task], [CELL], tmp_path / "other", asker, Options(budget=Money.usd(1)))
        assert (ended.missing, server.bodies) == (30, [])
        assert "price of a model is not known" in str(ended.why)


async def test_what_failed_is_said_and_a_refusal_costs_nothing(tmp_path: Path) -> None:
    """The message that came last, whatever shape it has."""
    task, cell = sums(tmp_path, 3), Cell("gsm8k", "student", student="acme-1")
    async with plain() as server, asking(server.url, "NO_KEY", priced(tmp_path)) as asker:
        server.fails = [
            (429, {"error": {"message": "slow down"}}),
            (400, {"error": {"message": "no seed, please", "code": None}}),
            (500, {"error": {"message": "out of memory", "code": 500}}),
        ]
        ended = await run("sums", [task], [cell], tmp_path / "run", asker)
        assert (ended.missing, ended.why) == (2, "http_500: out of memory")
    _, results = read(tmp_path / "run")
    assert [each.unscored for each in results[:2]] == [
        "the request failed: http_400: no seed, please",
        "the request failed: http_500: out of memory",
    ]
    assert (results[0].cost, results[0].most, results[1].cost) == (0, None, None)
    assert (results[1].most or 0) > 20 * 2000
    assert results[2].stages[0].seat == "student"


async def test_a_server_that_is_no_gateway_has_models_and_no_strategies(tmp_path: Path) -> None:
    async with plain() as server, asking(server.url, "NO_KEY", None) as asker:
        for cell in (CELLS[2], Cell("gsm8k", "cascade")):
            with pytest.raises(ConfigError, match="is not a gateway of this kind"):
                await execute(
                    [sums(tmp_path)], [cell], tmp_path / "run", Options(), asker=asker, out=Console(), agreed=bool
                )
        assert server.bodies == []


async def test_a_gateway_elsewhere_is_known_by_its_models(tmp_path: Path) -> None:
    """And with its configuration at hand, the run has an estimate, a budget and the identity of one in this process."""
    task = sums(tmp_path)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(config(tmp_path).model_dump(mode="json", exclude_unset=True)), "utf-8"
    )
    async with in_process(config(tmp_path)) as here:
        key, url = here._client.api_key, str(here._client.base_url)
        assert not await is_plain(url, key)
        assert not await is_plain("http://127.0.0.1:1", "none")
        quotes = Quotes(Config.load(tmp_path / "config.yaml"), plain=False)
        asker = Asker(url, key, config=config(tmp_path), quotes=quotes, elsewhere=root(url))
        bound, own = most([task], CELLS, asker, Options()), most([task], CELLS, here, Options())
        assert bound is not None
        assert own is not None
        assert own.nano / 2 < bound.nano < own.nano * 4, "about what the gateway itself says"
        ended = await run("sums", [task], CELLS, tmp_path / "run", asker, Options(budget=bound))
        assert ended.missing == 0
        await asker.aclose()
    made, results = read(tmp_path / "run")
    assert len(results) == COUNT * len(CELLS)
    assert "gkt" in made.settings["routes"]
    assert sum(each.cost or 0 for each in results) <= bound.nano


def test_an_address_is_written_down_without_its_password() -> None:
    assert shown("https://me:secret@example.net:8443/api/v1/") == "https://example.net:8443/api"


def test_a_bound_holds_for_every_tokenizer_and_every_call() -> None:
    told = Config.parse(
        {
            "upstreams": {
                "big": {"kind": "scripted", "model": "b"},
                "small": {"kind": "scripted", "model": "s"},
            },
            "routes": {"gkt": {"strategy": "cut-off", "teacher": "big", "student": "small"}},
            "prices": {"b": {"input": 1000, "output": 1_000_000}, "s": {"input": 0, "output": 1}},
        }
    )
    quotes = Quotes(told, plain=False)
    text = "😀" * 100
    body = {"model": "gkt", "messages": [{"role": "user", "content": text}], "max_completion_tokens": 50}

    def cost(**overrides: Any) -> int:
        found = quotes.most({**body, "gkt": overrides})
        assert found is not None
        return found.nano

    whole = cost(strategy="teacher")
    assert whole >= len(text.encode()) * 1_000_000 + 50 * 1_000_000_000
    assert cost(strategy="student") == 50 * 1000
    assert cost() >= whole + 40 * 1_000_000_000 + 50 * 1000, "guidance, the student, and the teacher in its place"
    assert cost(guidance_tokens=400) > cost()
    assert quotes.most({**body, "gkt": {"strategy": "cascade"}}) is None
    assert quotes.most({**body, "gkt": {"strategy": "teacher", "teacher": "nobody"}}) is None
    assert quotes.most({**body, "model": "unknown"}) is None
    assert Quotes(None, plain=False).most(body) is None
    assert json.dumps(quotes.listed(["b"])) == '{"b": {"input": "1000", "output": "1000000"}}'
