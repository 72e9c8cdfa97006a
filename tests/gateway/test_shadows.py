"""Shadows: after the client was served the teacher answers too, at nobody's expense but the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from gateway import shadows
from gateway.config import Config
from gateway.errors import ConfigError, UpstreamFailed
from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.lengths import Lengths
from gateway.upstreams import check_keyless
from pricing.length_ratio import Pairs
from pricing.money import Money
from students.engine import Ability, Event, Finish, Prompt
from students.errors import Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

LONG = "The sky is blue because its air scatters the blue part of sunlight the most."
SHORT = " and that is that."
PRICES = {"gpt-6-sol": {"input": 2, "output": 10}, "small": {"input": 0.01, "output": 0.08}}
UPSTREAMS = {
    "teacher": {"kind": "scripted", "model": "gpt-6-sol"},
    "student": {"kind": "scripted", "model": "small"},
}
ALWAYS: Mapping[str, Any] = {"strategy": "cut-off", "guidance_tokens": 5, "shadow": 1}


class Slow:
    """A teacher whose whole answers wait for a signal; its guidance does not."""

    def __init__(self, budget: int = 5) -> None:
        self.name = "teacher"
        self.model = "gpt-6-sol"
        self.abilities = Ability.CONTINUE | Ability.SAMPLES
        self.go = asyncio.Event()
        self.begun = 0
        self._budget = budget
        self._inner = Scripted("teacher", LONG)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        if prompt.max_tokens != self._budget:
            self.begun += 1
            await self.go.wait()
        async with aclosing(self._inner.stream(prompt)) as events:
            async for event in events:
                yield event

    async def ready(self) -> Ability:
        return self.abilities

    async def aclose(self) -> None:
        self.go.set()


async def until(met: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if met():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


def options(**more: Any) -> dict[str, Any]:
    return {"upstreams": UPSTREAMS, "prices": PRICES, "route": ALWAYS, **more}


async def test_the_client_is_served_first_and_does_not_wait(house: Any) -> None:
    teacher = Slow()
    async with house(teacher=teacher, student=Scripted("student", SHORT), **options()) as home:
        answer = await home.ask(max_tokens=40, temperature=0.3, stop=("never",))
        assert answer.text == "The sky is blue" + SHORT
        assert teacher.begun == 0, "it begins when the client has its end"
        booked = await home.entry()
        assert (booked["outcome"], booked["shadow"], booked["shadow_propensity"]) == ("ok", None, 1.0)
        await until(lambda: teacher.begun == 1)
        assert home.gateway.in_flight == 0
        teacher.go.set()
        await home.gateway.idle()
        assert teacher._inner.prompts[-1].messages == answer.exchange.chat.messages
        assert teacher._inner.prompts[-1].max_tokens == 40
        assert teacher._inner.prompts[-1].sampling == answer.exchange.chat.sampling
        after = await home.entry()
        shadow = after.pop("shadow")
        assert after == {
            **{name: value for name, value in booked.items() if name != "shadow"},
            "corrections": [{"made": each["made"], "calls": {}, "baseline": None} for each in after["corrections"]],
        }
        assert len(after["corrections"]) == 2
        assert (shadow["request_id"], shadow["shadow_of"]) == ("chatcmpl-1-shadow", "chatcmpl-1")
        assert (shadow["outcome"], shadow["strategy"], shadow["baseline"]) == ("ok", "cut-off", None)
        (call,) = shadow["calls"]
        assert (call["stage"], call["seat"], call["is_open"], call["model"]) == (
            "measurement",
            "teacher",
            False,
            "gpt-6-sol",
        )
        words = len(LONG.split())
        cost = 5 * 2_000 + words * 10_000
        assert (call["amount"], shadow["spent"], shadow["spent_by_stage"]["measurement"]) == (cost, cost, cost)
        measured = shadow["measured"]
        assert (measured["shown_output"], measured["teacher_output"], measured["cost"]) == (
            booked["visible_output"],
            words,
            cost,
        )
        assert (measured["model"], measured["propensity"], measured["price"]["row"]) == (
            "gpt-6-sol",
            1.0,
            call["price"]["row"],
        )
        assert "measurement" not in str(answer.receipt)
        assert answer.receipt["baseline"]["method"] == "same_length"


async def test_what_it_cost_is_a_line_of_its_own(house: Any) -> None:
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **options()) as home:
        answer = await home.ask()
        await home.gateway.idle()
        [row] = await home.gateway.ledger.savings()
        alone = 5 * 2_000 + len(LONG.split()) * 10_000
        own = Money.usd(answer.receipt["cost_usd"])
        assert (row.requests, row.outcomes, row.shadows, row.compared) == (1, {"ok": 1}, {"ok": 1}, 1)
        assert row.spent == own + Money(alone)
        assert row.measurement == Money(alone)
        assert row.baseline_by_method == {"measured": Money(alone)}
        assert (row.baseline_low, row.baseline, row.baseline_high) == (Money(alone),) * 3
        assert row.saved == Money(alone) - own
        assert row.saved_after_measurement == -own, "one answer, measured, costs all that it saved"
        assert (row.baseline_output_tokens, row.corrected) == (len(LONG.split()), Money.ZERO)
        assert [each["request_id"] for each in await home.gateway.ledger.entries()] == ["chatcmpl-1"]
        assert [each.group for each in await home.gateway.ledger.savings(Query(by="strategy"))] == ["cut-off"]
        with home.gateway.ledger.store.transaction() as connection:
            assert rollup.differences(connection) == []


@pytest.mark.parametrize("drawn", [0.49, 0.5])
async def test_it_is_done_as_it_was_drawn(house: Any, drawn: float) -> None:
    teacher = Scripted("teacher", LONG)
    route = {**ALWAYS, "shadow": 0.5}
    async with house(
        teacher=teacher, student=Scripted("student", SHORT), draw=lambda: drawn, **options(route=route)
    ) as home:
        await home.ask()
        await home.gateway.idle()
        assert len(teacher.prompts) == (2 if drawn < 0.5 else 1)
        entry = await home.entry()
        assert entry["shadow_propensity"] == 0.5
        assert (entry["shadow"] is not None) == (drawn < 0.5)


async def test_a_holdout_is_marked_and_not_shadowed(house: Any) -> None:
    teacher = Scripted("teacher", LONG)
    route = {**ALWAYS, "holdout": 0.25}
    async with house(
        teacher=teacher, student=Scripted("student", SHORT), draw=lambda: 0.2, **options(route=route)
    ) as home:
        answer = await home.ask()
        await home.gateway.idle()
        assert (answer.text, len(teacher.prompts)) == (LONG, 1)
        assert answer.receipt["why"].startswith("holdout: ")
        entry = await home.entry()
        assert (entry["arm"], entry["propensity"], entry["strategy"], entry["shadow_propensity"]) == (
            "holdout",
            0.25,
            "teacher",
            None,
        )
        assert entry["baseline"]["method"] == "measured"


async def test_not_for_an_answer_that_the_teacher_gave(house: Any) -> None:
    complete = Scripted("teacher", "It scatters.")
    async with house(teacher=complete, student=Scripted("student", SHORT), **options()) as home:
        assert (await home.ask()).receipt["guidance"]["complete"]
        await home.gateway.idle()
        assert len(complete.prompts) == 1
    teacher = Scripted("teacher", LONG)
    broken = Scripted("student", error=Unavailable("gone"))
    async with house(teacher=teacher, student=broken, **options()) as home:
        await home.ask()
        await home.gateway.idle()
        assert [stage["stage"] for stage in (await home.entry())["calls"]] == ["guidance", "answer", "fallback"]
        assert len(teacher.prompts) == 2
        assert (await home.gateway.ledger.savings())[0].shadows == {}


async def test_not_for_a_failure_nor_for_a_client_that_left(house: Any) -> None:
    teacher = Scripted("teacher", LONG)
    broken = Scripted("student", SHORT, error=Unavailable("gone"), fail_after=1)
    async with house(teacher=teacher, student=broken, **options()) as home:
        with pytest.raises(UpstreamFailed):
            await home.ask()
        await home.gateway.idle()
    assert len(teacher.prompts) == 1
    async with house(teacher=teacher, student=Scripted("student", SHORT, hang_after=2), **options()) as home:
        async with aclosing(home.gateway.answer(home.open())) as events:
            await anext(events)
        await home.gateway.idle()
        assert (await home.entry())["outcome"] == "abandoned"
    assert len(teacher.prompts) == 2


async def test_a_failed_shadow_is_booked_and_measures_nothing(house: Any) -> None:
    def fails(prompt: Prompt) -> Unavailable | None:
        return None if prompt.max_tokens == 5 else Unavailable("gone")

    teacher = Scripted("teacher", LONG, error=fails, fail_after=2)
    async with house(teacher=teacher, student=Scripted("student", SHORT), **options()) as home:
        await home.ask()
        await home.gateway.idle()
        entry = await home.entry()
        assert entry["corrections"] == []
        shadow = entry["shadow"]
        assert (shadow["outcome"], shadow["error"], shadow["measured"]) == ("failed", "Unavailable", None)
        assert shadow["spent"] > 0, "two words were written"
        [row] = await home.gateway.ledger.savings()
        assert (row.shadows, row.measurement) == ({"failed": 1}, Money(shadow["spent"]))
        assert list(row.baseline_by_method) == ["same_length"]


async def test_without_a_price_it_measures_lengths_alone(house: Any) -> None:
    prices = {"small": PRICES["small"]}
    upstreams = {**UPSTREAMS, "teacher": {"kind": "scripted", "model": "unheard-of"}}
    async with house(
        teacher=Scripted("teacher", LONG),
        student=Scripted("student", SHORT),
        **options(prices=prices, upstreams=upstreams),
    ) as home:
        await home.ask()
        await home.gateway.idle()
        entry = await home.entry()
        assert (entry["corrections"], entry["shadow"]["spent"], entry["shadow"]["measured"]["cost"]) == ([], None, None)
        assert entry["shadow"]["measured"]["teacher_output"] == len(LONG.split())
        [row] = await home.gateway.ledger.savings()
        assert (row.unpriced, row.shadows_unpriced) == (1, 1)


async def test_all_samples_are_measured_together(house: Any) -> None:
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **options()) as home:
        await home.ask(n=3)
        await home.gateway.idle()
        measured = (await home.entry())["shadow"]["measured"]
        assert measured["teacher_output"] == 3 * len(LONG.split())
        assert measured["shown_output"] == (await home.entry())["visible_output"]


async def test_more_than_there_is_room_for_are_skipped_and_counted(house: Any) -> None:
    teacher = Slow()
    async with house(teacher=teacher, student=Scripted("student", SHORT), **options()) as home:
        for number in range(shadows.AT_ONCE + 3):
            await home.ask(request_id=f"r{number}")
        await until(lambda: teacher.begun == shadows.AT_ONCE)
        assert len(home.gateway.shadows) == shadows.AT_ONCE
        teacher.go.set()
        await home.gateway.idle()
        await home.ask(request_id="later")
        await home.gateway.idle()
        [row] = await home.gateway.ledger.savings()
        assert (row.requests, row.shadows) == (shadows.AT_ONCE + 4, {"ok": shadows.AT_ONCE + 1, "skipped": 3})
        assert row.missed == {"skipped": 3}
        skipped = await home.entry(f"r{shadows.AT_ONCE + 2}")
        assert (skipped["shadow"]["outcome"], skipped["shadow"]["calls"], skipped["shadow"]["spent"]) == (
            "skipped",
            [],
            0,
        )
        assert (skipped["shadow"]["measured"], skipped["corrections"]) == (None, [])
        with home.gateway.ledger.store.transaction() as connection:
            assert rollup.differences(connection) == []
        told = home.gateway.metrics.text()[0].decode()
        assert 'gkt_shadows_total{outcome="skipped"} 3.0' in told
        assert f'gkt_shadows_total{{outcome="ok"}} {shadows.AT_ONCE + 1}.0' in told


async def test_closing_stops_and_settles_it(house: Any, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    teacher = Slow()
    async with house(teacher=teacher, student=Scripted("student", SHORT), **options(ledger={"url": url})) as home:
        await home.ask()
        await until(lambda: teacher.begun == 1)
    assert len(home.gateway.shadows) == 0
    assert not home.gateway.shadows.begin(lambda: asyncio.sleep(0)), "none begins any more"
    async with house(teacher=Scripted("teacher"), student=Scripted("student"), **options(ledger={"url": url})) as home:
        shadow = (await home.entry())["shadow"]
        assert (shadow["outcome"], shadow["measured"]) == ("abandoned", None)
        (call,) = shadow["calls"]
        assert (call["is_open"], call["is_bound"], call["cut"]) == (False, False, True)


async def test_it_is_not_made_when_it_cannot_be_put_on_record(house: Any) -> None:
    teacher = Scripted("teacher", LONG)
    async with house(teacher=teacher, student=Scripted("student", SHORT), **options()) as home:
        exchange = home.open()
        async with aclosing(home.gateway.answer(exchange)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    await home.gateway.ledger.aclose()
        await home.gateway.idle()
        assert len(teacher.prompts) == 1


async def test_who_brings_a_key_is_not_shadowed(house: Any) -> None:
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **options()) as home:
        answer = await home.ask()
        await home.gateway.idle()
        exchange = answer.exchange
        assert shadows.wanted(exchange)
        exchange.chat = type(exchange.chat)(
            "own", "gkt", exchange.chat.messages, exchange.chat.sampling, provider_key="sk-own-0123456789"
        )
        assert not shadows.wanted(exchange)
        assert shadows.shadow(exchange).chat.provider_key is None


def test_a_teacher_without_a_key_of_ours_cannot_measure() -> None:
    route = {"strategy": "student", "teacher": "teacher", "student": "student", "pass_key": True}
    teacher = {"kind": "openai_api", "model": "m"}
    for setting in ("shadow", "holdout"):
        config = Config.parse(
            {
                "upstreams": {"teacher": teacher, "student": {"kind": "scripted"}},
                "routes": {"r": {**route, setting: 0.1}},
            }
        )
        with pytest.raises(ConfigError, match="at the gateway's own expense"):
            check_keyless(config, {"teacher"})


async def test_thirty_of_them_calibrate_what_follows(house: Any) -> None:
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **options()) as home:
        key = ("gkt", "cut-off", "gpt-6-sol")
        for number in range(30):
            answer = await home.ask(request_id=f"r{number}")
            await home.gateway.idle()
            assert answer.receipt["baseline"]["method"] == "same_length"
        await until(lambda: home.gateway.lengths.ratio(*key) is not None)
        answer = await home.ask(request_id="after")
        baseline = answer.receipt["baseline"]
        words = len(LONG.split())
        assert (baseline["method"], baseline["output_tokens"]) == ("calibrated", words)
        assert baseline["likely_usd"] == Money(5 * 2_000 + words * 10_000).plain
        # An override is another policy; its lengths were not measured.
        other = await home.ask(request_id="other", strategy="concise")
        assert other.receipt["baseline"]["method"] == "same_length"


async def test_what_others_measured_is_seen_at_the_start(house: Any, tmp_path: Any) -> None:
    how = options(ledger={"url": f"sqlite:///{tmp_path}/ledger.db"})
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **how) as home:
        for number in range(30):
            await home.ask(request_id=f"r{number}")
            await home.gateway.idle()
    async with house(teacher=Scripted("teacher", LONG), student=Scripted("student", SHORT), **how) as home:
        assert (await home.ask()).receipt["baseline"]["method"] == "calibrated"


async def test_lengths_stay_known_while_the_ledger_is_away(house: Any) -> None:
    lengths = Lengths()
    lengths.know({("r", "hint", "m"): Pairs.of([(10, 20)] * 30), ("r", "hint", "few"): Pairs.of([(10, 20)] * 29)})
    async with house(student=Scripted(), route={"strategy": "student", "teacher": None}) as home:
        ledger = home.gateway.ledger
    await lengths.refresh(ledger)  # closed
    ratio = lengths.ratio("r", "hint", "m")
    assert ratio is not None
    assert ratio.likely == 2
    assert lengths.ratio("r", "hint", "few") is None


@pytest.mark.parametrize(
    ("shown", "alone", "kind", "agreement"),
    [
        ("so #### 18", "That makes \\boxed{18}.", None, 1.0),
        ("so #### 17", "That makes \\boxed{18}.", None, 0.0),
        (
            "She earns 18 dollars every day at the market.",
            "It is 3 * 6 = 18 dollars, every day of the week.",
            None,
            None,
        ),
        ("She earns 18 dollars every day at the market.", "It is 3 * 6 = 18 dollars, every day.", "number", 1.0),
    ],
)
async def test_what_was_shown_is_compared_with_what_the_teacher_wrote(
    house: Any, shown: str, alone: str, kind: str | None, agreement: float | None
) -> None:
    route = {"strategy": "student", "shadow": 1, "answers": kind}
    async with house(
        teacher=Scripted("teacher", alone), student=Scripted("student", shown), **options(route=route)
    ) as home:
        await home.ask()
        await home.gateway.idle()
        entry = await home.entry()
        assert entry["shadow"]["outcome"] == "ok"
        assert entry["text"] is None, "only the number is kept"
        scores = {} if agreement is None else {"agreement": agreement}
        assert {source: score["value"] for source, score in entry["scores"].items()} == scores


async def test_what_cannot_be_compared_is_not(house: Any) -> None:
    async with house(teacher=Scripted("teacher", "#### 1"), student=Scripted("student", "#### 1"), **options()) as home:
        exchange = (await home.ask(strategy="student")).exchange
        shadow = shadows.shadow(exchange)
        shadow.answer.append("#### 1")
        assert shadows.agreed(exchange, shadow, None) == 1.0
        shadow.outcome = "failed"
        assert shadows.agreed(exchange, shadow, None) is None
        shadow.outcome = "ok"
        shadow.answer.clear()
        assert shadows.agreed(exchange, shadow, None) is None, "no text, but a tool call perhaps"
