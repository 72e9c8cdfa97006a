"""Answers: what a text finally answers, in one form for all ways to write it, so that two texts can be compared.

Read are answers that say where they are: `\\boxed{...}`, `#### ...`, the field `answer` of a JSON object, "the answer
is ...", or a text that is nothing but an answer. Without such a mark a long text has no final answer that could be told
without guessing: `kind` says what to look for then, and the last number, the last `(X)` or the whole text is taken.
Nothing here scores code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, NamedTuple

Kind = Literal["number", "choice", "json", "text"]

LONGEST = 100_000
"""Characters of a text that are looked at: its last ones, where the answer is."""

SHORT = 40
"""Characters up to which a text of one line is an answer as a whole: a name or a number, not yet a sentence."""

FIELDS = ("answer", "final_answer", "result")
"""Fields of a JSON object that hold the answer, the first that is there."""

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3}){1,8}|\d{1,40})(?:\.\d{1,40})?|[-+−]?\.\d{1,40}"
_number = re.compile(rf"(?<![\w.])(?:{_NUMBER})(?:\s{{0,3}}/\s{{0,3}}\d{{1,40}})?")
_whole_number = re.compile(rf"(?:{_NUMBER})(?:\s{{0,3}}/\s{{0,3}}\d{{1,40}})?")
_fraction = re.compile(r"\\[dt]?frac\s{0,3}\{\s{0,3}(-?\d{1,40})\s{0,3}\}\s{0,3}\{\s{0,3}(\d{1,40})\s{0,3}\}")
_choice = re.compile(r"\(?([A-J])\)?[.:]?(?:\s|$)")
_lettered = re.compile(r"\(([A-J])\)")
_fence = re.compile(r"```[ \t]{0,3}(\w{0,20})[ \t]{0,3}\n(.*?)(?:```|\Z)", re.DOTALL)
_field = re.compile(
    rf'"(?:{"|".join(FIELDS)})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.){{0,1000}}"|-?[\d.]{{1,40}}|true|false)', re.DOTALL
)
_hashes = re.compile(r"####[ \t]{0,9}([^\n]{1,200})")
_said = re.compile(r"answer\s{1,3}is\s{0,3}:?[\s*$\\(]{0,9}([^\n]{1,200})", re.IGNORECASE)
_labelled = re.compile(
    r"^[\s*#]{0,9}(?:final\s)?answer[\s*]{0,5}:[\s*]{0,5}([^\n]{1,200})", re.IGNORECASE | re.MULTILINE
)
_styled = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textrm)\s{0,3}\{([^{}]{0,200})\}")
_markup = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:| )|[$*`]|\^\\circ|\^\{\\circ\}|\\%|%|\s")


class Answer(NamedTuple):
    """A final answer in its one form: equal answers are equal.

    A number is its exact fraction ("18", "3/4"), a choice its letter, JSON its canonical form, a text has no markup and
    no spaces, and no capitals.
    """

    kind: Kind
    value: str


def final(text: str, kind: Kind | None = None) -> Answer | None:
    """The final answer of `text`; None: it has none that could be told.

    `kind`: what is expected. Then an answer of another kind is none, and `number` and `choice` need no mark.
    """
    text = text[-LONGEST:].strip()
    found = _marked(text, kind) or _unmarked(text, kind)
    return found if kind is None or found is None or found.kind == kind else None


def declared(text: str) -> bool:
    """True when the text says by a mark what its final answer is; not when it is merely short."""
    return _declared(text[-LONGEST:].strip(), None) is not None


def agreement(one: str, other: str, kind: Kind | None = None) -> float | None:
    """How far two texts answer the same, from 0 to 1; None: it cannot be told.

    1 or 0 for numbers, choices and texts; for two JSON values the share of their fields that agree. Where only one of
    them has a final answer they do not agree, unless that is mere words. Where neither has, only the very same text
    does (white space aside).
    """
    a, b = final(one, kind), final(other, kind)
    if a is None and b is None:
        return 1.0 if one.split() == other.split() else None
    if a is None or b is None:
        lone = a or b
        # A few words that are no number or choice may be meant as an answer or not.
        return None if kind is None and lone is not None and lone.kind == "text" else 0.0
    if a.kind == b.kind == "json":
        return _shared(json.loads(a.value), json.loads(b.value))
    return float(a == b)


def _marked(text: str, kind: Kind | None) -> Answer | None:
    found = _declared(text, kind)
    if found is None and text and len(text) <= SHORT and "\n" not in text:
        return _value(text, kind)
    return found


def _declared(text: str, kind: Kind | None) -> Answer | None:
    found = _json(text, kind)
    if found is not None:
        return found
    boxed = _boxed(text)
    if boxed is not None:
        return _value(boxed, kind)
    for mark in (_hashes, _said, _labelled):
        marks = mark.findall(text)
        if marks:
            return _value(_clause(marks[-1]), kind)
    return None


def _json(text: str, kind: Kind | None) -> Answer | None:
    """The answer within a JSON object, in a code fence or not; the whole value where it has no field for it."""
    fences = [body for name, body in _fence.findall(text) if name.lower() in ("json", "")]
    for candidate in (*(each.strip() for each in reversed(fences)), text):
        if candidate[:1] not in ("{", "["):
            continue
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        field = next((value[name] for name in FIELDS if name in value), None) if isinstance(value, dict) else None
        if field is None or kind == "json" or isinstance(field, (dict, list)):
            whole = value if field is None or kind == "json" else field
            return Answer("json", json.dumps(whole, sort_keys=True, separators=(",", ":")))
        return _value(str(field), kind)
    # Within other words, or no JSON for a quote or a backslash that it does not have.
    told = _field.findall(text)
    return _value(told[-1].strip('"').replace("\\\\", "\\"), kind) if told else None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for place in range(begin, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[begin:place]
    return text[begin:]


def _clause(text: str) -> str:
    """The beginning of a line up to the end of its sentence: "(C) bank. It is ..." says "(C) bank"."""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0]


def _value(text: str, kind: Kind | None) -> Answer | None:
    """The answer that a short text is: a choice, a number, else its words."""
    text = _styled.sub(r"\1", text).strip("$* \t\n").rstrip(".").strip()
    choice = _choice.match(text)
    if choice and (len(text) == 1 or text[0] == "(" or text[1:2] in ").:"):
        return Answer("choice", choice[1])
    bare = _markup.sub("", _fraction.sub(r"\1/\2", text)).strip(".,:;!?\"'€£¥")
    if bare.count("=") == 1:
        bare = bare.split("=")[1]
    if _whole_number.fullmatch(bare):
        return _exact(bare)
    told = _numbers(text)
    # "18 dollars" and "about $18 a day" are the number 18; "3 or 4" and "x^2 + 1" are texts.
    if len(told) == 1 and not re.search(r"[\^_\\=<>]|\d[a-zA-Z(]|[a-zA-Z)][-+*/]|[-+*/][a-zA-Z(]", text):
        return _exact(told[0])
    return _unmarked(text, kind) or (Answer("text", bare.lower()) if bare else None)


def _unmarked(text: str, kind: Kind | None) -> Answer | None:
    """The last number or letter in brackets or the whole text, where that is what is looked for."""
    if kind == "number":
        told = _numbers(text)
        return _exact(told[-1]) if told else None
    if kind == "choice":
        letters = _lettered.findall(text) or ([text.upper()] if re.fullmatch(r"[a-j]", text) else [])
        return Answer("choice", letters[-1]) if letters else None
    words = _markup.sub("", text).strip(".,:;!?\"'").lower()
    return Answer("text", words) if kind == "text" and words else None


def _numbers(text: str) -> list[str]:
    return _number.findall(_fraction.sub(r"\1/\2", text.replace("-$", "-").replace("$", " ")))


def _exact(told: str) -> Answer | None:
    over, _, under = re.sub(r"[\s,]", "", told).replace("−", "-").partition("/")
    try:
        return Answer("number", str(Fraction(over) / Fraction(under or "1")))
    except (ValueError, ZeroDivisionError):
        return None


def _shared(one: Any, other: Any) -> float:
    """The share of the fields of two JSON values, at any depth, that both have and that are equal."""
    a, b = dict(_leaves(one)), dict(_leaves(other))
    both = a.keys() | b.keys()
    return sum(path in a and path in b and a[path] == b[path] for path in both) / len(both)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    items = list(inner)
    if not items:
        yield path, _plain(value)
    for name, each in items:
        yield from _leaves(each, (*path, name))


def _plain(value: object) -> object:
    """What two leaves are compared by: texts without the white space around them, and True is not 1."""
    if isinstance(value, str):
        return value.strip()
    return (type(value).__name__, str(value)) if isinstance(value, (bool, dict, list)) else value
