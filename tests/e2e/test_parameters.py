"""Parameters and overrides, as the official client sends them: they do what they say, or are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.answers import ask, check_accounts, whole
from tests.e2e.talkers import LENGTH, NAMES, SHOWN, sky, students_words, teachers_words, told

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served


TOPIC = "item-0"
"""Asked about where two answers are compared that a real model computes: a tie of two words is one in every run."""


class Fruit(BaseModel):
    """What `.parse` asks for; small, so that a small model cannot lose itself in it."""

    fruit: Literal["apple", "pear"]
    number: int = Field(ge=1, le=9)


class TestParameters:
    def test_parse(self, served: Served, topic: str) -> None:
        """JSON cannot be begun by another model: the teacher writes it, and the receipt says why."""
        asked: Any = [{"role": "user", "content": f"Choose a fruit and a number. Ticket {topic}."}]
        completion = served.sdk.chat.completions.parse(
            model="gkt", messages=asked, response_format=Fruit, max_tokens=60
        )
        fruit = completion.choices[0].message.parsed
        assert fruit is not None
        assert fruit.fruit in ("apple", "pear")
        answer = whole(completion)
        assert answer.receipt["why"].startswith("route gkt: cut-off; json cannot be guided: teacher; break-even: ")
        assert [(stage["stage"], stage["seat"]) for stage in answer.receipt["stages"]] == [("answer", "teacher")]
        check_accounts(served, answer)

    @pytest.mark.parametrize("stream", [False, True])
    def test_two_choices(self, served: Served, stream: bool, topic: str) -> None:
        """One guidance, two samples of the student."""
        answer = ask(
            served, topic, model="gkt", n=2, messages=sky(topic), max_tokens=48, temperature=1.3, stream=stream
        )
        guidance = answer.receipt["guidance"]
        assert [stage["stage"] for stage in answer.receipt["stages"]] == ["guidance", "answer", "answer"]
        shown = guidance["text_chars"]
        assert shown > 10
        assert len(answer.texts) == 2
        assert answer.texts[0][:shown] == answer.texts[1][:shown]
        check_accounts(served, answer)

    def test_two_samples_with_one_seed_differ(self, embedded: Served, topic: str) -> None:
        request = {"model": "student", "messages": sky(topic), "n": 2, "seed": 5, "max_tokens": 24}
        answer = ask(embedded, topic, **request)
        assert answer.texts[0] != answer.texts[1]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_string_within_the_guidance(self, faked: Served, stream: bool, topic: str) -> None:
        words = teachers_words(topic)
        answer = ask(faked, topic, model="gkt", stop=[words[2]], stream=stream)
        assert answer.text == "".join(words[:2])
        assert answer.reasons == ["stop"]
        assert [stage["stage"] for stage in answer.receipt["stages"]] == ["guidance"]
        check_accounts(faked, answer)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_string_across_the_seam(self, faked: Served, stream: bool, topic: str) -> None:
        stop = teachers_words(topic)[SHOWN - 1][-3:] + students_words(topic)[0][:5]
        answer = ask(faked, topic, model="gkt", stop=stop, stream=stream)
        assert stop in told(topic)
        assert answer.text == told(topic).partition(stop)[0]
        assert answer.reasons == ["stop"]
        assert answer.stage("answer")["cut"] is True  # the student was stopped, and is billed for what it had said
        check_accounts(faked, answer)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_string_of_the_real_student(self, mixed: Served, stream: bool) -> None:
        request = {"model": "gkt", "messages": sky(TOPIC), "temperature": 0, "seed": 1, "max_tokens": 40}
        free = ask(mixed, TOPIC, **request).text
        assert free.startswith("".join(teachers_words(TOPIC)[:SHOWN]))
        stop = free.split()[-3]
        answer = ask(mixed, TOPIC, stop=stop, stream=stream, **request)
        assert answer.text == free.partition(stop)[0]
        assert answer.reasons == ["stop"]
        check_accounts(mixed, answer)

    @pytest.mark.parametrize("limit", [1, 3, 5, 9, 100])
    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_limit_is_of_the_whole(self, faked: Served, name: str, limit: int, topic: str) -> None:
        answer = ask(faked, topic, model="gkt", **{name: limit})
        shown = SHOWN if limit > SHOWN + 1 else limit  # a limit within the budget is not a cut that tears
        said = teachers_words(topic)[:shown] + students_words(topic)[: limit - shown]
        assert answer.text == "".join(said)
        assert answer.usage is not None
        assert answer.usage["completion_tokens"] == len(said)
        assert answer.reasons == ["length" if limit <= SHOWN + LENGTH else "stop"]
        check_accounts(faked, answer)

    @pytest.mark.parametrize("limit", [1, 20, 45])
    def test_a_limit_over_real_models(self, embedded: Served, limit: int, topic: str) -> None:
        answer = ask(embedded, topic, model="gkt", messages=sky(topic), max_tokens=limit, stream=True)
        assert answer.usage is not None
        tokens = answer.usage["completion_tokens"]
        assert tokens <= limit
        # A model that samples may have said all of it before.
        assert answer.reasons == ["length"] or (answer.reasons == ["stop"] and tokens < limit)
        check_accounts(embedded, answer)

    def test_logprobs(self, embedded: Served, topic: str) -> None:
        """Both real models report them: one entry a token, and their texts are the answer."""
        completion = embedded.sdk.chat.completions.create(
            model="gkt", messages=cast("Any", sky(topic)), logprobs=True, top_logprobs=2, max_tokens=48
        )
        (choice,) = completion.choices
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
        said = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content).decode()
        assert said.split() == (choice.message.content or "").split()

    def test_logprobs_are_never_invented(self, mixed: Served, topic: str) -> None:
        """A teacher that gives none leaves its words without."""
        completion = mixed.sdk.chat.completions.create(
            model="gkt", messages=cast("Any", sky(topic)), logprobs=True, max_tokens=20
        )
        (choice,) = completion.choices
        assert choice.logprobs is not None
        assert choice.logprobs.content
        said = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content).decode()
        guidance = "".join(teachers_words(topic)[:SHOWN])
        assert (choice.message.content or "") == guidance + said

    @pytest.mark.parametrize("model", ["gkt", "gkt-concise", "student"])
    def test_temperature_zero_says_the_same_twice(self, mixed: Served, model: str) -> None:
        request = {"model": model, "messages": sky(TOPIC), "temperature": 0, "seed": 3, "max_tokens": 40}
        once, again = ask(mixed, TOPIC, **request), ask(mixed, TOPIC, stream=True, **request)
        assert once.text == again.text

    def test_the_callers_own_beginning(self, embedded: Served, topic: str) -> None:
        """A text that the caller put into the assistant's mouth is gone on from, by both models, and not repeated."""
        begun = [*sky(topic), {"role": "assistant", "content": "The sky is blue because sunlight"}]
        answer = ask(embedded, topic, model="gkt", messages=begun, max_tokens=50, temperature=0)
        assert answer.receipt["strategy"] == "cut-off"
        assert not answer.text.startswith("The sky")
        assert not answer.text[0].isalnum()  # it goes on after a whole word
        check_accounts(embedded, answer)

    def test_the_callers_own_beginning_where_the_teacher_cannot(self, faked: Served, fakes: Fakes, topic: str) -> None:
        begun = [{"role": "user", "content": topic}, {"role": "assistant", "content": "Well then,"}]
        answer = ask(faked, topic, model="gkt", messages=begun)
        assert answer.receipt["why"].startswith("route gkt: cut-off; prefix cannot be guided: student; break-even: ")
        assert answer.text == "".join(students_words(topic))
        assert fakes.teacher.about(topic) == []
        (asked,) = fakes.student.about(topic)
        assert asked["messages"] == begun
        check_accounts(faked, answer)

    def test_a_refused_parameter_is_named(self, faked: Served, fakes: Fakes, topic: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(faked, topic, model="gkt", extra_body={"moderation": {}})
        assert (caught.value.param, caught.value.code) == ("moderation", "unsupported_parameter")
        assert fakes.teacher.about(topic) == []

    @pytest.mark.parametrize(
        ("wrong", "param"),
        [
            ({"temperature": 3}, "temperature"),
            ({"top_p": "much"}, "top_p"),
            ({"n": 0}, "n"),
            ({"stop": [""] * 5}, "stop"),
            ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
        ],
    )
    def test_a_wrong_value_is_named(self, faked: Served, wrong: dict[str, Any], param: str, topic: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(faked, topic, **{"model": "gkt", **wrong})
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id is not None


class TestOverrides:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("strategy", NAMES)
    def test_a_strategy_in_the_body(self, faked: Served, strategy: str, stream: bool, topic: str) -> None:
        answer = ask(faked, topic, model="any-name", extra_body={"gkt": {"strategy": strategy}}, stream=stream)
        assert answer.text == told(topic, strategy)
        assert answer.receipt["strategy"] == strategy
        assert answer.receipt["why"].startswith(f"route *: {strategy}, asked for: strategy; break-even: ")
        check_accounts(faked, answer)

    def test_a_strategy_in_a_header(self, faked: Served, topic: str) -> None:
        answer = ask(faked, topic, model="gkt", extra_headers={"x-gkt-strategy": "hint"})
        assert answer.text == told(topic, "hint")
        assert answer.headers["x-gkt-strategy"] == "hint"

    def test_more_tokens(self, served: Served, topic: str) -> None:
        answer = ask(
            served,
            topic,
            model="gkt",
            messages=sky(topic),
            max_tokens=24,
            extra_headers={"x-gkt-guidance-tokens": "9"},
        )
        assert answer.receipt["guidance"]["budget_tokens"] == 9
        assert answer.stage("guidance")["usage"]["output"] == 9
        check_accounts(served, answer)

    def test_the_body_wins(self, faked: Served, topic: str) -> None:
        answer = ask(
            faked,
            topic,
            model="gkt",
            extra_body={"gkt": {"guidance_tokens": 3}},
            extra_headers={"x-gkt-guidance-tokens": "9"},
        )
        assert answer.receipt["guidance"]["budget_tokens"] == 3

    def test_placement_and_prompt(self, faked: Served, fakes: Fakes, topic: str) -> None:
        given = {"placement": "context", "guidance_prompt": "concise"}
        answer = ask(faked, topic, model="gkt", extra_body={"gkt": given})
        assert answer.text == told(topic, "student")
        guidance = answer.receipt["guidance"]
        assert (guidance["placement"], guidance["prompt"], guidance["text_chars"]) == ("context", "concise", 0)
        (asked,) = fakes.student.about(topic)
        assert "".join(teachers_words(topic)[:SHOWN]) in str(asked["messages"])
        check_accounts(faked, answer)

    @pytest.mark.parametrize(
        ("given", "allowed"),
        [
            ({"strategy": "best"}, "teacher, student, cut-off, concise, hint"),
            ({"student": "nobody"}, "teacher, student, dying"),
            ({"guidance_tokens": 0}, "1"),
            ({"guidance_prompt": "poem"}, "concise, hint"),
            ({"placement": "nowhere"}, "prefix, context"),
            ({"colour": "red"}, "strategy, guidance_tokens, teacher, student, guidance_prompt, placement"),
        ],
    )
    def test_wrong_ones_are_told_what_is_allowed(
        self, faked: Served, fakes: Fakes, given: dict[str, Any], allowed: str, topic: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(faked, topic, model="gkt", extra_body={"gkt": given})
        assert allowed in caught.value.message
        assert fakes.teacher.about(topic) == []

    def test_an_unknown_header(self, faked: Served, topic: str) -> None:
        with pytest.raises(openai.BadRequestError, match="x-gkt-guidance-tokens") as caught:
            ask(faked, topic, model="gkt", extra_headers={"x-gkt-colour": "red"})
        assert caught.value.param == "x-gkt-colour"
