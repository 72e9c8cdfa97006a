"""A given beginning of an answer stands in the prompt to the letter, whatever the template does to messages."""

from __future__ import annotations

import pytest

from students.engine import Message
from students.rendering import STAND_IN, Renderer
from tests.students.tiny import tokenizer

ASK: tuple[Message, ...] = ({"role": "user", "content": "Count from 1 to 30, separated by commas."},)

THINKS = (
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.role == 'assistant' and '</think>' in message.content %}"
    "{{ message.content.split('</think>')[1] | trim }}{% elif message.role == 'assistant' %}<think></think>"
    "{{ message.content | trim }}{% else %}{{ message.content }}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
DROPS = (
    "{% for message in messages if message.role == 'user' %}[{{ message.content }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
REJECTS = (
    "{% for message in messages %}"
    "{% if loop.last and message.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
    "[{{ message.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "before"),
    [
        (None, "<|im_start|>assistant\n"),
        (THINKS, "<assistant><think></think>"),
        (DROPS, "]>"),
        (REJECTS, "]>"),
    ],
)
@pytest.mark.parametrize("prefix", ["Well", "  Well,\n\n  yes", "\nWell", "a</think>b", f"{STAND_IN} x", "{{ 1 }}"])
def test_the_given_beginning_stands_there_to_the_letter(template: str | None, before: str, prefix: str) -> None:
    text = Renderer(tokenizer(), template=template).text(ASK, prefix)
    assert text.endswith(before + prefix)
    assert text.count(prefix) == 1


def test_what_a_template_is_told_more() -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}{{ mode }}{{ more }}"
    renderer = Renderer(tokenizer(), template=template, options={"mode": "a", "more": "b"})
    assert renderer.text(ASK, "").endswith("ab")
    assert renderer.text(ASK, "", {"more": "c"}).endswith("ac"), "the request's own come last"


def test_texts_in_parts_and_developers_are_understood() -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    text = Renderer(tokenizer()).text([{"role": "developer", "content": parts}, *ASK], "")
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
