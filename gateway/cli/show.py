"""Show: answers, receipts and sums, for a reader at a terminal or in a log."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gateway.chat import Seat
from gateway.ledger.entry import SavingsRow
from pricing.money import Money

STYLES: Mapping[Seat, str] = {"teacher": "yellow", "student": "cyan", "checker": "magenta"}
UNKNOWN = "unknown"


def console(*, stderr: bool = False) -> Console:
    """Where to print. What is not a terminal gets lines of 120 characters; COLUMNS says otherwise."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 120
    return made


@contextmanager
def working(out: Console, what: str) -> Iterator[Working]:
    """Shows that something takes its time: a spinner on a terminal, a line elsewhere."""
    if not out.is_terminal:
        out.print(Text(f"{what} ..."))
        yield Working(what, None)
        return
    with out.status(Text(what)) as status:
        yield Working(what, lambda text: status.update(Text(text, overflow="ellipsis", no_wrap=True)))


class Working:
    """What is being shown by `working`."""

    def __init__(self, what: str, update: Any) -> None:
        self._what = what
        self._update = update
        self._heard = ""

    def hear(self, text: str) -> None:
        """Show the newest words of a stream."""
        self._heard = " ".join((self._heard + text).split(" ")[-12:])
        if self._update is not None:
            self._update(f"{self._what}: {self._heard}".replace("\n", " "))


def money(dollars: str | None) -> str:
    """An amount of a receipt, exact; a word where it is unknown."""
    return UNKNOWN if dollars is None else str(Money.usd(Decimal(dollars)))


def seconds(value: float | None) -> str:
    """Seconds with what matters of them."""
    return "-" if value is None else f"{value:.2f} s"


def percent(share: float | None) -> str:
    """A share of one as a percentage."""
    return UNKNOWN if share is None else f"{share * 100:.1f} %"


def stand_in(receipt: Mapping[str, Any]) -> str:
    """`stand-in, priced as if it were M` when no real teacher was asked; else empty."""
    models = [stage["model"] for stage in receipt["stages"] if stage["stand_in"] is not None]
    return f"stand-in, priced as if it were {models[0]}" if models else ""


def pieces(receipt: Mapping[str, Any], text: str) -> list[tuple[Seat, str]]:
    """Who wrote what of the answer's text, in its order; of nothing, nothing."""
    guidance = receipt["guidance"] or {"text_chars": 0}
    cut = guidance["text_chars"]
    wrote = [stage["seat"] for stage in receipt["stages"] if stage["stage"] != "guidance" and not stage["error"]]
    rest: Seat = wrote[-1] if wrote else "teacher" if receipt["strategy"] == "teacher" else "student"
    if "drafts" in receipt:
        rest = "teacher" if _given(receipt) is None else "student"
    split: list[tuple[Seat, str]] = [("teacher", text[:cut]), (rest, text[cut:])]
    if split[0][1] and rest == "teacher":
        split = [("teacher", text)]
    return [(seat, part) for seat, part in split if part]


def author(receipt: Mapping[str, Any], seat: Seat) -> str:
    """The model in that seat, as a heading names it; of words from the cache, that they are."""
    stages = [stage for stage in receipt["stages"] if stage["seat"] == seat]
    if seat == "teacher" and (notice := stand_in(receipt)):
        return notice
    if seat == "teacher" and (receipt["guidance"] or {}).get("cache") == "hit":
        return "kept from an earlier request"
    return _given(receipt) or str(stages[-1]["model"]) if stages else ""


def _given(receipt: Mapping[str, Any]) -> str | None:
    """The student whose draft a cascade gave for its first choice; None: the teacher answered, or it was no cascade."""
    drafts = receipt.get("drafts") or ()
    return next((draft["student"] for draft in drafts if draft["given"] and draft["choice"] == 0), None)


def answer(out: Console, receipt: Mapping[str, Any], text: str) -> None:
    """Print an answer with the teacher's words set apart from the student's."""
    for seat, part in pieces(receipt, text):
        out.print(Text(f"  {seat}'s words ({author(receipt, seat)}):", style=f"bold {STYLES[seat]}"))
        out.print(_indented(part.strip("\n"), 4, STYLES[seat]))


def split(out: Console, receipt: Mapping[str, Any], text: str) -> None:
    """Print who wrote what of an answer that the reader has just seen, without all of it again."""
    parts = pieces(receipt, text)
    for number, (seat, part) in enumerate(parts, 1):
        end = " ".join(part.split(" ")[-6:]).strip()
        what = "the rest" if len(parts) > 1 and number == len(parts) else f"up to “{end}”" if len(parts) > 1 else "all"
        out.print(_indented(f"{seat}'s words ({author(receipt, seat)}): {what}", 2, STYLES[seat]))


def _indented(text: str, by: int, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, by), expand=False)


def receipt(out: Console, receipt: Mapping[str, Any]) -> None:
    """Print the bill of one request: its stages, what the teacher alone would have cost, and the saving."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("  stage", "model"):
        table.add_column(name, overflow="fold")
    for name in ("tokens in", "out", "dollars", "first word", "total"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in receipt["stages"]:
        table.add_row(*_stage(stage))
    out.print(table)
    notice = stand_in(receipt)
    note = f" ({notice})" if notice else ""
    spent = f"spent {money(receipt['cost_usd'])}{note}"
    if receipt["unpriced"]:
        spent += f"; {receipt['unpriced']} calls have no price: see `gkt prices MODEL`"
    took = f"first word after {seconds(receipt['first_token_s'])}, all after {seconds(receipt['total_s'])}"
    for line in (spent, f"{_baseline(receipt)}{note}", took, f"why: {receipt['why']}{_guidance(receipt['guidance'])}"):
        out.print(_indented(line, 2))


def _stage(stage: Mapping[str, Any]) -> list[Text]:
    usage, mark = stage["usage"], "~" if stage["usage"]["source"] == "estimated" else ""
    read = UNKNOWN if usage["input"] is None else f"{mark}{usage['input']}"
    if usage["cached"]:
        read += f" ({usage['cached']} cached)"
    name = stage["model"] if stage["stand_in"] is None else f"stand-in, priced as if it were {stage['model']}"
    if stage["error"]:
        name += f" - failed: {stage['error']}"
    return [
        Text(f"  {stage['stage']}", style=STYLES[stage["seat"]]),
        Text(name),
        Text(read),
        Text(UNKNOWN if usage["output"] is None else f"{mark}{usage['output']}"),
        Text(money(stage["cost_usd"])),
        Text(seconds(stage["first_token_s"])),
        Text(seconds(stage["total_s"])),
    ]


def _baseline(receipt: Mapping[str, Any]) -> str:
    baseline = receipt["baseline"]
    if baseline is None:
        return "no baseline: this route names no teacher to compare with"
    if baseline["likely_usd"] is None:
        return f"the teacher alone: {UNKNOWN}, it has no price or its tokens are unknown ({baseline['method']})"
    around = f"; {money(baseline['low_usd'])} to {money(baseline['high_usd'])}"
    alone = f"the teacher alone {money(baseline['likely_usd'])} ({baseline['method']}{around})"
    if receipt["saved_usd"] is None:
        return f"{alone}, saved {UNKNOWN}"
    return f"{alone}, saved {money(receipt['saved_usd'])}, {percent(receipt['saved_share'])}"


def _guidance(guidance: Mapping[str, Any] | None) -> str:
    if guidance is None:
        return ""
    told = f"; guidance {guidance['tokens']} of {guidance['budget_tokens']} tokens"
    if guidance["complete"]:
        told += ", and the answer was complete"
    if guidance["wasted"]:
        told += f", wasted: {guidance['wasted']}"
    if guidance["cache"] == "hit":
        told += f", from the cache, for which the teacher would have taken {money(guidance['avoided_usd'])}"
    return told + (", in the student's prompt" if guidance["placement"] == "context" else "")


def sums(out: Console, row: SavingsRow, title: str) -> None:
    """Print one row of savings in full."""
    out.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for name, value, note in _sums(row):
        table.add_row(Text(name), Text(value), Text(note))
    out.print(table)


def _sums(row: SavingsRow) -> Iterator[tuple[str, str, str]]:
    yield "requests", f"{row.requests:,}", ", ".join(f"{count:,} {outcome}" for outcome, count in row.outcomes.items())
    yield "spent", str(row.spent), "all stages, the student's too"
    for stage, amount in row.spent_by_stage.items():
        yield f"  {stage}", str(amount), _shadows(row) if stage == "measurement" else ""
    if row.notional:
        yield "  of it notional", str(row.notional), "not really spent: a stand-in, priced as if it were the teacher"
    if row.bound:
        yield "  of it at its bound", str(row.bound), "the most that calls can have cost which a crash left open"
    if row.corrected:
        yield "  of it corrections", str(row.corrected), "by later prices: `gkt ledger reprice`"
    compared = f"over {row.compared:,} requests that can be compared"
    if row.compared:
        compared += f"; {_known(row.baseline_low)} to {_known(row.baseline_high)}"
    yield "the teacher alone", _known(row.baseline), compared
    for method, amount in row.baseline_by_method.items():
        yield f"  {method}", str(amount), _missed(row) if method == "measured" else ""
    yield "saved", _known(row.saved), "the teacher alone, less what the compared requests cost"
    if row.shadows:
        yield "  after measurement", _known(row.saved_after_measurement), "saved, less what measuring it cost"
    yield (
        "all-in share",
        percent(row.share),
        f"spent / the teacher alone: {row.compared_spent} / {_known(row.baseline)}",
    )
    tokens = f"{row.teacher_output_tokens:,} / {row.baseline_output_tokens:,}"
    yield "the paper's share", percent(row.output_token_share), f"output tokens only: teacher's / baseline's, {tokens}"
    yield "wasted guidance", f"{row.wasted:,}", f"requests whose guidance could not be used: {row.wasted_spent}"
    yield "unpriced", f"{row.unpriced:,}", "requests with a call that has no price; not in `saved`"


def _shadows(row: SavingsRow) -> str:
    """How many answers of the teacher alone were measured, and what became of them."""
    if not row.shadows:
        return ""
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in row.shadows.items())
    unpriced = f"; {row.shadows_unpriced:,} without a price" if row.shadows_unpriced else ""
    return f"shadows: {told}{unpriced}"


def _missed(row: SavingsRow) -> str:
    """How many shadows were drawn and measured nothing; these are no random part of what was drawn."""
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in row.missed.items())
    return f"shadows that measured nothing, and not by chance: {told}" if told else ""


def groups(out: Console, rows: list[SavingsRow], by: str) -> None:
    """Print one line a group; where lines are too short for that, all sums of each group."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(by, overflow="fold")
    measured = ["measurement"] if any(row.shadows for row in rows) else []
    told = ["guidance", "answer", "fallback", *measured]
    for name in ("requests", *told, "teacher alone", "saved", "all-in", "paper's", "wasted", "unpriced", "notional"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        stages = [str(row.spent_by_stage.get(stage, Money.ZERO)) for stage in told]
        shares = [percent(row.share), percent(row.output_token_share)]
        counts = [f"{row.wasted:,}", f"{row.unpriced:,}", str(row.notional)]
        cells = [row.group, f"{row.requests:,}", *stages, _known(row.baseline), _known(row.saved), *shares, *counts]
        table.add_row(*map(Text, cells))
    if out.measure(table, options=out.options.update(width=10_000)).maximum <= out.width:
        out.print(table)
        return
    for row in rows:
        sums(out, row, f"{by} {row.group}")
        out.print()


def _known(amount: Money | None) -> str:
    return UNKNOWN if amount is None else str(amount)
