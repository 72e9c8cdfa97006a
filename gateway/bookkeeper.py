"""Bookkeeper: an exchange that is over becomes an `Entry`, and an entry a receipt. Pure; no I/O.

What an upstream did not report is counted here, and marked so; what nobody can know stays None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypedDict

from gateway import payoff
from gateway.cascade.gate import Seen
from gateway.cascade.signals import Draft
from gateway.chat import Call, Climb, Exchange, Plan
from gateway.config import GUIDED, BaselineConfig
from gateway.drafts import kept
from gateway.ledger.basis import Basis, Unasked
from gateway.ledger.entry import Entry
from gateway.payoff import Terms
from gateway.strategies.prompts import Prompts
from gateway.upstreams import Upstream, tier_asked
from pricing import tokens
from pricing.baseline import Baseline, calibrated, measured, same_length
from pricing.bill import Line
from pricing.book import Price, PriceBook
from pricing.length_ratio import LengthRatio
from pricing.money import Money
from pricing.usage import Usage
from students.counting import prompt_tokens, text_tokens
from students.engine import Prompt

NOT_BILLED = frozenset({"Unavailable", "Overloaded", "Refused", "PromptTooLong"})
"""Errors before the first word after which a provider bills nothing."""

Ratios = Callable[[str, str, str], LengthRatio | None]
"""How much longer a teacher writes than what is shown, by route, strategy and the teacher's model; None: not known."""


class Bookkeeper:
    """Prices calls, finds the baseline, and writes entries and receipts.

    `ratio` says what was measured; baselines are `calibrated` by it as far as it goes. `seen` says what guidance kept
    from the teacher, by the places of rungs (of fixed guidance 0).
    """

    def __init__(
        self,
        book: PriceBook,
        upstreams: Mapping[str, Upstream],
        prompts: Prompts,
        baseline: BaselineConfig,
        *,
        store_text: bool = False,
        ratio: Ratios = lambda route, strategy, model: None,
        seen: Callable[[Plan], Mapping[int, Seen]] = lambda plan: {},
    ) -> None:
        self._ratio = ratio
        self._seen_of = seen
        self._book = book
        self._upstreams = upstreams
        self._prompts = prompts
        self._baseline_config = baseline
        self._store_text = store_text

    def entry(self, exchange: Exchange) -> Entry:
        """Price every call of the exchange (their `usage` and `line` are completed in place) and sum it up."""
        chat, plan = exchange.chat, exchange.plan
        recalled = exchange.recalled
        for call in (*exchange.calls, *_made_needless(exchange)):
            self._price(call)
        if exchange.visible is None:
            exchange.visible = self._seen(exchange)
        visible, guidance = exchange.visible, exchange.guidance
        baseline, basis = self._baseline(exchange, visible)
        return Entry(
            request_id=chat.id,
            at=exchange.started,
            model=chat.model,
            route=plan.route,
            strategy=plan.strategy,
            why=self._why(exchange, baseline, visible),
            caller=exchange.caller.id,
            outcome=exchange.outcome,
            stream=chat.stream,
            calls=tuple(exchange.calls),
            baseline=baseline,
            baseline_of=basis,
            teacher=plan.teacher,
            student=plan.student,
            error=exchange.error,
            wasted=guidance.wasted if guidance else None,
            guidance_cache=exchange.guidance_cache,
            avoided=recalled.line.amount if recalled and recalled.line else None,
            stand_in=any(call.stand_in for call in (*_made_needless(exchange), *exchange.calls)),
            propensity=plan.propensity,
            first_token=exchange.first_token,
            duration=exchange.duration,
            visible_input=visible.input,
            visible_output=visible.output,
            teacher_tokens=_sum(
                call.usage.output if call.usage else None for call in exchange.calls if call.seat == "teacher"
            ),
            text={"messages": list(chat.messages), "answer": "".join(exchange.answer)} if self._store_text else None,
            arm=plan.arm,
            shadow_propensity=plan.shadow_propensity,
            shadow_of=exchange.shadow_of,
            shadow_drawn=None if plan.shadow_propensity is None else plan.shadow,
            drafts=kept(exchange),
        )

    def _why(self, exchange: Exchange, baseline: Baseline | None, visible: Usage) -> str:
        """Why it was planned so, what break-even says of that, and how a cascade came to its answers, in one line."""
        plan, climbed = exchange.plan, [climb.why for climb in exchange.climbs if climb.why]
        if exchange.shadow_of is not None:  # it measures, and need not pay
            return "; ".join((plan.why, *climbed))
        bought = plan.strategy in GUIDED or plan.policy is not None
        terms = self._terms(exchange, baseline, visible) if bought else Terms(None)
        return "; ".join((plan.why, payoff.said(plan, terms, self._seen_of(plan), " ".join(climbed)), *climbed))

    def _terms(self, exchange: Exchange, baseline: Baseline | None, visible: Usage) -> Terms:
        """What break-even is reckoned from: of calls that were made their own prices and counts."""
        plan, guidance = exchange.plan, exchange.guidance
        calls = (*_made_needless(exchange), *exchange.calls)
        asked = next((call for call in calls if call.stage == "guidance"), None)
        tries = [call for call in calls if call.seat == "student"]
        amounts = [call.line.amount.nano if call.line and call.line.amount is not None else None for call in tries]
        tried = _sum(amounts) if tries else None

        def price(call: Call | None, upstream: str | None, model: str | None) -> Price | None:
            if call is not None and call.line is not None:
                return call.line.price
            if upstream is None:
                return None
            seat = self._upstreams[upstream]
            return self._quote(model or seat.model, seat.seller, None, None, exchange.started, None)

        return Terms(
            teacher=price(asked, plan.teacher, plan.teacher_model),
            student=price(next(iter(tries), None), plan.student, None),
            read=asked.usage.input if asked is not None and asked.usage is not None else visible.input,
            written=baseline.output_tokens if baseline is not None else None,
            method=baseline.method if baseline is not None else "same_length",
            prompt=visible.input,
            tried=None if tried is None else Money(tried),
            alone=baseline.likely if baseline is not None else None,
            needless=exchange.recalled is not None,
            complete=guidance is not None and guidance.complete,
            answers=exchange.chat.n,
        )

    def _price(self, call: Call) -> None:
        """Complete the call's usage, and price it as of its moment, in the tier that the upstream names."""
        usage, tier = call.usage, call.tier
        if usage is None:
            usage = _counted(call)
            tier = tier or (tier_asked(call.prompt.options) if call.prompt is not None else None)
        upstream = self._upstreams[call.upstream]
        seller = upstream.seller
        price = self._quote(call.model, seller, tier, call.tier, call.started, usage.input)
        if price is not None and price.per_hour is not None and usage.seconds is None:
            # Not longer than the upstream may take: the rest, a client has kept it waiting.
            own = call.occupied
            usage = replace(usage, seconds=None if own is None else min(own, upstream.max_seconds))
        call.usage = usage
        amount = price.cost(usage) if price is not None else None
        call.line = Line(call.stage, call.model, usage, price, amount, call.stand_in is not None)

    def _quote(
        self, model: str, seller: str | None, tier: str | None, said: str | None, moment: float, size: int | None
    ) -> Price | None:
        """The price in `tier`. One that was asked for and not `said` by the upstream may have been passed over."""
        price = self._book.price(model, provider=seller, tier=tier, moment=moment, input_tokens=size)
        if price is None and tier != said:
            price = self._book.price(model, provider=seller, tier=said, moment=moment, input_tokens=size)
        return price

    def _seen(self, exchange: Exchange) -> Usage:
        """The client's usage when no model could say it: counted over the text that was sent."""
        if not exchange.answer and exchange.outcome != "ok":
            return Usage(0, 0, source="counted")
        first = next(iter((*_made_needless(exchange), *exchange.calls)), None)
        model = first.model if first else ""
        written = text_tokens("".join(exchange.answer), model)
        prompt = self._own_prompt(exchange, first)
        if prompt is None:
            asked = prompt_tokens(Prompt(exchange.chat.messages), model)
            prompt = asked.tokens
        return Usage(prompt, written.tokens, source=written.source)

    def _own_prompt(self, exchange: Exchange, first: Call | None) -> int | None:
        """The tokens of the client's own prompt as its first call had them, without the strategy's instruction."""
        known = first.usage.input if first is not None and first.usage is not None else None
        if (
            first is None
            or not known
            or first.former is not None
            or (exchange.plan.strategy in GUIDED and first.stage != "guidance")
        ):
            return None
        name = exchange.plan.guidance_prompt
        added = self._prompts[name].tokens if name is not None and first.stage == "guidance" else 0
        return known - added if known > added else known

    def _baseline(self, exchange: Exchange, visible: Usage) -> tuple[Baseline | None, Basis | None]:
        """What the teacher alone would have cost, and what that is the price of.

        None where there is no teacher to compare with, or it is the shadow. Where the teacher did give the whole
        answer, that is measured. A request that delivered nothing has a baseline of nothing: what it cost is a loss.
        """
        plan, chat, guidance = exchange.plan, exchange.chat, exchange.guidance
        # Words that were kept are a call's all the same: it tells what the teacher takes for them.
        calls = [*_made_needless(exchange), *exchange.calls]
        if plan.teacher is None or exchange.shadow_of is not None:
            return None, None
        first = (
            next((call for call in calls if call.seat == "teacher"), None)
            if exchange.climbs
            else next(iter(calls), None)
        )
        own = plan.strategy == "teacher" or (
            plan.strategy == "cut-off"
            and plan.placement == "prefix"
            and plan.guidance_prompt is None
            and guidance is not None
            and guidance.complete
        )
        if exchange.climbs:  # what the drafts cost is not what the teacher alone would have cost
            calls = _last_resort(exchange)
            own = bool(calls)
        if own and calls and exchange.outcome == "ok" and all(call.seat == "teacher" for call in calls):
            amounts = [call.line.amount.nano if call.line and call.line.amount is not None else None for call in calls]
            spent = _sum(amounts)
            outputs = _sum(call.usage.output if call.usage else None for call in calls)
            return measured(None if spent is None else Money(spent), outputs), Basis.bill(calls, exchange.recalled)
        if not visible.output and exchange.outcome != "ok":
            return Baseline("same_length", Money.ZERO, Money.ZERO, Money.ZERO, 0), Basis()
        teacher = self._upstreams[plan.teacher]
        call = first if first is not None and first.seat == "teacher" else None
        asked = call.usage if call else None
        said = call.tier if call else None
        tier = said if asked and asked.source == "reported" else said or tier_asked(chat.teacher_options)
        model = plan.teacher_model or teacher.model
        cached = _at_most(asked.cached if asked else None, visible.input)
        # A part of what is left: an instruction that was written to the cache too is not in the client's own prompt.
        rest = None if visible.input is None else visible.input - (cached or 0)
        price = self._quote(model, teacher.seller, tier, said, exchange.started, visible.input)
        shown: _Shown = {
            "input_tokens": visible.input,
            "output_tokens": visible.output,
            "cached": cached,
            "cache_write": _at_most(asked.cache_write if asked else None, rest),
            "max_tokens": None if chat.max_tokens is None else chat.max_tokens * chat.n,
        }
        # Measured are whole answers: of one that was broken off nobody knows how much more there was.
        ratio = self._ratio(plan.route, plan.strategy, model) if exchange.outcome == "ok" else None
        low, high = self._baseline_config.length_ratio_low, self._baseline_config.length_ratio_high

        def found(shown: _Shown) -> Baseline:
            if ratio is not None:
                return calibrated(price, ratio=ratio, **shown)
            return same_length(price, ratio_low=low, ratio_high=high, **shown)

        baseline = found(shown)
        if exchange.recalled is not None:
            # Nobody knows how much of a prompt that it had been sent before the teacher would have read from its cache.
            all_cached = found({**shown, "cached": visible.input, "cache_write": None})
            baseline = replace(baseline, low=all_cached.low)
            if baseline.usages is not None and all_cached.usages is not None:
                baseline = replace(baseline, usages=(all_cached.usages[0], *baseline.usages[1:]))
        if baseline.usages is None:
            return baseline, None
        tiers = (tier,) if tier == said else (tier, said)
        return baseline, Basis((), Unasked(model, tiers, exchange.started, baseline.usages))


class _Shown(TypedDict):
    input_tokens: int | None
    output_tokens: int | None
    cached: int | None
    cache_write: int | None
    max_tokens: int | None


def receipt(exchange: Exchange, entry: Entry) -> dict[str, Any]:
    """The receipt as plain data: dollars as exact decimal strings, times in seconds, None for what is unknown."""
    plan, guidance, spent, baseline = exchange.plan, exchange.guidance, entry.spent, entry.baseline
    likely = baseline.likely if baseline else None
    saved = likely - spent if likely is not None and spent is not None else None
    data: dict[str, Any] = {
        "request_id": entry.request_id,
        "route": plan.route,
        "strategy": plan.strategy,
        "why": entry.why,
        "outcome": entry.outcome,
        "stages": [_stage(call) for call in entry.calls],
        "guidance": None,
        "cost_usd": _usd(spent),
        "unpriced": sum(call.line is None or call.line.amount is None for call in entry.calls),
        "baseline": baseline
        and {
            "method": baseline.method,
            "low_usd": _usd(baseline.low),
            "likely_usd": _usd(baseline.likely),
            "high_usd": _usd(baseline.high),
            "output_tokens": baseline.output_tokens,
        },
        "saved_usd": _usd(saved),
        "saved_share": saved.nano / likely.nano if saved is not None and likely else None,
        "first_token_s": _seconds(entry.first_token),
        "total_s": _seconds(entry.duration),
    }
    if plan.strategy in GUIDED:
        data["guidance"] = {
            "budget_tokens": plan.guidance_tokens,
            "placement": plan.placement,
            "prompt": plan.guidance_prompt,
            "text_chars": len(guidance.text) if guidance and plan.placement == "prefix" else 0,
            "tokens": guidance.tokens if guidance else None,
            "complete": guidance.complete if guidance else None,
            "wasted": guidance.wasted if guidance else None,
            "cache": entry.guidance_cache,
            "avoided_usd": _usd(entry.avoided),
        }
    if exchange.climbs:
        data["drafts"] = [
            _drafted(draft, place, index, climb)
            for index, climb in enumerate(exchange.climbs)
            for place, draft in enumerate(climb.drafts)
        ]
    stand_in = next((call.stand_in for call in (*_made_needless(exchange), *entry.calls) if call.stand_in), None)
    if stand_in is not None:
        data["notice"] = f"stand-in, priced as if it were the teacher: {stand_in} answered in the teacher's seat"
    return data


def _last_resort(exchange: Exchange) -> list[Call]:
    """The call by which the teacher of a cascade gave its one whole answer; none where a draft was given."""
    if len(exchange.climbs) != 1 or exchange.climbs[0].given is not None:
        return []
    answers = [call for call in exchange.calls if call.seat == "teacher" and call.stage == "answer"]
    if answers or exchange.guidance is None or not exchange.guidance.complete:
        return answers
    # It ended within its guidance. Guidance that was grown read its own beginning, as a whole answer does not.
    begun = [call for call in exchange.calls if call.seat == "teacher"]
    return begun if len(begun) == 1 else []


def _drafted(draft: Draft, place: int, index: int, climb: Climb) -> dict[str, Any]:
    """One draft of a cascade. `agree`: how many of its choice's drafts say the same, itself among them.

    `guidance`: the budget of the teacher's words that it went on from; `complete`: it is these alone.
    """
    answers = [each.answer for each in climb.drafts]
    return {
        "choice": index,
        "student": draft.student,
        "answered": draft.answer is not None,
        "agree": 0 if draft.answer is None else answers.count(draft.answer),
        "tokens": draft.tokens,
        "logprob": None if draft.logprob is None else round(draft.logprob, 4),
        "least_logprob": None if draft.least is None else round(draft.least, 4),
        "guidance": draft.guidance,
        "told": draft.told,
        "complete": draft.complete,
        "given": climb.given == place,
    }


def _stage(call: Call) -> dict[str, Any]:
    line, usage = call.line, call.usage or Usage()
    price = line.price if line else None
    return {
        "stage": call.stage,
        "seat": call.seat,
        "upstream": call.upstream,
        "model": call.model,
        "stand_in": call.stand_in,
        "usage": {
            "input": usage.input,
            "cached": usage.cached,
            "cache_write": usage.cache_write,
            "output": usage.output,
            "reasoning": usage.reasoning,
            "seconds": usage.seconds if usage.seconds is None else round(usage.seconds, 9),  # what `per_hour` charges
            "source": usage.source,
        },
        "price": price and _rates(price),
        "cost_usd": _usd(line.amount) if line else None,
        "first_token_s": _seconds(call.first_token),
        "total_s": _seconds(call.duration),
        "finish": call.finish,
        "error": call.error,
        "cut": call.cut,
    }


@lru_cache(maxsize=4096)
def _rates(price: Price) -> dict[str, Any]:
    """Dollars per million tokens, or per hour."""
    rates = {name: _usd(getattr(price, name)) for name in ("input", "output", "cached", "cache_write", "per_hour")}
    return {
        "source": price.source,
        "row": price.row,
        **{name: rate for name, rate in rates.items() if rate is not None},
    }


def _made_needless(exchange: Exchange) -> tuple[Call, ...]:
    """The call that the guidance cache saved, if it did."""
    return () if exchange.recalled is None else (exchange.recalled,)


def _usd(amount: Money | None) -> str | None:
    return None if amount is None else amount.plain


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _at_most(part: int | None, whole: int | None) -> int | None:
    return part if part is None or whole is None else min(part, whole)


def _counted(call: Call) -> Usage:
    """The usage of a call that reported none: cut short, failed, or from an upstream that does not say."""
    last = _last(call)
    return last if call.former is None else call.former.plus(last)


def _last(call: Call) -> Usage:
    """That of the one model that was asked, or of the last one, which went on for others."""
    if call.duration is None:  # it was refused or cancelled before it was made
        return Usage(0, 0, seconds=0.0, source="counted")
    if call.error in NOT_BILLED and not call.spoken:
        return Usage(0, 0, source="estimated")
    written = text_tokens("".join(call.spoken), call.model)
    prompt = prompt_tokens(call.prompt, call.model) if call.prompt is not None else tokens.Count(0, "estimated")
    exact = prompt.source == written.source == "counted"
    return Usage(prompt.tokens, written.tokens, source="counted" if exact else "estimated")
