"""Templates: a chat as the text that the model reads, for servers whose own rendering cannot continue an answer.

Both render up to the very end of a given beginning of the answer, and close nothing behind it. Special tokens that
`/completions` adds by itself are left to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from students.engine import Message
from students.errors import Refused, Unavailable


class Template(Protocol):
    """Renders a chat."""

    def render(self, messages: Sequence[Message], prefix: str, options: Mapping[str, Any]) -> str:
        """The prompt, which ends in exactly `prefix`. `options`: more of the template's variables.

        Raises `Refused` when the template rejects the messages.
        """
        ...


class ChatTemplate:
    """A model's Jinja chat template, rendered as the transformers library renders it, without that library.

    `bos_token` and `eos_token` are empty: `/completions` adds the beginning-of-text token itself. Raises jinja2's
    `TemplateSyntaxError` when the template cannot be parsed.
    """

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._template = environment.from_string(source)

    def render(self, messages: Sequence[Message], prefix: str, options: Mapping[str, Any]) -> str:
        """See `Template`: the generation prompt, and the text behind it."""
        chat = [dict(message) for message in messages]
        words = {**options, "messages": chat, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
        try:
            return self._template.render(words) + prefix
        except (TemplateError, TypeError) as error:
            raise Refused(f"the chat template rejects these messages: {error}") from None


class TokenizerTemplate:
    """The chat template of a model's tokenizer, rendered by transformers, which knows unfinished answers.

    `source`: a folder, a GGUF file, or a name at Hugging Face. `template` replaces the tokenizer's own. Reads files,
    and for a name the network; blocks for seconds. Raises `Unavailable` when the library or the tokenizer is not at
    hand.
    """

    def __init__(self, source: str, template: str | None = None) -> None:
        try:
            from transformers import AutoTokenizer

            from students.rendering import Renderer  # needs the tokenizers that transformers brings
        except ImportError:
            raise Unavailable("tokenizer needs transformers: pip install 'gkt-gateway[transformers]'") from None
        path = Path(source)
        where = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (source, {})
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(where[0], **where[1])
        except (OSError, ValueError, ImportError) as error:
            raise Unavailable(f"the tokenizer {source!r} cannot be loaded: {str(error).splitlines()[0]}") from None
        if not (template or tokenizer.chat_template):
            raise Unavailable(f"the tokenizer {source!r} has no chat template: set chat_template")
        bos = tokenizer.bos_token_id
        # What the server does with this text: it adds the token where the tokenizer adds it.
        adds = bos is not None and list(tokenizer("").input_ids)[:1] == [bos]
        self._added: str = tokenizer.bos_token if adds else ""
        self._renderer = Renderer(tokenizer, template=template)

    def render(self, messages: Sequence[Message], prefix: str, options: Mapping[str, Any]) -> str:
        """See `Template` and `Renderer.text`: the unfinished answer as the template writes one."""
        return self._renderer.text(messages, prefix, options).removeprefix(self._added)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which a model would read as text.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
