"""Configurations over scripted models, and the program `gkt` run in this process or as one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli import app

Write = Callable[..., Path]
Run = Callable[..., Result]
Serve = Callable[..., "subprocess.Popen[str]"]

SCRIPTED = {
    "upstreams": {
        "teacher": {
            "kind": "openai_api",
            "model": "big-teacher",
            "base_url": "http://127.0.0.1:9/v1",
            "api_key_env": "GKT_TEST_TEACHER_KEY",
            "stand_in": "student",
        },
        "student": {"kind": "scripted", "model": "small", "says": "Blue light is scattered the most by air."},
    },
    "routes": {
        "gkt": {"strategy": "cut-off", "teacher": "teacher", "student": "student", "guidance_tokens": 3},
        "teacher": {"strategy": "teacher", "teacher": "teacher"},
        "student": {"strategy": "student", "teacher": "teacher", "student": "student"},
    },
    "prices": {"big-teacher": {"input": 2, "output": 10}, "small": {"input": 0.01, "output": 0.08}},
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, configuration or folder of the developer's takes part."""
    for name in ("OPENAI_API_KEY", "GKT_TEST_TEACHER_KEY", "GKT_TEST_KEYS", "GKT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")  # no line of a report is broken
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration: scripted models and a ledger of the test's own, with sections replaced."""

    def write(**sections: Any) -> Path:
        data = {"ledger": {"url": f"sqlite:///{tmp_path}/ledger.db"}, **SCRIPTED, **sections}
        file = tmp_path / "gkt.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return file

    return write


@pytest.fixture
def run() -> Run:
    """Runs a command in this process."""

    def run(*words: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def asked(write: Write, run: Run) -> Path:
    """A configuration whose ledger has three requests."""
    file = write()
    for model in ("gkt", "gkt", "student"):
        assert run("ask", "Why is the sky blue?", "--model", model, "--config", file).exit_code == 0
    return file


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `gkt serve` on a free port, with its output at hand; ended with the test."""
    with contextlib.ExitStack() as stack:

        def serve(config: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", "--config", str(config), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environ},
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield serve
