"""Upstreams: the models by name, and the desk through which alone strategies reach them.

Every call is put on record before it is made, and written down while it happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway.cascade.policy import Policy
from gateway.chat import Call, Exchange, Need, Seat, Stage
from gateway.config import GUIDED, Config
from gateway.errors import Busy, ConfigError
from gateway.ledger.entry import Ledger
from gateway.sandbox import Sandbox
from gateway.strategies.prompts import Prompts
from gateway.strategies.same import LONGEST
from pricing.book import PriceBook
from pricing.money import Money
from pricing.price import Price
from pricing.usage import Usage
from students.breaker import OPEN
from students.engine import Ability, Embedder, Engine, Event, Finish, Prompt, Vector
from students.errors import BadReply, Refused

JUDGED = 400
"""More tokens than the words of a judge's prompt have, without what it is to judge."""

TEMPLATE_TOKENS = 32
"""More than a chat template adds around one message."""

BYTES = 4
"""The most bytes that one character has."""

GUIDANCE_BYTES = 128
"""The longest token of the vocabularies we know; no student has more tokens for the same words."""

UNASKED = ("priority", "fast", "scale", "flex", "batch")
"""Tiers that a provider's project, or an upstream's `extra_body`, may choose for a request that names none."""

ADDED = ("context", "continue")
"""The instructions that a guided strategy may add for its student, or for a teacher that goes on."""

UNMEASURED: frozenset[Need] = frozenset({"images", "audio", "web_search"})

UNDECIDED = frozenset({"auto", "default", "standard"})
"""Service tiers that ask for nothing but the default one, or leave it to the provider."""

INTEND_SECONDS = 10.0
"""How long a call waits to be put on record; then it is not made, rather than its caller left hanging."""

NOT_SAID = frozenset({"id", "type", "index"})
"""Members of a delta that no model wrote."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A configured model. `stand_in` names the upstream that really answers in its place; None: it answers itself.

    `model` is the name that prices and receipts know. `max_output` bounds the tokens of an answer whose caller set no
    limit, `max_seconds` the time of any answer. `seller` is the price book's provider; None: the name decides.
    `keyless`: it has no key of its own, and is asked with a caller's (`Plan.pass_key`) or not at all. `asks`: how many
    models may have to be paid for one call to it, each of which reads what was written before (see `students.pool`).
    `members`: the upstreams of a pool, whose machines are its own. `preamble`: bytes that it reads before every chat,
    which no request shows: the worked examples of a base model.
    """

    name: str
    engine: Engine
    model: str
    max_output: int
    max_seconds: float
    seller: str | None = None
    stand_in: str | None = None
    keyless: bool = False
    asks: int = 1
    members: tuple[str, ...] = ()
    preamble: int = 0


def check_keyless(
    config: Config, keyless: Collection[str], students: Mapping[str, Collection[str]] = MappingProxyType({})
) -> None:
    """Raises `ConfigError` when a route would ask an upstream that has no key, and bring none.

    `students`: those upstreams that a route's policy asks, by the route's name.
    """
    for name, route in config.routes.items():
        if (route.shadow or route.holdout) and route.teacher in keyless:
            raise ConfigError(
                f"route {name!r}: shadow and holdout ask {route.teacher!r} at the gateway's own expense, and it has no "
                "key of its own; set api_key_env and the variable that it names, or leave them out"
            )
        teacher = None if route.strategy == "student" or route.pass_key else route.teacher
        student = None if route.strategy in ("teacher", "cascade") else route.student
        for upstream in (teacher, student, *students.get(name, ())):
            if upstream in keyless:
                raise ConfigError(
                    f"route {name!r} asks upstream {upstream!r} with a key of the gateway's own, and it has none; set "
                    "api_key_env and the variable that it names, or let the route pass_key"
                )


class Desk:
    """The models of one exchange, by seat; writes every `Call` into the exchange and the ledger."""

    __slots__ = ("_book", "_exchange", "_ledger", "_sandbox", "_upstreams", "prompts")

    def __init__(
        self,
        exchange: Exchange,
        upstreams: Mapping[str, Upstream],
        book: PriceBook,
        ledger: Ledger,
        prompts: Prompts,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._exchange = exchange
        self._upstreams = upstreams
        self._book = book
        self._ledger = ledger
        self.prompts = prompts

    def can(self, seat: Seat, ability: Ability, upstream: str | None = None) -> bool:
        """True when there is a model in that seat and it has that ability."""
        name = self._name(seat, upstream)
        return name is not None and ability in self._upstreams[name].engine.abilities

    async def ask(
        self, seat: Seat, stage: Stage, prompt: Prompt, upstream: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Put the call on record, ask, and yield the answer. See `gateway.strategies.base.Upstreams.ask`."""
        name = self._name(seat, upstream)
        if name is None:
            raise LookupError(f"the plan has no {seat}")  # the planner has checked
        seated = self._upstreams[name]
        call = self._call(seated, seat, stage, prompt)
        self._exchange.calls.append(call)
        await self._intend(call)
        if seated.stand_in is not None and prompt.model is not None:
            prompt = replace(prompt, model=None)  # the stand-in is asked for itself, and known as what it stands for
        if self._passes(seat, seated):
            prompt = replace(prompt, key=self._exchange.chat.provider_key)  # the call on record has none
        prompt = replace(prompt, runs=call.runs)
        began = time.perf_counter()
        ended = False
        try:
            async with aclosing(seated.engine.stream(prompt)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        call.usage, call.finish, call.tier = event.usage, event.reason, event.service_tier
                        if seated.stand_in is not None and event.usage is not None:
                            call.usage = replace(event.usage, cached=None)  # its cache is not the teacher's
                        if call.former is not None:
                            call.usage = None if event.usage is None else call.former.plus(event.usage)
                            event.usage = None  # it is of what the last one read and wrote, which no client asked for
                        ended = True
                    elif event.spent is not None:
                        _moved(call, event.spent)
                        continue
                    else:
                        if call.first_token is None:
                            call.first_token = time.perf_counter() - began
                        call.spoken.append(event.text if event.fields is None else event.text + _words(event.fields))
                    yield event
            if not ended:
                raise BadReply("the answer ended without its end", engine=seated.engine.name)
        except Exception as error:
            call.error = type(error).__name__
            if getattr(error, "code", None) == OPEN or getattr(error, "deadline", None) in ("place", "connect"):
                call.usage = Usage(0, 0, seconds=call.occupied, source="counted")  # it was not sent, this time
            raise
        finally:
            call.duration = time.perf_counter() - began
            call.cut = not ended and call.error is None

    async def embed(self, stage: Stage, texts: Sequence[str], upstream: str) -> Sequence[Vector]:
        """Put the call on record, and ask for embeddings. See `gateway.strategies.base.Upstreams.embed`."""
        seated = self._upstreams[self._name("checker", upstream) or ""]
        call = self._call(seated, "checker", stage, Prompt([{"role": "user", "content": text} for text in texts]))
        self._exchange.calls.append(call)
        await self._intend(call)
        began, engine = time.perf_counter(), seated.engine
        try:
            if not isinstance(engine, Embedder):
                raise Refused("it gives no embeddings", engine=engine.name)
            found = await engine.embed(texts, call.runs)
            call.usage, call.finish = found.usage, "stop"
        except Exception as error:
            call.error = type(error).__name__
            raise
        finally:
            call.duration = time.perf_counter() - began
            call.cut = call.finish is None and call.error is None
        return found.vectors

    async def passes(self, program: str, tests: str) -> bool | None:
        """See `gateway.strategies.base.Upstreams.passes`; None without a sandbox, too."""
        return None if self._sandbox is None else (await self._sandbox.passes(program, tests)).passed

    async def _intend(self, call: Call) -> None:
        try:
            async with asyncio.timeout(INTEND_SECONDS):
                await self._ledger.intend(call)
        except TimeoutError:
            raise Busy("The ledger does not answer; no call is made that is not on record.") from None

    def _passes(self, seat: Seat, upstream: Upstream) -> bool:
        """Whether the caller's own key goes here: to the teacher itself, never to a student or a stand-in."""
        chat, plan = self._exchange.chat, self._exchange.plan
        return chat.provider_key is not None and plan.pass_key and seat == "teacher" and upstream.stand_in is None

    def _name(self, seat: Seat, upstream: str | None) -> str | None:
        plan = self._exchange.plan
        if seat == "checker":
            if upstream is None or upstream != plan.comparing.checker:
                raise LookupError(f"{upstream!r} is no checker of the plan")
            return upstream
        if upstream is not None and (seat == "teacher" or upstream not in plan.students.values()):
            raise LookupError(f"{upstream!r} is no {seat} of the plan")
        return plan.teacher if seat == "teacher" else upstream or plan.student

    def _call(self, upstream: Upstream, seat: Seat, stage: Stage, prompt: Prompt) -> Call:
        exchange = self._exchange
        model = prompt.model or upstream.model
        return Call(
            id=f"{exchange.chat.id}/{len(exchange.calls)}",
            request_id=exchange.chat.id,
            stage=stage,
            seat=seat,
            upstream=upstream.name,
            model=model,
            stand_in=upstream.stand_in,
            started=time.time(),
            bound=self._bound(upstream, seat, model, prompt),
            asked=exchange.chat.model,
            route=exchange.plan.route,
            strategy=exchange.plan.strategy,
            caller=exchange.caller.id,
            prompt=prompt,
        )

    def _bound(self, upstream: Upstream, seat: Seat, model: str, prompt: Prompt) -> Money | None:
        """The most this call can cost: no vocabulary has tokens shorter than a byte.

        None when it has no price, or holds pictures or sound, whose tokens their size does not tell.
        """
        chat = self._exchange.chat
        if seat != "checker" and not chat.needs.isdisjoint(UNMEASURED):
            return None
        size = chat.size + TEMPLATE_TOKENS * (len(prompt.messages) + 1) + BYTES * len(prompt.prefix)
        if seat == "checker":  # it is not asked what the chat asks
            size = TEMPLATE_TOKENS + BYTES * sum(len(str(each.get("content"))) for each in prompt.messages)
        elif prompt.messages is not chat.messages:  # a strategy added its own words to the last ones
            size += BYTES * sum(len(str(message.get("content"))) for message in prompt.messages[-2:])
        output = (prompt.max_tokens or upstream.max_output * upstream.asks) * prompt.n
        return dearest(self._book, upstream, model, prompt.options, size, output)


def worst_case(
    exchange: Exchange, upstreams: Mapping[str, Upstream], book: PriceBook, prompts: Prompts
) -> Money | None:
    """The most that a planned request can cost whoever runs the gateway, all its calls together, fallbacks too.

    What the caller's own key pays is not in it. None when a model that may be asked has no price, or the prompt holds
    pictures or sound, whose tokens their size does not tell.
    """
    chat, plan = exchange.chat, exchange.plan
    if not chat.needs.isdisjoint(UNMEASURED):
        return None
    size = chat.size + TEMPLATE_TOKENS * (len(chat.messages) + 1)
    calls: list[_Asked] = []
    if plan.policy is not None:
        calls = _climbing(exchange, plan.policy, size, prompts)
    elif plan.strategy in GUIDED:
        size += _added(exchange, prompts, plan.guidance_prompt)
        calls.append(_Asked("teacher", plan.teacher, size, plan.guidance_tokens))
        # Whoever goes on reads the guidance too, and the teacher that takes over perhaps as two more messages.
        begun = size + GUIDANCE_BYTES * plan.guidance_tokens + 2 * TEMPLATE_TOKENS
        calls.append(_Asked("student", plan.student, begun, chat.max_tokens, chat.n))
        if plan.on_student_failure == "teacher":
            calls.append(_Asked("teacher", plan.teacher, begun, chat.max_tokens, chat.n))
    else:
        seat: Seat = "student" if plan.strategy == "student" else "teacher"
        name = plan.student if seat == "student" else plan.teacher
        calls.append(_Asked(seat, name, size, chat.max_tokens, chat.n))
    # Prices may change before the last call begins, which is after the others have ended.
    longest = sum(upstreams[call.upstream].max_seconds for call in calls if call.upstream is not None)
    moments = (exchange.started, exchange.started + longest / 2, exchange.started + longest)
    total = Money.ZERO
    for seat, name, tokens, limit, times in calls:
        if name is None or (seat == "teacher" and exchange.own_key):
            continue
        upstream = upstreams[name]
        model = (plan.teacher_model if seat == "teacher" else None) or upstream.model
        options = chat.teacher_options if seat == "teacher" else {} if seat == "checker" else chat.options
        output = upstream.max_output * upstream.asks if limit is None else limit
        most = dearest(book, upstream, model, options, tokens, output, moments)
        if most is None:
            return None
        total += Money(most.nano * times)
    return total


class _Asked(NamedTuple):
    """Calls that may have to be made: `times` of them, with so many tokens in and out (None: no limit was given)."""

    seat: Seat
    upstream: str | None
    tokens: int
    limit: int | None
    times: int = 1


def _climbing(exchange: Exchange, policy: Policy, size: int, prompts: Prompts) -> list[_Asked]:
    """What a cascade asks that climbs to the top: all its rungs, and the teacher at last."""
    chat, plan = exchange.chat, exchange.plan
    calls: list[_Asked] = []
    checker, judging = plan.comparing.checker, plan.comparing.threshold is None
    if plan.answers != "meaning":
        checker = None
    for place, rung in enumerate(policy.rungs):
        if place in plan.closed:
            break
        if checker is not None and judging and place:  # of each draft before it, in the worst case
            judged = JUDGED + BYTES * 3 * LONGEST
            calls.append(_Asked("checker", checker, judged, plan.comparing.max_tokens, place * chat.n))
        elif checker is not None and not judging:  # each text once, the first together with the second
            calls.append(_Asked("checker", checker, TEMPLATE_TOKENS + BYTES * LONGEST, 0, chat.n))
        read = size
        if rung.kind == "guidance":
            # Begun anew or gone on with, guidance is read in the prompt; the student finds it there too.
            read += _added(exchange, prompts) + GUIDANCE_BYTES * rung.guidance_tokens + 2 * TEMPLATE_TOKENS
            calls.append(_Asked("teacher", plan.teacher, read, rung.guidance_tokens, chat.n))
        limit = least(chat.max_tokens, rung.max_tokens)
        calls.append(_Asked("student", plan.students[rung.student], read, limit, chat.n))
    calls.append(_Asked("teacher", plan.teacher, size, least(chat.max_tokens, policy.teacher.max_tokens), chat.n))
    return calls


def _added(exchange: Exchange, prompts: Prompts, guidance_prompt: str | None = None) -> int:
    """The most tokens of what a guided strategy adds to a chat's messages, which repeats the last one of them."""
    words = sum(BYTES * len(prompts[name].text) for name in (guidance_prompt, *ADDED) if name is not None)
    return words + BYTES * sum(len(str(message.get("content"))) for message in exchange.chat.messages[-1:])


def least(*limits: int | None) -> int | None:
    """The smallest of some limits; None: there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def dearest(
    book: PriceBook,
    upstream: Upstream,
    model: str,
    options: Mapping[str, Any],
    size: int,
    output: int,
    moments: Sequence[float | None] = (None,),
) -> Money | None:
    """The most that one call with `size` tokens in and `output` out can cost at one of `moments`; None: no price.

    Of several models that one call may ask, each reads all, and what was written; together they write `output`.

    In whichever tier: the default one, which a provider may fall back to, and the one that `options` ask for, or where
    they leave it to the provider, any that there is a price of.
    """
    tier, left_open = tier_asked(options), options.get("service_tier") in (None, "auto")
    size = (size + upstream.preamble) * upstream.asks + output * (upstream.asks - 1)
    most = Money.ZERO
    for moment in moments:
        for each in (None, *((tier,) if tier is not None else UNASKED if left_open else ())):
            price = book.price(model, provider=upstream.seller, tier=each, moment=moment, input_tokens=size)
            if price is None and left_open and each is not None:
                continue
            if price is None:
                return None
            # Input that the provider writes to its cache may cost more than other input.
            dearer = price.input is not None and price.cache_write is not None and price.cache_write > price.input
            written = size if dearer else None
            cost = price.cost(Usage(size, output, cache_write=written, seconds=upstream.max_seconds))
            if cost is None:
                return None
            most = max(most, cost)
    return most


def quoting(book: PriceBook, upstreams: Mapping[str, Upstream]) -> Callable[[str, str], Price | None]:
    """What a planner asks for the price, now, of a model of an upstream."""

    def quote(upstream: str, model: str) -> Price | None:
        return book.price(model, provider=upstreams[upstream].seller)

    return quote


def tier_asked(options: Mapping[str, Any]) -> str | None:
    """The service tier that a call asks for; None: the default one, or whichever the provider decides for."""
    tier = options.get("service_tier")
    return tier if isinstance(tier, str) and tier not in UNDECIDED else None


def _moved(call: Call, spent: Usage) -> None:
    """Another model goes on from what was said: that is in its prompt now."""
    call.former = spent if call.former is None else call.former.plus(spent)
    if call.prompt is not None:
        call.prompt = replace(call.prompt, prefix=(call.prompt.prefix + "".join(call.spoken)).rstrip())
    call.spoken.clear()


def _words(value: object) -> str:
    """What a model wrote into other members of a delta: hidden reasoning, a refusal, the arguments of a tool."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_words(member) for name, member in value.items() if name not in NOT_SAID)
    return "".join(map(_words, value)) if isinstance(value, Sequence) else ""
