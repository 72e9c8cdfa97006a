"""Who waits, who runs and who is let go, with a model that only counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from students.batching import Batcher
from students.engine import Event, Finish
from students.errors import EngineError, Overloaded, Unavailable
from students.rows import Chosen, Row, Settings


class Counting:
    """Writes the token 1 for every row; remembers what it was asked."""

    def __init__(self) -> None:
        self.read_of: dict[Row, int] = {}
        self.steps: list[list[Row]] = []
        self.forgotten: list[Row] = []
        self.gate = threading.Semaphore(0)
        """One permit a step."""

    def read(self, row: Row) -> int:
        left = len(row.ids) - 1 - self.read_of.get(row, 0)
        self.read_of[row] = self.read_of.get(row, 0) + min(left, 4)
        return min(left, 4)

    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        assert self.gate.acquire(timeout=20)
        self.steps.append(list(rows))
        return [Chosen(1)] * len(rows)

    def forget(self, row: Row) -> None:
        self.forgotten.append(row)


class Listener:
    """A row and what it was told."""

    def __init__(self, tokens: int, prompt: int = 1) -> None:
        self.told: list[Event | EngineError] = []
        self.ended = threading.Event()
        self.row = Row(
            name="row",
            ids=[0] * prompt,
            settings=Settings(),
            limit=tokens,
            ends=frozenset(),
            decode=lambda token: "x",
            piece=lambda token: ("x", None),
            tell=self.tell,
        )

    def tell(self, event: Event | EngineError) -> None:
        self.told.append(event)
        if isinstance(event, (Finish, EngineError)):
            self.ended.set()


@contextmanager
def batcher(model: Counting, *, slots: int = 2, places: int = 9, read_tokens: int = 8) -> Iterator[Batcher[Counting]]:
    owner = Batcher("counting", lambda: model, slots=slots, places=places, read_tokens=read_tokens)
    owner.start()
    assert owner.loaded.result(20) is model
    try:
        yield owner
    finally:
        owner.close()
        model.gate.release(1000)
        assert owner.join(20)


def test_rows_join_and_leave_between_steps() -> None:
    model = Counting()
    first, second, third = Listener(3), Listener(1), Listener(2)
    with batcher(model) as owner:
        owner.submit(first.row)
        model.gate.release()  # its first step begins at once; the others come while it is under way or after
        owner.submit(second.row)
        owner.submit(third.row)
        model.gate.release(20)
        for listener in (first, second, third):
            assert listener.ended.wait(20)
            assert isinstance(listener.told[-1], Finish)
    assert max(len(step) for step in model.steps) == 2, "the slots are used, and no more"
    for listener, tokens in ((first, 3), (second, 1), (third, 2)):
        assert sum(listener.row in step for step in model.steps) == tokens
        assert len(listener.told) == tokens + 1
        assert listener.row in model.forgotten


def test_who_leaves_is_in_no_step_after_the_one_under_way() -> None:
    model = Counting()
    goes, stays = Listener(100), Listener(4)
    with batcher(model) as owner:
        owner.submit(goes.row)
        owner.submit(stays.row)
        owner.leave(goes.row)
        model.gate.release(20)
        assert stays.ended.wait(20)
    assert sum(goes.row in step for step in model.steps) <= 1
    assert not goes.ended.is_set(), "nobody listens"


def test_a_long_prompt_is_read_between_the_steps_of_others() -> None:
    model = Counting()
    speaks, reads = Listener(12), Listener(1, prompt=41)
    with batcher(model) as owner:
        owner.submit(speaks.row)
        owner.submit(reads.row)
        model.gate.release(50)
        assert speaks.ended.wait(20)
        assert reads.ended.wait(20)
    begun = next(number for number, step in enumerate(model.steps) if reads.row in step)
    assert begun >= 4, "40 tokens, 8 before each step"
    assert all(speaks.row in step for step in model.steps[:begun])


def test_places_are_bounded_and_the_closed_take_nobody() -> None:
    model = Counting()
    with batcher(model, slots=1, places=2) as owner:
        listeners = [Listener(5), Listener(5)]
        for listener in listeners:
            owner.submit(listener.row)
        with pytest.raises(Overloaded):
            owner.submit(Listener(1).row)
        owner.leave(listeners[1].row)
        owner.submit(Listener(1).row)  # its place is free at once
        owner.close()
        with pytest.raises(Unavailable):
            owner.submit(Listener(1).row)
        model.gate.release(10)
        assert listeners[0].ended.wait(20)
        assert isinstance(listeners[0].told[-1], Unavailable)


def test_the_seconds_of_all_rows_are_the_models_own() -> None:
    model = Counting()
    listeners = [Listener(5), Listener(3)]
    with batcher(model) as owner:
        for listener in listeners:
            owner.submit(listener.row)
        model.gate.release(20)
        for listener in listeners:
            assert listener.ended.wait(20)
    finishes = [listener.told[-1] for listener in listeners]
    assert all(isinstance(finish, Finish) and finish.usage is not None and finish.usage.seconds for finish in finishes)


def test_a_model_that_does_not_load_says_why_and_ends_who_waits() -> None:
    def fails() -> Counting:
        assert submitted.wait(20)
        raise OSError("no such file")

    submitted = threading.Event()
    owner = Batcher("away", fails, slots=1, places=2, read_tokens=1)
    owner.start()
    listener = Listener(1)
    owner.submit(listener.row)
    submitted.set()
    with pytest.raises(OSError, match="no such file"):
        owner.loaded.result(20)
    assert listener.ended.wait(20)
    assert isinstance(listener.told[-1], Unavailable)
    owner.close()
