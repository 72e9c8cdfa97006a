"""`gkt keys`: in the database of the configuration, known to a running gateway within seconds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import pytest
from typer.testing import Result

from gateway.cli import hosting
from gateway.config import Config
from gateway.errors import ConfigError

Write = Callable[..., Path]
Run = Callable[..., Result]
Serve = Callable[..., "subprocess.Popen[str]"]

SECRET = r"gkt_[\w-]{43}"


def data(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def made(run: Run, file: Path, *words: str) -> dict[str, Any]:
    return data(run("keys", "create", "laptop", *words, "--json", "--config", file))


def test_the_life_of_a_key(write: Write, run: Run) -> None:
    file = write()
    created = run("keys", "create", "Ada's laptop", "--owner", "ada", "--model", "gpt-*", "--config", file)
    assert created.exit_code == 0
    assert created.stdout.startswith("gkt_")
    assert len(created.stdout.split()) == 1, "the secret alone, for scripts"
    secret = created.stdout.strip()
    assert "not shown again" in created.stderr
    (key,) = data(run("keys", "list", "--json", "--config", file))["data"]
    assert (key["name"], key["owner"], key["models"], key["status"]) == ("Ada's laptop", "ada", ["gpt-*"], "active")
    table = run("keys", "list", "--config", file).stdout
    assert key["id"] in table
    assert f"{secret[:8]}..." in table
    assert secret not in table
    rotated = run("keys", "rotate", key["id"], "--grace", "24h", "--config", file)
    assert rotated.stdout.startswith("gkt_")
    (key,) = data(run("keys", "list", "--json", "--config", file))["data"]
    assert [each["valid_until"] is None for each in key["secrets"]] == [False, True]
    assert 86_300 < key["secrets"][0]["valid_until"] - time() <= 86_400
    assert "is revoked" in run("keys", "revoke", key["id"], "--config", file).stdout
    assert "There are no keys in use." in run("keys", "list", "--config", file).stdout
    assert "revoked" in run("keys", "list", "--all", "--config", file).stdout
    for mine in file.parent.glob("ledger.db*"):
        assert secret.encode() not in mine.read_bytes()


def test_what_a_key_is_given(write: Write, run: Run) -> None:
    file = write()
    plain = made(run, file)
    assert [plain[name] for name in ("models", "strategies", "overrides", "expires_at")] == [None] * 4
    limits = ["--tag", "a", "--tag", "b", "--strategy", "cut-off", "--strategy", "hint", "--no-overrides"]
    limited = made(run, file, *limits, "--expires", "90d")
    assert [limited[name] for name in ("tags", "strategies", "overrides")] == [["a", "b"], ["cut-off", "hint"], []]
    assert abs(limited["expires_at"] - time() - 90 * 86_400) < 60
    assert made(run, file, "--expires", "2999-01-01")["expires_at"] == 32_472_144_000.0
    budgets = made(run, file, "--budget", "10 / day", "--budget", " $500/ total ")["budgets"]
    assert budgets == [{"usd": "10", "per": "day"}, {"usd": "500", "per": "total"}]
    assert made(run, file, "--override", "guidance_tokens")["overrides"] == ["guidance_tokens"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "k", "--strategy", "cutoff"], "'cut-off'"),
        (["create", "k", "--override", "tokens"], "guidance_tokens"),
        (["create", "k", "--override", "strategy", "--no-overrides"], "--no-overrides"),
        (["create", "k", "--expires", "soon"], "--expires"),
        (["create", "k", "--expires", "2020-01-01"], "future"),
        (["create", ""], "printable"),
        (["rotate", "key_1", "--grace", "a day"], "24h"),
        (["list"], "make the first: gkt keys create NAME"),
        (["revoke", "key_1"], "make the first"),
    ],
)
def test_what_cannot_be_done_is_told(words: list[str], said: str, write: Write, run: Run, tmp_path: Path) -> None:
    result = run("keys", *words, "--config", write())
    assert result.exit_code == 2
    assert said in result.stderr
    assert not result.stdout
    if words[0] != "create":
        assert not (tmp_path / "ledger.db").exists(), "looking makes no ledger"


def test_what_is_not_there(write: Write, run: Run) -> None:
    file = write()
    made(run, file)
    for words in (["revoke", "key_1"], ["rotate", "key_1"]):
        result = run("keys", *words, "--config", file)
        assert (result.exit_code, result.stderr) == (2, "gkt: No key has the id 'key_1'.\n")


def test_keys_in_memory_are_the_gateways_own(write: Write, run: Run) -> None:
    result = run("keys", "create", "k", "--config", write(ledger={"url": "sqlite://"}))
    assert result.exit_code == 2
    assert "POST /gkt/v1/keys" in result.stderr


def status(port: int, secret: str | None) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {secret}"} if secret else {})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def soon(port: int, secret: str | None, wanted: int) -> None:
    until = monotonic() + 10
    while status(port, secret) != wanted:
        assert monotonic() < until, f"it did not come to {wanted}"
        sleep(0.05)


def port_of(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    line = next(line for line in child.stdout if line.startswith("gkt is ready on "))
    return int(line.rsplit(":", 1)[1])


def test_a_running_gateway_learns_of_it(write: Write, run: Run, serve: Serve) -> None:
    file = write()
    port = port_of(serve(file))
    assert status(port, None) == 200
    key = made(run, file)
    soon(port, key["secret"], 200)
    soon(port, None, 401)
    run("keys", "revoke", key["id"], "--config", file)
    soon(port, key["secret"], 401)
    assert status(port, None) == 401, "the last key's end opens nothing"


def test_a_stored_key_lets_the_gateway_listen_elsewhere(write: Write, run: Run, serve: Serve) -> None:
    """And only one that can be used."""
    file = write(server={"host": "0.0.0.0"})  # noqa: S104 - that is what is tried
    config = Config.load(file)
    with pytest.raises(ConfigError, match="gkt keys create NAME"):
        hosting.check_exposure(config)
    key = made(run, file)
    hosting.check_exposure(config)
    port = port_of(serve(file))
    assert (status(port, None), status(port, key["secret"])) == (401, 200)
    run("keys", "revoke", key["id"], "--config", file)
    with pytest.raises(ConfigError, match="loopback only"):
        hosting.check_exposure(config)
    _, errors = serve(file).communicate(timeout=20)
    assert "asks for no key" in errors


def test_asking_once_needs_no_key_of_ones_own(write: Write, run: Run) -> None:
    file = write()
    made(run, file)
    result = run("ask", "Why?", "--config", file)
    assert result.exit_code == 0, result.output
    found = data(run("savings", "--json", "--by", "caller", "--config", file))["data"]
    assert [row["group"] for row in found] == ["anonymous"]


def test_the_doctor_counts_them(write: Write, run: Run) -> None:
    file = write()
    made(run, file)
    assert "1 keys of callers" in run("doctor", "--config", file).stdout


def test_the_doctor_knows_of_callers_that_bring_their_own(write: Write, run: Run) -> None:
    teacher = {"kind": "openai_api", "model": "big-teacher", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NONE"}
    student = {"kind": "scripted", "model": "small", "says": "Hi."}
    both = {"teacher": "teacher", "student": "student", "placement": "context"}
    routes = {"own": {**both, "pass_key": True}, "ours": both}
    result = run("doctor", "--config", write(upstreams={"teacher": teacher, "student": student}, routes=routes))
    assert "NONE is not set" not in result.stdout
    assert "Unavailable" in result.stdout
