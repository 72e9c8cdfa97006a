"""Guidance cache: a teacher's first words, kept for when the same caller would have it asked the very same again.

Words are kept, never answers: a strategy goes on from them as from words that it has just heard, and the student
writes the rest under the caller's own settings. The teacher is asked by each of several equal requests that come at
once; nobody waits for another one's words.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from gateway.chat import Call, Exchange, Seat, Stage
from gateway.shared.cache import Cache
from gateway.strategies.base import Upstreams
from gateway.strategies.seam import whole
from gateway.upstreams import Upstream
from pricing.usage import Usage
from students.engine import Ability, Delta, Event, Finish, Prompt, Vector
from students.spec import UpstreamSpec

FORMAT = 1
"""Grows when what is kept, or what it is kept under, means something else than before."""

NEVER = ("refusal", "tool_calls", "function_call")
"""Members of a delta whose words no other answer may begin with."""

PASSING = ("images", "audio")
"""What messages may only point to, so that the same ones can mean something else tomorrow."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a teacher said, piece by piece with its log-probabilities, how it ended, and what it took."""

    pieces: Sequence[tuple[str, Any]]
    finish: str
    usage: Usage | None
    tier: str | None
    seconds: float


class GuidanceCache:
    """The guidance of one gateway. `specs` says how each upstream is asked; `secret` is known to its replicas alone.

    Keys are HMAC digests of everything that decides about the teacher's words, and of whose they are: no prompt can be
    read from them nor, where there is a `secret`, be tried out on them.
    """

    def __init__(
        self,
        cache: Cache,
        upstreams: Mapping[str, Upstream],
        specs: Mapping[str, UpstreamSpec],
        secret: bytes | None = None,
    ) -> None:
        self._cache = cache
        self._upstreams = upstreams
        self._told = {name: spec.model_dump_json() for name, spec in specs.items()}
        self._secret = secret or b""

    def before(self, upstreams: Upstreams, exchange: Exchange) -> Upstreams:
        """What a strategy asks for this exchange: `upstreams`, with the cache before them where the plan has one."""
        return upstreams if exchange.plan.guidance_cache is None else _Recalling(upstreams, exchange, self)

    async def find(self, exchange: Exchange, prompt: Prompt) -> Kept | None:
        """What the teacher said when it was asked this; None: nothing that is young enough is known."""
        found = await self._cache.get(self.key(exchange, prompt))
        seconds = exchange.plan.guidance_cache or 0
        return None if found is None else unpacked(found, not_before=time.time() - seconds)

    async def keep(self, exchange: Exchange, prompt: Prompt, said: Sequence[Delta], call: Call) -> bool:
        """Keep what the teacher `said` in `call`; False: it is not for keeping, or there is no place for it."""
        packed = pack(said, call)
        seconds = exchange.plan.guidance_cache
        if packed is None or seconds is None:
            return False
        return await self._cache.put(self.key(exchange, prompt), packed, seconds)

    def recalled(self, exchange: Exchange, prompt: Prompt, kept: Kept) -> Call:
        """The call that was not made, with what it would have taken as far as anybody knows."""
        upstream = self._teacher(exchange)
        return Call(
            id=f"{exchange.chat.id}/recalled",
            request_id=exchange.chat.id,
            stage="guidance",
            seat="teacher",
            upstream=upstream.name,
            model=prompt.model or upstream.model,
            stand_in=upstream.stand_in,
            started=time.time(),
            bound=None,
            duration=kept.seconds,
            usage=kept.usage,
            finish=kept.finish,
            tier=kept.tier,
            prompt=prompt,
            spoken=[text for text, _ in kept.pieces],
        )

    def key(self, exchange: Exchange, prompt: Prompt) -> str:
        """Where the answer to `prompt` is kept. Of all that is in it, only how it is sent makes no difference."""
        upstream = self._teacher(exchange)
        asked = (upstream.name, prompt.model or upstream.model, self._told.get(upstream.name))
        stand_in = (upstream.stand_in, self._told.get(upstream.stand_in or ""))
        settings = (prompt.max_tokens, prompt.prefix, asdict(prompt.sampling), prompt.n, prompt.options)
        exact = orjson.dumps(
            [FORMAT, exchange.caller.id, *asked, *stand_in, *settings, *prompt.messages], option=orjson.OPT_SORT_KEYS
        )
        return f"guidance:{hmac.new(self._secret, exact, hashlib.sha256).hexdigest()}"

    def _teacher(self, exchange: Exchange) -> Upstream:
        name = exchange.plan.teacher
        if name is None:
            raise LookupError("the plan has no teacher")  # the planner has checked
        return self._upstreams[name]


class _Recalling:
    """`Upstreams` of which the teacher need not be asked for first words that are known. See `GuidanceCache.before`."""

    def __init__(self, behind: Upstreams, exchange: Exchange, cache: GuidanceCache) -> None:
        self.prompts = behind.prompts
        self._behind = behind
        self._exchange = exchange
        self._cache = cache

    def can(self, seat: Seat, ability: Ability, upstream: str | None = None) -> bool:
        return self._behind.can(seat, ability, upstream)

    def ask(self, seat: Seat, stage: Stage, prompt: Prompt, upstream: str | None = None) -> AsyncGenerator[Event, None]:
        if stage != "guidance":
            return self._behind.ask(seat, stage, prompt, upstream)
        if bypasses(self._exchange):
            self._exchange.guidance_cache = "bypassed"
            return self._behind.ask(seat, stage, prompt)
        return self._guidance(prompt)

    async def embed(self, stage: Stage, texts: Sequence[str], upstream: str) -> Sequence[Vector]:
        return await self._behind.embed(stage, texts, upstream)

    async def passes(self, program: str, tests: str) -> bool | None:
        return await self._behind.passes(program, tests)

    async def _guidance(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        exchange = self._exchange
        kept = await self._cache.find(exchange, prompt)
        if kept is not None:
            exchange.guidance_cache, exchange.recalled = "hit", self._cache.recalled(exchange, prompt, kept)
            for text, logprobs in kept.pieces:
                yield Delta(text, logprobs=logprobs)
            yield Finish((kept.finish,), kept.usage, service_tier=kept.tier)
            return
        exchange.guidance_cache = "miss"
        said: list[Delta] = []
        async with aclosing(self._behind.ask("teacher", "guidance", prompt)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    said.append(event)
                elif await self._cache.keep(exchange, prompt, said, exchange.calls[-1]):
                    exchange.guidance_cache = "stored"
                yield event


def bypasses(exchange: Exchange) -> bool:
    """Whether the teacher is asked in any case, and nothing is kept.

    The request says so; its caller's own key pays, so that the words are not the gateway's; the provider is to keep
    what the teacher writes; or the messages do not hold all that they say.
    """
    chat = exchange.chat
    return (
        chat.overrides.cache is False
        or exchange.own_key
        or bool(chat.teacher_options.get("store"))
        or not chat.needs.isdisjoint(PASSING)
    )


def pack(said: Sequence[Delta], call: Call) -> bytes | None:
    """What is kept of a call that has ended; None for words that no answer could begin with.

    Those are refusals, calls of tools, what a filter cut, and what would be wasted: nothing, or nothing whole.
    """
    if call.finish not in ("stop", "length") or any(_is_never(delta) for delta in said):
        return None
    text = "".join(delta.text for delta in said)
    if not (text if call.finish == "stop" else text[: whole(text)]).strip():
        return None
    pieces = [(delta.text, delta.logprobs) for delta in said]
    usage = None if call.usage is None else asdict(call.usage)
    if usage is not None and usage["seconds"] is None and call.runs:
        usage["seconds"] = call.occupied
    now = time.time()
    took = {"usage": usage, "tier": call.tier, "seconds": max(0.0, now - call.started)}
    return orjson.dumps({"at": now, "pieces": pieces, "finish": call.finish, **took})


def unpacked(data: bytes, not_before: float) -> Kept | None:
    """What `pack` made, unless that was too long ago; None too for what is nothing of the kind."""
    try:
        told = orjson.loads(data)
        if told["at"] <= not_before:
            return None
        pieces = [(str(text), logprobs) for text, logprobs in told["pieces"]]
        usage = None if told["usage"] is None else Usage(**told["usage"])
        return Kept(pieces, str(told["finish"]), usage, told["tier"], float(told["seconds"]))
    except (ValueError, TypeError, KeyError):
        return None


def _is_never(delta: Delta) -> bool:
    return delta.fields is not None and any(delta.fields.get(name) for name in NEVER)
