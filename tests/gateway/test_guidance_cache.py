"""The guidance cache: the very same question is not asked twice, any other is, and the accounts say so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.wire import parse
from gateway.chat import Call, Caller, Exchange, Overrides, Plan
from gateway.config import Config
from gateway.errors import BadRequest, ConfigError, Forbidden
from gateway.guidance_cache import GuidanceCache, Kept, bypasses, pack, unpacked
from gateway.ledger import rollup
from gateway.ledger.entry import Query
from gateway.planner import Planner
from gateway.shared.cache import MemoryCache
from gateway.upstreams import Upstream
from pricing.money import Money
from pricing.usage import Usage
from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.errors import Unavailable
from students.scripted import Scripted
from tests.gateway.conftest import Answer, House, make_chat

pytestmark = pytest.mark.anyio

LONG = "The sky is blue because its air scatters the blue part of sunlight the most."
PRICES = {"gpt-6-sol": {"input": 2, "output": 10, "cached": 0.2}, "small": {"input": 0.01, "output": 0.08}}
UPSTREAMS = {
    "teacher": {"kind": "scripted", "model": "gpt-6-sol"},
    "student": {"kind": "scripted", "model": "small"},
    "other": {"kind": "scripted", "model": "gpt-6-sol"},
}
KEEPS: Mapping[str, Any] = {"strategy": "cut-off", "guidance_tokens": 5, "guidance_cache": 60}
LOOK = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]

_numbers = count(1)


def keeping() -> Plan:
    route = {"teacher": "teacher", "student": "student", **KEEPS}
    config = Config.parse({"upstreams": UPSTREAMS, "routes": {"gkt": route}})
    return Planner(config, lambda name: Ability.CONTINUE, ()).plan(make_chat("gkt"), Caller())


PLAN = keeping()


def teacher(says: str = LONG, **how: Any) -> Scripted:
    return Scripted("teacher", says, model="gpt-6-sol", **how)


def student(**how: Any) -> Scripted:
    return Scripted("student", lambda prompt: f"{prompt.prefix} and so on.", model="small", **how)


async def ask(home: House, model: str = "gkt", caller: Caller | None = None, **chat: Any) -> Answer:
    """One chat under an id of its own."""
    made = make_chat(model, request_id=f"chatcmpl-{next(_numbers)}", **chat)
    exchange = home.gateway.open(made, caller or Caller())
    deltas: list[Delta] = []
    async with aclosing(home.gateway.answer(exchange)) as events:
        async for event in events:
            if isinstance(event, Finish):
                return Answer(exchange, deltas, event)
            deltas.append(event)
    raise AssertionError("no finish")


async def entry(home: House, answer: Answer) -> Mapping[str, Any]:
    return await home.entry(answer.exchange.chat.id)


def counted(home: House, outcome: str) -> float:
    text = home.gateway.metrics.text()[0].decode()
    found = re.search(rf'^gkt_guidance_cache_total{{outcome="{outcome}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("strategy", ["cut-off", "concise", "hint"])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_second_time_the_teacher_is_not_asked(house: Any, strategy: str, stream: bool) -> None:
    speaks, goes_on = teacher(), student()
    route = {**KEEPS, "strategy": strategy}
    async with house(teacher=speaks, student=goes_on, route=route, upstreams=UPSTREAMS, prices=PRICES) as home:
        first = await ask(home, stream=stream, temperature=0.2)
        again = await ask(home, stream=stream, temperature=0.9)
        assert len(speaks.prompts) == 1
        assert again.text == first.text
        assert [delta.text for delta in again.deltas] == [delta.text for delta in first.deltas]
        assert [prompt.sampling.temperature for prompt in goes_on.prompts] == [0.2, 0.9], "the student is asked anew"
        assert goes_on.prompts[0].prefix == goes_on.prompts[1].prefix
        assert goes_on.prompts[0].messages == goes_on.prompts[1].messages
        assert again.exchange.guidance == first.exchange.guidance
        assert again.finish.usage == first.finish.usage, "what the client sees has not changed"

        (paid, wrote), (alone,) = first.exchange.calls, again.exchange.calls
        assert (alone.stage, alone.seat, alone.usage) == ("answer", "student", wrote.usage)
        assert paid.line is not None
        assert paid.line.amount is not None
        assert again.receipt["guidance"] == {
            **first.receipt["guidance"],
            "cache": "hit",
            "avoided_usd": paid.line.amount.plain,
        }
        assert (first.receipt["guidance"]["cache"], first.receipt["guidance"]["avoided_usd"]) == ("stored", None)
        assert [stage["stage"] for stage in again.receipt["stages"]] == ["answer"]
        assert again.receipt["baseline"] == {
            **first.receipt["baseline"],
            "low_usd": again.receipt["baseline"]["low_usd"],
        }

        booked, before = await entry(home, again), await entry(home, first)
        assert (booked["guidance_cache"], booked["avoided"]) == ("hit", paid.line.amount.nano)
        assert (before["guidance_cache"], before["avoided"]) == ("stored", None)
        assert booked["spent"] == booked["spent_by_stage"]["answer"] == before["spent"] - paid.line.amount.nano
        assert booked["spent_by_stage"]["guidance"] == 0
        assert (booked["teacher_tokens"], before["teacher_tokens"]) == (0, 5), "it has not written anything"
        assert [call["stage"] for call in booked["calls"]] == ["answer"]
        assert [counted(home, outcome) for outcome in ("stored", "hit", "miss", "bypassed")] == [1, 1, 0, 0]

        (row,) = await home.gateway.ledger.savings(Query())
        assert row.spent_by_stage["guidance"] == paid.line.amount
        assert row.spent == Money(booked["spent"] + before["spent"])
        assert row.teacher_output_tokens == 5
        with home.gateway.ledger.store.transaction() as connection:
            assert rollup.differences(connection) == []


async def test_a_baseline_of_what_was_not_asked_may_be_as_low_as_if_all_was_cached(house: Any) -> None:
    async with house(teacher=teacher(), student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first, again = [(await ask(home)).receipt for _ in range(2)]
        low = [Money.usd(each["baseline"]["low_usd"]) for each in (first, again)]
        assert again["baseline"]["likely_usd"] == first["baseline"]["likely_usd"]
        assert low[0] - low[1] == Money(5 * (2_000 - 200)), "five tokens of prompt"


async def test_a_whole_answer_within_the_budget(house: Any) -> None:
    speaks, goes_on = teacher("Four."), student()
    async with house(teacher=speaks, student=goes_on, route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first, again = [await ask(home) for _ in range(2)]
        assert (len(speaks.prompts), goes_on.prompts) == (1, [])
        assert (again.text, again.finish.reason) == (first.text, "stop") == ("Four.", "stop")
        assert again.exchange.calls == []
        booked = await entry(home, again)
        assert (booked["spent"], booked["calls"], booked["outcome"]) == (0, [], "ok")
        assert again.receipt["baseline"] == first.receipt["baseline"]
        assert again.receipt["baseline"]["method"] == "measured"
        assert again.receipt["saved_share"] == 1
        (row,) = await home.gateway.ledger.savings(Query())
        assert (row.compared, row.saved) == (2, Money(booked["baseline"]["likely"]))


async def test_a_stop_string_in_kept_words(house: Any) -> None:
    """The words were kept whole, and each caller's own stop strings cut them."""
    speaks, goes_on = teacher(), student()
    async with house(teacher=speaks, student=goes_on, route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        await ask(home)
        stopped = await ask(home, stop=("sky",))
        assert (stopped.text, stopped.finish.reason) == ("The ", "stop")
        assert (len(speaks.prompts), len(goes_on.prompts)) == (1, 1)
        booked = await entry(home, stopped)
        assert (booked["guidance_cache"], booked["spent"]) == ("hit", 0)


async def test_logprobs_are_kept_with_their_words(house: Any) -> None:
    speaks, goes_on = teacher(logprob=-0.5), student(logprob=-0.25)
    async with house(teacher=speaks, student=goes_on, route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first, again = [await ask(home, logprobs=True, needs=["logprobs"]) for _ in range(2)]
        await ask(home)
        assert len(speaks.prompts) == 2, "without log-probabilities it is another question"
        assert [delta.logprobs for delta in again.deltas] == [delta.logprobs for delta in first.deltas]
        assert any(delta.logprobs for delta in again.deltas)


async def test_the_teacher_goes_on_from_kept_words_when_the_student_fails(house: Any) -> None:
    speaks, fails = teacher(), student(error=Unavailable("gone"))
    async with house(teacher=speaks, student=fails, route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first, again = [await ask(home) for _ in range(2)]
        assert again.text == first.text
        assert [call.stage for call in again.exchange.calls] == ["answer", "fallback"]
        assert [prompt.max_tokens for prompt in speaks.prompts] == [5, None, None]


async def test_usage_that_nobody_reported_is_counted_the_same_again(house: Any) -> None:
    speaks, goes_on = teacher(usage=None), student(usage=None)
    async with house(teacher=speaks, student=goes_on, route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first, again = [await ask(home) for _ in range(2)]
        paid = first.exchange.calls[0]
        assert paid.line is not None
        assert paid.line.amount is not None
        assert again.receipt["guidance"]["avoided_usd"] == paid.line.amount.plain
        assert again.receipt["baseline"]["likely_usd"] == first.receipt["baseline"]["likely_usd"]


async def test_a_teacher_without_a_price_saves_nobody_knows_how_much(house: Any) -> None:
    prices = {"small": PRICES["small"]}
    upstreams = {**UPSTREAMS, "teacher": {"kind": "scripted", "model": "unheard-of"}}
    speaks = Scripted("teacher", LONG, model="unheard-of")
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=upstreams, prices=prices) as home:
        first, again = [await ask(home) for _ in range(2)]
        assert (first.receipt["unpriced"], again.receipt["unpriced"]) == (1, 0)
        assert again.receipt["guidance"]["avoided_usd"] is None
        assert (await entry(home, again))["spent"] > 0


DIFFERENT: Sequence[Mapping[str, Any]] = [
    {"messages": [{"role": "user", "content": "Why is the sky blue"}]},
    {"messages": [{"role": "system", "content": "Why is the sky blue?"}]},
    {"messages": [{"role": "user", "content": "Why is the sky blue?", "name": "Ann"}]},
    {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Why is the sky blue?"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]}]},
    {"max_tokens": 4},
    {"guidance_tokens": 6},
    {"strategy": "concise"},
    {"guidance_prompt": "hint"},
    {"teacher": "other"},
    {"teacher_options": {"service_tier": "flex"}},
    {"teacher_options": {"reasoning_effort": "low"}},
    {"teacher_options": {"user": "somebody else"}},
    {"caller": Caller(id="key-2")},
    {"model": "any-other-name"},
]


@pytest.mark.parametrize("changed", DIFFERENT, ids=str)
async def test_whatever_the_teacher_would_hear_otherwise_is_another_question(
    house: Any, changed: Mapping[str, Any]
) -> None:
    speaks, other = teacher(), teacher()
    both = {"teacher": "teacher", "student": "student", **KEEPS}
    routes = {"gkt": both, "*": {**both, "teacher_model": "*"}}
    options = {"routes": routes, "upstreams": {**UPSTREAMS, "other": UPSTREAMS["teacher"]}, "prices": PRICES}
    async with house(teacher=speaks, student=student(), **options) as home:
        home.gateway.upstreams["other"] = replace(home.gateway.upstreams["other"], engine=other)
        await ask(home)
        await ask(home, **changed)
        await ask(home)
        assert len(speaks.prompts) + len(other.prompts) == 2
        await ask(home, **changed)
        assert len(speaks.prompts) + len(other.prompts) == 2
        assert [counted(home, outcome) for outcome in ("stored", "hit")] == [2, 2]


async def test_what_only_the_student_hears_makes_no_difference(house: Any) -> None:
    speaks = teacher()
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        await ask(home)
        for more in ({"temperature": 1.0}, {"seed": 7}, {"max_tokens": 50}, {"n": 2}, {"options": {"top_k": 3}}):
            await ask(home, **more)
        await ask(home, metadata={"ticket": "7"}, stream=True)
        assert len(speaks.prompts) == 1


async def test_a_route_keeps_nothing_unless_it_says_so(house: Any) -> None:
    speaks = teacher()
    route = {**KEEPS, "guidance_cache": None}
    async with house(teacher=speaks, student=student(), route=route, upstreams=UPSTREAMS, prices=PRICES) as home:
        answers = [await ask(home) for _ in range(2)]
        assert len(speaks.prompts) == 2
        assert [answer.receipt["guidance"]["cache"] for answer in answers] == [None, None]
        assert home.gateway.admission.shared.cache.size == 0


async def test_a_request_may_ask_the_teacher_in_any_case(house: Any) -> None:
    speaks = teacher()
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        first = await ask(home, cache=False)
        assert home.gateway.admission.shared.cache.size == 0
        answers = [first, await ask(home), await ask(home, cache=False), await ask(home)]
        assert [answer.receipt["guidance"]["cache"] for answer in answers] == ["bypassed", "stored", "bypassed", "hit"]
        assert len(speaks.prompts) == 3
        assert counted(home, "bypassed") == 2
        with pytest.raises(Forbidden, match="'cache' is not allowed"):
            await ask(home, cache=False, caller=Caller(overrides=frozenset({"strategy"})))


@pytest.mark.parametrize(
    ("chat", "own_key", "expected"),
    [
        ({}, False, False),
        ({"cache": False}, False, True),
        ({}, True, True),
        ({"teacher_options": {"store": True}}, False, True),
        ({"teacher_options": {"store": False}}, False, False),
        ({"needs": ["images"], "messages": LOOK}, False, True),
        ({"needs": ["audio"]}, False, True),
        ({"needs": ["samples", "logprobs", "tools"]}, False, False),
    ],
)
def test_what_passes_it_by(chat: dict[str, Any], own_key: bool, expected: bool) -> None:
    exchange = planned(provider_key="sk-of-the-callers-own" if own_key else None, **chat)
    assert bypasses(exchange) is expected


SAID_IN_VAIN: Sequence[tuple[Mapping[str, Any], str]] = [
    ({"says": "I cannot help.", "fields": {"refusal": "I cannot help."}}, "refused"),
    ({"says": "Well then.", "finish": "content_filter"}, "refused"),
    ({"says": "", "finish": "tool_calls", "fields": {"tool_calls": [{"index": 0}]}}, "refused"),
    ({"says": "Well", "finish": "tool_calls"}, "refused"),
    ({"says": LONG, "reasoning": 5}, "reasoning"),
    ({"says": ""}, "empty"),
    ({"says": "  \n "}, "empty"),
    ({"chunks": ["un", "belie", "va", "bly", "lo", "ng"]}, "torn"),
]


@pytest.mark.parametrize(("how", "wasted"), SAID_IN_VAIN, ids=str)
async def test_words_that_were_wasted_are_not_kept(house: Any, how: Mapping[str, Any], wasted: str) -> None:
    speaks = teacher(**how)
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        for _ in range(2):
            answer = await ask(home)
            assert answer.exchange.guidance is not None
            assert answer.exchange.guidance.wasted == wasted
            assert answer.receipt["guidance"]["cache"] == "miss"
        assert len(speaks.prompts) == 2
        assert home.gateway.admission.shared.cache.size == 0
        assert counted(home, "miss") == 2


@pytest.mark.parametrize("how", [{"error": Unavailable("gone")}, {"error": Unavailable("gone"), "fail_after": 3}])
async def test_a_call_that_did_not_end_is_not_kept(house: Any, how: Mapping[str, Any]) -> None:
    speaks = teacher(**how)
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        answers = [await ask(home) for _ in range(2)]
        assert [answer.receipt["guidance"]["cache"] for answer in answers] == ["miss", "miss"]
        assert len(speaks.prompts) == 2
        assert home.gateway.admission.shared.cache.size == 0


async def test_a_call_that_a_stop_string_cut_short_is_not_kept(house: Any) -> None:
    speaks = teacher()
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        await ask(home, stop=("sky",))
        assert (await ask(home)).receipt["guidance"]["cache"] == "stored"
        assert speaks.closed_early == 1


async def test_it_is_over_after_its_time(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    speaks, now = teacher(), [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        outcomes = []
        for later in (0, 59, 1, 59):
            now[0] += later
            outcomes.append((await ask(home)).receipt["guidance"]["cache"])
        assert outcomes == ["stored", "hit", "stored", "hit"]


async def test_a_reload_changes_it_for_new_requests(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter time holds for what was kept before, too; without any, nothing that is kept is used."""
    speaks, now = teacher(), [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    async with house(teacher=speaks, student=student(), route=KEEPS, upstreams=UPSTREAMS, prices=PRICES) as home:
        config: Config = home.gateway.config

        def reload(seconds: int | None) -> None:
            route = config.routes["gkt"].model_copy(update={"guidance_cache": seconds})
            home.gateway.reload(config.model_copy(update={"routes": {"gkt": route}}))

        await ask(home)
        now[0] += 30
        reload(None)
        assert (await ask(home)).receipt["guidance"]["cache"] is None
        reload(20)
        assert (await ask(home)).receipt["guidance"]["cache"] == "stored"
        reload(40)
        assert (await ask(home)).receipt["guidance"]["cache"] == "hit"
        assert len(speaks.prompts) == 3


async def test_holdouts_and_shadows_ask_the_teacher(house: Any) -> None:
    speaks = teacher()
    route = {**KEEPS, "holdout": 0.5, "shadow": 1}
    draws = iter([0.9, 0.0, 0.9, 0.0, 0.1])
    options = {"route": route, "upstreams": UPSTREAMS, "prices": PRICES, "draw": lambda: next(draws)}
    async with house(teacher=speaks, student=student(), **options) as home:
        answers = [await ask(home) for _ in range(2)]
        await home.gateway.idle()
        assert [answer.receipt["guidance"]["cache"] for answer in answers] == ["stored", "hit"]
        assert [prompt.max_tokens for prompt in speaks.prompts] == [5, None, None], "each was measured"
        held = await ask(home)
        assert (held.text, held.receipt["guidance"], held.exchange.guidance_cache) == (LONG, None, None)
        assert len(speaks.prompts) == 4
        shadow = (await entry(home, answers[1]))["shadow"]
        assert (shadow["guidance_cache"], shadow["outcome"]) == (None, "ok")


async def test_a_hit_from_a_stand_in_says_so(house: Any) -> None:
    upstreams = {
        "teacher": {
            "kind": "openai_api",
            "model": "gpt-6-sol",
            "base_url": "http://127.0.0.1:9/v1",
            "api_key_env": "GKT_NO_SUCH_KEY",
            "stand_in": "student",
        },
        "student": UPSTREAMS["student"],
    }
    stands_in = student()
    async with house(student=stands_in, route=KEEPS, upstreams=upstreams, prices=PRICES) as home:
        first, again = [await ask(home) for _ in range(2)]
        assert first.receipt["notice"] == again.receipt["notice"]
        assert again.receipt["guidance"]["cache"] == "hit"
        booked = await entry(home, again)
        assert (booked["stand_in"], booked["notional_spent"]) == (True, 0)


def planned(caller: str = "key-1", *, provider_key: str | None = None, **chat: Any) -> Exchange:
    """A chat that is planned by a route that keeps guidance."""
    made = replace(make_chat("gkt", **chat), provider_key=provider_key)
    return Exchange(made, Caller(id=caller), replace(PLAN, pass_key=provider_key is not None), 0.0)


def cache_of(secret: bytes | None = None, *, specs: Mapping[str, Any] | None = None, **of: Any) -> GuidanceCache:
    upstream = Upstream("teacher", teacher(), "gpt-6-sol", 100, 60.0, **of)
    config = Config.parse({"upstreams": {**UPSTREAMS, **(specs or {})}})
    return GuidanceCache(MemoryCache(), {"teacher": upstream}, config.upstreams, secret)


PROMPT = Prompt([{"role": "user", "content": "Why is the sky blue?"}], 5)

WORDS = st.text(st.characters(codec="utf-8"), max_size=5)
MESSAGES = st.lists(st.fixed_dictionaries({"role": WORDS, "content": WORDS}), min_size=1, max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES,
    "max_tokens": st.none() | st.integers(1, 3),
    "prefix": WORDS,
    "sampling": st.builds(
        Sampling, temperature=st.none() | st.sampled_from([0.0, 1.0]), seed=st.none() | st.integers(0, 1)
    ),
    "n": st.integers(1, 2),
    "options": st.dictionaries(WORDS, WORDS | st.integers(0, 2) | st.booleans(), max_size=2),
    "model": st.none() | st.sampled_from(["gpt-6-sol", "b"]),
}
PROMPTS = st.builds(Prompt, **FIELDS)


@pytest.mark.parametrize("field", FIELDS)
@given(one=PROMPTS, callers=st.tuples(*[st.sampled_from("ab")] * 2), data=st.data())
def test_two_questions_have_one_key_only_when_they_are_the_same(
    field: str, one: Prompt, callers: tuple[str, str], data: st.DataObject
) -> None:
    other = replace(one, **{field: data.draw(FIELDS[field])})
    cache = cache_of()
    first, second = [cache.key(planned(caller), prompt) for caller, prompt in zip(callers, (one, other), strict=True)]
    same = callers[0] == callers[1] and _told(one) == _told(other)
    assert (first == second) is same


def _told(prompt: Prompt) -> str:
    """JSON tells true from 1, as Python's `==` does not; the order of its members says nothing."""
    messages = [dict(sorted(message.items())) for message in prompt.messages]
    options = dict(sorted(prompt.options.items()))
    return repr(replace(prompt, messages=messages, model=prompt.model or "gpt-6-sol", options=options))


def test_a_key_is_of_a_question_and_not_of_how_it_is_sent() -> None:
    cache, exchange = cache_of(), planned()
    assert cache.key(exchange, PROMPT) == cache.key(exchange, replace(PROMPT, stream=False, key="sk-somebody"))
    turned = [{"content": "Why is the sky blue?", "role": "user"}]
    assert cache.key(exchange, PROMPT) == cache.key(exchange, replace(PROMPT, messages=turned))


def test_a_teacher_that_is_asked_in_another_way_is_another_one() -> None:
    exchange = planned()
    changed = {"teacher": {"kind": "scripted", "model": "gpt-6-sol", "says": "Otherwise."}}
    keys = {
        cache_of().key(exchange, PROMPT),
        cache_of(specs=changed).key(exchange, PROMPT),
        cache_of(stand_in="student").key(exchange, PROMPT),
        cache_of(stand_in="student", specs={"student": changed["teacher"]}).key(exchange, PROMPT),
        cache_of(b"one secret").key(exchange, PROMPT),
        cache_of(b"another").key(exchange, PROMPT),
    }
    assert len(keys) == 6
    assert all(re.fullmatch(r"guidance:[0-9a-f]{64}", key) for key in keys)


def call(**fields: Any) -> Call:
    told = {"finish": "length", "usage": Usage(5, 5, cached=2, reasoning=0), **fields}
    made = Call("c/0", "c", "guidance", "teacher", "teacher", "gpt-6-sol", None, 1e9, None)
    for name, value in told.items():
        setattr(made, name, value)
    return made


PIECES = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.none() | st.lists(st.fixed_dictionaries({"token": WORDS, "logprob": st.floats(-9, 0)}), max_size=2),
    ),
    max_size=6,
)


@given(
    pieces=PIECES,
    tier=st.none() | st.just("flex"),
    usage=st.none() | st.just(Usage(5, 5, seconds=0.5, source="counted")),
)
def test_what_is_kept_comes_back_as_it_was(
    pieces: list[tuple[str, Any]], tier: str | None, usage: Usage | None
) -> None:
    said = [Delta("Well, ", logprobs=None), *(Delta(text, logprobs=logprobs) for text, logprobs in pieces)]
    packed = pack(said, call(finish="stop", tier=tier, usage=usage))
    assert packed is not None
    kept = unpacked(packed, not_before=0.0)
    assert kept is not None
    assert kept == Kept([(delta.text, delta.logprobs) for delta in said], "stop", usage, tier, kept.seconds)
    assert kept.seconds > 0


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"{}", b'{"at": 9e9}', b'{"at": "x"}'])
def test_what_is_nothing_of_ours_is_nothing(data: bytes) -> None:
    assert unpacked(data, not_before=0.0) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_nothing(data: bytes) -> None:
    assert unpacked(data, not_before=0.0) is None


def test_the_configuration_says_for_how_long() -> None:
    assert Config().routes["gkt"].guidance_cache is None
    for wrong in (0, -1, 1.5, "always", 30 * 86_400 + 1):
        route = {"teacher": "teacher", "student": "student", "guidance_cache": wrong}
        with pytest.raises(ConfigError, match=r"routes\.gkt\.guidance_cache"):
            Config.parse({"routes": {"gkt": route}})


def test_asking_for_it_is_not_for_a_request() -> None:
    plain = b'{"model": "gkt", "messages": [{"role": "user", "content": "Hi"}], "gkt": {"cache": %s}}'
    assert parse(plain % b"false").overrides == Overrides(cache=False)
    assert parse(plain % b"null").overrides == Overrides()
    for header, expected in ((b"false", False), (b"False", False)):
        assert parse(plain % b"null", [(b"x-gkt-cache", header)]).overrides.cache is expected
    for wrong in (b"true", b'"false"', b"0"):
        with pytest.raises(BadRequest) as caught:
            parse(plain % wrong)
        assert caught.value.param == "gkt.cache"
    for said in (b"true", b"0", b"no-store", b""):
        with pytest.raises(BadRequest) as caught:
            parse(plain % b"null", [(b"x-gkt-cache", said)])
        assert caught.value.param == "x-gkt-cache"
