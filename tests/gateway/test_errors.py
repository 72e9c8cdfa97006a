"""Errors: the tree that the module draws, and how each leaf looks from outside."""

from __future__ import annotations

import re

import pytest

from gateway import errors
from gateway.errors import GatewayError, RateLimited, Unsupported, UpstreamFailed


def leaves(error: type[GatewayError]) -> list[type[GatewayError]]:
    return [error, *(leaf for child in error.__subclasses__() for leaf in leaves(child))]


TREE = [each for each in leaves(GatewayError) if each.__module__ == errors.__name__]


def test_the_tree_is_drawn_as_it_is() -> None:
    """Name, status, and the code or type that are drawn, for every error that is ever answered."""
    drawn = {
        name: (int(status), what) for name, status, what in re.findall(r"(\w+) +(\d{3}) (\w+)", errors.__doc__ or "")
    }
    answered = [each for each in TREE if each is not errors.ConfigError]
    assert drawn.keys() == {each.__name__ for each in answered}
    for each in answered:
        assert drawn[each.__name__][0] == each.status
        assert drawn[each.__name__][1] in (each.code, each.type, "model_not_found")


@pytest.mark.parametrize("error", TREE)
def test_the_shape(error: type[GatewayError]) -> None:
    told = error("why")
    assert told.body == {"error": {"message": "why", "type": error.type, "param": None, "code": error.code}}
    assert told.http_status == error.status
    assert all(isinstance(value, str) for value in told.headers.values())


def test_a_code_and_a_param_of_its_own() -> None:
    error = Unsupported("no", param="n", code="other")
    assert (error.body["error"]["param"], error.body["error"]["code"]) == ("n", "other")
    assert Unsupported("no").code == "unsupported_parameter", "and the class keeps its own"


def test_what_a_client_should_try_again() -> None:
    again = {each.__name__: each("x").headers.get("x-should-retry") for each in TREE}
    assert {name: said for name, said in again.items() if said is not None} == {
        "OverBudget": "false",
        "Busy": "true",
        "UpstreamFailed": "false",
    }
    assert RateLimited("x").headers == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, None), (0.0, "1"), (2.4, "2"), (90, "90"), (float("inf"), None), (float("nan"), None), (-5.0, "1")],
)
def test_when_to_try_again(seconds: float | None, said: str | None) -> None:
    assert UpstreamFailed("x", retry_after=seconds).headers.get("retry-after") == said


def test_an_upstreams_failure_has_the_status_that_it_is_given() -> None:
    assert UpstreamFailed("x").http_status == 502
    assert UpstreamFailed("x", status=504).http_status == 504
