"""Where contracts are tried: every database, and a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Postgres
from tests.gateway.shared.server import redis_server

# One line for each database: its URL, given a folder of its own and a real PostgreSQL server.
DATABASES: dict[str, Callable[[Path, Postgres], str]] = {
    "sqlite-file": lambda folder, server: f"sqlite:///{folder}/made/on/opening/ledger.db",
    "sqlite-memory": lambda folder, server: "sqlite://",
    "postgresql": lambda folder, server: server(),
}


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> str:
    """Where a ledger is kept, in memory too."""
    return DATABASES[request.param](tmp_path, postgres)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of the module's own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url
