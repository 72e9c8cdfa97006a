"""What models can do, by name: the table is whole, agrees with litellm's map, and gives way to the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from pricing.litellm_map import MAP, installed
from students.bodies import Bodies
from students.capabilities import UNKNOWN, find, rows, settings, thinks_always
from students.engine import Prompt, Sampling
from students.spec import LiteLLMSpec, OpenAISpec

ASK = ({"role": "user", "content": "hi"},)
OPENAI = "https://api.openai.com/v1"
ELSEWHERE = "http://127.0.0.1:1/v1"


def body(model: str, prompt: Prompt | None = None, **spec: Any) -> dict[str, Any]:
    asked = prompt or Prompt(ASK, 40, sampling=Sampling(temperature=0.0, stop=("x",)))
    written = orjson.loads(Bodies(OpenAISpec(model=model, **spec)).chat(asked))
    return {name: written[name] for name in written if name not in ("model", "messages", "stream", "stream_options")}


@pytest.mark.parametrize(
    ("model", "reasoning", "off"),
    [
        ("gpt-6-sol", "optional", {"reasoning_effort": "none"}),
        ("gpt-6.1-terra", "optional", {"reasoning_effort": "none"}),
        ("gpt-6.1-sol", "always", {}),
        ("gpt-6-astra-2026-10-01", "always", {}),
        ("gpt-5.4-mini", "optional", {"reasoning_effort": "none"}),
        ("gpt-5.4-pro", "always", {}),
        ("gpt-5-mini", "optional", {"reasoning_effort": "minimal"}),
        ("o4-mini", "always", {}),
        ("ft:gpt-4o-mini-2024-07-18", "never", {}),
        ("anthropic/claude-sonnet-4-5", "optional", {}),
        ("claude-sonnet-5", "optional", {"thinking": {"type": "disabled"}}),
        ("bedrock/us.anthropic.claude-opus-5-5-v1:0", "always", {}),
        ("vertex_ai/claude-haiku-5-5@20261001", "optional", {"thinking": {"type": "disabled"}}),
        ("gemini/gemini-3.5-flash", "always", {}),
        ("azure/gpt-6-sol", "optional", {"reasoning_effort": "none"}),
        ("deepseek-v4-pro", None, {}),
        ("llama-3.1-8b", None, {}),
    ],
)
def test_a_name_finds_its_row(model: str, reasoning: str | None, off: dict[str, Any]) -> None:
    found = find(model)
    assert (found.reasoning, found.off) == (reasoning, off)


def test_what_no_row_fits_is_not_known() -> None:
    assert find("llama-3.1-8b") is UNKNOWN
    assert not UNKNOWN.known
    assert {UNKNOWN.limit_field, UNKNOWN.stop, UNKNOWN.prefill, UNKNOWN.images, UNKNOWN.logprobs} == {None}


def test_every_row_is_reached_and_has_a_source() -> None:
    for row in rows():
        assert row.source
        assert not row.off or row.reasoning == "optional", "only what is optional is switched off"
        for pattern in row.models:
            name = pattern.replace("*", "").replace("[1-6]", "4").replace("[134]", "3").replace("[78]", "8")
            name = name.replace("[5-9]", "6").replace("[34]", "3").replace("[ns]", "n").replace("--", "-x-")
            assert find(name.rstrip("-")) is row or find(name + "x") is row, f"{pattern} is never reached"


def test_where_litellms_map_says_something_too_it_says_the_same() -> None:
    package = installed()
    if package is None:
        pytest.skip("litellm is not installed")
    known = json.loads(Path(str(package.locate_file(MAP))).read_bytes())
    compared = 0
    for name, row in known.items():
        if row.get("mode") != "chat" or row.get("litellm_provider") not in ("openai", "anthropic", "gemini"):
            continue
        found = find(name)
        said = {
            "prefill": row.get("supports_assistant_prefill"),
            "images": row.get("supports_vision") or None,
            "sampling": {False: "never", None: None}.get(row.get("supports_sampling_params")),
            "reasoning": "always" if row.get("thinking_always_on") else None,
        }
        for what, value in said.items():
            ours = getattr(found, what)
            if value is not None and ours is not None:
                assert ours == value, f"{name}: {what}"
                compared += 1
        if row.get("supports_none_reasoning_effort") and found.off:
            assert found.off == {"reasoning_effort": "none"}, name
            compared += 1
        if row.get("supports_none_reasoning_effort") is False and row.get("supports_minimal_reasoning_effort") is False:
            assert found.reasoning in ("always", None), name
    assert compared > 100


def test_what_a_model_takes_is_what_it_is_sent() -> None:
    assert body("gpt-6-sol") == {
        "max_completion_tokens": 40, "reasoning_effort": "none", "temperature": 0.0, "stop": ["x"]
    }  # fmt: skip
    assert body("gpt-5-mini") == {"max_completion_tokens": 40, "reasoning_effort": "minimal", "stop": ["x"]}
    assert body("o3") == {"max_completion_tokens": 40}
    assert body("gpt-4o") == {"max_completion_tokens": 40, "temperature": 0.0, "stop": ["x"]}


def test_the_limit_of_an_unknown_model_is_spelled_as_its_server_knows_it() -> None:
    assert body("new", base_url=OPENAI)["max_completion_tokens"] == 40
    assert body("new", base_url=ELSEWHERE)["max_tokens"] == 40


def test_the_configuration_comes_before_the_table() -> None:
    assert body("gpt-6-sol", limit_field="max_tokens", reasoning_effort="low", stop=False) == {
        "max_tokens": 40, "reasoning_effort": "low"
    }  # fmt: skip
    assert "reasoning_effort" not in body("gpt-6-sol", reasoning_effort="default")
    assert body("o3", sampling=True, stop=True)["temperature"] == 0.0
    assert settings(OpenAISpec(model="gpt-6-sol", images=False), "gpt-6-sol").images is False


def test_a_caller_who_wants_reasoning_gets_it_and_no_sampling_that_it_excludes() -> None:
    asked = Prompt(ASK, 40, sampling=Sampling(temperature=0.0), options={"reasoning_effort": "high"})
    assert body("gpt-6-sol", asked) == {"max_completion_tokens": 40, "reasoning_effort": "high"}
    assert body("claude-opus-5", asked) == {"max_tokens": 40, "reasoning_effort": "high"}
    none = Prompt(ASK, 40, sampling=Sampling(temperature=0.0), options={"reasoning_effort": "none"})
    assert body("claude-sonnet-4-5", none)["temperature"] == 0.0


def test_the_model_of_the_call_decides_not_that_of_the_upstream() -> None:
    asked = Prompt(ASK, 40, sampling=Sampling(temperature=0.0), model="o4-mini")
    assert body("gpt-4o", asked) == {"max_completion_tokens": 40}


def test_a_model_thinks_always_unless_the_configuration_knows_better() -> None:
    assert thinks_always(OpenAISpec(model="x"), "gpt-6-astra")
    assert not thinks_always(OpenAISpec(model="x", reasoning_effort="none"), "gpt-6-astra")
    assert not thinks_always(OpenAISpec(model="x"), "gpt-6-sol")
    assert not thinks_always(OpenAISpec(model="x"), "unheard-of")
    assert thinks_always(LiteLLMSpec(model="anthropic/claude-sonnet-5-5"), "anthropic/claude-sonnet-5-5")
