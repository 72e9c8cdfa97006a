"""Formula: a mathematical text in one spelling, for the many that LaTeX and keyboards have. Pure.

`\\dfrac12`, `\\frac{1}{2}` and `1/2` are one text, so are `\\sqrt3`, `\\sqrt{3}` and `sqrt(3)`, `x^{2}` and `x^2`.
Spelling is all: nothing is computed but mixed numbers (`1\\frac12` is `3/2`), and `x/2` is not `0.5x`.
"""

from __future__ import annotations

import re

LONGEST = 1_000
"""Characters of a formula; of a longer text only white space and marks go."""

DEEPEST = 40
"""How deep braces may be nested; what is deeper is treated as a longer text is."""

_FRACTIONS = frozenset({"frac", "dfrac", "tfrac", "cfrac"})
_STYLES = frozenset({"text", "textbf", "textrm", "textit", "mathrm", "mathbf", "mathit", "mathsf", "mbox", "boxed"})
_NOTHING = frozenset(
    {"left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "quad", "qquad", *",!;: ()[]%$"}
)
_SAME = {"le": "\\leq", "ge": "\\geq", "ne": "\\neq", "cdot": "·", "times": "·", "lbrace": "\\{", "rbrace": "\\}"}
_SIGNS = {"π": "\\pi", "∞": "\\infty", "≤": "\\leq", "≥": "\\geq", "≠": "\\neq", "−": "-", "×": "·", "⋅": "·"}
_DROPPED = frozenset("$`%°")

_whole = re.compile(r"-?\d{1,40}")
_simple = re.compile(r"-?\d+(?:\.\d+)?|\w|\\[a-zA-Z]+")
_under = re.compile(r"\d+(?:\.\d+)?|\w|\\[a-zA-Z]+(?:\{[^{}]*\})?")
_mixed = re.compile(r"(?<![\w.,·}])\d{1,20}$")
_spaced = re.compile(r"(?<![\d,.])\d{1,3}(?: \d{3})+(?![\d,])")
_mixed_plain = re.compile(r"(?<![\w.,/])(\d{1,20}) (\d{1,20})/(\d{1,20})(?![\w/.])")
_power = re.compile(r"-?\d+|-?\w")
_times = re.compile(r"(?<=[\w)}])(?:\*|\s\*\s)(?=[\w(\\{])")
_marks = re.compile(r"\\(?:left|right|displaystyle|[,!;: ()\[\]%$])|[$*`%]|\^\\circ|\^\{\\circ\}|\s")
_in_prose = re.compile(
    r"(?:(?<![\w.,\\])(\d{1,20})\s{0,3})?\\[dtc]?frac\s{0,3}"
    r"(?:\{\s{0,3}(-?\d{1,40})\s{0,3}\}|(\d))\s{0,3}(?:\{\s{0,3}(\d{1,40})\s{0,3}\}|(\d))"
)


def plain(text: str) -> str:
    """The text in its one spelling: no markup, no spaces but between digits, fractions with a stroke."""
    if len(text) <= LONGEST:
        try:
            return _together(_Reader(_times.sub("·", text).replace("*", "")).read())
        except _TooDeep:
            pass
    return _marks.sub("", text)


def fractions(text: str) -> str:
    r"""A longer text in which the fractions of whole numbers have a stroke (`3/4`, of `\frac34` and `1 1/2` too).

    All else is as it was.
    """

    def stroke(found: re.Match[str]) -> str:
        ones, over, under = found[1], found[2] or found[3], found[4] or found[5]
        mixed = _summed(ones, over, under) if ones is not None else None
        return mixed or (f"{ones} " if ones is not None else "") + f"{over}/{under}"

    return _whole_mixed(_in_prose.sub(stroke, text))


def _summed(ones: str, over: str, under: str) -> str | None:
    """A mixed number as a fraction; None: it is none, but a product or two numbers."""
    if not 0 < int(over) < int(under):
        return None
    return f"{int(ones) * int(under) + int(over)}/{under}"


def _together(text: str) -> str:
    """Numbers that are written with spaces: thousands, and mixed numbers."""
    return _whole_mixed(_spaced.sub(lambda found: found[0].replace(" ", ""), text))


def _whole_mixed(text: str) -> str:
    return _mixed_plain.sub(lambda found: _summed(found[1], found[2], found[3]) or found[0], text)


class _TooDeep(Exception):
    """Nobody writes this; or nobody who wants to be read."""


class _Reader:
    """Reads LaTeX as far as final answers have it; what it does not know it leaves as it is."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._depth = 0

    def read(self, until: str = "") -> str:
        """Everything up to a closing character, or to the end."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise _TooDeep
        made = ""
        while self._place < len(self._text):
            if until and self._text[self._place] == until:
                self._place += 1
                break
            made = self._joined(made)
        self._depth -= 1
        return made

    def _joined(self, made: str) -> str:
        """What is there, and the next thing after it."""
        char = self._text[self._place]
        if char.isspace():
            self._space()
            after = self._text[self._place : self._place + 1]
            return made + " " if made[-1:].isdigit() and after.isdigit() else made
        before = self._place
        if char == "\\":
            name = self._command()
            if name in _FRACTIONS:
                return self._fraction(made)
            return self._product(made, self._named(name))
        if char in "^_":
            self._place += 1
            return made + self._script(char)
        self._place += 1
        if char == "{":
            return made + self.read("}")
        if char == "}" or char in _DROPPED:  # one that closes nothing
            return made
        if char == "√":
            return made + f"\\sqrt{{{self._argument()}}}"
        if self._text.startswith("sqrt(", before) and not made[-1:].isalpha():
            self._place = before + len("sqrt(")
            return made + f"\\sqrt{{{self.read(')')}}}"
        return self._product(made, _SIGNS.get(char, char))

    def _space(self) -> None:
        while self._place < len(self._text) and self._text[self._place].isspace():
            self._place += 1

    def _command(self) -> str:
        """The name after a backslash: letters, or one character."""
        self._place += 1
        begin = self._place
        while self._place < len(self._text) and self._text[self._place].isascii() and self._text[self._place].isalpha():
            self._place += 1
        if self._place == begin:
            self._place += 1
        return self._text[begin : self._place]

    def _named(self, name: str) -> str:
        if name in _NOTHING:
            return ""
        if name in _STYLES:
            self._space()
            if self._text[self._place : self._place + 1] == "{":
                self._place += 1
                return self.read("}")
            return ""
        if name == "sqrt":
            self._space()
            root = ""
            if self._text[self._place : self._place + 1] == "[":
                self._place += 1
                root = f"[{self.read(']')}]"
            return f"\\sqrt{root.replace('[2]', '')}{{{self._argument()}}}"
        return _SAME.get(name, f"\\{name}")

    def _argument(self) -> str:
        """What a command takes: a group in braces, one command, or one character."""
        self._space()
        char = self._text[self._place : self._place + 1]
        if char == "{":
            self._place += 1
            return self.read("}")
        if char == "(":
            self._place += 1
            return self.read(")")
        if char == "\\":
            self._depth += 1
            if self._depth > DEEPEST:
                raise _TooDeep
            name = self._command()
            made = self._fraction("") if name in _FRACTIONS else self._named(name)
            self._depth -= 1
            return made
        self._place += len(char)
        return "" if char in _DROPPED else _SIGNS.get(char, char)

    def _fraction(self, made: str) -> str:
        over, under = self._argument(), self._argument()
        if _whole.fullmatch(over) and _whole.fullmatch(under):
            ones = _mixed.search(made)
            mixed = _summed(ones[0], over, under) if ones is not None else None
            if ones is not None and mixed is not None:
                return made[: ones.start()] + mixed
        top = over if not re.search(r"(?<=.)[-+±]", over) else f"({over})"
        bottom = under if _under.fullmatch(under) else f"({under})"
        stroke = f"{top}/{bottom}"
        # Beside a number, "2" and "3/2" must not become "23/2".
        return f"{made}({stroke})" if made[-1:].isdigit() and stroke[:1].isdigit() else made + stroke

    def _product(self, made: str, sign: str) -> str:
        """A multiplication is written between numbers only: `2·3`, but `2x`."""
        if sign != "·":
            return made + sign
        self._space()
        between = made[-1:].isdigit() and self._text[self._place : self._place + 1].isdigit()
        return made + sign if between else made

    def _script(self, mark: str) -> str:
        """An exponent or an index; a keyboard's `x^10` is LaTeX's `x^{10}`."""
        self._space()
        found = _power.match(self._text, self._place)
        if found is not None:
            self._place = found.end()
            said = found[0]
        else:
            said = self._argument()
        if said == "\\circ":
            return ""
        ends = not (said[-1:].isdigit() and self._text[self._place : self._place + 1].isdigit())
        return f"{mark}{said}" if _simple.fullmatch(said) and ends else f"{mark}{{{said}}}"
