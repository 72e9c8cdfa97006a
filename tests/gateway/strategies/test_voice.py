"""A voice: choices are joined, scanned and renumbered one by one, and a model that nobody reads any more is stopped."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from gateway.strategies.seam import Trim
from gateway.strategies.voice import Choice, voiced
from pricing.usage import Usage
from students.engine import Delta, Event, Finish
from students.errors import Unavailable
from students.outlet import Outlet

pytestmark = pytest.mark.anyio

ENTRY = {"token": "x", "logprob": -0.1, "bytes": [120]}


class Model:
    """Says these events; remembers how far it came and that it was closed."""

    def __init__(self, *events: Event | Exception) -> None:
        self._events = events
        self.said = 0
        self.closed = False

    async def stream(self) -> AsyncGenerator[Event, None]:
        try:
            for event in self._events:
                if isinstance(event, Exception):
                    raise event
                self.said += 1
                yield event
        finally:
            self.closed = True


async def hear(model: Model, choices: Sequence[Choice]) -> list[Event]:
    async with aclosing(voiced(model.stream(), choices)) as events:
        return [event async for event in events]


def texts(events: Sequence[Event]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            found[event.index] = found.get(event.index, "") + event.text
    return found


def end(events: Sequence[Event]) -> Finish:
    assert isinstance(events[-1], Finish)
    assert sum(isinstance(event, Finish) for event in events) == 1
    return events[-1]


async def test_choices_are_renumbered() -> None:
    model = Model(Delta("a", 0), Delta("x", 1), Delta("b", 0), Finish(("stop", "length"), Usage(1, 3)))
    events = await hear(model, [Choice(4, Outlet()), Choice(7, Outlet())])
    assert texts(events) == {4: "ab", 7: "x"}
    assert (end(events).reasons, end(events).usage) == (("stop", "length"), Usage(1, 3))
    assert model.closed


async def test_one_choice_stops_and_the_other_goes_on() -> None:
    model = Model(
        Delta("a ST", 0),
        Delta("x", 1),
        Delta("OP b", 0),
        Delta("never", 0),
        Delta(" y", 1),
        Finish(("length", "length"), Usage(1, 9)),
    )
    events = await hear(model, [Choice(0, Outlet(("STOP",))), Choice(1, Outlet(("STOP",)))])
    assert texts(events) == {0: "a ", 1: "x y"}
    assert end(events).reasons == ("stop", "length")
    assert end(events).usage == Usage(1, 9)


async def test_when_every_choice_has_stopped_so_does_the_model() -> None:
    model = Model(Delta("a STOP", 0), Delta("x STOP", 1), Delta("more", 0), Finish(("length",) * 2, Usage(1, 9)))
    events = await hear(model, [Choice(0, Outlet(("STOP",))), Choice(1, Outlet(("STOP",)))])
    assert texts(events) == {0: "a ", 1: "x "}
    assert (end(events).reasons, end(events).usage) == (("stop", "stop"), None)
    assert (model.said, model.closed) == (2, True)


async def test_what_only_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    events = await hear(Model(Delta("a STO"), Finish(("length",))), [Choice(0, Outlet(("STOP",)))])
    assert texts(events) == {0: "a STO"}
    assert end(events).reasons == ("length",)


async def test_a_stop_string_that_the_last_words_complete() -> None:
    """The join holds the beginning of the words; they are scanned too when it lets go."""
    events = await hear(Model(Delta("  STOP"), Finish(("length",))), [Choice(0, Outlet(("STOP",)), Trim("x  "))])
    assert texts(events) in ({}, {0: ""})
    assert end(events).reasons == ("stop",)


async def test_a_model_that_forgets_a_reason() -> None:
    events = await hear(Model(Delta("a"), Finish(("length",))), [Choice(0, Outlet()), Choice(1, Outlet())])
    assert end(events).reasons == ("length", "stop")


async def test_other_members_pass_with_and_without_text() -> None:
    fields = {"tool_calls": [{"index": 0}]}
    events = await hear(Model(Delta("", fields=fields), Delta("a", fields={"x": 1}), Finish()), [Choice(3, Outlet())])
    first, second, _ = events
    assert isinstance(first, Delta)
    assert isinstance(second, Delta)
    assert (first.text, first.index, first.fields) == ("", 3, fields)
    assert (second.text, second.fields) == ("a", {"x": 1})


@pytest.mark.parametrize("stops", [(), ("STOP",)])
async def test_log_probabilities_of_tokens_without_text_are_not_lost(stops: tuple[str, ...]) -> None:
    """A token that is the first half of a character has an entry and no text of its own."""
    half = {"token": "\\xc3", "logprob": -0.5, "bytes": [0xC3]}
    rest = {"token": "\\xa9", "logprob": -0.6, "bytes": [0xA9]}
    model = Model(Delta("", logprobs=[half]), Delta("é", logprobs=[rest]), Delta("x", logprobs=[ENTRY]), Finish())
    events = await hear(model, [Choice(0, Outlet(stops))])
    entries = [entry for event in events if isinstance(event, Delta) for entry in event.logprobs or ()]
    assert texts(events) == {0: "éx"}
    assert entries == [half, rest, ENTRY]


async def test_nothing_is_sent_for_words_that_wait() -> None:
    events = await hear(Model(Delta("ST"), Delta("OP"), Finish(("length",))), [Choice(0, Outlet(("STOP",)))])
    assert [type(event) for event in events] == [Finish]


async def test_an_error_passes_and_the_model_is_closed() -> None:
    model = Model(Delta("a"), Unavailable("gone"))
    with pytest.raises(Unavailable):
        await hear(model, [Choice(0, Outlet())])
    assert model.closed


async def test_closing_early_closes_the_model() -> None:
    model = Model(Delta("a"), Delta("b"), Finish())
    events = voiced(model.stream(), [Choice(0, Outlet())])
    await anext(events)
    await events.aclose()
    assert (model.said, model.closed) == (1, True)
