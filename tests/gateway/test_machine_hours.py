"""Calls to a machine at `$ per hour` that overlap: what all of them pay is what the machine was busy for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.dashboard import machines
from gateway.dashboard.machines import Use
from gateway.dashboard.period import Period
from gateway.errors import UpstreamFailed
from gateway.ledger.entry import Query
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage
from students.engine import Delta, Engine, Prompt
from students.errors import Unavailable
from students.scripted import Scripted
from tests.fakes import Vllm, served
from tests.gateway.conftest import House

pytestmark = pytest.mark.anyio

RATE = {"per_hour": 3600}
"""A dollar a second."""
CALLS = 10


class Slow(Vllm):
    """Says thirty numbers in `seconds`."""

    seconds = 0.3

    def pace(self, body: Any) -> tuple[float, float]:
        return self.seconds / 2, self.seconds / 60


@asynccontextmanager
async def opened(
    upstreams: Mapping[str, Any], student: str, engines: Mapping[str, Engine] | None = None
) -> AsyncIterator[House]:
    config = Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "upstreams": upstreams,
            "routes": {"gkt": {"strategy": "student", "student": student}},
            "prices": {"m": RATE},
        }
    )
    async with open_gateway(config, engines=engines or {}, environ={}) as gateway:
        yield House(gateway)


async def asked(house: House, times: int) -> list[Mapping[str, Any]]:
    """The receipts of so many requests at once."""
    answers = await asyncio.gather(*(house.ask(request_id=f"r{number}") for number in range(times)))
    receipts = [answer.exchange.receipt for answer in answers]
    assert None not in receipts
    return [receipt for receipt in receipts if receipt is not None]


async def accounts(house: House) -> dict[str, Use]:
    rate = Price("m", "config", per_hour=Money.usd(3600))
    priced = {name: (upstream, rate) for name, upstream in house.gateway.upstreams.items()}
    made, lost = await machines.uses(house.gateway.ledger, priced, Period("all"), time.time())
    assert lost == {}
    return made


async def agree(house: House, receipts: list[Mapping[str, Any]]) -> Money:
    """What receipts, ledger and machines say, which is the same to the nano-dollar; the sum."""
    paid = Money.total(Money.usd(Decimal(receipt["cost_usd"])) for receipt in receipts)
    for receipt in receipts:
        [stage] = receipt["stages"]
        own = Price("m", "config", per_hour=Money.usd(3600)).cost(Usage(seconds=stage["usage"]["seconds"]))
        assert own == Money.usd(Decimal(receipt["cost_usd"])), "the receipt's seconds are those that it charges"
    [row] = await house.gateway.ledger.savings(Query())
    assert row.spent == paid
    assert Money.total(use.machine.booked for use in (await accounts(house)).values()) == paid
    return paid


@pytest.mark.parametrize("places", [64, 2], ids=["all at once", "most wait for a place"])
async def test_ten_at_once_pay_for_one_machine(places: int) -> None:
    async with served(Slow()) as fake:
        spec = {"kind": "openai_api", "model": "m", "base_url": fake.url, "server": "vllm", "max_concurrent": places}
        async with opened({"box": spec}, "box") as house:
            began = time.monotonic()
            receipts = await asked(house, CALLS)
            passed = time.monotonic() - began
            paid = await agree(house, receipts)
            [use] = (await accounts(house)).values()
    assert paid.nano / 1e9 <= passed + 1e-3, "a dollar a second, once for all"
    assert use.machine.busy == pytest.approx(paid.nano / 1e9, abs=1e-6)
    assert abs(use.machine.working.nano - paid.nano) <= CALLS / 2 + 1, "each call is rounded once"
    assert not use.over
    if places == 2:
        assert paid.nano / 1e9 > 0.8 * Slow.seconds * CALLS / places, "and was busy all the time"
        each = [receipt["stages"][0]["usage"]["seconds"] for receipt in receipts]
        assert max(each) < passed / 3, "half of its own time, and nothing of the wait for the four pairs before it"


async def test_a_reader_that_is_slow_pays_for_what_the_model_took() -> None:
    async with served(Slow()) as fake:
        spec = {"kind": "openai_api", "model": "m", "base_url": fake.url, "server": "vllm"}
        async with opened({"box": spec}, "box") as house:
            exchange = house.open()
            async with aclosing(house.gateway.answer(exchange)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        await asyncio.sleep(0.5)
    assert exchange.receipt is not None
    [stage] = exchange.receipt["stages"]
    assert stage["total_s"] > 1.0
    assert stage["usage"]["seconds"] < stage["total_s"] - 0.5
    assert stage["usage"]["seconds"] > 0.9 * Slow.seconds


async def test_a_call_that_never_got_a_place_pays_nothing() -> None:
    slow = Slow()
    slow.seconds = 0.4
    async with served(slow) as fake:
        deadlines = {"total": 0.5, "first_token": 0.5}
        place = {"max_concurrent": 1, "deadlines": deadlines, "retries": 0}
        spec = {"kind": "openai_api", "model": "m", "base_url": fake.url, "server": "vllm", **place}
        async with opened({"box": spec}, "box") as house:
            asking = (house.ask(request_id=f"r{number}") for number in range(4))
            assert UpstreamFailed in {type(answer) for answer in await asyncio.gather(*asking, return_exceptions=True)}
            told = [await house.entry(f"r{number}") for number in range(4)]
    failed = [each["calls"][0] for each in told if each["outcome"] == "failed"]
    waited = [call for call in failed if not call["machines"]]
    assert waited
    assert {(call["amount"], call["usage"]["seconds"]) for call in waited} == {(0, 0.0)}


async def test_each_member_of_a_pool_is_a_machine_of_its_own() -> None:
    """Two machines that work for the same second cost two."""
    names = ("one", "two")
    engines = {name: Scripted(name, "a b c d", model="m", delay=0.05) for name in names}
    upstreams: dict[str, Any] = {name: {"kind": "scripted", "model": "m"} for name in names}
    upstreams["pool"] = {"kind": "pool", "model": "m", "members": list(names)}
    async with opened(upstreams, "pool", engines) as house:
        began = time.monotonic()
        receipts = await asked(house, 4)
        passed = time.monotonic() - began
        paid = await agree(house, receipts)
        made = await accounts(house)
    assert set(made) == set(names), "the pool has none"
    assert [use.calls for use in made.values()] == [2, 2]
    assert [list(use.pools) for use in made.values()] == [["pool"], ["pool"]]
    for use in made.values():
        assert 0.2 <= use.machine.busy <= passed
        assert abs(use.machine.working.nano - use.machine.booked.nano) <= 2
    assert paid.nano / 1e9 > 1.5 * passed * 0.8, "both were busy"


async def test_a_call_that_moved_is_booked_to_both_members() -> None:
    gone = [Unavailable("gone")]

    def error(prompt: Prompt) -> Unavailable | None:
        return gone.pop() if gone else None  # of whoever is asked first

    names = ("one", "two")
    engines = {name: Scripted(name, "a b c d e", model="m", delay=0.05, error=error, fail_after=2) for name in names}
    upstreams: dict[str, Any] = {name: {"kind": "scripted", "model": "m"} for name in names}
    upstreams["pool"] = {"kind": "pool", "model": "m", "members": list(names)}
    async with opened(upstreams, "pool", engines) as house:
        paid = await agree(house, await asked(house, 1))
        made = await accounts(house)
    assert [bool(use.machine.booked) for use in made.values()] == [True, True]
    assert Money.total(use.machine.booked for use in made.values()) == paid
    for use in made.values():
        assert abs(use.machine.working.nano - use.machine.booked.nano) <= 2
