"""Guard: an engine in, an engine out that gives up in time, tries again while nothing is lost, and knows when not to.

    |-- try --|-- pause --|-- try: until the first event --|-- the answer, from here on as the engine gives it --|
    |-- total ------------------------------------------------------------------------------------------------->|

Tries are repeated before the first event only, and never after a call that may have been answered and billed: not
after a first token that did not come in time, nor a gateway time-out of a proxy. Each try passes the breaker
(`students.breaker`); while that is open, nothing is asked.

The loop is tenacity's. The first try is made outside of it, since most calls need no second one and the library takes
a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from time import monotonic

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random,
    wait_random_exponential,
)

from students.breaker import OPEN, Breaker
from students.engine import Ability, Embedded, Embedder, Engine, Event, Prompt
from students.errors import BadReply, EngineError, Overloaded, PromptTooLong, Refused, TimedOut, Unavailable
from students.prefill import Proof, proof_of
from students.runs import Run
from students.spec import Spec

LONGEST_PAUSE = 2.0
"""Seconds; an upstream that asks for a longer pause is not asked again within the call."""

PAUSE = wait_random(0.05, 0.1) + wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE)
"""Before a second try of what did not say when; random, so that callers do not come back all at once."""

LATE = 0.1
"""After a pause that the upstream asked for: at most this share of it more, for the same reason."""

MAYBE_BILLED = frozenset({504, 524})
"""Statuses with which a proxy gives up on a server that may go on, and be paid for it."""

log = structlog.get_logger("students.guard")


class Guard:
    """An `Engine` around another one, which it owns. Name, model and abilities are that one's.

    For metrics: `retries`, how often something was tried again, and `breaker`.
    """

    def __init__(self, engine: Engine, spec: Spec) -> None:
        self.engine = engine
        self.breaker = Breaker(engine.name, spec.breaker)
        self.retries = 0
        self._tries = 1 + spec.retries
        self._total = spec.max_seconds
        self._keeps_total = hasattr(spec, "deadlines")
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"Guard({self.engine!r})"

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def model(self) -> str:
        return self.engine.model

    @property
    def abilities(self) -> Ability:
        return self.engine.abilities

    @property
    def proof(self) -> Proof | None:
        """What the engine's probe found; None: it has made none, or makes none."""
        return proof_of(self.engine)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """See `Engine.stream`. Raises `Unavailable` at once while the breaker is open."""
        ends = monotonic() + self._total
        # What the first try of an engine with deadlines may take, it knows itself; not what went on before a second.
        watched = not self._keeps_total
        try:
            events, event = await self._first(prompt, ends)
        except EngineError as error:
            if self._tries == 1 or not self._again(error):
                raise
            events, event = await self._more(prompt, ends, error)
            watched = True
        async with aclosing(events):
            try:
                if watched:
                    while True:
                        yield event
                        event = await self._next(events, ends)
                yield event
                async for event in events:
                    yield event
            except StopAsyncIteration:
                pass
            except (GeneratorExit, asyncio.CancelledError):
                self.breaker.good()  # it spoke; how it would have ended, nobody knows
                raise
            except Exception as error:
                self._judge(error)
                raise
            self.breaker.good()

    async def embed(self, texts: Sequence[str], runs: list[Run] | None = None) -> Embedded:
        """See `students.engine.Embedder.embed`: one try. Raises `Refused` for an engine that has no embeddings."""
        if not isinstance(self.engine, Embedder):
            raise Refused("it gives no embeddings", engine=self.name)
        trial = await self.breaker.enter()
        try:
            async with asyncio.timeout(self._total):
                found = await self.engine.embed(texts, runs)
        except TimeoutError:
            late = TimedOut("the answer took too long", engine=self.name, deadline="total")
            self._judge(late, trial=trial)
            raise late from None
        except BaseException as error:
            self._judge(error, trial=trial)
            raise
        self.breaker.good()
        if trial:
            self.breaker.close()
        return found

    async def ready(self) -> Ability:
        """See `Engine.ready`; the breaker is not asked."""
        return await self.engine.ready()

    async def aclose(self) -> None:
        """Close the engine."""
        self._closing.set()
        await self.engine.aclose()

    async def _first(self, prompt: Prompt, ends: float) -> tuple[AsyncGenerator[Event, None], Event]:
        """One try: the stream, and its first event."""
        trial = await self.breaker.enter()
        events = self.engine.stream(prompt)
        try:
            try:
                event = await self._next(events, ends)
            except StopAsyncIteration:
                raise BadReply("the answer ended without its end", engine=self.name) from None
        except BaseException as error:
            await events.aclose()
            self._judge(error, trial=trial)
            raise
        if trial:
            self.breaker.close()
        return events, event

    async def _more(
        self, prompt: Prompt, ends: float, failed: EngineError | None
    ) -> tuple[AsyncGenerator[Event, None], Event]:
        """The same, after one try that `failed`."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(self._again),
            wait=_pause,
            stop=stop_after_attempt(self._tries) | stop_before_delay(ends - monotonic()),
            sleep=self._sleep,
            before_sleep=self._note,
            reraise=True,
        ):
            with attempt:
                if failed is not None:
                    error, failed = failed, None
                    raise error
                return await self._first(prompt, ends)
        raise AssertionError("tenacity ends in a result or an error")

    async def _next(self, events: AsyncGenerator[Event, None], ends: float) -> Event:
        try:
            async with asyncio.timeout(ends - monotonic()):
                return await anext(events)
        except TimeoutError:
            raise TimedOut("the answer took too long", engine=self.name, deadline="total") from None

    def _again(self, error: BaseException) -> bool:
        """Whether another try may help, and nothing was billed."""
        if isinstance(error, Overloaded):
            after = error.retry_after
            return after is not None and after <= LONGEST_PAUSE and error.code != "insufficient_quota"
        if isinstance(error, Unavailable):
            return error.code != OPEN and error.status not in MAYBE_BILLED and not self._closing.is_set()
        return isinstance(error, TimedOut) and error.deadline == "connect"

    def _judge(self, error: BaseException, *, trial: bool = False) -> None:
        """Tell the breaker of a try that failed, or was left."""
        if self._closing.is_set():
            return
        if isinstance(error, Unavailable | BadReply) or (isinstance(error, TimedOut) and error.deadline != "place"):
            self.breaker.bad(trial=trial)
        elif isinstance(error, Refused | PromptTooLong):  # of use to nobody, but it is well
            self.breaker.good()
            if trial:
                self.breaker.close()
        elif trial:
            self.breaker.leave()

    def _note(self, state: RetryCallState) -> None:
        self.retries += 1
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning("trying again", engine=self.name, attempt=state.attempt_number, error=type(error).__name__)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try."""
    error = state.outcome.exception() if state.outcome is not None else None
    after = error.retry_after if isinstance(error, Overloaded) else None
    return PAUSE(state) if after is None else after + wait_random(0, LATE * after)(state)
