"""Metrics: they agree with the ledger, their labels are few, and whatever is wrong with them fails no answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway
from gateway import metrics
from gateway.chat import Stage
from gateway.config import Config
from gateway.errors import UpstreamFailed
from gateway.ledger.entry import Query
from gateway.metrics import COUNTERS, GAUGES, HISTOGRAMS, OTHER, Metrics
from pricing.usage import Usage
from students.breaker import OPEN
from students.engine import Ability, Finish
from students.errors import Refused, TimedOut, Unavailable
from students.guard import Guard
from students.pool import Pool
from students.scripted import Scripted
from students.spec import BreakerSpec, PoolSpec, ScriptedSpec

pytestmark = pytest.mark.anyio

PRICED = {
    "gpt-6-sol": {"input": 2, "output": 10, "cached": 0.2},
    "smollm2-135m-instruct": {"input": 0.1, "output": 0.8},
}

Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]


def samples(text: str) -> Samples:
    """Every sample by its name, as a reader of Prometheus' format finds it."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def told(home: Any) -> Samples:
    return samples(home.gateway.metrics.text()[0].decode())


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(value for own, value in found.get(name, []) if labels.items() <= own.items())


def teacher(says: str = "one two three four", **how: Any) -> Scripted:
    return Scripted("teacher", says, **how)


def student(says: str = " five six", **how: Any) -> Scripted:
    return Scripted("student", says, abilities=Ability.CONTINUE, **how)


async def test_they_agree_with_the_ledger(house: Any) -> None:
    """Every kind of ending, a call without a price, guidance in vain; the ledger adds up the same."""
    async with house(teacher=teacher(), student=student(), prices=PRICED) as home:
        for number, strategy in enumerate(["cut-off", "concise", "hint", "teacher", "student"]):
            await home.ask("gkt", strategy=strategy, guidance_tokens=2, request_id=f"c{number}", stream=number % 2 == 0)
        await home.ask("priced-nowhere", strategy="teacher", request_id="c8")  # `*` asks for that very model
        events = home.gateway.answer(home.open("student", request_id="c9"))
        async with aclosing(events):
            await anext(events)
        (row,) = await home.gateway.ledger.savings(Query())
        found = told(home)
    assert total(found, "gkt_requests_total") == row.requests == 7
    for outcome, count in row.outcomes.items():
        assert total(found, "gkt_requests_total", outcome=outcome) == count
    assert total(found, "gkt_requests_total", outcome="abandoned") == 1
    assert total(found, "gkt_unpriced_requests_total") == row.unpriced == 1
    assert total(found, "gkt_cost_usd_total") == pytest.approx(row.spent.nano / 1e9, abs=1e-12)
    for stage, money in row.spent_by_stage.items():
        assert total(found, "gkt_cost_usd_total", stage=stage) == pytest.approx(money.nano / 1e9, abs=1e-12)
    for method, money in row.baseline_by_method.items():
        assert total(found, "gkt_baseline_cost_usd_total", method=method) == pytest.approx(money.nano / 1e9, abs=1e-12)
    assert row.baseline is not None
    assert total(found, "gkt_baseline_cost_usd_total") == pytest.approx(row.baseline.nano / 1e9, abs=1e-12)
    assert total(found, "gkt_compared_cost_usd_total") == pytest.approx(row.compared_spent.nano / 1e9, abs=1e-12)
    assert total(found, "gkt_baseline_cost_usd_total", method="measured") > 0
    assert total(found, "gkt_time_to_first_token_seconds_count") == 7
    assert total(found, "gkt_stage_duration_seconds_count", outcome="cut") == 1


async def test_kinds_of_tokens_do_not_overlap(house: Any) -> None:
    usage = Usage(1000, 50, cached=600, cache_write=100, reasoning=30)
    async with house(teacher=teacher(usage=usage), student=student(), prices=PRICED) as home:
        await home.ask("teacher")
        found = told(home)
    kinds = {
        (labels["direction"], labels["kind"]): value
        for labels, value in found["gkt_tokens_total"]
        if labels["stage"] == "answer"
    }
    assert kinds == {
        ("input", "uncached"): 300,
        ("input", "cached"): 600,
        ("input", "cache_write"): 100,
        ("output", "visible"): 20,
        ("output", "reasoning"): 30,
    }


async def test_names_that_clients_make_up_are_one_name(house: Any) -> None:
    async with house(teacher=teacher(), student=student()) as home:
        for number in range(60):
            await home.ask(f"made-up-{number}", strategy="teacher", request_id=f"c{number}")
        await home.ask("gpt-6-sol", strategy="teacher", request_id="known")
        text = home.gateway.metrics.text()[0].decode()
    assert "made-up" not in text
    found = samples(text)
    assert {labels["model"] for labels, _ in found["gkt_requests_total"]} == {OTHER, "gpt-6-sol"}
    assert total(found, "gkt_requests_total", model=OTHER) == 60
    assert {labels["model"] for labels, _ in found["gkt_stage_duration_seconds_count"]} == {OTHER, "gpt-6-sol"}


class TestFallbacks:
    async def test_the_teacher_takes_over(self, house: Any) -> None:
        async with house(teacher=teacher(), student=student(error=Unavailable("gone"))) as home:
            await home.ask("gkt", guidance_tokens=2)
            found = told(home)
        assert found["gkt_fallback_total"] == [({"reason": "student_unavailable"}, 1)]
        assert total(found, "gkt_stage_duration_seconds_count", stage="answer", outcome="failed") == 1
        assert total(found, "gkt_stage_duration_seconds_count", stage="fallback", outcome="ok") == 1

    async def test_the_student_takes_over(self, house: Any) -> None:
        async with house(teacher=teacher(error=TimedOut("late")), student=student()) as home:
            await home.ask("gkt")
            found = told(home)
        assert found["gkt_fallback_total"] == [({"reason": "teacher_timed_out"}, 1)]
        assert found["gkt_wasted_guidance_total"] == [({"reason": "failed"}, 1)]

    async def test_samples_count_once(self, house: Any) -> None:
        async with house(teacher=teacher(), student=student(error=Unavailable("gone"))) as home:
            await home.ask("gkt", guidance_tokens=2, n=3)
            found = told(home)
        assert total(found, "gkt_fallback_total") == 1

    async def test_an_error_that_nobody_takes_over_is_none(self, house: Any) -> None:
        async with house(teacher=teacher(), student=student(error=Refused("no", status=400))) as home:
            with pytest.raises(Exception, match="no"):
                await home.ask("student")
            found = told(home)
        assert "gkt_fallback_total" not in found
        assert total(found, "gkt_requests_total", outcome="failed") == 1


async def test_reasoning_that_ate_the_budget_is_wasted(house: Any) -> None:
    thinking = Scripted("teacher", "", usage=Usage(10, 40, reasoning=40))
    async with house(teacher=thinking, student=student()) as home:
        answer = await home.ask("gkt")
        found = told(home)
    assert isinstance(answer.finish, Finish)
    assert total(found, "gkt_wasted_guidance_total") == 1


async def test_guidance_that_keeps_coming_to_nothing_is_no_longer_paid_for(house: Any) -> None:
    thinking = Scripted("teacher", "", usage=Usage(10, 40, reasoning=40))
    async with house(teacher=thinking, student=student()) as home:
        answers = [await home.ask("gkt") for _ in range(5)]
        found = told(home)
        home.gateway.reload(home.gateway.config)
        after = await home.ask("gkt")
    assert len(thinking.prompts) == 3
    assert [answer.receipt["strategy"] for answer in [*answers, after]] == ["cut-off"] * 3 + ["student"] * 3
    assert "came to nothing lately" in answers[-1].receipt["why"]
    assert answers[0].text == answers[-1].text
    assert found["gkt_guidance_paused_total"] == [({"upstream": "teacher"}, 1)]


async def test_a_pools_moves_and_members_that_are_out_are_told(house: Any) -> None:
    dies = Scripted("a", "one two", error=Unavailable("gone"), fail_after=1)
    pool = Pool("student", PoolSpec(model="m", members=("a", "b", "c")), [dies, student(), Scripted("c")])
    pool.members[1].work = pool.members[2].work = 1
    async with house(student=pool) as home:
        pool.drain("c", True)
        await home.ask("student")
        for _ in range(2):  # what was counted is counted once
            await home.gateway.glance()
            assert total(told(home), "gkt_pool_moves_total", upstream="student") == 1
            assert total(told(home), "gkt_pool_members_out", upstream="student", reason="drained") == 1
            assert total(told(home), "gkt_pool_members_out", upstream="student", reason="sick") == 1
        pool.drain("c", False)
        await home.gateway.glance()
        assert total(told(home), "gkt_pool_members_out", upstream="student", reason="drained") == 0


async def test_breakers_and_tries_are_told(house: Any) -> None:
    rules = ScriptedSpec(retries=1, breaker=BreakerSpec(failures=2, open_seconds=600))
    sick = Guard(Scripted("student", error=Unavailable("gone")), rules)
    async with house(student=sick) as home:
        await home.gateway.glance()
        assert total(told(home), "gkt_upstream_breaker", upstream="student") == 0
        with pytest.raises(UpstreamFailed):
            await home.ask("student")
        for _ in range(2):  # what was counted is counted once
            await home.gateway.glance()
            assert total(told(home), "gkt_upstream_breaker", upstream="student") == 2
            assert total(told(home), "gkt_retries_total", upstream="student") == 1
        home.gateway._readiness._looked = 0.0
        assert (await home.gateway.readiness())["upstreams"]["student"]["breaker"] == "open"
        with pytest.raises(UpstreamFailed) as refused:
            await home.ask("student")
        assert (refused.value.code, refused.value.headers["x-should-retry"]) == (OPEN, "false")
        assert int(refused.value.headers["retry-after"]) <= 600


async def test_gauges_say_what_is_so_now(house: Any) -> None:
    async with house(student=Scripted("student", hang_after=0), ledger={"url": "sqlite://", "queue": 500}) as home:
        task = asyncio.create_task(anext(home.gateway.answer(home.open("student"))))
        await asyncio.sleep(0.05)
        await home.gateway.glance()
        found = told(home)
        assert found["gkt_requests_in_flight"] == [({}, 1)]
        assert found["gkt_ledger_queue_limit_rows"] == [({}, 500)]
        assert found["gkt_ledger_queue_rows"] == [({}, 0)]
        assert total(found, "gkt_upstream_ready", upstream="student") == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await home.gateway.glance()
        assert told(home)["gkt_requests_in_flight"] == [({}, 0)]


async def test_an_upstream_that_is_away_is_told_and_one_that_hangs_does_not_hold_the_scrape(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.readiness.GLANCE_SECONDS", 0.05)
    monkeypatch.setattr("gateway.readiness.LOOK_SECONDS", 0.0)
    away = asyncio.Event()

    class Away(Scripted):
        async def ready(self) -> Ability:
            if away.is_set():
                await asyncio.sleep(0.3)
                raise Unavailable("gone")
            return await super().ready()

    async with house(student=Away("student")) as home:
        await home.gateway.glance()
        assert total(told(home), "gkt_upstream_ready", upstream="student") == 1
        away.set()
        async with asyncio.timeout(0.25):
            await home.gateway.glance()
        await asyncio.sleep(0.4)
        assert total(told(home), "gkt_upstream_ready", upstream="student") == 0


async def test_what_cannot_be_counted_is_answered_and_booked_all_the_same(house: Any) -> None:
    async with house(student=Scripted("student", "one two")) as home:

        def full(entry: object) -> None:
            raise OSError("no space left on device")

        home.gateway.metrics.settled = full
        answer = await home.ask("student")
        assert answer.text == "one two"
        assert (await home.entry())["outcome"] == "ok"


def test_every_series_is_one_that_was_announced() -> None:
    text = Metrics(Config()).text()[0].decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE gkt_")}
    assert families == set(COUNTERS) | set(HISTOGRAMS) | set(GAUGES)
    assert "_created" not in text
    assert "process_resident_memory_bytes" in text


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    text, kind = Metrics(Config()).text("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert Metrics(Config()).text()[1].startswith("text/plain; version=0.0.4")


def test_stages_are_all_there() -> None:
    found = samples(Metrics(Config()).text()[0].decode())
    assert {labels["stage"] for labels, _ in found["gkt_cost_usd_total"]} == set(get_args(Stage))
    assert {labels["outcome"] for labels, _ in found["gkt_config_reload_total"]} == set(metrics.RELOADS)


CHILD = """
import os, sys, time
from gateway.config import Config
from gateway.metrics import Metrics
told = Metrics(Config())
told.refused(401)
told.in_flight.set(int(sys.argv[1]))
told.ready("student", sys.argv[1] == "3")
told.queue.set(10 if sys.argv[1] == "3" else 9_000)
print("up", flush=True)
sys.stdin.readline()
if sys.argv[2] == "orderly":
    told.close()
else:
    os.kill(os.getpid(), 9)
"""


def test_processes_that_share_a_folder_are_shown_as_one(tmp_path: Path) -> None:
    """Also after they have ended, in order or not: counters stay, gauges go."""
    folder = tmp_path / "made" / "on demand"
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(Path(gateway.__file__).parents[1])}

    def child(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    def scraped() -> Samples:
        code = "from gateway.config import Config; from gateway.metrics import Metrics; import sys; "
        code += "sys.stdout.buffer.write(Metrics(Config()).text()[0])"
        return samples(
            subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True).stdout.decode()
        )

    with child("3", "orderly") as one, child("4", "killed") as two:
        found = scraped()
        assert found["gkt_refused_requests_total"] == [({"status": "401"}, 2)]
        assert total(found, "gkt_requests_in_flight") == 7
        # The alert divides them: one process whose queue is full is in trouble, whatever room the others have.
        full = total(found, "gkt_ledger_queue_rows") / total(found, "gkt_ledger_queue_limit_rows")
        assert full == 9_000 / Config().ledger.queue
        assert found["gkt_upstream_ready"] == [({"upstream": "student"}, 0)]  # one of them cannot reach it
        two.communicate("\n")
        found = scraped()
        assert total(found, "gkt_requests_in_flight") == 3
        assert found["gkt_upstream_ready"] == [({"upstream": "student"}, 1)]
        one.communicate("\n")
        found = scraped()
        assert total(found, "gkt_requests_in_flight") == 0
        assert found["gkt_refused_requests_total"] == [({"status": "401"}, 2)]
