"""Checks: what a single field of a request may hold; what it may not is a `BadRequest` in OpenAI's words.

A check takes the field's name and its value, which is never null, and returns the value as the gateway keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.errors import BadRequest

Check = Callable[[str, Any], Any]

MAX_STOPS = 4
MAX_SEED = 2**63 - 1
_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def kind(value: Any) -> str:
    """What JSON calls this value."""
    return _KINDS.get(type(value), "something else")


def wrong_type(name: str, expected: str, value: Any) -> BadRequest:
    """The error for a value of the wrong type."""
    return BadRequest(
        f"Invalid type for '{name}': expected {expected}, but got {kind(value)} instead.",
        param=name,
        code="invalid_type",
    )


def invalid(name: str, why: str, code: str = "invalid_value") -> BadRequest:
    """The error for a value of the right type that is not allowed."""
    return BadRequest(f"Invalid '{name}': {why}", param=name, code=code)


def missing(name: str) -> BadRequest:
    """The error for a field that must be there and is not."""
    return BadRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`, both included."""

    def check(name: str, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise wrong_type(name, "a number", value)
        if value < low:
            raise invalid(name, f"expected a number >= {low:g}, but got {value} instead.", "decimal_below_min_value")
        if value > high:
            raise invalid(name, f"expected a number <= {high:g}, but got {value} instead.", "decimal_above_max_value")
        return value

    return check


def integer(low: int, high: int | None = None) -> Check:
    """A whole number from `low` to `high`, both included; None: without an upper end."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int:
            raise wrong_type(name, "an integer", value)
        if value < low:
            raise invalid(name, f"expected an integer >= {low}, but got {value} instead.", "integer_below_min_value")
        if high is not None and value > high:
            raise invalid(name, f"expected an integer <= {high}, but got {value} instead.", "integer_above_max_value")
        return value

    return check


def text(longest: int | None = None) -> Check:
    """A string that is not empty."""

    def check(name: str, value: Any) -> str:
        if type(value) is not str:
            raise wrong_type(name, "a string", value)
        if not value:
            raise invalid(name, "empty string. Expected at least one character.", "empty_string")
        if longest is not None and len(value) > longest:
            raise invalid(name, f"string too long. Expected at most {longest} characters.", "string_above_max_length")
        return value

    return check


def one_of(*allowed: str) -> Check:
    """One of these strings."""

    def check(name: str, value: Any) -> str:
        if type(value) is not str:
            raise wrong_type(name, f"one of {', '.join(allowed)}", value)
        if value not in allowed:
            raise invalid(name, f"got {_short(value)}. Allowed are: {', '.join(allowed)}.")
        return value

    return check


def boolean(name: str, value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise wrong_type(name, "a boolean", value)
    return value


def never(name: str, value: Any) -> bool:
    """False: something is not to be done; asking for it is no request's to say."""
    if boolean(name, value):
        raise invalid(name, "only false is allowed: whether it is done at all, the route says.")
    return False


def mapping(name: str, value: Any) -> dict[str, Any]:
    """An object; what is in it is for its reader to judge."""
    if type(value) is not dict:
        raise wrong_type(name, "an object", value)
    return value


def mappings(name: str, value: Any) -> list[dict[str, Any]]:
    """An array of objects."""
    if type(value) is not list:
        raise wrong_type(name, "an array of objects", value)
    for at, item in enumerate(value):
        mapping(f"{name}[{at}]", item)
    return value


def strings(name: str, value: Any) -> list[str]:
    """An array of strings."""
    if type(value) is not list:
        raise wrong_type(name, "an array of strings", value)
    for at, item in enumerate(value):
        text()(f"{name}[{at}]", item)
    return value


def string_or_mapping(name: str, value: Any) -> Any:
    """A string, or an object."""
    if type(value) is not str and type(value) is not dict:
        raise wrong_type(name, "a string or an object", value)
    return value


def kept(name: str, value: Any) -> Any:
    """Anything: it is checked where it is used."""
    return value


def stop(name: str, value: Any) -> tuple[str, ...]:
    """A string, or up to four; none of them empty."""
    if type(value) is str:
        return (text()(name, value),)
    if type(value) is not list:
        raise wrong_type(name, "a string or an array of strings", value)
    if len(value) > MAX_STOPS:
        raise invalid(name, f"array too long. Expected at most {MAX_STOPS} strings.", "array_above_max_length")
    return tuple(strings(name, value))


def logit_bias(name: str, value: Any) -> dict[str, float]:
    """An object from token ids to numbers from -100 to 100."""
    check = number(-100, 100)
    for token, bias in mapping(name, value).items():
        if not (token.isascii() and token.isdigit()):
            raise invalid(name, f"{_short(token)} is not a token id; keys are whole numbers, as strings.")
        check(f"{name}.{token}", bias)
    return dict(value)


def metadata(name: str, value: Any) -> dict[str, str]:
    """At most 16 strings of at most 512 characters, under names of at most 64."""
    if len(mapping(name, value)) > 16:
        raise invalid(name, "too many properties. Expected at most 16.", "object_above_max_properties")
    for key, item in value.items():
        if len(key) > 64:
            raise invalid(name, "a key is too long. Expected at most 64 characters.", "string_above_max_length")
        if type(item) is not str:
            raise wrong_type(f"{name}.{key}", "a string", item)
        if len(item) > 512:
            raise invalid(f"{name}.{key}", "expected at most 512 characters.", "string_above_max_length")
    return dict(value)


def response_format(name: str, value: Any) -> dict[str, Any]:
    """An object with a `type`."""
    if type(mapping(name, value).get("type")) is not str:
        raise missing(f"{name}.type")
    return dict(value)


def stream_options(name: str, value: Any) -> dict[str, bool]:
    """An object of switches."""
    for key, item in mapping(name, value).items():
        if item is not None:
            boolean(f"{name}.{key}", item)
    return dict(value)


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")
