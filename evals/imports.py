"""Imports: published answers, brought into the format of `evals.recorded`.

The source is a directory of JSON lines with the answers of ZeroEval (Apache-2.0) to GSM8K and to MATH level 5: one
file of prompts a task, and files of answers with `id`, `model`, `response` and `correct`. It is read, never copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.recorded import Manifest, Outcome, Rate, write
from gateway.errors import ConfigError
from pricing import tokens

RECORDED = "public answers of 2023-24, greedy, zero-shot, as JSON with `reasoning` and `answer`"
SMALL = Rate(input=0.10, output=0.10)
GPT_4O = "gpt-4o-2024-08-06"
CLAUDE = "claude-3-5-sonnet-20241022"
PRICES: Mapping[str, Rate] = {
    GPT_4O: Rate(input=2.50, output=10),
    CLAUDE: Rate(input=3, output=15),
    "gpt-3.5-turbo-0125": Rate(input=0.50, output=1.50),
}
"""On the day of recording; any other model here is a student of 7 to 9 billion parameters at $0.1 per million."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which files hold the answers to a task, and who is whom."""

    name: str
    prompts: str
    answers: Sequence[str]
    teacher: str
    students: Sequence[str]


_GSM8K = ("gpt4o_gsm8k.jsonl", "students_gsm8k.jsonl", "llama3_gsm8k.jsonl", "chatgpt0125_gsm8k.jsonl")
_MATH = ("math_l5_outputs.jsonl",)
_MATH_STUDENTS = ("Qwen2.5-7B-Instruct", "Meta-Llama-3.1-8B-Instruct", "gemma-2-9b-it")

SOURCES = (
    Source(
        "gsm8k",
        "zeroeval_prompts_gsm8k.jsonl",
        _GSM8K,
        GPT_4O,
        ("Meta-Llama-3.1-8B-Instruct", "gemma-2-9b-it", "Qwen2-7B-Instruct"),
    ),
    Source("math-l5", "math_l5.jsonl", _MATH, CLAUDE, _MATH_STUDENTS),
    Source("math-l5-gpt-4o", "math_l5.jsonl", _MATH, GPT_4O, _MATH_STUDENTS),
    Source(
        "gsm8k-other-students",
        "zeroeval_prompts_gsm8k.jsonl",
        _GSM8K,
        GPT_4O,
        ("Meta-Llama-3-8B-Instruct", "Qwen2-7B-Instruct", "gpt-3.5-turbo-0125"),
    ),
)


def bring(data: Path, source: Source, folder: Path) -> None:
    """Write one workload into `folder`. ConfigError: a file is not there or not as expected.

    Tokens are counted: the whole prompt and the whole response, with the model's own vocabulary where it is public,
    else with the usual one. Counts that the files hold are not used, for they are of different vocabularies.
    """
    prompts = {str(row["id"]): _text(row, "prompt", source.prompts) for row in _rows(data / source.prompts)}
    models = (source.teacher, *source.students)
    manifest = Manifest(
        name=source.name,
        teacher=source.teacher,
        students=list(source.students),
        prices={model: PRICES.get(model, SMALL) for model in models},
        recorded=RECORDED,
        tokens="counted with " + ", ".join(f"{tokens.encoding_for(model)} ({model})" for model in models),
    )
    write(folder, manifest, _outcomes(data, source, prompts, models))


def _outcomes(data: Path, source: Source, prompts: Mapping[str, str], models: Sequence[str]) -> Iterator[Outcome]:
    read: dict[tuple[str, str], int] = {}
    for name in source.answers:
        for row in _rows(data / name):
            model, key = str(row.get("model")), str(row.get("id"))
            if model not in models:
                continue
            if key not in prompts:
                raise ConfigError(f"{name}: no prompt for question {key}")
            encoding = tokens.encoding_for(model)
            if (encoding, key) not in read:
                read[encoding, key] = tokens.count(prompts[key], model).tokens
            response = _text(row, "response", name)
            yield Outcome(
                id=key,
                model=model,
                prompt=prompts[key],
                response=response,
                correct=row.get("correct"),
                input_tokens=read[encoding, key],
                output_tokens=tokens.count(response, model).tokens,
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON lines") from error


def _text(row: Mapping[str, Any], name: str, file: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ConfigError(f"{file}: a row without {name}")
    return value
