"""The books: what a call cost, what the teacher alone would have cost, and that every place says the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bookkeeper import NOT_BILLED, Bookkeeper, receipt
from gateway.chat import Call, Caller, Chat, Exchange, Guidance, Plan
from gateway.config import BaselineConfig
from gateway.ledger.basis import loads
from gateway.ledger.entry import Entry, Query
from gateway.ledger.sql import SqlLedger
from gateway.strategies.prompts import Prompts
from gateway.upstreams import Upstream
from pricing import tokens
from pricing.book import Price, PriceBook
from pricing.length_ratio import LengthRatio
from pricing.money import Money
from pricing.usage import Usage
from students import errors
from students.counting import LONGEST_COUNT
from students.engine import Prompt, Sampling
from students.errors import Overloaded, Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

ASK = [{"role": "user", "content": "Why is the sky blue?"}]
SECRET = "the client's own words"
PRICES: Mapping[str, Any] = {
    "gpt-6-sol": [
        {"input": 2, "output": 10, "cached": 0.2, "cache_write": 2.5},
        {"input": 1, "output": 5, "tier": "flex"},
    ],
    "small": {"input": 0.01, "output": 0.08},
    "machine": {"per_hour": 3.6},
}
FLEX = {"service_tier": "flex"}
UPSTREAMS = {
    name: Upstream(name, Scripted(name), model, 1000, 60.0)
    for name, model in (("teacher", "gpt-6-sol"), ("student", "small"), ("machine", "machine"), ("free", "unheard-of"))
}


def make_books(**options: Any) -> Bookkeeper:
    book = PriceBook.from_config(PRICES, catalogs=[])
    return Bookkeeper(book, UPSTREAMS, Prompts(), BaselineConfig(), **options)


def quote(upstream: str, model: str, tier: str | None, moment: float, tokens: int | None) -> Price | None:
    return PriceBook.from_config(PRICES, catalogs=[]).price(model, tier=tier, moment=moment, input_tokens=tokens)


def make_call(
    seat: str = "teacher", usage: Usage | None = None, *, stage: str | None = None, said: str = "", **fields: Any
) -> Call:
    """A call that was made and took two seconds; `said` is what was heard of it."""
    upstream = fields.pop("upstream", seat)
    model = UPSTREAMS[upstream].model
    call = Call("c/0", "chatcmpl-1", "answer", "teacher", upstream, model, None, 1.8e9, Money(1))
    call.seat = "teacher" if seat == "teacher" else "student"
    call.stage = "guidance" if stage == "guidance" else "fallback" if stage == "fallback" else "answer"
    call.usage, call.duration, call.prompt = usage, 2.0, Prompt(ASK, 40)
    call.spoken = [said] if said else []
    for name, value in fields.items():
        setattr(call, name, value)
    return call


def make_exchange(*calls: Call, strategy: str = "cut-off", **fields: Any) -> Exchange:
    """An exchange that is over and went well."""
    chat = {name: fields.pop(name) for name in ("max_tokens", "n", "teacher_options", "messages") if name in fields}
    plan: dict[str, Any] = {"strategy": strategy, "teacher": "teacher", "student": "student"}
    plan |= {name: fields.pop(name) for name in Plan.__slots__ if name in fields}
    made = Chat("chatcmpl-1", "gkt", chat.pop("messages", ASK), Sampling(), **chat)
    exchange = Exchange(made, Caller(), Plan("gkt", why="why", **plan), started=1.8e9, calls=list(calls))
    for name, value in fields.items():
        setattr(exchange, name, value)
    return exchange


def settled(exchange: Exchange, **options: Any) -> tuple[Entry, dict[str, Any]]:
    entry = make_books(**options).entry(exchange)
    return entry, receipt(exchange, entry)


def spent(call: Call) -> Money:
    assert call.line is not None
    assert call.line.amount is not None
    return call.line.amount


def saw(call: Call) -> Usage:
    assert call.usage is not None
    return call.usage


def likely(entry: Entry) -> Money:
    assert entry.baseline is not None
    assert entry.baseline.likely is not None
    return entry.baseline.likely


class TestUsage:
    def test_what_was_reported_is_taken_as_it_is(self) -> None:
        call = make_call(usage=Usage(1000, 40, cached=500), said="not these words")
        settled(make_exchange(call, visible=Usage(1000, 40)))
        assert saw(call) == Usage(1000, 40, cached=500)
        assert spent(call) == Money(500 * 2000 + 500 * 200 + 40 * 10_000)

    def test_a_call_cut_short_is_counted_over_what_was_heard(self) -> None:
        call = make_call(said="Because air scatters blue light.", cut=True)
        settled(make_exchange(call, outcome="abandoned"))
        words = tokens.count("Because air scatters blue light.", "gpt-6-sol")
        question = tokens.count("Why is the sky blue?", "gpt-6-sol")
        # One message and the start of the answer: 4 + 3, as OpenAI bills it.
        assert saw(call) == Usage(question.tokens + 7, words.tokens, source=words.source)
        assert spent(call) == Money((question.tokens + 7) * 2000 + words.tokens * 10_000)

    def test_a_model_with_an_unknown_vocabulary_is_estimated(self) -> None:
        call = make_call("student", said="Because.", cut=True)
        settled(make_exchange(call, strategy="student", outcome="abandoned"))
        assert saw(call).source == "estimated"

    @pytest.mark.parametrize(
        "prompt",
        [
            Prompt(ASK, options={"tools": [{"type": "function", "function": {"name": "f"}}]}),
            Prompt([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]}]),
            Prompt([{"role": "assistant", "content": None, "tool_calls": []}]),
            Prompt(ASK, prefix="The sky"),
        ],
    )
    def test_a_prompt_of_more_than_text_is_an_estimate(self, prompt: Prompt) -> None:
        call = make_call(said="Because.", cut=True, prompt=prompt)
        settled(make_exchange(call, outcome="abandoned"))
        assert saw(call).source == "estimated"
        assert (saw(call).input or 0) > 0

    @pytest.mark.parametrize("seat", ["teacher", "student"])
    def test_a_call_that_was_never_made_costs_nothing(self, seat: str) -> None:
        call = make_call(seat, duration=None)
        entry, told = settled(make_exchange(call, outcome="failed"))
        assert (saw(call).input, saw(call).output) == (0, 0)
        assert entry.spent == Money.ZERO
        assert told["cost_usd"] == "0"

    def test_nor_does_a_machine_that_was_never_asked(self) -> None:
        call = make_call("student", duration=None, upstream="machine")
        entry, _ = settled(make_exchange(call, strategy="student", student="machine", outcome="abandoned"))
        assert (saw(call).seconds, entry.spent) == (0.0, Money.ZERO)

    @pytest.mark.parametrize("error", ["Unavailable", "Overloaded", "Refused", "PromptTooLong"])
    def test_errors_before_the_first_word_are_not_billed(self, error: str) -> None:
        call = make_call(error=error)
        entry, _ = settled(make_exchange(call, outcome="failed"))
        assert entry.spent == Money.ZERO

    @pytest.mark.parametrize("error", ["TimedOut", "BadReply"])
    def test_errors_that_may_have_been_answered_are(self, error: str) -> None:
        entry, _ = settled(make_exchange(make_call(error=error), outcome="failed"))
        assert entry.spent is not None
        assert entry.spent > Money.ZERO

    def test_errors_after_the_first_word_are(self) -> None:
        call = make_call(error="Unavailable", said="The sky")
        settled(make_exchange(call, outcome="failed"))
        assert (saw(call).output or 0) > 0
        assert spent(call) > Money.ZERO

    def test_a_text_too_long_to_count_is_estimated_and_never_fails(self) -> None:
        call = make_call(said="\ud800" * (LONGEST_COUNT + 1), cut=True)
        exchange = make_exchange(call, outcome="abandoned", answer=list(call.spoken))
        settled(exchange)
        assert saw(call).source == "estimated"
        assert exchange.visible is not None
        assert saw(call).output == exchange.visible.output == (LONGEST_COUNT + 1) * 3 // 4


class TestPrices:
    def test_a_machine_by_the_hour_costs_the_time_of_the_call(self) -> None:
        call = make_call("student", Usage(10, 10), upstream="machine", duration=2.0)
        settled(make_exchange(call, strategy="student", student="machine", visible=Usage(10, 10)))
        assert saw(call).seconds == 2.0
        assert spent(call) == Money.usd("0.002")

    def test_or_the_time_that_it_says(self) -> None:
        call = make_call("student", Usage(10, 10, seconds=0.5), upstream="machine")
        settled(make_exchange(call, strategy="student", student="machine", visible=Usage(10, 10)))
        assert spent(call) == Money.usd("0.0005")

    def test_tokens_are_not_given_seconds(self) -> None:
        call = make_call(usage=Usage(10, 10))
        settled(make_exchange(call, visible=Usage(10, 10)))
        assert saw(call).seconds is None

    def test_the_tier_that_the_upstream_names(self) -> None:
        call = make_call(usage=Usage(1000, 100), tier="flex")
        settled(make_exchange(call, visible=Usage(1000, 100)))
        assert spent(call) == Money(1000 * 1000 + 100 * 5000)

    def test_a_tier_without_a_price_is_unpriced(self) -> None:
        call = make_call(usage=Usage(1000, 100), tier="scale")
        entry, told = settled(make_exchange(call, visible=Usage(1000, 100)))
        assert entry.spent is None
        assert (told["unpriced"], told["cost_usd"], told["saved_usd"], told["saved_share"]) == (1, None, None, None)

    def test_a_call_cut_short_has_the_tier_that_was_asked_for(self) -> None:
        flex, plain = (make_call(said="Because.", cut=True, prompt=Prompt(ASK, options=o)) for o in (FLEX, {}))
        for call in (flex, plain):
            settled(make_exchange(call, strategy="teacher", outcome="abandoned"))
        assert spent(plain).nano == 2 * spent(flex).nano
        odd = make_call(said="Because.", cut=True, prompt=Prompt(ASK, options={"service_tier": "banana"}))
        settled(make_exchange(odd, strategy="teacher", outcome="abandoned"))
        assert spent(odd) == spent(plain)

    def test_a_stand_ins_line_is_notional(self) -> None:
        call = make_call(usage=Usage(1000, 100), stand_in="student")
        entry, told = settled(make_exchange(call, visible=Usage(1000, 100)))
        assert call.line is not None
        assert call.line.notional
        assert entry.stand_in
        assert "stand-in, priced as if it were the teacher" in told["notice"]
        assert told["stages"][0]["stand_in"] == "student"


class TestBaseline:
    def test_the_teacher_alone_is_measured(self) -> None:
        call = make_call(usage=Usage(1000, 100, cached=500))
        entry, told = settled(make_exchange(call, strategy="teacher", visible=Usage(1000, 100)))
        assert entry.baseline is not None
        assert (entry.baseline.method, likely(entry), entry.baseline.output_tokens) == ("measured", entry.spent, 100)
        assert (told["saved_usd"], told["saved_share"]) == ("0", 0)

    def test_samples_that_the_teacher_gave_one_by_one_are_measured_too(self) -> None:
        calls = [make_call(usage=Usage(1000, 100)), make_call(usage=Usage(1000, 80))]
        entry, told = settled(make_exchange(*calls, strategy="teacher", visible=Usage(1000, 180), n=2))
        assert entry.baseline is not None
        assert (entry.baseline.method, entry.baseline.output_tokens) == ("measured", 180)
        assert told["saved_usd"] == "0"

    def test_a_teacher_that_ended_within_the_budget_is_measured(self) -> None:
        call = make_call(usage=Usage(20, 9), stage="guidance")
        exchange = make_exchange(call, guidance=Guidance("It is.", 9, complete=True), visible=Usage(20, 9))
        entry, _ = settled(exchange)
        assert entry.baseline is not None
        assert entry.baseline.method == "measured"

    def test_one_that_was_told_to_be_brief_is_not(self) -> None:
        for strategy in ("concise", "cut-off"):
            call = make_call(usage=Usage(40, 9), stage="guidance")
            guidance = Guidance("It is.", 9, complete=True)
            exchange = make_exchange(
                call, strategy=strategy, guidance=guidance, guidance_prompt="concise", visible=Usage(20, 9)
            )
            entry, _ = settled(exchange)
            assert entry.baseline is not None
            assert (entry.baseline.method, likely(entry)) == ("same_length", Money(20 * 2000 + 9 * 10_000))

    def test_an_answer_that_the_student_ended_has_the_same_length(self) -> None:
        calls = [make_call(usage=Usage(312, 40), stage="guidance"), make_call("student", Usage(352, 410))]
        entry, told = settled(make_exchange(*calls, visible=Usage(312, 450), guidance=Guidance("x", 40)))
        assert told["baseline"] == {
            "method": "same_length",
            "low_usd": "0.002874",
            "likely_usd": "0.005124",
            "high_usd": "0.009624",
            "output_tokens": 450,
        }
        assert entry.spent == Money(312 * 2000 + 40 * 10_000 + 352 * 10 + 410 * 80)
        assert Decimal(told["saved_usd"]) == Decimal("0.005124") - Decimal(told["cost_usd"])

    def test_the_cache_is_credited_as_far_as_it_was_to_the_guidance(self) -> None:
        asked = Usage(1100, 40, cached=1000, cache_write=90)
        calls = [make_call(usage=asked, stage="guidance"), make_call("student", Usage(1100, 10))]
        entry, _ = settled(make_exchange(*calls, visible=Usage(1080, 50)))
        assert likely(entry) == Money(1000 * 200 + 80 * 2500 + 50 * 10_000)

    def test_an_instruction_in_the_cache_is_not_in_the_clients_prompt(self) -> None:
        calls = [make_call(usage=Usage(1100, 40, cache_write=1100), stage="guidance")]
        entry, _ = settled(make_exchange(*calls, visible=Usage(1080, 50)))
        assert likely(entry) == Money(1080 * 2500 + 50 * 10_000)

    def test_the_teacher_alone_would_have_had_the_same_tier(self) -> None:
        calls = [make_call(usage=Usage(100, 40), stage="guidance", tier="flex"), make_call("student", Usage(140, 60))]
        entry, _ = settled(make_exchange(*calls, visible=Usage(100, 100)))
        assert likely(entry) == Money(100 * 1000 + 100 * 5000)
        # Asked for, and not given.
        calls = [make_call(usage=Usage(100, 40), stage="guidance"), make_call("student", Usage(140, 60))]
        entry, _ = settled(make_exchange(*calls, visible=Usage(100, 100), teacher_options=FLEX))
        assert likely(entry) == Money(100 * 2000 + 100 * 10_000)
        # Asked for, and the teacher was not.
        student = make_call("student", Usage(100, 100))
        entry, _ = settled(make_exchange(student, strategy="student", visible=Usage(100, 100), teacher_options=FLEX))
        assert likely(entry) == Money(100 * 1000 + 100 * 5000)

    def test_no_answer_is_longer_than_the_caller_allows(self) -> None:
        call = make_call("student", Usage(100, 60))
        entry, _ = settled(make_exchange(call, strategy="student", visible=Usage(100, 60), max_tokens=40, n=2))
        assert entry.baseline is not None
        assert (entry.baseline.output_tokens, entry.baseline.high) == (60, Money(100 * 2000 + 80 * 10_000))

    @pytest.mark.parametrize("outcome", ["failed", "abandoned"])
    def test_a_request_that_delivered_nothing_is_a_loss(self, outcome: str) -> None:
        call = make_call(usage=Usage(100, 40), stage="guidance")
        entry, told = settled(make_exchange(call, outcome=outcome))
        assert likely(entry) == Money.ZERO
        assert (told["saved_usd"], told["saved_share"]) == ("-0.0006", None)
        assert (entry.visible_input, entry.visible_output) == (0, 0)

    def test_an_answer_without_a_word_still_had_a_prompt(self) -> None:
        """A stop string met at once: the client sees its prompt counted, and the teacher would have read it."""
        call = make_call("student", said="STOP", cut=True)
        entry, _ = settled(make_exchange(call, strategy="student"))
        assert (entry.visible_input or 0) > 7
        assert entry.visible_output == 0
        assert likely(entry) > Money.ZERO

    def test_a_client_that_left_is_compared_over_what_it_was_sent(self) -> None:
        calls = [
            make_call(usage=Usage(312, 40), stage="guidance"),
            make_call("student", said=" of the air", cut=True),
        ]
        exchange = make_exchange(*calls, outcome="abandoned", answer=["The sky is", " of the air"])
        entry, _ = settled(exchange)
        count = tokens.count("The sky is of the air", "gpt-6-sol")
        assert exchange.visible == Usage(312, count.tokens, source=count.source)
        assert likely(entry) == Money(312 * 2000 + count.tokens * 10_000)

    def test_and_over_its_own_prompt_without_the_instruction(self) -> None:
        calls = [make_call(usage=Usage(312, 40), stage="guidance"), make_call("student", said="x", cut=True)]
        exchange = make_exchange(
            *calls, strategy="concise", outcome="abandoned", answer=["x"], guidance_prompt="concise"
        )
        entry, _ = settled(exchange)
        assert entry.visible_input == 312 - Prompts()["concise"].tokens

    def test_a_teacher_that_never_answered_does_not_make_the_prompt_vanish(self) -> None:
        calls = [
            make_call(stage="guidance", error="Unavailable"),
            make_call("student", said="Because.", cut=True),
        ]
        exchange = make_exchange(*calls, answer=["Because."], guidance=Guidance(wasted="failed"))
        entry, _ = settled(exchange)
        assert entry.visible_input == tokens.count(ASK[0]["content"], "gpt-6-sol").tokens + 7
        assert entry.wasted == "failed"

    def test_a_teacher_without_a_price(self) -> None:
        call = make_call("student", Usage(100, 60))
        entry, told = settled(make_exchange(call, strategy="student", teacher="free", visible=Usage(100, 60)))
        assert entry.baseline is not None
        assert (entry.baseline.low, entry.baseline.likely, entry.baseline.high) == (None, None, None)
        assert (told["saved_usd"], told["saved_share"], told["baseline"]["likely_usd"]) == (None, None, None)
        assert told["cost_usd"] is not None

    def test_a_student_without_a_price(self) -> None:
        calls = [make_call(usage=Usage(100, 40), stage="guidance"), make_call("student", Usage(1, 1), upstream="free")]
        entry, told = settled(make_exchange(*calls, visible=Usage(100, 60)))
        assert entry.spent is None
        assert told["unpriced"] == 1
        assert told["stages"][0]["cost_usd"] == "0.0006"

    def test_no_teacher_no_baseline(self) -> None:
        call = make_call("student", Usage(100, 60))
        entry, told = settled(make_exchange(call, strategy="student", teacher=None, visible=Usage(100, 60)))
        assert entry.baseline is None
        assert (told["baseline"], told["saved_usd"], told["saved_share"]) == (None, None, None)

    def test_a_count_that_nobody_knows_stays_unknown(self) -> None:
        call = make_call("student", Usage(100, None))
        entry, told = settled(make_exchange(call, strategy="student", visible=Usage(100, None)))
        assert entry.spent is None
        assert told["baseline"]["likely_usd"] is None
        assert entry.teacher_tokens == 0
        assert replace(entry, calls=[make_call(usage=Usage(1, None))]).spent is None

    def test_a_request_that_asked_nobody(self) -> None:
        entry, told = settled(make_exchange(outcome="abandoned"))
        assert (entry.spent, told["stages"], told["saved_usd"]) == (Money.ZERO, [], "0")


class TestText:
    def test_no_text_unless_it_was_asked_for(self) -> None:
        exchange = make_exchange(make_call(usage=Usage(1, 1)), answer=[SECRET], visible=Usage(1, 1))
        exchange.chat = replace(exchange.chat, messages=[{"role": "user", "content": SECRET}])
        entry, told = settled(exchange)
        assert entry.text is None
        assert SECRET not in orjson.dumps(told).decode()
        stored, _ = settled(exchange, store_text=True)
        assert stored.text == {"messages": [{"role": "user", "content": SECRET}], "answer": SECRET}


class TestWhole:
    """Through the gateway, on the ledger."""

    @pytest.mark.parametrize("strategy", ["teacher", "student", "cut-off", "concise", "hint"])
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("usage", ["words", None])
    async def test_the_receipt_adds_up_to_the_ledgers_row(
        self, house: Any, strategy: str, stream: bool, usage: Any
    ) -> None:
        teacher = Scripted("teacher", "The sky is blue because air scatters light.", usage=usage)
        async with house(teacher=teacher, student=Scripted("student", " so it is.", usage=usage)) as home:
            answer = await home.ask(strategy=strategy, guidance_tokens=4, stream=stream)
            check(answer.receipt, await home.entry())
            (row,) = await home.gateway.ledger.savings(Query())
        assert row.spent.plain == answer.receipt["cost_usd"]
        assert row.saved.plain == answer.receipt["saved_usd"]

    async def test_guidance_that_was_paid_for_in_vain_stays_on_the_bill(self, house: Any) -> None:
        teacher = Scripted("teacher", "I think", reasoning=40)
        async with house(teacher=teacher, student=Scripted("student", "It is.")) as home:
            answer = await home.ask()
            entry = await home.entry()
        guidance = answer.receipt["stages"][0]
        assert answer.receipt["guidance"]["wasted"] == entry["wasted"] == "reasoning"
        assert (guidance["usage"]["output"], guidance["usage"]["reasoning"]) == (40, 40)
        assert Decimal(guidance["cost_usd"]) >= Decimal("0.0004")
        check(answer.receipt, entry)

    async def test_guidance_that_was_refused(self, house: Any) -> None:
        teacher = Scripted("teacher", "", fields={"refusal": "I cannot."})
        async with house(teacher=teacher, student=Scripted("student")) as home:
            answer = await home.ask()
            check(answer.receipt, await home.entry())
        assert answer.receipt["guidance"]["wasted"] == "refused"

    async def test_a_stand_in_for_the_teacher(self, house: Any) -> None:
        async with house(student=Scripted("student", "It is blue because of the air.")) as home:
            answer = await home.ask(guidance_tokens=3)
            entry = await home.entry()
            (row,) = await home.gateway.ledger.savings(Query())
        first, second = answer.receipt["stages"]
        assert (first["stand_in"], first["model"], second["stand_in"]) == ("student", "gpt-6-sol", None)
        assert row.notional.plain == first["cost_usd"]
        assert entry["stand_in"]
        check(answer.receipt, entry)

    async def test_a_fallback_is_on_the_bill(self, house: Any) -> None:
        student = Scripted("student", error=Unavailable("gone"))
        teacher = Scripted("teacher", "The sky is blue because air scatters light.")
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(guidance_tokens=4)
            check(answer.receipt, await home.entry())
        assert [stage["stage"] for stage in answer.receipt["stages"]] == ["guidance", "answer", "fallback"]
        assert answer.receipt["stages"][1]["cost_usd"] == "0"

    async def test_a_student_cut_by_a_stop_string_after_a_teacher_that_failed(self, house: Any) -> None:
        teacher = Scripted("teacher", error=Overloaded("full"))
        student = Scripted("student", chunks=["It is", " blue", " STO", "P", " more"])
        async with house(teacher=teacher, student=Deaf(student)) as home:
            answer = await home.ask(stop=("STOP",))
            check(answer.receipt, await home.entry())
        assert answer.text == "It is blue "
        assert answer.finish.usage.input > 0


class Deaf:
    """A model that does not know stop strings."""

    def __init__(self, engine: Scripted) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def stream(self, prompt: Prompt) -> Any:
        return self._engine.stream(replace(prompt, sampling=replace(prompt.sampling, stop=())))


def check(told: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """The stages of a receipt, its total, and the ledger's row say the same, to the last nano-dollar."""
    assert orjson.loads(orjson.dumps(told)) == told
    stages = [Decimal(stage["cost_usd"]) for stage in told["stages"]]
    assert sum(stages) == Decimal(told["cost_usd"]) == Decimal(row["spent"]) / 10**9
    assert [Decimal(call["amount"]) / 10**9 for call in row["calls"]] == stages
    assert sum(row["spent_by_stage"].values()) == row["spent"]
    if told["baseline"]:
        assert Decimal(told["baseline"]["likely_usd"]) == Decimal(row["baseline"]["likely"]) / 10**9
        assert Decimal(told["saved_usd"]) == Decimal(told["baseline"]["likely_usd"]) - Decimal(told["cost_usd"])
    assert told["request_id"] == row["request_id"]
    assert told["outcome"] == row["outcome"]


COUNT = st.integers(0, 300_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage | None:
    if draw(st.integers(0, 4)) == 0:
        return None
    size = draw(COUNT)
    cached = draw(st.none() | st.integers(0, size))
    written = draw(st.none() | st.integers(0, size - (cached or 0)))
    return Usage(size, draw(COUNT), cached, written, seconds=draw(st.none() | st.floats(0, 1000)))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    seat = draw(st.sampled_from(["teacher", "student"]))
    upstream = draw(st.sampled_from(["teacher"] if seat == "teacher" else ["student", "machine", "free"]))
    error = draw(st.sampled_from([None, None, "Unavailable", "TimedOut", "BadReply"]))
    return make_call(
        seat,
        draw(usages()) if error is None else None,
        upstream=upstream,
        stage=draw(st.sampled_from(["guidance", "answer", "fallback"])),
        said=draw(st.text(max_size=40)),
        error=error,
        cut=draw(st.booleans()),
        duration=draw(st.none() | st.floats(0, 1000)),
        tier=draw(st.sampled_from([None, "default", "flex"])) if seat == "teacher" else None,
        stand_in=draw(st.sampled_from([None, "student"])),
    )


@settings(max_examples=80)
@given(
    made=st.lists(calls(), max_size=4),
    strategy=st.sampled_from(["teacher", "student", "cut-off", "concise", "hint"]),
    outcome=st.sampled_from(["ok", "failed", "abandoned"]),
    visible=usages(),
    answer=st.lists(st.text(max_size=20), max_size=3),
    teacher=st.sampled_from(["teacher", "free", None]),
    limit=st.none() | st.integers(1, 1000),
)
def test_whatever_happened_the_accounts_agree(
    made: Sequence[Call],
    strategy: str,
    outcome: str,
    visible: Usage | None,
    answer: list[str],
    teacher: str | None,
    limit: int | None,
) -> None:
    for number, call in enumerate(made):
        call.id = f"chatcmpl-1/{number}"
    exchange = make_exchange(
        *made, strategy=strategy, outcome=outcome, visible=visible, answer=answer, teacher=teacher, max_tokens=limit
    )
    entry, told = settled(exchange)

    async def kept() -> Mapping[str, Any]:
        ledger = await SqlLedger.open("sqlite://")
        await ledger.settle(entry)
        row = await ledger.entry("chatcmpl-1")
        await ledger.aclose()
        assert row is not None
        return row

    row = asyncio.run(kept())
    assert orjson.loads(orjson.dumps(told)) == told
    costs = [stage["cost_usd"] for stage in told["stages"]]
    assert told["unpriced"] == costs.count(None)
    amounts = {call["id"]: call["amount"] for call in row["calls"]}
    for call, cost in zip(made, costs, strict=True):
        assert amounts[call.id] == (None if cost is None else Decimal(cost) * 10**9)
    if None in costs:
        assert entry.spent is row["spent"] is told["cost_usd"] is None
    else:
        assert entry.spent is not None
        assert entry.spent.nano == row["spent"] == sum(Decimal(cost) for cost in costs) * 10**9
    base = entry.baseline
    if base is None or base.likely is None or entry.spent is None:
        assert told["saved_usd"] is None
    else:
        assert base.low is not None
        assert base.high is not None
        assert base.low <= base.likely <= base.high
        assert Decimal(told["saved_usd"]) * 10**9 == base.likely.nano - entry.spent.nano
        assert row["baseline"]["likely"] == base.likely.nano
    if base is not None and (base.likely is not None or base.method == "measured"):
        # What is kept beside it makes it again, to the nano-dollar.
        assert entry.baseline_of is not None
        basis = loads(entry.baseline_of.dumps())
        price = basis.unasked.price(quote, "teacher") if basis.unasked is not None else None
        kept_of = {call["id"]: call["amount"] for call in row["calls"]}
        assert basis.amounts(price, kept_of) == tuple(row["baseline"][name] for name in ("low", "likely", "high"))
    if teacher == "teacher" and visible is not None:
        assert base is not None
        assert base.likely is not None or (base.method == "measured" and entry.spent is None)


def test_the_tables_of_errors_are_real_errors() -> None:
    assert all(issubclass(getattr(errors, name), errors.EngineError) for name in NOT_BILLED)


class TestCalibrated:
    RATIO = LengthRatio(shown=100, teacher=150, low=1.2, high=2.0, pairs=30)

    def ratio(self, route: str, strategy: str, model: str) -> LengthRatio | None:
        return self.RATIO if (route, strategy, model) == ("gkt", "cut-off", "gpt-6-sol") else None

    def baseline(self, *, strategy: str = "cut-off", **fields: Any) -> Any:
        calls = make_call(usage=Usage(1000, 40, cached=200), stage="guidance"), make_call("student", Usage(1040, 60))
        exchange = make_exchange(*calls, strategy=strategy, visible=Usage(1000, 100), **fields)
        return settled(exchange, ratio=self.ratio)[0].baseline

    def test_measured_lengths_take_the_place_of_the_assumption(self) -> None:
        baseline = self.baseline()
        prompt = 800 * 2_000 + 200 * 200  # the cache discount is the baseline's too
        assert (baseline.method, baseline.output_tokens) == ("calibrated", 150)
        assert [each.nano - prompt for each in (baseline.low, baseline.likely, baseline.high)] == [
            120 * 10_000,
            150 * 10_000,
            200 * 10_000,
        ]

    def test_never_beyond_what_the_caller_allows(self) -> None:
        assert self.baseline(max_tokens=130).output_tokens == 130
        assert self.baseline(max_tokens=65, n=2).output_tokens == 130

    @pytest.mark.parametrize(
        "fields", [{"strategy": "hint"}, {"teacher_model": "gpt-6-luna"}, {"outcome": "abandoned"}]
    )
    def test_not_for_what_was_not_measured(self, fields: dict[str, Any]) -> None:
        assert self.baseline(**fields).method == "same_length"

    def test_a_shadow_has_no_baseline_and_says_whose_it_is(self) -> None:
        call = make_call(usage=Usage(1000, 150))
        call.stage = "measurement"
        entry, _ = settled(make_exchange(call, visible=Usage(1000, 150), shadow_of="chatcmpl-0"), ratio=self.ratio)
        assert (entry.baseline, entry.shadow_of, entry.teacher_tokens) == (None, "chatcmpl-0", 150)
        assert entry.spent == spent(call)
