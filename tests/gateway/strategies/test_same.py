"""Answers whose form does not tell: meanings by embedding or judge, programs by the prompt's tests; always groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.answers import Answer
from gateway.bootstrap import open_gateway
from gateway.cascade.policy import Policy, Rung, Teacher
from gateway.chat import Caller, Climb, Comparing, Exchange, Plan
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.sandbox import Sandbox
from gateway.strategies.prompts import Prompts
from gateway.strategies.same import LONGEST, placed, question, shortened
from gateway.upstreams import worst_case
from pricing.money import Money
from students.engine import Ability, Engine
from students.errors import Unavailable
from students.scripted import Scripted
from tests.fakes import Embeddings, served
from tests.gateway.conftest import House, make_chat

pytestmark = pytest.mark.anyio

PRICES = {
    "big": {"input": 2, "output": 10},
    **{name: {"input": 0.1, "output": 0.1} for name in ("one", "two", "three")},
    "embed-small": {"input": 0.02, "output": 0},
    "judge": {"input": 1, "output": 4},
}
SKY = "The sky is blue because air scatters blue light the most."
ALIKE = "Because air scatters blue light the most, the sky is blue."
OTHER = "Nobody knows; ask an astronomer about the colour of the night."
CODE = "Here:\n```python\ndef double(n):\n    return {}\n```\nDone."
ASKED = "Write double(n).\n\n>>> double(2)\n4\n\nassert double(0) == 0\nassert double(-3) == -6\n"


def ladder(kind: Any, names: Sequence[str] = ("one", "two")) -> Policy:
    """Students until two agree, else the teacher."""
    last = len(names) - 1
    rungs = [
        Rung(
            student=name,
            gain={"alone": 1.0, "unparsed": 1.0},
            cost={"one": 1.0},
            next=None if place == last else {"alone": 2.0, "unparsed": 2.0, "one": 0.0 if place else 1.0},
        )
        for place, name in enumerate(names)
    ]
    return Policy(name="t", kind=kind, teacher=Teacher(model="big"), worth=0.1, prefer=list(names), rungs=rungs)


Stage = Callable[..., Any]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    @asynccontextmanager
    async def opened(
        says: Mapping[str, str | Scripted], *, url: str = "http://127.0.0.1:9/v1", kind: Any = "meaning", **route: Any
    ) -> AsyncGenerator[House, None]:
        students = [name for name in says if name not in ("big", "judge")]
        engines = {
            name: said if isinstance(said, Scripted) else Scripted(name, said, model=name)
            for name, said in says.items()
        }
        (tmp_path / "policy.yaml").write_text(ladder(kind, students).dump(), "utf-8")
        whole = {"strategy": "cascade", "teacher": "big", "policy": str(tmp_path / "policy.yaml"), **route}
        made = Config.parse(
            {
                "ledger": {"url": "sqlite://"},
                "prices": PRICES,
                "upstreams": {
                    **{name: {"kind": "scripted", "model": name} for name in says},
                    "embedder": {"kind": "openai_api", "model": "embed-small", "base_url": url},
                },
                "routes": {"gkt": whole},
            }
        )
        async with open_gateway(made, engines=engines, environ={}, draw=lambda: 0.0) as gateway:
            yield House(gateway)

    return opened


EMBEDDING = {"by": "embedding", "upstream": "embedder"}
JUDGE = {"by": "judge", "upstream": "judge"}


def checks(entry: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (call["stage"], call["upstream"], call["usage"]["input"], call["amount"], call["error"])
        for call in entry["calls"]
        if call["seat"] == "checker"
    ]


class TestEmbedding:
    async def test_drafts_that_mean_the_same_agree_and_the_check_is_on_the_bill(self, stage: Stage) -> None:
        async with (
            served(Embeddings()) as fake,
            stage({"one": SKY, "two": ALIKE, "big": "?"}, url=fake.url, meaning=EMBEDDING) as home,
        ):
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == SKY
        assert [draft["agree"] for draft in answer.receipt["drafts"]] == [2, 2]
        assert [body["input"] for body in fake.asked] == [[SKY, ALIKE]], "both in one call"
        assert checks(entry) == [("answer", "embedder", 22, 22 * 20, None)]
        assert entry["spent"] == sum(call["amount"] for call in entry["calls"])
        assert [stage["seat"] for stage in answer.receipt["stages"]] == ["student", "student", "checker"]

    async def test_drafts_that_do_not_go_to_the_teacher(self, stage: Stage) -> None:
        async with (
            served(Embeddings()) as fake,
            stage({"one": SKY, "two": OTHER, "big": "?"}, url=fake.url, meaning=EMBEDDING) as home,
        ):
            answer = await home.ask()
        assert answer.text == "?"
        assert [draft["agree"] for draft in answer.receipt["drafts"]] == [1, 1]

    async def test_the_threshold_is_the_routes(self, stage: Stage) -> None:
        strict = {**EMBEDDING, "threshold": 0.99}
        near = SKY.replace("most", "best")
        for meaning, agree in ((EMBEDDING, 2), (strict, 1)):
            async with (
                served(Embeddings()) as fake,
                stage({"one": SKY, "two": near, "big": "?"}, url=fake.url, meaning=meaning) as home,
            ):
                answer = await home.ask()
            assert answer.receipt["drafts"][0]["agree"] == agree

    async def test_each_text_is_embedded_once(self, stage: Stage) -> None:
        says = {"one": SKY, "two": OTHER, "three": ALIKE, "big": "?"}
        async with served(Embeddings()) as fake, stage(says, url=fake.url, meaning=EMBEDDING) as home:
            answer = await home.ask()
        assert answer.text == SKY
        assert [body["input"] for body in fake.asked] == [[SKY, OTHER], [ALIKE]]

    @pytest.mark.parametrize("fake", [Embeddings(500), Embeddings(broken=lambda body: {**body, "data": []})])
    async def test_what_cannot_be_found_out_is_not_the_same(self, stage: Stage, fake: Embeddings) -> None:
        async with served(fake), stage({"one": SKY, "two": ALIKE, "big": "?"}, url=fake.url, meaning=EMBEDDING) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == "?"
        assert checks(entry)[0][4] in ("Unavailable", "BadReply")
        assert entry["outcome"] == "ok"

    async def test_equal_texts_need_nobody(self, stage: Stage) -> None:
        async with stage({"one": SKY, "two": SKY + "\n", "big": "?"}, meaning=EMBEDDING) as home:
            answer = await home.ask()
            assert checks(await home.entry()) == []
        assert answer.text == SKY

    async def test_objects_are_compared_as_objects(self, stage: Stage) -> None:
        able = Ability.SCHEMA
        cast = {
            name: Scripted(name, said, model=name, abilities=able)
            for name, said in (("one", '{"a": 1, "b": 2}'), ("two", '{"b": 2, "a": 1}'), ("big", "{}"))
        }
        async with stage(cast, meaning=EMBEDDING) as home:
            answer = await home.ask(needs=["json"])
            assert checks(await home.entry()) == []
        assert answer.text == '{"a": 1, "b": 2}'

    async def test_the_most_it_can_cost_holds_the_checks(self, stage: Stage) -> None:
        says = {"one": SKY, "two": OTHER, "three": OTHER[::-1], "big": "?"}
        for meaning, name in ((EMBEDDING, "embedder"), (JUDGE, "judge")):
            async with (
                served(Embeddings()) as fake,
                stage({**says, "judge": "DIFFERENT"}, url=fake.url, meaning=meaning) as home,
            ):
                exchange = home.open(max_tokens=50)
                gateway = home.gateway
                most = worst_case(exchange, gateway.upstreams, gateway.book, gateway._rules.prompts)
                async for _ in gateway.answer(exchange):
                    pass
                asked = [call for call in exchange.calls if call.seat == "checker"]
            assert {call.upstream for call in asked} == {name}
            assert len(asked) == (2 if name == "embedder" else 3)
            bounds = Money.total(call.bound for call in exchange.calls if call.bound is not None)
            assert most is not None
            assert bounds <= most
            assert all(
                call.bound and call.line and call.line.amount and call.line.amount <= call.bound for call in asked
            )


class TestJudge:
    @pytest.mark.parametrize(
        ("verdict", "text"),
        [
            ("SAME", SKY),
            ("same.", SKY),
            ("DIFFERENT", "?"),
            ("They are the SAME", "?"),
            ("", "?"),
            ("SAME DIFFERENT", "?"),
        ],
    )
    async def test_only_the_one_word_makes_them_the_same(self, stage: Stage, verdict: str, text: str) -> None:
        judge = Scripted("judge", verdict, model="judge", chunks=[verdict] if verdict else [])
        async with stage({"one": SKY, "two": OTHER, "big": "?", "judge": judge}, meaning=JUDGE) as home:
            answer = await home.ask()
            entry = await home.entry()
        assert answer.text == text
        ((said, name, *_),) = checks(entry)
        assert (said, name) == ("answer", "judge")
        (prompt,) = judge.prompts
        asked = prompt.messages[0]["content"]
        assert all(each in asked for each in (SKY, OTHER, "Why is the sky blue?"))
        assert (prompt.max_tokens, prompt.sampling.temperature) == (16, 0)

    async def test_a_judge_that_fails_says_nothing(self, stage: Stage) -> None:
        judge = Scripted("judge", model="judge", error=Unavailable("gone"))
        async with stage({"one": SKY, "two": ALIKE, "big": "?", "judge": judge}, meaning=JUDGE) as home:
            assert (await home.ask()).text == "?"
            assert checks(await home.entry())[0][4] == "Unavailable"


class TestCode:
    async def ask(self, home: House) -> Any:
        return await home.ask(messages=[{"role": "user", "content": ASKED}])

    async def test_programs_that_pass_the_same_tests_agree(self, stage: Stage) -> None:
        says = {"one": CODE.format("2 * n"), "two": CODE.format("n + n"), "big": "?"}
        async with stage(says, kind="code", run_code=True) as home:
            answer = await self.ask(home)
        assert answer.text == says["one"]
        assert [draft["agree"] for draft in answer.receipt["drafts"]] == [2, 2]

    async def test_nothing_is_run_unless_the_route_says_so(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[str] = []

        async def passes(self: Sandbox, program: str, tests: str) -> Any:
            ran.append(program)

        monkeypatch.setattr(Sandbox, "passes", passes)
        says = {"one": CODE.format("2 * n"), "two": CODE.format("n + n"), "big": "?"}
        async with stage(says, kind="code") as home:
            assert (await self.ask(home)).text == "?"
        assert ran == []

    async def test_one_that_passes_some_is_another_and_one_that_passes_none_has_no_answer(self, stage: Stage) -> None:
        says = {"one": CODE.format("abs(2 * n)"), "two": CODE.format("7"), "big": "?"}
        async with stage(says, kind="code", run_code=True) as home:
            answer = await self.ask(home)
        assert answer.text == "?"
        assert [draft.answer for draft in answer.exchange.drafts] == [Answer("code", "passes 110"), None]

    async def test_without_tests_only_equal_programs_agree(self, stage: Stage) -> None:
        says = {"one": CODE.format("2 * n"), "two": "```python\ndef double(n):\n    return 2 * n\n```", "big": "?"}
        async with stage(says, kind="code", run_code=True) as home:
            assert (await home.ask()).text == says["one"]


@pytest.mark.parametrize(
    ("teacher", "agreement"), [(ALIKE, 1.0), (OTHER, 0.0), (SKY, 1.0)], ids=["alike", "other", "the very same"]
)
async def test_shadows_of_other_strategies_are_compared_so_too(teacher: str, agreement: float) -> None:
    async with served(Embeddings()) as fake:
        made = Config.parse(
            {
                "ledger": {"url": "sqlite://"},
                "prices": PRICES,
                "upstreams": {
                    "big": {"kind": "scripted", "model": "big"},
                    "one": {"kind": "scripted", "model": "one"},
                    "embedder": {"kind": "openai_api", "model": "embed-small", "base_url": fake.url},
                },
                "routes": {
                    "gkt": {
                        "strategy": "student",
                        "teacher": "big",
                        "student": "one",
                        "shadow": 1.0,
                        "answers": "meaning",
                        "meaning": EMBEDDING,
                    }
                },
            }
        )
        engines: dict[str, Engine] = {
            "big": Scripted("big", teacher, model="big"),
            "one": Scripted("one", SKY, model="one"),
        }
        async with open_gateway(made, engines=engines, environ={}) as gateway:
            home = House(gateway)
            await home.ask()
            await gateway.idle()
            entry = await home.entry()
    assert entry["scores"]["agreement"]["value"] == agreement
    assert checks(entry) == []
    assert [stage for stage, *_ in checks(entry["shadow"])] == ([] if teacher == SKY else ["measurement"])


class Behind:
    """`Upstreams` of which nothing but the embeddings is asked."""

    prompts = Prompts()

    def __init__(self, vectors: Mapping[str, tuple[float, ...]]) -> None:
        self._vectors = vectors

    async def embed(self, stage: Any, texts: Sequence[str], upstream: str) -> Any:
        return [self._vectors[text] for text in texts]

    def ask(self, *asked: Any) -> Any:
        raise NotImplementedError

    def can(self, seat: Any, ability: Ability, upstream: str | None = None) -> bool:
        raise NotImplementedError

    async def passes(self, program: str, tests: str) -> bool | None:
        raise NotImplementedError


directions = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).filter(lambda each: abs(each[0]) + abs(each[1]) > 0.1)


@given(st.lists(directions, min_size=1, max_size=6), st.floats(0.1, 1))
async def test_answers_become_a_partition_whatever_is_near_to_what(
    vectors: list[tuple[float, float]], threshold: float
) -> None:
    """Nearness is no equivalence; groups are: each has one first answer, and every answer is in exactly one."""
    texts = {f"text {place}": vector for place, vector in enumerate(vectors)}
    plan = Plan("r", "cascade", "", answers="meaning", comparing=Comparing("embedder", threshold))
    exchange, climb = Exchange(make_chat("r"), Caller(), plan, 0.0), Climb()
    found: list[Answer | None] = []
    for text in texts:
        found.append(await placed(exchange, Behind(texts), climb, Answer("meaning", text), found))
    first: dict[Answer | None, int] = {}
    for place, (text, answer) in enumerate(zip(texts, found, strict=True)):
        assert answer is not None
        assert (answer.value == text) == (answer not in first), "a group's name is its first answer"
        first.setdefault(answer, place)


async def test_the_question_is_the_users_last_one_and_long_texts_are_shortened() -> None:
    parts = [{"type": "text", "text": "And"}, {"type": "image_url"}, {"type": "text", "text": "this?"}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Why?"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "x"},
    ]
    assert question(messages) == "And\nthis?"
    assert question([]) == ""
    for size in (LONGEST, LONGEST + 1, 3 * LONGEST):
        assert len(shortened("x" * size)) <= LONGEST
    assert shortened("a" * LONGEST + "z").startswith("aaa")
    assert shortened("a" * LONGEST + "z").endswith("az")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("meaning", "said"),
        [
            ({"by": "embedding", "upstream": "nobody"}, "meaning.upstream 'nobody' is not among the upstreams"),
            ({"by": "embedding", "upstream": "one"}, "is to embed, which upstreams of kind openai_api can"),
            ({"by": "judge", "upstream": "one", "threshold": 0}, "threshold"),
            ({"by": "guess", "upstream": "one"}, "by"),
        ],
    )
    async def test_who_cannot_compare_is_refused(self, stage: Stage, meaning: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            async with stage({"one": SKY, "big": "?"}, meaning=meaning):
                pass

    @pytest.mark.parametrize(
        ("kind", "route", "mend"),
        [
            (None, {}, "set `answers` on the route"),
            ("meaning", {}, "set `meaning: {by: embedding, upstream: NAME}`"),
            ("code", {}, "set `run_code: true` on the route"),
            ("number", {}, None),
            (None, {"answers": "choice"}, None),
            ("code", {"run_code": True}, None),
            ("meaning", {"meaning": {"by": "judge", "upstream": "judge"}}, None),
        ],
    )
    async def test_a_cascade_whose_drafts_can_hardly_agree_is_warned_of(
        self, stage: Stage, kind: Any, route: dict[str, Any], mend: str | None
    ) -> None:
        before = structlog.get_config()["wrapper_class"]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))  # the suite logs errors alone
        try:
            with capture_logs() as lines:
                async with stage({"one": SKY, "big": "?", "judge": "SAME"}, kind=kind, **route):
                    pass
        finally:
            structlog.configure(wrapper_class=before)
        told = [line["mend"] for line in lines if "can hardly agree" in line["event"]]
        assert len(told) == (mend is not None)
        assert mend is None or mend in told[0]
