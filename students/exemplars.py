"""Exemplars: how a base model, which has no chat template, is asked: worked examples, then the chat, as questions.

The paper's own students were asked so. This is for servers that render chats themselves; `students.rendering` does the
same where the tokenizer is in this process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLE = "exemplars"
"""The template's variable that holds them, which a request may set too (`chat_template_kwargs`)."""

TEMPLATE = """\
{%- for pair in exemplars or [] %}
{{- 'Question: ' + pair.question + '\\nAnswer:\\n' + pair.answer + '\\n\\n' }}{% endfor %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ 'Question: ' + message.content + '\\n' }}
{%- elif message.role == 'assistant' %}{{ 'Answer:\\n' + message.content + '\\n\\n' }}
{%- else %}{{ message.content + '\\n\\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Answer:\\n' }}{% endif %}"""
"""An answer begins on a line of its own: a server puts a given beginning right behind what is rendered, and a space
there would be a token that no text has before a word."""

STOP = ("\nQuestion:",)
"""Where a base model begins to ask itself."""


def read(file: Path | None) -> Sequence[Mapping[str, str]]:
    """Pairs of `question` and `answer`, from JSON lines; None: there are none.

    Raises OSError, ValueError, KeyError or TypeError where the file cannot be read, or is no such thing.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    pairs = [json.loads(line) for line in lines if line.strip()]
    return [{key: str(pair[key]) for key in ("question", "answer")} for pair in pairs]
