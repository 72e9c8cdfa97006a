"""The paper's grid: every cell that a table or figure needs, and none that a recording cannot answer."""

from __future__ import annotations

from evals.grid import FULL, QUICK, RECORDED, cells


def test_the_whole_grid_has_what_the_tables_and_figures_vary() -> None:
    made = cells(FULL, "big", "small", batch=24)
    assert len({cell.name for cell in made}) == len(made)
    for task, shots in (("gsm8k", 8), ("csqa", 7)):
        own = [cell for cell in made if cell.task == task]
        usual = [cell for cell in own if cell.exemplars == shots]
        for method in ("cut-off", "concise", "hint", "cut-text"):
            assert sorted(cell.guidance_tokens or 0 for cell in usual if cell.strategy == method) == [
                10,
                20,
                30,
                40,
                50,
                60,
            ]
        assert [cell.concurrency for cell in usual if cell.strategy == "teacher"] == [24, 1]
        assert [cell.teacher for cell in usual if cell.strategy == "teacher-concise"] == ["big"]
        for who in ("teacher", "student", "cut-off"):
            assert {cell.exemplars for cell in own if cell.strategy == who} == {0, 2, 4, shots}
    assert {cell.guidance_tokens for cell in made if cell.strategy == "cut-off" and cell.exemplars == 4} == {30, 40}


def test_a_recorded_teacher_is_cut_and_asked_nothing_else() -> None:
    for shapes in (RECORDED, QUICK):
        made = cells(shapes, "big", "small", batch=8, recorded=True)
        assert {cell.strategy for cell in made} == {"teacher", "student", "cut-text", "cut-off"}
        assert {cell.exemplars for cell in made if cell.teacher is not None} == {0}
        assert any(cell.exemplars for cell in made)
        assert {cell.concurrency for cell in made} == {8}, "a recording has no speed to compare with"
        for task, cap in (("gsm8k", 240), ("csqa", 220)):
            whole = max(cell.guidance_tokens or 0 for cell in made if (cell.task, cell.strategy) == (task, "cut-text"))
            assert whole == cap, "the teacher alone under a cap, which no guidance has"
            assert all(cell.guidance_tokens != cap for cell in made if cell.strategy == "cut-off")


def test_a_base_student_reads_its_exemplars_always() -> None:
    made = cells(RECORDED, "big", "small", batch=8, recorded=True, base=True)
    assert {cell.exemplars for cell in made} == {0}
    chat = cells(RECORDED, "big", "small", batch=8, recorded=True)
    assert [cell for cell in chat if not cell.exemplars] == made


def test_without_a_batch_there_is_one_teacher() -> None:
    made = [cell for cell in cells(QUICK, "big", "small", batch=1) if cell.strategy == "teacher" and not cell.exemplars]
    assert [cell.concurrency for cell in made] == [1, 1], "one a task"


def test_what_is_missed_most_comes_first() -> None:
    made = cells(QUICK, "big", "small", batch=4, recorded=True)
    first = [(cell.task, cell.strategy, cell.guidance_tokens) for cell in made[:8]]
    assert {("gsm8k", "cut-off", 40), ("csqa", "cut-off", 30), ("csqa", "student", None)} <= set(first)
    assert made[-1].exemplars == 8
