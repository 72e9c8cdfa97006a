"""Words: amounts, shares, times and counts as a page says them, each with its unit. Unknown is said, never 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from markupsafe import Markup

from gateway.dashboard.tables import NONE, instant
from pricing.money import NANO, Money

UNKNOWN = Markup('<span class="unknown">unknown</span>')
DIGITS = 4
"""Significant digits of an amount below a dollar; from there on, whole cents."""

SHORT = 4
"""Decimals up to which an amount is not rounded: prices stand as they are."""


def rounded(amount: Money) -> str:
    """An amount as a reader takes it in: `$1,234.57`, `$0.00224`, `-$0.50`, `$0`; exact where it is short."""
    value = abs(amount.dollars)
    if not value:
        return "$0"
    exact = max(2, -int(value.normalize().as_tuple().exponent))
    places = exact if exact <= SHORT else 2 if value >= 1 else min(9, DIGITS - 1 - value.adjusted())
    whole, _, rest = f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN):,f}".partition(".")
    return f"{'-' if amount.nano < 0 else ''}${whole}.{rest.rstrip('0').ljust(2, '0')}"


def money(amount: Money | int | None) -> Markup:
    """The rounded amount, with the exact one for machines and in its tip."""
    if amount is None:
        return UNKNOWN
    exact = Money(amount) if isinstance(amount, int) else amount
    # Not `format`, which escapes and takes most of the time of a page with a thousand amounts: these are digits alone.
    return Markup(f'<data class="money" value="{exact.plain}" title="exactly {exact}">{rounded(exact)}</data>')  # noqa: S704 - digits


def percent(share: float | None) -> Markup:
    """A share of one in percent."""
    return UNKNOWN if share is None else Markup(f"{share * 100:,.1f}&nbsp;%")  # noqa: S704 - digits


def plain_percent(share: float) -> str:
    """The same as plain text."""
    return f"{share * 100:,.1f} %"


def seconds(value: float | None) -> Markup:
    """Seconds; milliseconds where they are few."""
    if value is None:
        return UNKNOWN
    return (
        Markup("{}&nbsp;{}").format(f"{value * 1000:,.0f}", "ms")
        if value < 1
        else Markup("{:,.2f}&nbsp;s").format(value)
    )


def count(value: int | None) -> Markup:
    """A whole number with its thousands apart."""
    return UNKNOWN if value is None else Markup(f"{value:,}")  # noqa: S704 - digits


def some(number: int, noun: str) -> str:
    """So many of what a plain plural names."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rate(value: float | None) -> Markup:
    """Tokens a second."""
    return UNKNOWN if value is None else Markup("{:,.1f}&nbsp;tok/s").format(value)


def moment(at: float | None) -> Markup:
    """A moment in UTC; the page's script says it in the viewer's zone."""
    if at is None:
        return UNKNOWN
    said = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}">{}</time>').format(instant(at), said)


def hour(group: str) -> Markup:
    """The begin of an hour, from its name in the ledger."""
    begin = datetime.fromisoformat(group)
    return Markup('<time datetime="{}">{}</time>').format(group, begin.strftime("%Y-%m-%d %H:%M UTC"))


def cell(value: Any, kind: str) -> Markup:
    """A value of a table."""
    shown: Mapping[str, Callable[[Any], Markup]] = {
        "money": money,
        "percent": percent,
        "seconds": seconds,
        "count": count,
        "rate": rate,
        "moment": moment,
        "hour": hour,
    }
    if isinstance(value, str) and value == NONE:
        return Markup('<span class="unknown" title="none">–</span>')
    if kind in shown:
        return shown[kind](value)
    if value is None:
        return Markup('<span class="unknown">–</span>')
    if kind == "code":
        return Markup("<code>{}</code>").format(value)
    if kind == "state":
        return Markup('<span class="state state-{}">{}</span>').format(str(value).replace(" ", "-"), value)
    return Markup("{}").format(value)


def dollars(nano: int) -> float:
    """An amount as a chart draws it."""
    return nano / NANO
