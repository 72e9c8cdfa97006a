"""How servers spell "continue this very text", and the probe that proves they do.

| mode           | the request                                                                  | servers          |
|----------------|------------------------------------------------------------------------------|------------------|
| continue_flag  | assistant message, continue_final_message true, add_generation_prompt false  | vLLM, SGLang     |
| implicit       | assistant message                                                            | Ollama, TGI      |
| prefix_field   | assistant message with `prefix: true`                                        | Mistral, DeepSeek |
| raw_completion | /completions with the rendered chat template and the text behind it          | any with that path |
| context        | cannot: guidance stands in the prompt, the model writes the whole answer     | OpenAI, Claude   |

`students.servers` says which server takes which; some take several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from students.engine import Delta, Engine, Finish, Message, Prompt, Sampling
from students.servers import Prefill


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a chat request says that the answer begins with the text of its last, assistant, message.

    `message` and `body` are further members of that message and of the request.
    """

    message: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


SPELLINGS: Mapping[Prefill, Spelling] = {
    # Either field without the other is a 400 on vLLM; without both, SGLang takes the text for a user's message.
    "continue_flag": Spelling(body={"continue_final_message": True, "add_generation_prompt": False}),
    "prefix_field": Spelling(message={"prefix": True}),
    "implicit": Spelling(),
}

WAYS: Sequence[Prefill] = (*SPELLINGS, "raw_completion")
"""All that there are, in the order in which they are tried on a server that nothing is known of."""


def prefilled(spelling: Spelling, messages: Sequence[Message], prefix: str) -> list[Message]:
    """The messages with the beginning of the answer behind them. An empty one is never sent: templates differ on it."""
    if not prefix:
        return list(messages)
    return [*messages, {"role": "assistant", "content": prefix, **spelling.message}]


@dataclass(frozen=True, slots=True)
class Proof:
    """What the probe found: whether the model goes on from a given text, and `why` that is said, in a few words.

    `prefill`: the way that was tried; None: the engine has but one. `echoes`: the server repeats the text before it
    goes on; what it repeats is taken away. `limited`: it keeps to the token limit; None: the answer did not show it.
    """

    proven: bool
    why: str
    prefill: Prefill | None = None
    echoes: bool = False
    limited: bool | None = None

    def told(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {name: getattr(self, name) for name in ("proven", "why", "prefill", "echoes", "limited")}


PROBE = Prompt(
    messages=({"role": "user", "content": "Count from 1 to 30, separated by commas."},),
    prefix="1, 2, 3, 4, 5, 6, 7, 8, 9, 1",
    max_tokens=8,
    sampling=Sampling(temperature=0.0),
)
"""Cut inside a number: a model that is given the text in another way (as an answer that has ended, or as a message of
the user) may well count on from it in a new message, but none begins a message with the 0 of a 10."""

SHOWN = 32
"""Characters of a wrong answer that are told."""


async def probe(engine: Engine, *, stream: bool = True) -> Proof:
    """Whether the engine goes on from a given text: asked to count, with the 1 of 10 given, it must say 0 first.

    Not proven when it restarts, repeats the text, or says anything else. One small real call; raises `EngineError`.
    """
    said, finish = "", Finish()
    async with aclosing(engine.stream(PROBE if stream else replace(PROBE, stream=False))) as events:
        async for event in events:
            if isinstance(event, Delta):
                said += event.text
            elif isinstance(event, Finish):
                finish = event
    proven = re.match(r"0(?!\d)", said) is not None
    return Proof(proven, "goes on" if proven else _doubt(said), limited=_limited(said, finish))


def proof_of(engine: object) -> Proof | None:
    """What an engine's probe found; None: it has made none, or makes none."""
    proof = getattr(engine, "proof", None)
    return proof if isinstance(proof, Proof) else None


def _doubt(said: str) -> str:
    begun = said.lstrip()
    if not begun:
        return "says nothing"
    if begun.startswith(PROBE.prefix):
        return "repeats the text"
    if begun.startswith("1, 2"):
        return "starts again"
    return f"says something else: {begun[:SHOWN]!r}"


def _limited(said: str, finish: Finish) -> bool | None:
    """Whether the limit was kept to. What goes on beyond it, to 30, is several times as long."""
    most = PROBE.max_tokens or 0
    written = finish.usage.output if finish.usage is not None else None
    if len(re.findall(r"\d+", said)) > most or (written or 0) > 2 * most:
        return False
    return True if finish.reason == "length" else None
