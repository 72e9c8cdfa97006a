"""What an upstream's error means, and what of it may be shown. Pure; no I/O."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime

import msgspec

from students.engine import Prompt
from students.errors import EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable

SHOWN = 300
"""Characters of an upstream's message that are passed on."""

_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|(prompt|input) is too long|too many (input |prompt )?tokens"
    r"|exceeds? the (model'?s )?(maximum|max) (input|prompt)|max_new_tokens`? must be",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_NO_ROOM = re.compile(r"rate_?limit|overloaded|quota|too_?many_?requests", re.IGNORECASE)
_WRONG = re.compile(
    r"invalid|bad_?request|not_?found|authenti|permission|unsupported|unprocessable|content_(policy|filter)",
    re.IGNORECASE,
)


def failure(error: object, status: int | None = None, retry_after: float | None = None) -> EngineError:
    """The leaf of `EngineError` that an upstream's error means.

    `error` is its `error` member, a whole body, or whatever else it sent; `status` is the HTTP status, None inside a
    stream, where the code or the type has to tell. The message is the upstream's own: pass the error through `present`.
    """
    code, kind, message = _parts(error)
    if status is None and code is not None and code.isdecimal():
        status = int(code)
    name = kind if code is None or code.isdecimal() else code
    label = " ".join(str(part) for part in (status, name) if part is not None)
    text = ": ".join(part for part in (label, message) if part) or "the upstream reported an error"
    words = f"{name or ''} {kind or ''}"
    if status in (None, 400, 413, 422) and (
        "context_length" in words or "context_size" in words or _TOO_LONG.search(message)
    ):
        return PromptTooLong(text, status=status, code=name)
    if status in (429, 529) or (status == 503 and retry_after is not None) or (not status and _NO_ROOM.search(words)):
        return Overloaded(text, status=status, code=name, retry_after=retry_after)
    if status == 408:
        return TimedOut(text, deadline="first_token")
    if (status is not None and status < 500) or (status is None and _WRONG.search(words)):
        return Refused(text, status=status, code=name)
    return Unavailable(text, status=status, code=name)


def read_error(body: bytes) -> object:
    """The error in the body of a failed request: parsed, or as text; nothing of an HTML page."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text


def _parts(error: object) -> tuple[str | None, str | None, str]:
    """Code, type and message of an error in any of the shapes that servers use."""
    if isinstance(error, Mapping):
        inner = error.get("error")
        if inner is not None:
            return _parts(inner)
        detail = error.get("message", error.get("detail", ""))
        if isinstance(detail, Sequence) and not isinstance(detail, str):
            # FastAPI's list of faults: each repeats the input, so only its `msg` is taken.
            detail = "; ".join(str(fault.get("msg", "")) for fault in detail if isinstance(fault, Mapping))
        code, kind = error.get("code"), error.get("type")
        return (
            _name(code),
            _name(kind),
            detail if isinstance(detail, str) else "",
        )
    return None, None, error if isinstance(error, str) else ""


def _name(value: object) -> str | None:
    """A code or a type, if it is one: a text in its place may quote anything, and is dropped."""
    text = "" if value is None else str(value)
    return text if _NAME.fullmatch(text) else None


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or a date); None when it does not say."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - dt.datetime.now(dt.UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def present(error: EngineError, *, engine: str, keys: Iterable[str | None], texts: Iterable[str]) -> EngineError:
    """The same error, named after its engine, with a message fit to be shown and logged.

    At most `SHOWN` characters, without any of the keys, and withheld when it quotes the prompt: a text of the prompt
    that is at least 8 characters long, or any 30 characters in a row of one.
    """
    message = str(error)
    for key in filter(None, keys):
        message = message.replace(key, "[key]")
        error.code = error.code and error.code.replace(key, "[key]")
    if len(message) > SHOWN:
        message = message[: SHOWN - 1] + "…"
    # 30 repeated characters always contain a window of 20 that begins at a multiple of 10.
    windows = [message[at : at + 20] for at in range(0, len(message) - 19, 10)]
    for text in texts:
        if (len(text) >= 8 and text in message) or any(window in text for window in windows):
            label = " ".join(str(part) for part in (error.status, error.code) if part is not None)
            message = f"{label or type(error).__name__}: (message withheld: it quotes the prompt)"
            break
    error.args = (message,)
    error.engine = engine
    return error


def quoted(prompt: Prompt) -> Iterator[str]:
    """Every text of the prompt, for `present` to keep it out of messages."""
    yield prompt.prefix
    for message in prompt.messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, Sequence):
            for part in content:
                if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    yield part["text"]
