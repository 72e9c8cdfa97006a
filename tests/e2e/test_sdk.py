"""The official client against a real gateway: every strategy, every way to ask, and accounts that add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from openai import AsyncOpenAI

from tests.e2e.answers import Answer, ask, check_accounts, heard, nano, whole
from tests.e2e.talkers import NAMES, SHOWN, sky, teachers_words, told

if TYPE_CHECKING:
    from tests.e2e.gateways import Fakes
    from tests.e2e.served import Served

pytestmark = pytest.mark.anyio


class TestEveryStrategy:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("strategy", NAMES)
    def test_an_answer_its_receipt_and_the_ledger(
        self, served: Served, strategy: str, stream: bool, topic: str
    ) -> None:
        name = NAMES[strategy]
        answer = ask(served, topic, model=name, messages=sky(topic), max_tokens=48, seed=7, stream=stream)
        assert answer.model == name
        assert answer.text.strip()
        assert answer.reasons[0] in ("stop", "length")
        assert answer.usage is not None
        assert 0 < answer.usage["completion_tokens"] <= 48
        assert answer.usage["prompt_tokens"] > 0
        assert (answer.pieces > 1) == stream

        entry = check_accounts(served, answer)
        assert (entry["strategy"], entry["outcome"], entry["stream"]) == (strategy, "ok", stream)
        assert answer.receipt["why"].startswith(f"route {name}: {strategy}; break-even: ")
        assert entry["text"] is None
        stages = {stage["stage"]: stage["seat"] for stage in answer.receipt["stages"]}
        if strategy in ("teacher", "student"):
            assert stages == {"answer": strategy}
            assert answer.receipt["guidance"] is None
        elif answer.receipt["guidance"]["complete"]:  # so concise that nothing is left for the student
            assert stages == {"guidance": "teacher"}
        else:
            assert stages == {"guidance": "teacher", "answer": "student"}
            assert answer.receipt["guidance"]["placement"] == ("context" if strategy == "hint" else "prefix")
            assert answer.stage("guidance")["usage"]["output"] <= answer.receipt["guidance"]["budget_tokens"]
        assert entry["baseline"]["method"] == ("measured" if answer_is_the_teachers(answer) else "same_length")

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("strategy", NAMES)
    def test_the_very_words(self, faked: Served, strategy: str, stream: bool, topic: str) -> None:
        """Who says what, over fakes that say nothing else: no character lost, doubled or torn."""
        answer = ask(faked, topic, model=NAMES[strategy], stream=stream)
        assert answer.text == told(topic, strategy)
        assert answer.reasons == ["stop"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_who_is_sent_what(self, faked: Served, fakes: Fakes, stream: bool, topic: str) -> None:
        """The caller's settings are the student's, the teacher has its own; what nobody knows goes to the student."""
        ask(
            faked,
            topic,
            model="gkt",
            stream=stream,
            temperature=1.5,
            top_p=0.5,
            seed=11,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            logit_bias={"50": -1},
            max_completion_tokens=30,
            user="u-1",
            service_tier="flex",
            extra_body={"top_k": 3},
        )
        (asked,), (went_on,) = fakes.teacher.about(topic), fakes.student.about(topic)
        assert {name: value for name, value in asked.items() if name not in ("stream", "stream_options")} == {
            "model": "gpt-6-sol",
            "messages": [{"role": "user", "content": topic}],
            "max_completion_tokens": 5,
            "reasoning_effort": "none",
            "temperature": 0.0,
            "user": "u-1",
            "service_tier": "flex",
        }
        assert asked.get("stream", False) is stream
        assert went_on == {
            "model": "llama-3.1-8b",
            "messages": [
                {"role": "user", "content": topic},
                {"role": "assistant", "content": "".join(teachers_words(topic)[:SHOWN])},
            ],
            "continue_final_message": True,
            "add_generation_prompt": False,
            "max_tokens": 26,
            "temperature": 1.5,
            "top_p": 0.5,
            "seed": 11,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "logit_bias": {"50": -1},
            "top_k": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_the_papers_settings_where_the_caller_says_nothing(self, faked: Served, fakes: Fakes, topic: str) -> None:
        ask(faked, topic, model="gkt")
        (went_on,) = fakes.student.about(topic)
        assert (went_on["temperature"], went_on["top_p"]) == (0.8, 0.9)

    def test_the_first_words_come_while_the_student_has_not_begun(
        self, faked: Served, fakes: Fakes, topic: str
    ) -> None:
        fakes.student.paces[topic] = (0.4, 0.0)
        answer = ask(faked, topic, model="gkt", stream=True)
        first, rest = answer.stage("guidance"), answer.stage("answer")
        assert answer.receipt["first_token_s"] < 0.3 < 0.4 <= rest["first_token_s"]
        assert first["total_s"] < 0.3

    def test_the_stand_in_says_so_in_every_receipt(self, embedded: Served, topic: str) -> None:
        assert embedded.said == [
            "teacher: OPENAI_API_KEY is not set; 'student' (smollm2-135m-instruct) is its stand-in, "
            "priced as if it were gpt-6-sol",
            f"dashboard: {embedded.url}/dashboard",
        ]
        answer = ask(embedded, topic, model="gpt-6-terra", messages=sky(topic), max_tokens=50)
        assert answer.receipt["notice"].startswith("stand-in, priced as if it were the teacher")
        assert answer.stage("guidance")["model"] == "gpt-6-terra"  # what the client asked for
        assert answer.stage("guidance")["stand_in"] == "student"
        assert answer.stage("answer")["stand_in"] is None
        assert embedded.entry(answer.id)["notional_spent"] == embedded.entry(answer.id)["spent_by_stage"]["guidance"]


def answer_is_the_teachers(answer: Answer) -> bool:
    return answer.receipt["strategy"] == "teacher" or bool(
        answer.receipt["strategy"] == "cut-off" and answer.receipt["guidance"]["complete"]
    )


class TestEveryWayToAsk:
    """All of them get the same words, and their receipts are on record."""

    @pytest.fixture
    def request_(self, topic: str) -> dict[str, Any]:
        return {"model": "gkt", "messages": [{"role": "user", "content": topic}]}

    def test_create(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        completion = faked.sdk.chat.completions.create(**request_)
        answer = whole(completion)
        assert answer.text == told(topic)
        assert completion._request_id == answer.id
        check_accounts(faked, answer)

    def test_a_stream(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        with faked.sdk.chat.completions.create(stream=True, **request_) as chunks:
            answer = heard(chunks)
        assert answer.text == told(topic)
        assert answer.usage is None  # not asked for
        check_accounts(faked, answer)

    def test_with_raw_response(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        raw = faked.sdk.chat.completions.with_raw_response.create(**request_)
        assert raw.status_code == 200
        assert raw.request_id == raw.headers["x-gkt-request-id"]
        assert raw.headers["content-type"] == "application/json"
        answer = whole(raw.parse(), raw.headers)
        assert answer.text == told(topic)
        check_accounts(faked, answer)

    def test_with_raw_response_of_a_stream(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        raw = faked.sdk.chat.completions.with_raw_response.create(stream=True, **request_)
        assert raw.headers["content-type"].startswith("text/event-stream")
        with raw.parse() as chunks:
            answer = heard(chunks, raw.headers)
        assert answer.text == told(topic)
        check_accounts(faked, answer)

    def test_with_streaming_response(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        with faked.sdk.chat.completions.with_streaming_response.create(**request_) as response:
            answer = whole(response.parse(), response.headers)
        assert answer.text == told(topic)
        check_accounts(faked, answer)

    def test_with_streaming_response_line_by_line(self, faked: Served, request_: dict[str, Any]) -> None:
        create = faked.sdk.chat.completions.with_streaming_response.create
        with create(stream=True, **request_) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert all(line.startswith("data: {") for line in lines[:-1])

    def test_the_stream_helper(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        with faked.sdk.chat.completions.stream(**request_) as stream:
            events = list(stream)
            completion = stream.get_final_completion()
        assert "".join(event.delta for event in events if event.type == "content.delta") == told(topic)
        assert [event.content for event in events if event.type == "content.done"] == [told(topic)]
        assert completion.choices[0].message.content == told(topic)
        assert completion.choices[0].finish_reason == "stop"

    async def test_asynchronously(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        async with faked.async_sdk() as sdk:
            completion = await sdk.chat.completions.create(**request_)
        answer = whole(completion)
        assert answer.text == told(topic)
        assert completion._request_id == answer.id
        check_accounts(faked, answer)

    async def test_a_stream_asynchronously(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        async with faked.async_sdk() as sdk:
            raw = await sdk.chat.completions.with_raw_response.create(stream=True, **request_)
            async with raw.parse() as chunks:
                answer = heard([chunk async for chunk in chunks], raw.headers)
        assert answer.text == told(topic)
        check_accounts(faked, answer)

    async def test_the_stream_helper_asynchronously(self, faked: Served, request_: dict[str, Any], topic: str) -> None:
        async with faked.async_sdk() as sdk, sdk.chat.completions.stream(**request_) as stream:
            assert (await stream.get_final_completion()).choices[0].message.content == told(topic)

    async def test_the_real_student_asynchronously(self, embedded: Served, topic: str) -> None:
        async with embedded.async_sdk() as sdk:
            answer = await real(sdk, topic)
        assert answer.text.strip()
        check_accounts(embedded, answer)


async def real(sdk: AsyncOpenAI, topic: str) -> Answer:
    stream = await sdk.chat.completions.create(
        model="gkt",
        messages=cast("Any", sky(topic)),
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
    )
    async with stream as chunks:
        return heard([chunk async for chunk in chunks])


class TestSavings:
    def test_they_are_the_sum_of_the_entries(self, faked: Served, topic: str) -> None:
        answers = [ask(faked, topic, model=f"sum-{topic}", stream=stream) for stream in (False, True)]
        (row,) = faked.get(f"/gkt/v1/savings?model=sum-{topic}")["data"]
        assert row["requests"] == 2
        spent = [nano(answer.receipt["cost_usd"]) or 0 for answer in answers]
        saved = [nano(answer.receipt["saved_usd"]) or 0 for answer in answers]
        assert row["spent"]["nano_usd"] == sum(spent)
        assert row["saved"]["nano_usd"] == sum(saved)
