"""What of an upstream's error may be shown: its own names for it, and no text that may quote anything."""

from __future__ import annotations

import pytest

from students.faults import failure, present


@pytest.mark.parametrize("name", ["invalid_api_key", "BadRequestError", "model-not-found", "E.12"])
def test_a_code_is_passed_on(name: str) -> None:
    assert failure({"error": {"message": "no", "code": name}}, 400).code == name


@pytest.mark.parametrize("text", ["no: Bearer sk-1", "the prompt was: Tell me of pears", "x" * 65, '{"a": 1}', ""])
@pytest.mark.parametrize("member", ["code", "type"])
def test_a_text_in_the_place_of_a_code_is_dropped(text: str, member: str) -> None:
    error = present(failure({"error": {"message": "no", member: text}}, 400), engine="e", keys=[], texts=[])
    assert error.code is None
    assert str(error) == "400: no"
