"""Pictures: `docs/saved.svg` and the table beside it in the README, drawn from the break-even algebra.

`python -m docs.pictures` writes both; `make docs` calls it, and a test compares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from pricing.book import PriceBook
from pricing.breakeven import Rates, break_even_length, guided, per_token, teacher_alone
from pricing.money import Money
from pricing.price import Price

HERE = Path(__file__).parent
SVG = HERE / "saved.svg"
README = HERE.parent / "README.md"

MOMENT = datetime(2026, 11, 24, tzinfo=UTC)
PROMPT, GUIDANCE = 300, 40
LENGTHS = (50, 77, 150, 300, 1000)
"""Of the table; 77 tokens are about the mean answer to GSM8K in the paper."""

SMALL = Price("a small student", "config", input=Money.usd("0.01"), output=Money.usd("0.08"))
MACHINE = per_token(
    Price("a machine at $2 an hour", "config", per_hour=Money.usd(2)), input_per_second=10_000, output_per_second=500
)

# The plot, in pixels; x is logarithmic.
WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 196, 52, 52
SHORTEST, LONGEST = 20, 2000
LOWEST, HIGHEST = -50, 100
X_TICKS = (20, 40, 100, 200, 500, 1000, 2000)
Y_TICKS = (-50, -25, 0, 25, 50, 75, 100)

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f; }
    .paper { fill: #ffffff; } .grid { stroke: #d8dee4; } .zero { stroke: #57606a; stroke-width: 1.5; }
    .line { fill: none; stroke-width: 2.5; } .student1 { stroke-dasharray: 7 5; }
    .teacher0 { stroke: #0550ae; } .teacher1 { stroke: #bc4c00; }
    text.teacher0 { fill: #0550ae; stroke: none; } text.teacher1 { fill: #bc4c00; stroke: none; }
    .title { font-weight: 600; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .paper { fill: #0d1117; } .grid { stroke: #30363d; } .zero { stroke: #8b949e; }
      .teacher0 { stroke: #79c0ff; } .teacher1 { stroke: #ffa657; }
      text.teacher0 { fill: #79c0ff; } text.teacher1 { fill: #ffa657; }
    }
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A teacher and a student, by their places in the legend."""

    teacher: int
    student: int
    label: str
    rates: Rates

    def saved(self, length: int) -> Fraction:
        """The share of the teacher-only cost that is saved by an answer of so many tokens; negative: a loss."""
        alone = teacher_alone(self.rates, input_tokens=PROMPT, length=length)
        return 1 - guided(self.rates, input_tokens=PROMPT, prompt=PROMPT, guidance=GUIDANCE, length=length) / alone

    @property
    def break_even(self) -> Fraction | None:
        """The length above which something is saved; None: never."""
        return break_even_length(self.rates, prompt=PROMPT, guidance=GUIDANCE)


def pairs() -> list[Pair]:
    """Two teachers at their catalogue prices, two students at prices that a configuration could state."""
    book = PriceBook()
    found = []
    for teacher, name in enumerate(("gpt-6-sol", "gpt-6-luna")):
        price = book.price(name, provider="openai", moment=MOMENT)
        for student, own in enumerate((SMALL, MACHINE)):
            rates = Rates.of(price, own) if price is not None and own is not None else None
            if rates is None:
                raise LookupError(f"no price for {name}")
            found.append(Pair(teacher, student, f"{name}, ${_rate(rates.student_out)} student", rates))
    return found


def svg() -> str:
    """The picture: saved share against answer length, one line a pair."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img">',
        "  <title>Share of the teacher-only cost that guidance saves, by answer length</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'  <text class="title" x="{LEFT}" y="22">Saved share of what the teacher alone would cost</text>',
        f'  <text x="{LEFT}" y="40">guidance {GUIDANCE} tokens, prompt {PROMPT} tokens; each student named by its '
        "price for a million output tokens</text>",
    ]
    for tick in Y_TICKS:
        y = _y(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'  <line class="{kind}" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'  <text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_percent(tick)}</text>')
    for tick in X_TICKS:
        x = _x(tick)
        parts.append(f'  <line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'  <text x="{x}" y="{bottom + 18}" text-anchor="middle">{tick}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'  <text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">tokens of the answer</text>')
    free = 0.0  # where the next label beside the plot may stand; the pairs come in the order of their ends
    for pair in pairs():
        points = list(_points(pair))
        end_x, end_y = points[-1]
        kinds = f"teacher{pair.teacher} student{pair.student}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'  <polyline class="line {kinds}" points="{path}"/>')
        # One that leaves the plot is labelled where it leaves it, and that it never pays is said there.
        inside = pair.break_even is not None
        at = (right + 8, max(end_y + 4, free)) if inside else (end_x + 10, end_y - 6)
        free = at[1] + 17
        label = pair.label if inside else f"{pair.label}: never pays"
        parts.append(f'  <text class="teacher{pair.teacher}" x="{at[0]:.1f}" y="{at[1]:.1f}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def table() -> str:
    """The same in numbers, as Markdown."""
    heads = [f"{length}" for length in LENGTHS]
    rows = [
        "| teacher, student | pays above | " + " | ".join(f"saved at {head} tokens" for head in heads) + " |",
        "|---|--:|" + "--:|" * len(heads),
    ]
    for pair in pairs():
        even = pair.break_even
        above = "never" if even is None else f"{float(even):.1f} tokens"
        cells = [_percent(round(float(pair.saved(length)) * 100)) for length in LENGTHS]
        rows.append(f"| {pair.label} | {above} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def replaced(page: str, name: str, text: str) -> str:
    """`page` with what stands between the marks of `name` replaced. Raises ValueError when the marks are missing."""
    start, end = f"<!-- {name}: written by `make docs` -->", f"<!-- /{name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"the marks of {name!r} must stand in the page once")
    return re.sub(
        f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n\n{text}\n\n{end}", page, flags=re.DOTALL
    )


def _points(pair: Pair) -> Iterator[tuple[float, float]]:
    for length in _lengths():
        share = float(pair.saved(length)) * 100
        if share < LOWEST:
            return
        yield _x(length), _y(share)


def _lengths() -> Sequence[int]:
    """Whole lengths, evenly spread over a logarithmic axis, and every one around the budget, where lines turn."""
    steps = 80
    spread = {round(SHORTEST * (LONGEST / SHORTEST) ** (step / steps)) for step in range(steps + 1)}
    return sorted(spread | set(range(GUIDANCE - 1, GUIDANCE + 12)))


def _x(length: float) -> float:
    share = math.log(length / SHORTEST) / math.log(LONGEST / SHORTEST)
    return round(LEFT + share * (WIDTH - RIGHT - LEFT), 1)


def _y(percent: float) -> float:
    share = (percent - LOWEST) / (HIGHEST - LOWEST)
    return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def _percent(value: int) -> str:
    return f"\N{MINUS SIGN}{-value} %" if value < 0 else f"{value} %"


def _rate(money: Money) -> str:
    return f"{money.dollars:.2f}"


def write() -> None:
    """Write the picture and the table."""
    SVG.write_text(svg(), "utf-8")
    README.write_text(replaced(README.read_text("utf-8"), "saved", table()), "utf-8")


if __name__ == "__main__":
    write()
