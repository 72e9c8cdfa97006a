"""Cascade: students first, the teacher where the policy wants it; through the whole gateway, over scripted models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.answers import Answer as Final
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Observed, Policy, Rung, Teacher
from gateway.cascade.signals import Draft
from gateway.chat import Climb, Exchange
from gateway.config import Config
from gateway.errors import ConfigError, UpstreamFailed
from gateway.strategies.draft import climbed
from gateway.upstreams import Desk, worst_case
from pricing.money import Money
from students.engine import Ability, Engine, Prompt
from students.errors import Unavailable
from students.scripted import Scripted
from tests.gateway.conftest import Answer, House
from tests.gateway.test_shadows import until

pytestmark = pytest.mark.anyio

PRICES = {"big": {"input": 2, "output": 10}, "one": {"input": 0.1, "output": 0.1}, "two": {"input": 0.2, "output": 0.2}}
NAMES = ("teacher", "one", "two")
RIGHT = "The answer is 18."
WRONG = "I think that the answer is 17."
GUIDED = Observed(asked=50, accepted=0.5, escalated=0.5, kept=0.5, needed=0.1)


def agreeing(*rungs: Mapping[str, Any], cap: int | None = None) -> Policy:
    """Every student is asked; two that agree are believed, else the teacher is."""
    made: Sequence[Mapping[str, Any]] = rungs or ({"student": "one"}, {"student": "two"})
    last = len(made) - 1
    return Policy(
        name="test",
        kind="number",
        teacher=Teacher(model="big", max_tokens=cap),
        worth=0.1,
        prefer=["one", "two"],
        rungs=[
            Rung(
                gain={"alone": 1.0, "unparsed": 0.5},
                cost={"one": 1.0},
                next=None if place == last else {"alone": 2.0, "one": 0.0 if place else 1.0},
                **rung,
            )
            for place, rung in enumerate(made)
        ],
    )


@dataclass
class Cast(House):
    """A house with two students and a teacher, who remember what they were asked."""

    teacher: Scripted
    one: Scripted
    two: Scripted

    @property
    def asked(self) -> tuple[int, int, int]:
        return len(self.one.prompts), len(self.two.prompts), len(self.teacher.prompts)


Stage = Callable[..., Any]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    @asynccontextmanager
    async def opened(
        policy: Policy | None = None,
        *,
        teacher: Scripted | None = None,
        one: Scripted | None = None,
        two: Scripted | None = None,
        draw: Callable[[], float] = lambda: 0.0,
        **route: Any,
    ) -> AsyncGenerator[Cast, None]:
        cast = (
            teacher or Scripted("teacher", "It is 18.", model="big"),
            one or Scripted("one", RIGHT, model="one"),
            two or Scripted("two", RIGHT, model="two"),
        )
        file = tmp_path / "policy.yaml"
        file.write_text((policy or agreeing()).dump(), "utf-8")
        made = Config.parse(
            {
                "ledger": {"url": "sqlite://"},
                "prices": PRICES,
                "upstreams": {each.name: {"kind": "scripted", "model": each.model} for each in cast},
                "routes": {"gkt": {"strategy": "cascade", "teacher": "teacher", "policy": str(file), **route}},
            }
        )
        engines: dict[str, Engine] = {each.name: each for each in cast}
        async with open_gateway(made, engines=engines, environ={}, draw=draw) as gateway:
            yield Cast(gateway, *cast)

    return opened


def drafts(answer: Answer) -> list[tuple[Any, ...]]:
    return [
        tuple(each[name] for name in ("student", "answered", "agree", "given")) for each in answer.receipt["drafts"]
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_students_that_agree_are_believed_and_the_teacher_is_not_asked(stage: Stage, stream: bool) -> None:
    two = Scripted("two", "Well, 18", model="two")
    async with stage(two=two) as home:
        answer = await home.ask(stream=stream, max_tokens=40)
        entry = await home.entry()
    assert answer.text == RIGHT
    assert answer.finish.reasons == ("stop",)
    assert home.asked == (1, 1, 0)
    assert drafts(answer) == [("one", True, 2, True), ("two", True, 2, False)]
    assert answer.receipt["why"] == (
        "route gkt: cascade; "
        "break-even: the drafts cost 0.046 of the teacher's whole answer and pay above that kept from it; "
        "not observed yet; "
        "rung 2 of 2: 2 of 2 drafts agree; "
        "the teacher would add +0.000, worth it from 0.100 on: one"
    )
    assert entry["why"] == answer.receipt["why"]
    assert [(call["stage"], call["seat"], call["model"]) for call in entry["calls"]] == [
        ("answer", "student", "one"),
        ("answer", "student", "two"),
    ]
    assert entry["spent"] == 5 * 100 + 4 * 100 + 5 * 200 + 2 * 200
    assert entry["baseline"]["method"] == "same_length"
    assert entry["baseline"]["likely"] == 5 * 2_000 + 4 * 10_000
    assert answer.exchange.drafts is answer.exchange.climbs[0].drafts
    assert [draft.tokens for draft in answer.exchange.drafts] == [4, 2]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_teacher_answers_where_students_disagree(stage: Stage, stream: bool) -> None:
    async with stage(two=Scripted("two", WRONG, model="two")) as home:
        answer = await home.ask(stream=stream)
        entry = await home.entry()
    assert answer.text == "It is 18."
    assert [delta.text for delta in answer.deltas] == ["It", " is", " 18."], "it streams as it comes"
    assert home.asked == (1, 1, 1)
    assert drafts(answer) == [("one", True, 1, False), ("two", True, 1, False)]
    assert answer.receipt["why"].endswith("worth it from 0.100 on: the teacher")
    teacher = 5 * 2_000 + 3 * 10_000
    assert (entry["baseline"]["method"], entry["baseline"]["likely"]) == ("measured", teacher)
    assert entry["spent"] == teacher + 9 * 100 + (5 + 7) * 200
    assert answer.finish.usage is not None
    assert (answer.finish.usage.input, answer.finish.usage.output) == (5, 3)


def wrong() -> Scripted:
    return Scripted("two", WRONG, model="two")


async def test_a_capped_teacher_that_is_cut_is_not_given(stage: Stage) -> None:
    async with stage(agreeing(cap=2), two=wrong()) as home:
        answer = await home.ask()
        entry = await home.entry()
    assert answer.text == RIGHT
    assert home.teacher.prompts[0].max_tokens == 2
    assert answer.receipt["why"].endswith("the teacher was cut at 2 tokens, so the best draft: one")
    assert entry["baseline"]["method"] == "same_length", "how long its answer would have been is not known"
    assert entry["spent"] == 9 * 100 + 12 * 200 + 5 * 2_000 + 2 * 10_000
    async with stage(agreeing(cap=2), two=wrong()) as home:
        answer = await home.ask(max_tokens=2)  # the caller's own limit
    assert answer.text == "It is"
    assert answer.finish.reasons == ("length",)
    async with stage(agreeing(cap=3), two=wrong()) as home:
        answer = await home.ask()
        assert (answer.text, (await home.entry())["baseline"]["method"]) == ("It is 18.", "measured")


async def test_a_draft_that_is_cut_has_no_answer(stage: Stage) -> None:
    policy = agreeing({"student": "one", "max_tokens": 3}, {"student": "two"})
    async with stage(policy) as home:
        answer = await home.ask()
    assert home.one.prompts[0].max_tokens == 3
    assert drafts(answer) == [("one", False, 0, False), ("two", True, 1, False)]
    assert answer.text == "It is 18."


class TestFailures:
    async def test_a_student_that_fails_is_a_draft_without_an_answer(self, stage: Stage) -> None:
        gone = Scripted("one", RIGHT, model="one", error=Unavailable("gone"))
        async with stage(one=gone) as home:
            answer = await home.ask()
            entry = await home.entry()
            metrics = home.gateway.metrics.text()[0].decode()
        assert answer.text == "It is 18."
        assert drafts(answer) == [("one", False, 0, False), ("two", True, 1, False)]
        assert [call["error"] for call in entry["calls"]] == ["Unavailable", None, None]
        assert 'gkt_fallback_total{reason="student_unavailable"} 1.0' in metrics
        assert entry["outcome"] == "ok"

    async def test_one_that_fails_in_the_middle_is_paid_and_not_shown(self, stage: Stage) -> None:
        torn = Scripted("one", RIGHT, model="one", error=Unavailable("gone"), fail_after=2)
        async with stage(one=torn) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == "It is 18."
        assert entry["calls"][0]["amount"] > 0

    async def test_or_the_request_ends_where_the_route_says_so(self, stage: Stage) -> None:
        gone = Scripted("one", RIGHT, model="one", error=Unavailable("gone"))
        async with stage(one=gone, on_student_failure="error") as home:
            with pytest.raises(UpstreamFailed):
                await home.ask()
            assert home.asked == (1, 0, 0)

    async def test_the_best_draft_stands_in_for_a_teacher_that_fails(self, stage: Stage) -> None:
        def down() -> Scripted:
            return Scripted("teacher", model="big", error=Unavailable("down"))

        async with stage(teacher=down(), two=wrong()) as home:
            answer = await home.ask()
            assert 'gkt_fallback_total{reason="teacher_unavailable"} 1.0' in home.gateway.metrics.text()[0].decode()
        assert answer.text == RIGHT
        assert answer.receipt["why"].endswith("the teacher failed (Unavailable), so the best draft: one")
        async with stage(teacher=down(), two=wrong(), on_teacher_failure="error") as home:
            with pytest.raises(UpstreamFailed):
                await home.ask()

    async def test_when_all_fail_the_teachers_error_is_told(self, stage: Stage) -> None:
        cast = {
            name: Scripted(name, model=model, error=Unavailable(f"{name} is down"))
            for name, model in (("teacher", "big"), ("one", "one"), ("two", "two"))
        }
        async with stage(**cast) as home:
            with pytest.raises(UpstreamFailed, match="teacher is down"):
                await home.ask()
            assert (await home.entry())["outcome"] == "failed"

    async def test_a_policy_that_would_accept_gives_no_draft_that_is_not_there(self, stage: Stage) -> None:
        policy = agreeing()
        content = policy.model_copy(
            update={"worth": 100.0, "rungs": [policy.rungs[0].model_copy(update={"next": None})]}
        )
        async with stage(content, one=Scripted("one", model="one", error=Unavailable("gone"))) as home:
            answer = await home.ask()
        assert answer.text == "It is 18."


async def test_a_client_that_leaves_stops_the_draft(stage: Stage) -> None:
    one = Scripted("one", RIGHT, model="one", hang_after=1)
    async with stage(one=one) as home:
        exchange = home.open()
        events = home.gateway.answer(exchange)
        task = asyncio.create_task(anext(events))
        await until(lambda: bool(one.prompts))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await events.aclose()
        entry = await home.entry()
    assert one.closed_early == 1
    assert (entry["outcome"], entry["baseline"]["likely"]) == ("abandoned", 0)


async def test_over_http_streamed_and_not(stage: Stage) -> None:
    async with stage(strategy="student", student="one", two=Scripted("two", RIGHT, model="two")) as home:
        app = create_app(home.gateway.config, opener=lambda _: nullcontext(home.gateway))
        body = {"model": "gkt", "messages": [{"role": "user", "content": "?"}], "n": 2}
        wanted = {"x-gkt-strategy": "cascade"}
        door = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=door, base_url="http://localhost") as client,
        ):
            whole = await client.post("/v1/chat/completions", json=body, headers=wanted)
            streamed = await client.post("/v1/chat/completions", json={**body, "stream": True}, headers=wanted)
    assert whole.status_code == 200, whole.text
    frames = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    receipts = [whole.json()["gkt"], frames[-1]["gkt"]]
    for receipt in receipts:
        assert receipt["strategy"] == "cascade"
        assert [draft["given"] for draft in receipt["drafts"]] == [True, False, True, False]
    assert [choice["message"]["content"] for choice in whole.json()["choices"]] == [RIGHT, RIGHT]
    for index in range(2):
        choices = [choice for frame in frames for choice in frame["choices"] if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in choices) == RIGHT


class TestWholeAnswers:
    async def test_each_of_n_choices_is_a_cascade_of_its_own(self, stage: Stage) -> None:
        two = Scripted("two", lambda prompt: RIGHT if prompt.sampling.seed == 7 else WRONG, model="two")
        async with stage(two=two) as home:
            answer = await home.ask(n=2, seed=7)
            entry = await home.entry()
        assert [answer.choice(0), answer.choice(1)] == [RIGHT, "It is 18."]
        assert home.asked == (2, 2, 1)
        assert sorted(prompt.sampling.seed or 0 for prompt in two.prompts) == [7, 8]
        assert [(each["choice"], each["given"]) for each in answer.receipt["drafts"]] == [
            (0, True),
            (0, False),
            (1, False),
            (1, False),
        ]
        assert answer.finish.reasons == ("stop", "stop")
        assert entry["baseline"]["method"] == "same_length"
        assert answer.receipt["why"].count("rung 2 of 2") == 2

    async def test_calls_of_tools_agree_as_json(self, stage: Stage) -> None:
        def calling(name: str, *pieces: str) -> Scripted:
            call = {"index": 0, "id": name, "type": "function", "function": {"name": "f", "arguments": "".join(pieces)}}
            able = Ability.CONTINUE | Ability.TOOLS
            return Scripted(name, "", model=name, fields={"tool_calls": [call]}, finish="tool_calls", abilities=able)

        def able() -> Scripted:
            return Scripted("teacher", "It is 18.", model="big", abilities=Ability.CONTINUE | Ability.TOOLS)

        one, two = calling("one", '{"a": 1, "b": "x"}'), calling("two", '{"b":"x",', '"a":1}')
        async with stage(teacher=able(), one=one, two=two) as home:
            answer = await home.ask(needs=["tools"], options={"tools": [{}]})
            assert drafts(answer) == [("one", True, 2, True), ("two", True, 2, False)]
            assert [delta.fields for delta in answer.deltas] == [one._fields]
            assert answer.finish.reasons == ("tool_calls",)
            assert one.prompts[0].options == {"tools": [{}]}
        async with stage(teacher=able(), one=calling("one", '{"a": 1}'), two=calling("two", '{"a": 2}')) as home:
            assert (await home.ask(needs=["tools"])).text == "It is 18."

    async def test_objects_agree_by_their_answers_or_as_wholes(self, stage: Stage) -> None:
        able = Ability.CONTINUE | Ability.SCHEMA
        said = [
            ('{"answer": 18, "how": "so"}', '{"how": "otherwise", "answer": "18"}'),
            ('{"x": [1]}', '{ "x" : [1] }'),
        ]
        for first, second in said:
            one, two = (
                Scripted(name, text, model=name, abilities=able) for name, text in (("one", first), ("two", second))
            )
            teacher = Scripted("teacher", "no", model="big", abilities=able)
            async with stage(teacher=teacher, one=one, two=two) as home:
                answer = await home.ask(needs=["json"], options={"response_format": {"type": "json_object"}})
                assert drafts(answer)[0] == ("one", True, 2, True)
                assert answer.text == first

    async def test_what_a_student_cannot_do_the_teacher_does(self, stage: Stage) -> None:
        able = Scripted("teacher", "It is 18.", model="big", abilities=Ability.TOOLS)
        async with stage(teacher=able) as home:
            answer = await home.ask(needs=["tools"])
        assert home.asked == (0, 0, 1)
        assert answer.receipt["strategy"] == "teacher"
        assert answer.receipt["why"].startswith("route gkt: cascade; one cannot do tools: teacher; break-even: none")

    async def test_log_probabilities_are_asked_for_and_shown_to_who_asks(self, stage: Stage) -> None:
        one = Scripted("one", RIGHT, model="one", logprob=-0.25)
        async with stage(one=one) as home:
            answer = await home.ask()
        assert one.prompts[0].sampling.logprobs
        assert not home.two.prompts[0].sampling.logprobs
        assert [(draft.logprob, draft.least) for draft in answer.exchange.drafts] == [(-0.25, -0.25), (None, None)]
        assert all(delta.logprobs is None for delta in answer.deltas)
        able = [Scripted(name, RIGHT, model=model, logprob=-0.5) for name, model in zip(NAMES, PRICES, strict=True)]
        async with stage(teacher=able[0], one=able[1], two=able[2]) as home:
            answer = await home.ask(logprobs=True, needs=["logprobs"])
        assert [entry["logprob"] for delta in answer.deltas for entry in delta.logprobs or ()] == [-0.5] * 4

    async def test_a_draft_that_should_have_told_them_and_did_not_is_not_accepted(self, stage: Stage) -> None:
        weights = {"gain": {"doubt": 1.0}, "cost": {"one": 1.0}}
        policy = agreeing({"student": "one"}).model_copy(update={"rungs": [Rung(student="one", **weights)]})
        with pytest.raises(ConfigError, match="'one' does not tell log-probabilities"):
            async with stage(policy):
                pass
        silent = Scripted("one", RIGHT, model="one", abilities=Ability.LOGPROBS)
        async with stage(policy, one=silent) as home:
            answer = await home.ask()
        assert answer.text == "It is 18."
        assert "its log-probabilities, which count here, are not known: the teacher" in answer.receipt["why"]
        sure = Scripted("one", RIGHT, model="one", logprob=-0.01)
        async with stage(policy, one=sure) as home:
            assert (await home.ask()).text == RIGHT

    async def test_the_callers_own_beginning_is_gone_on_with_and_part_of_the_answer(self, stage: Stage) -> None:
        one, two = Scripted("one", " 18", model="one"), Scripted("two", " 18.", model="two")
        async with stage(one=one, two=two) as home:
            messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "So the answer is "}]
            answer = await home.ask(messages=messages)
        assert one.prompts[0].prefix == "So the answer is"
        assert (answer.text, drafts(answer)[0]) == ("18", ("one", True, 2, True))

    async def test_stop_strings_end_a_draft(self, stage: Stage) -> None:
        one = Scripted("one", "The answer is 18. STOP and more", model="one")
        async with stage(one=one) as home:
            answer = await home.ask(stop=("STOP",))
        assert answer.text == "The answer is 18. "
        assert answer.exchange.drafts[0].answer == answer.exchange.drafts[1].answer


class TestGuidance:
    POLICY = agreeing(
        {"student": "one"},
        {"student": "two", "kind": "guidance", "guidance_tokens": 3, "observed": GUIDED},
        {"student": "one", "kind": "guidance", "guidance_tokens": 5, "observed": GUIDED},
    )
    LONG = "First we add nine and nine, so it is eighteen: 18."

    @staticmethod
    def student(name: str, alone: str, *guided: tuple[str, str]) -> Scripted:
        """Says something else after each beginning."""
        known = dict(guided)
        return Scripted(name, lambda prompt: known.get(prompt.prefix, alone), model=name)

    async def test_guidance_grows_while_students_disagree(self, stage: Stage) -> None:
        teacher = Scripted("teacher", self.says, model="big")
        one = self.student("one", "It is 16.", ("First we add nine", " to 9: 18"))
        two = self.student("two", RIGHT, ("First we", " guess 17."))
        async with stage(self.POLICY, teacher=teacher, one=one, two=two) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert [(call["stage"], call["model"]) for call in entry["calls"]] == [
            ("answer", "one"),
            ("guidance", "big"),
            ("answer", "two"),
            ("guidance", "big"),
            ("answer", "one"),
            ("answer", "big"),
        ]
        assert [prompt.prefix for prompt in teacher.prompts] == ["", "First we", ""], "it goes on from its own words"
        assert [prompt.max_tokens for prompt in teacher.prompts[:2]] == [3, 3]
        assert [draft.answer and draft.answer.value for draft in answer.exchange.drafts] == ["16", "17", "18"]
        assert [draft.tokens for draft in answer.exchange.drafts] == [3, 4, 7]
        assert answer.text == self.LONG

    def says(self, prompt: Prompt) -> str:
        return self.LONG.removeprefix(prompt.prefix)

    async def test_a_guided_draft_is_given_whole(self, stage: Stage) -> None:
        def cast() -> dict[str, Scripted]:
            return {
                "teacher": Scripted("teacher", self.LONG, model="big"),
                "one": self.student("one", "It is 17."),
                "two": self.student("two", RIGHT, ("First we", " guess 17.")),
            }

        async with stage(self.POLICY, **cast()) as home:
            answer = await home.ask(stop=("never",))
        assert answer.exchange.drafts[1].tokens == 4
        assert drafts(answer) == [("one", True, 2, True), ("two", True, 2, False)]
        policy = self.POLICY.model_copy(update={"prefer": ["two", "one"]})
        async with stage(policy, **cast()) as home:
            answer = await home.ask()
        assert answer.text == "First we guess 17."
        assert answer.finish.usage is not None
        assert (answer.finish.usage.input, answer.finish.usage.output) == (5, 4)

    async def test_a_teacher_that_cannot_go_on_begins_anew(self, stage: Stage) -> None:
        teacher = Scripted("teacher", self.LONG, model="big", abilities=Ability.SAMPLES)
        one = self.student("one", "It is 16.", ("First we add nine", " to 8: 17"))
        two = self.student("two", RIGHT, ("First we", " guess 17."))
        async with stage(self.POLICY, teacher=teacher, one=one, two=two) as home:
            answer = await home.ask()
        assert [(prompt.prefix, prompt.max_tokens) for prompt in teacher.prompts] == [("", 3), ("", 5)]
        assert answer.receipt["why"].endswith(": one")
        assert answer.finish.usage is not None
        assert (answer.finish.usage.input, answer.finish.usage.output) == (5, 7)

    async def test_a_student_that_cannot_continue_has_the_guidance_in_its_prompt(self, stage: Stage) -> None:
        two = Scripted("two", RIGHT, model="two", abilities=Ability.SAMPLES)
        async with stage(self.POLICY, teacher=Scripted("teacher", self.LONG, model="big"), two=two) as home:
            answer = await home.ask()
        assert "First we" in two.prompts[0].messages[-1]["content"]
        assert answer.exchange.drafts[1].tokens == 4
        assert (answer.text, home.asked) == (RIGHT, (1, 1, 1))

    async def test_a_teacher_that_ends_within_its_guidance_has_answered(self, stage: Stage) -> None:
        teacher = Scripted("teacher", "It is 18.", model="big")
        async with stage(self.POLICY, teacher=teacher) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == "It is 18."
        assert answer.receipt["why"].endswith("rung 2 of 3: the teacher ended within its guidance")
        assert home.asked == (1, 0, 1)
        (climb,) = answer.exchange.climbs
        assert (climb.drafts, climb.given) == (answer.exchange.drafts, None)
        told = [(each["guidance"], each["told"], each["complete"]) for each in answer.receipt["drafts"]]
        assert told == [(0, False, False), (3, True, True)]
        assert entry["baseline"]["method"] == "measured"

    async def test_students_share_the_words_of_one_length(self, stage: Stage) -> None:
        """The second one costs its own words alone, even where the teacher could not go on from its own."""
        shared = agreeing(
            {"student": "one"},
            {"student": "two", "kind": "guidance", "guidance_tokens": 3, "observed": GUIDED},
            {"student": "one", "kind": "guidance", "guidance_tokens": 3, "observed": GUIDED},
        )
        teacher = Scripted("teacher", self.LONG, model="big", abilities=Ability.SAMPLES)
        one = self.student("one", "It is 16.", ("First we", " have 18"))
        two = self.student("two", RIGHT, ("First we", " say 18."))
        async with stage(shared, teacher=teacher, one=one, two=two) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert home.asked == (2, 1, 1)
        assert answer.text == "First we have 18"
        assert [(call["stage"], call["model"]) for call in entry["calls"]] == [
            ("answer", "one"),
            ("guidance", "big"),
            ("answer", "two"),
            ("answer", "one"),
        ]
        drafts = [(each["place"], each.get("guidance", 0), len(each["calls"])) for each in entry["drafts"]]
        assert drafts == [(0, 0, 1), (1, 3, 2), (2, 3, 1)], "the first to use them has the teacher's call"

    async def test_what_it_answered_keeps_to_the_callers_stop_strings_and_limit(self, stage: Stage) -> None:
        said = Scripted("teacher", "It is 18. So it is.", model="big")
        long = agreeing({"student": "one"}, {**self.RUNG, "guidance_tokens": 20})
        async with stage(long, teacher=said) as home:
            answer = await home.ask(stop=("So",))
        assert (answer.text, answer.finish.reasons) == ("It is 18. ", ("stop",))
        async with stage(long, teacher=Scripted("teacher", self.LONG, model="big")) as home:
            await home.ask(max_tokens=4)
            assert home.teacher.prompts[0].max_tokens == 4

    async def test_guidance_that_holds_the_answer_is_counted_apart(self, stage: Stage) -> None:
        said = "The answer is 18. Since nine and nine make that much."
        policy = agreeing({"student": "one"}, {**self.RUNG, "guidance_tokens": 6})
        async with stage(
            policy, teacher=Scripted("teacher", said, model="big"), two=Scripted("two", " Yes.", model="two")
        ) as home:
            answer = await home.ask()
        assert [draft["told"] for draft in answer.receipt["drafts"]] == [False, True]
        async with stage(policy, teacher=Scripted("teacher", self.LONG, model="big")) as home:
            answer = await home.ask()
        assert [draft["told"] for draft in answer.receipt["drafts"]] == [False, False], "short, and no answer yet"

    RUNG: Mapping[str, Any] = {"student": "two", "kind": "guidance", "guidance_tokens": 3, "observed": GUIDED}

    @pytest.mark.parametrize(
        ("asked", "why"),
        [({"needs": ["tools"]}, "tools cannot be guided"), ({"n": 2}, "n cannot be guided")],
    )
    async def test_where_nothing_can_be_glued_the_ladder_ends(
        self, stage: Stage, asked: dict[str, Any], why: str
    ) -> None:
        able = Ability.CONTINUE | Ability.TOOLS
        cast = {
            name: Scripted(name, RIGHT, model=model, abilities=able) for name, model in zip(NAMES, PRICES, strict=True)
        }
        async with stage(agreeing({"student": "one"}, self.RUNG), **cast) as home:
            answer = await home.ask(**asked)
        assert f"the next rung is closed: {why}" in answer.receipt["why"]
        assert not home.two.prompts

    async def test_guidance_that_does_not_pay_is_not_asked_for(self, stage: Stage) -> None:
        for observed, why in (
            (None, "nobody has seen yet what guidance of 3 tokens keeps from the teacher"),
            (
                GUIDED.model_copy(update={"kept": 0.09}),
                "guidance of 3 tokens keeps 0.090 from the teacher and pays above",
            ),
        ):
            async with stage(agreeing({"student": "one"}, {**self.RUNG, "observed": observed})) as home:
                answer = await home.ask()
            assert why in answer.receipt["why"]
            assert home.asked == (1, 0, 0)

    async def test_wasted_guidance_is_a_draft_without_an_answer(self, stage: Stage) -> None:
        teacher = Scripted("teacher", self.LONG, model="big", reasoning=10)
        async with stage(agreeing({"student": "one"}, self.RUNG), teacher=teacher) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert entry["wasted"] == "reasoning"
        assert drafts(answer) == [("one", True, 1, False), ("two", False, 0, False)]
        assert answer.text == self.LONG


async def test_the_most_it_can_cost_holds_every_rung_and_the_teacher(stage: Stage) -> None:
    policy = agreeing(
        {"student": "one", "max_tokens": 50},
        {"student": "two", "kind": "guidance", "guidance_tokens": 10, "observed": GUIDED},
        cap=30,
    )
    two = Scripted("two", WRONG, model="two")
    async with stage(policy, two=two, teacher=Scripted("teacher", "so " * 80, model="big")) as home:
        exchange: Exchange = home.open(max_tokens=100)
        gateway = home.gateway
        most = worst_case(exchange, gateway.upstreams, gateway.book, gateway._rules.prompts)
        async for _ in gateway.answer(exchange):
            pass
        assert len(exchange.calls) == 4
        bounds = [call.bound for call in exchange.calls]
        assert most is not None
        known = sum(bound.nano for bound in bounds if bound is not None)
        assert known <= most.nano
        # The outputs alone: 50 of one, 10 and 30 of the teacher, 100 of the other.
        assert most > Money(50 * 100 + 40 * 10_000 + 100 * 200)
        assert (await home.entry())["spent"] < known


async def test_only_the_plans_students_can_be_asked(stage: Stage) -> None:
    async with stage() as home:
        exchange = home.open()
        desk = Desk(
            exchange, home.gateway.upstreams, home.gateway.book, home.gateway.ledger, home.gateway._rules.prompts
        )
        assert desk.can("student", Ability.CONTINUE, "two")
        with pytest.raises(LookupError, match="'teacher' is no student of the plan"):
            await anext(desk.ask("student", "answer", Prompt(exchange.chat.messages), "teacher"))


class TestMeasured:
    async def test_a_rung_can_be_climbed_for_nobody(self, stage: Stage) -> None:
        """As a shadow does, which wants to know what a rung would have come to that was not needed."""
        policy = agreeing({"student": "one"}, TestGuidance.RUNG)
        two = Scripted("two", " so 18.", model="two")
        down = Scripted("one", model="one", error=Unavailable("gone"))
        teacher = Scripted("teacher", TestGuidance.LONG, model="big")
        async with stage(policy, one=down, two=two, teacher=teacher, on_student_failure="error") as home:
            exchange, gateway = home.open(), home.gateway
            desk = Desk(exchange, gateway.upstreams, gateway.book, gateway.ledger, gateway._rules.prompts)
            climb = Climb()
            heard = [await climbed(exchange, desk, climb, place, measuring=True) for place in (0, 1)]
        assert [call.stage for call in exchange.calls] == ["measurement"] * 3
        assert [each.useful for each in heard] == [False, True]
        assert heard[1].draft == Draft("two", Final("number", "18"), 4, guidance=3)
        assert climb.drafts == [each.draft for each in heard]
        assert [len(taken.calls) for taken in climb.taken] == [1, 2]
        assert exchange.guidance is None, "nobody was served by it"

    async def test_a_holdout_is_the_teacher_alone(self, stage: Stage) -> None:
        async with stage(holdout=0.5, draw=lambda: 0.1) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert (entry["strategy"], entry["arm"], entry["propensity"]) == ("teacher", "holdout", 0.5)
        assert home.asked == (0, 0, 1)
        assert "drafts" not in answer.receipt
        async with stage(holdout=0.5, draw=lambda: 0.9) as home:
            await home.ask()
            entry = await home.entry()
        assert (entry["strategy"], entry["arm"], entry["propensity"]) == ("cascade", "policy", 0.5)

    async def test_an_accepted_draft_has_a_shadow(self, stage: Stage) -> None:
        async with stage(shadow=1, answers="number") as home:
            await home.ask()
            await home.gateway.idle()
            entry = await home.entry()
        assert entry["shadow"]["measured"]["cost"] == 5 * 2_000 + 3 * 10_000
        assert [call["stage"] for call in entry["shadow"]["calls"]] == ["measurement"]

    async def test_the_teachers_own_answer_needs_none_unless_it_was_not_given(self, stage: Stage) -> None:
        async with stage(shadow=1, two=wrong()) as home:
            await home.ask()
            await home.gateway.idle()
            assert (await home.entry())["shadow"] is None
            assert len(home.teacher.prompts) == 1
        async with stage(agreeing(cap=2), shadow=1, two=wrong()) as home:
            await home.ask()
            await home.gateway.idle()
            assert (await home.entry())["shadow"]["measured"]["cost"] == 5 * 2_000 + 3 * 10_000
