"""When an upstream is left alone, and who may try it again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from students.breaker import OPEN, TRIAL_SECONDS, Breaker, MemorySwitches, State
from students.errors import Unavailable
from students.spec import BreakerSpec

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, switches: MemorySwitches | None = None, **rules: float) -> Breaker:
    spec = BreakerSpec.model_validate({"failures": 3, "seconds": 30, "open_seconds": 10, **rules})
    made = Breaker("upstream", spec, clock)
    if switches is not None:
        made.share(switches)
    return made


def state(one: Breaker) -> State:
    return one.position.state


async def test_failures_in_a_row_open_it(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(2):
        assert await one.enter() is False
        one.bad()
    assert state(one) == "closed"
    one.bad()
    assert state(one) == "open"
    clock.now += 4
    with pytest.raises(Unavailable, match="tried again in 6 s") as caught:
        await one.enter()
    assert (caught.value.code, caught.value.engine, caught.value.retry_after) == (OPEN, "upstream", 6.0)


async def test_a_few_among_many_do_not(clock: Clock) -> None:
    one = breaker(clock, share=0.5)
    for _ in range(10):
        one.good()
    for _ in range(9):
        one.bad()
    assert state(one) == "closed"
    one.bad()
    assert state(one) == "open", "half of them"


async def test_old_failures_are_forgotten(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(5):
        one.bad()
        clock.now += 16
    assert state(one) == "closed"


async def test_one_call_tries_and_closes_it(clock: Clock) -> None:
    switches = MemorySwitches(clock)
    one, other = breaker(clock, switches), breaker(clock, switches)
    for _ in range(3):
        one.bad()
    clock.now += 10
    assert state(other) == "half-open"
    assert await other.enter() is True
    with pytest.raises(Unavailable, match="being tried now") as caught:
        await one.enter()
    assert caught.value.retry_after is None
    other.close()
    assert await one.enter() is False
    one.bad()
    assert state(one) == "closed", "it begins anew"


async def test_a_trial_that_fails_opens_it_again(clock: Clock) -> None:
    one = breaker(clock)
    for _ in range(3):
        one.bad()
    clock.now += 10
    assert await one.enter() is True
    one.bad(trial=True)
    assert state(one) == "open"
    assert one.position.wait == 10.0


async def test_a_trial_that_found_nothing_out_is_free_for_the_next(clock: Clock) -> None:
    one = breaker(clock, failures=1)
    one.bad()
    clock.now += 10
    assert await one.enter() is True
    one.leave()
    assert await one.enter() is True


async def test_a_trial_that_is_never_heard_of_again_is_given_to_another(clock: Clock) -> None:
    one = breaker(clock, failures=1)
    one.bad()
    clock.now += 10
    assert await one.enter() is True
    clock.now += TRIAL_SECONDS
    assert await one.enter() is True


async def test_many_at_once_make_one_trial(clock: Clock) -> None:
    one = breaker(clock, failures=1)
    one.bad()
    clock.now += 10
    got = await asyncio.gather(*(one.enter() for _ in range(20)), return_exceptions=True)
    assert sorted(str(type(each).__name__) for each in got) == ["Unavailable"] * 19 + ["bool"]


async def test_without_rules_it_never_opens(clock: Clock) -> None:
    one = Breaker("upstream", None, clock)
    for _ in range(100):
        one.bad()
    assert await one.enter() is False


class Machine(RuleBasedStateMachine):
    """Whatever happens, it is open for no longer than it says, and one call at a time tries."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.one = breaker(self.clock)
        self.trying_until = 0.0
        self.trying = False

    @rule(seconds=st.floats(0, 80))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        if self.clock.now >= self.trying_until:
            self.trying = False

    @rule(end=st.sampled_from(["close", "bad", "leave", "good"]))
    def ends(self, end: str) -> None:
        if end == "good" or not self.trying:
            if end == "bad":
                self.one.bad()
            else:
                self.one.good()
            return
        self.trying = False
        if end == "bad":
            self.one.bad(trial=True)
            assert state(self.one) == "open"
        elif end == "close":
            self.one.close()
            assert state(self.one) == "closed"
        else:
            self.one.leave()

    @rule()
    def enter(self) -> None:
        before = self.one.position
        try:
            trial = asyncio.run(self.one.enter())
        except Unavailable:
            assert before.wait > 0
            return
        assert before.wait == 0
        assert trial == (before.state == "half-open")
        if trial:
            assert not self.trying
            self.trying, self.trying_until = True, self.clock.now + TRIAL_SECONDS

    @invariant()
    def never_longer_than_it_says(self) -> None:
        assert self.one.position.wait <= max(10.0, TRIAL_SECONDS)


TestMachine = Machine.TestCase
