"""`gkt ask`: the answer, who wrote it, and its receipt; always over HTTP, through the SDK as it is."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Write = Callable[..., Path]
Run = Callable[..., Result]


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_an_answer_with_its_receipt(stream: str, write: Write, run: Run, tmp_path: Path) -> None:
    result = run("ask", "Why is the sky blue?", stream, "--config", write())
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "teacher's words (stand-in, priced as if it were big-teacher)" in out
    assert "student's words (small)" in out
    assert "scattered the most by air." in out
    assert "the teacher alone $" in out
    assert "why: route gkt: cut-off; break-even: guidance of 3 tokens costs" in " ".join(out.split())
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        ((spent, streamed, ended),) = database.execute(
            "SELECT spent, stream, (SELECT min(ended IS NOT NULL) FROM runs) FROM entries"
        )
    assert f"spent ${spent / 1e9:.9f}".rstrip("0") in out
    assert bool(streamed) == (stream == "--stream")
    assert ended == 1  # the gateway of the question was closed in order


def test_settings_and_overrides_reach_the_gateway(write: Write, run: Run) -> None:
    words = ["--strategy", "student", "--max-tokens", "2", "-n", "2", "--temperature", "0.5", "--system", "Be brief."]
    result = run("ask", "Why?", "--no-stream", *words, "--config", write())
    assert result.exit_code == 0, result.output
    assert result.stdout.count("student's words (small)") == 2
    assert "most" not in result.stdout
    assert "asked for: strategy" in result.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--teacher", "nobody"], 1, "gkt.teacher: 'nobody' is not allowed"),
        (["--model", "gkt-9"], 1, "`gkt-9` does not exist"),
        (["--url", "http://127.0.0.1:9"], 1, "no gateway answers at http://127.0.0.1:9"),
        (["--key-env", "GKT_TEST_KEYS"], 2, "GKT_TEST_KEYS is not set"),
        (["--strategy", "guess"], 2, "guess"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(words: list[str], status: int, said: str, write: Write, run: Run) -> None:
    result = run("ask", "Why?", *words, "--config", write())
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_gateway_with_keys_is_asked_with_one_of_them(write: Write, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKT_TEST_KEYS", "first,second")
    result = run("ask", "Why?", "--config", write(server={"keys_env": "GKT_TEST_KEYS", "host": "0.0.0.0"}))  # noqa: S104 - that is what is tried
    assert result.exit_code == 0, result.output


def test_a_running_gateway(
    write: Write, run: Run, serve: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(server={"keys_env": "GKT_TEST_KEYS", "admin_key_env": "GKT_TEST_ADMIN"})
    child = serve(config, GKT_TEST_KEYS="one,two", GKT_TEST_ADMIN="three")
    assert child.stdout is not None
    url = next(line for line in child.stdout if line.startswith("gkt is ready on ")).split()[-1]
    assert run("ask", "Why?", "--url", url).exit_code == 1
    monkeypatch.setenv("MINE", "two")
    # A proxy of the environment is no way to this very machine.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert "student's words (small)" in run("ask", "Why?", "--url", url, "--key-env", "MINE").stdout
    refused = run("savings", "--url", f"{url}/v1", "--key-env", "MINE")
    assert refused.exit_code == 1
    assert "admin key" in refused.output
    monkeypatch.setenv("ADMIN", "three")
    savings = run("savings", "--url", f"{url}/v1", "--key-env", "ADMIN")
    assert "requests" in savings.stdout
    assert "1 ok" in savings.stdout
