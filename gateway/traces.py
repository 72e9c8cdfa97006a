"""Traces: OpenTelemetry spans, one of a request and one of each call below it. No prompt, answer or key is in them.

The names follow OpenTelemetry's conventions for HTTP servers and for generative AI (which are still being developed,
so all of them stand here); what those have no name for begins with `gkt.`. Imported only where traces are configured.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.chat import Call
from gateway.ledger.entry import Entry
from students.spec import SELF

METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
PATH: Final = "url.path"
SCHEME: Final = "url.scheme"
STATUS: Final = "http.response.status_code"
ERROR: Final = "error.type"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
MODEL: Final = "gen_ai.request.model"
STREAM: Final = "gen_ai.request.stream"
FINISH: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT: Final = "gen_ai.usage.input_tokens"
OUTPUT: Final = "gen_ai.usage.output_tokens"
CACHED: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE: Final = "gen_ai.usage.cache_creation.input_tokens"

REQUEST: Final = "gkt.request_id"
GKT_ROUTE: Final = "gkt.route"
STRATEGY: Final = "gkt.strategy"
OUTCOME: Final = "gkt.outcome"
COST: Final = "gkt.cost_usd"
BASELINE: Final = "gkt.baseline_usd"
WASTED: Final = "gkt.wasted"
GUIDANCE_CACHE: Final = "gkt.guidance_cache"
STAGE: Final = "gkt.stage"
SEAT: Final = "gkt.seat"
UPSTREAM: Final = "gkt.upstream"
STAND_IN: Final = "gkt.stand_in"
SOURCE: Final = "gkt.usage.source"
CUT: Final = "gkt.cut"

CHAT: Final = "chat"
SERVICE: Final = "gkt-gateway"
CARRIED: Final = ("traceparent", "tracestate")

FLUSH_SECONDS = 5.0
"""How long a stop waits for the last spans to be sent."""

Value = str | int | float | bool | Sequence[str]

log = structlog.get_logger("gateway.traces")


class Served:
    """The span of one request."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, status: int | None) -> None:
        """Say how the request was answered; None: the client left before that."""
        if status is not None:
            self._span.set_attribute(STATUS, status)
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))


class Traces:
    """Makes the spans of one gateway and sends them. `sellers`: who sells the model of each upstream."""

    def __init__(self, sellers: Mapping[str, str | None], provider: TracerProvider | None = None) -> None:
        """Without a `provider`, one that sends OTLP over HTTP, as the `OTEL_` variables of the environment say."""
        self._sellers = sellers
        self._provider = exporting() if provider is None else provider
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Iterator[Served]:
        """The span of one request while the block lasts, below the caller's own where its headers name one."""
        carrier = {name: headers[key].decode("latin-1") for name in CARRIED if (key := name.encode()) in headers}
        with self._tracer.start_as_current_span(
            f"{method} {path}",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {METHOD: method, ROUTE: path, PATH: path, SCHEME: "http"},
            record_exception=False,  # its message may hold what nobody should read
            set_status_on_exception=False,
        ) as span:
            yield Served(span)

    def settled(self, entry: Entry) -> None:
        """Say what became of the current request, and add the spans of its calls."""
        spent, baseline = entry.spent, entry.baseline.likely if entry.baseline else None
        _set(
            trace.get_current_span(),
            {
                REQUEST: entry.request_id,
                MODEL: entry.model,
                STREAM: entry.stream,
                GKT_ROUTE: entry.route,
                STRATEGY: entry.strategy,
                OUTCOME: entry.outcome,
                COST: None if spent is None else float(spent.dollars),
                BASELINE: None if baseline is None else float(baseline.dollars),
                WASTED: entry.wasted,
                GUIDANCE_CACHE: entry.guidance_cache,
                ERROR: entry.error,
            },
        )
        self._calls(entry)

    def measured(self, entry: Entry) -> None:
        """Add the spans of a shadow's calls: traces of their own, since their request is over."""
        self._calls(entry)

    async def aclose(self) -> None:
        """Send what waits, for at most `FLUSH_SECONDS`."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop was not held up, and is closed
                loop.call_soon_threadsafe(done.set)

        # Not in the loop's own pool, for which the process would wait however long the collector takes.
        threading.Thread(target=shut, name="traces", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("the last traces could not be sent")

    def _calls(self, entry: Entry) -> None:
        for call in entry.calls:
            if call.duration is not None:  # else it was not made
                self._called(call, call.duration)

    def _called(self, call: Call, duration: float) -> None:
        began = call.started
        span = self._tracer.start_span(f"{CHAT} {call.model}", kind=SpanKind.CLIENT, start_time=_nano(began))
        if span.is_recording():
            _set(span, self._about(call))
            if call.error is not None:
                span.set_status(Status(StatusCode.ERROR))
        span.end(_nano(began + duration))

    def _about(self, call: Call) -> dict[str, Value | None]:
        usage, line = call.usage, call.line
        about: dict[str, Value | None] = {
            OPERATION: CHAT,
            PROVIDER: self._sellers.get(call.stand_in or call.upstream) or SELF,
            MODEL: call.model,
            FINISH: [call.finish] if call.finish is not None else None,
            FIRST_CHUNK: call.first_token,
            STAGE: call.stage,
            SEAT: call.seat,
            UPSTREAM: call.upstream,
            STAND_IN: call.stand_in,
            COST: float(line.amount.dollars) if line is not None and line.amount is not None else None,
            CUT: call.cut,
            ERROR: call.error,
        }
        if usage is not None:
            about |= {INPUT: usage.input, OUTPUT: usage.output, CACHED: usage.cached, CACHE_WRITE: usage.cache_write}
            about[SOURCE] = usage.source
        return about


def exporting() -> TracerProvider:
    """A provider that sends OTLP over HTTP; sampling, address, headers and resource come from the environment."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": SERVICE})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _set(span: Span, about: Mapping[str, Value | None]) -> None:
    if span.is_recording():
        span.set_attributes({name: value for name, value in about.items() if value is not None})


def _nano(seconds: float) -> int:
    return round(seconds * 1e9)
