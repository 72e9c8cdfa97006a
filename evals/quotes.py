"""Quotes: what requests to a server that runs elsewhere cost, by the price book: at most beforehand, and afterwards.

The bounds hold for whatever tokenizer the server has, since no token is shorter than a byte; for the limit that the
request sets; and for every tier that there is a price of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from gateway.config import Config, Route
from gateway.strategies.prompts import Prompts
from gateway.upstreams import GUIDANCE_BYTES, TEMPLATE_TOKENS, UNASKED
from pricing.book import PriceBook
from pricing.money import Money
from pricing.usage import Usage

GUIDED = frozenset({"cut-off", "concise", "hint"})
ANY = "*"


class Quotes:
    """Prices by model name, those of `config` first. `plain`: the server is no gateway, its models are the names asked.

    Of a gateway, `config` must be what it was opened with; None: then what its routes ask is not known.
    """

    def __init__(self, config: Config | None, *, plain: bool) -> None:
        self._config, self._plain = config, plain
        self._book = PriceBook.from_config(config.prices if config is not None else {})
        prompts = Prompts(config.prompts if config is not None else None)
        self._added = max(len(prompts[name].text.encode()) for name in (*prompts.guidance, "context", "continue"))

    def most(self, body: Mapping[str, Any]) -> Money | None:
        """The most that a request can cost; None: a price is not known, or not who is asked (a cascade)."""
        total = Money.ZERO
        for model, seller, read, write in self._calls(body):
            cost = None if model is None else self._dearest(model, seller, read, write)
            if cost is None:
                return None
            total += cost
        return total

    def paid(self, models: Sequence[str | None], usage: Usage) -> int | None:
        """What that usage cost, in nano-dollars, by the first of the names that has a price; None: unknown."""
        for model in models:
            price = self._book.price(model, input_tokens=usage.input) if model else None
            if price is not None:
                cost = price.cost(usage)
                return None if cost is None else cost.nano
        return None

    def listed(self, models: Sequence[str]) -> dict[str, dict[str, str]]:
        """Dollars per million tokens of each model, now; nothing of one that has no price."""
        told = dict[str, dict[str, str]]()
        for model in models:
            price = self._book.price(model)
            both = {"input": price.input, "output": price.output} if price else {}
            told[model] = {way: amount.plain for way, amount in both.items() if amount is not None}
        return told

    def _calls(self, body: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None, int, int]]:
        """Each call that may have to be made: model (None: not known), who sells it, tokens in and out."""
        messages, write = body["messages"], int(body["max_completion_tokens"])
        read = len(orjson.dumps([messages, body.get("chat_template_kwargs")])) + TEMPLATE_TOKENS * (len(messages) + 1)
        overrides: Mapping[str, Any] = body.get("gkt") or {}
        if self._plain:
            yield overrides.get("teacher") or overrides.get("student") or body["model"], None, read, write
            return
        route = self._route(str(body["model"]))
        strategy = overrides.get("strategy") or (route.strategy if route is not None else None)
        if route is None or strategy not in {"teacher", "student", *GUIDED}:
            yield None, None, read, write
            return
        teacher = *self._model(overrides.get("teacher") or route.teacher, route, body["model"]), read, write
        student = *self._model(overrides.get("student") or route.student, None, ""), read, write
        if strategy in GUIDED:
            tokens = int(overrides.get("guidance_tokens") or route.guidance_tokens)
            begun = read + self._added + GUIDANCE_BYTES * tokens + 2 * TEMPLATE_TOKENS
            yield (*teacher[:2], read + self._added, tokens)
            yield (*student[:2], begun, write)
            yield (*teacher[:2], begun, write)  # when the student fails
        else:
            yield student if strategy == "student" else teacher

    def _route(self, model: str) -> Route | None:
        routes = self._config.routes if self._config is not None else {}
        return routes.get(model) or routes.get(ANY)

    def _model(self, upstream: str | None, route: Route | None, asked: str) -> tuple[str | None, str | None]:
        """The model that an upstream is asked for, and who sells it."""
        spec = self._config.upstreams.get(upstream) if self._config is not None and upstream else None
        if spec is None:
            return None, None
        named = route.teacher_model if route is not None else None
        return (asked if named == ANY else named) or spec.model, spec.seller

    def _dearest(self, model: str, seller: str | None, read: int, write: int) -> Money | None:
        most: Money | None = None
        for tier in (None, *UNASKED):
            price = self._book.price(model, provider=seller, tier=tier, input_tokens=read)
            if price is None and tier is not None:
                continue
            rates = (None, None) if price is None else (price.input, price.cache_write)
            dearer = rates[0] is not None and rates[1] is not None and rates[0] < rates[1]
            cost = None if price is None else price.cost(Usage(read, write, cache_write=read if dearer else None))
            if cost is None:
                return None
            most = cost if most is None else max(most, cost)
        return most
