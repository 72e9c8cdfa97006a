"""A client that leaves: the models are stopped at once, and what they said by then is on the bill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.e2e.answers import ask
from tests.e2e.served import eventually
from tests.e2e.talkers import sky, students_words, teachers_words

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served
    from tests.e2e.talkers import Topical

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

AT_ONCE = 0.1
"""Seconds within which a model has to be stopped."""

SLOWLY = (0.0, 0.25)
"""An answer that would take three seconds."""

ENDLESS = {"logit_bias": {"2": -100}, "max_tokens": 1500}
"""SmolLM2 may not say its end-of-turn token: ten seconds of words, whatever they are."""


def stopped_at(fake: Topical, topic: str) -> float:
    """When the fake noticed that its reader had left."""
    return eventually(lambda: fake.parted(topic))


def booked(served: Served, model: str) -> dict[str, Any]:
    """The only entry of this model's name, abandoned, with every call closed and every call but a cut one complete."""
    eventually(lambda: served.entries(model))
    (row,) = served.entries(model)
    entry = served.entry(row["request_id"])
    assert entry["outcome"] == "abandoned"
    assert entry["error"] is None
    assert [call["is_open"] for call in entry["calls"]] == [False] * len(entry["calls"])
    assert all(call["amount"] > 0 for call in entry["calls"])
    assert entry["spent"] == sum(call["amount"] for call in entry["calls"])
    assert [call["cut"] for call in entry["calls"]] == [False] * (len(entry["calls"]) - 1) + [True]
    return entry


class TestOverFakes:
    def test_leaving_a_stream_during_the_students_part(self, faked: Served, fakes: Fakes, topic: str) -> None:
        fakes.student.paces[topic] = SLOWLY
        model, said = f"left-{topic}", ""
        request: Any = {"model": model, "messages": [{"role": "user", "content": topic}]}
        stream = faked.sdk.chat.completions.create(stream=True, **request)
        for chunk in stream:
            said += chunk.choices[0].delta.content or ""
            if students_words(topic)[1] in said:
                break
        left = time.monotonic()
        stream.response.close()
        assert stopped_at(fakes.student, topic) - left < AT_ONCE
        entry = booked(faked, model)
        assert entry["request_id"] == chunk.id
        guidance, answer = entry["calls"]
        assert (guidance["seat"], guidance["usage"]["source"], guidance["finish"]) == ("teacher", "reported", "length")
        assert (answer["seat"], answer["finish"]) == ("student", None)
        assert answer["usage"]["source"] != "reported"  # a call cut short reports nothing: counted, and marked so
        assert 0 < answer["usage"]["output"] < entry["calls"][1]["bound_amount"]
        assert entry["baseline"]["likely"] > 0

    async def test_leaving_without_a_stream_during_the_students_part(
        self, faked: Served, fakes: Fakes, topic: str
    ) -> None:
        fakes.student.paces[topic] = SLOWLY
        model = f"left-{topic}"
        left = await self.leave(faked, model, topic, lambda: bool(fakes.student.about(topic)))
        assert await asyncio.to_thread(stopped_at, fakes.student, topic) - left < AT_ONCE
        entry = await asyncio.to_thread(booked, faked, model)
        assert [call["seat"] for call in entry["calls"]] == ["teacher", "student"]
        assert entry["calls"][0]["usage"]["source"] == "reported"

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("strategy", ["cut-off", "hint", "teacher"])
    async def test_leaving_during_the_teachers_part(
        self, faked: Served, fakes: Fakes, strategy: str, stream: bool, topic: str
    ) -> None:
        fakes.teacher.paces[topic] = SLOWLY
        model = f"left-{topic}"
        options = {"stream": stream, "extra_body": {"gkt": {"strategy": strategy}}}
        left = await self.leave(faked, model, topic, lambda: bool(fakes.teacher.about(topic)), **options)
        assert await asyncio.to_thread(stopped_at, fakes.teacher, topic) - left < AT_ONCE
        entry = await asyncio.to_thread(booked, faked, model)
        (call,) = entry["calls"]
        assert (call["seat"], call["upstream"]) == ("teacher", "teacher")
        assert entry["strategy"] == strategy
        assert fakes.student.about(topic) == []
        # Cutting a stream is no refund: what was read and what was written so far is billed, as counted.
        assert call["amount"] <= call["bound_amount"]

    async def test_many_leave_at_once(self, faked: Served, fakes: Fakes, topic: str) -> None:
        """None is forgotten, none is booked twice, and the others are answered."""
        topics = [f"{topic}x{number}" for number in range(20)]
        for number, each in enumerate(topics):
            if number % 2:
                fakes.student.paces[each] = SLOWLY
        async with faked.async_sdk() as sdk:

            async def one(each: str) -> str | None:
                request: Any = {"model": f"left-{topic}", "messages": [{"role": "user", "content": each}]}
                completion = await sdk.chat.completions.create(**request)
                text: str | None = completion.choices[0].message.content
                return text

            tasks = [asyncio.create_task(one(each)) for each in topics]
            await asyncio.to_thread(eventually, lambda: all(fakes.student.about(each) for each in topics[1::2]))
            for task in tasks[1::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for each, text in zip(topics[::2], done[::2], strict=True):
            assert text == "".join(teachers_words(each)[:4] + students_words(each))
        assert all(isinstance(end, asyncio.CancelledError) for end in done[1::2])
        eventually(lambda: len(faked.entries(f"left-{topic}")) == 20)
        outcomes = [row["outcome"] for row in faked.entries(f"left-{topic}")]
        assert (outcomes.count("ok"), outcomes.count("abandoned")) == (10, 10)

    @staticmethod
    async def leave(served: Served, model: str, topic: str, when: Callable[[], bool], **options: Any) -> float:
        """Ask, leave as soon as `when` says so, and return the moment."""
        async with served.async_sdk() as sdk:

            async def asked() -> None:
                request: Any = {"model": model, "messages": [{"role": "user", "content": topic}], **options}
                answer = await sdk.chat.completions.create(**request)
                if options.get("stream"):
                    async for _ in answer:
                        pass

            task = asyncio.create_task(asked())
            await asyncio.to_thread(eventually, when)
            await asyncio.sleep(0.05)
            assert not task.done()
            left = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return left


class TestOverARealStudent:
    """The llama.cpp server cannot be asked when it stopped, but the time that it computes can be read."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_its_slot_is_free_again(self, mixed: Served, stream: bool, topic: str) -> None:
        (llama,) = mixed.models()
        model = f"left-{topic}"
        async with mixed.async_sdk() as sdk:

            async def asked() -> None:
                request: Any = {"model": model, "messages": sky(topic), "stream": stream, **ENDLESS}
                answer = await sdk.chat.completions.create(**request)
                if stream:
                    async for _ in answer:
                        pass

            idle = computed(llama)
            task = asyncio.create_task(asked())
            await asyncio.to_thread(eventually, lambda: computed(llama) > idle + 0.4)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(eventually, lambda: rests(llama), within=3.0)

        entry = await asyncio.to_thread(booked, mixed, model)
        assert [call["seat"] for call in entry["calls"]] == ["teacher", "student"]
        assert entry["duration"] < 8
        # Its only slot: an answer that was still being written would be in the way.
        began = time.monotonic()
        await asyncio.to_thread(ask, mixed, topic, model="student", messages=sky(topic), max_tokens=2)
        assert time.monotonic() - began < 2


def rests(process: psutil.Process) -> bool:
    """Whether it computes next to nothing for half a second. Where it was reading a prompt it notices a little late."""
    before = computed(process)
    time.sleep(0.5)
    return computed(process) - before < 0.05


def computed(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)
