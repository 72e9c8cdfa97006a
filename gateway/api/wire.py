"""Wire, inward: the bytes of a request become a `Chat`. Nothing behind this door sees JSON again.

This is on the path of every request, so fields are checked by hand; a plain chat of 3 kB takes a few microseconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import orjson

from gateway.api import checks
from gateway.api.checks import Check, invalid, missing, wrong_type
from gateway.api.params import PARAMETERS
from gateway.chat import PROVIDER_KEY, Chat, Need, Overrides, Placement, StrategyName
from gateway.errors import BadRequest, Unsupported
from students.engine import Message, Sampling

RawHeaders = Iterable[tuple[bytes, bytes]]

HEADER_PREFIX = b"x-gkt-"
_PROVIDER_KEY = PROVIDER_KEY.encode()
OVERRIDES: dict[str, Check] = {
    "strategy": checks.one_of(*get_args(StrategyName)),
    "guidance_tokens": checks.integer(1, 4096),
    "teacher": checks.text(256),
    "student": checks.text(256),
    "guidance_prompt": checks.text(256),
    "placement": checks.one_of(*get_args(Placement)),
    "cache": checks.never,
}

_PLAIN_ROLES = frozenset(("system", "developer", "user", "assistant"))
_ROLES = (*sorted(_PLAIN_ROLES), "tool", "function")
_PART_NEEDS: dict[str, Need | None] = {"text": None, "refusal": None, "input_audio": "audio"}
_BELONGS = (("tool_choice", "tools"), ("parallel_tool_calls", "tools"), ("function_call", "functions"))
_SAMPLING = frozenset(Sampling.__slots__)


_IDS = random.Random()
"""Seeded by the system once. An id has to be unique, not secret; asking the system each time waits for the ledger's
thread, to which a system call hands the interpreter."""


def new_id() -> str:
    """A fresh id for a chat; it names the completion, the request and the ledger's entry alike."""
    return f"chatcmpl-{_IDS.getrandbits(128):032x}"


def parse(body: bytes, headers: RawHeaders = (), *, id: str | None = None) -> Chat:  # noqa: A002 - the field's name
    """The chat in a request's body. Raises `BadRequest` that names the field; the message holds no prompt text.

    `headers` are as ASGI gives them, names in lower case. Without `id` a new one is made.
    """
    data = _loads(body)
    given: dict[str, Any] = {}
    options: dict[str, Any] = {}
    teacher_options: dict[str, Any] = {}
    needs: set[Need] = set()
    for name, raw in data.items():
        parameter = PARAMETERS.get(name)
        if parameter is None:
            options[name] = raw
            continue
        if raw is None:
            continue
        fate = parameter.fate
        if fate == "refused":
            raise Unsupported(f"Unsupported parameter: '{name}'. {parameter.why}", param=name)
        value = parameter.check(name, raw)
        if parameter.idle is not None and parameter.idle(value):
            continue
        if parameter.need is not None:
            needs.add(parameter.need)
        (teacher_options if fate == "teacher" else options if fate == "writer" else given)[name] = value
    _check_together(data, given, options, needs)
    if options or teacher_options:
        _check_depth([options, teacher_options])
    if "model" not in given:
        raise missing("model")
    stream_options = given.get("stream_options") or {}
    sampling = {name: value for name, value in given.items() if name in _SAMPLING}
    overrides, provider_key = _overrides(given.get("gkt"), headers)
    return Chat(
        id=id or new_id(),
        model=given["model"],
        messages=_messages(given.get("messages"), needs),
        sampling=Sampling(**sampling),
        max_tokens=given.get("max_completion_tokens") or given.get("max_tokens"),
        n=given.get("n", 1),
        stream=given.get("stream", False),
        stream_usage=bool(stream_options.get("include_usage")),
        needs=frozenset(needs),
        options=options,
        teacher_options=teacher_options,
        overrides=overrides,
        metadata=given.get("metadata") or {},
        size=len(body),
        provider_key=provider_key,
    )


def _loads(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body of the request is not valid JSON: {error}.", code="invalid_json") from None
    if type(data) is not dict:
        raise BadRequest(
            f"The body of the request must be a JSON object, but is {checks.kind(data)}.", code="invalid_json"
        )
    return data


def _check_depth(value: Any) -> None:
    """What is passed on unread must be able to go out again: the encoder's limit is lower than the decoder's."""
    try:
        orjson.dumps([value])
    except orjson.JSONEncodeError:
        raise BadRequest("The body of the request is nested too deeply.", code="invalid_json") from None


def _check_together(data: dict[str, Any], given: dict[str, Any], options: dict[str, Any], needs: set[Need]) -> None:
    """The rules about two fields at once."""
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise BadRequest(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    if "top_logprobs" in given and "logprobs" not in given:
        raise invalid("top_logprobs", "'logprobs' must be true when it is given.", "invalid_parameter_combination")
    if "stream_options" in given and not given.get("stream"):
        raise invalid("stream_options", "it is only allowed when 'stream' is true.", "invalid_parameter_combination")
    if "audio" in options and "modalities" not in options and data.get("modalities"):
        del options["audio"]
        needs.discard("audio")
    for name, other in _BELONGS:
        if name in options and other not in options:
            if type(options[name]) is dict or options[name] == "required":
                raise invalid(name, f"it is only allowed together with '{other}'.", "invalid_parameter_combination")
            del options[name]


def _messages(value: Any, needs: set[Need]) -> Sequence[Message]:
    if value is None:
        raise missing("messages")
    if type(value) is not list:
        raise wrong_type("messages", "an array of objects", value)
    for at, message in enumerate(value):
        if type(message) is not dict:
            raise wrong_type(f"messages[{at}]", "an object", message)
        role = message.get("role")
        if type(role) is not str:
            raise (
                missing(f"messages[{at}].role")
                if role is None
                else wrong_type(f"messages[{at}].role", "a string", role)
            )
        if len(message) != 2 or role not in _PLAIN_ROLES or type(message.get("content")) is not str:
            _check_message(f"messages[{at}]", role, message, needs)
    last = len(value)
    while last and _says_nothing(value[last - 1]):
        last -= 1
    if not last:
        raise invalid("messages", "expected at least one message that says something.", "empty_array")
    messages = value if last == len(value) else value[:last]
    final = messages[-1]
    if final["role"] == "assistant" and not _calls(final) and (text := _plain_text(final.get("content"))):
        needs.add("prefix")
        if final["content"] is not text:
            messages = [*messages[:-1], {**final, "content": text}]
    return messages


def _check_message(name: str, role: str, message: dict[str, Any], needs: set[Need]) -> None:
    """The checks for everything but a plain text of a plain role."""
    _check_depth([message])
    checks.one_of(*_ROLES)(f"{name}.role", role)
    if message.get("name") is not None:
        checks.text()(f"{name}.name", message["name"])
    if role in ("tool", "function"):
        needs.add("tools")
        if role == "tool":
            if message.get("tool_call_id") is None:
                raise missing(f"{name}.tool_call_id")
            checks.text()(f"{name}.tool_call_id", message["tool_call_id"])
    if message.get("tool_calls") is not None:
        checks.mappings(f"{name}.tool_calls", message["tool_calls"])
    if message.get("function_call") is not None:
        checks.mapping(f"{name}.function_call", message["function_call"])
    if message.get("audio") is not None:
        checks.mapping(f"{name}.audio", message["audio"])
        needs.add("audio")
    if _calls(message):
        needs.add("tools")
    content = message.get("content")
    if content is None:
        spoken = _calls(message) or message.get("audio") or message.get("refusal")
        if role != "function" and not (role == "assistant" and spoken):
            raise wrong_type(f"{name}.content", "a string or an array of parts", None)
    elif type(content) is list:
        for at, part in enumerate(content):
            _check_part(f"{name}.content[{at}]", part, needs)
    elif type(content) is not str:
        raise wrong_type(f"{name}.content", "a string or an array of parts", content)


def _check_part(name: str, part: Any, needs: set[Need]) -> None:
    sort = checks.mapping(name, part).get("type")
    if type(sort) is not str:
        raise missing(f"{name}.type")
    if sort in ("text", "refusal"):
        if type(part.get(sort)) is not str:
            raise wrong_type(f"{name}.{sort}", "a string", part.get(sort))
    elif sort == "image_url":
        if type(checks.mapping(f"{name}.image_url", part.get("image_url")).get("url")) is not str:
            raise missing(f"{name}.image_url.url")
    elif sort in ("input_audio", "file"):
        checks.mapping(f"{name}.{sort}", part.get(sort))
    # Files are shown to models as pictures of their pages; parts of kinds yet unknown are no plain text either.
    need = _PART_NEEDS.get(sort, "images")
    if need is not None:
        needs.add(need)


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _says_nothing(message: Message) -> bool:
    """True of an assistant's message without text or anything else: a server would show an empty header, or refuse."""
    if message["role"] != "assistant" or _calls(message) or message.get("audio") or message.get("refusal"):
        return False
    text = _plain_text(message.get("content"))
    return text is not None and not text.strip()


def _plain_text(content: Any) -> str | None:
    """The text of a message's content; None when it holds anything else than text."""
    if type(content) is str:
        return content
    parts = content or []
    if any(part["type"] != "text" for part in parts):
        return None
    return "".join(part["text"] for part in parts)


def _overrides(body: Any, headers: RawHeaders) -> tuple[Overrides, str | None]:
    """What the body and the headers ask to be done otherwise, and the caller's own key for the provider."""
    found: dict[str, Any] = {}
    provider_key: str | None = None
    for header, raw in headers:
        if header.startswith(HEADER_PREFIX):
            label = header.decode("latin-1")
            name = label[len(HEADER_PREFIX) :].replace("-", "_")
            value: Any = raw.decode("latin-1").strip()
            if header == _PROVIDER_KEY:
                if provider_key is not None:
                    raise invalid(label, "the header is given more than once.")
                provider_key = _checked_key(label, value)
                continue
            if name not in OVERRIDES:
                allowed = ", ".join("x-gkt-" + known.replace("_", "-") for known in OVERRIDES)
                raise BadRequest(f"Unknown header '{label}'. Allowed are: {allowed}.", param=label)
            if name in found:
                raise invalid(label, "the header is given more than once.")
            if name == "guidance_tokens" and value.isascii() and value.isdigit() and len(value) < 10:
                value = int(value)
            if name == "cache":
                value = {"true": True, "false": False}.get(value.lower(), value)
            found[name] = OVERRIDES[name](label, value)
    if body is not None:
        for name, value in checks.mapping("gkt", body).items():
            if name not in OVERRIDES:
                raise BadRequest(
                    f"Unknown override '{name[:40]}' in 'gkt'. Allowed are: {', '.join(OVERRIDES)}.", param="gkt"
                )
            if value is not None:
                found[name] = OVERRIDES[name](f"gkt.{name}", value)
    return Overrides(**found) if found else _NO_OVERRIDES, provider_key


def _checked_key(label: str, key: str) -> str:
    """A key that can be sent on as it is; what is wrong with one is said without it."""
    # A short one would be struck out of every message that happens to hold it.
    if not 8 <= len(key) <= 4096 or not key.isascii() or not key.isprintable() or " " in key:
        raise invalid(label, "expected a provider's API key: 8 to 4096 visible ASCII characters.")
    return key


_NO_OVERRIDES = Overrides()
