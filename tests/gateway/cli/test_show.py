"""Who wrote what, and amounts that stay exact."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gateway.cli import show
from gateway.ledger.entry import SavingsRow
from pricing.money import Money


def stage(name: str, seat: str, *, error: str | None = None, stand_in: str | None = None) -> dict[str, Any]:
    return {"stage": name, "seat": seat, "model": f"{seat}-model", "stand_in": stand_in, "error": error}


def receipt(*stages: dict[str, Any], chars: int | None = None, strategy: str = "cut-off") -> dict[str, Any]:
    return {"stages": stages, "guidance": None if chars is None else {"text_chars": chars}, "strategy": strategy}


def drafted(given: bool) -> dict[str, Any]:
    """What a cascade of one draft tells, in which the teacher was asked too."""
    told = receipt(stage("answer", "student"), stage("answer", "teacher"), strategy="cascade")
    return {**told, "drafts": [{"student": "llama-8b", "choice": 0, "given": given}]}


GUIDANCE, ANSWER = stage("guidance", "teacher"), stage("answer", "student")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (receipt(GUIDANCE, ANSWER, chars=3), [("teacher", "The"), ("student", " sky is blue")]),
        (receipt(GUIDANCE, ANSWER, chars=0), [("student", "The sky is blue")]),
        (receipt(GUIDANCE, chars=15), [("teacher", "The sky is blue")]),
        # The student failed before its first word, and the teacher completed.
        (
            receipt(GUIDANCE, stage("answer", "student", error="TimedOut"), stage("fallback", "teacher"), chars=3),
            [("teacher", "The sky is blue")],
        ),
        # The teacher failed, and the student answered alone.
        (
            receipt(stage("guidance", "teacher", error="Unavailable"), stage("fallback", "student"), chars=0),
            [("student", "The sky is blue")],
        ),
        (receipt(stage("answer", "teacher"), strategy="teacher"), [("teacher", "The sky is blue")]),
        (receipt(stage("answer", "student"), strategy="student"), [("student", "The sky is blue")]),
        # A cascade's teacher was asked last, and an earlier draft was given; or the teacher's answer was.
        (drafted(True), [("student", "The sky is blue")]),
        (drafted(False), [("teacher", "The sky is blue")]),
    ],
)
def test_who_wrote_what(given: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert show.pieces(given, "The sky is blue") == expected


def test_nothing_was_written_by_nobody() -> None:
    assert show.pieces(receipt(GUIDANCE, ANSWER, chars=0), "") == []


def test_a_stand_in_is_named_with_what_it_is_priced_as() -> None:
    given = receipt(stage("guidance", "teacher", stand_in="student"), ANSWER, chars=3)
    assert show.stand_in(given) == "stand-in, priced as if it were teacher-model"
    assert show.author(given, "teacher") == show.stand_in(given)
    assert show.author(given, "student") == "student-model"
    assert show.stand_in(receipt(GUIDANCE, ANSWER, chars=3)) == ""
    assert show.author(drafted(True), "student") == "llama-8b"
    assert show.author(drafted(False), "teacher") == "teacher-model"


def test_words_from_the_cache_are_not_said_to_be_a_models_of_now() -> None:
    given = receipt(ANSWER, chars=3)
    given["guidance"]["cache"] = "hit"
    assert show.pieces(given, "The sky is blue") == [("teacher", "The"), ("student", " sky is blue")]
    assert show.author(given, "teacher") == "kept from an earlier request"


def test_markup_in_an_answer_is_text() -> None:
    out = Console(file=io.StringIO(), width=80)
    show.answer(out, receipt(GUIDANCE, ANSWER, chars=6), "[bold]x[/bold] [/nonsense]")
    assert isinstance(out.file, io.StringIO)
    assert "[bold]" in out.file.getvalue()
    assert "x[/bold] [/nonsense]" in out.file.getvalue()


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [("0.000312", "$0.000312"), ("-0.000000001", "-$0.000000001"), ("0", "$0"), ("12.50", "$12.5"), (None, "unknown")],
)
def test_money_is_exact(dollars: str | None, shown: str) -> None:
    assert show.money(dollars) == shown


def row(**changed: Any) -> SavingsRow:
    values: dict[str, Any] = {
        "group": "2026-11-24",
        "requests": 1_234_567,
        "outcomes": {"ok": 1_234_567},
        "spent": Money(312_000),
        "spent_by_stage": {"guidance": Money(300_000), "answer": Money(12_000), "fallback": Money.ZERO},
        "baseline_by_method": {"same_length": Money(100_000)},
        "baseline_low": Money(50_000),
        "baseline": Money(100_000),
        "baseline_high": Money(200_000),
        "compared": 3,
        "compared_spent": Money(312_000),
        "saved": Money(-212_000),
        "share": 3.12,
        "wasted": 0,
        "wasted_spent": Money.ZERO,
        "unpriced": 2,
        "notional": Money(300_000),
        "bound": Money(7),
        "teacher_output_tokens": 40,
        "baseline_output_tokens": 77,
        "output_token_share": 40 / 77,
    }
    return SavingsRow(**{**values, **changed})


def printed(width: int, *rows: SavingsRow) -> str:
    out = Console(file=io.StringIO(), width=width)
    show.groups(out, list(rows), "day")
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_a_line_a_group_where_it_fits_and_never_half_a_number() -> None:
    wide = printed(160, row())
    assert "-$0.000212" in wide
    assert "1,234,567" in wide
    assert len(wide.splitlines()) == 2
    narrow = printed(60, row())
    assert "-$0.000212" in narrow
    assert "day 2026-11-24" in narrow
    assert "…" not in wide + narrow


def test_measurement_is_a_column_where_there_is_any() -> None:
    stages = {"guidance": Money(3), "answer": Money(4), "fallback": Money.ZERO, "measurement": Money(56_000)}
    header, *lines = printed(200, row(), row(spent_by_stage=stages, shadows={"ok": 1})).splitlines()
    assert "measurement" in header
    assert ["$0.000056" in line for line in lines] == [False, True]
    assert "measurement" not in printed(200, row())


def test_sums_name_what_measuring_cost() -> None:
    stages = {"guidance": Money(300_000), "answer": Money(12_000), "fallback": Money.ZERO, "measurement": Money(56_000)}
    out = Console(file=io.StringIO(), width=120)
    shadows = {"failed": 2, "ok": 5}
    show.sums(out, row(spent_by_stage=stages, shadows=shadows, shadows_unpriced=1, saved=Money(100_000)), "All")
    assert isinstance(out.file, io.StringIO)
    said = out.file.getvalue()
    for words in ("$0.000056", "shadows: 2 failed, 5 ok; 1 without a price", "after measurement", "$0.000044"):
        assert words in said


def test_what_shadows_missed_stands_beside_what_they_measured() -> None:
    def told(shadows: dict[str, int]) -> str:
        out = Console(file=io.StringIO(), width=160)
        show.sums(out, row(baseline_by_method={"measured": Money(56_000)}, shadows=shadows), "All")
        assert isinstance(out.file, io.StringIO)
        return next(line for line in out.file.getvalue().splitlines() if line.startswith("  measured"))

    assert "measured nothing, and not by chance: 1 failed, 3 skipped" in told({"failed": 1, "ok": 9, "skipped": 3})
    assert "not by chance" not in told({"ok": 9})


def test_sums_name_both_measures_the_stand_in_and_what_is_unknown() -> None:
    out = Console(file=io.StringIO(), width=120)
    show.sums(out, row(baseline=None, baseline_low=None, baseline_high=None, saved=None, share=None, compared=0), "All")
    assert isinstance(out.file, io.StringIO)
    said = out.file.getvalue()
    for words in (
        "all-in share",
        "the paper's share",
        "51.9 %",
        "of it notional",
        "$0.0003",
        "at its bound",
        "unknown",
    ):
        assert words in said
    assert "None" not in said
