"""Who shares a batch does not change what is written: against transformers' own `generate`, one prompt at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from hypothesis import settings as trials

from students.rows import Row, Settings
from students.torch_model import TorchModel
from tests.students.tiny import CAUSAL, Family, tiny

LONGEST = 12
MODELS: dict[Family, TorchModel] = {}


def model(family: Family) -> TorchModel:
    if family not in MODELS:
        MODELS[family] = tiny(family, read_tokens=5)
    return MODELS[family]


def row(ids: list[int], source: list[int], limit: int) -> Row:
    return Row(
        name="row",
        ids=ids,
        source=source,
        settings=Settings(temperature=0.0),
        limit=limit,
        ends=frozenset(),
        decode=lambda token: "",
        piece=lambda token: ("", None),
        tell=lambda event: None,
    )


def alone(model: TorchModel, ids: list[int], source: list[int]) -> list[int]:
    """What transformers itself writes, greedily."""
    how: dict[str, Any] = {"max_new_tokens": LONGEST, "do_sample": False, "eos_token_id": None}
    if source:
        sources = torch.tensor([source])
        out = model._network.generate(
            input_ids=sources, attention_mask=torch.ones_like(sources), decoder_input_ids=torch.tensor([ids]), **how
        )
    else:
        inputs = torch.tensor([ids])
        out = model._network.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs), **how)
    return [int(token) for token in out[0][len(ids) :]]


token = strategies.integers(5, 60)
guest = strategies.tuples(
    strategies.lists(token, min_size=1, max_size=20),
    strategies.lists(token, min_size=1, max_size=20),
    strategies.integers(0, 8),  # steps before it joins
    strategies.integers(1, LONGEST),  # tokens after which it leaves
)


@pytest.mark.parametrize("family", [*CAUSAL, "t5"])
@trials(max_examples=8, deadline=None)
@given(guests=strategies.lists(guest, min_size=1, max_size=6))
def test_a_rows_tokens_do_not_depend_on_who_shares_the_batch(
    family: Family, guests: list[tuple[list[int], list[int], int, int]]
) -> None:
    subject = model(family)
    rows: list[Row] = []
    wrote: dict[Row, list[int]] = {}
    joins: dict[Row, int] = {}
    for ids, source, join, limit in guests:
        one = row([subject.start, *ids[1:]] if subject.encodes else ids, source if subject.encodes else [], limit)
        rows.append(one)
        wrote[one], joins[one] = [], join
    running: list[Row] = []
    for step in range(8 + LONGEST + 1):
        for one in rows:
            if joins[one] == step:
                while subject.read(one):
                    pass
                running.append(one)
        if running:
            for one, chosen in zip(running, subject.step(running), strict=True):
                one.take(chosen)
                wrote[one].append(chosen.id)
        for one in [one for one in running if one.over]:
            subject.forget(one)
            running.remove(one)
    for one in rows:
        assert wrote[one] == alone(subject, one.ids, one.source)[: one.limit]


@pytest.mark.parametrize("family", [*CAUSAL, "t5"])
def test_rows_are_kept_apart(family: Family) -> None:
    assert model(family).keeps_rows_apart()


def test_a_model_whose_positions_shift_in_a_batch_is_found_out() -> None:
    assert not tiny("bart").keeps_rows_apart()
