"""How amounts, shares, times and ranges are said."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard import words
from gateway.dashboard.models import speed
from gateway.dashboard.period import Period, address, buckets, known, moment, parse
from gateway.dashboard.tables import Column, Table
from gateway.dashboard.timeline import timeline
from gateway.errors import BadRequest
from gateway.ledger.entry import Made
from pricing.money import Money

NOW = 1_795_500_000.0
"""2026-11-24, six in the morning."""


@pytest.mark.parametrize("first", [*"=+-@", *"＝＋－＠", "\t", "\r", "\n"])
def test_no_text_of_a_csv_begins_like_a_formula(first: str) -> None:
    (_, line) = csv.reader(io.StringIO(Table("t", "T", [Column("a", "A")], [[f"{first}1+1"]]).csv(), newline=""))
    assert line == [f"'{first}1+1"]
    assert Table("t", "T", [Column("a", "A", "money")], [[Money(-1)]]).csv().splitlines()[1] == "-0.000000001"


@pytest.mark.parametrize(
    ("dollars", "said"),
    [
        ("0", "$0"),
        ("0.000000001", "$0.000000001"),
        ("0.00224009", "$0.00224"),
        ("0.000182849", "$0.0001828"),
        ("0.5", "$0.50"),
        ("-0.5", "-$0.50"),
        ("0.075", "$0.075"),
        ("1.125", "$1.125"),
        ("11.4969123", "$11.50"),
        ("1234567.891234", "$1,234,567.89"),
        ("0.99999999", "$1.00"),
    ],
)
def test_amounts(dollars: str, said: str) -> None:
    assert words.rounded(Money.usd(dollars)) == said


@given(st.integers(-(10**18), 10**18))
def test_an_amount_is_near_and_its_exact_value_beside_it(nano: int) -> None:
    said = words.rounded(Money(nano))
    value = float(said.replace("$", "").replace(",", ""))
    assert value == pytest.approx(nano / 1e9, rel=0.005, abs=1e-9)
    assert f'value="{Money(nano).plain}"' in words.money(Money(nano))


def test_unknown_is_said() -> None:
    for say in (words.money, words.percent, words.seconds, words.count, words.rate, words.moment):
        assert "unknown" in say(None)


def test_units() -> None:
    assert words.seconds(0.25) == "250&nbsp;ms"
    assert words.seconds(61.239) == "61.24&nbsp;s"
    assert words.percent(-0.125) == "-12.5&nbsp;%"
    assert words.count(12_345) == "12,345"
    assert '<time datetime="2026-11-24T06:00:00.000Z">' in words.moment(NOW)
    assert words.some(1, "request") == "1 request"
    assert words.some(0, "request") == "0 requests"


@pytest.mark.parametrize(
    ("said", "since", "until", "step"),
    [
        ({"range": "today"}, NOW - 6 * 3600, None, "hour"),
        ({}, NOW - 6 * 3600 - 6 * 86_400, None, "day"),
        ({"range": "30d"}, NOW - 6 * 3600 - 29 * 86_400, None, "day"),
        ({"range": "all"}, None, None, "day"),
        ({"from": "2026-11-24", "to": "2026-11-24"}, NOW - 6 * 3600, NOW + 18 * 3600, "hour"),
        ({"range": "custom", "to": "2026-11-23"}, None, NOW - 6 * 3600, "day"),
        ({"range": "custom", "from": "2026-11-24"}, NOW - 6 * 3600, None, "day"),
    ],
)
def test_periods(said: dict[str, str], since: float | None, until: float | None, step: str) -> None:
    period = parse(said, NOW)
    assert (period.since, period.until, period.step) == (since, until, step)
    assert parse(period.fields, NOW) == period


def test_days_are_the_viewers() -> None:
    """At six in the morning in UTC it is three in the afternoon in Tokyo and one at night in New York."""
    tokyo = parse({"range": "today", "zone": "Asia/Tokyo"}, NOW)
    assert (tokyo.since, tokyo.title, tokyo.step) == (NOW - 15 * 3_600, "today, Asia/Tokyo", "hour")
    york = parse({"from": "2026-11-01", "to": "2026-11-01", "zone": "America/New_York"}, NOW)
    assert york.since is not None
    assert york.until is not None
    assert york.until - york.since == 25 * 3_600, "the clocks were changed"
    assert york.step == "hour"
    assert parse({**york.fields, "zone": york.zone}, NOW) == york


@pytest.mark.parametrize(
    ("said", "days"),
    [
        ({"range": "7d", "zone": "Asia/Tokyo"}, "Asia/Tokyo"),
        ({"range": "30d", "zone": "Europe/Berlin"}, "Europe/Berlin"),
        ({"from": "2026-11-20", "zone": "Asia/Tokyo"}, "Asia/Tokyo"),
        ({"from": "2026-01-20", "zone": "Asia/Tokyo"}, "UTC"),  # more hours than a page adds up
        ({"range": "all", "zone": "Asia/Tokyo"}, "UTC"),
        ({"range": "7d", "zone": "Asia/Kolkata"}, "UTC"),  # its midnight is within an hour of UTC
        ({"range": "7d"}, "UTC"),
    ],
)
def test_whose_days_a_chart_has(said: dict[str, str], days: str) -> None:
    assert parse(said, NOW).days(NOW) == days


@pytest.mark.parametrize(
    "zone", ["", "Nowhere/At_All", "../../etc/passwd", "/etc/passwd", "Europe", "x" * 5_000, "\0", "ä"]
)
def test_a_zone_that_there_is_not_is_utc(zone: str) -> None:
    assert known(zone).key == "UTC"
    assert parse({"range": "today", "zone": zone}, NOW) == parse({"range": "today"}, NOW)


@pytest.mark.parametrize("said", [{"range": "x"}, {"from": "24.11.2026"}, {"from": "2026-11-25", "to": "2026-11-24"}])
def test_a_period_that_there_is_not(said: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        parse(said, NOW)


def test_buckets_are_named_as_the_ledger_names_its_groups() -> None:
    assert list(buckets("hour", NOW - 1, NOW + 1)) == ["2026-11-24T05:00Z", "2026-11-24T06:00Z"]
    assert list(buckets("day", NOW - 86_400, NOW)) == ["2026-11-23", "2026-11-24"]
    assert moment("2026-11-24T06:00Z") == NOW
    assert Period("all").title == "all time"


def test_an_address_says_what_is_said() -> None:
    assert address("/x") == "/x"
    assert address("/x", {"a": "1", "b": ""}, {"a": None, "c": "ä&"}) == "/x?c=%C3%A4%26"


@given(st.lists(st.tuples(st.text(), st.integers(-(10**15), 10**15)), max_size=5))
def test_csv_is_read_as_it_was_meant(rows: list[tuple[str, int]]) -> None:
    import csv
    import io

    table = Table("t", "", (Column("name", ""), Column("usd", "", "money")), [(name, Money(n)) for name, n in rows])
    read = list(csv.reader(io.StringIO(table.csv(), newline="")))
    assert read[0] == ["name", "usd"]
    for (name, nano), (told, amount) in zip(rows, read[1:], strict=True):
        assert told in (name, f"'{name}")
        assert not told.startswith(("=", "+", "-", "@"))
        assert Money.usd(amount).nano == nano


def call(**rest: Any) -> dict[str, Any]:
    usual = {"stage": "answer", "seat": "student", "upstream": "s", "started": NOW, "first_token": 0.5, "duration": 2.0}
    return {**usual, "usage": {"output": 100}, "error": None, "cut": False, "amount": 3, **rest}


PLAIN = {"guidance_cache": None, "teacher": "t"}


def test_a_time_line() -> None:
    calls = [call(stage="guidance"), call(started=NOW + 2.0, first_token=None, duration=None)]
    line = timeline({"at": NOW, "duration": 4.0, "calls": calls, **PLAIN})
    assert line is not None
    first, second = line.bars
    assert (first.begin, first.wait, first.speech) == (0.0, 12.5, 37.5)
    assert (second.begin, second.wait, second.speech, second.ended) == (50.0, 0.0, None, None)
    assert [tick.seconds for tick in line.ticks] == [0, 1, 2, 3, 4]
    assert "guidance by s: asked at 0.00 s, first word at 0.50 s, ended at 2.00 s" in line.summary
    assert timeline({"at": NOW, "duration": None, "calls": [], **PLAIN}) is None


def test_a_time_line_of_guidance_from_the_cache() -> None:
    hit = {"at": NOW, "duration": 4.0, "guidance_cache": "hit", "teacher": "t"}
    line = timeline({**hit, "calls": [call(started=NOW + 1.0)]})
    assert line is not None
    assert [(bar.stage, bar.upstream, bar.cached) for bar in line.bars] == [
        ("guidance", "t", True),
        ("answer", "s", False),
    ]
    assert line.summary.startswith("guidance by t: from the cache, at once; answer by s: asked at 1.00 s")
    whole = timeline({**hit, "calls": []})
    assert whole is not None
    assert [bar.cached for bar in whole.bars] == [True]
    assert timeline({**hit, "duration": None, "calls": []}) is None
    stored = timeline({**hit, "guidance_cache": "stored", "calls": [call()]})
    assert stored is not None
    assert [bar.cached for bar in stored.bars] == [False]


@given(st.floats(1e-4, 1e5))
def test_a_time_line_has_few_round_marks(whole: float) -> None:
    line = timeline({"at": NOW, "duration": whole, "calls": [call(first_token=0.0, duration=whole)], **PLAIN})
    assert line is not None
    assert 3 <= len(line.ticks) <= 7
    assert all(0 <= tick.place <= 100.0001 for tick in line.ticks)


def test_a_clock_that_was_set_back() -> None:
    line = timeline({"at": NOW, "duration": 2.0, "calls": [call(started=NOW - 60)], **PLAIN})
    assert line is not None
    assert line.bars[0].begin == 0.0


def test_speed_of_what_is_known() -> None:
    made = [
        Made("r", "s", 100, 0.5, 2.0, None, False, 3),
        Made("r", "s", 100, 1.5, 2.0, None, False, 3),
        Made("r", "s", None, None, 1.0, "TimedOut", False, 3),
    ]
    found = speed(made)
    assert (found.calls, found.failed, found.output, found.spent) == (3, 1, 200, Money(9))
    assert found.rate == 50.0
    assert found.first_median == 1.0
    assert found.first_p95 == pytest.approx(1.45)
    nothing = speed([])
    assert (nothing.calls, nothing.rate, nothing.first_median, nothing.first_p95) == (0, None, None, None)
