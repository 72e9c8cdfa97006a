"""Tasks: what is read from files, and how it is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.tasks import Item, Task, files_of, from_hub, load
from gateway.errors import ConfigError

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "1 + 1?", "answer": "One and one.\n#### 2"}, {"question": "2 + 2?", "gold": 4.0}],
    "csqa": [
        {"question": "Where?", "choices": [["A", "here"], ["B", "there"]], "answer": "B"},
        {"id": "x", "question": {"stem": "Where?", "choices": [{"label": "A", "text": "here"}]}, "answerKey": "A"},
        {"question": "Where now?", "choices": {"label": ["A"], "text": ["here"]}, "answerKey": "A"},
    ],
    "math": [
        {"problem": "Half of 3?", "answer": "\\frac{3}{2}"},
        {"problem": "Half of 3?", "level": "Level 1", "solution": "Not $\\boxed{1}$. So $\\boxed{\\frac{3}{2}}$."},
        {"problem": "Half of 6?", "solution": "It is $\\boxed 3$."},
        {"problem": "Which?", "solution": "It is $\\fbox{A}$."},
    ],
    "choices": [
        {"question": "Which?", "options": ["one", "two", "three"], "answer_index": 2},
        {"question": "Which?", "subject": "none", "choices": ["one", "two", "three", "four"], "answer": 3},
        {"question": "Which?", "options": ["one", "two"], "answer": "B", "answer_index": 1},
    ],
    "code": [
        {
            "text": "Write double.",
            "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
            "test_setup_code": "",
        },
        {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(g):\n    assert g(1) == 1\n"},
    ],
    "own": [
        {"prompt": "Capital of France?", "reference": "Paris", "scorer": "exact"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]},
    ],
}


def file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gsm8k", [("0", "2", "number"), ("1", "4", "number")]),
        ("csqa", [("0", "(B)", "choice"), ("x", "(A)", "choice"), ("2", "(A)", "choice")]),
        (
            "math",
            [
                ("0", "\\boxed{\\frac{3}{2}}", "text"),
                ("1", "\\boxed{\\frac{3}{2}}", "text"),
                ("2", "\\boxed{3}", "text"),
                ("3", "\\boxed{A}", "text"),
            ],
        ),
        ("choices", [("0", "(C)", "choice"), ("1", "(D)", "choice"), ("2", "(B)", "choice")]),
        (
            "code",
            [
                ("0", "assert double(2) == 4\nassert double(0) == 0", "code"),
                ("1", "def check(g):\n    assert g(1) == 1\n\n\ncheck(f)", "code"),
            ],
        ),
        ("own", [("0", "Paris", "exact"), ("1", None, "text")]),
    ],
)
def test_each_task_reads_its_files(tmp_path: Path, name: str, expected: list[tuple[str, str | None, str]]) -> None:
    task = load(name, file(tmp_path, ROWS[name]))
    assert [(item.id, item.reference, item.scorer) for item in task.items] == expected
    assert len(task.sha256) == 64


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("gsm8k", [{"gold": 1}], "rows.jsonl:1: no 'question'"),
        ("gsm8k", [{"question": "?", "answer": "no mark"}], "rows.jsonl:1: "),
        ("choices", [{"question": "?", "options": ["only one"], "answer": "A"}], "1 options"),
        (
            "choices",
            [{"question": "?", "options": ["a", "b"], "answer": "C"}],
            "answer 'C' is none of the options A, B",
        ),
        ("choices", [{"question": "?", "options": ["a", "b"], "answer": ""}], "is none of the options"),
        ("choices", [{"question": "?", "options": ["a", "b"], "answer": "AB"}], "is none of the options"),
        ("choices", [{"question": "?", "choices": ["a", "b"], "answer": -1}], "answer -1 is none of 2 options"),
        ("choices", [{"question": "?", "options": ["a", "b"], "answer_index": 2}], "answer 2 is none of 2 options"),
        ("choices", [{"question": "?", "options": "ab", "answer": "A"}], "2 options, or not as a list"),
        ("csqa", [{"question": "?", "choices": [["A", "x"], ["B", "y"]], "answer": "C"}], "none of the options A, B"),
        ("csqa", [{"question": "?", "choices": [["1", "x"], ["2", "y"]], "answerKey": "1"}], "of letters ABCDEFGHIJ"),
        ("math", [{"problem": "?", "solution": "no box"}], "a solution without"),
        ("math", [{"problem": "?", "solution": "\\boxed{3"}], "does not end"),
        ("math", [{"problem": "?"}], "no 'solution'"),
        ("code", [{"text": "?", "test_list": []}], "no tests"),
        ("own", [{"prompt": "?", "scorer": "guess"}], "no scorer 'guess'; there are: number"),
        ("own", [{"id": 1, "prompt": "?"}, {"id": "1", "prompt": "!"}], "an id is there twice"),
        ("own", [], "has no questions"),
        ("sums", [{}], "no task 'sums'; there are: gsm8k"),
    ],
)
def test_what_is_not_in_the_form_is_named(tmp_path: Path, name: str, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(name, file(tmp_path, rows))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load("gsm8k", path)


def test_exemplars_stand_before_the_question(tmp_path: Path) -> None:
    task = load("gsm8k", file(tmp_path, ROWS["gsm8k"]))
    (asked,) = task.messages(task.items[0], 2)
    text = asked["content"]
    assert text.count("Q: ") == 3
    assert text.count("The answer is ") == 2
    assert text.endswith("Q: 1 + 1?\nA:")
    (chat,) = task.messages(task.items[0], 0)
    assert chat["content"].startswith("1 + 1?\n\nThink step by step")
    with pytest.raises(ValueError, match="9 exemplars are asked for, and there are 8"):
        task.messages(task.items[0], 9)


def test_pairs_are_asked_as_the_task_asks_and_no_more_than_there_are(tmp_path: Path) -> None:
    task = load("gsm8k", file(tmp_path, [{"question": "How many?", "gold": 1}]))
    assert len(task.pairs(99)) == len(task.exemplars) == 8
    assert task.pairs(0) == []
    asked = task.messages(task.items[0], 0)[0]["content"].removeprefix("How many?")
    assert all(pair["question"].endswith(asked) for pair in task.pairs(8))


def test_exemplars_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "exemplars.jsonl"
    own.write_text(json.dumps({"question": "3 - 1?", "reasoning": "Three less one.", "answer": 2}), "utf-8")
    task = load("gsm8k", file(tmp_path, ROWS["gsm8k"]), own)
    (asked,) = task.messages(task.items[0], 1)
    assert asked["content"] == "Q: 3 - 1?\nA: Three less one. The answer is 2.\n\nQ: 1 + 1?\nA:"


def test_what_begins_an_exemplar_ends_an_answer(tmp_path: Path) -> None:
    task = load("gsm8k", file(tmp_path, ROWS["gsm8k"]))
    assert task.stop(0) == []
    (stop,) = task.stop(2)
    (asked,) = task.messages(task.items[0], 2)
    assert asked["content"].count(stop) == 2, "every question but the first, which nobody writes"
    assert not any(stop in f"{each.reasoning}{each.answer}" for each in task.exemplars)


def test_exemplars_are_of_one_task_or_of_all(tmp_path: Path) -> None:
    names = ["gsm8k", "csqa"]
    assert files_of([], names) == {}
    assert files_of(["a=b.jsonl"], names) == dict.fromkeys(names, Path("a=b.jsonl"))
    assert files_of(["rest.jsonl", "csqa=own.jsonl"], names) == {"gsm8k": Path("rest.jsonl"), "csqa": Path("own.jsonl")}
    for wrong, said in ((["csqa=a", "csqa=b"], "named twice"), (["math=a"], "no task of this run")):
        with pytest.raises(ConfigError, match=said):
            files_of(wrong, names)


def test_the_hub_has_no_exemplars_but_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = SimpleNamespace(load_dataset=lambda name, config, split: ROWS["gsm8k"])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    own = tmp_path / "exemplars.jsonl"
    own.write_text(json.dumps({"question": "3 - 1?", "reasoning": "Three less one.", "answer": 2}), "utf-8")
    task = from_hub("gsm8k", "openai/gsm8k", "main", "test", own)
    assert task.messages(task.items[0], 1)[0]["content"].startswith("Q: 3 - 1?\n")
    assert from_hub("gsm8k", "openai/gsm8k", "main", "test").exemplars[0].question.startswith("A baker")


def test_a_conversation_is_asked_as_it_is(tmp_path: Path) -> None:
    task = load("own", file(tmp_path, ROWS["own"]))
    assert task.messages(task.items[1], 0) == ROWS["own"][1]["messages"]
    with pytest.raises(ValueError, match="takes no exemplars"):
        task.messages(task.items[1], 1)


def test_more_questions_of_one_seed_begin_with_the_same_ones() -> None:
    task = Task("sums", [Item(str(n), f"{n}?", str(n), "number") for n in range(50)], "")
    few, many = task.drawn(5, 7).items, task.drawn(20, 7).items
    assert list(many[:5]) == list(few)
    assert few != task.drawn(5, 8).items
    assert len(task.drawn(None, 7).items) == 50


def test_without_the_package_of_the_hub_it_is_said() -> None:
    with pytest.raises(ConfigError, match="pip install datasets"):
        from_hub("gsm8k", "openai/gsm8k", "main", "test")
