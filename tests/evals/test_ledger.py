"""What the gateway's ledger says a cascade cost is what the recordings say it costs: one policy, driven both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evals.calibrate import Goal, calibrate
from evals.imports import SOURCES, bring
from evals.recorded import Manifest, Outcome, Question, Workload, write
from evals.replay import Played, cut, play
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Policy
from gateway.config import Config
from gateway.ledger.entry import Query
from pricing.tokens import Vocabulary
from students.replay import MESSAGE_TOKENS, REPLY_TOKENS
from tests.conftest import DATA
from tests.evals.synthetic import MANIFEST, outcomes
from tests.gateway.conftest import House

pytestmark = pytest.mark.anyio

ENCODING = "o200k_base"
TOLERANCE = 0.001


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    found = Vocabulary.load(ENCODING)
    if found is None:
        pytest.skip(f"{ENCODING} is not on this machine")
    return found


def recounted(rows: Iterator[Outcome], vocabulary: Vocabulary) -> Iterator[Outcome]:
    """The same answers with tokens as the engine that plays them back counts them."""
    read: dict[str, int] = {}
    frame = REPLY_TOKENS + MESSAGE_TOKENS + vocabulary.count("user")
    for row in rows:
        if row.prompt not in read:
            read[row.prompt] = frame + vocabulary.count(row.prompt)
        written = len(vocabulary.encode(row.response))
        yield msgspec.structs.replace(row, input_tokens=read[row.prompt], output_tokens=written)


def wordy(rows: Iterator[Outcome]) -> Iterator[Outcome]:
    """Made-up answers that are as long as they say."""
    for row in rows:
        yield msgspec.structs.replace(row, response="so " * row.output_tokens + row.response)


def prompts_of(folder: Path) -> dict[str, str]:
    """The prompt of each question; beside it, one recording a model is written."""
    found: dict[str, str] = {}
    files: dict[str, Any] = {}
    for line in (folder / "answers.jsonl").read_bytes().splitlines():
        row = msgspec.json.decode(line, type=Outcome)
        found[str(row.id)] = row.prompt
        files.setdefault(row.model, []).append({"prompt": row.prompt, "response": row.response, "model": row.model})
    for model, rows in files.items():
        (folder / f"{model}.recording").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return found


def configuration(folder: Path, manifest: Manifest, policy: Policy) -> Config:
    """A gateway whose models are the recordings; every draft that is given is measured by a shadow."""
    (folder / "policy.yaml").write_text(policy.dump(), "utf-8")
    upstreams = {
        model: {"kind": "replay", "model": model, "file": f"{model}.recording", "vocabulary": ENCODING}
        for model in manifest.models
    }
    route = {"strategy": "cascade", "teacher": manifest.teacher, "policy": "policy.yaml", "shadow": 1}
    return Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "upstreams": upstreams,
            "routes": {"gkt": route},
            "prices": {model: rate.model_dump() for model, rate in manifest.prices.items()},
        },
        base=folder,
    )


async def serve(config: Config, asked: Mapping[str, str]) -> tuple[list[Mapping[str, Any]], Any]:
    """The entry of each question, and the ledger's sums."""
    entries = []
    async with open_gateway(config, environ={}) as gateway:
        home = House(gateway)
        for key, prompt in asked.items():
            await home.ask(request_id=key, messages=[{"role": "user", "content": prompt}])
            await gateway.idle()  # its shadow has a place
            entries.append(await home.entry(key))
        (row,) = await gateway.ledger.savings(Query())
    return entries, row


def check(
    entries: Sequence[Mapping[str, Any]],
    row: Any,
    played: Sequence[Played],
    questions: Sequence[Question],
    policy: Policy,
    manifest: Manifest,
) -> None:
    for entry, each in zip(entries, played, strict=True):
        students = [call for call in entry["calls"] if call["seat"] == "student"]
        assert len(students) == each.drafts
        assert (len(entry["calls"]) > each.drafts) == each.escalated
        assert entry["spent"] == round(each.cost * 1000), "micro-dollars there, nano-dollars here"
        assert (entry["shadow"] is not None) == (each.by == "student")
    alone = [question.arms[manifest.teacher].cost for question in questions]
    assert set(row.baseline_by_method) == {"measured"}
    assert row.baseline.nano / 1000 == pytest.approx(sum(alone), rel=TOLERANCE)
    kappa = sum(each.cost for each in played) / sum(alone)
    assert row.share == pytest.approx(kappa, rel=TOLERANCE)
    assert row.compared == len(played)
    # Measuring is not what is measured: it stands beside it.
    measured = 0.0
    for cost, each, question in zip(alone, played, questions, strict=True):
        if each.by == "student":  # the teacher, and the students that were not climbed to
            left = policy.rungs[each.drafts :]
            measured += cost + sum(cut(question, rung.student, rung.max_tokens, manifest).cost for rung in left)
    assert row.measurement.nano / 1000 == pytest.approx(measured, rel=TOLERANCE)
    assert {each.by for each in played} == {"student", "teacher"}, "both ends are seen"


async def test_the_ledger_and_the_recordings_agree_on_what_was_made_up(vocabulary: Vocabulary, tmp_path: Path) -> None:
    write(tmp_path, MANIFEST, recounted(wordy(outcomes(400)), vocabulary))
    await compare(tmp_path, Goal(0.99, 0.6), 60)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "gpt4o_gsm8k.jsonl").is_file(), reason="the recorded answers are not here")
async def test_and_on_published_answers(vocabulary: Vocabulary, tmp_path: Path) -> None:
    source = next(each for each in SOURCES if each.name == "gsm8k")
    bring(DATA, source, tmp_path)
    brought = Workload.load(tmp_path).manifest
    rows = [msgspec.json.decode(line, type=Outcome) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    write(tmp_path, brought, recounted(iter(rows), vocabulary))
    await compare(tmp_path, Goal(0.98, 0.6), 100)


async def compare(folder: Path, goal: Goal, count: int) -> None:
    """Calibrate on one half, serve `count` questions of the other, and look into both books."""
    workload = Workload.load(folder)
    seen, held = workload.halves()
    policy = calibrate(seen, workload.manifest, goal)
    questions, prompts = held[:count], prompts_of(folder)
    entries, row = await serve(
        configuration(folder, workload.manifest, policy), {each.id: prompts[each.id] for each in questions}
    )
    played = [play(policy, workload.manifest, question) for question in questions]
    check(entries, row, played, questions, policy, workload.manifest)
