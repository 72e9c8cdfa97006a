"""`gkt doctor`: everything is looked at, and no fault hides another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from tests.gateway.shared.server import redis_server

Write = Callable[..., Path]
Run = Callable[..., Result]


def said(result: Result) -> str:
    return " ".join(result.stdout.split())


def test_all_is_well_with_a_stand_in(write: Write, run: Run, tmp_path: Path) -> None:
    result = run("doctor", "--config", write())
    assert result.exit_code == 0, result.stdout
    text = said(result)
    assert "student is its stand-in, priced as if it were big-teacher" in text
    assert "small answers" in text
    assert "ok routes gkt, teacher, student" in text
    assert "price of big-teacher input $2, output $10" in text
    assert "does not exist yet and can be made" in text
    assert "Nothing would fail" in text
    assert not (tmp_path / "ledger.db").exists()


def test_prices_are_those_that_the_gateway_would_book(write: Write, run: Run) -> None:
    """A model of your own costs nothing that somebody else asks for one of the same name."""
    own = {"kind": "openai_api", "model": "gpt-4o", "base_url": "http://127.0.0.1:9/v1"}
    upstreams = {
        "own": own,
        "asked": {**own, "provider": "openai"},
        "mine": {"kind": "scripted", "model": "gpt-4o-mini"},
    }
    routes = {"a": {"strategy": "teacher", "teacher": "own", "teacher_model": "gpt-4.1"}}
    text = said(run("doctor", "--config", write(upstreams=upstreams, routes=routes, prices={})))
    for about in ("gpt-4o (self)", "gpt-4o-mini", "gpt-4.1"):
        assert f"warn price of {about} no source has a price" in text
    assert "ok price of gpt-4o (openai) input $" in text


def test_a_cascade_needs_its_policy_and_all_of_its_students(write: Write, run: Run, tmp_path: Path) -> None:
    rung = {"student": "small", "gain": {"one": 1.0}, "cost": {"one": 1.0}}
    policy = {"name": "sums", "teacher": {"model": "big"}, "worth": 0.1, "prefer": ["small"], "rungs": [rung]}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(policy), "utf-8")
    upstreams: dict[str, Any] = {name: {"kind": "scripted", "model": name} for name in ("big", "small")}
    upstreams["gone"] = {"kind": "replay", "model": "gpt-4o", "file": str(tmp_path / "none.jsonl")}
    base = {"strategy": "cascade", "teacher": "big", "policy": str(tmp_path / "sums.yaml")}
    routes = {
        "good": base,
        "lost": {**base, "policy": str(tmp_path / "none.yaml")},
        "down": {**base, "students": {"small": "gone"}},
    }
    text = said(run("doctor", "--config", write(upstreams=upstreams, routes=routes)))
    assert "ok routes good" in text
    assert "fail route lost the policy none.yaml cannot be read: No such file or directory" in text
    assert "fail route down needs gone, which would fail" in text


def test_every_fault_is_named_with_its_mend(
    write: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstreams: dict[str, Any] = {
        "gone": {"kind": "openai_api", "model": "nobody-prices-me", "base_url": "http://127.0.0.1:9/v1"},
        "keyless": {"kind": "openai_api", "model": "gpt-6-sol", "api_key_env": "GKT_TEST_TEACHER_KEY"},
        "lost": {"kind": "replay", "model": "gpt-4o", "file": str(tmp_path / "none.jsonl")},
        "broken": {"kind": "llamacpp", "model": "small", "gguf": str(tmp_path / "none.gguf"), "start_seconds": 20},
        "nowhere": {"kind": "transformers", "model": "small", "path": str(tmp_path / "none")},
        "fine": {"kind": "scripted", "model": "small"},
        "half": {"kind": "pool", "model": "small", "members": ["fine", "broken", "nowhere"]},
        "dead": {"kind": "pool", "model": "small", "members": ["broken"]},
    }
    routes: dict[str, Any] = {
        "a": {"strategy": "teacher", "teacher": "gone"},
        "b": {"strategy": "cut-off", "teacher": "fine", "student": "keyless"},
        "c": {"strategy": "cut-off", "teacher": "fine", "student": "fine"},
        "d": {"strategy": "cut-off", "teacher": "fine", "student": "fine", "guidance_prompt": "nonesuch"},
        "e": {"strategy": "cut-off", "teacher": "fine", "student": "dead"},
        "f": {"strategy": "cut-off", "teacher": "fine", "student": "half"},
    }
    file = write(
        server={"keys_env": "GKT_TEST_KEYS"},
        ledger={"url": f"sqlite:///{tmp_path}/gkt.yaml/ledger.db"},
        upstreams=upstreams,
        routes=routes,
        prompts={"mine": "none.md"},
    )
    result = run("doctor", "--config", file)
    assert result.exit_code == 1
    text = said(result)
    for words in (
        "fail server server.keys_env: the environment variable GKT_TEST_KEYS is not set",
        "fail upstream gone nothing listens at http://127.0.0.1:9/v1 (Unavailable",
        "is a server running at http://127.0.0.1:9/v1?",
        "fail upstream keyless the environment variable GKT_TEST_TEACHER_KEY is not set",
        "export GKT_TEST_TEACHER_KEY=",
        "fail upstream lost",
        "fail upstream broken",
        "none.gguf a GGUF file?",
        "fail upstream nowhere Unavailable: the model was not loaded",
        "none a folder with config.json, a GGUF file, or a name on the hub that can be reached?",
        "ok upstream fine",
        "ok upstream half small answers",
        "warn upstream half goes without broken, nowhere",
        "fail upstream dead none of its members works",
        "fail route e needs dead, which would fail",
        "fail prompts",
        "fail route a needs gone",
        "fail route b needs keyless",
        "fail route d route 'd': guidance_prompt 'nonesuch'",
        "ok routes c, f",
        "warn price of nobody-prices-me",
        "prices: {nobody-prices-me: {input: .., output: ..}}",
        "fail ledger",
    ):
        assert words in text, (words, result.stdout)


def test_a_student_that_cannot_continue_is_named(write: Write, run: Run, tmp_path: Path) -> None:
    recording = tmp_path / "r.jsonl"
    recording.write_text('{"prompt": "p", "response": "r"}\n')
    upstreams = {
        "teacher": {"kind": "scripted", "model": "small"},
        "student": {"kind": "replay", "model": "small", "file": str(recording)},
    }
    routes = {
        "prefix": {"strategy": "cut-off", "teacher": "teacher", "student": "student"},
        "context": {"strategy": "cut-off", "teacher": "teacher", "student": "student", "placement": "context"},
    }
    result = run("doctor", "--config", write(upstreams=upstreams, routes=routes))
    assert result.exit_code == 1
    assert "fail route prefix" in said(result)
    assert "placement: context" in said(result)
    assert "ok routes context" in said(result)


def test_exposure_without_keys_would_fail(write: Write, run: Run) -> None:
    result = run("doctor", "--config", write(server={"host": "0.0.0.0", "port": 0}))  # noqa: S104 - that is what is tried
    assert result.exit_code == 1
    assert "listens on loopback only" in said(result)


def test_a_configuration_that_cannot_be_read_is_a_finding(write: Write, run: Run) -> None:
    result = run("doctor", "--config", write(server={"prot": 1}))
    assert result.exit_code == 1
    assert "fail configuration" in said(result)
    assert "did you mean 'port'?" in said(result)


def test_no_key_is_ever_shown(write: Write, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKT_TEST_TEACHER_KEY", "sk-very-secret")
    monkeypatch.setenv("GKT_TEST_KEYS", "sk-caller")
    result = run("doctor", "--config", write(server={"keys_env": "GKT_TEST_KEYS"}))
    assert result.exit_code == 1  # nobody listens where the teacher should be
    assert "sk-" not in result.output


def test_guidance_that_each_process_keeps_for_itself_is_noted(write: Write, run: Run) -> None:
    routes: dict[str, dict[str, Any]] = {
        name: {"teacher": "teacher", "student": "student"} for name in ("plain", "keeps", "keeps-too")
    }
    for name in ("keeps", "keeps-too"):
        routes[name]["guidance_cache"] = 60
    told = "note shared without Redis each process keeps guidance for itself: keeps, keeps-too"
    assert told in said(run("doctor", "--config", write(routes=routes)))
    assert "each process" not in said(run("doctor", "--config", write(routes={"plain": routes["plain"]})))


def test_a_shared_redis_is_looked_at(write: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**shared: Any) -> tuple[int, str]:
        result = run("doctor", "--config", write(shared={"redis_url_env": "GKT_TEST_REDIS", **shared}))
        return result.exit_code, said(result)

    monkeypatch.delenv("GKT_TEST_REDIS", raising=False)
    code, text = told()
    assert code == 1
    assert "fail shared shared.redis_url_env: the environment variable GKT_TEST_REDIS is not set" in text
    monkeypatch.setenv("GKT_TEST_REDIS", "http://user:secret-word@localhost")
    code, text = told()
    assert code == 1
    assert "fail shared the Redis URL is none" in text
    assert "secret-word" not in text
    monkeypatch.setenv("GKT_TEST_REDIS", "redis://user:secret-word@localhost/0?no_such_option=1")
    code, text = told()
    assert code == 1
    assert "fail shared the Redis URL is none" in text
    assert "secret-word" not in text
    monkeypatch.setenv("GKT_TEST_REDIS", "redis://127.0.0.1:9/0")
    assert told()[0] == 1
    code, text = told(when_away="local")
    assert code == 0
    assert "warn shared Redis cannot be reached" in text
    with redis_server(tmp_path) as server:
        monkeypatch.setenv("GKT_TEST_REDIS", server.url)
        assert "ok shared Redis is there, and keeps what it is told" in told()[1]
        assert "ok shared" in told(prefix="mine")[1]
        with server.client() as client:
            assert {"gkt:probe", "mine:probe"} <= set(map(str, client.scan_iter()))
            client.config_set("appendonly", "no")
            client.config_set("maxmemory", "50mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        code, text = told()
        assert code == 0
        assert "warn shared Redis may forget what was spent: appendonly no, maxmemory-policy allkeys-lru" in text


def test_a_pool_can_do_what_its_working_members_can(write: Write, run: Run) -> None:
    upstreams = {
        "a": {"kind": "scripted", "model": "m"},
        "b": {"kind": "openai_api", "model": "m", "base_url": "http://127.0.0.1:9/v1", "prefill": "continue_flag"},
        "some": {"kind": "pool", "model": "m", "members": ["a", "b"]},
        "none": {"kind": "pool", "model": "m", "members": ["b"]},
    }
    routes = {"r": {"strategy": "student", "student": "some"}, "s": {"strategy": "student", "student": "none"}}
    result = run("doctor", "--config", write(upstreams=upstreams, routes=routes))
    text = said(result)
    assert result.exit_code == 1
    assert "ok upstream some m answers" in text
    assert "can do: continue, samples" in text
    assert "warn upstream some goes without b" in text
    assert "fail upstream none none of its members works" in text
    assert "fail route s needs none" in text
