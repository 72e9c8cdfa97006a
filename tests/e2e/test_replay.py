"""ChatGPT's recorded answers to GSM8K as the teacher of a real student: two models, two vocabularies, one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pricing.tokens import Vocabulary
from tests.e2e import gateways
from tests.e2e.answers import ask, check_accounts, nano
from tests.e2e.served import serving

if TYPE_CHECKING:
    from tests.e2e.served import Served

BUDGET = 40
QUESTIONS = 12
MODEL = "gpt-3.5-turbo-0613"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The recorded model's own."""
    found = Vocabulary.load("cl100k_base")
    if found is None:
        pytest.skip("cl100k_base is not on this machine")
    return found


@pytest.fixture(scope="module")
def recorded(data: Path) -> dict[str, str]:
    """The first recorded answer to each question."""
    questions = {row["id"]: row["question"] for row in rows(data / "gsm8k_test.jsonl")}
    answers: dict[str, str] = {}
    for row in rows(data / "chatgpt_gsm8k.jsonl"):
        assert row["model"] == MODEL
        answers.setdefault(questions[row["id"]], row["response"])
    return answers


@pytest.fixture(scope="module")
def replayed(
    tmp_path_factory: pytest.TempPathFactory, recorded: dict[str, str], vocabulary: Vocabulary
) -> Iterator[Served]:
    """A gateway whose teacher is the recording, and whose student is real."""
    gateways.needs_llama()
    folder = tmp_path_factory.mktemp("replayed")
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in recorded.items():
            file.write(json.dumps({"prompt": question, "response": answer, "model": MODEL}) + "\n")
    both = {"teacher": "chatgpt", "student": "student"}
    config = {
        "upstreams": {
            "chatgpt": {
                "kind": "replay",
                "model": MODEL,
                "file": str(folder / "answers.jsonl"),
                "vocabulary": "cl100k_base",
            },
            "student": {"kind": "llamacpp", "slots": 1},
        },
        "routes": {
            "gsm8k": {"strategy": "cut-off", "guidance_tokens": BUDGET, **both},
            "chatgpt": {"strategy": "teacher", "teacher": "chatgpt"},
        },
        "prices": gateways.PRICES,
    }
    with serving(folder, config) as served:
        yield served


@pytest.fixture(params=range(QUESTIONS))
def question(request: pytest.FixtureRequest, recorded: dict[str, str]) -> str:
    """Questions from all over the file."""
    place: int = request.param * 97
    return list(recorded)[place]


def test_the_student_goes_on_from_the_recorded_words(
    replayed: Served, recorded: dict[str, str], vocabulary: Vocabulary, question: str
) -> None:
    stream = len(question) % 2 == 0
    answer = ask(replayed, question, model="gsm8k", max_tokens=BUDGET + 24, temperature=0, stream=stream)
    said = recorded[question]
    cut, written = vocabulary.cut(said, BUDGET)
    guidance = answer.receipt["guidance"]
    shown = answer.text[: guidance["text_chars"]]

    # What is shown of the teacher: its own words, cut where its own tokenizer cuts, without a word that the cut tore.
    assert cut.startswith(shown)
    assert shown == shown.rstrip()
    held_back = cut[len(shown) :]
    assert len(held_back.split()) <= 1
    complete = vocabulary.count(said) <= BUDGET
    assert guidance["complete"] is complete
    if complete:
        assert answer.text == said
    else:
        following = said[len(shown)]
        assert following.isspace() or not (shown[-1].isalnum() and following.isalnum())

    # Exact, because the recording counts: the prompt as OpenAI documents it, and the tokens up to the cut.
    first = answer.stage("guidance")
    assert (first["usage"]["input"], first["usage"]["output"]) == (vocabulary.count(question) + 7, written)
    assert first["usage"]["source"] == "reported"
    assert first["finish"] == ("stop" if complete else "length")
    assert (first["model"], first["price"]["source"]) == (MODEL, "genai-prices")
    assert (first["price"]["input"], first["price"]["output"]) == ("1.5", "2")
    assert nano(first["cost_usd"]) == first["usage"]["input"] * 1500 + written * 2000

    if not complete:
        # And the student's words go on from there: nothing is repeated, and no word is glued to another.
        rest = answer.text[len(shown) :]
        second = answer.stage("answer")
        assert rest.strip()
        assert rest[0].isspace() or not (shown[-1].isalnum() and rest[0].isalnum())
        assert second["usage"]["output"] > 0
        assert second["usage"]["input"] > second["usage"]["output"]
        assert (second["model"], second["stand_in"]) == ("smollm2-135m-instruct", None)
    check_accounts(replayed, answer)


def test_the_teacher_alone_says_what_was_recorded(
    replayed: Served, recorded: dict[str, str], vocabulary: Vocabulary, question: str
) -> None:
    answer = ask(replayed, question, model="chatgpt")
    assert answer.text == recorded[question]
    assert answer.usage is not None
    assert answer.usage["completion_tokens"] == vocabulary.count(recorded[question])
    entry = check_accounts(replayed, answer)
    assert entry["baseline"]["method"] == "measured"
    assert entry["spent"] == entry["baseline"]["likely"]
