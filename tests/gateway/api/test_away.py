"""The ledger's database is away: what is asked of it is answered 503 in words, and whoever watches is told."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import EventDict

from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.dashboard import PATH
from gateway.dashboard.app import VIEWS, Dashboard
from gateway.ledger.entry import Entry
from gateway.ledger.sql import SqlLedger
from gateway.pipeline import Gateway
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

ADMIN = {"Authorization": "Bearer sk-admin"}
CALLER = {"Authorization": "Bearer sk-caller"}


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[tuple[Gateway, httpx.AsyncClient], None]:
    config = Config.parse(
        {
            "server": {"admin_key_env": "T_ADMIN", "keys_env": "T_KEYS"},
            "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
            "upstreams": {"teacher": {"kind": "scripted", "model": "gpt-6-sol"}},
            "routes": {"gkt": {"strategy": "teacher", "teacher": "teacher"}},
        }
    )
    environ = {"T_ADMIN": "sk-admin", "T_KEYS": "sk-caller"}
    async with open_gateway(config, environ=environ, engines={"teacher": Scripted("teacher", "Blue.")}) as gateway:
        app = create_app(config, opener=lambda _: nullcontext(gateway), pages={PATH: Dashboard(gateway)})
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=ADMIN) as http,
        ):
            yield gateway, http


def gone(gateway: Gateway, folder: Path) -> None:
    """Where the database was, there is none that could be opened."""
    assert isinstance(gateway.ledger, SqlLedger)
    gateway.ledger.store._engine.dispose()
    for file in folder.glob("ledger.db*"):
        if ".spool-" not in file.name:
            file.unlink()
    (folder / "ledger.db").mkdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def settled(request_id: str) -> Entry:
    return Entry(request_id, time.time(), "gkt", "gkt", "teacher", "", "alice", "ok", False, (), None)


async def test_every_page_and_question_is_answered_503_in_words(tmp_path: Path, logs: list[EventDict]) -> None:
    async with opened(tmp_path) as (gateway, http):
        for path in VIEWS:
            assert (await http.get(path)).status_code == 200
        await asyncio.to_thread(gone, gateway, tmp_path)
        for path in (*VIEWS, f"{PATH}/requests/chatcmpl-1"):
            response = await http.get(path)
            assert response.status_code == 503, path
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert "The ledger’s database does not answer" in response.text.replace("&#39;", "’"), path
        for path in ("savings", "savings?by=day", "requests/chatcmpl-1", "tradeoff", "keys", "keys/key_1"):
            response = await http.get(f"/gkt/v1/{path}")
            assert (response.status_code, response.headers["x-should-retry"]) == (503, "true"), path
            assert response.json()["error"]["code"] == "overloaded"
    assert not [line for line in logs if line.get("exc_info")], "no traceback"


async def test_who_watches_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is away, how much waits, and when there is no room any more."""

    async def told() -> tuple[float, float, float]:
        text = (await http.get("/metrics")).text
        found = {each.name: each.samples[0].value for each in text_string_to_metric_families(text) if each.samples}
        assert found["gkt_ledger_spool_limit_bytes"] == 256 * 2**20
        return found["gkt_ledger_away"], found["gkt_ledger_spool_bytes"], found["gkt_ledger_queue_rows"]

    async with opened(tmp_path) as (gateway, http):
        assert await told() == (0, 0, 0)
        ready = await http.get("/readyz", headers=CALLER)
        assert (ready.status_code, ready.json()["ledger"]) == (200, "ok")
        with locked(tmp_path):
            await gateway.ledger.settle(settled("r1"))
            away, spooled, waiting = await told()
            assert (away, waiting) == (1, 0)
            assert 0 < spooled < 5_000
            ready = await http.get("/readyz", headers=CALLER)
            assert (ready.status_code, ready.json()["ready"], ready.json()["ledger"]) == (200, True, "away")
            assert isinstance(gateway.ledger, SqlLedger)
            backlog = gateway.ledger._writer._backlog
            assert backlog is not None
            monkeypatch.setattr(backlog, "_limit", 1_000)
            ready = await http.get("/readyz", headers=CALLER)
            assert (ready.status_code, ready.json()["ready"], ready.json()["ledger"]) == (503, False, "full")
            monkeypatch.undo()
        async with asyncio.timeout(10):
            while gateway.ledger.away or gateway.ledger.spooled:  # noqa: ASYNC110 - a thread's doing
                await asyncio.sleep(0.02)
        assert await told() == (0, 0, 0)
        assert (await http.get("/readyz", headers=CALLER)).json()["ledger"] == "ok"
        assert (await gateway.ledger.savings())[0].requests == 1
