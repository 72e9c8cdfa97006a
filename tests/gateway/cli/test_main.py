"""The program as a whole: version, effective configuration, and the page of its help texts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from typer.testing import Result

from docs.commands import markdown
from gateway.config import Config

Write = Callable[..., Path]
Run = Callable[..., Result]

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_page_of_the_documentation_says_what_help_says() -> None:
    assert PAGE.read_text() == markdown(), "run: make docs"


def test_every_command_is_on_the_page(run: Run) -> None:
    names = re.findall(r"^  (\w+)  ", run("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert {"serve", "ask", "demo", "doctor", "savings", "prices", "config", "eval", "calibrate"} <= set(names)
    assert all(f"## gkt {name}\n" in markdown() for name in names)


def test_python_m_is_the_program() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"gkt \d+\.\d+\.\d+\n", told.stdout)


def test_help_loads_neither_the_sdk_nor_the_server_nor_the_ledger() -> None:
    heavy = {"openai", "fastapi", "genai_prices", "sqlalchemy", "aiohttp", "jinja2", "uvicorn", "tiktoken"}
    code = f"import sys, evals.cli; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_the_effective_configuration_is_one(write: Write, run: Run) -> None:
    file = write()
    shown = run("config", "--config", file).stdout
    assert Config.parse(yaml.safe_load(shown)) == Config.load(file)


def test_a_password_is_refused_and_not_shown(write: Write, run: Run) -> None:
    result = run("config", "--config", write(ledger={"url": "postgresql+psycopg://me:secret@db/gkt"}))
    assert result.exit_code == 2
    assert "secret" not in result.output
    assert "PGPASSWORD" in result.output
