"""The report of a route says what is missing before anything is claimed of it."""

from __future__ import annotations

import random

from gateway.config import Config
from gateway.report import RouteReport
from pricing.live import Observed, Window, report
from pricing.money import Money


def test_too_few_shadows_for_answers_so_unlike_is_advised_on() -> None:
    draw, requests = random.Random(9), []
    for at in range(2_000):
        dear = 1_000.0 * (20 if draw.random() < 0.02 else 1)
        own, shadow = at % 5 != 0, draw.random() < 0.05
        seen = dear if own or shadow else None
        requests.append(Observed(at, False, 1.0, 0.05, own, 100, 100, dear if own else 10.0, seen, agreement=1.0))
    told = {
        "upstreams": {name: {"kind": "scripted", "model": name} for name in ("big", "small")},
        "routes": {"gkt": {"strategy": "cut-off", "teacher": "big", "student": "small", "shadow": 0.05}},
    }
    found = RouteReport(
        name="gkt",
        route=Config.parse(told).routes["gkt"],
        strategies={},
        found=report(Window.of(requests)),
        shadows_spent=Money.ZERO,
        shadows_unpriced=0,
        notional=False,
    )
    assert found.advice is not None
    assert "the interval of the cost share may be too short" in found.advice
