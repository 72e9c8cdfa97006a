"""Checkup: everything that could be wrong with a configuration, looked at one by one; no fault hides another."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from gateway import policies
from gateway.bootstrap import keys, redis_url
from gateway.cli import prices
from gateway.cli.seat import Finding, Seat, teaching
from gateway.config import Config, Route
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
from students.spec import Hosted


async def checkup(config: Config, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything: builds, reaches and probes every upstream (small real calls), and closes them again."""
    passing = config.passing
    seats = {name: Seat(name, spec, environ, passing=name in passing) for name, spec in config.upstreams.items()}
    try:
        await asyncio.gather(*(seat.try_out() for seat in seats.values()))
        for seat in seats.values():
            seat.join(seats)
    finally:
        await asyncio.gather(*(seat.engine.aclose() for seat in seats.values() if seat.engine))
    return [
        *_server(config, environ),
        *(finding for seat in seats.values() for finding in seat.findings(seats)),
        *_teachers(config, seats),
        *_routes(config, seats),
        *_prices(config),
        *_vocabularies(config),
        *_ledger(config),
        *await _shared(config, environ),
    ]


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
        alone = config.model_copy(update={"routes": {name: route}})
        try:
            asked = _asked(route, policies.load(alone).get(name))
            asked += [] if route.meaning is None else [route.meaning.upstream]
        except ConfigError as error:
            yield Finding("fail", f"route {name}", str(error).removeprefix(f"route {name!r}: "))
            continue
        broken = [upstream for upstream in asked if not seats[upstream].works(seats)]
        if broken:
            yield Finding("fail", f"route {name}", f"needs {' and '.join(broken)}, which would fail: see above")
            continue
        try:
            planner = Planner(alone, lambda upstream: seats[upstream].sitting(seats).proven, names)
            planner.check()
            check_keyless(alone, {seat.name for seat in seats.values() if seat.keyless}, planner.students)
        except ConfigError as error:
            yield Finding("fail", f"route {name}", str(error))
        else:
            good.append(name)
            for said in policies.incomparable(alone, planner.ladders).values():
                yield Finding("note", f"route {name}", f"drafts can hardly agree: {said}")
    if good:
        yield Finding("ok", "routes", ", ".join(good))
    if ANY not in config.routes:
        yield Finding("note", "routes", "there is no `*`: every other model name is answered 404")


def _asked(route: Route, ladder: policies.Ladder | None) -> list[str]:
    """The upstreams that the route's strategy asks."""
    if route.strategy == "cascade" and ladder is not None:
        return [route.teacher or "", *dict.fromkeys(ladder.students.values())]
    if not route.guided:
        return [route.teacher or ""] if route.strategy == "teacher" else [route.student or ""]
    return [upstream for upstream in (route.teacher, route.student) if upstream is not None]


def _teachers(config: Config, seats: Mapping[str, Seat]) -> Iterator[Finding]:
    """What is not known about the models that give guidance."""
    told: set[tuple[str, str]] = set()
    for route in config.routes.values():
        spec = config.engine(route.teacher)
        if not (route.guided and route.teacher and isinstance(spec, Hosted)) or seats[route.teacher].fault is not None:
            continue
        named = route.teacher_model
        model = spec.model if named is None or named == ANY else named
        if (route.teacher, model) in told or seats[route.teacher].stand_in is not None:
            continue
        told.add((route.teacher, model))
        finding = teaching(route.teacher, spec, model)
        if finding is not None:
            yield finding


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
        caching = [name for name, route in config.routes.items() if route.guidance_cache is not None]
        if not caching:
            return []
        says = f"without Redis each process keeps guidance for itself: {', '.join(caching)}"
        return [Finding("note", "shared", says, "several processes share it by shared.redis_url_env")]
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
