"""Prompt tests: the examples and assertions that a question brings, as tests which a program passes or not. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

MOST = 16
"""Tests of one prompt that are run; those after it are left out."""

LONGEST = 20_000
"""Characters of a prompt that are looked at, its last ones."""

_line = re.compile(r"^[ \t]{0,12}(assert\b.{1,2000})$", re.MULTILINE)
_example = re.compile(r"^[ \t]{0,12}>>> ", re.MULTILINE)

_DOCTEST = """\
import doctest as _doctest
_test = _doctest.DocTestParser().get_doctest({text!r}, dict(globals()), "prompt", None, 0)
_runner = _doctest.DocTestRunner(verbose=False)
_runner.run(_test, out=lambda said: None)
assert not _runner.failures
"""


def tests(prompt: str) -> Sequence[str]:
    """Each a piece of Python that fails in the names of a wrong program; none where the prompt brings none.

    Examples (`>>> f(2)` and what it gives) that stand together are one test, since they may build on each other; so is
    each line that asserts something.
    """
    text = prompt[-LONGEST:]
    found = [_DOCTEST.format(text=block) for block in _blocks(text)]
    found += [line for line in dict.fromkeys(each.strip() for each in _line.findall(text)) if _asserts(line)]
    return found[:MOST]


def _blocks(text: str) -> list[str]:
    """Paragraphs with examples that say what is to come of them."""
    blocks = [
        block.strip("\n")
        for block in re.split(r"\n[ \t]*\n|^[ \t]{0,12}(?:```|\"\"\"|''').*$", text, flags=re.MULTILINE)
    ]
    return [block for block in blocks if _example.search(block) and _gives(block)]


def _gives(block: str) -> bool:
    import doctest  # brings unittest with it, and few prompts hold an example

    try:
        examples = doctest.DocTestParser().get_examples(block)
        for example in examples:
            ast.parse(example.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(example.want for example in examples)


def _asserts(line: str) -> bool:
    try:
        tree = ast.parse(line)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert)
