"""Basis: what a baseline was reckoned from, kept beside it so that it can be reckoned again by other prices.

A baseline is the price of something: of calls that were made, or of an answer that the teacher did not give, or gave
once and was kept since. Without knowing of what, its amount could only be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.chat import Call
from pricing.baseline import Usages
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage

Quote = Callable[[str, str, str | None, float, int | None], Price | None]
"""The price of: an upstream, its model, the tier it named, the moment, the tokens of the prompt."""

Row = Mapping[Any, Any]
Range = tuple[int | None, int | None, int | None]
"""Low, likely and high, in nano-dollars; None: unknown."""

COUNTS = ("input", "output", "cached", "cache_write", "seconds")
"""What of a usage is paid for."""


@dataclass(frozen=True, slots=True)
class Unasked:
    """An answer that no call of the request gave: of which model, in which tier and when, and what it would use.

    `tiers`: the first of them that has a price; a tier that was asked for may have been passed over.
    """

    model: str
    tiers: Sequence[str | None]
    at: float
    usages: Usages

    def price(self, quote: Quote, upstream: str) -> Price | None:
        """What `quote` takes for it; None: there is no price."""
        found = (quote(upstream, self.model, tier, self.at, self.usages[1].input) for tier in self.tiers)
        return next((price for price in found if price is not None), None)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a baseline is the price of: the request's own `calls` (their ids), an answer that was not asked, or both.

    Neither: nothing, and then it is $0 whatever prices are.
    """

    calls: Sequence[str] = ()
    unasked: Unasked | None = None

    @classmethod
    def bill(cls, calls: Sequence[Call], recalled: Call | None) -> Basis | None:
        """That of a measured baseline: `calls`, of which `recalled` was made for an earlier request, and kept.

        None: it is not known what that one used.
        """
        made = [call.id for call in calls if call is not recalled]
        if recalled is None or len(made) == len(calls):
            return cls(made)
        usage = recalled.usage
        if usage is None:
            return None
        return cls(made, Unasked(recalled.model, (recalled.tier,), recalled.started, (usage, usage, usage)))

    def amounts(self, price: Price | None, costs: Mapping[str, int | None]) -> Range:
        """The baseline where the answer has this price, and the calls cost so many nano-dollars."""
        paid = [costs.get(call) for call in self.calls]
        of_calls = None if None in paid else sum(each for each in paid if each is not None)
        if self.unasked is None:
            return of_calls, of_calls, of_calls
        low, likely, high = (_plus(of_calls, price.cost(usage) if price else None) for usage in self.unasked.usages)
        return low, likely, high

    def dumps(self) -> str:
        """As JSON, for the ledger."""
        told: dict[str, Any] = {}
        if self.calls:
            told["calls"] = self.calls
        if self.unasked is not None:
            usages = [[getattr(usage, name) for name in COUNTS] for usage in self.unasked.usages]
            told |= {"model": self.unasked.model, "tiers": self.unasked.tiers, "at": self.unasked.at, "usages": usages}
        return orjson.dumps(told).decode()


def loads(text: str) -> Basis:
    """What `Basis.dumps` wrote."""
    told = orjson.loads(text)
    if "usages" not in told:
        return Basis(told.get("calls", ()))
    low, likely, high = (Usage(**dict(zip(COUNTS, each, strict=True))) for each in told["usages"])
    return Basis(told.get("calls", ()), Unasked(told["model"], told["tiers"], told["at"], (low, likely, high)))


def tried(entry: Row, of_entry: Sequence[Row], quote: Quote) -> Basis | None:
    """The basis of an entry that was written before it was kept, where what was booked bears it out; else None.

    Its calls tell of what it may have been the price of. It is believed where the price of that time makes of it to
    the nano-dollar what was booked; without a call to the teacher, where the price of now does, and then it has not
    changed.
    """
    booked: Range = (entry["baseline_low"], entry["baseline_likely"], entry["baseline_high"])
    if entry["baseline_method"] == "measured":
        return _bill(entry, of_entry, booked)
    if entry["outcome"] != "ok" and not entry["visible_output"] and booked == (0, 0, 0):
        return Basis()
    asked = next((call for call in of_entry if call["seat"] == "teacher"), None)
    if asked is None:
        tier, model, usage = None, entry["model"], Usage()
        price = quote(entry["teacher"] or "", model, tier, entry["at"], entry["visible_input"])
    else:
        tier, model, usage = asked["tier"], asked["model"], _credited(asked, entry["visible_input"])
        price = None if asked["price"] is None else _price(asked["price"])
    usages = None if price is None else _usages(price, booked, entry, usage)
    return None if usages is None else Basis((), Unasked(model, (tier,), entry["at"], usages))


def _bill(entry: Row, of_entry: Sequence[Row], booked: Range) -> Basis | None:
    """Calls that came to what was booked: all that were known then, of a cascade the teacher's."""
    known = [call for call in of_entry if not call["is_bound"] and not call["is_open"]]
    teachers = [call for call in known if call["seat"] == "teacher"]
    answers = [call for call in teachers if call["stage"] == "answer"]
    for calls in (answers, teachers) if entry["strategy"] == "cascade" else (known,):
        basis = Basis([call["id"] for call in calls])
        if calls and basis.amounts(None, {call["id"]: call["amount"] for call in calls}) == booked:
            return basis
    return None


def _credited(asked: Row, size: int | None) -> Usage:
    """The parts of the client's own prompt that the teacher's call had cached, and wrote to the cache."""
    cached = asked["cached"] if size is None or asked["cached"] is None else min(asked["cached"], size)
    rest = None if size is None else size - (cached or 0)
    written = asked["cache_write"] if rest is None or asked["cache_write"] is None else min(asked["cache_write"], rest)
    return Usage(cached=cached, cache_write=written)


def _usages(price: Price, booked: Range, entry: Row, parts: Usage) -> Usages | None:
    """What costs at `price` what was booked; None: the likely answer does not, or no whole number of tokens does."""
    size, tokens, rate = entry["visible_input"], entry["baseline_tokens"], price.output
    if size is None or tokens is None or not rate:
        return None
    likely = booked[1]
    found: list[Usage] = []
    for amount in booked:
        if amount is None or likely is None:
            return None
        usage = Usage(size, tokens + round((amount - likely) * 1_000_000 / rate.nano), parts.cached, parts.cache_write)
        if price.cost(usage) != Money(amount):
            return None
        found.append(usage)
    return found[0], found[1], found[2]


def _price(text: str) -> Price:
    """The price of a call, as the ledger keeps it."""
    told = orjson.loads(text)
    read, written, cached, cache_write, per_hour = (
        None if told[name] is None else Money(told[name])
        for name in ("input", "output", "cached", "cache_write", "per_hour")
    )
    return Price(told["model"], told["source"], read, written, cached, cache_write, per_hour, told["row"])


def _plus(one: int | None, other: Money | None) -> int | None:
    return None if one is None or other is None else one + other.nano
