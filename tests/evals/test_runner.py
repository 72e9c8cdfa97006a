"""The runner over a gateway in this process: its results, its budget, and what becomes of a run that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.arms import Arm
from evals.asking import WAIT, Asker, Told, in_process
from evals.purse import SPENT, Purse
from evals.recording import only, record
from evals.requests import judging
from evals.results import RESULTS, Cell, Result, Stage, read
from evals.runner import FAILURES, Options, most, run
from evals.scorers import NOT_RUN
from evals.summary import summarise
from evals.tasks import Task, load
from gateway.config import Config
from gateway.errors import ConfigError
from pricing.money import Money

pytestmark = pytest.mark.anyio

COUNT = 12
RECORDED = "First count them all, one after the other, with great care and on paper. The answer is {}."
CELLS = (
    Cell("gsm8k", "teacher", teacher="big", concurrency=4),
    Cell("gsm8k", "student", student="small", concurrency=4),
    Cell("gsm8k", "cut-off", 6, "big", "small", concurrency=4),
    Cell("gsm8k", "cut-text", 6, "big", concurrency=4),
)


def sums(folder: Path, count: int = COUNT) -> Task:
    """Sums, with a recording of a teacher that knows all but every fourth."""
    rows = [{"question": f"What is {n} + {n}?", "gold": 2 * n} for n in range(count)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    said = [{"id": n, "response": RECORDED.format(2 * n + (n % 4 == 0)), "model": "big-1"} for n in range(count)]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), "utf-8")
    task = load("gsm8k", folder / "sums.jsonl")
    ids = record(task, folder / "said.jsonl", folder / "tape.jsonl")
    return only(task, ids)


def config(folder: Path, *, ledger: str = "sqlite://", **teacher: Any) -> Config:
    return Config.parse(
        {
            "ledger": {"url": ledger},
            "upstreams": {
                "big": {"kind": "replay", "model": "big-1", "file": str(folder / "tape.jsonl"), **teacher},
                "small": {"kind": "scripted", "model": "small-1", "says": "The answer is 6."},
            },
            "routes": {"gkt": {"strategy": "cut-off", "teacher": "big", "student": "small"}},
            "prices": {"big-1": {"input": 2, "output": 10}, "small-1": {"input": 0.1, "output": 0.1}},
        }
    )


async def test_a_grid_is_asked_scored_and_priced(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        bound = most([task], CELLS, asker, Options())
        ended = await run("sums", [task], CELLS, out, asker, Options(notes=["made up"]))
    assert (ended.missing, ended.why) == (0, None)
    made, results = read(out)
    assert made.tasks["gsm8k"]["questions"] == COUNT
    in_order = sorted(results, key=lambda each: each.item)  # they come as they end
    cells = {cell.strategy: [each for each in in_order if each.cell == cell.name] for cell in CELLS}
    assert {name: len(each) for name, each in cells.items()} == dict.fromkeys(cells, COUNT)
    assert sum(each.score or 0 for each in cells["teacher"]) == COUNT * 3 / 4
    assert sum(each.score or 0 for each in cells["student"]) == 1
    assert sum(each.score or 0 for each in cells["cut-text"]) == 0
    for each in cells["cut-off"]:
        assert each.answer.startswith(each.guidance)
        assert each.guidance.startswith("First count them")
        assert [stage.seat for stage in each.stages] == ["teacher", "student"]
        assert each.cost == sum(stage.cost or 0 for stage in each.stages)
        assert each.cost < (each.baseline or 0)
    for alone, guided in zip(cells["cut-text"], cells["cut-off"], strict=True):
        assert (alone.item, alone.answer, alone.cost) == (guided.item, guided.guidance, guided.stages[0].cost)
    assert len({tuple(each.item for each in rows) for rows in cells.values()}) == 1
    spent = sum(stage.cost or 0 for each in results if each.cell != CELLS[3].name for stage in each.stages)
    assert bound is not None
    assert 0 < spent <= bound.nano


async def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        await run("sums", [task], CELLS[:1], out, asker, Options(limit=5))
        before = (out / RESULTS).read_bytes()
        await run("sums", [task], CELLS[:1], out, asker, Options(limit=5))
        assert (out / RESULTS).read_bytes() == before
        with pytest.raises(ConfigError, match="a run with other tasks"):
            await run("sums", [task], CELLS[:1], out, asker, Options(limit=6))
        with pytest.raises(ConfigError, match="a run with other cells"):
            await run("sums", [task], CELLS[:2], out, asker, Options(limit=5))


async def test_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    async with in_process(config(tmp_path)) as asker:
        await run("sums", [task], CELLS[:1], out, asker)
        whole = (out / RESULTS).read_bytes()
        (out / RESULTS).write_bytes(whole[:-7])
        assert (await run("sums", [task], CELLS[:1], out, asker)).missing == 0
    _, results = read(out)
    assert len({each.key for each in results}) == len(results) == COUNT


class Priced(Asker):
    """Costs what it is told to, at most `dearest`, and counts."""

    def __init__(self, costs: list[int], dearest: int) -> None:
        super().__init__("http://127.0.0.1:1", "none", bound=lambda _: Money(dearest))
        self.costs, self.paid, self.at_once = costs, 0, 0

    async def ask(self, body: Mapping[str, Any]) -> Told:
        cost = self.costs.pop()
        self.at_once += 1
        await asyncio.sleep(0)
        self.paid += cost
        if body["model"] == "judge":
            return Told("CORRECT", stages=(Stage("answer", "teacher", "j", 1, 1, cost, None, None),), cost=cost)
        return Told("The answer is 1.", stages=(Stage("answer", "teacher", "m", 1, 1, cost, None, None),), cost=cost)


@pytest.mark.parametrize("budget", [0, 99, 100, 450, 1000, 5000])
async def test_a_budget_is_never_passed(tmp_path: Path, budget: int) -> None:
    task = sums(tmp_path, 40)
    costs = [n * 37 % 100 + 1 for n in range(40)]
    asker = Priced(costs, 100)
    ended = await run("sums", [task], CELLS[:1], tmp_path / "run", asker, Options(budget=Money(budget)))
    await asker.aclose()
    assert asker.paid <= budget
    assert (ended.missing == 0) == (budget == 5000)
    if ended.missing:
        assert "the next request may cost" in str(ended.why)
        assert budget - asker.paid < 100, "what others put aside and did not need is used"


@pytest.mark.parametrize("budget", [250, 1000])
async def test_the_judge_is_paid_from_the_same_budget(tmp_path: Path, budget: int) -> None:
    rows = [{"prompt": f"{n}?", "reference": "yes", "scorer": "judge"} for n in range(30)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    task = load("own", tmp_path / "own.jsonl")
    cells = [Cell("own", "teacher", teacher="big", concurrency=4)]
    asker = Priced([100] * 60, 100)
    with pytest.raises(ConfigError, match="no model is named that judges"):
        await run("own", [task], cells, tmp_path / "none", asker)
    await run("own", [task], cells, tmp_path / "run", asker, Options(budget=Money(budget), judge="judge"))
    await asker.aclose()
    assert budget - 100 < asker.paid <= budget
    _, results = read(tmp_path / "run")
    assert {each.score for each in results} <= {1.0, None}
    for each in results:
        assert (each.unscored is None) or "the judge failed: the budget" in each.unscored


class Failing(Asker):
    """Says the codes that it was given, one after the other, and then answers."""

    def __init__(self, codes: list[str]) -> None:
        super().__init__("http://127.0.0.1:1", "none", bound=lambda _: Money(100))
        self.codes, self.asked = codes, 0

    async def ask(self, body: Mapping[str, Any]) -> Told:
        self.asked += 1
        if not self.codes:
            return Told("The answer is 1.", cost=10)
        code = self.codes.pop(0)
        return Told(error=code, again=0.0 if code in WAIT else None)


async def test_a_gateway_without_room_is_asked_again_and_what_failed_counts_as_the_most(tmp_path: Path) -> None:
    task = sums(tmp_path)
    cells = [Cell("gsm8k", "teacher", teacher="big")]
    asker = Failing(["rate_limit_exceeded", "overloaded", "upstream_error"])
    ended = await run("sums", [task], cells, tmp_path / "run", asker, Options(budget=Money(1000)))
    assert (ended.missing, asker.asked) == (1, COUNT + 2)
    purse = Purse(tmp_path / "run", None)
    assert purse.spent == Money(100 + (COUNT - 1) * 10)
    purse.close()
    ended = await run("sums", [task], cells, tmp_path / "run", asker, Options(budget=Money(305)))
    assert (ended.missing, asker.asked) == (1, COUNT + 2)
    assert (await run("sums", [task], cells, tmp_path / "run", asker, Options(budget=Money(310)))).missing == 0
    await asker.aclose()


async def test_a_run_in_which_everything_fails_ends(tmp_path: Path) -> None:
    asker = Failing(["upstream_error"] * 40)
    ended = await run("sums", [sums(tmp_path, 40)], [Cell("gsm8k", "teacher", teacher="big")], tmp_path / "run", asker)
    await asker.aclose()
    assert (asker.asked, ended.missing) == (FAILURES, 40)
    assert "failed one after the other, the last by upstream_error" in str(ended.why)


async def test_a_gateway_elsewhere_knows_no_budget(tmp_path: Path) -> None:
    asker = Asker("http://127.0.0.1:1", "none")
    with pytest.raises(ConfigError, match="give its key a budget"):
        await run("sums", [sums(tmp_path)], CELLS, tmp_path / "run", asker, Options(budget=Money.usd(1)))
    await asker.aclose()


async def test_failures_are_written_down_and_asked_again(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    away = Asker("http://127.0.0.1:1", "none", config=config(tmp_path))
    ended = await run("sums", [task], CELLS[:1], out, away)
    await away.aclose()
    assert ended.missing == COUNT
    assert "the last by APIConnectionError: All connection attempts failed" in str(ended.why)
    _, results = read(out)
    assert {(each.score, each.cost) for each in results} == {(None, 0)}, "nobody was reached, so nobody was paid"
    assert {each.unscored for each in results} == {
        "the request failed: APIConnectionError: All connection attempts failed"
    }
    async with in_process(config(tmp_path)) as asker:
        assert (await run("sums", [task], CELLS[:1], out, asker)).missing == 0


class Heard(Asker):
    """Remembers what it was asked, and answers after `seconds`."""

    def __init__(self, seconds: float = 0.0, known: Config | None = None) -> None:
        super().__init__("http://127.0.0.1:1", "none", bound=lambda _: Money(100), config=known)
        self.bodies: list[Mapping[str, Any]] = []
        self.seconds, self.left = seconds, 0

    async def ask(self, body: Mapping[str, Any]) -> Told:
        self.bodies.append(body)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.left += 1
            raise
        return Told("The answer is 1.", cost=10)


async def test_a_teacher_is_asked_to_be_concise_behind_what_it_is_asked_anyhow(tmp_path: Path) -> None:
    """The words are those of concise guidance, and the beginning of the prompt stays as a cache has it."""
    words = tmp_path / "brief.md"
    words.write_text("Be brief.", "utf-8")
    cells = [Cell("gsm8k", "teacher", teacher="big"), Cell("gsm8k", "teacher-concise", teacher="big")]
    built_in = "Answer in as few words as possible"
    replaced = Config.parse({"ledger": {"url": "sqlite://"}, "prompts": {"concise": str(words)}})
    for number, (known, said) in enumerate(((None, built_in), (replaced, "Be brief."))):
        asker = Heard(known=known)
        await run("sums", [sums(tmp_path)], cells, tmp_path / f"run{number}", asker, Options(limit=1))
        await asker.aclose()
        plain, brief = asker.bodies
        whole = plain["messages"][-1]["content"]
        assert brief["messages"][-1]["content"].startswith(f"{whole}\n\n{said}")
        assert built_in not in whole
        assert {**brief, "messages": plain["messages"]} == plain, "nothing else is asked otherwise"
        assert brief["gkt"] == {"strategy": "teacher", "teacher": "big"}
        _, results = read(tmp_path / f"run{number}")
        assert [each.prompt for each in results] == [plain["messages"], brief["messages"]]


async def test_exemplars_of_the_student_are_not_the_teacher_s(tmp_path: Path) -> None:
    asker = Heard()
    await run("sums", [sums(tmp_path)], CELLS, tmp_path / "run", asker, Options(limit=1, student_shots=2))
    await asker.aclose()
    told = {body["gkt"]["strategy"]: body.get("chat_template_kwargs", {}) for body in asker.bodies}
    assert told["teacher"] == {}
    assert told["student"] == told["cut-off"]
    (first, _), asked = told["student"]["exemplars"], asker.bodies[0]["messages"][-1]["content"]
    assert first["question"].startswith("A baker fills 4 trays")
    assert first["question"].endswith(asked.partition("\n\n")[2]), "the instruction is the question's own"
    assert first["answer"].endswith("The answer is 18.")
    assert "baker" not in asked
    assert read(tmp_path / "run")[0].tasks["gsm8k"]["student_shots"] == 2


async def test_exemplars_reach_a_real_gateway(tmp_path: Path) -> None:
    """The client that asks it has no such argument of its own."""
    async with in_process(config(tmp_path)) as asker:
        ended = await run("sums", [sums(tmp_path)], CELLS[:3], tmp_path / "run", asker, Options(student_shots=1))
    assert ended.missing == 0


async def test_what_is_under_way_when_it_has_to_end_is_given_up(tmp_path: Path) -> None:
    """It is not written down, counts as the most it can cost, and is asked by the next run."""
    task, out = sums(tmp_path), tmp_path / "run"
    cells = [Cell("gsm8k", "teacher", teacher="big", concurrency=4)]
    began, slow = time.monotonic(), Heard(60.0)
    ended = await run("sums", [task], cells, out, slow, Options(seconds=0.05, given_up=0.2))
    await slow.aclose()
    assert time.monotonic() - began < 20, "no answer was waited for"
    assert (ended.missing, ended.why, slow.left) == (COUNT, "the time was over", 4)
    assert read(out)[1] == []
    purse = Purse(out, None)
    assert purse.spent == Money(4 * 100)
    purse.close()
    quick = Heard()
    assert (await run("sums", [task], cells, out, quick, Options())).missing == 0
    await quick.aclose()


async def test_what_another_run_was_answered_is_taken_where_there_is_a_place_for_it(tmp_path: Path) -> None:
    task, first, second = sums(tmp_path), Heard(), Heard()
    await run("sums", [task], CELLS[:1], tmp_path / "few", first, Options(limit=5))
    _, known = read(tmp_path / "few")
    ended = await run("sums", [task], CELLS[1:2], tmp_path / "other", second, Options(limit=3), taken=known)
    assert (ended.missing, len(second.bodies)) == (0, 3), "another cell has no place for it"
    for times in (1, 2):
        ended = await run("sums", [task], CELLS[:1], tmp_path / "more", second, Options(limit=8), taken=known)
        assert (ended.missing, len(second.bodies)) == (0, 3 + 8 - 5), times
    assert [each for each in read(tmp_path / "more")[1] if each in known] == known
    for asker in (first, second):
        await asker.aclose()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from evals.asking import in_process
from evals.runner import run
from tests.evals.test_runner import CELLS, config, sums

async def main(folder):
    task = sums(folder)
    async with in_process(config(folder, ledger=f"sqlite:///{folder}/ledger.db", delay=0.02)) as asker:
        await run("sums", [task], CELLS, folder / "run", asker)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    """What was answered is not asked again: only what was under way may be paid twice."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    path = tmp_path / "run" / RESULTS

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    first = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while lines() < 5:
        assert time.monotonic() < ends
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = lines()
    assert kept < COUNT * len(CELLS)
    spends = [json.loads(line) for line in (tmp_path / "run" / SPENT).read_bytes().split(b"\n")[:-1]]
    under_way = {each["call"] for each in spends} - {each["call"] for each in spends if each["settled"]}
    assert len(under_way) <= CELLS[0].concurrency
    purse = Purse(tmp_path / "run", None)
    paid = sum(each.get("paid", 0) for each in spends)
    lost = sum(each["most"] for each in spends if each["call"] in under_way and not each["settled"])
    assert purse.spent == Money(paid + lost), "what nobody saw the end of is taken to have cost the most"
    purse.close()
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, timeout=120, check=True)
    _, results = read(tmp_path / "run")
    assert len(results) == len({each.key for each in results}) == COUNT * len(CELLS)
    assert all(isinstance(each, Result) and each.error is None for each in results)
    # What the gateway's own ledger has: of each question one call to the teacher, but for those that the kill cut off.
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        ((calls,),) = ledger.execute("SELECT count(*) FROM calls WHERE seat = 'teacher'").fetchall()
    assert 2 * COUNT <= calls <= 2 * COUNT + CELLS[0].concurrency


def few_shot(folder: Path, says: str) -> Config:
    """Both models say that, whatever they are asked, up to what stops them."""
    told = config(folder).model_dump(mode="json", exclude_unset=True)
    told["upstreams"] = {
        "big": {"kind": "scripted", "model": "big-1", "says": says},
        "small": {"kind": "scripted", "model": "small-1", "says": says},
    }
    return Config.parse(told)


RUN_ON = " It is 3 and 3. The answer is 6.\n\nQ: What is 9 + 9?\nA: It is 18. The answer is 18."


async def test_an_answer_below_exemplars_ends_where_the_next_question_begins(tmp_path: Path) -> None:
    """Nothing after it is scored, and where the server knows `stop`, it is not even written."""
    task = sums(tmp_path)
    task = Task("gsm8k", [each for each in task.items if each.reference == "6"], "", task.exemplars)
    cells = [
        Cell("gsm8k", "teacher", teacher="big", exemplars=2),
        Cell("gsm8k", "student", student="small", exemplars=2),
        Cell("gsm8k", "cut-off", 5, "big", "small", exemplars=2),
        Cell("gsm8k", "student", student="small"),
    ]
    async with in_process(few_shot(tmp_path, RUN_ON)) as asker:
        await run("sums", [task], cells, tmp_path / "run", asker)
    results = {each.cell: each for each in read(tmp_path / "run")[1]}
    whole = results[cells[3].name]
    assert (whole.found, whole.score) == ("18", 0.0), "without exemplars a question is no end"
    for cell in cells[:3]:
        told = results[cell.name]
        assert "Q:" not in told.answer
        assert told.stages[-1].output_tokens is not None
        assert whole.output_tokens is not None
    for cell in cells[:2]:
        told = results[cell.name]
        assert (told.found, told.score) == ("6", 1.0)
        assert (told.output_tokens or 99) < (whole.output_tokens or 0), "what comes after it is not paid for"


class Deaf(Failing):
    """Knows no `stop`."""

    async def ask(self, body: Mapping[str, Any]) -> Told:
        assert body.get("stop") == ["\nQ:"]
        return Told(RUN_ON, RUN_ON[:-3], cost=10)


async def test_what_a_server_writes_past_the_end_is_not_scored(tmp_path: Path) -> None:
    task, asker = sums(tmp_path), Deaf([])
    await run("sums", [task], [Cell("gsm8k", "teacher", teacher="big", exemplars=1)], tmp_path / "run", asker)
    await asker.aclose()
    for each in read(tmp_path / "run")[1]:
        assert (each.found, each.answer, each.guidance) == ("6", *[RUN_ON.split("\n")[0] + "\n"] * 2)


def other(folder: Path, change: str) -> tuple[Config, Task, Options]:
    """What the run of `test_another_way_to_ask_is_another_run` is, and one thing else."""
    told, task = config(folder).model_dump(mode="json", exclude_unset=True), sums(folder)
    told["upstreams"]["big"] = {"kind": "scripted", "model": "big-1", "says": "The answer is 1."}
    (folder / "hint.md").write_text("In brief." if change == "instructions" else "Briefly.")
    told["prompts"] = {"hint": str(folder / "hint.md")}
    if change == "student_sampling":
        told["routes"]["gkt"]["student_sampling"] = {"temperature": 0.1}
    if change == "models":
        told["upstreams"]["small"]["model"] = "small-2"
    if change == "exemplars":
        task = Task(task.name, task.items, task.sha256, [*task.exemplars[1:], task.exemplars[0]], task.instruction)
    if change == "prompts":
        task = Task(task.name, task.items, task.sha256, task.exemplars, "Answer.")
    return Config.parse(told), task, Options(judge_tokens=5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("exemplars", r"other settings \(prompts.gsm8k .*, exemplars.gsm8k"),
        ("prompts", r"other settings \(prompts.gsm8k \w+, not \w+\)"),
        ("student_sampling", r"routes.gkt.student_sampling.temperature 0.8, not 0.1"),
        ("instructions", r"instructions.hint \w+, not \w+"),
        ("models", "models.small small-1, not small-2"),
        ("nothing", ""),
    ],
)
async def test_another_way_to_ask_is_another_run(tmp_path: Path, change: str, said: str) -> None:
    cells, out = [Cell("gsm8k", "student", student="small", exemplars=shots) for shots in (0, 1)], tmp_path / "run"
    for name in ("nothing", change):
        made, task, options = other(tmp_path, name)
        async with in_process(made) as asker:
            if name == change and said:
                with pytest.raises(ConfigError, match=said):
                    await run("sums", [task], cells, out, asker, options)
            else:
                await run("sums", [task], cells, out, asker, options)


async def test_another_server_and_an_earlier_version_are_other_runs(tmp_path: Path) -> None:
    task, out = sums(tmp_path), tmp_path / "run"
    asker = Failing([])
    await run("sums", [task], CELLS[:1], out, asker)
    asker.elsewhere = "http://example.net"
    with pytest.raises(ConfigError, match=r"elsewhere None, not http://example.net"):
        await run("sums", [task], CELLS[:1], out, asker)
    told = json.loads((out / "run.json").read_bytes())
    del told["settings"]
    (out / "run.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="of an earlier version, which did not say how it asked"):
        await run("sums", [task], CELLS[:1], out, asker)
    await asker.aclose()


async def test_a_policy_is_known_by_what_it_says(tmp_path: Path) -> None:
    asker = Failing([])
    told = config(tmp_path).model_dump(mode="json", exclude_unset=True)
    told["routes"]["own"] = {"strategy": "cascade", "teacher": "big", "policy": str(tmp_path / "policy.yaml")}
    asker.config = Config.parse(told)
    options = Options(routes={"cascade": "own"})
    for text in ("one", "one", "another"):
        (tmp_path / "policy.yaml").write_text(text)
        wanted = contextlib.nullcontext() if text == "one" else pytest.raises(ConfigError, match=r"routes.own.policy")
        with wanted:
            await run("sums", [sums(tmp_path)], [Cell("gsm8k", "cascade")], tmp_path / "run", asker, options)
    await asker.aclose()


async def test_a_request_that_failed_keeps_no_dollars_unknown(tmp_path: Path) -> None:
    """What no model was asked for costs nothing, and what else failed at most its bound; that is said."""
    task, out, cell = sums(tmp_path), tmp_path / "run", Cell("gsm8k", "teacher", teacher="big")
    asker = Failing(["invalid_api_key", "upstream_error"])
    for missing in (COUNT - 1, 1, 0):
        asker.codes[1:] = []
        ended = await run("sums", [task], [cell], out, asker)
        if missing == COUNT - 1:
            asker.codes = ["upstream_error"]
            continue
        assert ended.missing == missing
    await asker.aclose()
    made, results = read(out)
    assert [each.most for each in results if each.error == "upstream_error"] == [100]
    arm = Arm(cell, results)
    assert (arm.spent, arm.bounded) == (100 + COUNT * 10, 100)
    (group,) = summarise(made, results).groups
    assert (group.rows[0].spent, group.rows[0].bounded) == (100 + COUNT * 10, 100)


class Judged(Failing):
    """Answers, and judges when it is let."""

    def __init__(self, verdict: str | None) -> None:
        super().__init__([])
        self.verdict, self.verdicts, self.bodies = verdict, 0, list[Mapping[str, Any]]()

    async def ask(self, body: Mapping[str, Any]) -> Told:
        if body["model"] != "judge":
            self.asked += 1
            return Told("Yes.", cost=10)
        self.bodies.append(body)
        if self.verdict is None:
            raise KeyboardInterrupt
        self.verdicts += 1
        if self.verdict == "overloaded":
            return Told(error="upstream_error", message="no")
        return Told(self.verdict, stages=(Stage("answer", "teacher", "j", 1, 1, 3, None, None),), cost=3)


def open_questions(folder: Path, scorer: str = "judge", reference: str = "yes") -> Task:
    rows = [{"prompt": f"{n}?", "reference": reference, "scorer": scorer} for n in range(3)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return load("own", folder / "own.jsonl")


async def test_an_answer_outlives_its_judge(tmp_path: Path) -> None:
    """Killed while it is judged, refused by its judge: the answer is judged later, and not asked for again."""
    task, out, cells = open_questions(tmp_path), tmp_path / "run", [Cell("own", "teacher", teacher="big")]
    options, asker = Options(judge="judge"), Judged("overloaded")
    ended = await run("own", [task], cells, out, asker, options)
    assert (ended.missing, ended.why) == (3, "upstream_error: no")
    _, results = read(out)
    assert [(each.unjudged, each.unscored, each.cost) for each in results] == [
        (True, "the judge failed: upstream_error: no", 10)
    ] * 3
    assert Arm(cells[0], results).spent == 30
    # A kill after the answer was written leaves it as it was written first.
    lines = (out / RESULTS).read_bytes().splitlines()
    (out / RESULTS).write_bytes(lines[0] + b"\n")
    assert read(out)[1][0].unscored == "not judged yet"
    asker.verdict = "CORRECT"
    ended = await run("own", [task], cells, out, asker, options)
    assert (ended.missing, asker.asked) == (0, 3 + 2)
    _, results = read(out)
    assert [(each.score, each.unjudged, each.cost) for each in results] == [(1.0, False, 10)] * 3
    assert all([stage.stage for stage in each.stages] == ["judge"] for each in results)
    assert Arm(cells[0], results).spent == 30, "an answer in two lines was paid once"
    assert (await run("own", [task], cells, out, asker, options)).missing == 0
    assert (asker.asked, asker.verdicts) == (5, 6)
    (out / RESULTS).write_bytes(lines[0] + b"\n")
    ended = await run("own", [task], cells, out, asker, Options(judge="judge", budget=Money(0)))
    assert (ended.missing, asker.asked) == (3, 5), "neither the judge nor the next question can be paid"
    assert str(ended.why).startswith("the budget of ")
    await asker.aclose()


async def test_a_judge_grades_alone_and_may_think(tmp_path: Path) -> None:
    task, asker = open_questions(tmp_path), Judged("<think>Is it?\nWRONG</think>\nSo be it.\n**CORRECT**")
    options = Options(judge="judge", judge_tokens=77)
    await run("own", [task], [Cell("own", "teacher", teacher="big")], tmp_path / "run", asker, options)
    await asker.aclose()
    assert {each.score for each in read(tmp_path / "run")[1]} == {1.0}
    assert [(body["gkt"], body["max_completion_tokens"]) for body in asker.bodies] == [
        ({"strategy": "teacher"}, 77)
    ] * 3
    async with in_process(config(tmp_path)) as here:
        assert judging("?", "gkt", 9, here)["gkt"] == {"strategy": "teacher"}
        routes = {"gkt": {"strategy": "student", "student": "small"}}
        here.config = Config.parse({**config(tmp_path).model_dump(mode="json", exclude_unset=True), "routes": routes})
        assert "gkt" not in judging("?", "gkt", 9, here), "a route of one model is asked as it is"


async def test_programs_are_run_when_that_is_allowed(tmp_path: Path) -> None:
    """The same folder, later: what was answered is not asked again."""
    task = open_questions(tmp_path, "code", "assert double(4) == 8")
    out, cells = tmp_path / "run", [Cell("own", "teacher", teacher="big")]

    class Coder(Failing):
        async def ask(self, body: Mapping[str, Any]) -> Told:
            self.asked += 1
            wrong = "+ 1" if body["messages"][0]["content"] == "1?" else ""
            return Told(f"Here:\n```python\ndef double(x):\n    return 2 * x{wrong}\n```", cost=10)

    asker = Coder([])
    ended = await run("own", [task], cells, out, asker)
    assert ended.missing == 0, "the same command would not run them either"
    assert {(each.score, each.unscored) for each in read(out)[1]} == {(None, NOT_RUN)}
    await run("own", [task], cells, out, asker)
    assert (await run("own", [task], cells, out, asker, Options(run_code=True))).missing == 0
    await asker.aclose()
    assert sorted((each.item, each.score) for each in read(out)[1]) == [("0", 1.0), ("1", 0.0), ("2", 1.0)]
    assert asker.asked == 3


async def test_cells_that_ask_nothing_move_their_bars_too(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def progress(name: str, done: int, whole: int) -> None:
        seen.setdefault(name, []).append((done, whole))

    async with in_process(config(tmp_path)) as asker:
        await run("sums", [sums(tmp_path)], CELLS, tmp_path / "run", asker, progress=progress)
    for cell in CELLS:
        assert (seen[cell.name][0], seen[cell.name][-1]) == ((0, COUNT), (COUNT, COUNT))
        assert [done for done, _ in seen[cell.name]] == sorted(done for done, _ in seen[cell.name])
