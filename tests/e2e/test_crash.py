"""`kill -9` in the middle of fifty requests: what was delivered is booked, what a model was asked is on record."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI

from tests.e2e import gateways
from tests.e2e.answers import Answer, check_accounts, heard, whole
from tests.e2e.served import eventually, gone, serving
from tests.e2e.talkers import LENGTH, NAMES, sky, topics
from tests.fakes import OpenAI

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served
    from tests.e2e.talkers import Topical

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CROWD = 50
QUICK = range(20)
"""Answers that end one after the other, so that the kill falls between two of them."""

SLOW = range(20, 34)
"""Answers that are being written, by the teacher or by the student."""

WAITING = range(34, 45)
"""Questions that a model has heard and not begun to answer."""

REAL = range(45, 49)
"""Questions to the real student."""

LAST = 49
"""The guest who comes when all others are there."""

DELIVERED = 11
"""Answers after which it is the middle."""


@dataclass
class Crowd:
    """What fifty clients saw. `after` is called with each answer, before anything else can happen in the test."""

    after: Callable[[], None]
    delivered: dict[int, Answer] = field(default_factory=dict)
    begun: dict[int, str] = field(default_factory=dict)
    """Ids of the streams that brought some text."""
    lost: list[int] = field(default_factory=list)

    async def ask(self, sdk: AsyncOpenAI, number: int) -> None:
        """One client; it never raises."""
        strategy = list(NAMES)[number % 5]
        overrides: dict[str, Any] = {"strategy": strategy}
        request: dict[str, Any] = {"model": f"guest-{number}", "messages": [{"role": "user", "content": topic(number)}]}
        if number in REAL:
            overrides = {"student": "llama"}
            request |= {"messages": sky(topic(number)), "max_tokens": 1500, "logit_bias": {"2": -100}}
        stream = bool(number % 2)
        try:
            got: Any = await sdk.chat.completions.create(stream=stream, extra_body={"gkt": overrides}, **request)
            if not stream:
                self.delivered[number] = whole(got)
                self.after()
                return
            chunks = []
            async for chunk in got:
                if chunk.choices and chunk.choices[0].delta.content:
                    self.begun[number] = chunk.id
                chunks.append(chunk)
            self.delivered[number] = heard(chunks)
            self.after()
        except Exception:  # noqa: BLE001 - a connection that breaks shows in many ways, in each major version in others
            self.lost.append(number)


def topic(number: int) -> str:
    return f"item-guest{number}"


def pace(fakes: Fakes) -> None:
    """See the ranges above."""
    for number in QUICK:
        each = (0.0, 0.1 * (1 + number) / LENGTH)
        fakes.teacher.paces[topic(number)] = fakes.student.paces[topic(number)] = each
    for number in SLOW:
        fakes.student.paces[topic(number)] = (0.0, 1.0)
        if number % 3 == 0:
            fakes.teacher.paces[topic(number)] = (0.0, 1.0)
    for number in (*WAITING, LAST):
        fakes.teacher.paces[topic(number)] = fakes.student.paces[topic(number)] = (60.0, 0.0)


def options(own: Fakes) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration and the environment of the gateway, before and after."""
    config = {
        "upstreams": {
            "teacher": own.teachers_spec(),
            "student": own.students_spec(),
            "llama": {"kind": "llamacpp", "slots": 4},
        },
        "routes": {"*": gateways.routes()["gkt"]},
        "prices": gateways.PRICES,
    }
    return config, {gateways.KEY_ENV: OpenAI.KEY}


def reached(fake: Topical) -> Counter[str]:
    """How often the fake was asked about each topic, probes aside."""
    return Counter(each for body in list(fake.asked) for each in topics(body))


@pytest.mark.parametrize("moment", ["as an answer is delivered", "as a call reaches a model"])
async def test_kill_in_the_middle(tmp_path: Path, own: Fakes, moment: str) -> None:
    """At the two moments at which a ledger that is late by a millisecond has lost something."""
    gateways.needs_llama()
    pace(own)
    config, environ = options(own)
    with serving(tmp_path, config, **environ) as served:

        def kill_in_the_middle() -> None:
            if moment == "as an answer is delivered" and in_the_middle(crowd, own):
                served.process.kill()

        crowd = Crowd(kill_in_the_middle)
        if moment == "as a call reaches a model":
            own.teacher.alarm = (topic(LAST), served.process.kill)
        llamas = served.models()
        assert len(llamas) == 1
        async with served.async_sdk() as sdk:
            clients = [asyncio.create_task(crowd.ask(sdk, number)) for number in range(LAST)]
            enough = in_the_middle if own.teacher.alarm else all_there
            await asyncio.to_thread(eventually, lambda: enough(crowd, own), 20)
            clients.append(asyncio.create_task(crowd.ask(sdk, LAST)))
            await asyncio.to_thread(served.process.wait, 30)
            await asyncio.gather(*clients)
        assert gone(llamas), "the model server outlived the gateway"

    # It was the middle: some have their answer, some a part of it, and some nothing.
    assert DELIVERED <= len(crowd.delivered) <= len(QUICK)
    assert sorted([*crowd.delivered, *crowd.lost]) == list(range(CROWD))
    assert len(crowd.begun.keys() & set(SLOW)) >= 3
    assert len(crowd.begun.keys() & set(REAL)) == 2
    left_open = {row["id"] for row in served.sql("SELECT id FROM calls WHERE is_open")}
    assert len(left_open) >= CROWD - len(QUICK)

    with serving(tmp_path, config, **environ) as again:
        await asyncio.to_thread(check, again, own, crowd, left_open)


def in_the_middle(crowd: Crowd, own: Fakes) -> bool:
    return len(crowd.delivered) >= DELIVERED and all_there(crowd, own)


def all_there(crowd: Crowd, own: Fakes) -> bool:
    """True when those who wait are heard, and those who listen hear something."""
    heard_of = reached(own.teacher) + reached(own.student)
    return (
        all(topic(number) in heard_of for number in (*SLOW, *WAITING))
        and len(crowd.begun.keys() & set(SLOW)) >= 3
        and len(crowd.begun.keys() & set(REAL)) == 2
    )


def check(again: Served, own: Fakes, crowd: Crowd, left_open: set[str]) -> None:
    """The books of the gateway that was started after the crash."""
    entries = {row["request_id"]: row for row in again.sql("SELECT * FROM entries")}
    calls = again.sql("SELECT * FROM calls")
    assert again.sql("PRAGMA integrity_check") == [{"integrity_check": "ok"}]

    # Every answer that was delivered has its entry, with the very receipt that was delivered.
    for answer in crowd.delivered.values():
        assert check_accounts(again, answer)["outcome"] == "ok"

    # Every call that reached a model is on record, each under the request that it was made for.
    for fake in (own.teacher, own.student):
        name = "teacher" if fake is own.teacher else "student"
        recorded = Counter(topic(int(row["asked"].removeprefix("guest-"))) for row in calls if row["upstream"] == name)
        assert reached(fake) <= recorded, name
        # What is on record and did not reach it was about to: its intent is written first.
        for ahead in recorded - reached(fake):
            assert any(row["is_bound"] for row in calls if ahead.endswith(row["asked"].replace("-", "")))
    assert sum(row["upstream"] == "llama" for row in calls) == len(REAL)

    # What was open is settled at its bound, and marked; nothing else is.
    assert [row for row in calls if row["is_open"]] == []
    assert {row["id"] for row in calls if row["is_bound"]} == left_open
    for row in calls:
        if row["is_bound"]:
            assert row["amount"] == row["bound_amount"] > 0
            assert entries[row["request_id"]]["outcome"] == "recovered"
    for number, request_id in crowd.begun.items():
        expected = {"ok"} if number in crowd.delivered else {"ok", "recovered"}
        assert entries[request_id]["outcome"] in expected

    # Calls belong to entries, and an entry is the sum of its calls.
    for request_id, entry in entries.items():
        own_calls = [row for row in calls if row["request_id"] == request_id]
        assert entry["spent"] == sum(row["amount"] for row in own_calls)
        assert entry["bound_spent"] == sum(row["amount"] for row in own_calls if row["is_bound"])
        assert entry["model"] == own_calls[0]["asked"]
    assert {row["request_id"] for row in calls} == entries.keys()
    assert len({entry["model"] for entry in entries.values()}) == len(entries), "one entry a request"

    # And the savings are the sums.
    (sums,) = json.loads(again.run("savings", "--json"))["data"]
    rows = list(entries.values())
    assert sums["requests"] == len(rows)
    assert sums["outcomes"] == dict(sorted(Counter(row["outcome"] for row in rows).items()))
    assert sums["spent"]["nano_usd"] == sum(row["spent"] for row in rows) == sum(row["amount"] for row in calls)
    for stage in ("guidance", "answer", "fallback"):
        of_stage = sum(row["amount"] for row in calls if row["stage"] == stage)
        assert sums["spent_by_stage"][stage]["nano_usd"] == of_stage
    assert sums["bound"]["nano_usd"] == sum(row["amount"] for row in calls if row["is_bound"])
    assert sums["unpriced"] == 0
    compared = [row for row in rows if row["baseline_likely"] is not None]
    assert sums["compared"] == len(compared)
    assert sums["baseline"]["nano_usd"] == sum(row["baseline_likely"] for row in compared)
    assert sums["saved"]["nano_usd"] == sum(row["baseline_likely"] - row["spent"] for row in compared)
    assert again.get("/gkt/v1/savings")["data"] == [sums]
