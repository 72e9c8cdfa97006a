"""The overhead benchmark runs, refuses what would not mean what it says, and its arithmetic is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load import Job, Result, chat_request, run
from benchmarks.mock_upstream import ANSWERS, kind_of
from benchmarks.overhead import MODES, SUBJECTS, Spoiled, check, figures
from benchmarks.process import ROOT, NotServing, cpu_nanoseconds, free_port, serving

pytestmark = [
    pytest.mark.alone,
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pins processes and reads Linux's CPU clocks"),
]

RESULT = Result(
    sent=30,
    requests=20,
    per_second=10.0,
    cpu_us=100.0,
    p50_ms=1.0,
    p99_ms=2.0,
    busy=0.5,
    reads=1.0,
    text="".join(ANSWERS["whole"]),
    chunks=0,
    receipt=True,
)


def test_the_pass_through_is_measured_with_both_hops(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = [
        "--no-gateway",
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--warm-up",
        "0.1",
        "--json",
        str(file),
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = {(row["mode"], row["subject"]): row for row in json.loads(file.read_bytes())["figures"]}
    assert set(rows) == {(mode.name, f"bare, {hops}") for mode in MODES for hops in ("one hop", "two hops")}
    for (mode, _), row in rows.items():
        (result,) = row["rounds"]
        assert result["requests"] >= 16
        assert 10 < row["cpu_us"] < 1e6
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert result["chunks"] == (43 if mode.startswith("stream") else 0)
    for hops in ("one hop", "two hops"):
        # 45 pauses of 2 ms; and chunks that were paced arrive alone, or nearly so on a busy machine.
        assert rows["stream-paced", f"bare, {hops}"]["p50_ms"] > 80
        assert rows["stream-paced", f"bare, {hops}"]["reads"] > 20


def test_a_result_that_does_not_mean_what_it_says_is_refused() -> None:
    bare, gateway, mode = SUBJECTS[1], SUBJECTS[3], MODES[0]
    check(bare, mode, replace(RESULT, receipt=False), calls=60)
    check(gateway, mode, RESULT, calls=60)
    with pytest.raises(Spoiled, match="no receipt"):
        check(gateway, mode, replace(RESULT, receipt=False), calls=60)
    with pytest.raises(Spoiled, match="30 requests made 59 calls"):
        check(gateway, mode, RESULT, calls=59)
    with pytest.raises(Spoiled, match="a stream of 1 chunks"):
        check(gateway, MODES[3], replace(RESULT, chunks=1), calls=60)
    with pytest.raises(Spoiled, match="not the upstream's"):
        check(gateway, mode, replace(RESULT, text=RESULT.text[:-1]), calls=60)


def test_ratios_are_of_medians_and_to_as_many_hops() -> None:
    costs = {"bare, one hop": (90, 100, 500), "bare, two hops": (200, 200, 200), "gateway, cut-off": (500, 900, 700)}
    rounds = {("json", name): [replace(RESULT, cpu_us=float(us)) for us in each] for name, each in costs.items()}
    rows = {row["subject"]: row for row in figures(rounds)}
    assert rows["bare, one hop"]["cpu_us"] == 100
    assert rows["bare, one hop"]["cpu_ratio"] == 1
    assert rows["gateway, cut-off"]["cpu_ratio"] == 3.5
    assert rows["gateway, cut-off"]["cpu_us_range"] == [500, 900]


def test_the_request_decides_the_mocks_answer() -> None:
    chat = chat_request("gpt-6-sol", stream=True)
    assert kind_of(chat) == "whole"
    assert kind_of(chat | {"max_tokens": 40}) == "guidance"
    assert kind_of(chat | {"messages": [*chat["messages"], {"role": "assistant", "content": "A"}]}) == "continuation"
    assert [len(ANSWERS[kind]) for kind in ("guidance", "continuation", "whole")] == [3, 40, 43]


def test_cpu_time_counts_all_threads_ended_ones_too() -> None:
    def burn() -> None:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass

    before = cpu_nanoseconds(os.getpid())
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    assert 0.1e9 <= cpu_nanoseconds(os.getpid()) - before < 1e9


def test_a_server_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    broken = serving("broken", ["-c", "raise SystemExit('no such luck')"], free_port(), core=None, log=tmp_path / "log")
    with pytest.raises(NotServing, match=r"broken: ended with 1\nno such luck"), broken:
        pass


async def test_load_refuses_an_error(tmp_path: Path) -> None:
    port = free_port()
    with serving(
        "mock", ["-m", "benchmarks.mock_upstream", "--port", str(port)], port, core=None, log=tmp_path / "log"
    ) as mock:
        job = Job(mock.pid, port, "/v1/chat/completions", "any", stream=True, connections=2, seconds=0.05, warm_up=0.0)
        assert (await run(job)).chunks == 43
        with pytest.raises(RuntimeError, match=r"status 404: .*no such path: /elsewhere"):
            await run(replace(job, path="/elsewhere"))
