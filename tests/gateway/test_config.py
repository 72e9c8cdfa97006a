"""The configuration: the example says what the defaults do; faults are named with what was meant."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config
from gateway.errors import ConfigError

BOTH = {"teacher": "teacher", "student": "student"}
API = {"kind": "openai_api", "model": "m"}
EXAMPLE = Path(__file__).parents[2] / "config.yaml"


def test_the_commented_example_says_what_the_defaults_do() -> None:
    assert Config.load(EXAMPLE) == Config()


def test_no_file_at_all_is_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config.load(environ={}) == Config()


def test_a_file_is_found_by_name_then_environment_then_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("server: {port: 1}")
    (tmp_path / "other.yaml").write_text("server: {port: 2}")
    assert Config.load(environ={}).server.port == 1
    assert Config.load(environ={"GKT_CONFIG": str(tmp_path / "other.yaml")}).server.port == 2
    assert Config.load(tmp_path / "other.yaml", environ={}).server.port == 2


def passing(teacher: dict[str, Any] | None = None, **route: Any) -> dict[str, Any]:
    """A configuration whose only route passes callers' keys on; without a teacher, the default upstreams."""
    upstreams = {} if teacher is None else {"upstreams": {"teacher": teacher, "student": {"kind": "scripted"}}}
    return {"routes": {"r": {"teacher": "teacher", "student": "student", "pass_key": True, **route}}, **upstreams}


def test_which_upstreams_are_given_callers_keys() -> None:
    assert Config().passing == frozenset()
    assert Config.parse(passing({"kind": "openai_api", "model": "m"})).passing == {"teacher"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"servr": {}}, "unknown key 'servr'; did you mean 'server'?"),
        ({"server": {"prot": 1}}, "server: unknown key 'prot'; did you mean 'port'?"),
        ({"routes": {"a": {"strategyy": "x"}}}, "routes.a: unknown key 'strategyy'; did you mean 'strategy'?"),
        (
            {"upstreams": {"t": {"kind": "openai_api", "model": "m", "api_key_env": "sk-123-abc"}}},
            "is the NAME of an env",
        ),
        ({"routes": {"a": {"strategy": "cut-off", "teacher": "teacher"}}}, "needs a student"),
        (
            {"routes": {"a": {"strategy": "teacher", "teacher": "teacher", "shadow": 0.1}}},
            "route 'a': shadow compares a strategy with the teacher alone, and this strategy is the teacher alone",
        ),
        ({"routes": {"a": {"strategy": "teacher", "teacher": "teacher", "holdout": 0.1}}}, "'a': holdout compares"),
        ({"routes": {"a": {"strategy": "student", "student": "student", "holdout": 0.1}}}, "holdout needs a teacher"),
        ({"routes": {"a": {"strategy": "student", "student": "student", "shadow": 0.1}}}, "shadow needs a teacher"),
        ({"routes": {"a": {**BOTH, "shadow": 1.1}}}, "routes.a.shadow"),
        ({"routes": {"a": {**BOTH, "holdout": -0.1}}}, "routes.a.holdout"),
        ({"routes": {"a": {"strategy": "teacher", "teacher": "tutor"}}}, "'tutor' is not among the upstreams"),
        (
            {"routes": {"a": {"strategy": "hint", "teacher": "teacher", "student": "student", "placement": "prefix"}}},
            "hint",
        ),
        (
            {"routes": {"a": {"strategy": "student", "student": "student", "overrides": ["sampling"]}}},
            "unknown override",
        ),
        ({"prices": {"m": {"inptu": 1}}}, "did you mean 'input'?"),
        ({"prices": {"m": {"input": -1, "output": 1}}}, "zero or more"),
        ({"upstreams": {"t": {"kind": "openai_api", "model": "m", "stand_in": "t"}}, "routes": {}}, "stand_in"),
        ({"server": {"port": 70000}}, "server.port"),
        ({"unguidable": {"logprobs": "student"}}, "unguidable.logprobs"),
        (passing(), "pass_key needs a teacher without stand_in"),
        (passing({"kind": "scripted"}), "pass_key needs a teacher of kind openai_api"),
        (passing({"kind": "openai_api", "model": "m"}, student="teacher"), "a student that is not the teacher"),
        ({"routes": {"a": {**BOTH, "strategy": "cascade"}}}, "strategy 'cascade' needs a policy"),
        ({"routes": {"a": {**BOTH, "target": {"retention": 0.9}}}}, "students and target are of a cascade's policy"),
        ({"routes": {"a": {"strategy": "cascade", "policy": "p"}}}, "a cascade needs a teacher"),
        ({"routes": {"a": {**BOTH, "policy": "p", "students": {"x": "y"}}}}, "students.x: 'y' is not among the upstr"),
        ({"routes": {"a": {**BOTH, "policy": "p", "target": {"retention": 1.1}}}}, "routes.a.target.retention"),
        ([1], "must be a mapping"),
    ],
)
def test_faults_are_named(data: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse(data)
    assert said in str(caught.value)
    assert "sk-123" not in str(caught.value)


PLANTED = "pLaNtEd-0123"


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"ledger": {"url": f"postgresql+psycopg://u:{PLANTED}@db/gkt"}}, "PGPASSWORD"),
        ({"ledger": {"url": f"postgresql+psycopg://u@db/gkt?password={PLANTED}"}}, "PGPASSWORD"),
        ({"ledger": {"url": f"postgresql://[{PLANTED}@db/gkt"}}, "not the URL of a database"),
        ({"upstreams": {"t": {**API, "base_url": f"https://u:{PLANTED}@host/v1"}}}, "api_key_env"),
        ({"upstreams": {"t": {**API, "extra_headers": {"Authorization": f"Bearer {PLANTED}"}}}}, "api_key_env"),
        ({"upstreams": {"t": {**API, "extra_headers": {"api-key": PLANTED}}}}, "api_key_env"),
        ({"upstreams": {"t": {**API, "api_key_env": PLANTED}}}, "t.api_key_env: is the NAME of"),
        ({"server": {"keys_env": f"sk-{PLANTED}"}}, "server.keys_env: is the NAME of"),
        ({"server": {"admin_key_env": f"sk-{PLANTED}"}}, "server.admin_key_env: is the NAME of"),
        ({"shared": {"redis_url_env": f"redis://:{PLANTED}@h"}}, "shared.redis_url_env: is the NAME of"),
        (
            {"upstreams": {"t": {"kind": PLANTED}}},
            "kind must be one of 'openai_api', 'litellm_api', 'llamacpp', 'managed', 'transformers', "
            "'replay', 'scripted'",
        ),
        ({"prices": {"m": PLANTED}}, "expected a mapping such as"),
        ({"prices": {"m": [[PLANTED]]}}, "expected a mapping such as"),
        ({"prices": {"m": {"input": PLANTED}}}, "input must be a number of dollars"),
        ({"prices": {"m": {"input": [PLANTED]}}}, "input must be a number of dollars"),
        ({"prices": {"m": {"input": 1, "from": PLANTED}}}, "from must be a day"),
        ({"prices": {"m": {"input": 1, "tier": [PLANTED]}}}, "tier must be a name"),
        ({"routes": {"r": {**BOTH, "overrides": [PLANTED]}}}, "unknown override; known are"),
        ({"limits": {"budgets": [{"usd": PLANTED, "per": "day"}]}}, "expected an amount of dollars"),
        ({"limits": {"budgets": [{"usd": 1, "per": PLANTED}]}}, "limits.budgets.0.per"),
        ({"server": {"port": PLANTED}}, "server.port"),
        ({"unguidable": {"tools": PLANTED}}, "unguidable.tools"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(data: Any, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse({"routes": {}, **data})
    assert remedy in str(caught.value)
    assert PLANTED not in str(caught.value)


def test_what_is_no_secret_is_taken() -> None:
    headers = {"x-team": "blue", "Connection": "close", "x-max-tokens": "3"}
    config = Config.parse(
        {
            "routes": {},
            "ledger": {"url": "postgresql+psycopg://gkt@db/gkt?sslmode=require"},
            "upstreams": {"t": {**API, "extra_headers": headers, "base_url": "http://gpu-1:8000/v1/@x"}},
        }
    )
    assert getattr(config.upstreams["t"], "extra_headers") == headers  # noqa: B009 - one member of a union


@pytest.mark.parametrize(
    "text",
    [
        f'ledger: {{url: "postgresql://u:{PLANTED}@db/gkt"}}: x',
        f"ledger: {{url: 'postgresql://u:{PLANTED}@db/gkt",
        f"ledger: *{PLANTED}",
        f"ledger: !{PLANTED} x",
        f"ledger: {PLANTED}\n\tx: 1",
        f"a: {PLANTED}\x00",
        f"a: {PLANTED}\nb: 2026-02-30",
        f"a: !!int {PLANTED}",
        "a: !!int ''",
        f"a: !!bool {PLANTED}",
        f"a: !!timestamp {PLANTED}",
        "a: 2026-01-01T00:00:00+99:00",
        f"{PLANTED}: " + "[" * 3000,
    ],
)
def test_a_text_that_is_no_yaml_is_not_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not YAML") as caught:
        Config.load(file)
    said = str(caught.value)
    assert PLANTED not in said
    assert caught.value.__cause__ is None
    assert "line" in said or "characters" in said or "a value" in said or "too deep" in said
    assert caught.value.__suppress_context__, "a log with the traceback would show the text"


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse({"server": {"port": -1}, "ledger": {"ulr": ""}})
    assert "server.port" in str(caught.value)
    assert "did you mean 'url'?" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "\ta: b", "- 1"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        Config.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Config.load(tmp_path / "none.yaml")


def test_file_names_inside_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    recorded = "upstreams: {r: {kind: replay, model: m, file: r.jsonl}}"
    file.write_text(f"ledger: {{spool: s}}\nprompts: {{brief: p.md}}\n{recorded}\nroutes: {{}}")
    config = Config.load(file)
    assert config.ledger.spool == tmp_path / "s"
    assert config.prompts["brief"] == tmp_path / "p.md"
    assert getattr(config.upstreams["r"], "file") == tmp_path / "r.jsonl"  # noqa: B009 - one member of a union
    file.write_text("upstreams: {b: {kind: llamacpp, base: true, gguf: b.gguf, exemplars: e.jsonl}}\nroutes: {}")
    base = Config.load(file).upstreams["b"]
    assert [getattr(base, name) for name in ("gguf", "exemplars")] == [tmp_path / "b.gguf", tmp_path / "e.jsonl"]


def test_single_rules_replace_the_defaults() -> None:
    config = Config.parse({"unguidable": {"json": "context"}})
    assert config.unguidable["json"] == "context"
    assert config.unguidable["tools"] == "teacher"


LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_data_breaks_the_reader(data: Any) -> None:
    with contextlib.suppress(ConfigError):
        Config.parse(data)
