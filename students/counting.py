"""Counting: the tokens of what nobody reported the usage of, by the model's own vocabulary or as an estimate."""

from __future__ import annotations

from pricing import tokens
from students.engine import Prompt

MESSAGE_TOKENS = 4
REPLY_TOKENS = 3
"""What OpenAI's template adds to a prompt: for each message, its role included, and for the start of the answer."""

LONGEST_COUNT = 50_000
"""Characters beyond which a text is estimated by its length rather than tokenized: counting must not stall others."""


def prompt_tokens(prompt: Prompt, model: str) -> tokens.Count:
    """The tokens of a prompt with what OpenAI's template adds; an estimate when it holds more than text."""
    parts = [prompt.prefix]
    exact = not (prompt.prefix or prompt.options.get("tools") or prompt.options.get("response_format"))
    for message in prompt.messages:
        content = message.get("content")
        exact = exact and isinstance(content, str) and message.keys() == {"role", "content"}
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, list):
            parts += [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    words = text_tokens("".join(parts), model)
    template = MESSAGE_TOKENS * (len(prompt.messages) + bool(prompt.prefix)) + REPLY_TOKENS
    return tokens.Count(words.tokens + template, words.source if exact else "estimated")


def text_tokens(text: str, model: str) -> tokens.Count:
    """The tokens of a text."""
    if len(text) > LONGEST_COUNT:
        return tokens.Count(len(text.encode("utf-8", "surrogatepass")) // 4, "estimated")
    return tokens.count(text, model)
