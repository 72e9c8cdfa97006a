"""Arms: a cell of a run with what came of it, question by question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from statistics import fmean
from typing import NamedTuple

from evals.results import Cell, Result


class Item(NamedTuple):
    """One question in one cell, its samples averaged. Nano-dollars; None is unknown for at least one of them."""

    score: float | None
    cost: float | None
    baseline: float | None


class Arm:
    """A cell with its results. Of two lines about one sample the later counts, but both were paid for.

    `answered` are the results whose request did not fail; `scores` are of the questions that have one. `spent` is in
    nano-dollars, and `bounded` of it are the most that failed requests can have cost, since nobody saw what they did.
    `seconds` is the mean of an answer, `each` that over the cell's concurrency; None where unknown.
    """

    def __init__(self, cell: Cell, results: Sequence[Result]) -> None:
        self.cell = cell
        self.results = list({result.key: result for result in results}.values())
        self.answered = [result for result in self.results if result.error is None]
        failed = [result.most for result in results if result.cost is None and result.error is not None]
        self.bounded = sum(most for most in failed if most is not None)
        costs = [*failed, *(result.cost for result in results if result.cost is not None or result.error is None)]
        self.spent = None if not costs or None in costs else sum(cost for cost in costs if cost is not None)
        items: dict[str, list[Result]] = {}
        for result in self.results:
            items.setdefault(result.item, []).append(result)
        self.items = {item: _averaged(each) for item, each in items.items()}
        self.scores = {item: each.score for item, each in self.items.items() if each.score is not None}
        self.seconds = mean(result.seconds for result in self.answered)
        self.each = divided(self.seconds, cell.concurrency)

    @property
    def per_correct(self) -> float | None:
        """Over all that was asked: what could not be scored was paid for, and is no correct answer."""
        return divided(self.spent, fsum(result.score or 0.0 for result in self.results))

    def columns(self, items: Iterable[str]) -> tuple[list[float], list[float] | None]:
        """Scores and costs of these scored questions, in their order; no costs where one is unknown."""
        told = [self.items[item] for item in items]
        costs = [each.cost for each in told if each.cost is not None]
        return [each.score for each in told if each.score is not None], costs if len(costs) == len(told) else None

    def tokens(self, seat: str) -> float | None:
        """What one seat writes for an answer, on average; 0 where it is never asked."""
        return mean(_sum(stage.output_tokens for stage in each.stages if stage.seat == seat) for each in self.answered)

    def stages(self) -> dict[str, float | None]:
        """The mean seconds of an answer in each stage, in the order in which stages come; None: unknown for one."""
        names = dict.fromkeys(stage.stage for result in self.answered for stage in result.stages)
        return {name: mean(_took(result, name) for result in self.answered) for name in names}


def mean(values: Iterable[float | int | None]) -> float | None:
    """None where there is none, or one of them is unknown."""
    told = list(values)
    known = [value for value in told if value is not None]
    return fmean(known) if known and len(known) == len(told) else None


def divided(over: float | None, under: float | None) -> float | None:
    """None where one is unknown, or there is nothing to divide by."""
    return None if over is None or under is None or under <= 0 else over / under


def _averaged(results: Sequence[Result]) -> Item:
    scores = [result.score for result in results if result.score is not None]
    # What a failed sample cost is in what the cell spent; of an answer's cost it says nothing.
    answered = [result for result in results if result.error is None] or results
    costs, baselines = (mean(getattr(result, name) for result in answered) for name in ("cost", "baseline"))
    return Item(fmean(scores) if scores else None, costs, baselines)


def _sum(values: Iterable[int | None]) -> int | None:
    told = list(values)
    known = [value for value in told if value is not None]
    return sum(known) if len(known) == len(told) else None


def _took(result: Result, stage: str) -> float | None:
    told = [each.seconds for each in result.stages if each.stage == stage]
    known = [seconds for seconds in told if seconds is not None]
    return fsum(known) if len(known) == len(told) else None
