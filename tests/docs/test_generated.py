"""The parts of the pages that come from the code are current.

`docs/parameters.md` and `docs/cli.md` have tests of their own, beside their generators.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from pydantic import BaseModel

from docs import pages, pictures
from gateway.config import Config
from pricing.breakeven import tolerable_fallbacks


@pytest.mark.parametrize(
    ("page", "name", "text"),
    [
        ("docs/configuration.md", "settings", pages.settings),
        ("docs/architecture.md", "modules", pages.modules),
        ("docs/observability.md", "metrics", pages.metrics),
        ("docs/teachers.md", "teachers", pages.teachers),
        ("docs/students.md", "servers", pages.servers),
        ("docs/students.md", "proofs", pages.proofs),
        ("README.md", "saved", pictures.table),
    ],
)
def test_the_page_is_current(page: str, name: str, text: Callable[[], str]) -> None:
    written = (pages.ROOT / page).read_text("utf-8")
    assert written == pictures.replaced(written, name, text()), "run `make docs`"


def test_the_picture_is_current() -> None:
    assert pictures.SVG.read_text("utf-8") == pictures.svg(), "run `make docs`"


def test_the_picture_can_be_read_in_the_dark_and_names_every_pair() -> None:
    drawn = pictures.svg()
    assert "prefers-color-scheme: dark" in drawn
    for pair in pictures.pairs():
        assert pair.label in drawn


def test_a_pair_saves_exactly_above_its_break_even() -> None:
    for pair in pictures.pairs():
        even = pair.break_even
        for length in range(pictures.GUIDANCE + 1, 400):
            assert (pair.saved(length) > 0) is (even is not None and length > even)
        assert pair.saved(pictures.GUIDANCE) == 0


def test_the_saved_share_is_the_share_of_bad_answers_that_uses_it_up() -> None:
    """What the README says of weak students is the algebra's own rule."""
    pair = pictures.pairs()[0]
    saved = pair.saved(150)
    assert Fraction(tolerable_fallbacks(float(1 - saved))).limit_denominator(10**6) == saved.limit_denominator(10**6)


def test_every_key_is_documented() -> None:
    """A new key in any model of the configuration stands in the page, or the generator refuses."""
    text = pages.settings()
    for model in pages.SECTIONS.values():
        for name in model.model_fields:
            assert f"| `{name}` |" in text
    assert _reachable(Config) <= set(pages.SECTIONS.values())


def test_a_key_without_a_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Undocumented(BaseModel):
        surprise: int = 1

    monkeypatch.setattr(pages, "SECTIONS", {"new": Undocumented})
    with pytest.raises(LookupError, match=r"Undocumented\.surprise"):
        pages.settings()


def test_meanings_are_of_keys_that_exist() -> None:
    known = {
        f"{kind.__name__}.{name}"
        for model in pages.SECTIONS.values()
        for kind in model.__mro__
        for name in getattr(kind, "model_fields", ())
    }
    assert set(pages.MEANING) <= known


def test_a_mark_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match="must stand in the page once"):
        pictures.replaced("no marks here", "saved", "text")


def test_every_module_says_what_it_is() -> None:
    tree = pages.modules()
    for package in pages.PACKAGES:
        for path in (pages.ROOT / package).rglob("*.py"):
            if path.name != "__init__.py":
                assert path.name in tree, f"{path} has no docstring"


def _reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    """`model` and every model that a file can hold below it, but for the base that all kinds of upstream share."""
    found: set[type[BaseModel]] = {model}
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            each = waiting.pop()
            waiting += getattr(each, "__args__", ())
            if isinstance(each, type) and issubclass(each, BaseModel) and each not in found:
                found |= _reachable(each)
    return found
