"""Requests that teacher and student answered, and the teacher's own answers to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.chat import Call, Outcome, Seat, Stage
from gateway.ledger.basis import Basis, Unasked
from gateway.ledger.entry import Entry, shadow_id
from pricing.baseline import Baseline, same_length
from pricing.bill import line
from pricing.book import Price
from pricing.money import Money
from pricing.usage import Usage

NOON = 1_800_000_000.0
SOL = Price("sol", "config", input=Money.usd(2), output=Money.usd(10), row="sol: 2/10")
DEARER = Price("sol", "config", input=Money.usd(4), output=Money.usd(20), row="sol: 4/20")
SMALL = Price("small", "config", input=Money.usd("0.01"), output=Money.usd("0.08"), row="small")
GUESS = Baseline("same_length", Money(500), Money(1_000), Money(2_000), 100)


def call(request_id: str, number: int, stage: Stage, seat: Seat, output: int, price: Price | None) -> Call:
    model = "sol" if seat == "teacher" else "small"
    made = Call(f"{request_id}/{number}", request_id, stage, seat, seat, model, None, NOON + number, Money(900))
    made.asked, made.route, made.strategy, made.caller = "gkt", "gkt", "cut-off", "alice"
    made.usage = Usage(100, output)
    made.line = line(stage, model, made.usage, price)
    return made


def served(request_id: str, shown: int = 80, **rest: Any) -> Entry:
    """A request that teacher and student answered."""
    made = [
        call(request_id, 0, "guidance", "teacher", 40, SOL),
        call(request_id, 1, "answer", "student", shown - 40, SMALL),
    ]
    told: dict[str, Any] = {
        "baseline": GUESS,
        "teacher_tokens": 40,
        "visible_input": 100,
        "visible_output": shown,
        "propensity": 0.9,
        "shadow_propensity": 0.5,
        "teacher": "teacher",
        "outcome": "ok",
        "calls": made,
    }
    return Entry(request_id, NOON, "gkt", "gkt", "cut-off", "why", "alice", stream=True, **{**told, **rest})


def shadow(of: Entry, output: int = 120, *, price: Price | None = SOL, outcome: Outcome = "ok") -> Entry:
    """The teacher's own answer to it, a second later."""
    name = shadow_id(of.request_id)
    made = [call(name, 0, "measurement", "teacher", output, price)]
    return replace(
        of,
        request_id=name,
        at=of.at + 1,
        why="shadow",
        outcome=outcome,
        calls=made,
        baseline=None,
        wasted=None,
        propensity=1.0,
        shadow_propensity=None,
        shadow_of=of.request_id,
        teacher_tokens=output,
        visible_output=output,
        duration=2.0,
    )


def reckoned(shown: int = 80, price: Price | None = SOL) -> dict[str, Any]:
    """The baseline of a request that was shown so many tokens, and what it is the price of."""
    guess = same_length(price, input_tokens=100, output_tokens=shown)
    assert guess.usages
    return {"baseline": guess, "baseline_of": Basis((), Unasked("sol", (None,), NOON, guess.usages))}


def cost(output: int, price: Price = SOL) -> Money:
    found = price.cost(Usage(100, output))
    assert found is not None
    return found
