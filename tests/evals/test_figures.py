"""Figures: what is drawn is what the summary holds, and nothing is drawn of what is unknown."""

from __future__ import annotations

from evals.figures import exemplars, figures, lengths, pareto, stages
from evals.results import Cell, Result, Stage
from evals.summary import Summary, summarise
from tests.evals.made_run import CELLS, NASTY, cell, result, results, run

LONG = (
    *CELLS,
    *(cell("cut-off", 40, exemplars=shots, concurrency=8) for shots in (4, 8)),
)


def made(cells: tuple[Cell, ...] = CELLS, **rest: int) -> Summary:
    return summarise(run(cells), list(results(cells, **rest)))


def test_bars_are_the_intervals() -> None:
    (group,) = made().groups
    figure = pareto(group, 0)
    assert figure is not None
    for trace in figure.data:
        if trace["mode"] == "markers":
            rows = [row for row in group.rows if row.cell.strategy == trace["name"]]
            for place, row in enumerate(rows):
                assert row.accuracy_interval is not None
                assert row.comparison is not None
                assert row.comparison.cost_share_interval is not None
                up, down = trace["error_y"]["array"][place], trace["error_y"]["arrayminus"][place]
                assert (trace["y"][place] - down, trace["y"][place] + up) == row.accuracy_interval
                right = trace["x"][place] + trace["error_x"]["array"][place]
                assert abs(right - row.comparison.cost_share_interval.high) < 1e-12
    names = [trace["name"] for trace in figure.data]
    assert names[-3:] == ["hull", "random mixing", "oracle of both alone"]
    assert "farthest up is" in figure.summary


def unpriced(each: Cell, count: int = 4) -> list[Result]:
    return [result(each, item, 1.0, cost=None, baseline=None) for item in range(count)]


def test_what_has_no_cost_share_is_named_and_not_drawn() -> None:
    cells = [cell("teacher"), cell("student"), cell("cut-off", 40)]
    told = [result(each, item, 1.0) for each in cells[:2] for item in range(4)] + unpriced(cells[2])
    figure = pareto(summarise(run(cells), told).groups[0], 0)
    assert figure is not None
    assert "cut-off" not in [trace["name"] for trace in figure.data]
    assert "unknown: cut-off 40" in figure.summary
    nothing = summarise(run(cells), [line for each in cells for line in unpriced(each)]).groups[0]
    assert pareto(nothing, 0) is None


def test_time_is_stacked_in_the_order_of_the_stages() -> None:
    (group,) = made(count=5).groups
    figure = stages(group, 0)
    assert figure is not None
    assert [trace["name"] for trace in figure.data] == ["guidance", "answer"]
    guided = figure.data[0]["y"].index("cut-off 40, batch 8")
    assert [trace["x"][guided] for trace in figure.data] == [0.5, 0.8]
    timeless = [result(each, 0, 1.0, stages=[]) for each in CELLS]
    assert stages(summarise(run(), timeless).groups[0], 0) is None


def test_lengths_and_exemplars_are_drawn_where_they_vary() -> None:
    summary = made(LONG, count=10)
    first = summary.groups[0]
    figure = lengths(first, 0)
    assert figure is not None
    assert {trace["name"]: trace["x"] for trace in figure.data}["cut-off, batch 8"] == [10, 40, 60]
    assert lengths(summary.groups[1], 1) is None
    shots = exemplars(summary.groups, 0)
    assert shots is not None
    assert [(trace["name"], trace["x"]) for trace in shots.data] == [("cut-off 40, batch 8", [0, 4, 8])]
    assert [[figure.id for figure in each] for each in figures(summary)] == [
        ["pareto-0", "stages-0", "lengths-0", "exemplars-0"],
        ["pareto-1", "stages-1"],
        ["pareto-2", "stages-2"],
    ]


def test_names_are_no_markup() -> None:
    odd = Cell("sums", "cut-off", 40, "big", "small")
    told = [result(odd, 0, 1.0, stages=[])]
    told[0].stages.append(Stage(NASTY, "student", "small", 1, 1, 1, 0.0, 1.0))
    figure = stages(summarise(run([odd]), told).groups[0], 0)
    assert figure is not None
    assert "<img" not in figure.data[0]["hovertemplate"]
    assert "</script" not in figure.json


def test_exemplars_of_the_student_alone_stand_with_its_teacher() -> None:
    some = (cell("teacher"), cell("student"), cell("cut-off", 40), cell("student", exemplars=8))
    first, second = figures(summarise(run(some), list(results(some, count=6))))
    assert [figure.id for figure in first] == ["pareto-0", "stages-0", "exemplars-0"]
    assert first[-1].data[0]["x"] == [0, 8]
    assert "exemplars-1" not in [figure.id for figure in second]
