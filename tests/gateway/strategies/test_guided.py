"""Guidance: what the client sees, what each model is asked, and what becomes of every way it can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.chat import Caller, Chat, Exchange, Plan, Seat, Stage
from gateway.errors import BadRequest, UpstreamFailed
from gateway.strategies.guided import Guided
from gateway.strategies.prompts import Prompts
from pricing.usage import Usage
from students.engine import Ability, Event, Finish, Prompt, Sampling, Vector
from students.errors import BadReply, Overloaded, PromptTooLong, TimedOut, Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio
CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]
CAN = Ability.SAMPLES | Ability.TOOLS | Ability.SCHEMA | Ability.LOGPROBS


def paid(says: str = "The sky is blue because air scatters light.", **how: Any) -> Scripted:
    """A teacher as paid ones are: it cannot continue a given text."""
    return Scripted("teacher", says, **{"abilities": CAN, **how})


def small(says: str = " of how air scatters light.", **how: Any) -> Scripted:
    return Scripted("student", says, **how)


class TestCutOff:
    async def test_the_student_goes_on_from_exactly_the_teachers_words(self, house: Any) -> None:
        teacher, student = paid(), small(" air does that.")
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(guidance_tokens=6)
        assert answer.text == "The sky is blue because air does that."
        assert student.prompts[0].prefix == "The sky is blue because"
        assert teacher.prompts[0].max_tokens == 6
        assert teacher.prompts[0].messages == student.prompts[0].messages
        assert answer.exchange.guidance.text == "The sky is blue because"
        assert answer.receipt["guidance"]["text_chars"] == len("The sky is blue because")
        assert [stage["stage"] for stage in answer.receipt["stages"]] == ["guidance", "answer"]

    async def test_the_teachers_words_arrive_while_the_student_has_not_begun(self, house: Any) -> None:
        student = small(hang_after=0)
        async with house(teacher=paid(), student=student) as home:
            events = home.gateway.answer(home.open(guidance_tokens=6))
            first = [await anext(events) for _ in range(4)]
            assert "".join(delta.text for delta in first) == "The sky is blue"
            assert not student.prompts
            await events.aclose()

    async def test_each_model_has_its_own_settings(self, house: Any) -> None:
        teacher, student = paid(), small()
        async with house(teacher=teacher, student=student) as home:
            await home.ask(guidance_tokens=3, temperature=1.3, seed=7, logit_bias={"5": 1.0}, options={"top_k": 3})
        assert teacher.prompts[0].sampling.temperature == 0
        assert teacher.prompts[0].sampling.seed is None
        assert teacher.prompts[0].sampling.logit_bias is None
        assert "top_k" not in teacher.prompts[0].options
        asked = student.prompts[0]
        assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.seed) == (1.3, 0.9, 7)
        assert asked.sampling.logit_bias == {"5": 1.0}
        assert asked.options == {"top_k": 3}

    async def test_a_teacher_that_ends_within_the_budget_needs_no_student(self, house: Any) -> None:
        student = small()
        async with house(teacher=paid("Paris.\n"), student=student) as home:
            answer = await home.ask()
        assert answer.text == "Paris.\n"
        assert answer.finish.reasons == ("stop",)
        assert not student.prompts
        assert answer.receipt["baseline"]["method"] == "measured"
        assert answer.receipt["saved_usd"] == "0"
        assert answer.receipt["guidance"]["complete"] is True

    async def test_usage_is_what_the_client_sees(self, house: Any) -> None:
        teacher = paid(usage=Usage(100, 6))
        async with house(teacher=teacher, student=small(" air.", usage=Usage(105, 2))) as home:
            answer = await home.ask(guidance_tokens=6)
        assert (answer.finish.usage.input, answer.finish.usage.output) == (
            100,
            5 + 2,
        )  # one dropped: a word may be torn

    async def test_max_tokens_bounds_the_visible_whole(self, house: Any) -> None:
        student = small(" one two three four five six seven")
        async with house(teacher=paid(), student=student) as home:
            answer = await home.ask(guidance_tokens=4, max_tokens=6)
        assert student.prompts[0].max_tokens == 6 - 3
        assert answer.text == "The sky is one two three"
        assert answer.finish.reasons == ("length",)

    async def test_max_tokens_within_the_budget_is_the_teachers_alone(self, house: Any) -> None:
        student = small()
        async with house(teacher=paid(), student=student) as home:
            answer = await home.ask(max_tokens=3)
        assert answer.text == "The sky is"
        assert answer.finish.reasons == ("length",)
        assert not student.prompts

    async def test_samples_share_one_guidance(self, house: Any) -> None:
        teacher, student = paid(), small(lambda prompt: f" seed {prompt.sampling.seed}.")  # type: ignore[arg-type]
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(guidance_tokens=3, n=3, seed=10)
        assert len(teacher.prompts) == 1
        assert [answer.choice(index) for index in range(3)] == [f"The sky seed {10 + index}." for index in range(3)]
        assert len(answer.finish.reasons) == 3

    async def test_logprobs_are_each_models_own_and_never_invented(self, house: Any) -> None:
        async with house(teacher=paid(logprob=-0.1), student=small(" air.", logprob=-0.2)) as home:
            both = await home.ask(guidance_tokens=3, logprobs=True)
            assert [(entry["token"], entry["logprob"]) for delta in both.deltas for entry in delta.logprobs or ()] == [
                ("The", -0.1),
                (" sky", -0.1),
                (" air.", -0.2),
            ]
        silent = Ability.SAMPLES
        async with house(teacher=paid(abilities=silent), student=small(" air.", logprob=-0.2)) as home:
            one = await home.ask(guidance_tokens=3, logprobs=True)
        assert [entry["token"] for delta in one.deltas for entry in delta.logprobs or ()] == [" air."]
        assert one.deltas[0].logprobs is None


class TestStops:
    async def test_a_stop_string_across_the_seam(self, house: Any) -> None:
        student = small(" STOP and more")
        async with house(teacher=paid(chunks=["It is.", " x", " y"]), student=student) as home:
            answer = await home.ask(guidance_tokens=2, stop=("is. ST",))
        assert student.prompts[0].prefix == "It is."
        assert answer.text == "It "
        assert answer.finish.reasons == ("stop",)
        assert student.closed_early == 1

    async def test_what_only_looked_like_a_stop_string_is_shown(self, house: Any) -> None:
        async with house(teacher=paid(chunks=["It is.", " x", " y"]), student=small(" Sure")) as home:
            answer = await home.ask(guidance_tokens=2, stop=("is. ST",))
        assert answer.text == "It is. Sure"

    async def test_a_stop_string_within_the_guidance_ends_the_answer_before_it_is_shown(self, house: Any) -> None:
        student = small()
        async with house(teacher=paid("One two STOP three four five"), student=student) as home:
            answer = await home.ask(guidance_tokens=5, stop=("STOP",))
            entry = await home.entry()
        assert answer.text == "One two "
        assert answer.finish.reasons == ("stop",)
        assert not student.prompts
        assert entry["outcome"] == "ok"


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "#", "a#", "\n", " ", "1", ".", "é", "世"]), min_size=1, max_size=12)


@dataclass
class Direct:
    """The models of one exchange without a desk: nothing is written down."""

    teacher: Scripted
    student: Scripted
    prompts: Prompts

    def ask(self, seat: Seat, stage: Stage, prompt: Prompt, upstream: str | None = None) -> AsyncGenerator[Event, None]:
        return (self.teacher if seat == "teacher" else self.student).stream(prompt)

    def can(self, seat: Seat, ability: Ability, upstream: str | None = None) -> bool:
        return ability in (self.teacher if seat == "teacher" else self.student).abilities

    async def embed(self, stage: Stage, texts: Sequence[str], upstream: str) -> Sequence[Vector]:
        raise NotImplementedError

    async def passes(self, program: str, tests: str) -> bool | None:
        raise NotImplementedError


PROMPTS = Prompts()


@settings(max_examples=400)
@given(
    teacher=WORDS,
    student=WORDS,
    budget=st.integers(1, 8),
    stops=st.lists(st.sampled_from(["ab", "#a", "b\n", "a b", "1.", "世"]), max_size=2, unique=True),
    n=st.integers(1, 2),
)
@example(teacher=["a", " ", "a", "#"], student=["a", "b"], budget=3, stops=["#a"], n=1)
@example(teacher=["a.", "#", " ", "x"], student=["a", "b"], budget=2, stops=[".#a"], n=2)
@example(teacher=["\n"], student=["a"], budget=1, stops=[], n=1)
@example(teacher=["a", "#", "\n", "a"], student=["ab"], budget=3, stops=["ab", "#a"], n=1)
async def test_the_answer_is_as_if_one_model_had_written_it(
    teacher: list[str], student: list[str], budget: int, stops: list[str], n: int
) -> None:
    """Shown = guidance + continuation, cut at the stop string that is complete first; nothing lost, doubled or torn."""
    small_model = Scripted("student", chunks=student)
    plan = Plan("r", "cut-off", "", "teacher", "student", guidance_tokens=budget)
    chat = Chat("id", "gkt", [{"role": "user", "content": "?"}], Sampling(stop=tuple(stops)), n=n)
    exchange = Exchange(chat, Caller(), plan, started=0.0)
    texts, finish = [""] * n, None
    async for event in Guided().run(exchange, Direct(paid(chunks=teacher), small_model, PROMPTS)):
        assert finish is None
        if isinstance(event, Finish):
            finish = event
        else:
            texts[event.index] += event.text
    guidance = exchange.guidance
    assert guidance is not None
    assert finish is not None
    assert "".join(teacher[:budget]).startswith(guidance.text)
    for prompt in small_model.prompts:
        assert prompt.prefix == guidance.text == guidance.text.rstrip()
    full = guidance.text + ("".join(student) if small_model.prompts else "")
    ends = [(full.find(stop) + len(stop), full.find(stop)) for stop in stops if stop in full]
    expected = full[: min(ends)[1]] if ends else full
    assert texts == [expected] * n
    assert finish.reasons == ("stop",) * n
    if guidance.complete and not ends:
        assert full == "".join(teacher)


class TestConciseAndHint:
    async def test_the_instruction_stands_after_the_shared_prefix(self, house: Any) -> None:
        teacher, student = paid(), small()
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
        async with house(teacher=teacher, student=student) as home:
            await home.ask("gkt-concise", messages=messages, guidance_tokens=3)
        asked = teacher.prompts[0].messages
        assert asked[0] is messages[0]
        assert asked[1]["content"].startswith("Why?\n\n")
        assert "few words" in asked[1]["content"]
        assert student.prompts[0].messages == messages

    async def test_an_instruction_after_parts_and_after_a_tool_message(self, house: Any) -> None:
        teacher = paid()
        parts = [{"type": "text", "text": "Why?"}]
        async with house(teacher=teacher, student=small()) as home:
            await home.ask("gkt-concise", messages=[{"role": "user", "content": parts}])
            await home.ask(
                "gkt-concise", request_id="2", messages=[*CONVERSATION, {"role": "system", "content": "Now."}]
            )
        assert teacher.prompts[0].messages[0]["content"][0] == parts[0]
        assert teacher.prompts[0].messages[0]["content"][1]["type"] == "text"
        assert teacher.prompts[1].messages[-1]["role"] == "user"

    async def test_a_hint_is_in_the_students_prompt_and_not_in_the_answer(self, house: Any) -> None:
        student = small("Because of scattering.")
        async with house(teacher=paid("Think of how air scatters light and"), student=student) as home:
            answer = await home.ask("gkt-hint", guidance_tokens=5)
        assert answer.text == "Because of scattering."
        asked = student.prompts[0]
        assert asked.prefix == ""
        assert "Guidance: Think of how air" in asked.messages[-1]["content"]
        assert "scatters" not in asked.messages[-1]["content"]
        assert answer.receipt["guidance"]["text_chars"] == 0
        assert answer.receipt["guidance"]["wasted"] is None

    async def test_a_complete_hint_still_needs_the_student(self, house: Any) -> None:
        async with house(teacher=paid("Air scatters."), student=small("So it is.")) as home:
            answer = await home.ask("gkt-hint")
        assert answer.text == "So it is."
        assert answer.receipt["baseline"]["method"] == "same_length"

    async def test_the_clients_usage_leaves_the_instruction_out(self, house: Any) -> None:
        async with house(teacher=paid(usage=Usage(140, 3)), student=small(" air.", usage=Usage(121, 2))) as home:
            answer = await home.ask("gkt-concise", guidance_tokens=3)
        assert 100 < answer.finish.usage.input < 140
        assert answer.finish.usage.source == "estimated"


class TestTeacherTrouble:
    @pytest.mark.parametrize("error", [Unavailable("gone"), TimedOut("slow"), Overloaded("full"), BadReply("what")])
    async def test_a_teacher_that_fails_leaves_the_student_alone(self, house: Any, error: Any) -> None:
        async with house(teacher=paid(error=error), student=small("I think so.")) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == "I think so."
        assert answer.receipt["guidance"]["wasted"] == "failed"
        assert entry["wasted"] == "failed"
        assert entry["calls"][0]["error"] == type(error).__name__

    async def test_words_said_before_a_teacher_failed_are_kept(self, house: Any) -> None:
        student = small(" green.")
        async with house(teacher=paid(error=Unavailable("gone"), fail_after=4), student=student) as home:
            answer = await home.ask()
        assert answer.text == "The sky is green."
        assert answer.receipt["guidance"]["wasted"] is None

    async def test_words_held_for_a_stop_string_are_not_lost_when_there_is_no_room_left(self, house: Any) -> None:
        teacher = paid(chunks=["it is blue", " sk"], error=Unavailable("gone"), fail_after=2)
        student = small()
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(max_tokens=3, stop=("blue skies",))
        assert answer.text == "it is blue"
        assert answer.finish.reasons == ("length",)
        assert not student.prompts

    async def test_or_the_error_is_returned_as_configured(self, house: Any) -> None:
        student = small()
        async with house(
            teacher=paid(error=Unavailable("gone")), student=student, route={"on_teacher_failure": "error"}
        ) as home:
            with pytest.raises(UpstreamFailed, match="teacher: gone"):
                await home.ask()
            entry = await home.entry()
        assert entry["outcome"] == "failed"
        assert entry["error"] == "Unavailable"
        assert not student.prompts

    async def test_hidden_reasoning_that_eats_the_budget_is_wasted_billed_and_told(self, house: Any) -> None:
        async with house(teacher=paid(reasoning=100), student=small("Hm.")) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == "Hm."
        assert answer.receipt["guidance"]["wasted"] == entry["wasted"] == "reasoning"
        assert answer.receipt["stages"][0]["usage"]["reasoning"] == 40
        assert float(answer.receipt["stages"][0]["cost_usd"]) >= 40 * 10 / 1e6

    @pytest.mark.parametrize(("says", "why"), [("", "empty"), ("Antidisestablishmentarianism", "torn")])
    async def test_guidance_that_is_nothing_is_wasted(self, house: Any, says: str, why: str) -> None:
        teacher = paid(chunks=[says] * bool(says) + ["."], finish="stop") if says else paid(chunks=[])
        async with house(teacher=teacher, student=small("Hm.")) as home:
            answer = await home.ask(guidance_tokens=1)
        assert answer.text == "Hm."
        assert answer.receipt["guidance"]["wasted"] == why

    async def test_a_content_filter_is_never_a_prefix(self, house: Any) -> None:
        student = small()
        async with house(teacher=paid("I can tell", finish="content_filter"), student=student) as home:
            answer = await home.ask()
        assert not student.prompts
        assert answer.finish.reasons == ("content_filter",)
        assert answer.receipt["guidance"]["wasted"] == "refused"

    async def test_a_refusal_is_passed_on_and_never_a_prefix(self, house: Any) -> None:
        student = small()
        async with house(teacher=paid("", chunks=[], fields={"refusal": "I won't."}), student=student) as home:
            answer = await home.ask()
        assert not student.prompts
        assert answer.deltas[0].fields == {"refusal": "I won't."}
        assert answer.finish.reasons == ("stop",)


class TestStudentTrouble:
    async def test_a_student_that_fails_before_its_first_word_is_completed_by_the_teacher(self, house: Any) -> None:
        def says(prompt: Prompt) -> str:
            return "blue because of air." if prompt.messages[-2:][0]["role"] == "assistant" else "The sky is red and so"

        teacher = paid()
        teacher._says = says
        async with house(teacher=teacher, student=small(error=Unavailable("gone"))) as home:
            answer = await home.ask(guidance_tokens=4, temperature=0.5)
            entry = await home.entry()
        assert answer.text == "The sky is blue because of air."
        fallback = teacher.prompts[1]
        assert fallback.messages[-2] == {"role": "assistant", "content": "The sky is"}
        assert "interrupted" in fallback.messages[-1]["content"]
        assert fallback.sampling.temperature == 0.5
        assert [call["stage"] for call in entry["calls"]] == ["guidance", "answer", "fallback"]
        assert entry["calls"][1]["error"] == "Unavailable"
        assert answer.receipt["baseline"]["method"] == "same_length"

    async def test_a_teacher_that_can_continue_is_given_the_very_text(self, house: Any) -> None:
        teacher = paid(abilities=CAN | Ability.CONTINUE)
        async with house(teacher=teacher, student=small(error=Unavailable("gone"))) as home:
            await home.ask(guidance_tokens=4)
        assert teacher.prompts[1].prefix == "The sky is"
        assert teacher.prompts[1].messages == teacher.prompts[0].messages

    async def test_an_empty_fallback_asks_the_whole_question(self, house: Any) -> None:
        teacher = paid(reasoning=100)
        async with house(teacher=teacher, student=small(error=Unavailable("gone"))) as home:
            answer = await home.ask()
        assert answer.text == "The sky is blue because air scatters light."
        assert teacher.prompts[1].messages == teacher.prompts[0].messages

    async def test_a_student_that_fails_after_its_first_word_is_an_error(self, house: Any) -> None:
        async with house(teacher=paid(), student=small(error=Unavailable("gone"), fail_after=2)) as home:
            with pytest.raises(UpstreamFailed, match="student: gone"):
                await home.ask(guidance_tokens=4)
            entry = await home.entry()
        assert entry["outcome"] == "failed"
        assert entry["spent"] is not None

    async def test_words_held_back_when_the_student_failed_are_not_shown(self, house: Any) -> None:
        teacher = paid(abilities=CAN | Ability.CONTINUE)
        student = small(chunks=["#", "#"], error=Unavailable("gone"), fail_after=1)
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(guidance_tokens=4, stop=("###",))
        assert "#" not in answer.text

    async def test_or_the_error_as_configured(self, house: Any) -> None:
        async with house(
            teacher=paid(), student=small(error=PromptTooLong("too long")), route={"on_student_failure": "error"}
        ) as home:
            with pytest.raises(BadRequest) as caught:
                await home.ask(guidance_tokens=4)
        assert caught.value.code == "context_length_exceeded"

    async def test_a_hint_that_nobody_was_given_is_wasted(self, house: Any) -> None:
        """The teacher that takes over does not see its own hint: it was paid for in vain."""
        async with house(teacher=paid("Air scatters light."), student=small(error=Unavailable("gone"))) as home:
            answer = await home.ask("gkt-hint", n=2)
            entry = await home.entry()
        assert answer.receipt["guidance"]["wasted"] == "student_failed"
        assert entry["wasted"] == "student_failed"
        assert entry["spent_by_stage"]["guidance"] > 0
        assert [call["stage"] for call in entry["calls"]].count("fallback") == 2

    async def test_one_that_a_single_choice_was_given_is_not(self, house: Any) -> None:
        def first(prompt: Prompt) -> Unavailable | None:
            return Unavailable("gone") if len(student.prompts) == 1 else None

        student = small("So it is.", error=first)
        async with house(teacher=paid("Air scatters light."), student=student) as home:
            answer = await home.ask("gkt-hint", n=2)
            entry = await home.entry()
        assert [call["stage"] for call in entry["calls"]].count("fallback") == 1
        assert answer.receipt["guidance"]["wasted"] is None

    async def test_first_words_that_the_client_was_shown_are_not_wasted(self, house: Any) -> None:
        async with house(teacher=paid(), student=small(error=Unavailable("gone"))) as home:
            answer = await home.ask(guidance_tokens=4)
        assert answer.receipt["guidance"]["wasted"] is None

    async def test_when_both_fail_the_error_is_the_fallbacks(self, house: Any) -> None:
        async with house(teacher=paid(error=Unavailable("t")), student=small(error=Unavailable("s"))) as home:
            with pytest.raises(UpstreamFailed, match="teacher: t"):
                await home.ask()
            entry = await home.entry()
        assert [call["error"] for call in entry["calls"]] == ["Unavailable"] * 3


class TestCallersPrefix:
    MESSAGES = ({"role": "user", "content": "6 x 7?"}, {"role": "assistant", "content": "The answer is "})

    async def test_joined_not_doubled_when_both_models_can_go_on(self, house: Any) -> None:
        teacher = paid(" certainly 42 as", abilities=CAN | Ability.CONTINUE)
        student = small(" 42.")
        async with house(teacher=teacher, student=student) as home:
            answer = await home.ask(messages=list(self.MESSAGES), guidance_tokens=2)
        assert teacher.prompts[0].prefix == "The answer is"
        assert [message["role"] for message in teacher.prompts[0].messages] == ["user"]
        assert student.prompts[0].prefix == "The answer is certainly"
        assert answer.text == "certainly 42."

    async def test_the_student_alone_where_the_teacher_cannot(self, house: Any) -> None:
        student = small(" 42.")
        async with house(teacher=paid(), student=student) as home:
            answer = await home.ask(messages=list(self.MESSAGES))
        assert student.prompts[0].prefix == "The answer is"
        assert answer.text == "42."
        assert "prefix cannot be guided: student" in answer.receipt["why"]


async def test_a_client_that_leaves_stops_the_student_and_is_booked(house: Any) -> None:
    student = small(hang_after=2)
    async with house(teacher=paid(), student=student) as home:
        exchange = home.open(guidance_tokens=4)
        heard = asyncio.Event()

        async def read() -> None:
            async for event in home.gateway.answer(exchange):
                if event.text == " how":
                    heard.set()

        reader = asyncio.create_task(read())
        await heard.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        entry = await home.entry()
    assert student.closed_early == 1
    assert entry["outcome"] == "abandoned"
    assert entry["calls"][1]["cut"]
    assert entry["calls"][1]["usage"]["source"] == "estimated"
    assert entry["spent"] > 0
    assert home.gateway.in_flight == 0
