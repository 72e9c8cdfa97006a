"""One model alone: it is asked what the caller asked, in the caller's words, and its samples are one answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import UpstreamFailed
from gateway.strategies.solo import one_of, together
from pricing.usage import Usage
from students.engine import Ability, Event, Finish, Prompt, Sampling
from students.errors import Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

BEGUN = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "The answer is "}]
BOTH = ["teacher", "student"]


class Deaf(Scripted):
    """A model that does not know stop strings."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        deaf = replace(prompt, sampling=replace(prompt.sampling, stop=()))
        async with aclosing(super().stream(deaf)) as events:
            async for event in events:
                yield event


def pair(seat: str, engine: Scripted) -> dict[str, Scripted]:
    return {"teacher": Scripted("teacher"), "student": Scripted("student"), seat: engine}


@pytest.mark.parametrize("seat", BOTH)
async def test_it_is_asked_what_the_caller_asked(house: Any, seat: str) -> None:
    engine = Scripted(seat, "one two three")
    both = pair(seat, engine)
    async with house(**both) as home:
        answer = await home.ask(seat, max_tokens=2, temperature=0.3, stop=("END",), logit_bias={"1": 2.0})
    (prompt,) = engine.prompts
    assert (answer.text, answer.finish.reasons) == ("one two", ("length",))
    assert prompt.messages is answer.exchange.chat.messages
    assert (prompt.max_tokens, prompt.n, prompt.prefix, prompt.stream) == (2, 1, "", False)
    assert (prompt.sampling.temperature, prompt.sampling.stop) == (0.3, ("END",))
    assert prompt.sampling.logit_bias == {"1": 2.0}
    assert not both["student" if seat == "teacher" else "teacher"].prompts


async def test_the_routes_own_settings_are_the_students_alone(house: Any) -> None:
    teacher, student = Scripted("teacher"), Scripted("student")
    async with house(teacher=teacher, student=student) as home:
        await home.ask("teacher")
        await home.ask("student", request_id="chatcmpl-2", temperature=0.0)
    assert teacher.prompts[0].sampling == Sampling()
    assert student.prompts[0].sampling == Sampling(temperature=0.0, top_p=0.9)


async def test_options_for_the_teacher_go_to_the_teacher(house: Any) -> None:
    teacher, student = Scripted("teacher"), Scripted("student")
    async with house(teacher=teacher, student=student) as home:
        for number, seat in enumerate(BOTH):
            given = {"options": {"top_k": 3, "user": "u"}, "teacher_options": {"service_tier": "flex", "user": "t"}}
            await home.ask(seat, request_id=f"chatcmpl-{number}", **given)
    assert teacher.prompts[0].options == {"top_k": 3, "service_tier": "flex", "user": "t"}
    assert student.prompts[0].options == {"top_k": 3, "user": "u"}


async def test_any_name_asks_the_teacher_for_that_model(house: Any) -> None:
    teacher, student = Scripted("teacher"), Scripted("student")
    async with house(teacher=teacher, student=student) as home:
        answer = await home.ask("gpt-5.4", strategy="teacher")
        await home.ask("gpt-5.4", strategy="student", request_id="chatcmpl-2")
    assert teacher.prompts[0].model == "gpt-5.4"
    assert answer.receipt["stages"][0]["model"] == "gpt-5.4"
    assert student.prompts[0].model is None


class TestPrefix:
    @pytest.mark.parametrize("seat", BOTH)
    async def test_it_goes_on_from_the_callers_own_words(self, house: Any, seat: str) -> None:
        engine = Scripted(seat, " 42.")
        async with house(**pair(seat, engine)) as home:
            answer = await home.ask(seat, messages=BEGUN)
        assert engine.prompts[0].prefix == "The answer is"
        assert engine.prompts[0].messages == BEGUN[:1]
        assert answer.text == "42.", "the caller has written the space already"

    async def test_words_that_do_not_repeat_the_space_are_left_alone(self, house: Any) -> None:
        async with house(**pair("student", Scripted("student", "42 is it."))) as home:
            assert (await home.ask("student", messages=BEGUN)).text == "42 is it."

    async def test_a_model_that_cannot_is_asked_as_the_caller_did(self, house: Any) -> None:
        engine = Scripted("teacher", "It is 42.", abilities=Ability.NONE)
        async with house(**pair("teacher", engine)) as home:
            answer = await home.ask("teacher", messages=BEGUN)
        assert (engine.prompts[0].prefix, engine.prompts[0].messages) == ("", BEGUN)
        assert answer.text == "It is 42."

    async def test_a_stop_string_begins_in_the_answer_and_not_in_the_prefix(self, house: Any) -> None:
        async with house(**pair("student", Deaf("student", " 42 is 43"))) as home:
            assert (await home.ask("student", messages=BEGUN, stop=("is ",))).text == "42 "


class TestStops:
    @pytest.mark.parametrize("seat", BOTH)
    async def test_they_hold_where_the_engine_ignores_them(self, house: Any, seat: str) -> None:
        engine = Deaf(seat, chunks=["It is", " blue. S", "TO", "P", " more", " and more"])
        async with house(**pair(seat, engine)) as home:
            answer = await home.ask(seat, stop=("STOP",))
            entry = await home.entry()
        assert (answer.text, answer.finish.reasons) == ("It is blue. ", ("stop",))
        assert engine.closed_early == 1, "nobody reads what comes after it"
        (call,) = entry["calls"]
        assert (entry["outcome"], call["cut"]) == ("ok", True)
        assert call["usage"]["source"] in ("counted", "estimated")
        assert answer.finish.usage.output > 0
        assert answer.finish.usage.input > 0

    async def test_each_sample_has_its_own(self, house: Any) -> None:
        engine = Deaf("student", lambda prompt: f"{prompt.sampling.seed} STOP x", abilities=Ability.CONTINUE)
        async with house(**pair("student", engine)) as home:
            answer = await home.ask("student", n=3, seed=5, stop=("STOP",))
        assert [answer.choice(index) for index in range(3)] == ["5 ", "6 ", "7 "]
        assert answer.finish.reasons == ("stop",) * 3


class TestSamples:
    async def test_one_call_where_the_engine_can(self, house: Any) -> None:
        engine = Scripted("student", "one two", usage=Usage(10, 4))
        async with house(**pair("student", engine)) as home:
            answer = await home.ask("student", n=2)
        assert [prompt.n for prompt in engine.prompts] == [2]
        assert [answer.choice(0), answer.choice(1)] == ["one two", "one two"]
        assert (answer.finish.reasons, answer.finish.usage) == (("stop", "stop"), Usage(10, 4))

    async def test_several_where_it_cannot(self, house: Any) -> None:
        engine = Scripted(
            "student", lambda prompt: f"seed {prompt.sampling.seed}", abilities=Ability.CONTINUE, usage=Usage(10, 2)
        )
        async with house(**pair("student", engine)) as home:
            answer = await home.ask("student", n=3, seed=0)
            entry = await home.entry()
        assert [prompt.n for prompt in engine.prompts] == [1, 1, 1]
        assert [answer.choice(index) for index in range(3)] == ["seed 0", "seed 1", "seed 2"]
        assert answer.finish.usage == Usage(10, 6), "the client's prompt counts once"
        assert len(entry["calls"]) == len({call["id"] for call in entry["calls"]}) == 3
        assert entry["spent"] == sum(call["amount"] for call in entry["calls"]), "and is paid as often as it was sent"

    async def test_a_teacher_that_gave_them_one_by_one_saved_nothing(self, house: Any) -> None:
        engine = Scripted("teacher", "one two", abilities=Ability.NONE)
        async with house(**pair("teacher", engine)) as home:
            answer = await home.ask("teacher", n=3)
        assert answer.receipt["baseline"]["method"] == "measured"
        assert answer.receipt["saved_usd"] == "0"

    async def test_one_that_fails_fails_all(self, house: Any) -> None:
        def second(prompt: Prompt) -> Unavailable | None:
            return Unavailable("gone") if prompt.sampling.seed == 8 else None

        engine = Scripted("student", "one two", abilities=Ability.CONTINUE, error=second, fail_after=1, delay=0.005)
        async with house(**pair("student", engine)) as home:
            with pytest.raises(UpstreamFailed):
                await home.ask("student", n=3, seed=7)
            entry = await home.entry()
        assert entry["outcome"] == "failed"
        assert sorted(call["error"] or "" for call in entry["calls"]) == ["", "", "Unavailable"]
        assert entry["spent"] == sum(call["amount"] for call in entry["calls"]) > 0


async def test_a_failure_is_the_callers_to_see(house: Any) -> None:
    teacher = Scripted("teacher")
    async with house(teacher=teacher, student=Scripted("student", error=Unavailable("gone"))) as home:
        with pytest.raises(UpstreamFailed, match="gone"):
            await home.ask("student")
    assert not teacher.prompts


def test_seeds_of_samples() -> None:
    seeded, free = Prompt([], n=3, sampling=Sampling(seed=7)), Prompt([], n=3)
    assert [one_of(seeded, index).sampling.seed for index in range(3)] == [7, 8, 9]
    assert [one_of(free, index).sampling.seed for index in range(3)] == [None] * 3
    assert all(one_of(prompt, index).n == 1 for prompt in (seeded, free) for index in range(3))
    single = Prompt([])
    assert one_of(single, 0) is single


def test_one_end_of_several() -> None:
    ends = [Finish(("stop",), Usage(10, 2, cached=4, seconds=1.0), "m"), Finish(("length",), Usage(10, 3, seconds=2.0))]
    told = together(ends)
    assert (told.reasons, told.usage, told.model) == (("stop", "length"), Usage(10, 5, cached=4), "m")
    assert together([ends[0]]) is ends[0]
    assert together([ends[0], Finish(("stop",), None)]).usage is None
    assert together([ends[0], Finish(("stop",), Usage(10, None))]).usage is None
