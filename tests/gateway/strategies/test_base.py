"""What strategies share: streams that run side by side and end together, and whose sampling holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from gateway.strategies.base import merged, sampled
from students.engine import Delta, Event, Finish, Sampling
from students.errors import Unavailable

pytestmark = pytest.mark.anyio


class Stream:
    """`words`, one every `pause` seconds, then whatever `last` is; remembers whether it was begun and closed."""

    def __init__(
        self,
        words: str,
        *,
        pause: float = 0.0,
        last: Event | BaseException | None = None,
        hang: bool = False,
        closing: float = 0.0,
    ) -> None:
        self._words = words
        self._pause = pause
        self._last = last or Finish()
        self._hang = hang
        self._closing = closing
        self.begun = 0
        self.closed = 0

    async def run(self) -> AsyncGenerator[Event, None]:
        self.begun += 1
        try:
            for word in self._words.split():
                await asyncio.sleep(self._pause)
                yield Delta(word)
            if self._hang:
                await asyncio.Event().wait()
            if isinstance(self._last, BaseException):
                raise self._last
            yield self._last
        finally:
            try:
                await asyncio.sleep(self._closing)
            finally:
                self.closed += 1


async def heard(*streams: Stream) -> list[tuple[int, str]]:
    async with aclosing(merged([stream.run() for stream in streams])) as events:
        return [(number, event.text if isinstance(event, Delta) else "END") async for number, event in events]


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_one_stream_is_passed_on() -> None:
    stream = Stream("a b")
    assert await heard(stream) == [(0, "a"), (0, "b"), (0, "END")]
    assert stream.closed == 1


async def test_events_come_as_they_are_said_and_each_stream_keeps_its_order() -> None:
    fast, slow = Stream("a b c", pause=0.001), Stream("x y", pause=0.05)
    events = await heard(slow, fast)
    assert [word for number, word in events if number == 0] == ["x", "y", "END"]
    assert [word for number, word in events if number == 1] == ["a", "b", "c", "END"]
    assert events.index((1, "END")) < events.index((0, "x")), "the slow one holds nobody up"


async def test_all_run_at_once_and_no_task_is_left() -> None:
    before = others()
    streams = [Stream("a b c", pause=0.02) for _ in range(20)]
    started = asyncio.get_running_loop().time()
    assert len(await heard(*streams)) == 80
    assert asyncio.get_running_loop().time() - started < 0.5
    assert others() == before
    assert all(stream.closed == 1 for stream in streams)


async def test_more_than_the_queue_holds_waits_for_its_reader() -> None:
    long = " ".join("abc" * 100)
    assert len(await heard(Stream(long), Stream(long))) == 602


@pytest.mark.parametrize("words", ["", "a b"])
async def test_an_error_in_one_ends_all(words: str) -> None:
    before = others()
    bad, good = Stream(words, last=Unavailable("gone")), Stream("x y", hang=True, closing=0.01)
    with pytest.raises(Unavailable, match="gone"):
        await heard(good, bad)
    assert (bad.closed, good.closed) == (1, 1)
    assert others() == before


async def test_an_error_while_the_queue_is_full_is_heard_and_nothing_hangs() -> None:
    flood = Stream(" ".join("abc" * 200), hang=True)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await heard(flood, Stream("x", pause=0.01, last=Unavailable("gone")))
    assert flood.closed == 1


async def test_a_cancellation_inside_one_stream_is_not_waited_for_in_vain() -> None:
    """A future that somebody else cancelled, not this task: without care its reader would hang for ever."""
    lost, good = Stream("a", last=asyncio.CancelledError()), Stream("x", hang=True)
    with pytest.raises(asyncio.CancelledError):  # and not the TimeoutError of one that hangs
        async with asyncio.timeout(5):
            await heard(good, lost)
    assert (lost.closed, good.closed) == (1, 1)


@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_closing_early_closes_every_stream_first(taken: int) -> None:
    before = others()
    streams = [Stream("a b", hang=True, closing=0.01) for _ in range(3)]
    events = merged([stream.run() for stream in streams])
    for _ in range(taken):
        await anext(events)
    await events.aclose()
    assert all(stream.begun == stream.closed for stream in streams)
    assert [stream.begun for stream in streams] == [bool(taken)] * 3
    assert others() == before


@pytest.mark.parametrize("times", [1, 2, 4])
async def test_however_often_it_is_cancelled_every_stream_has_ended_when_it_has(times: int) -> None:
    before = others()
    streams = [Stream("a", hang=True, closing=0.03) for _ in range(3)]
    task = asyncio.create_task(heard(*streams))
    await asyncio.sleep(0.01)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [stream.closed for stream in streams] == [1, 1, 1]
    assert others() == before


async def test_an_error_while_closing_is_not_left_for_the_log() -> None:
    class Sore(Stream):
        async def run(self) -> AsyncGenerator[Event, None]:
            try:
                async with aclosing(super().run()) as events:
                    async for event in events:
                        yield event
            finally:
                raise ZeroDivisionError

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    events = merged([Sore("a", hang=True).run(), Sore("b", hang=True).run()])
    await anext(events)
    await events.aclose()
    del events
    await asyncio.sleep(0)
    assert not complaints


def test_the_callers_sampling_holds_where_it_says_something() -> None:
    own = Sampling(0.8, 0.9, 1, 0.1, 0.2, {"9": 9.0}, ("own",), True, 5)
    asked = Sampling(temperature=0.0, seed=0, stop=("END",))
    assert sampled(asked, own) == Sampling(0.0, 0.9, 0, 0.1, 0.2, None, ("END",), False, None)
    assert sampled(asked, None) is asked
    full = Sampling(1.0, 1.0, 7, -1.0, -2.0, {"1": 1.0}, ("x",), True, 3)
    assert sampled(full, own) == full
