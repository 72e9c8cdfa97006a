"""Every parameter of the SDK has a fate, the fate is what happens, and the page in the docs says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types.chat import completion_create_params as sdk

from gateway.api.params import MEANING, PARAMETERS, markdown
from gateway.api.wire import parse
from gateway.errors import BadRequest, Unsupported

PAGE = Path(__file__).resolve().parents[3] / "docs" / "parameters.md"

SAMPLES: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "u",
    "user": "u",
    "store": True,
    "moderation": {"model": "omni"},
    "n_predict": 300,
    "num_predict": 300,
    "max_new_tokens": 300,
    "max_length": 300,
    "best_of": 9,
    "n_cmpl": 9,
    "temperature": 0.5,
    "top_p": 0.5,
    "seed": 7,
    "presence_penalty": -1,
    "frequency_penalty": 1.5,
    "logit_bias": {"42": -100},
    "stop": ["a", "b"],
    "logprobs": True,
    "top_logprobs": 3,
}
COMPANIONS: dict[str, dict[str, Any]] = {
    "tool_choice": {"tools": SAMPLES["tools"]},
    "parallel_tool_calls": {"tools": SAMPLES["tools"]},
    "function_call": {"functions": SAMPLES["functions"]},
    "top_logprobs": {"logprobs": True},
}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "gkt", "messages": [{"role": "user", "content": "hi"}], **fields})


def test_every_parameter_of_the_sdk_has_a_fate() -> None:
    theirs = {
        *sdk.CompletionCreateParamsNonStreaming.__annotations__,
        *sdk.CompletionCreateParamsStreaming.__annotations__,
        *sdk.CompletionCreateParamsBase.__annotations__,
    }
    assert len(theirs) > 30
    assert theirs - set(PARAMETERS) == set()


def test_every_parameter_that_goes_somewhere_is_sampled_here() -> None:
    elsewhere = {name for name, parameter in PARAMETERS.items() if parameter.fate != "gateway"}
    assert set(SAMPLES) == elsewhere


@pytest.mark.parametrize("name", SAMPLES)
def test_a_parameter_goes_where_the_table_says(name: str) -> None:
    parameter, value = PARAMETERS[name], SAMPLES[name]
    request = body(**COMPANIONS.get(name, {}), **{name: value})
    if parameter.fate == "refused":
        with pytest.raises(Unsupported) as refused:
            parse(request)
        assert refused.value.param == name
        assert name in str(refused.value)
        return
    chat = parse(request)
    sampled = {key: getattr(chat.sampling, key) for key in chat.sampling.__slots__}
    places = {
        "student": sampled.get(name) == (tuple(value) if name == "stop" else value),
        "teacher": chat.teacher_options.get(name) == value,
        "writer": chat.options.get(name) == value,
    }
    assert [place for place, there in places.items() if there] == [parameter.fate]
    assert parameter.need is None or parameter.need in chat.needs


@pytest.mark.parametrize("name", [name for name, p in PARAMETERS.items() if p.idle is not None])
def test_an_idle_value_creates_no_need_and_goes_nowhere(name: str) -> None:
    idle: dict[str, Any] = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "functions": [],
        "response_format": {"type": "text"},
        "modalities": ["text"],
    }
    chat = parse(body(**{name: idle[name]}))
    assert (chat.needs, chat.options, chat.n, chat.sampling.logprobs) == (frozenset(), {}, 1, False)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name not in ("model", "messages")])
def test_null_is_the_same_as_absent(name: str) -> None:
    chat, plain = parse(body(**{name: None}), id="x"), parse(body(), id="x")
    assert (chat.options, chat.teacher_options, chat.sampling, chat.needs, chat.overrides) == (
        plain.options,
        plain.teacher_options,
        plain.sampling,
        plain.needs,
        plain.overrides,
    )


@pytest.mark.parametrize("name", [n for n, p in PARAMETERS.items() if p.fate != "refused" and n != "stop"])
def test_a_wrong_type_is_a_400_that_names_the_parameter(name: str) -> None:
    wrong: Any = [1] if name != "messages" else "hi"
    with pytest.raises(BadRequest) as refused:
        parse(body(**{name: wrong}))
    assert refused.value.param is not None
    assert refused.value.param.startswith(name)


def test_the_page_in_the_docs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m gateway.api.params > docs/parameters.md"


def test_the_page_tells_every_parameter_and_fate() -> None:
    page = markdown()
    assert all(f"| `{name}` |" in page for name in PARAMETERS)
    assert all(f"## {fate}" in page for fate in MEANING)
