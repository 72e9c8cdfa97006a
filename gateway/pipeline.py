"""The pipeline: admit, plan, run, bill, enter. One stream of events a request, whatever its client asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from gateway import bookkeeper, shadows
from gateway.admission import NOTHING, Admission, Held, reason
from gateway.answers import COMPARED
from gateway.auth import Authenticator
from gateway.bookkeeper import Bookkeeper
from gateway.chat import PROVIDER_KEY, Caller, Chat, Exchange, Plan, StrategyName
from gateway.config import GUIDED, Config
from gateway.errors import (
    BadRequest,
    Busy,
    Forbidden,
    GatewayError,
    OverBudget,
    RateLimited,
    Unauthorized,
    UpstreamFailed,
)
from gateway.guidance_cache import GuidanceCache
from gateway.keys.ring import Keyring
from gateway.ledger.entry import Entry, Ledger
from gateway.lengths import Lengths
from gateway.lookout import Lookout
from gateway.metrics import Metrics
from gateway.planner import Planner
from gateway.readiness import Readiness
from gateway.sandbox import Limits, Sandbox
from gateway.shared.logouts import Logouts
from gateway.strategies.base import Strategy
from gateway.strategies.cascade import Cascade
from gateway.strategies.guided import Guided
from gateway.strategies.prompts import Prompts
from gateway.strategies.rest import Rest
from gateway.strategies.solo import Solo
from gateway.upstreams import Desk, Upstream, check_keyless, quoting, worst_case
from pricing.book import PriceBook
from pricing.money import Money
from students.engine import Event, Finish
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.guard import Guard
from students.pool import Pool

if TYPE_CHECKING:  # OpenTelemetry is an extra, and imported only where traces are configured
    from gateway.traces import Traces

SETTLE_SECONDS = 5.0
"""How long an answer waits for its entry to be on record; after that the ledger's queue still holds it."""

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a reload replaces as a whole. A request keeps to its end the rules that it was planned under."""

    config: Config
    planner: Planner
    prompts: Prompts
    book: PriceBook
    books: Bookkeeper


class Gateway:
    """Answers chats. Built and closed by `gateway.bootstrap.open_gateway`."""

    def __init__(
        self,
        config: Config,
        planner: Planner,
        upstreams: Mapping[str, Upstream],
        prompts: Prompts,
        book: PriceBook,
        ledger: Ledger,
        auth: Authenticator,
        keys: Keyring,
        metrics: Metrics,
        admission: Admission,
        logouts: Logouts,
        traces: Traces | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.ledger = ledger
        self.auth = auth
        self.keys = keys
        self.metrics = metrics
        self.admission = admission
        self.logouts = logouts
        self.traces = traces
        self.lengths = Lengths()
        self.lookout = Lookout(self.look)
        self.shadows = shadows.Shadows()
        self._guidance = GuidanceCache(
            admission.shared.cache, upstreams, config.upstreams, auth.secret("guidance cache")
        )
        self.closing = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._readiness = Readiness(upstreams, metrics)
        self._rules = Rules(config, planner, prompts, book, self._bookkeeper(config, prompts, book, planner))
        guided = Guided()
        self._strategies: Mapping[StrategyName, Strategy] = {
            "teacher": Solo("teacher"),
            "student": Solo("student"),
            "cut-off": guided,
            "concise": guided,
            "hint": guided,
            "cascade": Cascade(),
        }
        self._sandbox = Sandbox(Limits(seconds=10.0, cpu=5))
        self._shadow: Strategy = Solo("teacher", "measurement")
        self._rest: Strategy = Rest()

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self._rules.config

    @property
    def planner(self) -> Planner:
        """Plans new requests."""
        return self._rules.planner

    @property
    def book(self) -> PriceBook:
        """The prices of new requests."""
        return self._rules.book

    def reload(self, config: Config) -> None:
        """Plan and price new requests by `config`; requests under way end as they began.

        Its upstreams, ledger and keys must be those that run (`gateway.reload` sees to that). Raises `ConfigError`,
        and then nothing has changed.
        """
        prompts = Prompts(config.prompts)
        book = self.book.with_prices(config.prices)
        planner = Planner(
            config,
            lambda name: self.upstreams[name].engine.abilities,
            prompts.guidance,
            draw=self.planner.draw,
            waste=self.planner.waste,
            acceptance=self.planner.acceptance,
            quote=quoting(book, self.upstreams),
        )
        planner.check()
        check_keyless(config, [name for name, upstream in self.upstreams.items() if upstream.keyless], planner.students)
        planner.warn()
        self._rules = Rules(config, planner, prompts, book, self._bookkeeper(config, prompts, book, planner))
        self.metrics.know(config)
        self.lookout.stale()  # policies may be new

    def _bookkeeper(self, config: Config, prompts: Prompts, book: PriceBook, planner: Planner) -> Bookkeeper:
        text, ratio, seen = config.ledger.store_text, self.lengths.ratio, planner.acceptance.of
        return Bookkeeper(book, self.upstreams, prompts, config.baseline, store_text=text, ratio=ratio, seen=seen)

    def open(self, chat: Chat, caller: Caller) -> Exchange:
        """Plan the chat, where there is room for it. Raises `GatewayError`; nothing was asked or spent then."""
        if self.closing:
            raise Busy("The gateway is shutting down.")
        rules = self._rules
        if self.in_flight >= rules.config.server.max_in_flight:
            raise Busy(f"The gateway already answers {self.in_flight} requests; try again shortly.")
        plan = rules.planner.plan(chat, caller)
        self._check_keys(chat, plan)
        return Exchange(chat, caller, plan, started=time.time(), rules=rules)

    def worst_case(self, chat: Chat, caller: Caller) -> Money | None:
        """The most that this chat can cost, asked now; None: unknown. Raises as `open` does, and asks nobody."""
        rules = self._rules
        return worst_case(self.open(chat, caller), self.upstreams, rules.book, rules.prompts)

    async def answer(self, exchange: Exchange) -> AsyncGenerator[Event, None]:
        """The visible answer: `Delta`s, then one `Finish` with the usage that the client should see.

        First its caller's limits and budget are asked: a `GatewayError` before `exchange.admitted` is a refusal, of
        which there is no entry. Otherwise the entry is on record before the `Finish` is yielded or the error raised.
        The caller closes the generator; closing it early stops the models and books the request as abandoned.
        """
        rules = exchange.rules if isinstance(exchange.rules, Rules) else self._rules
        desk = Desk(exchange, self.upstreams, rules.book, self.ledger, rules.prompts, self._sandbox)
        finish: Finish | None = None
        texts: list[list[str]] = [exchange.answer, *([] for _ in range(exchange.chat.n - 1))]
        exchange.outcome = "abandoned"
        with self._under_way():
            held = await self._admit(exchange, rules)
            exchange.admitted, exchange.headers = True, held.headers
            began = time.perf_counter()
            try:
                strategy = self._strategies[exchange.plan.strategy]
                async with aclosing(strategy.run(exchange, self._guidance.before(desk, exchange))) as events:
                    async for event in events:
                        if isinstance(event, Finish):
                            finish = event
                            break
                        if exchange.first_token is None:
                            exchange.first_token = time.perf_counter() - began
                        texts[event.index].append(event.text)
                        yield event
                if finish is None:
                    raise BadReply("the strategy ended without an end")
                exchange.outcome, exchange.visible = "ok", finish.usage
            except EngineError as error:
                exchange.outcome, exchange.error = "failed", type(error).__name__
                raise _failed(error, own_key=_asked_with_own_key(exchange)) from error
            except GatewayError as error:
                exchange.outcome, exchange.error = "failed", error.code or type(error).__name__
                raise
            except Exception as error:
                exchange.outcome, exchange.error = "failed", type(error).__name__
                raise
            finally:
                exchange.answer.extend(text for more in texts[1:] for text in more)  # one choice after the other
                exchange.duration = time.perf_counter() - began
                await self._settle(exchange, rules.books, held)
        finish.usage = exchange.visible
        try:
            yield finish
        finally:  # whoever has the end may close the generator there
            if shadows.wanted(exchange):
                self._begin_shadow(exchange)

    async def _admit(self, exchange: Exchange, rules: Rules) -> Held:
        def most() -> Money | None:
            return worst_case(exchange, self.upstreams, rules.book, rules.prompts)

        try:
            return await self.admission.admit(exchange, rules.config.limits, most)
        except (RateLimited, OverBudget, Busy) as error:
            self.metrics.limited(reason(error))
            raise
        finally:
            if self.metrics.shared:  # another process may be the one that is scraped
                self._tell_of_redis()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Count the request among those under way, until it is booked."""
        self.in_flight += 1
        if self.metrics.shared:
            self.metrics.in_flight.inc()
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.metrics.shared:
                self.metrics.in_flight.dec()
            if not self.in_flight:
                self._idle.set()

    def _begin_shadow(self, exchange: Exchange) -> None:
        if not self.shadows.begin(lambda: self._measure(exchange)):
            self.shadows.note(lambda: self._skip(exchange))

    async def _skip(self, exchange: Exchange) -> None:
        """Put on record that a shadow was drawn and not made: that many were is no chance, but a busy hour."""
        skipped = shadows.shadow(exchange)
        skipped.outcome = "skipped"
        rules = exchange.rules if isinstance(exchange.rules, Rules) else self._rules
        await self._settle(skipped, rules.books, NOTHING)

    async def _measure(self, exchange: Exchange) -> None:
        """Let the teacher alone answer a chat that is served, and the students of a cascade that were not asked.

        Nobody hears it; it is settled once, whatever happens.
        """
        began = time.perf_counter()
        shadow = shadows.shadow(exchange)
        rules = exchange.rules if isinstance(exchange.rules, Rules) else self._rules
        desk = Desk(shadow, self.upstreams, rules.book, self.ledger, rules.prompts, self._sandbox)
        route = rules.config.routes.get(exchange.plan.route)
        kind = exchange.plan.answers if exchange.plan.answers in COMPARED else route.answers if route else None
        found: float | None = None
        shadow.outcome = "abandoned"
        try:
            strategy = self._rest if len(shadow.climbs) == 1 else self._shadow
            async with aclosing(strategy.run(shadow, desk)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        shadow.outcome, shadow.visible = "ok", event.usage
                        break
                    if shadow.first_token is None:
                        shadow.first_token = time.perf_counter() - began
                    shadow.answer.append(event.text)
            if shadow.outcome == "ok":
                found = await shadows.alike(exchange, shadow, kind, desk)
        except (EngineError, GatewayError) as error:
            shadow.outcome, shadow.error = "failed", type(error).__name__
        except Exception as error:
            shadow.outcome, shadow.error = "failed", type(error).__name__
            log.exception("a shadow failed by a fault of the gateway", request_id=exchange.chat.id)
        finally:
            shadow.duration = time.perf_counter() - began
            await self._settle(shadow, rules.books, NOTHING)
            self.lookout.stale()
        await shadows.compare(exchange, shadow, kind, self.ledger, found)

    def receipt(self, exchange: Exchange) -> Mapping[str, Any]:
        """The receipt of an exchange that is over, as plain JSON data. See `docs/savings.md` for what it says."""
        if exchange.receipt is None:
            raise LookupError("this exchange is not settled")
        return exchange.receipt

    def models(self, caller: Caller) -> Sequence[str]:
        """The model names that this caller can ask for, without those that `*` serves."""
        return [name for name in self.planner.models() if caller.may_ask(name)]

    def knows(self, model: str, caller: Caller) -> bool:
        """True when a request for `model` would be planned."""
        return caller.may_ask(model) and (model in self.config.routes or "*" in self.config.routes)

    async def look(self) -> None:
        """Look at the ledger for what was measured; raises nothing."""
        await self.lengths.refresh(self.ledger)
        planner = self.planner
        await planner.acceptance.refresh(self.ledger, {name: each.policy for name, each in planner.ladders.items()})

    async def idle(self) -> None:
        """Returns when no answer or shadow is under way and all are booked, after `SETTLE_SECONDS` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._idle.wait()
                await self.shadows.idle()

    async def readiness(self) -> dict[str, Any]:
        """Whether every upstream can be reached, what each proved able to do, and how the ledger is; see `/readyz`."""
        state = await self._readiness.state()
        # While there is room on disk, requests are answered and booked as ever: no reason to send them elsewhere.
        ledger = "full" if self.ledger.full else "away" if self.ledger.away else "ok"
        return state | {"ready": state["ready"] and not self.closing and ledger != "full", "ledger": ledger}

    async def glance(self) -> None:
        """Bring the gauges up to date, as far as that is possible within a second."""
        self.tell_of_ledger()
        self.metrics.in_flight.set(self.in_flight)
        self._tell_of_redis()
        self._tell_of_upstreams()
        await self._readiness.glance()

    def _check_keys(self, chat: Chat, plan: Plan) -> None:
        """Raises `Unauthorized` when a model would be asked that has no key, neither its own nor the caller's."""
        brought = plan.pass_key and chat.provider_key is not None
        teacher = None if plan.strategy == "student" or brought else plan.teacher
        student = None if plan.strategy == "teacher" else plan.student
        checker = plan.comparing.checker if plan.answers == "meaning" else None
        for name in (teacher, student, *plan.students.values(), checker):
            if name is not None and self.upstreams[name].keyless:
                raise Unauthorized(
                    f"{name!r}, the model behind this route, is asked with your own key for it: send it as "
                    f"`{PROVIDER_KEY}: KEY`.",
                    code="provider_key_required",
                )

    async def _settle(self, exchange: Exchange, books: Bookkeeper, held: Held) -> None:
        """Write the entry, and give back what the request held.

        It is counted and handed to the ledger in one step, so that no cancellation can lose it.
        """
        entry: Entry | None = None
        try:
            entry = books.entry(exchange)
            exchange.receipt = bookkeeper.receipt(exchange, entry)
            self._learn(exchange)
            self._tell(entry)
            await self._enter(entry)
        finally:
            await self.admission.give_back(held, exchange, entry)

    def _learn(self, exchange: Exchange) -> None:
        """Remember whether the guidance that was asked for came to something, and kept the teacher from more."""
        plan = exchange.plan
        if exchange.guidance is None:
            return
        if plan.strategy in GUIDED and exchange.outcome in ("ok", "failed"):
            kept = exchange.outcome == "ok" and all(call.stage != "fallback" for call in exchange.calls)
            self.planner.acceptance.saw(plan.route, plan.strategy, kept=kept)
        teacher, model = self.planner.guide(plan)
        if self.planner.waste.saw(teacher, model, exchange.guidance.wasted):
            self.metrics.paused(teacher)
            log.warning("guidance came to nothing several times in a row: paused", upstream=teacher, model=model)

    async def _enter(self, entry: Entry) -> None:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.ledger.settle(entry)
        except TimeoutError:
            log.error("the ledger is slow; an entry waits in its queue", request_id=entry.request_id)
        except GatewayError as error:
            log.error("the ledger takes no entry", request_id=entry.request_id, error=str(error))
        _log(entry)

    def tell_of_ledger(self) -> None:
        """Bring the gauges of the ledger up to date."""
        ledger = self.ledger
        self.metrics.ledger(ledger.waiting, ledger.spooled, away=ledger.away)

    def _tell_of_redis(self) -> None:
        link = self.admission.shared.link
        if link is not None:
            self.metrics.redis(link.away, {"outages": link.outages, "local": link.local, "refused": link.refused})

    def _tell_of_upstreams(self) -> None:
        for name, upstream in self.upstreams.items():
            engine = upstream.engine
            if isinstance(engine, Guard) and upstream.stand_in is None:
                self.metrics.guard(name, engine.breaker.position.state, engine.retries)
            elif isinstance(engine, Pool):
                drained = sum(member.drained for member in engine.members)
                sick = sum(not (member.drained or (member.there and member.well)) for member in engine.members)
                self.metrics.pool(name, engine.moved, drained, sick)

    def _tell(self, entry: Entry) -> None:
        """Count the entry and send its spans. Whatever is wrong with that, the answer and its entry come first."""
        try:
            if entry.shadow_of is not None:
                self.metrics.measured(entry)
                if self.traces is not None:
                    self.traces.measured(entry)
                return
            self.metrics.settled(entry)
            if self.metrics.shared:
                self.tell_of_ledger()
                self._tell_of_upstreams()
            if self.traces is not None:
                self.traces.settled(entry)
        except Exception:
            log.exception("a request could not be counted", request_id=entry.request_id)


def _log(entry: Entry) -> None:
    spent, baseline = entry.spent, entry.baseline.likely if entry.baseline else None
    log.info(
        "request" if entry.shadow_of is None else "shadow",
        request_id=entry.request_id,
        model=entry.model,
        strategy=entry.strategy,
        outcome=entry.outcome,
        error=entry.error,
        cost_usd=None if spent is None else str(spent),
        baseline_usd=None if baseline is None else str(baseline),
        seconds=entry.duration,
    )


def _asked_with_own_key(exchange: Exchange) -> bool:
    """Whether the model that failed last was asked with the caller's own key."""
    failed = [call for call in exchange.calls if call.error is not None]
    return exchange.own_key and bool(failed) and failed[-1].seat == "teacher"


def _failed(error: EngineError, *, own_key: bool = False) -> GatewayError:
    """What the caller is told of a model's failure; `own_key`: the model was asked with the caller's."""
    where = f"{error.engine}: " if error.engine else ""
    message = f"{where}{error}"
    if isinstance(error, TimedOut):
        return UpstreamFailed(message, status=504, code="upstream_timeout")
    if isinstance(error, Overloaded):
        return UpstreamFailed(message, status=503, code="upstream_overloaded", retry_after=error.retry_after)
    if isinstance(error, PromptTooLong):
        return BadRequest(message, code="context_length_exceeded", param="messages")
    if isinstance(error, Refused) and error.status in (401, 403) and own_key:
        # Not in the upstream's own words: they may show a part of the key.
        refused = f"{where}the provider does not accept your own key, sent as {PROVIDER_KEY}"
        if error.status == 401:
            return Unauthorized(f"{refused}.", param=PROVIDER_KEY, code="invalid_provider_key")
        return Forbidden(f"{refused}, for this.", param=PROVIDER_KEY)
    if isinstance(error, Refused) and error.status in (401, 403):
        # The upstream's own words may show a part of the operator's key, and its code would blame the caller's.
        return UpstreamFailed(f"{where}{error.status}: the gateway's own access was refused")
    if isinstance(error, Refused) and error.status in (400, 404, 422):
        return BadRequest(message, code=error.code)
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    return UpstreamFailed(message, code=error.code, retry_after=retry_after)
