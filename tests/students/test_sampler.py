"""The choice of a token: what settings leave is what their definitions say, and chance picks in proportion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies

from students.rows import Settings
from students.sampler import LIKELIEST, draw

logits = strategies.lists(strategies.floats(-8, 8), min_size=1, max_size=40)
settings = strategies.builds(
    Settings,
    temperature=strategies.floats(0.1, 3),
    top_p=strategies.sampled_from((0.1, 0.5, 0.9, 1.0)),
    top_k=strategies.sampled_from((0, 1, 3, 100)),
    min_p=strategies.sampled_from((0.0, 0.1, 0.5)),
)


def left(values: list[float], settings: Settings) -> dict[int, float]:
    """What remains to be chosen from, by the definitions alone: slow, and one after the other."""
    weights = torch.softmax(torch.tensor(values, dtype=torch.float64) / settings.temperature, 0).tolist()
    order = sorted(range(len(values)), key=lambda token: -weights[token])
    if settings.top_k:
        order = order[: settings.top_k]
    total = sum(weights[token] for token in order)
    kept: dict[int, float] = {}
    before = 0.0
    for token in order:
        share = weights[token] / total
        if not kept or (before < settings.top_p - 1e-9 and weights[token] >= settings.min_p * weights[order[0]]):
            kept[token] = share
        before += share
    return kept


@given(values=logits, settings=settings, chance=strategies.floats(0, 1, exclude_max=True))
def test_only_what_the_settings_leave_is_chosen(values: list[float], settings: Settings, chance: float) -> None:
    allowed = left(values, settings)
    token = draw(torch.tensor(values), settings, chance)
    # Equals may stand in for each other: which of them a bound cuts off is nobody's promise.
    assert any(abs(values[token] - values[other]) < 1e-5 for other in allowed)


@pytest.mark.parametrize("chosen", [Settings(), Settings(top_k=4), Settings(top_p=0.95), Settings(min_p=0.05)])
def test_chance_picks_in_proportion(chosen: Settings) -> None:
    values = [2.0, 0.5, 1.0, -1.0, 0.0]
    allowed = left(values, chosen)
    counts = dict.fromkeys(range(5), 0)
    for step in range(1000):
        counts[draw(torch.tensor(values), chosen, step / 1000)] += 1
    total = sum(allowed.values())
    for token, count in counts.items():
        assert count / 1000 == pytest.approx(allowed.get(token, 0) / total, abs=0.003)


def test_a_flat_distribution_is_sorted_whole() -> None:
    size = 4 * LIKELIEST
    flat = torch.linspace(0, 0.01, size)
    chosen = {draw(flat, Settings(top_p=0.9), chance / 50) for chance in range(50)}
    assert min(chosen) < size - LIKELIEST, "the likeliest thousand hold a quarter of it only"
    assert min(chosen) >= size * 0.09
