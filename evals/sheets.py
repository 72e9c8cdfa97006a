"""Sheets: the tables of a summary as texts, made once and shown at a terminal, in Markdown and in HTML.

Unknown is said, never 0; an en dash stands where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.results import Cell
from evals.summary import Group, Row, Summary
from gateway.dashboard.words import rounded
from pricing.intervals import Interval
from pricing.money import Money

UNKNOWN = "unknown"
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: `heads` of the columns, `rows` as long as these. The first column is text, the others are numbers."""

    id: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """The sheets of one group, under its name. `warnings` is what a reader must know before the numbers."""

    name: str
    sheets: Sequence[Sheet]
    warnings: Sequence[str] = ()


def parts(summary: Summary) -> list[Part]:
    """All sheets of a summary that have rows."""
    return [
        Part(
            group.name,
            [sheet for make in (_paper, _dollars, _evidence, _floors) if (sheet := make(group, number)).rows],
            _warnings(group),
        )
        for number, group in enumerate(summary.groups)
    ]


def arm(cell: Cell) -> str:
    """What a cell is called within its group."""
    tokens = "" if cell.guidance_tokens is None else f" {cell.guidance_tokens}"
    name = {
        "teacher": "teacher",
        "teacher-concise": "teacher, asked to be concise",
        "student": "student",
        "cut-text": f"teacher's text cut at{tokens}, alone",
        "cascade": f"cascade{tokens}",
    }.get(cell.strategy, f"{cell.strategy}{tokens}")
    return name if cell.concurrency == 1 else f"{name}, batch {cell.concurrency}"


def markdown(summary: Summary) -> str:
    """The whole report in Markdown."""
    lines = [f"# {_escaped(summary.run.name)}", "", *(f"- {_escaped(note)}" for note in head(summary)), ""]
    for part in parts(summary):
        lines += [f"## {_escaped(part.name)}", ""]
        lines += [line for warning in part.warnings for line in (f"> {_escaped(warning)}", "")]
        for sheet in part.sheets:
            lines += [
                f"**{sheet.caption}**",
                "",
                _line(sheet.heads),
                _line(["---", *["---:"] * (len(sheet.heads) - 1)]),
            ]
            lines += [_line(map(_escaped, row)) for row in sheet.rows]
            lines += ["", *((_escaped(sheet.note), "") if sheet.note else ())]
    return "\n".join(lines).rstrip() + "\n"


def show(summary: Summary, out: Console) -> None:
    """The whole report at a terminal."""
    out.print(Text(summary.run.name, style="bold"))
    for note in head(summary):
        out.print(Text(f"  {note}"))
    for part in parts(summary):
        out.print(Text(f"\n{part.name}", style="bold"))
        for warning in part.warnings:
            out.print(Text(f"! {warning}", style="yellow"))
        for sheet in part.sheets:
            out.print(Text(f"\n{sheet.caption}", style="italic"))
            table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
            table.add_column(sheet.heads[0], overflow="fold")
            for title in sheet.heads[1:]:
                table.add_column(title, justify="right", overflow="fold")
            for row in sheet.rows:
                # An interval stands below its value: side by side, the columns are wider than most terminals.
                table.add_row(*(Text(value.replace(" (", "\n(")) for value in row))
            out.print(table)
            if sheet.note:
                out.print(Text(f"  {sheet.note}", style="dim"))


def plain(summary: Summary, width: int = 160) -> str:
    """The same as text, for a file."""
    file = StringIO()
    show(summary, Console(file=file, width=width, highlight=False))
    return file.getvalue()


def head(summary: Summary) -> list[str]:
    """What was run, in a few lines: tasks, prices, seed, and the run's own notes."""
    run = summary.run
    tasks = [f"{name}: {_told(facts)}" for name, facts in run.tasks.items()]
    prices = [
        f"{model}: {', '.join(f'{way} ${amount}' for way, amount in price.items()) or 'price unknown'}"
        for model, price in run.prices.items()
    ]
    told = [f"Tasks: {'; '.join(tasks)}"] if tasks else []
    told += [f"Dollars per million tokens: {'; '.join(prices)}"] if prices else []
    return [*told, f"Seed {run.seed}, gkt-gateway {run.version}", *run.notes]


def percent(share: float | None) -> str:
    """A share of one."""
    return UNKNOWN if share is None else f"{share * 100:.1f} %"


def points(difference: float | None) -> str:
    """A difference of two shares, in points."""
    return UNKNOWN if difference is None else f"{difference * 100:+.1f}"


def within(value: str, ends: Interval | None, form: Callable[[float], str]) -> str:
    """A value with its 95 % interval."""
    return value if ends is None or value == UNKNOWN else f"{value} ({form(ends.low)} to {form(ends.high)})"


def money(nano: float | None) -> str:
    """Nano-dollars; below a tenth of a nano-dollar it says so."""
    if nano is None:
        return UNKNOWN
    return "below $0.000000001" if 0 < nano < 0.5 else rounded(Money(round(nano)))


def seconds(value: float | None) -> str:
    """Seconds with three digits."""
    return UNKNOWN if value is None else f"{value:.3g} s"


def _paper(group: Group, number: int) -> Sheet:
    heads = [
        "arm",
        "tokens, teacher",
        "tokens, student",
        "ACC teacher",
        "ACC (95 %)",
        "Δ teacher",
        "Δ student",
        "Δ its text",
    ]
    heads += ["time", "time / question", "speed-up, same batch", "speed-up, batch 1"]
    rows = [
        [
            arm(row.cell),
            _count(row.teacher_tokens),
            _count(row.student_tokens),
            percent(row.teacher_accuracy),
            within(percent(row.accuracy), row.accuracy_interval, _percent),
            _own(row, "teacher", lambda row: points(_difference(row))),
            _own(row, "student", lambda row: points(row.over_student)),
            within(points(row.over_text), row.over_text_interval, points)
            if row.cell.strategy == "cut-off"
            else NOTHING,
            seconds(row.seconds),
            seconds(row.each),
            _own(row, "teacher", lambda row: _times(row.faster)),
            _times(row.faster_than_single),
        ]
        for row in group.rows
    ]
    single = [row.cell.name for row in group.rows if row.cell.strategy == "teacher" and row.cell.concurrency == 1]
    named = f"{single[0]}, the paper's baseline" if single else "the teacher one question at a time was not run"
    note = (
        "Δ in points of accuracy; its text: the teacher's words that it begins with, alone. Time: of one answer, under "
        "the load of its batch; time / question: that over the "
        f"questions under way at once. Speed-ups compare times per question; batch 1: {named}."
    )
    return Sheet(f"paper-{number}", "As in the paper's tables", heads, rows, note)


def _dollars(group: Group, number: int) -> Sheet:
    heads = ["arm", "$ / 1,000 answers", "cost share (95 %)", "baseline", "retention (95 %)", "PGR"]
    heads += ["random mix, same $", "lift", "$ / correct"]
    rows = [
        [
            arm(row.cell),
            money(None if row.dollars is None else row.dollars * 1000),
            within(percent(row.comparison.cost_share), row.comparison.cost_share_interval, _percent)
            if row.comparison
            else UNKNOWN,
            row.baseline or UNKNOWN,
            within(_three(row.comparison.retention), row.comparison.retention_interval, _three)
            if row.comparison
            else UNKNOWN,
            _ends(row, lambda row: _within(row.over_student, row.recovered, "{:.2f}".format)),
            _ends(row, lambda row: _within(row.floor, row.mixed, percent)),
            _ends(row, lambda row: _within(row.floor, row.lift, points)),
            _correct(row),
        ]
        for row in group.rows
    ]
    note = (
        "All-in: every stage's input and output tokens, the student's too. Cost share and retention are over the "
        "questions that the teacher was asked too (measured); receipts: the gateway's own estimate of the teacher. "
        "PGR is not told where the teacher is not two standard errors ahead of the student; no random mix costs less "
        "than the student alone."
    )
    return Sheet(f"dollars-{number}", "All-in dollars and what they keep", heads, rows, note)


def _evidence(group: Group, number: int) -> Sheet:
    heads = ["arm", "answers", "unscored", "failed", "paired", "lost", "won", "McNemar p"]
    heads += ["difference, points (95 %)", "not worse by 1 point", "spent"]
    rows = []
    for row in group.rows:
        test, claim = row.test, row.non_inferior
        absent = NOTHING if row.cell.strategy == "teacher" else UNKNOWN
        rows.append(
            [
                arm(row.cell),
                *(f"{count:,}" for count in (row.asked, row.unscored, row.failed, row.paired)),
                *((f"{test.c}", f"{test.b}", f"{test.p:.2g}") if test else (absent, absent, absent)),
                within(points(claim.difference), claim.interval, points) if claim else absent,
                ("yes" if claim.holds else "not shown") if claim else absent,
                f"≤ {money(row.spent)}" if row.bounded and row.spent is not None else money(row.spent),
            ]
        )
    note = (
        "lost: the teacher alone was right; won: this arm alone was. Unscored answers are in no accuracy, and their "
        "cost is in what was spent. Not worse: the whole 95 % interval of the difference is above -1 point."
    )
    if any(row.bounded for row in group.rows):
        note += (
            " ≤: requests failed after a model may have been asked; they are counted at the most that they can have "
            "cost, also in the dollars of an answer."
        )
    return Sheet(f"evidence-{number}", "Evidence", heads, rows, note)


def _floors(group: Group, number: int) -> Sheet:
    heads = ["arm", "retention", "cost share", "random mixing", "oracle", "gap closed"]
    rows = []
    for row in group.rows:
        if row.floor is None or row.comparison is None:
            continue
        least = ["never" if share is None else percent(share) for share in (row.floor.random, row.floor.oracle)]
        closed = NOTHING if row.floor.closed is None else percent(row.floor.closed)
        rows.append(
            [arm(row.cell), _three(row.comparison.retention), percent(row.comparison.cost_share), *least, closed]
        )
    reach = "" if group.aiq is None else f" AIQ between the student's cost and the teacher's: {percent(group.aiq)}."
    note = (
        "Cost shares at the arm's own retention: by mixing student and teacher at random, and by an oracle that knows "
        f"both scores and picks one of the two for each question.{reach}"
    )
    return Sheet(f"floors-{number}", "The same accuracy otherwise", heads, rows, note)


def _warnings(group: Group) -> list[str]:
    told = []
    if not any(row.cell.strategy == "teacher" and row.asked for row in group.rows):
        told.append("The teacher alone was not run: nothing that is relative to it is known.")
    if not any(row.cell.strategy == "student" and row.asked for row in group.rows):
        told.append("The student alone was not run: recovered gap, random mixing and oracle are not known.")
    waiting = [arm(row.cell) for row in group.rows if not row.asked]
    if waiting:
        told.append(f"Without any answer yet: {', '.join(waiting)}.")
    sizes = {row.asked for row in group.rows if row.asked}
    if len(sizes) > 1:
        told.append(
            f"Arms have different numbers of answers, {min(sizes):,} to {max(sizes):,}: compare the paired ones."
        )
    return told


def _told(facts: dict[str, object]) -> str:
    return ", ".join(f"{key} {str(value)[:12] if key == 'sha256' else value}" for key, value in facts.items())


def _difference(row: Row) -> float | None:
    return row.comparison.difference if row.comparison and row.paired else None


def _own(row: Row, who: str, form: Callable[[Row], str]) -> str:
    """Nothing to tell of a model beside itself."""
    return NOTHING if row.cell.strategy == who else form(row)


def _ends(row: Row, form: Callable[[Row], str]) -> str:
    return NOTHING if row.cell.strategy in ("teacher", "student") else form(row)


def _within(needs: object, value: float | None, form: Callable[[float], str]) -> str:
    """Unknown where what it is made of is; nothing to tell where that is known and makes none."""
    if value is not None:
        return form(value)
    return UNKNOWN if needs is None else NOTHING


def _correct(row: Row) -> str:
    none_right = row.accuracy == 0 and row.spent is not None
    return "none correct" if none_right else money(row.per_correct)


def _percent(share: float) -> str:
    return f"{share * 100:.1f}"


def _three(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def _times(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}×"


def _line(cells: Sequence[str] | map[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """As Markdown shows it character by character, on one line."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
