"""Commands: `docs/cli.md`, the help texts of all of them. `python -m docs.commands > docs/cli.md` writes it."""

from __future__ import annotations

import sys
from typing import Any

from typer.main import get_command

from evals.cli import app

WIDTH = 100
INTRODUCTION = """# The command line

The help texts of `gkt` and its commands, written by `make docs`.
"""


def markdown() -> str:
    """The page: what `gkt --help` prints, then the help of every command."""
    group = get_command(app)
    top = _context(group, "gkt")
    parts = [INTRODUCTION, _fenced(group.get_help(top))]
    for name, command in getattr(group, "commands", {}).items():
        context = _context(command, name, top)
        parts += [f"## gkt {name}\n", _fenced(command.get_help(context))]
        for word, each in getattr(command, "commands", {}).items():
            parts += [f"### gkt {name} {word}\n", _fenced(each.get_help(_context(each, word, context)))]
    return "\n".join(parts)


def _context(command: Any, name: str, parent: Any = None) -> Any:
    # Something must stand on the line, or a group answers with its help.
    words = ["-"] if parent is None else []
    return command.make_context(
        name, words, parent=parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )


def _fenced(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.rstrip().splitlines())
    return f"```text\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
