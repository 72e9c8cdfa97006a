"""`gkt serve` as a process of its own, seen from outside: its address, its ledger's file, its log, its children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import psutil
import yaml
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

READY = "gkt is ready on "
OURS = ("OPENAI_API_KEY", "GKT_CONFIG")

T = TypeVar("T")


def eventually(ask: Callable[[], T | None], within: float = 30.0) -> T:
    """The first answer that is not None, False or empty."""
    until = time.monotonic() + within
    while not (found := ask()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)
    return found


@dataclass
class Served:
    """A running gateway. `said`: what it printed before its address."""

    url: str
    folder: Path
    process: subprocess.Popen[str]
    said: list[str]
    config: Path | None
    environ: Mapping[str, str] = field(repr=False)
    key: str = "none"

    @cached_property
    def sdk(self) -> OpenAI:
        """The official client; it tries once."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)

    def async_sdk(self) -> AsyncOpenAI:
        """A new asynchronous one, for the event loop of one test, which closes it."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)

    def get(self, path: str) -> Any:
        """`GET path` by the official client."""
        return self.sdk.get(self.url + path, cast_to=object)

    def entry(self, request_id: str) -> dict[str, Any]:
        """The ledger's row of a request."""
        return cast("dict[str, Any]", self.get(f"/gkt/v1/requests/{request_id}"))

    def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers (names in lower case) and JSON of an answer, without any SDK."""
        address = urlsplit(self.url)
        with contextlib.closing(HTTPConnection(address.hostname or "", address.port, timeout=20)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            text = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            return response.status, names, json.loads(text) if text else None

    def scraped(self, **headers: str) -> str:
        """What Prometheus is told."""
        address = urlsplit(self.url)
        with contextlib.closing(HTTPConnection(address.hostname or "", address.port, timeout=20)) as connection:
            connection.request("GET", "/metrics", headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, text
            return text

    def sample(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        families = text_string_to_metric_families(self.scraped())
        samples = [sample for family in families for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    def sample_of(self, admin: str, name: str) -> float:
        """The same with the admin's key, where the gateway asks for keys."""
        families = text_string_to_metric_families(self.scraped(Authorization=f"Bearer {admin}"))
        return sum(each.value for family in families for each in family.samples if each.name == name)

    def rewrite(self, config: Mapping[str, Any] | str) -> None:
        """Replace the file of its configuration, by another or by any text."""
        assert self.config is not None
        text = config if isinstance(config, str) else configured(self.folder, config)
        self.config.write_text(text)

    def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of the ledger's database."""
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.db", timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def entries(self, model: str) -> list[dict[str, Any]]:
        """The entries of requests that asked for this model's name."""
        return self.sql("SELECT * FROM entries WHERE model = ?", model)

    def log(self) -> str:
        """What it wrote to standard error so far."""
        return (self.folder / "gkt.log").read_text()

    def models(self) -> list[psutil.Process]:
        """The model servers that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *words: str) -> str:
        """What another `gkt` command prints that has the same configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *words, *self._config()],
            cwd=self.folder,
            env={**self.environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _config(self) -> list[str]:
        return [] if self.config is None else ["--config", str(self.config)]


def configured(folder: Path, config: Mapping[str, Any]) -> str:
    """The text of a configuration, with its ledger in `folder`."""
    return yaml.safe_dump({"ledger": {"url": f"sqlite:///{folder}/ledger.db"}, **config}, sort_keys=False)


@contextlib.contextmanager
def serving(
    folder: Path, config: Mapping[str, Any] | None = None, *, key: str = "none", **environ: str
) -> Iterator[Served]:
    """A gateway of this configuration (None: of none at all) with its ledger in `folder`, until the end of the block.

    Stopped in order, unless the test killed it: it must then end with status 0, and leave no model server behind.
    """
    file = None
    if config is not None:
        file = folder / "gkt.yaml"
        file.write_text(configured(folder, config))
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    env = {**kept, "NO_PROXY": "127.0.0.1", "COLUMNS": "300", **environ}
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0"]
    command += ["--config", str(file)] if file else ["--ledger", f"sqlite:///{folder}/ledger.db"]
    with (folder / "gkt.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        said: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(READY):
                break
            said.append(line.rstrip("\n"))
        else:
            raise AssertionError((folder / "gkt.log").read_text())
        served = Served(line.removeprefix(READY).strip(), folder, process, said, file, env, key)
        children = served.models()
        yield served
        served.sdk.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert gone(children)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def gone(processes: list[psutil.Process], within: float = 5.0) -> bool:
    """True when all of them ended in time. Where nobody reaps orphans, one that waits for that has ended too."""

    def over(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until = time.monotonic() + within
    while not all(over(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
