"""Bootstrap: the one place that builds everything a gateway needs, and closes it in reverse."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.config import Config
from gateway.errors import Busy, ConfigError
from gateway.keys.ring import Keyring
from gateway.keys.store import KeyStore
from gateway.ledger import aside
from gateway.ledger.retention import Retention
from gateway.ledger.sql import SqlLedger
from gateway.metrics import SHARED, Metrics
from gateway.pipeline import Gateway
from gateway.planner import CHANCE, Draw, Planner
from gateway.shared.budget import Budget
from gateway.shared.build import open_shared
from gateway.shared.logouts import Logouts
from gateway.shared.refusals import Refusals
from gateway.strategies.prompts import Prompts
from gateway.upstreams import Upstream, check_keyless, quoting
from pricing.book import PriceBook
from students.build import MissingKey, build
from students.engine import Engine
from students.guard import Guard
from students.pool import Pool
from students.spec import EngineSpec, Hosted, PoolSpec, UpstreamSpec

if TYPE_CHECKING:
    from gateway.traces import Traces

RECOVERING = 15.0
"""Seconds between looks for what dead processes left put aside, where the ledger does not look itself."""

TELLING = 5.0
"""Seconds between what a process tells of its ledger to those who share its metrics."""

log = structlog.get_logger("gateway.bootstrap")


@asynccontextmanager
async def open_gateway(
    config: Config,
    *,
    environ: Mapping[str, str] = os.environ,
    engines: Mapping[str, Engine] | None = None,
    draw: Draw = CHANCE,
) -> AsyncGenerator[Gateway, None]:
    """Build a gateway, reach and probe its upstreams, and close all of it at the end.

    `engines` replaces upstreams of the configuration by name; they are closed too. `draw`: see `Planner`. Raises
    `ConfigError` when the configuration cannot work. An upstream that cannot be reached now is logged, and tried again
    by `/readyz`.
    """
    async with AsyncExitStack() as stack:
        prompts = Prompts(config.prompts)
        book = PriceBook.from_config(config.prices)
        book.load()
        upstreams = seats(config, environ, engines or {})
        models = AsyncExitStack()
        for engine in {id(upstream.engine): upstream.engine for upstream in upstreams.values()}.values():
            models.push_async_callback(engine.aclose)
        stack.push_async_callback(models.aclose)  # for a start that fails
        fixed, admin = keys(config, environ), admin_key(config, environ)
        planner = Planner(
            config,
            lambda name: upstreams[name].engine.abilities,
            prompts.guidance,
            draw=draw,
            quote=quoting(book, upstreams),
        )
        planner.check()
        check_keyless(config, [name for name, upstream in upstreams.items() if upstream.keyless], planner.students)
        accounts = config.ledger
        ledger = await SqlLedger.open(
            accounts.url,
            text=accounts.store_text,
            limit=accounts.queue,
            spool=accounts.spool,
            spool_bytes=accounts.spool_bytes,
            synchronous=accounts.synchronous,
        )
        stack.push_async_callback(ledger.aclose)
        if accounts.keep_days is not None or accounts.keep_texts_days is not None:
            old = partial(aside.prune, accounts.url, accounts.spool)
            kept = Retention(ledger.store, accounts.keep_days, accounts.keep_texts_days, old)
            stack.push_async_callback(_ended, asyncio.create_task(kept.run()))
        ring = await Keyring.open(KeyStore(ledger.store))
        stack.push_async_callback(ring.aclose)
        agreed = config.shared
        shared = await stack.enter_async_context(
            open_shared(
                redis_url(config, environ),
                when_away=agreed.when_away,
                prefix=agreed.prefix,
                store=ledger.store,
                cache_bytes=agreed.cache_bytes,
            )
        )
        for upstream in upstreams.values():
            if isinstance(upstream.engine, Guard):
                upstream.engine.breaker.share(shared.switches)
        refusals = Refusals(ledger.store)
        stack.push_async_callback(refusals.aclose)
        admission = Admission(shared, refusals, ledger.run)
        stack.push_async_callback(admission.aclose)
        metrics = _metrics(config)
        stack.callback(metrics.close)
        traces = _traces(upstreams) if config.telemetry.traces else None
        if traces is not None:
            stack.push_async_callback(traces.aclose)
        auth = Authenticator(fixed, admin, ring)
        doors = (auth, ring, metrics, admission, Logouts(ledger.store), traces)
        gateway = Gateway(config, planner, upstreams, prompts, book, ledger, *doors)
        await gateway.look()
        # First shadows and models, which ends what still runs; then all of it is booked; then the ledger.
        stack.push_async_callback(gateway.idle)
        stack.push_async_callback(models.aclose)
        watch = asyncio.create_task(gateway.lookout.watch())
        stack.push_async_callback(_ended, watch)
        stack.push_async_callback(_ended, asyncio.create_task(_recovering(shared.budget)))
        if metrics.shared:
            stack.push_async_callback(_ended, asyncio.create_task(_telling(gateway)))
        stack.callback(gateway.shadows.close)
        for name, state in (await gateway.readiness())["upstreams"].items():
            if not state["ready"]:
                log.warning("upstream is not ready", upstream=name, error=state["error"])
        planner.check()
        planner.warn()
        try:
            yield gateway
        finally:
            gateway.closing = True


async def _recovering(budget: Budget) -> None:
    """Settle what ended processes left put aside, now and from time to time."""
    while True:
        try:
            count = await budget.recover()
            if count:
                log.warning("budgets settled what a dead process left put aside", reservations=count)
        except Busy:
            pass  # who keeps budgets is away, and has said so: the next look tries again
        except Exception as error:  # noqa: BLE001 - whatever it is, the looking must go on
            log.warning("what dead processes left put aside cannot be settled", error=type(error).__name__)
        await asyncio.sleep(RECOVERING)


async def _telling(gateway: Gateway) -> None:
    """Where another process may be the one that is scraped, say how the ledger is, also while nobody asks anything."""
    while True:
        gateway.tell_of_ledger()
        await asyncio.sleep(TELLING)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _metrics(config: Config) -> Metrics:
    try:
        return Metrics(config)
    except OSError as error:
        raise ConfigError(f"{SHARED}: cannot use {error.filename}: {error.strerror}") from error


def _traces(upstreams: Mapping[str, Upstream]) -> Traces:
    try:
        from gateway.traces import Traces
    except ImportError as error:
        raise ConfigError(f"telemetry.traces needs the extra: pip install 'gkt-gateway[otel]' ({error})") from error
    return Traces({name: upstream.seller for name, upstream in upstreams.items()})


def seats(config: Config, environ: Mapping[str, str], engines: Mapping[str, Engine]) -> dict[str, Upstream]:
    """Every configured upstream with its engine; a stand-in sits where a key is missing. Raises `ConfigError`.

    The teacher of a route that passes callers' keys on needs none of its own.
    """
    passing = config.passing - set(engines)
    bare: set[str] = set()
    built: dict[str, Engine] = dict(engines)
    missing: dict[str, MissingKey] = {}
    for name, spec in config.upstreams.items():
        if name not in built and not isinstance(spec, PoolSpec):
            try:
                built[name] = build(name, spec, environ=environ, keyless=name in passing)
            except MissingKey as error:
                missing[name] = error
            else:
                if name in passing and not has_key(spec, environ):
                    bare.add(name)
    for name, spec in config.upstreams.items():
        if isinstance(spec, PoolSpec) and name not in built:
            for member in set(spec.members) & set(missing):
                raise ConfigError(f"upstream {member!r}: {missing[member]}")
            built[name] = Pool(name, spec, [built[member] for member in spec.members])
            if bare & set(spec.members):
                bare.add(name)
    seated: dict[str, Upstream] = {}
    for name, spec in config.upstreams.items():
        stand_in = spec.stand_in if isinstance(spec, Hosted) and name in missing else None
        if name in missing and stand_in is None:
            raise ConfigError(f"upstream {name!r}: {missing[name]}")
        if stand_in is not None and stand_in not in built:
            raise ConfigError(f"upstream {name!r}: its stand-in {stand_in!r} cannot be built: {missing[stand_in]}")
        engine = built[stand_in or name]
        keyless = (stand_in or name) in bare
        longest, slowest = max(each.max_output for each in _singles(config, spec)), max_seconds(config, spec)
        asks = spec.asks if isinstance(spec, PoolSpec) else 1
        of = spec.members if isinstance(spec, PoolSpec) else ()
        read = max(map(_preamble, _singles(config, spec)))
        seated[name] = Upstream(
            name, engine, spec.model, longest, slowest, spec.seller, stand_in, keyless, asks, of, read
        )
    check_keyless(config, {name for name, upstream in seated.items() if upstream.keyless})
    return seated


def max_seconds(config: Config, spec: UpstreamSpec) -> float:
    """The most seconds that a call to an upstream may take: of a pool, of all the members that it may ask."""
    asks = spec.asks if isinstance(spec, PoolSpec) else 1
    return max(each.max_seconds for each in _singles(config, spec)) * asks


def _preamble(spec: EngineSpec) -> int:
    """Bytes of what a model reads before every chat; of a file that is not there its engine will say so."""
    file: Path | None = getattr(spec, "exemplars", None)
    return file.stat().st_size if file is not None and file.is_file() else 0


def _singles(config: Config, spec: UpstreamSpec) -> list[EngineSpec]:
    members = [config.upstreams[member] for member in spec.members] if isinstance(spec, PoolSpec) else [spec]
    return [member for member in members if not isinstance(member, PoolSpec)]


def has_key(spec: UpstreamSpec, environ: Mapping[str, str]) -> bool:
    """True when the environment holds the key of the gateway's own for this upstream."""
    variable = getattr(spec, "api_key_env", None)
    return variable is not None and bool(environ.get(variable, "").strip())


def keys(config: Config, environ: Mapping[str, str]) -> list[str]:
    """The callers' keys from the environment. Raises `ConfigError` when they are named but not there."""
    return _secrets("keys_env", config.server.keys_env, environ)


def admin_key(config: Config, environ: Mapping[str, str]) -> str | None:
    """The admin's key from the environment, None when none is named. Raises `ConfigError` as `keys`."""
    return next(iter(_secrets("admin_key_env", config.server.admin_key_env, environ)), None)


def redis_url(config: Config, environ: Mapping[str, str]) -> str | None:
    """The URL of the Redis from the environment, None when none is named. Raises `ConfigError` when it is not there."""
    name = config.shared.redis_url_env
    if name is None:
        return None
    url = environ.get(name, "").strip()
    if not url:
        raise ConfigError(f"shared.redis_url_env: the environment variable {name} is not set")
    return url


def _secrets(setting: str, name: str | None, environ: Mapping[str, str]) -> list[str]:
    if name is None:
        return []
    found = [key.strip() for key in environ.get(name, "").split(",") if key.strip()]
    if not found:
        raise ConfigError(f"server.{setting}: the environment variable {name} is not set, or holds no key")
    if not all(key.isascii() and key.isprintable() for key in found):
        raise ConfigError(f"server.{setting}: a key in {name} holds characters that no Authorization header can carry")
    return found
