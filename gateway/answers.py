"""Answers: what a text finally answers, in one form for all ways to write it, so that two texts can be compared.

Read are answers that say where they are: `\\boxed{...}`, `#### ...`, the field `answer` of a JSON object, "the answer
is ...", or a text that is nothing but an answer. Without such a mark a long text has no final answer that could be told
without guessing: `kind` says what to look for then, and the last number, the last `(X)` or the whole text is taken.
Whether two answers mean the same, or two programs do, is not told by their form: of the kinds `meaning` and `code` only
the very same words are equal here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from gateway.formula import fractions, plain

Kind = Literal["number", "choice", "json", "text", "meaning", "code"]

COMPARED: frozenset[Kind] = frozenset({"meaning", "code"})
"""Kinds whose form does not tell whether two answers are the same: `gateway.strategies.same` finds out."""

LONGEST = 100_000
"""Characters of a text that are looked at: its last ones, where the answer is."""

SHORT = 40
"""Characters up to which a text of one line is an answer as a whole: a name or a number, not yet a sentence."""

FIELDS = ("answer", "final_answer", "result")
"""Fields of a JSON object that hold the answer, the first that is there."""

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3}){1,8}|\d{1,40})(?:\.\d{1,40})?|[-+−]?\.\d{1,40}"
_number = re.compile(rf"(?<![\w.])(?:{_NUMBER})(?:\s{{0,3}}/\s{{0,3}}\d{{1,40}})?")
_whole_number = re.compile(rf"(?:{_NUMBER})(?:\s{{0,3}}/\s{{0,3}}\d{{1,40}})?")
_choice = re.compile(r"(?:(?i:option|choice|letter)\s{1,3})?(?:\(([A-Ja-j])\)(?=[\s.:,]|$)|([A-J])(?:[.):](?=\s|$)|$))")
_bare_choice = re.compile(r"([A-J])\s")
_lettered = re.compile(r"(?<!\w)\(([A-Ja-j])\)")
_called = re.compile(
    r"(?:\(([A-J])\)(?:\s{1,3}[a-z ]{1,40}?)?|(?<![\w(])([A-J]))\s{1,3}is\s{1,3}(?:(?:therefore|clearly)\s{1,3})?"
    r"(?:the\s{1,3})?(?:correct|right|best|answer)\b"
)
_opened = re.compile(r"[\s*]{0,9}\(?([A-J])[.):]{0,2}[*]{0,2}[ \t]{0,9}(?:\n|$)")
_HEDGE = (
    r"(?:(?:about|approximately|approx\.|around|roughly|exactly|nearly|almost|only|just|equal\s{1,3}to|equals|"
    r"an?\s{1,3}total\s{1,3}of|an?\s{1,3}average\s{1,3}of)[\s:]{1,3}){0,2}"
)
_hedged = re.compile(rf"{_HEDGE}[-−+~=≈\s$€£¥]{{0,5}}[.\d]", re.IGNORECASE)
_leading = re.compile(
    rf"{_HEDGE}[~≈$€£¥]{{0,2}}({_NUMBER})%?(?:\s{{1,3}}[a-z/]{{1,20}}){{0,3}}?"
    r"(?:,\s{1,3}(?!or\b|and\b)[a-z]|\s{1,3}(?:for|per|after|every|each|because|since|when|if|as|at|on|over|during|"
    r"within|given|so)\b)",
    re.IGNORECASE,
)
_PYTHON = frozenset({"", "python", "py", "python3"})
_fence = re.compile(r"```[ \t]{0,3}(\w{0,20})[ \t]{0,3}\n(.*?)(?:```|\Z)", re.DOTALL)
_field = re.compile(
    rf'"(?:{"|".join(FIELDS)})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.){{0,1000}}"|-?[\d.]{{1,40}}|true|false)', re.DOTALL
)
_hashes = re.compile(r"####[ \t]{0,9}([^\n]{1,200})")
_said = re.compile(r"answer\s{1,3}is\s{0,3}:?(?:[\s*$]|\\[(\[]){0,9}([^\n]{1,200})", re.IGNORECASE)
_labelled = re.compile(
    r"^[\s*#]{0,9}(?:final\s)?answer[\s*]{0,5}:[\s*]{0,5}([^\n]{1,200})", re.IGNORECASE | re.MULTILINE
)
_styled = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textrm)\s{0,3}\{([^{}]{0,200})\}")
_markup = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:| )|[$*`]|\^\\circ|\^\{\\circ\}|\\%|%|\s")


class Answer(NamedTuple):
    """A final answer in its one form: equal answers are equal.

    A number is its exact fraction ("18", "3/4"), a choice its letter, JSON its canonical form, a text has no markup and
    no spaces, and no capitals. A `meaning` is the whole text, but for white space; `code` the program that was shown
    last, or the tests that it passes.
    """

    kind: Kind
    value: str


def final(text: str, kind: Kind | None = None) -> Answer | None:
    """The final answer of `text`; None: it has none that could be told.

    `kind`: what is expected. Then an answer of another kind is none, and `number` and `choice` need no mark.
    """
    text = text[-LONGEST:].strip()
    if kind in COMPARED:
        whole = " ".join(text.split()) if kind == "meaning" else _program(text)
        return Answer(kind, whole) if kind is not None and whole else None
    found = _marked(text, kind) or _unmarked(text, kind)
    return found if kind is None or found is None or found.kind == kind else None


def declared(text: str) -> bool:
    """True when the text says by a mark what its final answer is; not when it is merely short."""
    return _declared(text[-LONGEST:].strip(), None) is not None


def agreement(one: str, other: str, kind: Kind | None = None) -> float | None:
    """How far two texts answer the same, from 0 to 1; None: it cannot be told.

    1 or 0 for numbers, choices and texts; for two JSON values the share of their fields that agree. Where only one of
    them has a final answer they do not agree, unless that is mere words. Where neither has, only the very same text
    does (white space aside), and so it is with meanings and code, which nobody is asked about here.
    """
    a, b = final(one, kind), final(other, kind)
    if kind in COMPARED:
        return 1.0 if one.split() == other.split() or (a is not None and a == b) else None
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
            return _value(_clause(marks[-1]), kind, sentence=mark is _said)
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


def _program(text: str) -> str | None:
    """The last block of Python code that defines something, else the last one; None: there is none."""
    blocks = [body.strip("\n") for name, body in _fence.findall(text) if name.lower() in _PYTHON]
    defining = [
        block for block in blocks if re.search(r"^\s{0,12}(?:async\s{1,3})?(?:def|class)\s", block, re.MULTILINE)
    ]
    return str((defining or blocks)[-1]) if blocks else None


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


def _value(text: str, kind: Kind | None, *, sentence: bool = False) -> Answer | None:
    """The answer that a short text is: a choice, a number, else its words. `sentence`: it may go on from any word."""
    text = _styled.sub(r"\1", text).strip("$* \t\n").rstrip(".").strip()
    choice = _choice.match(text)
    if choice:
        return Answer("choice", (choice[1] or choice[2]).upper())
    if kind == "choice" and (bare := _bare_choice.match(text)):
        return Answer("choice", bare[1])
    formula = plain(text).strip(".,:;!?\"'€£¥")
    if formula.count("=") == 1:
        formula = formula.split("=")[1]
    if _whole_number.fullmatch(formula):
        return _exact(formula)
    # A formula with commands in it is none of its numbers.
    amount = None if "\\" in formula else _amount(text, sentence=sentence)
    if amount is not None:
        return _exact(amount)
    return _unmarked(text, kind) or (Answer("text", formula.lower()) if formula else None)


def _amount(text: str, *, sentence: bool) -> str | None:
    """The number that a few words are about: the first of "18 for 2 days", the only one of "about $18 a day".

    None for "3 or 4", "1 hour and 5 minutes", "x^2 + 1". What "the answer is" goes on with as a `sentence` may mention
    any number ("usually given in 3 cases"): it has to begin with it.
    """
    leading = _leading.match(text)
    if leading:
        return leading[1]
    told = _numbers(text)
    if len(told) != 1 or (sentence and not _hedged.match(text)):
        return None
    return None if re.search(r"[\^_\\=<>]|\d[a-zA-Z(]|[a-zA-Z)][-+*/]|[-+*/][a-zA-Z(]", text) else told[0]


def _unmarked(text: str, kind: Kind | None) -> Answer | None:
    """What is looked for where nothing marks it: the last number; a letter; the whole text."""
    if kind == "number":
        told = _numbers(text)
        return _exact(told[-1]) if told else None
    if kind == "choice":
        letter = _letter(text)
        return Answer("choice", letter) if letter else None
    words = _markup.sub("", text).strip(".,:;!?\"'").lower()
    return Answer("text", words) if kind == "text" and words else None


def _letter(text: str) -> str | None:
    """The letter that is called the right one last, or stands on the first line alone, or the last in brackets."""
    called = [one or other for one, other in _called.findall(text)]
    if called:
        return str(called[-1])
    opened = _opened.match(text)
    if opened:
        return str(opened[1])
    letters = _lettered.findall(text) or re.findall(r"^[a-j]$", text)
    return str(letters[-1]).upper() if letters else None


def _numbers(text: str) -> list[str]:
    return _number.findall(fractions(text.replace("-$", "-").replace("$", " ")))


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
