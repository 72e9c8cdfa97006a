"""A pool: who is asked, who goes on, and what it is said to have cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.usage import Usage
from students.affinity import Memory, beginnings
from students.counting import prompt_tokens, text_tokens
from students.engine import Ability, Delta, Event, Finish, Message, Prompt, Sampling
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.guard import Guard
from students.pool import Pool
from students.scripted import Scripted
from students.spec import BreakerSpec, PoolSpec, ScriptedSpec

pytestmark = pytest.mark.anyio

ASK: tuple[Message, ...] = ({"role": "user", "content": "Count to six."},)
WORDS = "one two three four five six"


def counting(name: str, **how: Any) -> Scripted:
    """Says the words that come after the prefix, as a model would that is given it."""

    def says(prompt: Prompt) -> str:
        assert WORDS.startswith(prompt.prefix)
        assert prompt.prefix == prompt.prefix.rstrip()
        return WORDS[len(prompt.prefix) :]

    return Scripted(name, says, model="m", **how)


def pool(*members: Any, **spec: Any) -> Pool:
    names = [member.name for member in members]
    return Pool("pool", PoolSpec.model_validate({"model": "m", "members": names, **spec}), members)


async def events_of(engine: Pool, prompt: Prompt | None = None) -> list[Event]:
    async with aclosing(engine.stream(prompt or Prompt(ASK))) as events:
        return [event async for event in events]


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def spent(events: Sequence[Event]) -> list[Usage]:
    return [event.spent for event in events if isinstance(event, Delta) and event.spent is not None]


def fresh(number: int) -> Prompt:
    """A conversation that nobody knows yet."""
    return Prompt(({"role": "user", "content": str(number)},))


def dying(name: str, after: int, error: EngineError | None = None, **how: Any) -> Scripted:
    return counting(name, error=error or Unavailable("gone"), fail_after=after, **how)


class TestWhoIsAsked:
    async def test_work_is_spread(self) -> None:
        members = [counting(f"m{number}", delay=0.01) for number in range(3)]
        asked = [Prompt(({"role": "user", "content": str(number)},)) for number in range(30)]
        answers = await asyncio.gather(*(events_of(pool_, each) for pool_ in [pool(*members)] for each in asked))
        assert {text(answer) for answer in answers} == {WORDS}
        assert {len(member.prompts) for member in members} == {10}

    async def test_the_one_with_the_least_work(self) -> None:
        slow, quick = counting("slow", hang_after=1), counting("quick")
        engine = first(pool(slow, quick), 0)
        held = engine.stream(Prompt(ASK))
        await anext(held)
        engine.members[1].work = 0
        for number in range(3):
            await events_of(engine, fresh(number))
        assert (len(slow.prompts), len(quick.prompts)) == (1, 3)
        await held.aclose()
        assert all(member["work"] == 0 for member in engine.state().values())

    async def test_a_conversation_goes_back_to_who_knows_it(self) -> None:
        members = [counting(f"m{number}") for number in range(4)]
        engine = pool(*members)
        system = {"role": "system", "content": "You count."}
        talks: list[list[Message]] = [[system, {"role": "user", "content": f"talk {n}"}] for n in range(8)]
        for _ in range(5):
            for talk in talks:
                answer = await events_of(engine, Prompt(list(talk)))
                talk += [{"role": "assistant", "content": text(answer)}, {"role": "user", "content": "more"}]
        homes: dict[str, set[str]] = {}
        for member in members:
            for prompt in member.prompts:
                homes.setdefault(str(prompt.messages[1]["content"]), set()).add(member.name)
        assert all(len(home) == 1 for home in homes.values())
        assert len({next(iter(home)) for home in homes.values()}) > 1, "a common beginning binds nobody"

    async def test_not_while_that_one_has_much_more_to_do(self) -> None:
        members = [counting(f"m{number}", hang_after=1) for number in range(2)]
        engine = pool(*members)
        held = [engine.stream(Prompt(ASK)) for _ in range(20)]
        for stream in held:
            await anext(stream)
        assert max(len(member.prompts) for member in members) <= 12
        for stream in held:
            await stream.aclose()

    async def test_one_that_fails_is_passed_over_for_a_while(self) -> None:
        sick, well = counting("sick", error=Unavailable("down")), counting("well")
        engine = pool(sick, well)
        for number in range(6):
            assert text(await events_of(engine, fresh(number))) == WORDS
        assert len(sick.prompts) == 1
        engine.members[0].resting_until = 0.0
        for number in range(6, 8):
            assert text(await events_of(engine, fresh(number))) == WORDS
        assert len(sick.prompts) == 2, "it is tried again"

    async def test_one_whose_breaker_is_open_is_passed_over(self) -> None:
        inner = counting("sick", error=Unavailable("down"))
        sick = Guard(inner, ScriptedSpec(retries=0, breaker=BreakerSpec(failures=1, open_seconds=600)))
        engine = pool(sick, counting("well"))
        for number in range(6):
            assert text(await events_of(engine, fresh(number))) == WORDS
            engine.members[0].resting_until = 0.0
        assert len(inner.prompts) == 1

    async def test_a_drained_one_is_asked_for_nothing_more(self) -> None:
        first, second = counting("first", delay=0.005), counting("second")
        engine = pool(first, second)
        engine.drain("second", True)
        stream = engine.stream(Prompt(ASK))
        said = text([await anext(stream)])
        engine.drain("first", True)
        engine.drain("second", False)
        assert said + text([event async for event in stream]) == WORDS, "what is under way goes on"
        for _ in range(4):
            await events_of(engine)
        assert (len(first.prompts), len(second.prompts)) == (1, 4)
        engine.drain("second", True)
        with pytest.raises(Unavailable, match="drained"):
            await events_of(engine)
        with pytest.raises(LookupError):
            engine.drain("third", True)
        assert engine.state()["first"]["drained"] is True


class TestBeforeTheFirstWord:
    @pytest.mark.parametrize(
        "error", [Unavailable("x"), Overloaded("x"), TimedOut("x", deadline="connect"), TimedOut("x", deadline="place")]
    )
    async def test_another_one_answers_and_nothing_was_spent(self, error: EngineError) -> None:
        engine = pool(*(dying(f"sick{number}", 0, error) for number in range(4)), counting("well"), moves=0)
        events = await events_of(engine)
        assert (text(events), spent(events)) == (WORDS, [])

    @pytest.mark.parametrize(
        "error", [TimedOut("x", deadline="first_token"), BadReply("x"), Unavailable("", status=504)]
    )
    async def test_what_may_have_been_billed_is_counted(self, error: EngineError) -> None:
        sick = dying("sick", 0, error)
        engine = pool(sick, counting("well"))
        engine.drain("well", True)
        with pytest.raises(type(error)):
            await events_of(engine)
        engine.drain("well", False)
        engine.members[1].work = 5
        engine.members[0].resting_until = 0.0
        events = await events_of(engine)
        read = prompt_tokens(Prompt(ASK), "m")
        assert text(events) == WORDS
        assert spent(events) == [Usage(read.tokens, 0, source="estimated")]

    async def test_no_more_of_it_than_is_put_aside(self) -> None:
        slow = [dying(f"slow{number}", 0, TimedOut("x", deadline="first_token")) for number in range(6)]
        with pytest.raises(TimedOut):
            await events_of(pool(*slow, moves=2))
        assert sum(len(member.prompts) for member in slow) == 3

    @pytest.mark.parametrize("error", [Refused("x"), PromptTooLong("x")])
    async def test_what_all_would_refuse(self, error: EngineError) -> None:
        members = [dying(f"m{number}", 0, error) for number in range(3)]
        with pytest.raises(type(error)):
            await events_of(pool(*members))
        assert sum(len(member.prompts) for member in members) == 1

    async def test_the_last_error_is_told_when_nobody_can(self) -> None:
        members = [dying(f"m{number}", 0) for number in range(3)]
        with pytest.raises(Unavailable, match="gone"):
            await events_of(pool(*members))
        assert [len(member.prompts) for member in members] == [1, 1, 1]


def first(engine: Pool, member: int) -> Pool:
    """Let the others be busier."""
    for each in engine.members:
        each.work = 0 if each.number == member else 1
    return engine


class TestInTheMiddle:
    @pytest.mark.parametrize("after", [1, 2, 5])
    async def test_another_one_goes_on_from_the_very_text(self, after: int) -> None:
        well = counting("well")
        engine = first(pool(dying("sick", after), well), 0)
        events = await events_of(engine, Prompt(ASK, max_tokens=50))
        assert text(events) == WORDS, "each character once"
        said = " ".join(WORDS.split()[:after])
        (prompt,) = well.prompts
        assert prompt.prefix == said
        written = text_tokens(said, "m").tokens
        assert prompt.max_tokens == 50 - written
        assert spent(events) == [Usage(prompt_tokens(Prompt(ASK), "m").tokens, written, source="estimated")]
        finish = events[-1]
        assert isinstance(finish, Finish)
        assert finish.usage is not None
        assert engine.moved == 1

    @pytest.mark.parametrize("error", [BadReply("x"), *(TimedOut("x", deadline=which) for which in ("idle", "total"))])
    async def test_whatever_it_died_of(self, error: EngineError) -> None:
        assert text(await events_of(first(pool(dying("sick", 2, error), counting("well")), 0))) == WORDS

    async def test_twice(self) -> None:
        engine = first(pool(dying("a", 2), dying("b", 1), counting("c")), 0)
        events = await events_of(engine, Prompt(ASK, max_tokens=50))
        assert text(events) == WORDS
        assert spent(events)[0].output == text_tokens("one two", "m").tokens

    async def test_no_more_often_than_is_put_aside(self) -> None:
        members = [dying(f"m{number}", 1) for number in range(5)]
        with pytest.raises(Unavailable):
            await events_of(pool(*members, moves=2))
        assert sum(len(member.prompts) for member in members) == 3

    @pytest.mark.parametrize(
        "prompt",
        [
            Prompt(ASK, n=2),
            Prompt(ASK, sampling=Sampling(logprobs=True)),
            Prompt(ASK, options={"tools": [{"type": "function"}]}),
            Prompt(ASK, options={"response_format": {"type": "json_object"}}),
        ],
    )
    async def test_what_is_one_piece_is_not_glued(self, prompt: Prompt) -> None:
        well = counting("well")
        with pytest.raises(Unavailable):
            await events_of(first(pool(dying("sick", 2), well), 0), prompt)
        assert well.prompts == []

    async def test_nor_what_has_more_than_text(self) -> None:
        sick = dying("sick", 2, fields={"reasoning_content": "hm"})
        with pytest.raises(Unavailable):
            await events_of(first(pool(sick, counting("well")), 0))

    async def test_nor_by_one_that_cannot(self) -> None:
        mute = counting("mute", abilities=Ability.SAMPLES)
        with pytest.raises(Unavailable):
            await events_of(first(pool(dying("sick", 2), mute), 0))
        assert mute.prompts == []

    async def test_white_space_is_written_once_by_whoever_goes_on(self) -> None:
        says = "one \n\n two"
        sick = Scripted(
            "sick", model="m", chunks=["one", " ", "\n", "\n ", "two"], error=Unavailable("x"), fail_after=3
        )
        well = Scripted("well", lambda prompt: says.removeprefix(prompt.prefix), model="m")
        events = await events_of(first(pool(sick, well), 0))
        assert text(events) == says
        assert well.prompts[0].prefix == "one"

    async def test_white_space_at_the_end_of_an_answer_is_not_lost(self) -> None:
        engine = pool(Scripted("a", model="m", chunks=["one", " ", "\n"]))
        assert text(await events_of(engine)) == "one \n"

    async def test_it_goes_on_from_the_callers_own_prefix(self) -> None:
        well = counting("well")
        engine = first(pool(dying("sick", 2), well), 0)
        assert text(await events_of(engine, Prompt(ASK, prefix="one two"))) == " three four five six"
        assert well.prompts[0].prefix == "one two three four"

    async def test_a_stop_string_may_cross_the_seam(self) -> None:
        sick = Scripted("sick", model="m", chunks=["one ", "EN"], error=Unavailable("x"), fail_after=2)
        well = Scripted("well", model="m", chunks=["D", " two"])
        events = await events_of(first(pool(sick, well), 0), Prompt(ASK, sampling=Sampling(stop=("END",))))
        assert text(events) == "one EN", "what was given cannot be taken back"
        assert events[-1] == Finish(("stop",))
        assert well.closed_early == 1

    async def test_what_only_began_like_a_stop_string_is_given(self) -> None:
        sick = Scripted("sick", model="m", chunks=["one ", "EN"], error=Unavailable("x"), fail_after=2)
        well = Scripted("well", model="m", chunks=["T", "ER"])
        events = await events_of(first(pool(sick, well), 0), Prompt(ASK, sampling=Sampling(stop=("END-OF-TEXT",))))
        assert text(events) == "one ENTER"

    async def test_the_limit_was_reached_when_it_died(self) -> None:
        well = counting("well")
        engine = first(pool(dying("sick", 3), well), 0)
        left = text_tokens("one two three", "m").tokens
        events = await events_of(engine, Prompt(ASK, max_tokens=left))
        assert (text(events), events[-1]) == ("one two three", Finish(("length",), Usage(0, 0, source="counted")))
        assert well.prompts == []

    async def test_a_caller_that_leaves_leaves_nobody_at_work(self) -> None:
        well = counting("well", hang_after=1)
        engine = first(pool(dying("sick", 2), well), 0)
        engine.members[1].work = 0
        engine.members[0].work = -1
        async with aclosing(engine.stream(Prompt(ASK))) as events:
            async for event in events:
                if isinstance(event, Delta) and "three" in event.text:
                    break
        assert well.closed_early == 1
        assert engine.state()["well"]["work"] == 0

    @given(
        st.lists(st.sampled_from(["a", " ", "\n", "é", "日本", ".", "END", "\ufffd", "x y"]), min_size=1, max_size=12),
        st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_each_character_once_wherever_it_dies(self, chunks: list[str], data: st.DataObject) -> None:
        says = "".join(chunks)
        after = data.draw(st.integers(0, len(chunks)))
        sick = Scripted("sick", model="m", chunks=chunks, error=Unavailable("x"), fail_after=after)
        well = Scripted("well", lambda prompt: says.removeprefix(prompt.prefix), model="m")
        events = asyncio.run(events_of(first(pool(sick, well), 0)))
        assert text(events) == says


class TestAbilities:
    async def test_what_all_can(self) -> None:
        able = counting("able", abilities=Ability.CONTINUE | Ability.TOOLS | Ability.SAMPLES)
        less = counting("less", abilities=Ability.CONTINUE | Ability.IMAGES)
        engine = pool(able, less)
        assert await engine.ready() == engine.abilities == Ability.CONTINUE
        engine.drain("less", True)
        assert engine.abilities == able.abilities

    async def test_of_those_that_are_there(self) -> None:
        gone, there = counting("gone", abilities=Ability.NONE), counting("there")
        engine = pool(gone, there)
        await gone.aclose()
        assert await engine.ready() == there.abilities
        assert engine.state()["gone"]["there"] is False
        await there.aclose()
        with pytest.raises(Unavailable, match="no member is there"):
            await engine.ready()

    async def test_one_that_came_back_without_an_ability_is_not_asked_for_it(self) -> None:
        less, able = counting("less", abilities=Ability.NONE), counting("able")
        engine = first(pool(less, able), 0)
        engine.members[0].there = False
        assert text(await events_of(engine, Prompt(ASK, prefix="one"))) == WORDS[3:]
        assert less.prompts == []


class TestAffinity:
    def test_a_longer_conversation_begins_like_the_shorter_one(self) -> None:
        talk: list[Message] = [{"role": "user", "content": str(number)} for number in range(4)]
        assert list(beginnings(Prompt(talk)))[:2] == list(beginnings(Prompt(talk[:2])))

    @pytest.mark.parametrize(
        "other",
        [
            Prompt(({"role": "user", "content": "a"}, {"role": "user", "content": "c"})),
            Prompt(({"role": "user", "content": "ab"},)),
            Prompt(({"role": "user", "content": "a"},), options={"tools": [1]}),
            Prompt(({"role": "user", "content": "a"},), model="other"),
        ],
    )
    def test_another_one_does_not(self, other: Prompt) -> None:
        one = beginnings(Prompt(({"role": "user", "content": "a"}, {"role": "user", "content": "b"})))
        assert beginnings(other)[-1] not in one

    def test_the_oldest_is_forgotten(self) -> None:
        memory = Memory(room=3)
        digests = [bytes([number]) for number in range(5)]
        for digest in digests:
            memory.read([digest], 0)
        assert Counter(memory.known([digest], 0) for digest in digests) == {1: 3, 0: 2}
        memory.forget(0)
        assert not any(memory.known([digest], 0) for digest in digests)


def test_equals_take_turns() -> None:
    members: list[Callable[..., Scripted]] = [counting] * 3
    engine = pool(*(make(f"m{number}") for number, make in enumerate(members)))
    picked = [engine._pick(Prompt(ASK), (), set()).number for _ in range(6)]
    assert sorted(picked) == [0, 0, 1, 1, 2, 2]
