"""Gateways as their operators run them: `gkt serve` on a free port, over real models and over strict fakes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import cast

import pytest

from tests.e2e.gateways import KEY_ENV, PRICES, Fakes, needs_llama, routes, talking
from tests.e2e.served import Served, serving
from tests.fakes import OpenAI

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def fakes() -> Iterator[Fakes]:
    """The fakes behind `faked` and `mixed`."""
    with talking() as fakes:
        yield fakes


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway without any configuration or key: the real student, which stands in for the teacher too."""
    needs_llama()
    with serving(tmp_path_factory.mktemp("embedded")) as served:
        yield served


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, fakes: Fakes) -> Iterator[Served]:
    """A teacher that is a strict OpenAI, and a real student with one slot."""
    needs_llama()
    config = {
        "upstreams": {"teacher": fakes.teachers_spec(), "student": {"kind": "llamacpp", "slots": 1}},
        "routes": routes(**{"*": routes()["gkt"]}),
        "prices": PRICES,
    }
    with serving(tmp_path_factory.mktemp("mixed"), config, **{KEY_ENV: OpenAI.KEY}) as served:
        yield served


@pytest.fixture(scope="session")
def faked(tmp_path_factory: pytest.TempPathFactory, fakes: Fakes) -> Iterator[Served]:
    """Strict fakes on both sides, and one student that dies after its first word."""
    config = {
        "upstreams": {
            "teacher": fakes.teachers_spec(),
            "student": fakes.students_spec(),
            "dying": fakes.students_spec(base_url=fakes.dying.url, probe=False),
        },
        "routes": routes(**{"*": routes()["gkt"]}),
        "prices": PRICES,
    }
    with serving(tmp_path_factory.mktemp("faked"), config, **{KEY_ENV: OpenAI.KEY}) as served:
        yield served


@pytest.fixture(params=["embedded", "mixed", "faked"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each of the three gateways above."""
    return cast("Served", request.getfixturevalue(request.param))


@pytest.fixture
def own() -> Iterator[Fakes]:
    """Fakes that only this test asks."""
    with talking() as fakes:
        yield fakes


@pytest.fixture
def topic() -> str:
    """What this test asks about, and no other."""
    return f"item-{next(_numbers)}"
