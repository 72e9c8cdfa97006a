"""Answer, outward: the events of one chat become the chunks of a stream (`Chunks`) or one JSON completion (`Fold`).

Both show the same: texts by choice, other members of the deltas, log-probabilities, finish reasons, the usage as the
client sees it, and the receipt under `gkt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.errors import GatewayError
from pricing.usage import Usage
from students.engine import Delta, Finish

DONE = b"data: [DONE]\n\n"

_WHOLE = frozenset(("id", "type", "name", "role", "format"))
"""Strings that arrive in one piece, and may be repeated; all others are pieces of a longer one."""

_INSTEAD_OF_TEXT = ("tool_calls", "function_call", "refusal", "audio")


def usage_object(usage: Usage | None) -> dict[str, Any] | None:
    """OpenAI's `usage`; None when either count is unknown, since it has no word for that and 0 would be a lie."""
    if usage is None or usage.input is None or usage.output is None:
        return None
    shown: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }
    prompt = {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write}
    known = {name: count for name, count in prompt.items() if count is not None}
    if known:
        shown["prompt_tokens_details"] = known
    if usage.reasoning is not None:
        shown["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return shown


def error_frame(error: GatewayError) -> bytes:
    """The frame that ends a stream which cannot go on; no `[DONE]` follows it."""
    return b"data: " + orjson.dumps(error.body) + b"\n\n"


class Chunks:
    """Encodes one answer as server-sent events; each method returns the bytes to send.

    `usage`: the caller asked for `stream_options.include_usage`. Then every chunk has `"usage": null`, and one more
    chunk without choices has the totals. The receipt stands on the last chunk before `[DONE]`.
    """

    __slots__ = ("_begun", "_head", "_usage")

    def __init__(self, id: str, created: int, model: str, *, usage: bool = False) -> None:  # noqa: A002 - the field's name
        envelope = orjson.dumps({"id": id, "object": "chat.completion.chunk", "created": created, "model": model})
        self._head = b"data: " + envelope[:-1]
        self._usage = usage
        self._begun: dict[int, tuple[bytes, bytes]] = {}

    def delta(self, delta: Delta) -> bytes:
        """The chunk of a delta; before the first of a choice, the one that names the role."""
        around = self._begun.get(delta.index)
        if around is None:
            # In order of their numbers, and none left out: the SDK's own accumulator relies on it.
            missing = [index for index in range(delta.index + 1) if index not in self._begun]
            begin = b"".join(self._begin(index, texts=bool(delta.text)) for index in missing)
            return begin + self.delta(delta)
        if delta.fields is None and delta.logprobs is None:
            return around[0] + orjson.dumps(delta.text) + around[1]
        members = dict(delta.fields or ())
        if delta.text or not members:
            members["content"] = delta.text
        return self._frame([_choice(delta.index, members, delta.logprobs)])

    def end(self, finish: Finish, receipt: Mapping[str, Any], choices: int = 1) -> bytes:
        """The finish chunk of each choice, the usage chunk when it was asked for, and `[DONE]`."""
        said = _passed_on(finish)
        frames = [self._begin(index, texts=True) for index in range(choices) if index not in self._begun]
        for index in range(choices):
            last = not self._usage and index == choices - 1
            choice = _choice(index, {}, None, _reason(finish, index))
            frames.append(self._frame([choice], {**said, "gkt": receipt} if last else said))
        if self._usage:
            frames.append(self._frame([], {**said, "gkt": receipt}, usage_object(finish.usage)))
        frames.append(DONE)
        return b"".join(frames)

    def _begin(self, index: int, *, texts: bool) -> bytes:
        usage = b',"usage":null}\n\n' if self._usage else b"}\n\n"
        self._begun[index] = (
            b'%b,"choices":[{"index":%d,"delta":{"content":' % (self._head, index),
            b'},"logprobs":null,"finish_reason":null}]' + usage,
        )
        role = {"role": "assistant", "content": "" if texts else None, "refusal": None}
        return self._frame([_choice(index, role, None)])

    def _frame(
        self,
        choices: list[dict[str, Any]],
        more: Mapping[str, Any] | None = None,
        usage: dict[str, Any] | None = None,
    ) -> bytes:
        members: dict[str, Any] = {"choices": choices}
        if self._usage:
            members["usage"] = usage
        return self._head + b"," + orjson.dumps({**members, **(more or {})})[1:] + b"\n\n"


class Fold:
    """Collects the events of one answer into the completion that a client without a stream gets."""

    __slots__ = ("_choices", "_created", "_id", "_model")

    def __init__(self, id: str, created: int, model: str, choices: int = 1) -> None:  # noqa: A002 - the field's name
        self._id = id
        self._created = created
        self._model = model
        self._choices = [_Folded() for _ in range(choices)]

    def delta(self, delta: Delta) -> None:
        """Add new text to its choice."""
        choice = self._choices[delta.index]
        if delta.text:
            choice.texts.append(delta.text)
        if delta.logprobs is not None:
            choice.logprobs = [*(choice.logprobs or ()), *delta.logprobs]
        if delta.fields is not None:
            _merge(choice.fields, delta.fields)

    def end(self, finish: Finish, receipt: Mapping[str, Any]) -> dict[str, Any]:
        """The whole completion."""
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [choice.end(index, _reason(finish, index)) for index, choice in enumerate(self._choices)],
            "usage": usage_object(finish.usage),
            **_passed_on(finish),
            "gkt": receipt,
        }


class _Folded:
    """One choice so far."""

    __slots__ = ("fields", "logprobs", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[Mapping[str, Any]] | None = None
        self.fields: dict[str, Any] = {}

    def end(self, index: int, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.texts), "refusal": None, **self.fields}
        if not self.texts and any(map(self.fields.get, _INSTEAD_OF_TEXT)):
            message["content"] = None
        if "tool_calls" in self.fields:
            calls = sorted(self.fields["tool_calls"], key=lambda call: int(call.get("index", 0)))
            message["tool_calls"] = [{name: call[name] for name in call if name != "index"} for call in calls]
        logprobs = None if self.logprobs is None else {"content": self.logprobs, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _choice(
    index: int, delta: Mapping[str, Any], logprobs: Sequence[Mapping[str, Any]] | None, reason: str | None = None
) -> dict[str, Any]:
    shown = None if logprobs is None else {"content": logprobs, "refusal": None}
    return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}


def _reason(finish: Finish, index: int) -> str:
    return finish.reasons[index] if index < len(finish.reasons) else finish.reason


def _passed_on(finish: Finish) -> dict[str, Any]:
    said = {"service_tier": finish.service_tier, "system_fingerprint": finish.fingerprint}
    return {name: value for name, value in said.items() if value is not None}


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Add the pieces of a delta: strings are joined, items of a list that carry an `index` meet their like."""
    for name, value in new.items():
        old = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif isinstance(value, Mapping):
            into[name] = old = old if isinstance(old, dict) else {}
            _merge(old, value)
        elif isinstance(value, list):
            into[name] = old = old if isinstance(old, list) else []
            _extend(old, value)
        elif isinstance(value, str) and isinstance(old, str) and name not in _WHOLE:
            into[name] = old + value
        elif value != "" or not old:
            into[name] = value


def _extend(into: list[Any], new: list[Any]) -> None:
    for item in new:
        index = item.get("index") if isinstance(item, Mapping) else None
        like = next((old for old in into if index is not None and old.get("index") == index), None)
        if isinstance(item, Mapping):
            if like is None:
                into.append(like := {})
            _merge(like, item)
        else:
            into.append(item)
