"""Runner: a grid of cells over tasks, asked of a gateway, written down as `evals.results` has it.

A cell is asked after the other, each with its own number of requests at once, so that their times can be compared; all
cells ask the same questions in the same order. Every answer is on disk before the next question of its place begins,
so a run that was killed goes on where it was: what was under way at that moment, and nothing else, is asked anew, and
counts twice in the budget (`evals.purse`). An answer that a judge or a program's tests will score is on disk before
that, too, and is scored later if it was not then.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import structs

from evals.asking import Asker, Told
from evals.folder import begun, described, locked
from evals.purse import Empty, Purse, mended
from evals.requests import JUDGE_TOKENS, Requests, ended, judging, twin
from evals.results import RESULTS, Cell, Result, Run, read
from evals.scorers import LATER, NOT_RUN, Judge, judge_prompt, score
from evals.tasks import Item, Task
from gateway.errors import ConfigError
from gateway.sandbox import Sandbox
from gateway.strategies.prompts import Prompts
from gateway.upstreams import GUIDANCE_BYTES
from pricing.money import Money

MAX_TOKENS = 400
TRIES = 8
"""How often one question is asked while the gateway says that it has no room."""
LONGEST_WAIT = 60.0
FAILURES = 10
"""So many requests that fail one after the other end a run: what fails them will not go away."""

Progress = Callable[[str, int, int], None]
"""Told of a cell's name, how many of its questions are done, and how many it has."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. `limit`: questions of each task, None: all. `model`: the route that is asked, with overrides.

    `budget` bounds what all requests of this and earlier runs into the folder cost; it needs an asker that knows the
    most that a request can cost. `seconds`: after so long no question is begun, every cell having its share of them.
    `given_up`: after so long requests under way are given up, as if the process were killed; None: they are waited for.
    `student_shots`: exemplars that students read before the chat, and the teacher does not, as the variable `exemplars`
    of their chat templates; as many as a task has. For base models, which go on from nothing else.
    `routes`: the model to ask for a strategy, instead of `model`; a cascade is a route with a policy. `judge`: the
    model of the same gateway that scores open answers, in up to `judge_tokens`; the budget pays for it too.
    `run_code`: programs that models wrote may be run, in a sandbox.
    """

    seed: int = 0
    limit: int | None = None
    samples: int = 1
    max_tokens: int = MAX_TOKENS
    budget: Money | None = None
    seconds: float | None = None
    given_up: float | None = None
    student_shots: int = 0
    model: str = "gkt"
    routes: Mapping[str, str] | None = None
    notes: Sequence[str] = ()
    prices: Mapping[str, Mapping[str, str]] | None = None
    judge: str | None = None
    judge_tokens: int = JUDGE_TOKENS
    run_code: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `run`, its `missing` answers, those not judged among them, and `why` it lacks them.

    That is why it stopped before its end, or what the last request that failed said.
    """

    run: Run
    missing: int
    why: str | None


class _Stop(Exception):
    """No further question is begun; the message says why."""


async def run(
    name: str,
    tasks: Sequence[Task],
    cells: Sequence[Cell],
    folder: Path,
    asker: Asker,
    options: Options | None = None,
    *,
    taken: Sequence[Result] = (),
    progress: Progress = lambda *_: None,
) -> Ended:
    """Ask what the folder has no answer to yet. See the module, and `Options`.

    `taken`: what another run was answered to the very same requests, which is written down and not asked again.

    Cells of strategy `cut-text` whose guidance another cell gets (`cut-off`, same task, budget, teacher and exemplars)
    are made from its answers and ask nothing; others ask the teacher for so many tokens. Raises `ConfigError`: the
    folder has another run, or another process runs in it; a budget is wanted that nobody can vouch for.
    """
    options = options or Options()
    drawn = {task.name: task.drawn(options.limit, options.seed) for task in tasks}
    _check(cells, drawn, options)
    if options.budget is not None and asker.bound is None:
        raise ConfigError(
            "a budget needs prices, and those of a gateway elsewhere are not known: say by --config what it is "
            "configured with, or give its key a budget (gkt keys create --budget), which ends the run just so"
        )
    with locked(folder):
        made = begun(folder, described(name, drawn, cells, options, asker))
        _, before = read(folder)
        with mended(folder / RESULTS).open("ab") as file, closing(Purse(folder, options.budget)) as purse:
            runner = _Runner(drawn, cells, asker, options, progress, file, purse, before)
            runner.take(taken)
            why = await runner.all()
        missing = runner.missing()
        return Ended(made, missing, why or (runner.trouble if missing else None))


def most(tasks: Sequence[Task], cells: Sequence[Cell], asker: Asker, options: Options) -> Money | None:
    """The most that the run can cost, from its start; None: unknown for one of its requests."""
    if asker.bound is None:
        return None
    total, requests = 0, _requests(options, asker)
    for cell, task, item in _questions(cells, {task.name: task.drawn(options.limit, options.seed) for task in tasks}):
        bodies = [] if twin(cell, cells) is not None else [requests.body(cell, task, item, 0)]
        if item.scorer == "judge" and options.judge is not None:
            longest = "x" * GUIDANCE_BYTES * options.max_tokens
            asked = judge_prompt(item.question, longest, item.reference or "")
            bodies.append(judging(asked, options.judge, options.judge_tokens, asker))
        for body in bodies:
            bound = asker.bound(body)
            if bound is None:
                return None
            total += bound.nano * options.samples
    return Money(total)


class _Runner:
    def __init__(
        self,
        tasks: Mapping[str, Task],
        cells: Sequence[Cell],
        asker: Asker,
        options: Options,
        progress: Progress,
        file: BinaryIO,
        purse: Purse,
        before: Iterable[Result],
    ) -> None:
        self._tasks, self._cells, self._asker, self._options = tasks, cells, asker, options
        self._progress, self._file, self._purse = progress, file, purse
        self._done = {result.key: result for result in before if result.error is None}
        self._requests = _requests(options, asker)
        self._counts = Counter(key[0] for key in self._done)
        self._failures = 0
        self._last: float | None = None
        self._judge: Judge | None = None if options.judge is None else self._judged
        self._sandbox = Sandbox() if options.run_code else None
        self.trouble: str | None = None
        """What the last request that failed said."""

    def take(self, results: Iterable[Result]) -> None:
        """Write down those that the grid has a place for and no answer to."""
        samples = range(self._options.samples)
        places = {(cell.name, item.id, n) for cell, _, item in _questions(self._cells, self._tasks) for n in samples}
        for result in results:
            if result.error is None and result.key in places and result.key not in self._done:
                self._keep(result)

    def missing(self) -> int:
        """Answers that the grid has and the folder does not, and those that the same command would go on to judge."""
        all_ = len(list(_questions(self._cells, self._tasks))) * self._options.samples
        return all_ - sum(not each.unjudged or each.unscored == NOT_RUN for each in self._done.values())

    async def all(self) -> str | None:
        """Ask all that is missing; None, or why it stopped."""
        ends = None if self._options.seconds is None else time.monotonic() + self._options.seconds
        if self._options.given_up is not None:
            self._last = asyncio.get_running_loop().time() + self._options.given_up
        late = False
        asked = [cell for cell in self._cells if twin(cell, self._cells) is None]
        for place, cell in enumerate(asked):
            until = None
            if ends is not None:
                until = time.monotonic() + max(0.0, ends - time.monotonic()) / (len(asked) - place)
            try:
                late |= await self._cell(cell, until)
            except _Stop as stop:
                return str(stop)
        for cell in self._cells:
            guided = twin(cell, self._cells)
            if guided is not None:
                await self._copied(cell, guided)
        return "the time was over" if late else None

    async def _cell(self, cell: Cell, until: float | None) -> bool:
        """Ask what is missing of one cell; True when the time was over before that was all."""
        task = self._tasks[cell.task]
        order = [(item, sample) for item in task.items for sample in range(self._options.samples)]
        left = iter([each for each in order if self._lacks(cell, *each)])
        late = False
        self._progress(cell.name, self._counts[cell.name], len(order))

        async def place() -> None:
            nonlocal late
            for item, sample in left:
                if until is not None and time.monotonic() >= until:
                    late = True
                    return
                try:
                    async with asyncio.timeout_at(self._last):
                        await self._one(cell, task, item, sample)
                except TimeoutError:
                    late = True
                    return
                self._progress(cell.name, self._counts[cell.name], len(order))

        places = [asyncio.create_task(place()) for _ in range(cell.concurrency)]
        try:
            await asyncio.gather(*places)
        finally:
            await asyncio.gather(*places, return_exceptions=True)  # what is under way was paid for
        return late

    async def _one(self, cell: Cell, task: Task, item: Item, sample: int) -> None:
        kept = self._done.get((cell.name, item.id, sample))
        if kept is not None:
            await self._mark(item, kept)
            return
        body = self._requests.body(cell, task, item, sample)
        try:
            told = await self._asked(body)
        except Empty as error:
            raise _Stop(str(error)) from None
        await self._write(cell, item, sample, body["messages"], ended(told, body.get("stop", ())), self._most(body))
        self._failures = 0 if told.error is None else self._failures + 1
        if told.final:
            raise _Stop(f"the gateway refuses: {told.trouble}")
        if self._failures >= FAILURES:
            raise _Stop(f"{FAILURES} requests failed one after the other, the last by {told.trouble}")

    async def _asked(self, body: Mapping[str, Any]) -> Told:
        """The answer, once the gateway has room. Raises `Empty` when the purse has not, and then nothing was asked."""
        most = self._most(body)
        told = await self._purse.pay(most, lambda: self._asker.ask(body))
        for tries in range(1, TRIES):
            if told.again is None:
                break
            await asyncio.sleep(min(LONGEST_WAIT, max(told.again, 0.1 * 2**tries)))
            told = await self._purse.pay(most, lambda: self._asker.ask(body))
        self.trouble = told.trouble or self.trouble
        return told

    def _most(self, body: Mapping[str, Any]) -> Money | None:
        return None if self._asker.bound is None else self._asker.bound(body)

    async def _judged(self, prompt: str) -> Told:
        """The judge's verdict; where the budget does not hold it, the answer stays unscored."""
        try:
            return await self._asked(
                judging(prompt, self._options.judge or "", self._options.judge_tokens, self._asker)
            )
        except Empty as error:
            self.trouble = str(error)
            return Told(error=str(error))

    async def _write(
        self,
        cell: Cell,
        item: Item,
        sample: int,
        messages: Sequence[Mapping[str, Any]],
        told: Told,
        most: Money | None = None,
    ) -> None:
        """Write an answer down, and score it; or a failure, with the most that it can have cost."""
        lost = told.error is not None and not told.unpaid and most is not None
        result = Result(
            cell=cell.name,
            item=item.id,
            sample=sample,
            prompt=[dict(each) for each in messages],
            reference=item.reference,
            answer=told.text,
            guidance=told.guidance,
            found=None,
            score=None,
            unscored="not judged yet" if told.error is None else f"the request failed: {told.trouble}",
            stages=list(told.stages),
            input_tokens=told.input_tokens,
            output_tokens=told.output_tokens,
            cost=0 if told.unpaid else told.cost,
            baseline=told.baseline,
            seconds=told.seconds,
            first_token=told.first_token,
            why=told.why,
            error=told.error,
            most=most.nano if lost and most is not None else None,
            unjudged=told.error is None,
        )
        if told.error is not None or item.scorer in LATER:
            self._keep(result)
        if told.error is None:
            await self._mark(item, result)

    async def _mark(self, item: Item, result: Result) -> None:
        """Score an answer that has no score yet."""
        scored = await score(item.scorer, item.question, result.answer, item.reference, self._judge, self._sandbox)
        marked = structs.replace(
            result,
            found=scored.found,
            score=scored.score,
            unscored=scored.unscored,
            stages=[*result.stages, *scored.stages],
            unjudged=scored.later,
        )
        if marked != result:
            self._keep(marked)

    def _keep(self, result: Result) -> None:
        self._file.write(msgspec.json.encode(result) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if result.error is None:
            self._counts[result.cell] += result.key not in self._done
            self._done[result.key] = result

    def _lacks(self, cell: Cell, item: Item, sample: int) -> bool:
        kept = self._done.get((cell.name, item.id, sample))
        return kept is None or kept.unjudged

    async def _copied(self, cell: Cell, guided: Cell) -> None:
        """The teacher's first words alone, as another cell's answers begin: asked once, shown with their own cost."""
        task = self._tasks[cell.task]
        count = len(task.items) * self._options.samples
        for item in task.items:
            for sample in range(self._options.samples):
                self._progress(cell.name, self._counts[cell.name], count)
                whole = self._done.get((guided.name, item.id, sample))
                if whole is None or not self._lacks(cell, item, sample):
                    continue
                kept = self._done.get((cell.name, item.id, sample))
                if kept is not None:
                    await self._mark(item, kept)
                    continue
                stages = [stage for stage in whole.stages if stage.seat == "teacher" and stage.stage == "guidance"]
                cost = [stage.cost for stage in stages]
                told = Told(
                    text=whole.guidance,
                    stages=tuple(stages),
                    input_tokens=whole.input_tokens,
                    output_tokens=stages[0].output_tokens if stages else None,
                    cost=None if not cost or cost[0] is None else cost[0],
                    baseline=whole.baseline,
                    seconds=stages[0].seconds if stages else None,
                    why=f"the guidance of {guided.name}",
                )
                await self._write(cell, item, sample, whole.prompt, told)
        self._progress(cell.name, self._counts[cell.name], count)


def _questions(cells: Sequence[Cell], tasks: Mapping[str, Task]) -> Iterator[tuple[Cell, Task, Item]]:
    for cell in cells:
        for item in tasks[cell.task].items:
            yield cell, tasks[cell.task], item


def _requests(options: Options, asker: Asker) -> Requests:
    # The words by which the gateway asks for concise guidance; of one that runs elsewhere, those that it comes with.
    brief = Prompts(None if asker.config is None else asker.config.prompts)["concise"].text
    routes = options.routes or {}
    return Requests(options.seed, options.max_tokens, options.model, routes, options.student_shots, brief)


def _check(cells: Sequence[Cell], tasks: Mapping[str, Task], options: Options) -> None:
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ConfigError("a cell is there twice")
    for cell in cells:
        if cell.task not in tasks:
            raise ConfigError(f"cell {cell.name}: no task {cell.task!r}")
        task = tasks[cell.task]
        if options.judge is None and any(item.scorer == "judge" for item in task.items):
            raise ConfigError(f"cell {cell.name}: its answers are scored by a judge, and no model is named that judges")
        try:
            task.messages(task.items[0], cell.exemplars)
        except ValueError as error:
            raise ConfigError(f"cell {cell.name}: {error}") from error
