"""Every module, class, function and file that a page names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from docs.pages import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
PACKAGES = "gateway|pricing|students|evals|benchmarks|docs|tests|deploy"


def exists(dotted: str) -> bool:
    """True when `dotted` is a module, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    dotted = re.findall(rf"`((?:{PACKAGES})(?:\.[A-Za-z_]\w*)+)`", text)
    paths = re.findall(rf"`((?:{PACKAGES}|\.ci)/[\w./-]*)`", text)
    paths += re.findall(r"`([A-Za-z][\w-]*\.(?:toml|md))`", text)
    # A README beside the page may name its own neighbours.
    missing = [name for name in dotted if not exists(name)]
    missing += [path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert not missing


def test_the_search_finds_what_is_not_there() -> None:
    assert exists("gateway.pipeline.Gateway.answer")
    assert not exists("gateway.pipeline.Gateway.reply")
    assert not exists("gateway.pipelines")
