"""Log lines of a real process: one a request, readable by machines, and nothing in them that was said in confidence."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import gateway

ROOT = Path(gateway.__file__).parents[1]

KEY = "gkt-k3y-4f9a1c"
SECRETS = (KEY, "p1neapple", "b4nana", "ch3rry", "m4ngo", "s0rbet")
"""A caller's key, a word of a prompt, of guidance, of an answer, of metadata, and of what an error carries along."""

HEAD = """
import asyncio, sys
from contextlib import aclosing, nullcontext
import httpx
from gateway import telemetry
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from students.errors import *
from students.scripted import Scripted
KEY, PROMPT, GUIDANCE, ANSWER, METADATA, REFUSED = sys.argv[1:7]
telemetry.configure(json=sys.argv[7] == "json")

class Broken(Scripted):
    async def stream(self, prompt):
        words = f"{ANSWER} {prompt.messages}"
        raise ZeroDivisionError("boom")
        yield words

async def chats(teacher, student, **body):
    config = Config.parse({"ledger": {"url": "sqlite://"}, "server": {"keys_env": "KEYS"}})
    engines = {"teacher": teacher, "student": student}
    async with open_gateway(config, engines=engines, environ={"KEYS": KEY}) as gateway:
        app = create_app(config, opener=lambda _: nullcontext(gateway))
        async with app.router.lifespan_context(app):
            door = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=door, base_url="http://127.0.0.1") as client:
                for key in (KEY, KEY + "wrong"):
                    for stream in (False, True):
                        for model in ("gkt", "gkt-hint", "teacher", "student"):
                            sent = {
                                "model": model,
                                "stream": stream,
                                "messages": [{"role": "user", "content": f"Tell me of {PROMPT}"}],
                                "metadata": {"about": METADATA},
                                **body,
                            }
                            answer = await client.post(
                                "/v1/chat/completions", json=sent, headers={"authorization": f"Bearer {key}"}
                            )
                            print(answer.status_code)
"""

FINE = """
asyncio.run(chats(Scripted("teacher", f"So {GUIDANCE} is a"), Scripted("student", f"fruit {ANSWER}")))
"""

FAILING = """
class Leaky(Refused):
    def __init__(self):
        super().__init__("400: bad", status=400, code="bad")
        self.quoted = REFUSED

gone = Scripted("student", f"{ANSWER} x", error=Unavailable("gone"), fail_after=1)
asyncio.run(chats(Scripted("teacher", error=Leaky()), gone))
asyncio.run(chats(Scripted("teacher", f"So {GUIDANCE}"), Broken("student")))
asyncio.run(chats(Broken("teacher"), Broken("student")))
"""


def child(code: str, form: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", HEAD + code, *SECRETS, form]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False, **how)


@cache
def log_of(code: str, form: str) -> tuple[str, list[str]]:
    """What the child logged, and the statuses that its clients saw; each child is started once."""
    done = child(code, form, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode(), done.stdout.decode().split()


def test_a_line_for_each_request() -> None:
    log, statuses = log_of(FINE, "json")
    assert statuses == ["200"] * 8 + ["401"] * 8
    lines = [json.loads(line) for line in log.splitlines()]
    told = [line for line in lines if line["event"] == "request"]
    assert len(told) == 8
    assert len({line["request_id"] for line in told}) == 8
    for line in told:
        assert line["level"] == "info"
        assert line["timestamp"].endswith("Z")
        assert line["outcome"] == "ok"
        assert line["cost_usd"].startswith("$")
        assert line["seconds"] >= 0
    assert {line["strategy"] for line in told} == {"cut-off", "hint", "teacher", "student"}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("code", [FINE, FAILING], ids=["fine", "failing"])
def test_nothing_that_was_said_in_confidence_is_logged(code: str, form: str) -> None:
    """Tracebacks too: local variables of a fault of our own hold the prompt, the headers and the key."""
    log, statuses = log_of(code, form)
    assert "request" in log
    if code == FAILING:
        assert "500" in statuses
        assert "ZeroDivisionError" in log, "a fault of our own is told with its traceback"
        assert "upstreams.py" in log
    for secret in SECRETS:
        assert secret not in log


def test_json_lines_are_json_even_with_a_traceback() -> None:
    log, _ = log_of(FAILING, "json")
    faults = [line for line in map(json.loads, log.splitlines()) if line["event"] == "unexpected"]
    assert faults
    for line in faults:
        assert line["exception"][0]["exc_type"] == "ZeroDivisionError"
        assert line["exception"][0]["frames"]


def test_a_log_that_nobody_reads_any_more_does_not_fail_answers() -> None:
    """`gkt serve 2>&1 | head`: writing to the pipe fails from the moment its reader has ended."""
    reader = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    reader.wait(timeout=30)
    done = child(FINE, "json", stderr=reader.stdin)
    assert done.stdout.decode().split() == ["200"] * 8 + ["401"] * 8
    with suppress(BrokenPipeError):
        reader.stdin.close()
