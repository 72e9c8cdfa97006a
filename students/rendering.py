"""A chat as the tokens that a model in this process reads, and its tokens as text.

Knows the tokenizer that it is given, and imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream

from students.engine import Message
from students.errors import Refused
from students.prefill import Spelling, prefilled

PLAIN = """\
{%- for pair in exemplars %}{{ 'Question: ' + pair.question + '\\nAnswer: ' + pair.answer + '\\n\\n' }}{% endfor %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ 'Question: ' + message.content + '\\n' }}
{%- elif message.role == 'assistant' %}{{ 'Answer: ' + message.content + '\\n\\n' }}
{%- else %}{{ message.content + '\\n\\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"""
"""What a model without a chat template reads: worked examples, then the chat, as questions with their answers."""

PLAIN_STOP = ("\nQuestion:",)
"""Where such a model begins to ask itself."""

STAND_IN = "the-answer-so-far"
"""Rendered in place of the given beginning of an answer, which then takes its place to the letter: templates trim,
and some read what is in it (`</think>`)."""


class Renderer:
    """How one model is spoken to. `template`: a Jinja chat template, None: the tokenizer's own, or else `PLAIN`.

    `options`: more of the template's variables (`enable_thinking`). `exemplars`: pairs of `question` and `answer` that
    `PLAIN` puts before the chat; other templates may too.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str | None = None,
        options: Mapping[str, Any] | None = None,
        exemplars: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template
        self._options = {**(options or {}), "exemplars": list(exemplars)}
        self.plain = not self._template
        """The model has no chat template: it goes on from worked examples."""
        self.stop = PLAIN_STOP if self.plain else ()

    def text(self, messages: Sequence[Message], prefix: str, options: Mapping[str, Any] | None = None) -> str:
        """All that the model is to read as one text; it ends in exactly `prefix`. Raises `Refused`."""
        chat = [_plain(message) for message in messages]
        if not prefix:
            return self._rendered(chat, options, add_generation_prompt=True)
        try:
            said = self._rendered(
                prefilled(Spelling(), chat, STAND_IN), options, add_generation_prompt=False, continue_final_message=True
            )
        except Refused:
            said = ""
        before, found, after = said.rpartition(STAND_IN)
        if not found or after.strip():  # the template knows no unfinished answers: its prompt for one comes close
            before = self._rendered(chat, options, add_generation_prompt=True)
            if self.plain:
                before += " "
        return before + prefix

    def ids(self, text: str) -> list[int]:
        """Tokens of a rendered text. A chat template writes special tokens itself; `PLAIN` leaves them out."""
        ids = list(self._tokenizer(text, add_special_tokens=self.plain).input_ids)
        # A tokenizer that ends every text would end the answer before its first word.
        while self.plain and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids.pop()
        return ids

    def source(self, text: str) -> list[int]:
        """Tokens of a text for an encoder, special tokens included."""
        return list(self._tokenizer(text, add_special_tokens=True).input_ids)

    def bare(self, text: str) -> list[int]:
        """Tokens of a text by itself, without special tokens."""
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def decoder(self, before: Sequence[int]) -> Callable[[int], str | None]:
        """A function that gives each token's new text behind `before`; None while a character is unfinished."""
        stream = DecodeStream(ids=list(before), skip_special_tokens=True)
        backend = self._tokenizer.backend_tokenizer
        return lambda token: stream.step(backend, token)

    def piece(self, token: int) -> tuple[str, list[int] | None]:
        """One token by itself: its text, and its bytes; None where it is a part of a character or nobody can tell."""
        text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text, None if "\ufffd" in text else list(text.encode())

    def _rendered(self, chat: Sequence[Message], options: Mapping[str, Any] | None, **how: Any) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in chat],
                chat_template=self._template or PLAIN,
                tokenize=False,
                **{**self._options, **(options or {}), **how},
            )
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError):
            raise Refused("the model's chat template rejects these messages") from None
        return str(text)


def _plain(message: Message) -> dict[str, Any]:
    """A message whose content is one text, as all templates take it. Raises `Refused` for what is no text."""
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise Refused("the model reads text only")
        content = "".join(part["text"] for part in content)
    role = str(message.get("role", "user"))
    return {**message, "role": "system" if role == "developer" else role, "content": content or ""}
