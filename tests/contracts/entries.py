"""Calls and entries to put on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.chat import Call, Seat, Stage
from gateway.ledger.entry import Entry
from pricing.bill import Line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

NOON = 1_800_000_000.0
DAY = 86_400.0
PRICE = Price("gpt-6-sol", "config", input=Money.usd(2), output=Money.usd(10), row="gpt-6-sol: 2/10")


def call(request_id: str, number: int = 1, stage: Stage = "guidance", seat: Seat = "teacher") -> Call:
    return Call(f"call-{number}", request_id, stage, seat, "openai", "gpt-6-sol", None, NOON + number, Money(900))


def billed(of: Call, amount: int | None, *, notional: bool = False) -> Call:
    of.usage = Usage(312, 40, cached=256, reasoning=0, seconds=0.25, source="counted")
    money = None if amount is None else Money(amount)
    of.line = Line(of.stage, of.model, of.usage, PRICE if money else None, money, notional)
    return of


def entry(request_id: str, calls: Sequence[Call], **rest: Any) -> Entry:
    told: dict[str, Any] = {
        "at": NOON,
        "model": "gpt-6-sol",
        "route": "*",
        "strategy": "cut-off",
        "why": "route *",
        "caller": "alice",
        "outcome": "ok",
        "stream": True,
        "baseline": None,
    }
    return Entry(request_id, calls=calls, **{**told, **rest})


def pair(request_id: str, guidance: int | None = 1_024, answer: int | None = 31) -> list[Call]:
    return [
        billed(call(request_id, 1), guidance),
        billed(call(request_id, 2, "answer", "student"), answer),
    ]
