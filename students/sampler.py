"""The choice of each row's next token by the row's own settings, all rows of a step at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from students.rows import Chosen, Row, Settings

LIKELIEST = 1024
"""Tokens that are sorted to find those that top_p keeps; a whole vocabulary is sorted only when they are not enough."""


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Chosen]:
    """One token for each row of `logits` (rows, vocabulary), which is changed."""
    said = [_told(logits[index], row.settings.logprobs) for index, row in enumerate(rows)]
    for index, row in enumerate(rows):
        _adjust(logits[index], row)
    likeliest = logits.argmax(-1).tolist()
    chosen = []
    for index, row in enumerate(rows):
        token = likeliest[index]
        if row.settings.temperature > 0:
            token = draw(logits[index], row.settings, row.random.random())
        logprobs = said[index]
        if logprobs is None:
            chosen.append(Chosen(token))
        else:
            values, ids = logprobs.topk(row.settings.logprobs or 0)
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
            chosen.append(Chosen(token, float(logprobs[token]), top))
    return chosen


def draw(logits: Tensor, settings: Settings, chance: float) -> int:
    """The token at `chance` (0 to below 1) of what the settings leave of one row's logits; `temperature` is above 0."""
    scaled = logits.double() / settings.temperature
    if not (settings.top_k > 0 or settings.top_p < 1):
        kept = (scaled - scaled.max()).exp()  # in the order of the vocabulary: nothing needs to be sorted
        kept[kept < settings.min_p] = 0
        return _at(kept, chance)
    size = len(scaled)
    count = min(settings.top_k, size) if settings.top_k > 0 else min(LIKELIEST, size)
    values, ids = scaled.topk(count)
    shares = (values - (values if settings.top_k > 0 else scaled).logsumexp(0)).exp()
    if settings.top_k <= 0 and count < size and float(shares.sum()) < settings.top_p:
        values, ids = scaled.sort(descending=True)
        shares = values.softmax(0)
    before = shares.cumsum(0) - shares
    keep = (before < settings.top_p) & (shares >= settings.min_p * shares[0])
    keep[0] = True
    return int(ids[_at(shares * keep, chance)])


def _at(shares: Tensor, chance: float) -> int:
    reached = shares.cumsum(0)
    index = int(torch.searchsorted(reached, reached[-1:] * chance, right=True))
    if index < len(shares):
        return index
    return int(shares.nonzero()[-1])  # rounding took the last step


def _told(logits: Tensor, wanted: int | None) -> Tensor | None:
    return None if wanted is None else logits.log_softmax(0)


def _adjust(logits: Tensor, row: Row) -> None:
    settings = row.settings
    if settings.bias:
        ids = torch.tensor(list(settings.bias), device=logits.device)
        logits[ids] += torch.tensor(list(settings.bias.values()), dtype=logits.dtype, device=logits.device)
    if settings.repetition != 1.0:
        ids = torch.tensor(sorted({*row.ids, *row.counts}), device=logits.device)
        values = logits[ids]
        logits[ids] = torch.where(values > 0, values / settings.repetition, values * settings.repetition)
    if row.counts and (settings.presence or settings.frequency):
        ids = torch.tensor(list(row.counts), device=logits.device)
        counts = torch.tensor(list(row.counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= settings.presence + settings.frequency * counts
