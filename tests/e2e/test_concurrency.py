"""A hundred requests at once: nobody gets another one's words, everybody is booked, and the places are free again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e import gateways
from tests.e2e.answers import Answer, check_accounts, heard
from tests.e2e.served import eventually, serving
from tests.e2e.talkers import NAMES, told, topics
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CROWD = 100


@pytest.fixture
def crowded(tmp_path_factory: pytest.TempPathFactory, own: Fakes) -> Iterator[Served]:
    """A gateway with exactly as many places as there are guests."""
    config = {
        "server": {"max_in_flight": CROWD},
        "upstreams": {"teacher": own.teachers_spec(), "student": own.students_spec()},
        "routes": gateways.routes(),
        "prices": gateways.PRICES,
    }
    with serving(tmp_path_factory.mktemp("crowded"), config, **{gateways.KEY_ENV: OpenAI.KEY}) as served:
        yield served


async def one(sdk: AsyncOpenAI, topic: str, strategy: str) -> Answer:
    request: Any = {"model": NAMES[strategy], "messages": [{"role": "user", "content": topic}]}
    stream = await sdk.chat.completions.create(stream=True, stream_options={"include_usage": True}, **request)
    async with stream as chunks:
        return heard([chunk async for chunk in chunks])


def inside(own: Fakes, guests: set[str]) -> bool:
    """True when everybody's question has reached a model."""
    asked = [*own.teacher.asked, *own.student.asked]
    return guests <= {topic for body in asked for topic in topics(body)}


async def test_a_hundred_streams_at_once(crowded: Served, own: Fakes) -> None:
    strategies = list(NAMES)
    async with crowded.async_sdk() as sdk:
        for round_ in range(2):  # the second needs every place that the first had
            own.teacher.gate.clear()
            own.student.gate.clear()
            guests = [(f"item-{round_}x{number}", strategies[number % 5]) for number in range(CROWD)]
            tasks = [asyncio.create_task(one(sdk, *guest)) for guest in guests]
            await asyncio.to_thread(eventually, partial(inside, own, {topic for topic, _ in guests}), 30)
            with pytest.raises(openai.InternalServerError) as caught:  # everybody is inside, and nobody answered yet
                await one(sdk, "item-late", "student")
            assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
            own.teacher.gate.set()
            own.student.gate.set()
            answers = await asyncio.gather(*tasks)
            assert [answer.text for answer in answers] == [told(*guest) for guest in guests]
            assert [answer.receipt["strategy"] for answer in answers] == [strategy for _, strategy in guests]
            assert len({answer.id for answer in answers}) == CROWD
            for answer in answers[::5]:
                await asyncio.to_thread(check_accounts, crowded, answer)

    rows = crowded.sql("SELECT * FROM entries")
    assert len(rows) == 2 * CROWD  # the late ones were not let in, and have none
    assert Counter(row["outcome"] for row in rows) == {"ok": 2 * CROWD}
    assert Counter(row["strategy"] for row in rows) == dict.fromkeys(strategies, 2 * CROWD // 5)
    calls = crowded.sql("SELECT upstream, COUNT(*) AS calls FROM calls WHERE NOT is_open GROUP BY upstream")
    probes = 1
    assert {row["upstream"]: row["calls"] for row in calls} == {
        "teacher": len(own.teacher.asked),
        "student": len(own.student.asked) - probes,
    }
    assert crowded.sql("SELECT id FROM calls WHERE is_open") == []
