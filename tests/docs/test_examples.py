"""What the pages show to be copied works: Python, configurations, commands and make targets."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.pages import ROOT
from gateway.bootstrap import seats
from gateway.cascade.policy import Policy
from gateway.chat import Caller, Comparing
from gateway.cli.child import serving
from gateway.cli.serve import READY
from gateway.config import Config
from gateway.planner import Planner
from gateway.strategies.prompts import Prompts
from students.engine import Ability
from tests.gateway.conftest import make_chat

pytestmark = pytest.mark.anyio

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])


def blocks(language: str) -> list[Any]:
    """Every fenced block of that language, named by its page and line."""
    shown = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, found.start()) + 1
            shown.append(pytest.param(found.group(1), id=f"{page.relative_to(ROOT)}:{line}"))
    assert shown
    return shown


@pytest.mark.parametrize("code", blocks("python"))
def test_python_parses(code: str) -> None:
    ast.parse(code)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_configuration_loads_and_can_be_planned(text: str) -> None:
    config = Config.parse(yaml.safe_load(text), where="example")
    variables = {spec.api_key_env: "a key" for spec in config.upstreams.values() if hasattr(spec, "api_key_env")}
    upstreams = seats(config, {name: key for name, key in variables.items() if name}, {})

    def abilities(name: str) -> Ability:
        return upstreams[name].engine.abilities

    Planner(config, abilities, Prompts().guidance).check()


def test_the_example_of_a_cascade_can_be_planned(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cascade.md").read_text("utf-8")
    files = dict(re.findall(r"^```yaml (\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    config = Config.load(tmp_path / "config.yaml")
    planner = Planner(config, lambda name: Ability.CONTINUE, Prompts().guidance)
    planner.check()
    ladder = planner.ladders["sums"]
    assert ladder.students == {"llama-8b": "llama", "gemma-9b": "gemma"}
    assert Policy.model_validate(yaml.safe_load(ladder.policy.dump())) == ladder.policy
    compared = Planner(Config.load(tmp_path / "meaning.yaml"), lambda name: Ability.CONTINUE, Prompts().guidance)
    compared.check()
    how = [compared.plan(make_chat(model), Caller()).comparing for model in ("support", "katas")]
    assert how == [Comparing("embedder", 0.85), Comparing(run=True)]


def test_the_readme_configuration_is_ten_lines() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert len(shown.group(1).splitlines()) <= 10


async def test_the_readme_program_gets_an_answer(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert "http://127.0.0.1:8080/v1" in shown.group(1)
    says = {"kind": "scripted", "model": "gpt-6-sol", "says": "Because blue light is scattered."}
    config = {
        "ledger": {"url": "sqlite://"},
        "upstreams": {"teacher": says, "student": {**says, "model": "mine", "says": "most."}},
        "prices": {"gpt-6-sol": {"input": 2, "output": 10}, "mine": {"input": 1, "output": 1}},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), "utf-8")
    async with serving(["--config", str(file)], tmp_path / "log") as gateway:
        program = shown.group(1).replace("http://127.0.0.1:8080", gateway.url)
        ran = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE, stderr=PIPE)
        out, errors = await ran.communicate()
    assert errors == b""
    # Five words in (the prompt) and five out at the teacher's price; measured, so that nothing is saved.
    assert out == b"Because blue light is scattered. 0.00006 0\n"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|^)make ([a-z][\w-]*)", page.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= targets, page


def test_commands_and_their_options_exist() -> None:
    known = (ROOT / "docs" / "cli.md").read_text("utf-8")
    helps = dict(re.findall(r"^## gkt (\w+)\n(.*?)(?=^## |\Z)", known, re.DOTALL | re.MULTILINE))
    for page in PAGES:
        for command, rest in re.findall(r"`gkt ([a-z]+)((?: [^`\n]+)?)`", page.read_text("utf-8")):
            if f"gkt {command}{rest} ".startswith(READY):
                continue
            assert command in helps, page
            for option in re.findall(r"--[a-z-]+", rest):
                assert option in helps[command], page
