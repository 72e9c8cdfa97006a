"""What all `Switches` promise: in memory, and in a real Redis, seen by the same process and by another one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway.shared.redis_switches import RedisSwitches
from students.breaker import Breaker, MemorySwitches, State, Switches
from students.errors import Unavailable
from students.spec import BreakerSpec
from tests.contracts.places import PATIENT, SUBJECTS, linked

pytestmark = pytest.mark.anyio

LONG, SHORT = 600.0, 0.05


@dataclass(frozen=True)
class Pair:
    """The same switches as two processes have them; in memory there is one process."""

    one: Switches
    other: Switches


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Pair]:
    if url is None:
        switches = MemorySwitches()
        yield Pair(switches, switches)
        return
    async with linked(url) as (link, prefix), linked(url) as (second, _):
        yield Pair(RedisSwitches(link, prefix=prefix, look=0.02), RedisSwitches(second, prefix=prefix, look=0.02))


@pytest.fixture(params=["memory", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    url = None if request.param == "memory" else str(request.getfixturevalue("redis_url"))
    async with opened(url) as found:
        yield found


def state(switches: Switches, name: str = "upstream") -> State:
    return switches.position(name).state


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited for ten seconds in vain")


async def test_nobody_knows_of_faults_at_first(pair: Pair) -> None:
    assert state(pair.one) == state(pair.other) == "closed"
    assert await pair.one.claim("upstream", LONG), "closed: everybody may ask"
    assert await pair.other.claim("upstream", LONG)


async def test_what_one_opens_is_open_for_the_other(pair: Pair) -> None:
    assert state(pair.other) == "closed"
    pair.one.open("upstream", LONG)
    assert state(pair.one) == "open", "at once, for the one that found it"
    await until(lambda: state(pair.other) == "open")
    assert LONG - 60 < pair.other.position("upstream").wait <= LONG
    assert not await pair.one.claim("upstream", LONG)
    assert not await pair.other.claim("upstream", LONG)
    assert state(pair.other, "another") == "closed"


async def test_the_longer_one_holds(pair: Pair) -> None:
    pair.one.open("upstream", LONG)
    await until(lambda: state(pair.other) == "open")
    pair.other.open("upstream", SHORT)
    await asyncio.sleep(2 * SHORT)
    assert state(pair.one) == state(pair.other) == "open"


async def test_one_of_all_tries(pair: Pair) -> None:
    pair.one.open("upstream", SHORT)
    await until(lambda: state(pair.one) == state(pair.other) == "half-open")
    claims = [each.claim("upstream", LONG) for _ in range(10) for each in (pair.one, pair.other)]
    assert sum(await asyncio.gather(*claims)) == 1
    await until(lambda: pair.one.position("upstream").wait > 0 and pair.other.position("upstream").wait > 0)
    assert state(pair.one) == state(pair.other) == "half-open"


async def test_its_word_closes_it_for_all(pair: Pair) -> None:
    pair.one.open("upstream", SHORT)
    await until(lambda: state(pair.one) == state(pair.other) == "half-open")
    assert await pair.other.claim("upstream", LONG)
    pair.other.close("upstream")
    assert state(pair.other) == "closed"
    await until(lambda: state(pair.one) == "closed")
    assert await pair.one.claim("upstream", LONG)


async def test_a_trial_given_back_is_free_for_all(pair: Pair) -> None:
    pair.one.open("upstream", SHORT)
    await until(lambda: state(pair.one) == state(pair.other) == "half-open")
    assert await pair.one.claim("upstream", LONG)
    pair.one.release("upstream")
    await until(lambda: not pair.one.position("upstream").wait and not pair.other.position("upstream").wait)
    assert await pair.one.claim("upstream", LONG), "what was said before is heard before"
    assert not await pair.other.claim("upstream", LONG)


async def test_a_trial_ends_by_itself(pair: Pair) -> None:
    pair.one.open("upstream", SHORT)
    await until(lambda: state(pair.one) == "half-open")
    assert await pair.one.claim("upstream", SHORT)
    await until(lambda: pair.one.position("upstream").wait == 0)
    assert await pair.one.claim("upstream", SHORT)


async def test_opened_and_closed_in_one_breath(pair: Pair) -> None:
    for _ in range(20):
        pair.one.open("upstream", LONG)
        pair.one.close("upstream")
    assert state(pair.one) == "closed"
    await asyncio.sleep(0.1)
    assert state(pair.one) == state(pair.other) == "closed", "told in the order in which it happened"


@pytest.mark.parametrize("name", SUBJECTS)
async def test_any_name_has_a_switch(pair: Pair, name: str) -> None:
    pair.one.open(name, LONG)
    await until(lambda: state(pair.other, name) == "open")
    assert not await pair.other.claim(name, LONG)


async def test_breakers_in_two_processes_agree(pair: Pair) -> None:
    one, other = (Breaker("upstream", BreakerSpec(failures=3, open_seconds=SHORT)) for _ in range(2))
    one.share(pair.one)
    other.share(pair.other)
    assert not await other.enter()
    for _ in range(3):
        assert not await one.enter()
        one.bad()
    await until(lambda: other.position.state == "half-open")
    assert await other.enter() is True
    with pytest.raises(Unavailable, match="being tried"):
        await one.enter()
    other.close()
    await until(lambda: one.position.state == "closed")
    assert await one.enter() is False


PROGRAM = """
import asyncio, sys
from gateway.shared.link import Link
from gateway.shared.redis_switches import RedisSwitches

async def main():
    link = Link(sys.argv[1], seconds={patient})
    switches = RedisSwitches(link, prefix=sys.argv[2], look=0.02)
    while switches.position("upstream").state != sys.argv[3]:
        await asyncio.sleep(0.01)
    print(await switches.claim("upstream", 600))
    await link.aclose()

asyncio.run(asyncio.wait_for(main(), 60))
"""


async def test_another_process_sees_it(redis_url: str) -> None:
    async with linked(redis_url) as (link, prefix):
        switches = RedisSwitches(link, prefix=prefix)
        for seconds, expected, may in ((LONG, "open", "False"), (None, "closed", "True")):
            if seconds is not None:
                switches.open("upstream", seconds)
            else:
                switches.close("upstream")
            program = PROGRAM.format(patient=PATIENT)
            ran = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, redis_url, prefix, expected, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await ran.communicate()
            assert said.decode().strip() == may
