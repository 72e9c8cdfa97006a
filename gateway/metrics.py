"""Metrics: what Prometheus is told. Counters are fed from settled entries, so they agree with the ledger.

They count what was settled at the time and do not follow what corrects it later: a shadow that gives its request a
measured baseline, or `gkt ledger reprice`. The ledger's sums do.

Every label has few values: names come from the configuration, and whatever else a client asks for is `other`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway.chat import CacheOutcome, Call, Stage
from gateway.config import Config
from gateway.ledger.entry import Entry
from pricing.baseline import Method
from pricing.money import NANO
from students.breaker import State

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Names a folder through which several processes show their sums together; read once, at start."""

OTHER = "other"
"""Stands for every name that the configuration does not hold."""

STAGES: tuple[Stage, ...] = get_args(Stage)
SHADOWS = ("ok", "failed", "abandoned", "skipped")
KINDS = (
    ("input", "uncached"),
    ("input", "cached"),
    ("input", "cache_write"),
    ("output", "visible"),
    ("output", "reasoning"),
)
"""Directions and kinds of tokens; no token is in two of them."""

RELOADS = ("applied", "partial", "rejected")
"""How a reload ended: `partial` was applied but for what needs a restart; `rejected` changed nothing."""

DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds; the steps that OpenTelemetry recommends for the durations of GenAI calls."""
FIRST_TOKENS = DURATIONS[:-2]


@dataclass(frozen=True, slots=True)
class Told:
    """What one metric says, and by what it is told apart."""

    text: str
    labels: tuple[str, ...] = ()


COUNTERS: Mapping[str, Told] = {
    "gkt_requests_total": Told("Settled requests.", ("model", "strategy", "outcome", "stream")),
    "gkt_refused_requests_total": Told("Requests that were answered with an error before any plan.", ("status",)),
    "gkt_tokens_total": Told("Tokens of calls to models, reported or counted.", ("stage", "direction", "kind")),
    "gkt_cost_usd_total": Told("Dollars of all priced calls.", ("stage",)),
    "gkt_notional_cost_usd_total": Told("The part of gkt_cost_usd_total that a stand-in did not really cost."),
    "gkt_baseline_cost_usd_total": Told(
        "What the teacher alone would have cost, over requests whose own cost is known too.", ("method",)
    ),
    "gkt_compared_cost_usd_total": Told("What the requests behind gkt_baseline_cost_usd_total did cost.", ("method",)),
    "gkt_wasted_guidance_total": Told("Requests whose guidance was asked for and not used.", ("reason",)),
    "gkt_guidance_paused_total": Told(
        "Times that a teacher was asked for no guidance for a while, since its last ones came to nothing.",
        ("upstream",),
    ),
    "gkt_guidance_cache_total": Told(
        "Guidance on routes that keep it: hit, the teacher was not asked; stored; miss, what it said is not kept; "
        "bypassed, the cache was not asked.",
        ("outcome",),
    ),
    "gkt_fallback_total": Told("Requests in which a model took over from another that failed.", ("reason",)),
    "gkt_unpriced_requests_total": Told("Requests with a call that has no price."),
    "gkt_limit_refusals_total": Told("Requests that a limit or a budget refused.", ("limit",)),
    "gkt_redis_outages_total": Told("How often Redis became unreachable."),
    "gkt_redis_local_total": Told("Limits and budgets that were asked on local counts, for want of Redis."),
    "gkt_redis_refused_total": Told("Limits and budgets that could not be asked for want of Redis: 503."),
    "gkt_shadows_total": Told(
        "Measurements: answers of the teacher alone to requests that were served; skipped: there was no room.",
        ("outcome",),
    ),
    "gkt_retries_total": Told("Calls to an upstream that were made again before the first word.", ("upstream",)),
    "gkt_pool_moves_total": Told(
        "Answers of a pool that a member failed and another one was asked for.", ("upstream",)
    ),
    "gkt_config_reload_total": Told("Reloads of the configuration.", ("outcome",)),
}
HISTOGRAMS: Mapping[str, Told] = {
    "gkt_stage_duration_seconds": Told(
        "How long calls to models took; provider is the upstream's name in the configuration.",
        ("stage", "provider", "model", "outcome"),
    ),
    "gkt_time_to_first_token_seconds": Told(
        "From the plan to the first text that the client was sent.", ("strategy", "stream")
    ),
}
GAUGES: Mapping[str, Told] = {
    "gkt_requests_in_flight": Told("Requests under way."),
    "gkt_ledger_queue_rows": Told("Rows that wait to be written into the ledger; of several processes, the most."),
    "gkt_ledger_queue_limit_rows": Told("Rows that may wait in a process; with more, calls are answered 503."),
    "gkt_ledger_away": Told("Processes whose database fails or says nothing now, 0 or 1 each."),
    "gkt_ledger_spool_bytes": Told(
        "Bytes that wait on disk for the ledger's database; of several processes, the most."
    ),
    "gkt_ledger_spool_limit_bytes": Told(
        "Bytes that may wait there for a process; with seven eighths of them, calls are answered 503."
    ),
    "gkt_redis_away": Told("Processes that cannot reach Redis now, 0 or 1 each."),
    "gkt_upstream_ready": Told("1: the upstream could be reached when it was last looked at.", ("upstream",)),
    "gkt_upstream_breaker": Told(
        "0: the upstream is asked (closed); 1: one call may try it (half-open); 2: it is left alone (open).",
        ("upstream",),
    ),
    "gkt_pool_members_out": Told(
        "Members of a pool that are asked for nothing (drained), or only for want of others (sick); of several "
        "processes, the most.",
        ("upstream", "reason"),
    ),
}

BREAKERS: Mapping[State, int] = {"closed": 0, "half-open": 1, "open": 2}

M = TypeVar("M", Counter, Gauge, Histogram)


class Family(Generic[M]):
    """The children of one metric by their label values; the library's own lookup takes a lock and makes strings."""

    __slots__ = ("_children", "_metric")

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class _Spending:
    """What one stage consumed: its tokens by kind, and its dollars."""

    __slots__ = ("cost", "tokens")

    def __init__(self, stage: Stage, tokens: Family[Counter], cost: Family[Counter]) -> None:
        self.tokens = [tokens(stage, *kind) for kind in KINDS]
        self.cost = cost(stage)


class Metrics:
    """The counters and gauges of one gateway.

    With `PROMETHEUS_MULTIPROC_DIR` set, all processes that share the folder are shown as one, whichever is asked;
    there may then be one `Metrics` a process. Amounts are dollars as floats: the exact ones are the ledger's.
    """

    def __init__(self, config: Config) -> None:
        """Raises OSError when the shared folder cannot be made."""
        self._folder = os.environ.get(SHARED)
        if self._folder:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        prometheus_client.disable_created_metrics()  # one more series for each, which nobody reads
        self._registry = registry = CollectorRegistry()

        def counter(name: str) -> Counter:
            return Counter(name, COUNTERS[name].text, COUNTERS[name].labels, registry=registry)

        def histogram(name: str, buckets: Sequence[float]) -> Histogram:
            told = HISTOGRAMS[name]
            return Histogram(name, told.text, told.labels, registry=registry, buckets=buckets)

        def gauge(name: str, mode: Literal["livesum", "livemin", "livemax"] = "livesum") -> Gauge:
            told = GAUGES[name]
            return Gauge(name, told.text, told.labels, registry=registry, multiprocess_mode=mode)

        self._requests = Family(counter("gkt_requests_total"))
        self._refused = Family(counter("gkt_refused_requests_total"))
        self._duration = Family(histogram("gkt_stage_duration_seconds", DURATIONS))
        self._first_token = Family(histogram("gkt_time_to_first_token_seconds", FIRST_TOKENS))
        tokens, cost = Family(counter("gkt_tokens_total")), Family(counter("gkt_cost_usd_total"))
        self._stages = {stage: _Spending(stage, tokens, cost) for stage in STAGES}
        self._notional = counter("gkt_notional_cost_usd_total")
        self._baseline = Family(counter("gkt_baseline_cost_usd_total"))
        self._compared = Family(counter("gkt_compared_cost_usd_total"))
        self._wasted = Family(counter("gkt_wasted_guidance_total"))
        self._paused = Family(counter("gkt_guidance_paused_total"))
        self._guidance_cache = Family(counter("gkt_guidance_cache_total"))
        self._fallback = Family(counter("gkt_fallback_total"))
        self._unpriced = counter("gkt_unpriced_requests_total")
        self._limited = Family(counter("gkt_limit_refusals_total"))
        self._away = gauge("gkt_redis_away")
        self._without = {name: counter(f"gkt_redis_{name}_total") for name in ("outages", "local", "refused")}
        self._told: dict[str, int] = dict.fromkeys(self._without, 0)
        self._shadows = Family(counter("gkt_shadows_total"))
        self._reloads = Family(counter("gkt_config_reload_total"))
        self._ready = Family(gauge("gkt_upstream_ready", "livemin"))
        self._breaker = Family(gauge("gkt_upstream_breaker", "livemax"))
        self._retries = Family(counter("gkt_retries_total"))
        self._pool_moves = Family(counter("gkt_pool_moves_total"))
        self._pool_out = Family(gauge("gkt_pool_members_out", "livemax"))
        self._counted: dict[tuple[Family[Counter], str], int] = {}
        self.in_flight = gauge("gkt_requests_in_flight")
        self.queue = gauge("gkt_ledger_queue_rows", "livemax")
        gauge("gkt_ledger_queue_limit_rows", "livemax").set(config.ledger.queue)
        self._ledger_away = gauge("gkt_ledger_away")
        self._spool = gauge("gkt_ledger_spool_bytes", "livemax")
        gauge("gkt_ledger_spool_limit_bytes", "livemax").set(config.ledger.spool_bytes)
        for outcome in RELOADS:  # from 0 on, so that the first one is an increase
            self._reloads(outcome)
        for outcome in SHADOWS:
            self._shadows(outcome)
        for outcome in get_args(CacheOutcome):
            self._guidance_cache(outcome)
        for method in get_args(Method):
            self._baseline(method)
            self._compared(method)
        self._names: frozenset[str] = frozenset()
        self.know(config)
        if not self._folder:
            ProcessCollector(registry=registry)

    @property
    def shared(self) -> bool:
        """True when other processes read this one's gauges from files, so that they must be set as they change."""
        return bool(self._folder)

    def know(self, config: Config) -> None:
        """Take the names that may be labels from `config`: its routes, and the models of its upstreams and prices."""
        routes = {model for route in config.routes.values() if (model := route.teacher_model) is not None}
        models = {spec.model for spec in config.upstreams.values()}
        self._names = frozenset({*config.routes, *config.prices, *routes, *models} - {"*"})

    def settled(self, entry: Entry) -> None:
        """Count one settled request. Call it once an entry."""
        stream = "true" if entry.stream else "false"
        self._requests(self._name(entry.model), entry.strategy, entry.outcome, stream).inc()
        if entry.first_token is not None:
            self._first_token(entry.strategy, stream).observe(entry.first_token)
        spent: int | None = 0
        for call in entry.calls:
            self._called(call)
            amount = call.line.amount if call.line is not None else None
            spent = None if spent is None or amount is None else spent + amount.nano
        baseline = entry.baseline
        if spent is None:
            self._unpriced.inc()
        elif baseline is not None and baseline.likely is not None:
            self._baseline(baseline.method).inc(baseline.likely.nano / NANO)
            self._compared(baseline.method).inc(spent / NANO)
        if entry.wasted is not None:
            self._wasted(entry.wasted).inc()
        if entry.guidance_cache is not None:
            self._guidance_cache(entry.guidance_cache).inc()
        reason = fallback(entry)
        if reason is not None:
            self._fallback(reason).inc()

    def paused(self, upstream: str) -> None:
        """Count the beginning of a time in which that teacher gives no guidance."""
        self._paused(upstream).inc()

    def measured(self, entry: Entry) -> None:
        """Count one settled shadow: its calls, and no request."""
        for call in entry.calls:
            self._called(call)
        self.shadow(entry.outcome)

    def shadow(self, outcome: str) -> None:
        """Count a shadow; `outcome` is one of `SHADOWS`."""
        self._shadows(outcome).inc()

    def refused(self, status: int) -> None:
        """Count a request that was answered with an error and was never an exchange: a wrong key, a full house."""
        self._refused(str(status)).inc()

    def limited(self, limit: str) -> None:
        """Count a request that `limit` refused: requests, tokens, concurrent, budget, or away."""
        self._limited(limit).inc()

    def ledger(self, waiting: int, spooled: int, *, away: bool) -> None:
        """Say how many rows wait in memory, how many bytes on disk, and whether the database is away."""
        self.queue.set(waiting)
        self._spool.set(spooled)
        self._ledger_away.set(away)

    def redis(self, away: bool, counts: Mapping[str, int]) -> None:
        """Say how Redis is; `counts` are `outages`, `local` and `refused` since the process started."""
        self._away.set(away)
        for name, counter in self._without.items():
            counter.inc(counts[name] - self._told[name])
            self._told[name] = counts[name]

    def reloaded(self, outcome: str) -> None:
        """Count a reload; `outcome` is one of `RELOADS`."""
        self._reloads(outcome).inc()

    def ready(self, upstream: str, ready: bool) -> None:
        """Say whether an upstream could be reached."""
        self._ready(upstream).set(ready)

    def guard(self, upstream: str, breaker: State, retries: int) -> None:
        """Say how an upstream's breaker stands, and how often it was asked again since the process started."""
        self._breaker(upstream).set(BREAKERS[breaker])
        self._count(self._retries, upstream, retries)

    def pool(self, upstream: str, moves: int, drained: int, sick: int) -> None:
        """Say how many members of a pool are out, and how often answers moved since the process started."""
        self._count(self._pool_moves, upstream, moves)
        self._pool_out(upstream, "drained").set(drained)
        self._pool_out(upstream, "sick").set(sick)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the form that `accept` prefers, with its content type. Reads files in shared mode."""
        encode, kind = choose_encoder(accept)
        if not self._folder:
            return encode(self._registry), kind
        _bury(Path(self._folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._folder)
        return encode(registry), kind

    def close(self) -> None:
        """In shared mode, take back this process's gauges; its counters stay."""
        if self._folder:
            mark_process_dead(os.getpid(), self._folder)

    def _count(self, family: Family[Counter], upstream: str, total: int) -> None:
        """Bring a counter to what was counted elsewhere since the process started."""
        family(upstream).inc(total - self._counted.get((family, upstream), 0))
        self._counted[family, upstream] = total

    def _called(self, call: Call) -> None:
        if call.duration is not None:
            outcome = "cut" if call.cut else "ok" if call.error is None else "failed"
            self._duration(call.stage, call.upstream, self._name(call.model), outcome).observe(call.duration)
        spending, usage = self._stages[call.stage], call.usage
        if usage is not None:
            cached, written, hidden = usage.cached or 0, usage.cache_write or 0, usage.reasoning or 0
            amounts = ((usage.input or 0) - cached - written, cached, written, (usage.output or 0) - hidden, hidden)
            for child, amount in zip(spending.tokens, amounts, strict=True):
                if amount > 0:
                    child.inc(amount)
        if call.line is not None and call.line.amount is not None:
            dollars = call.line.amount.nano / NANO
            spending.cost.inc(dollars)
            if call.stand_in is not None:
                self._notional.inc(dollars)

    def _name(self, name: str) -> str:
        return name if name in self._names else OTHER


def fallback(entry: Entry) -> str | None:
    """Which model failed and how, when another one took over: `student_unavailable`, `teacher_timed_out`; else None."""
    failed: Call | None = None
    for call in entry.calls:
        if call.seat == "checker":  # nobody answers for it
            continue
        if failed is not None and call.seat != failed.seat:
            break
        if call.error is not None:
            failed = call
    else:  # in a cascade another student's draft may be given, or one that was there before
        failed = failed if entry.outcome == "ok" else None
    return None if failed is None else f"{failed.seat}_{_snake(failed.error or '')}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _bury(folder: Path) -> None:
    """Take back the gauges of processes that were killed: whatever was under way in them is not any more."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not _alive(int(pid)):
            mark_process_dead(int(pid), str(folder))


def _alive(pid: int) -> bool:
    with suppress(PermissionError):  # it is somebody else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
