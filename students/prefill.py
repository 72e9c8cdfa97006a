"""How servers spell "continue this very text", and the probe that proves they do.

| mode           | the request                                                                  | servers          |
|----------------|------------------------------------------------------------------------------|------------------|
| continue_flag  | assistant message, continue_final_message true, add_generation_prompt false  | vLLM, SGLang     |
| implicit       | assistant message                                                            | Ollama, TGI      |
| prefix_field   | assistant message with `prefix: true`                                        | Mistral, DeepSeek |
| raw_completion | /completions with the rendered chat template and the text behind it          | any with that path |
| context        | cannot: guidance stands in the prompt, the model writes the whole answer     | OpenAI, Claude   |

llama.cpp's server takes the first two and the fourth; it renders its template itself, at /apply-template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from students.engine import Delta, Engine, Message, Prompt, Sampling
from students.errors import Refused
from students.spec import Prefill


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a chat request says that the answer begins with the text of its last, assistant, message.

    `message` and `body` are further members of that message and of the request. `echoes`: some servers of this kind
    repeat the text before they go on.
    """

    message: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    echoes: bool = False


SPELLINGS: Mapping[Prefill, Spelling] = {
    # Either field without the other is a 400 on vLLM; without both, SGLang takes the text for a user's message.
    "continue_flag": Spelling(body={"continue_final_message": True, "add_generation_prompt": False}),
    "implicit": Spelling(),
    # Mistral echoes, DeepSeek does not.
    "prefix_field": Spelling(message={"prefix": True}, echoes=True),
}


def prefilled(spelling: Spelling, messages: Sequence[Message], prefix: str) -> list[Message]:
    """The messages with the beginning of the answer behind them. An empty one is never sent: templates differ on it."""
    if not prefix:
        return list(messages)
    return [*messages, {"role": "assistant", "content": prefix, **spelling.message}]


class ChatTemplate:
    """A model's Jinja chat template, rendered as the transformers library renders it.

    Special tokens are left to the server: `/completions` adds the beginning-of-text token itself, so `bos_token` and
    `eos_token` are empty here. Raises jinja2's `TemplateSyntaxError` when the template cannot be parsed.
    """

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._template = environment.from_string(source)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the answer begins. Raises `Refused` when the template rejects the messages."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, bos_token="", eos_token=""
            )
        except (TemplateError, TypeError) as error:
            raise Refused(f"the chat template rejects these messages: {error}") from None


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which a model would read as text.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


PROBE = Prompt(
    messages=({"role": "user", "content": "Count from 1 to 8, separated by commas."},),
    prefix="1, 2, 3, 4,",
    max_tokens=8,
    sampling=Sampling(temperature=0.0),
)


async def probe(engine: Engine) -> bool:
    """Whether the engine goes on from a given text: asked to count, with 1 to 4 given, it must say 5 first.

    False when it restarts, repeats the text, or says anything else. One small real call; raises `EngineError`.
    """
    said = ""
    async with aclosing(engine.stream(PROBE)) as events:
        async for event in events:
            if isinstance(event, Delta):
                said += event.text
    return re.match(r"\s*5(?!\d)", said) is not None
