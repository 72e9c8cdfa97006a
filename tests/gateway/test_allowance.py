"""What a caller may use: read exactly, or refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.allowance import MOST, NO_LIMITS, Allowance, BudgetSpec, Limits, Quota
from pricing.money import Money


@given(st.integers(0, MOST.nano))
def test_an_amount_is_read_exactly(nano: int) -> None:
    said = BudgetSpec.model_validate({"usd": Decimal(nano) / 10**9, "per": "day"})
    assert said.allowance == Allowance(Money(nano), "day")
    assert BudgetSpec.model_validate(said.allowance.plain) == said


@pytest.mark.parametrize(
    "usd", [-1, "-0.01", "ten", "", None, True, [1], "nan", "inf", 10_000_000, "1e-10", "1e-999999999", "1e400"]
)
def test_what_is_no_amount_is_refused(usd: Any) -> None:
    with pytest.raises(ValidationError):
        BudgetSpec.model_validate({"usd": usd, "per": "day"})


@pytest.mark.parametrize(
    "data",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -5},
        {"concurrent": 1.5},
        {"budgets": [{"usd": 1, "per": "year"}]},
        {"budgets": [{"usd": 1}]},
        {"requests": 5},
    ],
)
def test_what_is_no_quota_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Quota.model_validate(data)


def test_none_and_no_budgets_are_different_things() -> None:
    assert Quota().allowances is None
    assert Quota.model_validate({"budgets": []}).allowances == ()


def test_own_limits_come_before_others() -> None:
    assert Limits(5, None, 1) | Limits(9, 100, None) == Limits(5, 100, 1)
    assert not NO_LIMITS
    assert NO_LIMITS | Limits(concurrent=2) == Limits(concurrent=2)
    with pytest.raises(ValueError, match="concurrent"):
        Limits(concurrent=0)
