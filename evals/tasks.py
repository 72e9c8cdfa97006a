"""Tasks: questions with references, how they are asked, and by what they are scored. Files are JSON lines.

The forms of files that are read, by task: `gsm8k` (`question`, and `gold` or an `answer` that ends in `#### N`), `csqa`
(`question`, `choices` as [label, text] or as {label: [...], text: [...]}, `answer` or `answerKey`), `math` (`prompt` or
`problem`, and `gold`, `answer` or a `solution` with its answer in `\\boxed{}`), `choices` as MMLU-Pro and MMLU have it
(`question`, `options` or `choices`, and `answer` as a letter or a number from 0, or `answer_index`), `code` as MBPP and
HumanEval have it (`text` or `prompt`, and `test_list`, or `test` and `entry_point`), and `own` (`prompt` or `messages`,
`reference`, `scorer`). `id` may be missing: then it is the line's number, from 0.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from evals.exemplars import CHOICES, NUMBERS, Exemplar
from evals.scorers import ScorerName
from gateway.errors import ConfigError

LETTERS = "ABCDEFGHIJ"
LONGEST_LINE = 1_000_000

BY_NUMBER = 'Think step by step, and end with "The answer is N." where N is a number.'
BY_CHOICE = 'Think briefly, and end with "The answer is (X)." where X is the letter of one choice.'
BY_TEXT = "Reason step by step, and put your final answer within \\boxed{}."
BY_CODE = "Answer with the whole program in one Python code block, and without examples of its use."

NEXT = "\nQ:"
"""By which an exemplar begins after another one. Whoever writes it goes on with a question that nobody asked."""

_boxed = re.compile(r"\\(?:boxed|fbox)\s{0,3}(\{|[^\s{$]{1,40})")


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `question` is its text, to which a task adds how to answer; `messages`: asked just as they are."""

    id: str
    question: str
    reference: str | None
    scorer: ScorerName
    messages: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Questions and how they are asked. `sha256` is the file's, by which a resumed run knows it.

    `exemplars` are all there are; a prompt has as many of the first as it is asked for.
    """

    name: str
    items: Sequence[Item]
    sha256: str
    exemplars: Sequence[Exemplar] = ()
    instruction: str = ""

    @property
    def scorers(self) -> str:
        """The names of the scorers that its questions have."""
        return ", ".join(sorted({item.scorer for item in self.items}))

    def messages(self, item: Item, shots: int) -> list[dict[str, Any]]:
        """The conversation that asks it, below `shots` exemplars; with 0 as a chat, with an instruction.

        Exemplars stand in one message, as the paper's code has them: base models read them too. ValueError: there are
        not so many, or the question is a conversation of its own.
        """
        if item.messages is not None:
            if shots:
                raise ValueError(f"{self.name}: a conversation takes no exemplars")
            return [dict(message) for message in item.messages]
        if shots > len(self.exemplars):
            raise ValueError(f"{self.name}: {shots} exemplars are asked for, and there are {len(self.exemplars)}")
        if not shots:
            text = f"{item.question}\n\n{self.instruction}" if self.instruction else item.question
        else:
            solved = (
                f"Q: {e.question}\nA: {e.reasoning} The answer is {e.answer}.\n\n" for e in self.exemplars[:shots]
            )
            text = f"{''.join(solved)}Q: {item.question}\nA:"
        return [{"role": "user", "content": text}]

    def pairs(self, shots: int) -> list[dict[str, str]]:
        """Solved questions for whoever reads them beside the conversation, asked as it asks; at most all there are."""
        asked = f"\n\n{self.instruction}" if self.instruction else ""
        return [
            {"question": f"{e.question}{asked}", "answer": f"{e.reasoning} The answer is {e.answer}."}
            for e in self.exemplars[:shots]
        ]

    def stop(self, shots: int) -> list[str]:
        """What ends an answer below `shots` exemplars; nothing where there are none."""
        return [NEXT] if shots else []

    def drawn(self, limit: int | None, seed: int) -> Task:
        """The same with at most `limit` questions, drawn by `seed`; more of the same seed begin with the same ones."""
        order = sorted(self.items, key=lambda item: _rank(seed, self.name, item.id))
        return replace(self, items=order[:limit])


Reader = Callable[[Mapping[str, Any], str], Item]


def load(name: str, path: Path, exemplars: Path | None = None) -> Task:
    """The task of that name over a file. ConfigError, with the line, where it is not in the task's form.

    `exemplars`: JSON lines of `question`, `reasoning` and `answer`, instead of our own.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; there are: {', '.join(TASKS)}")
    read, instruction, _ = TASKS[name]
    data = _bytes(path)
    items = [read(row, str(row.get("id", number))) for number, row in _rows(path, data, read)]
    if not items:
        raise ConfigError(f"{path.name} has no questions")
    if len({item.id for item in items}) < len(items):
        raise ConfigError(f"{path.name}: an id is there twice")
    return Task(name, items, sha256(data).hexdigest(), _shown(name, exemplars), instruction)


def from_hub(name: str, dataset: str, config: str | None, split: str, exemplars: Path | None = None) -> Task:
    """The task of that name over a data set of the hub, by the package `datasets`. ConfigError: it is not at hand.

    `exemplars` as `load` has them.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise ConfigError("loading from the hub needs a package: pip install datasets") from None
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; there are: {', '.join(TASKS)}")
    try:
        rows = [dict(row) for row in datasets.load_dataset(dataset, config, split=split)]
    except Exception as error:
        raise ConfigError(f"{dataset} cannot be loaded from the hub: {type(error).__name__}") from error
    read, instruction, _ = TASKS[name]
    items = [_checked(read, row, f"{dataset}:{number}", number) for number, row in enumerate(rows)]
    told = json.dumps(rows, sort_keys=True, default=str).encode()
    return Task(name, items, sha256(told).hexdigest(), _shown(name, exemplars), instruction)


def files_of(told: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Files by task, of texts like `gsm8k=FILE`, or `FILE` for all tasks in `names` that no other text names.

    ConfigError: a task is named twice, or is none of `names`.
    """
    found: dict[str, Path] = {}
    for text in sorted(told, key=lambda each: each.partition("=")[0] not in TASKS):  # what names a task comes first
        name, _, file = text.partition("=")
        if name not in TASKS:
            found = {**dict.fromkeys(names, Path(text)), **found}
        elif name not in names or name in found:
            raise ConfigError(f"{text!r}: {name} is {'named twice' if name in found else 'no task of this run'}")
        else:
            found[name] = Path(file)
    return found


def _gsm8k(row: Mapping[str, Any], key: str) -> Item:
    gold = row["gold"] if "gold" in row else str(row["answer"]).rsplit("####", 1)[1]
    return Item(key, str(row["question"]), str(gold).strip().removesuffix(".0"), "number")


def _csqa(row: Mapping[str, Any], key: str) -> Item:
    asked = row["question"]
    stem, choices = (asked["stem"], asked["choices"]) if isinstance(asked, Mapping) else (asked, row["choices"])
    if isinstance(choices, Mapping):
        choices = list(zip(choices["label"], choices["text"], strict=True))
    pairs = [(each["label"], each["text"]) if isinstance(each, Mapping) else each for each in choices]
    listed = " ".join(f"({label}) {text}" for label, text in pairs)
    letter = _letter(row.get("answer") or row["answerKey"], [str(label) for label, _ in pairs])
    return Item(key, f"{stem}\nChoices: {listed}", f"({letter})", "choice")


def _math(row: Mapping[str, Any], key: str) -> Item:
    gold = next((row[name] for name in ("gold", "answer") if name in row), None)
    if gold is None:
        gold = _answer(str(row["solution"]))
    return Item(key, str(row.get("problem") or row["prompt"]), f"\\boxed{{{gold}}}", "text")


def _choices(row: Mapping[str, Any], key: str) -> Item:
    options = row["options"] if "options" in row else row["choices"]
    if not isinstance(options, (list, tuple)) or not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options, or not as a list" if hasattr(options, "__len__") else "no list")
    letters, told = LETTERS[: len(options)], row["answer_index"] if "answer_index" in row else row["answer"]
    answer = letters[_place(told, len(options))] if isinstance(told, int) else _letter(told, [*letters])
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(letters, options, strict=True))
    return Item(key, f"{row['question']}\n{listed}", f"({answer})", "choice")


def _code(row: Mapping[str, Any], key: str) -> Item:
    asked = str(row["text"] if "text" in row else row["prompt"])
    if "test_list" not in row:
        return Item(key, asked, f"{row['test']}\n\ncheck({row['entry_point']})", "code")
    before = [str(row.get("test_setup_code") or ""), *map(str, row.get("test_imports") or ())]
    tests = [*map(str, row["test_list"])]
    if not tests:
        raise ValueError("no tests")
    # The name of the function, and what it takes, stand in the tests alone.
    reference = "\n".join(line for line in (*before, *tests) if line)
    return Item(key, f"{asked}\nYour code should pass this test:\n{tests[0]}", reference, "code")


def _own(row: Mapping[str, Any], key: str) -> Item:
    scorer = row.get("scorer", "text")
    if scorer not in get_args(ScorerName):
        raise ValueError(f"no scorer {scorer!r}; there are: {', '.join(get_args(ScorerName))}")
    reference = None if row.get("reference") is None else str(row["reference"])
    messages = row.get("messages")
    if messages is None:
        return Item(key, str(row["prompt"]), reference, scorer)
    question = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
    return Item(key, question, reference, scorer, messages)


TASKS: Mapping[str, tuple[Reader, str, Sequence[Exemplar]]] = {
    "gsm8k": (_gsm8k, BY_NUMBER, NUMBERS),
    "csqa": (_csqa, BY_CHOICE, CHOICES),
    "math": (_math, BY_TEXT, ()),
    "choices": (_choices, BY_CHOICE, CHOICES),
    "code": (_code, BY_CODE, ()),
    "own": (_own, "", ()),
}


def _letter(told: object, labels: Sequence[str]) -> str:
    """The label that an answer names; ValueError: it is none of them, or none that could be told in an answer."""
    if str(told) not in labels or str(told) not in [*LETTERS]:
        raise ValueError(f"answer {told!r} is none of the options {', '.join(labels)}, of letters {LETTERS}")
    return str(told)


def _place(told: int, count: int) -> int:
    if not 0 <= told < count:
        raise ValueError(f"answer {told} is none of {count} options, counted from 0")
    return told


def _answer(solution: str) -> str:
    """What stands in the last box of a published solution. ValueError: there is none."""
    found = [*_boxed.finditer(solution)]
    if not found:
        raise ValueError("a solution without \\boxed{}")
    if found[-1][1] != "{":
        return found[-1][1]
    begin, depth = found[-1].end(), 1
    for place in range(begin, len(solution)):
        depth += (solution[place] == "{") - (solution[place] == "}")
        if depth == 0:
            return solution[begin:place]
    raise ValueError("a solution whose \\boxed{} does not end")


def _shown(name: str, exemplars: Path | None) -> Sequence[Exemplar]:
    if exemplars is None:
        return TASKS[name][2]
    return [_exemplar(row) for _, row in _rows(exemplars, _bytes(exemplars), None)]


def _rank(seed: int, task: str, item: str) -> float:
    return random.Random(f"{seed} {task} {item}").random()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _rows(path: Path, data: bytes, read: Reader | None) -> Iterable[tuple[int, Mapping[str, Any]]]:
    number = 0
    for place, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{place}"
        if len(line) > LONGEST_LINE:
            raise ConfigError(f"{where}: longer than {LONGEST_LINE} bytes")
        try:
            row = json.loads(line)
        except ValueError:
            raise ConfigError(f"{where}: no JSON") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: no object")
        if read is not None:
            _checked(read, row, where, number)
        yield number, row
        number += 1


def _checked(read: Reader, row: Mapping[str, Any], where: str, number: int) -> Item:
    try:
        return read(row, str(row.get("id", number)))
    except KeyError as error:
        raise ConfigError(f"{where}: no {error.args[0]!r}") from None
    except (ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{where}: {error or 'not in the form of this task'}") from None


def _exemplar(row: Mapping[str, Any]) -> Exemplar:
    try:
        return Exemplar(str(row["question"]), str(row["reasoning"]), str(row["answer"]))
    except KeyError as error:
        raise ConfigError(f"an exemplar has no {error.args[0]!r}") from None
