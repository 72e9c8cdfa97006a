"""The texts that strategies add to a chat, each a file; always placed after what the caller wrote.

Providers cache the beginning of a prompt, so an instruction goes behind the shared prefix, never before it: it is
added to the end of the last user message, which every chat template accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gateway.errors import ConfigError
from pricing.tokens import count
from students.engine import Message

BUILT_IN = ("concise", "hint", "context", "continue")


@dataclass(frozen=True, slots=True)
class Instruction:
    """A text to add. `tokens` is about how long it is, counted once with a common vocabulary: an estimate."""

    name: str
    text: str
    tokens: int


class Prompts:
    """The built-in instructions and those that the configuration adds or replaces, by name."""

    def __init__(self, extra: Mapping[str, Path] | None = None) -> None:
        """Raises `ConfigError` when a file cannot be read."""
        texts = {name: resources.files(__name__).joinpath(f"{name}.md").read_text("utf-8") for name in BUILT_IN}
        for name, path in (extra or {}).items():
            try:
                texts[name] = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"prompts.{name}: cannot read {path}: {error}") from error
        if "{guidance}" not in texts["context"]:
            raise ConfigError("prompts.context: the text must contain {guidance}")
        # Loads the vocabulary as well, before anybody is served: later, the first count would hold up all of them.
        self._known = {
            name: Instruction(name, text.strip(), count(text.strip(), "").tokens) for name, text in texts.items()
        }

    def __getitem__(self, name: str) -> Instruction:
        """The instruction of that name; `KeyError` when there is none (the planner has checked)."""
        return self._known[name]

    @property
    def guidance(self) -> tuple[str, ...]:
        """The names that may instruct a teacher."""
        return tuple(name for name in self._known if name not in ("context", "continue"))


def after(messages: Sequence[Message], text: str) -> list[Message]:
    """`messages` with `text` at the end of the last user message, or as a user message of its own.

    Messages before it stay the same objects, so that a cached prefix stays byte-identical.
    """
    last = messages[-1] if messages else None
    if last is not None and last.get("role") == "user":
        content = last.get("content")
        if isinstance(content, str):
            return [*messages[:-1], {**last, "content": f"{content}\n\n{text}"}]
        if isinstance(content, list):
            return [*messages[:-1], {**last, "content": [*content, {"type": "text", "text": text}]}]
    return [*messages, {"role": "user", "content": text}]
