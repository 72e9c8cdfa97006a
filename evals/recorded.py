"""Recorded outcomes: what models answered to the same questions, how right it was, and in how many tokens.

A workload is a directory: `workload.yaml` (see `Manifest`) and JSON lines, one answer of one model to one question
each (see `Outcome`). The reader refuses whatever it does not understand and names the line.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.answers import Answer, Kind, declared, final
from gateway.cascade.signals import likelihood, who
from gateway.errors import ConfigError

MANIFEST = "workload.yaml"
LONGEST_LINE = 8_000_000
MILLION = 1_000_000

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rate(BaseModel):
    """What a model charges: dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Dollars
    output: Dollars

    def cost(self, read: int, written: int) -> float:
        """Micro-dollars."""
        return self.input * read + self.output * written


class Guided(BaseModel):
    """A student that goes on from the teacher's first `tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: str
    tokens: int = Field(ge=1)


class Manifest(BaseModel):
    """`workload.yaml`: who is the teacher, who the students are, and what they charge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Its name, which the split into halves depends on.")
    teacher: str = Field(description="The model whose answers are the baseline.")
    students: list[str] = Field(
        min_length=1, description="The models to try first; the simple gate asks in this order."
    )
    guided: list[Guided] = Field(
        default_factory=list, description="Students whose answers from the teacher's first words were recorded too."
    )
    also: list[str] = Field(default_factory=list, description="Further arms to show: the teacher asked to be concise.")
    prices: dict[str, Rate] = Field(description="Dollars per million tokens, of every model named above.")
    answer: Kind | None = Field(None, description="What kind of final answer to compare: see `gateway.answers`.")
    files: list[str] = Field(default_factory=lambda: ["*.jsonl"], description="The files of answers, as patterns.")
    limits: dict[str, int] = Field(
        default_factory=dict, description="The most tokens that a model was asked for: no policy may ask it for more."
    )
    recorded: str | None = Field(None, description="When and whence, for the reader.")
    tokens: str | None = Field(None, description="How tokens were counted, for the reader.")

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        models = self.models
        if len(set(models)) != len(models):
            raise ValueError("a model has two roles")
        if len({*models, *self.rungs}) < len(models) + len(self.guided):
            raise ValueError("guided names a student and a length twice")
        if strangers := {rung.student for rung in self.guided} - set(self.students):
            raise ValueError(f"guided names {', '.join(sorted(strangers))}, and students does not")
        if missing := [model for model in models if model not in self.prices]:
            raise ValueError(f"no price for {', '.join(missing)}")
        return self

    @property
    def rungs(self) -> dict[str, Guided]:
        """The guided students, by the names that their answers have; see `gateway.cascade.signals.who`."""
        return {who(rung.student, rung.tokens): rung for rung in self.guided}

    def rate(self, name: str) -> Rate:
        """What a model, or a guided student of that name, charges."""
        rung = self.rungs.get(name)
        return self.prices[name if rung is None else rung.student]

    @property
    def models(self) -> list[str]:
        """All models with a role."""
        return [self.teacher, *self.students, *self.also]


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The teacher's first words that an answer goes on from: `tokens` is the limit that it was asked with.

    `input_tokens` and `output_tokens` are what the teacher read and wrote for them; `kept` of the latter begin the
    answer, where a torn word was dropped; null: all. `complete`: the teacher ended by itself within the limit, so that
    the answer is all its own.
    """

    text: str
    tokens: int
    input_tokens: int
    output_tokens: int
    kept: int | None = None
    complete: bool = False


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line: one model's answer to one question.

    `correct` is 0 to 1, or true or false; null: it could not be scored, and the question is left out and counted.
    `logprobs` are those of the answer's tokens, natural. `guidance`: what a guided student went on from; `response` is
    then the whole answer, these words included, and the tokens are what the student itself read and wrote. `group`: for
    answers whose form does not tell, equal for those of a question that are the same; null: as their form has it.
    """

    id: str | int
    model: str
    prompt: str
    response: str
    correct: bool | float | None
    input_tokens: int
    output_tokens: int
    logprobs: list[float] | None = None
    guidance: Words | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One model's answer to one question, as a policy sees it, with its score and its cost in micro-dollars.

    Of a guided student `cost` is its own part, and `begun` what the teacher's first words cost, which all that go on
    from them share. `logprob` is the mean log-probability of its tokens, `least` the least; None where not told.
    `guidance` is their limit of tokens; `told`: the answer was in them; `complete`: they were all of
    it.
    """

    answer: Answer | None
    score: float
    read: int
    written: int
    cost: float
    logprob: float | None
    begun: float = 0.0
    guidance: int = 0
    told: bool = False
    complete: bool = False
    least: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A question that every model answered; `arms` by the models' names, and guided students'. Equal to itself only."""

    id: str
    arms: Mapping[str, Arm]


@dataclass(frozen=True, slots=True)
class Workload:
    """The questions of a directory that can be compared, in the order of the teacher's file; how many could not."""

    manifest: Manifest
    questions: Sequence[Question]
    unscored: int
    missing: int

    @classmethod
    def load(cls, folder: Path) -> Workload:
        """Read a directory. ConfigError, with the file and the line, where it is not in the format."""
        manifest = _manifest(folder)
        wanted = set(manifest.models)
        found: dict[str, dict[str, Arm | None]] = {name: {} for name in (*manifest.models, *manifest.rungs)}
        prompts: dict[str, str] = {}
        for place, row in _rows(folder, manifest):
            if row.model not in wanted:
                continue
            key, name = str(row.id), who(row.model, 0 if row.guidance is None else row.guidance.tokens)
            if name not in found:
                continue
            if key in found[name]:
                raise ConfigError(f"{place}: a second answer of {name} to question {key}")
            if prompts.setdefault(key, row.prompt) != row.prompt and row.model not in manifest.also:
                raise ConfigError(f"{place}: question {key} has another prompt than before")
            found[name][key] = _arm(place, row, manifest)
        for model, arms in found.items():
            if not arms:
                raise ConfigError(f"{folder.name}: no answers of {model}")
        everywhere = [key for key in found[manifest.teacher] if all(key in arms for arms in found.values())]
        every = {key for arms in found.values() for key in arms}
        questions, unscored = [], 0
        for key in everywhere:
            scored = {model: arm for model, of in found.items() if (arm := of[key]) is not None}
            if len(scored) < len(found):
                unscored += 1
            else:
                questions.append(Question(key, scored))
        if not questions:
            raise ConfigError(f"{folder.name}: no question was answered by every model and scored")
        return cls(manifest, questions, unscored, len(every) - len(everywhere))

    def by_agreement(self) -> Workload:
        """The same without labels: whatever the teacher answered counts as right, and nothing else does.

        Questions where the teacher gave no final answer cannot be scored so; they are left out and counted.
        """
        teacher = self.manifest.teacher
        kept = [question for question in self.questions if question.arms[teacher].answer is not None]
        questions = [
            Question(
                question.id,
                {
                    model: replace(arm, score=float(arm.answer == question.arms[teacher].answer))
                    for model, arm in question.arms.items()
                },
            )
            for question in kept
        ]
        if not questions:
            raise ConfigError("the teacher gave no final answer that could be compared")
        return replace(self, questions=questions, unscored=self.unscored + len(self.questions) - len(kept))

    def halves(self) -> tuple[list[Question], list[Question]]:
        """The calibration half and the held half: even and odd SHA-256 of the name and the id."""
        halves: tuple[list[Question], list[Question]] = ([], [])
        for question in self.questions:
            digest = sha256(f"{self.manifest.name}{question.id}".encode()).digest()
            halves[digest[-1] % 2].append(question)
        return halves

    def splits(self, count: int, seed: int = 0) -> Iterator[tuple[list[Question], list[Question]]]:
        """`count` random splits into two halves, the same for the same seed."""
        for number in range(count):
            order = list(self.questions)
            random.Random(f"{self.manifest.name}/{seed}/{number}").shuffle(order)
            yield order[: len(order) // 2], order[len(order) // 2 :]


def write(folder: Path, manifest: Manifest, outcomes: Iterable[Outcome]) -> None:
    """Write a workload in the format that `Workload.load` reads: the manifest and `answers.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    told = manifest.model_dump(mode="json", exclude_defaults=True)
    (folder / MANIFEST).write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), "utf-8")
    with (folder / "answers.jsonl").open("wb") as file:
        for outcome in outcomes:
            file.write(msgspec.json.encode(outcome) + b"\n")


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a workload is a directory with a {MANIFEST}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML") from error
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _rows(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Outcome]]:
    decoder = msgspec.json.Decoder(Outcome)
    paths = sorted({path for pattern in manifest.files for path in folder.glob(pattern)})
    if not paths:
        raise ConfigError(f"{folder.name}: no file matches {', '.join(manifest.files)}")
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                place = f"{path.name}:{number}"
                if len(line) > LONGEST_LINE:
                    raise ConfigError(f"{place}: longer than {LONGEST_LINE} bytes")
                if not line.strip():
                    continue
                try:
                    yield place, decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise ConfigError(f"{place}: {error}") from error


def _arm(place: str, row: Outcome, manifest: Manifest) -> Arm | None:
    """The line as an arm; None where it could not be scored."""
    if row.input_tokens < 0 or row.output_tokens < 0:
        raise ConfigError(f"{place}: fewer than 0 tokens")
    if row.correct is None:
        return None
    score = float(row.correct)
    if not 0 <= score <= 1:
        raise ConfigError(f"{place}: correct is {score}, not 0 to 1")
    logprob, least = likelihood(row.logprobs or ())
    answer, words = final(row.response, manifest.answer), row.guidance
    if answer is not None and row.group is not None:
        answer = Answer(answer.kind, f"group {row.group}")
    if words is None:
        cost = manifest.prices[row.model].cost(row.input_tokens, row.output_tokens)
        return Arm(answer, score, row.input_tokens, row.output_tokens, cost, logprob, least=least)
    kept = words.output_tokens if words.kept is None else words.kept
    if words.tokens < 1 or not 0 <= kept <= words.output_tokens or words.input_tokens < 0:
        raise ConfigError(f"{place}: guidance of less than a token, or fewer tokens than none")
    begun = manifest.prices[manifest.teacher].cost(words.input_tokens, words.output_tokens)
    own = manifest.prices[row.model].cost(row.input_tokens, row.output_tokens)
    made = Arm(answer, score, row.input_tokens, kept + row.output_tokens, own, logprob, begun, words.tokens)
    return replace(made, told=words.complete or declared(words.text), complete=words.complete, least=least)
