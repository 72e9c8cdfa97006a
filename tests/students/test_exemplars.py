"""Exemplars: what a base model reads, character by character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from students.exemplars import TEMPLATE, read
from students.spec import LlamaCppSpec
from students.templates import ChatTemplate

PAIRS = [{"question": "What is 1 + 1?", "answer": "It is 2."}, {"question": "And 2 + 2?", "answer": "It is 4."}]


def test_solved_questions_stand_before_the_chat_and_an_answer_on_its_own_line() -> None:
    chat = [{"role": "user", "content": "And 3 + 3?"}]
    said = ChatTemplate(TEMPLATE).render(chat, "It", {"exemplars": PAIRS})
    assert said == (
        "Question: What is 1 + 1?\nAnswer:\nIt is 2.\n\n"
        "Question: And 2 + 2?\nAnswer:\nIt is 4.\n\n"
        "Question: And 3 + 3?\nAnswer:\nIt"
    )


def test_without_any_the_chat_is_asked_as_it_went() -> None:
    chat = [
        {"role": "system", "content": "Sums."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
    ]
    said = ChatTemplate(TEMPLATE).render(chat, "", {})
    assert said == "Sums.\n\nQuestion: 1 + 1?\nAnswer:\n2\n\nQuestion: 2 + 2?\nAnswer:\n"


def test_a_file_has_pairs_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    file = tmp_path / "solved.jsonl"
    file.write_text("\n".join(json.dumps({**pair, "more": 1}) for pair in PAIRS) + "\n\n", "utf-8")
    assert read(file) == PAIRS
    assert read(None) == []
    for wrong in ('{"question": "?"}', "no JSON", '["a"]'):
        file.write_text(wrong, "utf-8")
        with pytest.raises((ValueError, KeyError, TypeError)):
            read(file)


def test_exemplars_are_for_base_models_and_a_base_model_for_a_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exemplars are for a base model"):
        LlamaCppSpec(exemplars=tmp_path / "solved.jsonl")
    with pytest.raises(ValueError, match="needs the base model's file in gguf"):
        LlamaCppSpec(base=True)
    assert LlamaCppSpec(base=True, gguf=tmp_path / "model.gguf").exemplars is None
