"""An answer as the official client got it, and whether its receipt is what the ledger has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.e2e.served import Served

STAGES = ("guidance", "answer", "fallback", "measurement")


@dataclass
class Answer:
    """One completion, streamed or not; texts and reasons by choice. `pieces` counts what a stream brought."""

    id: str
    model: str
    texts: list[str]
    reasons: list[str]
    usage: Mapping[str, Any] | None
    receipt: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: int = 0

    @property
    def text(self) -> str:
        assert len(self.texts) == 1
        return self.texts[0]

    def stage(self, name: str) -> Mapping[str, Any]:
        """The only stage of this name."""
        (stage,) = (stage for stage in self.receipt["stages"] if stage["stage"] == name)
        return dict(stage)


def whole(completion: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """From the SDK's `ChatCompletion`."""
    data = completion.model_dump(warnings=False)  # `.parse` adds a member that its own model does not know
    assert data["object"] == "chat.completion"
    assert [choice["index"] for choice in data["choices"]] == list(range(len(data["choices"])))
    return Answer(
        data["id"],
        data["model"],
        [choice["message"]["content"] for choice in data["choices"]],
        [choice["finish_reason"] for choice in data["choices"]],
        data["usage"],
        data["gkt"],
        headers or {},
    )


def heard(chunks: Iterable[Any], headers: Mapping[str, str] | None = None) -> Answer:
    """From the SDK's `ChatCompletionChunk`s, which must be what OpenAI's stream is."""
    frames = [chunk.model_dump() for chunk in chunks]
    ids, models = {frame["id"] for frame in frames}, {frame["model"] for frame in frames}
    assert len(ids) == len(models) == 1
    assert {frame["object"] for frame in frames} == {"chat.completion.chunk"}
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    pieces = 0
    for frame in frames:
        for choice in frame["choices"]:
            index, delta = choice["index"], choice["delta"]
            assert index not in reasons, "nothing follows a finish reason"
            if delta.get("role") is not None:
                assert index not in texts, "a role is said once, and first"
                texts[index] = ""
            texts[index] += delta.get("content") or ""
            pieces += bool(delta.get("content"))
            if choice["finish_reason"] is not None:
                reasons[index] = choice["finish_reason"]
    assert sorted(texts) == sorted(reasons)
    assert ["gkt" in frame for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert all(frame["usage"] is None for frame in frames[:-1])
    last = frames[-1]
    if last["usage"] is not None:
        assert last["choices"] == []
    order = sorted(texts)
    return Answer(
        ids.pop(),
        models.pop(),
        [texts[index] for index in order],
        [reasons[index] for index in order],
        last["usage"],
        last["gkt"],
        headers or {},
        pieces,
    )


def ask(served: Served, topic: str, **request: Any) -> Answer:
    """Send one chat about `topic` with its response's headers at hand; a stream reports its usage."""
    request.setdefault("messages", [{"role": "user", "content": topic}])
    create = served.sdk.chat.completions.with_raw_response.create
    if not request.get("stream"):
        raw = create(**request)
        return whole(raw.parse(), raw.headers)
    raw = create(**{"stream_options": {"include_usage": True}, **request})
    with raw.parse() as chunks:
        return heard(chunks, raw.headers)


def nano(dollars: str | None) -> int | None:
    """Whole nano-dollars, exactly."""
    if dollars is None:
        return None
    amount = Decimal(dollars) * 1_000_000_000
    assert amount == amount.to_integral_value()
    return int(amount)


def cost(usage: Mapping[str, Any], price: Mapping[str, Any]) -> int:
    """What these tokens cost in nano-dollars, reckoned from the receipt's own words alone."""
    cached, written = usage["cached"] or 0, usage["cache_write"] or 0
    plain = price["input"]
    parts = (
        (usage["input"] - cached - written, plain),
        (cached, price.get("cached", plain)),
        (written, price.get("cache_write", plain)),
        (usage["output"], price["output"]),
    )
    return round(sum(Fraction(count) * Fraction(rate) * 1000 for count, rate in parts))


def check_accounts(served: Served, answer: Answer) -> dict[str, Any]:
    """The receipt adds up, and says to the nano-dollar what the ledger's entry says, which is returned."""
    receipt, entry = answer.receipt, served.entry(answer.id)
    assert receipt["request_id"] == entry["request_id"] == answer.id
    assert entry["model"] == answer.model
    assert [receipt[name] for name in ("route", "strategy", "why", "outcome")] == [
        entry[name] for name in ("route", "strategy", "why", "outcome")
    ]
    if answer.headers:
        assert answer.headers["x-request-id"] == answer.headers["x-gkt-request-id"] == answer.id
        assert answer.headers["x-gkt-strategy"] == receipt["strategy"]
        assert receipt["why"].startswith(f"{answer.headers['x-gkt-why']}; break-even: "), "the header comes beforehand"

    by_stage = dict.fromkeys(STAGES, 0)
    for stage, call in zip(receipt["stages"], entry["calls"], strict=True):
        amount = nano(stage["cost_usd"])
        assert amount is not None
        assert amount == call["amount"] == cost(stage["usage"], stage["price"])
        assert call["bound_amount"] is not None
        assert 0 <= amount <= call["bound_amount"]
        assert not call["is_open"]
        assert not call["is_bound"]
        by_stage[stage["stage"]] += amount
        for name in ("stage", "seat", "upstream", "model", "stand_in", "finish", "error", "cut"):
            assert stage[name] == call[name], name
        for name, count in stage["usage"].items():
            assert name == "seconds" or count == call["usage"][name], name
        for name in ("input", "output", "cached", "cache_write"):
            assert nano(stage["price"].get(name)) == call["price"][name], name
        assert stage["price"]["row"] == call["price"]["row"]
        assert stage["total_s"] == round(call["duration"], 4)
    spent = nano(receipt["cost_usd"])
    assert spent == sum(by_stage.values()) == entry["spent"] == entry["priced_spent"]
    assert entry["spent_by_stage"] == by_stage
    assert (receipt["unpriced"], entry["unpriced"]) == (0, False)

    baseline = receipt["baseline"]
    for name in ("low", "likely", "high"):
        assert nano(baseline[f"{name}_usd"]) == entry["baseline"][name], name
    assert baseline["method"] == entry["baseline"]["method"]
    assert baseline["output_tokens"] == entry["baseline"]["output_tokens"]
    assert nano(receipt["saved_usd"]) == entry["baseline"]["likely"] - entry["spent"]
    assert receipt["saved_share"] == (entry["baseline"]["likely"] - entry["spent"]) / entry["baseline"]["likely"]

    if answer.usage is not None:
        assert answer.usage["prompt_tokens"] == entry["visible_input"]
        assert answer.usage["completion_tokens"] == entry["visible_output"]
        assert answer.usage["total_tokens"] == entry["visible_input"] + entry["visible_output"]
    return entry
