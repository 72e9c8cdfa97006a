"""The paper's own setting: teacher and student both run here, in batches, and share no vocabulary."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from gateway.bootstrap import open_gateway
from gateway.chat import Caller, Chat, Exchange
from gateway.config import Config
from gateway.pipeline import Gateway
from students.engine import Delta, Finish, Sampling
from students.guard import Guard
from students.in_process import InProcess
from tests.students.tiny import Family, tiny

pytestmark = pytest.mark.anyio

INPUTS = 10
GUIDANCE = 8


def saved(folder: Path, family: Family, size: int) -> str:
    """A tiny model as files, with a vocabulary of `size`."""
    model = tiny(family, size=size)
    model._network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


async def answered(gateway: Gateway, number: int) -> tuple[Exchange, str, Finish]:
    messages = [{"role": "user", "content": f"How many apples are left of {number}?"}]
    chat = Chat(f"request-{number}", "gkt", messages, Sampling(temperature=0.0), max_tokens=16, size=400)
    exchange = gateway.open(chat, Caller())
    async with aclosing(gateway.answer(exchange)) as stream:
        events = [event async for event in stream]
    finish = events.pop()
    assert isinstance(finish, Finish)
    return exchange, "".join(event.text for event in events if isinstance(event, Delta)), finish


async def test_a_teacher_writes_guidance_for_many_at_once_and_a_student_goes_on(tmp_path: Path) -> None:
    config = Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "upstreams": {
                "teacher": {
                    "kind": "transformers",
                    "model": "bloom",
                    "path": saved(tmp_path / "teacher", "bloom", 420),
                },
                "student": {
                    "kind": "transformers",
                    "model": "llama",
                    "path": saved(tmp_path / "student", "llama", 340),
                },
            },
            "routes": {
                "gkt": {
                    "strategy": "cut-off",
                    "teacher": "teacher",
                    "student": "student",
                    "guidance_tokens": GUIDANCE,
                }
            },
            "prices": {"bloom": {"per_hour": 3.6}, "llama": {"per_hour": 0.36}},
        }
    )
    async with open_gateway(config, environ={}) as gateway:
        teacher, student = (gateway.upstreams[name].engine for name in ("teacher", "student"))
        for engine in (teacher, student):
            assert isinstance(engine, Guard)
            assert isinstance(engine.engine, InProcess)
        answers = await asyncio.gather(*(answered(gateway, number) for number in range(INPUTS)))
    for exchange, text, _ in answers:
        stages = {call.stage: call for call in exchange.calls}
        guidance = stages["guidance"]
        assert guidance.usage is not None
        assert guidance.usage.output is not None
        assert 0 < guidance.usage.output <= GUIDANCE
        assert guidance.line is not None, "a teacher that runs here is priced by its seconds"
        assert guidance.usage.seconds
        assert exchange.outcome == "ok"
        if "answer" in stages:
            continued = stages["answer"].prompt
            assert continued is not None
            assert text.startswith(continued.prefix)
    assert sum("answer" in {call.stage for call in exchange.calls} for exchange, _, _ in answers) > INPUTS // 2
