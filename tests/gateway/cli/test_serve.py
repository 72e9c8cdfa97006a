"""`gkt serve`: the ready line, a stop in order, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import hosting
from gateway.config import Config
from gateway.errors import ConfigError
from pricing import tokens

Write = Callable[..., Path]
Serve = Callable[..., "subprocess.Popen[str]"]

PROMPT = "Count."
ANSWER = " ".join(f"n{number}" for number in range(40))


def ready(child: subprocess.Popen[str]) -> tuple[list[str], int]:
    """The lines before the ready line, and the port on it."""
    assert child.stdout is not None
    before: list[str] = []
    for line in child.stdout:
        if line.startswith("gkt is ready on http://127.0.0.1:"):
            return before, int(line.rsplit(":", 1)[1])
        before.append(line)
    raise AssertionError(child.stderr.read() if child.stderr else "no ready line")


def ended(child: subprocess.Popen[str]) -> str:
    """What it wrote to standard error; it must end soon, with status 0."""
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 0, errors
    return errors


def post(port: int, model: str, **fields: Any) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def outcomes(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "ledger.db") as database:
        return list(database.execute("SELECT outcome, strategy FROM entries"))


@pytest.fixture
def slow(write: Write, tmp_path: Path) -> Callable[..., Path]:
    """A configuration whose teacher plays a recorded answer, a token every 20 ms: about 2 seconds of it."""
    if tokens.Vocabulary.load("o200k_base") is None:
        pytest.skip("no vocabulary at hand")
    recording = tmp_path / "answers.jsonl"
    recording.write_text(json.dumps({"prompt": PROMPT, "response": ANSWER}))

    def slow(**server: Any) -> Path:
        return write(
            server=server,
            upstreams={"teacher": {"kind": "replay", "model": "gpt-6-sol", "file": str(recording), "delay": 0.02}},
            routes={"teacher": {"strategy": "teacher", "teacher": "teacher"}},
        )

    return slow


def test_the_ready_line_the_stand_in_and_a_stop_in_order(write: Write, serve: Serve, tmp_path: Path) -> None:
    child = serve(write())
    before, port = ready(child)
    assert before == [
        "teacher: GKT_TEST_TEACHER_KEY is not set; 'student' (small) is its stand-in, "
        "priced as if it were big-teacher\n",
        f"dashboard: http://127.0.0.1:{port}/dashboard\n",
    ]
    response = post(port, "student").getresponse()
    assert response.getheader("server") is None
    answer = json.load(response)
    assert answer["choices"][0]["message"]["content"] == "Blue light is scattered the most by air."
    child.send_signal(signal.SIGTERM)
    errors = ended(child)
    assert [line for line in errors.splitlines() if "Traceback" in line] == []
    assert json.loads(errors.splitlines()[-1])["event"] == "request"  # one line of JSON a request
    assert outcomes(tmp_path) == [("ok", "student")]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_answers_under_way_finish(
    how: signal.Signals, slow: Callable[..., Path], serve: Serve, tmp_path: Path
) -> None:
    child = serve(slow())
    _, port = ready(child)
    response = post(port, "teacher", stream=True).getresponse()
    assert response.readline().startswith(b"data: ")
    child.send_signal(how)
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        post(port, "teacher")
    rest = response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    text = "".join(
        choice["delta"].get("content") or ""
        for line in rest.splitlines()
        if line.startswith(b"data: {")
        for choice in json.loads(line[6:])["choices"]
    )
    assert text == ANSWER
    ended(child)
    assert outcomes(tmp_path) == [("ok", "teacher")]


def test_after_the_drain_answers_are_cut_off_and_booked(
    slow: Callable[..., Path], serve: Serve, tmp_path: Path
) -> None:
    child = serve(slow(drain_seconds=0.2))
    _, port = ready(child)
    response = post(port, "teacher", stream=True).getresponse()
    assert response.readline().startswith(b"data: ")
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    ended(child)
    assert time.monotonic() - began < 1.8
    assert outcomes(tmp_path) == [("abandoned", "teacher")]


def test_a_second_signal_cuts_off_at_once(slow: Callable[..., Path], serve: Serve, tmp_path: Path) -> None:
    child = serve(slow())
    _, port = ready(child)
    response = post(port, "teacher", stream=True).getresponse()
    assert response.readline().startswith(b"data: ")
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    ended(child)
    assert time.monotonic() - began < 1.8
    assert outcomes(tmp_path) == [("abandoned", "teacher")]


def test_a_stop_before_it_is_ready(write: Write, serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reached = threading.Event()
        accepted: list[Any] = []

        def accept() -> None:
            accepted.append(silent.accept())
            reached.set()

        threading.Thread(target=accept, daemon=True).start()
        upstream = {
            "kind": "openai_api",
            "model": "m",
            "base_url": f"http://127.0.0.1:{silent.getsockname()[1]}/v1",
            "prefill": "continue_flag",
        }
        child = serve(
            write(upstreams={"s": upstream}, routes={"s": {"strategy": "student", "student": "s"}}),
        )
        assert reached.wait(20)
        child.send_signal(signal.SIGTERM)
        assert "stopped before it was ready" in ended(child)


@pytest.mark.parametrize(
    ("sections", "options", "said"),
    [
        ({}, ["--host", "0.0.0.0"], "asks for no key, so it listens on loopback only, not on 0.0.0.0"),  # noqa: S104 - that is what is tried
        ({"server": {"host": "::"}}, [], "server: {keys_env: GKT_KEYS}"),
        ({"server": {"keys_env": "GKT_TEST_KEYS"}}, [], "GKT_TEST_KEYS is not set"),
        ({"servr": {}}, [], "did you mean 'server'?"),
        ({"ledger": {"url": "mysql://x/y"}}, [], "mysql"),
        ({"routes": {"t": {"strategy": "teacher", "teacher": "nobody"}}}, [], "'nobody' is not among the upstreams"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    sections: dict[str, Any], options: list[str], said: str, write: Write, serve: Serve
) -> None:
    child = serve(write(**sections), *options)
    out, errors = child.communicate(timeout=20)
    assert child.returncode == 2
    assert out == ""
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_missing_key_without_a_stand_in_is_told_in_one_line(write: Write, serve: Serve) -> None:
    upstream = {"kind": "openai_api", "model": "m", "api_key_env": "GKT_TEST_TEACHER_KEY"}
    child = serve(write(upstreams={"t": upstream}, routes={}))
    out, errors = child.communicate(timeout=20)
    assert (child.returncode, out) == (2, "")
    assert errors.splitlines() == [
        "gkt: upstream 't': t: the environment variable GKT_TEST_TEACHER_KEY is not set",
    ]


def test_a_port_that_is_taken_is_told_in_one_line(write: Write, serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = serve(write(), "--port", str(port))
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 2
    assert errors == f"gkt: cannot listen on 127.0.0.1, port {port}: Address already in use; try another --port\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    hosting.check_exposure(Config.parse({"server": {"host": host}}))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::", "example.org", ""])  # noqa: S104 - that is what is tried
def test_everything_else_does(host: str) -> None:
    with pytest.raises(ConfigError, match="keys_env"):
        hosting.check_exposure(Config.parse({"server": {"host": host}}))
    hosting.check_exposure(Config.parse({"server": {"host": host, "keys_env": "K"}}))


def test_keys_are_asked_for(write: Write, serve: Serve) -> None:
    child = serve(write(server={"keys_env": "GKT_TEST_KEYS"}), GKT_TEST_KEYS="one,two")
    _, port = ready(child)
    assert post(port, "gkt").getresponse().status == 401
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/v1/models", headers={"authorization": "Bearer two"})
    assert connection.getresponse().status == 200
