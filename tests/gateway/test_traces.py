"""Traces: one span a request, one a call below it, under the caller's own; and nothing of what was said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode

import gateway
from gateway import traces
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.traces import Traces
from pricing.usage import Usage
from students.engine import Ability
from students.errors import Unavailable
from students.scripted import Scripted

pytestmark = pytest.mark.anyio

CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"
SECRETS = ("p1neapple", "b4nana", "ch3rry", "sk-secret")

Ask = Callable[..., Any]


class Traced:
    """A gateway whose spans are kept."""

    def __init__(self, client: httpx.AsyncClient, kept: InMemorySpanExporter) -> None:
        self.client = client
        self.kept = kept

    async def ask(self, model: str = "gkt", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        sent = {"model": model, "messages": [{"role": "user", "content": "Tell me of p1neapple"}], **body}
        return await self.client.post("/v1/chat/completions", json=sent, headers=headers)

    def spans(self) -> tuple[ReadableSpan, Sequence[ReadableSpan]]:
        """The request's own span, and those of its calls."""
        found = self.kept.get_finished_spans()
        (server,) = (span for span in found if span.kind is SpanKind.SERVER)
        return server, [span for span in found if span.kind is SpanKind.CLIENT]


@asynccontextmanager
async def traced(teacher: Scripted, student: Scripted) -> AsyncGenerator[Traced, None]:
    config = Config.parse({"ledger": {"url": "sqlite://"}, "server": {"keys_env": "KEYS"}})
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    engines = {"teacher": teacher, "student": student}
    async with open_gateway(config, engines=engines, environ={"KEYS": "sk-secret"}) as opened:
        opened.traces = Traces({name: upstream.seller for name, upstream in opened.upstreams.items()}, provider)
        app = create_app(config, opener=lambda _: nullcontext(opened))
        async with app.router.lifespan_context(app):
            door = httpx.ASGITransport(app, raise_app_exceptions=False)
            known = {"authorization": "Bearer sk-secret"}
            async with httpx.AsyncClient(transport=door, base_url="http://x", headers=known) as client:
                yield Traced(client, kept)


def pair(**how: Any) -> tuple[Scripted, Scripted]:
    usage = Usage(20, 3, cached=8, cache_write=2)
    return (
        Scripted("teacher", "So b4nana is a", usage=usage),
        Scripted("student", " fruit ch3rry", abilities=Ability.CONTINUE, **how),
    )


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [True, False])
async def test_one_span_a_request_and_one_a_stage_below_it(stream: bool) -> None:
    async with traced(*pair()) as home:
        answer = await home.ask(stream=stream, gkt={"guidance_tokens": 3})
        assert answer.status_code == 200
        server, calls = home.spans()
    assert server.name == "POST /v1/chat/completions"
    assert server.parent is None
    told = about(server)
    assert told["http.response.status_code"] == 200
    assert told["gkt.request_id"] == answer.headers["x-gkt-request-id"]
    assert (told["gkt.strategy"], told["gkt.outcome"], told["gen_ai.request.stream"]) == ("cut-off", "ok", stream)
    assert told["gkt.cost_usd"] > 0
    assert told["gkt.baseline_usd"] > 0
    assert [about(call)["gkt.stage"] for call in calls] == ["guidance", "answer"]
    for call in calls:
        assert call.parent is not None
        assert call.parent.span_id == server.context.span_id
        assert call.context.trace_id == server.context.trace_id
        assert server.start_time is not None
        assert call.start_time is not None
        assert call.end_time is not None
        assert server.end_time is not None
        assert server.start_time <= call.start_time <= call.end_time <= server.end_time
    guidance = about(calls[0])
    assert calls[0].name == "chat gpt-6-sol"
    assert {name: value for name, value in guidance.items() if name.startswith("gen_ai.usage")} == {
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "gen_ai.usage.cache_creation.input_tokens": 2,
    }
    assert (guidance["gen_ai.operation.name"], guidance["gen_ai.provider.name"]) == ("chat", "openai")
    assert guidance["gen_ai.response.time_to_first_chunk"] >= 0
    assert about(calls[1])["gen_ai.provider.name"] == "self"


async def test_the_callers_trace_is_continued() -> None:
    async with traced(*pair()) as home:
        await home.ask(headers={"traceparent": PARENT, "tracestate": "vendor=1"})
        server, calls = home.spans()
    assert f"{server.context.trace_id:032x}" == CALLERS_TRACE
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == CALLERS_SPAN
    assert server.context.trace_state.get("vendor") == "1"
    assert {f"{call.context.trace_id:032x}" for call in calls} == {CALLERS_TRACE}


async def test_a_caller_that_samples_nothing_is_obeyed() -> None:
    async with traced(*pair()) as home:
        assert (await home.ask(headers={"traceparent": PARENT[:-1] + "0"})).status_code == 200
        assert not home.kept.get_finished_spans()


@pytest.mark.parametrize("parent", ["", "rubbish", "00-zz-11-01", PARENT + "-" + "x" * 5000])
async def test_a_trace_that_cannot_be_read_begins_a_new_one(parent: str) -> None:
    async with traced(*pair()) as home:
        assert (await home.ask(headers={"traceparent": parent})).status_code == 200
        server, _ = home.spans()
    assert server.parent is None


async def test_errors_are_told_by_their_names() -> None:
    broken = Scripted("student", "x", error=Unavailable("ch3rry is gone"), abilities=Ability.CONTINUE)
    async with traced(pair()[0], broken) as home:
        assert (await home.ask("student")).status_code == 502
        server, (call,) = home.spans()
    assert about(server)["http.response.status_code"] == 502
    assert server.status.status_code is StatusCode.ERROR
    assert about(call)["error.type"] == "Unavailable"
    assert call.status.status_code is StatusCode.ERROR
    assert not call.events
    assert not server.events


async def test_a_request_that_is_refused_at_the_door_has_a_span_of_its_own() -> None:
    async with traced(*pair()) as home:
        assert (await home.ask(headers={"authorization": "Bearer wrong"})).status_code == 401
        server, calls = home.spans()
    assert about(server)["http.response.status_code"] == 401
    assert server.status.status_code is StatusCode.UNSET  # the caller's fault is not the server's
    assert not calls


async def test_nothing_that_was_said_is_in_them() -> None:
    async with traced(*pair()) as home:
        for model in ("gkt", "gkt-concise", "gkt-hint", "teacher", "student"):
            for stream in (True, False):
                await home.ask(model, stream=stream)
        spans = home.kept.get_finished_spans()
    assert len(spans) >= 20
    text = "".join(span.to_json() for span in spans)
    for secret in SECRETS:
        assert secret not in text


def test_names_are_those_of_the_conventions() -> None:
    known = {
        value
        for module in (gen_ai_attributes, http_attributes, error_attributes, url_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {value for name, value in vars(traces).items() if name.isupper() and isinstance(value, str)}
    named = {value for value in ours if "." in value and not value.startswith("gkt.")}
    assert {"gen_ai.request.model", "http.route"} <= named
    assert named <= known


def child(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(gateway.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": root, **environ},
    )


def test_without_traces_nothing_is_imported_for_them() -> None:
    """FastAPI imports OpenTelemetry's interface by itself, where it is installed; that is not ours to count."""
    code = """
import asyncio, json, sys
from gateway.api.app import create_app
from gateway.bootstrap import open_gateway
from gateway.config import Config
from students.scripted import Scripted
async def main(traces):
    config = Config.parse({"ledger": {"url": "sqlite://"}, "telemetry": {"traces": traces}})
    engines = {"teacher": Scripted("teacher"), "student": Scripted("student")}
    async with open_gateway(config, engines=engines, environ={}):
        create_app(config)
for traces in (False, True):
    asyncio.run(main(traces))
    print("opentelemetry.sdk" in sys.modules, "opentelemetry.exporter" in sys.modules, "requests" in sys.modules)
"""
    assert child(code).stdout.splitlines() == ["False False False", "True True True"]


async def test_without_the_extra_the_configuration_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.traces", None)
    config = Config.parse({"ledger": {"url": "sqlite://"}, "telemetry": {"traces": True}})
    engines = {"teacher": Scripted("teacher"), "student": Scripted("student")}
    with pytest.raises(ConfigError, match=r"gkt-gateway\[otel\]"):
        async with open_gateway(config, engines=engines, environ={}):
            pass


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "gkt-gateway"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment.name=x"}, "ours"),
    ],
)
def test_the_environment_names_the_service(environ: dict[str, str], name: str) -> None:
    code = """
import json
from gateway.traces import exporting
print(json.dumps(dict(exporting().resource.attributes)))
"""
    assert json.loads(child(code, **environ).stdout)["service.name"] == name


async def test_a_collector_that_hangs_does_not_hold_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "FLUSH_SECONDS", 0.1)
    held = threading.Event()
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(provider, "shutdown", held.wait)
    await Traces({}, provider).aclose()
    held.set()
