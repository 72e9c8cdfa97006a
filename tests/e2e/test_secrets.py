"""Everything that the gateway writes, searched for what it was told in confidence.

Planted: callers' keys, of the environment and made over HTTP, rotated and revoked; the admin's; the providers', one
that a caller brings for a provider; the passwords of a collector, of Redis and of PostgreSQL; a session of the
dashboard; words of prompts and of answers, of metadata and tools. Searched: standard output and error, every file, the
ledger's tables, the metrics, the traces, the dashboard's pages, the bodies and headers of all errors. Where storing
text was switched on, the ledger and the pages have what was said, and still no secret. Each search is first shown to
find something that must be there.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import re
import signal
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from sqlalchemy import create_engine, select

from gateway.ledger.schema import metadata
from tests.conftest import Postgres
from tests.e2e.gateways import KEY_ENV, PRICES, routes
from tests.e2e.served import configured, eventually, serving
from tests.fakes import Answering, Json, beside, completion, error, frames, sse
from tests.gateway.shared.server import RedisServer, redis_server

if TYPE_CHECKING:
    from tests.e2e.served import Served

CALLER = "sk-caller-4f1c9a7e2b8d"
STRANGER = "sk-stranger-0d9e8f7a6b5c"
ADMIN = "sk-admin-5e4d3c2b1a09"
PROVIDER = "sk-provider-9b8a7c6d5e4f"
BROUGHT = "sk-brought-8f7e6d5c4b3a"
COLLECTOR = "otlp-s3cret-token"
PROMPT = "p1neapple"
SYSTEM = "gu4va"
ANSWER = "ch3rry"
GUIDANCE = "b4nana"
METADATA = "m4ngo"
TOOL = "t4marind"
THOUGHT = "l1me"
REDIS = "r3dis-passw0rd-7c6b5a"
POSTGRES = "p0stgres-passw0rd-3f2e1d"
SECRETS = (CALLER, STRANGER, ADMIN, PROVIDER, BROUGHT, COLLECTOR, REDIS, POSTGRES)
KEPT = (PROMPT, SYSTEM, ANSWER, GUIDANCE)
"""What the ledger has where it is told to keep text: messages and answers."""
SAID = (*KEPT, METADATA, TOOL, THOUGHT)

USAGE = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


async def teacher(request: web.Request, body: Json) -> web.StreamResponse:
    """Answers; where the prompt says how to fail, it fails and repeats whatever it knows, as real servers do."""
    if request.method == "GET":
        return web.json_response({"object": "list", "data": []})
    known = f"{request.headers.get('Authorization')} {json.dumps(body)}"
    text = str(body["messages"])
    for status in (400, 401, 403, 404, 429, 500, 503):
        if f"fail-{status}" in text:
            return error(status, f"no: {known}", f"code {known}")
    if "fail-rubbish" in text:
        return web.Response(text=f"<html>{known}</html>", content_type="text/html")
    if "fail-midway" in text:
        return await sse(request, [*frames([GUIDANCE, " x"])[:2], f"data: {{{known}\n\n".encode()])
    words = [f"So {GUIDANCE}", " is", " a", " fruit"]
    if not body.get("stream"):
        return completion(words, "length", usage=USAGE, model=f"m {known}"[:40])
    thought = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"%s"}}]}\n\n' % THOUGHT.encode()
    return await sse(request, [thought, *frames(words, "length", USAGE)])


async def student(request: web.Request, body: Json) -> web.StreamResponse:
    """Likewise."""
    if request.method == "GET":
        return web.json_response({"object": "list", "data": []})
    if "student-500" in str(body["messages"]):
        return error(500, f"no: {json.dumps(body)}")
    return await sse(request, frames([f" of {ANSWER}", " and", " more."], "stop", USAGE))


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces; remembers bodies and nothing of the headers, where the token belongs."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        packed = self.headers.get("content-encoding") == "gzip"
        self.bodies.append(zlib.decompress(body, 31) if packed else body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the one it replaces
        """No lines of its own."""


@contextlib.contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """A collector on a free port: its address, and what it was sent."""
    bodies: list[bytes] = []
    handler = type("Kept", (Collector,), {"bodies": bodies})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def sent(served: Served, method: str, path: str, body: bytes, key: str | None) -> tuple[int, bytes]:
    """The status, and the headers and body of the answer as they were sent."""
    address = urlsplit(served.url)
    with contextlib.closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)) as connection:
        headers = {"content-type": "application/json"}
        if b'"byo"' in body or b"unasked" in body:
            headers["x-gkt-provider-key"] = BROUGHT
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, str(response.getheaders()).encode() + response.read()


def chats() -> Iterator[tuple[bytes, str | None]]:
    """Every strategy in both shapes, well and failing in every way, and requests that are wrong in themselves."""
    for model in ("gkt", "gkt-concise", "gkt-hint", "teacher", "student", "gkt-strict", "byo"):
        for fate in ("", "fail-400", "fail-401", "fail-429", "fail-500", "fail-rubbish", "fail-midway", "student-500"):
            for stream in (False, True):
                yield chat(model, fate, stream=stream), CALLER
    for fate in ("fail-403", "fail-404", "fail-503"):
        yield chat("teacher", fate), CALLER
    for key in (STRANGER, f"{CALLER}x", "", None):
        yield chat("gkt", ""), key
    yield chat("gkt", "unasked: this route takes no key"), CALLER
    # A wrong word where only a few are allowed is told to its caller; a text that may be a prompt is not.
    yield chat("gkt", "", temperature="hot"), CALLER
    yield chat("gkt", "", messages=PROMPT), CALLER
    yield chat("gkt", "", messages=[{"role": "singer", "content": PROMPT}]), CALLER
    yield chat("gkt", "", messages=[{"role": "user", "content": {"text": PROMPT}}]), CALLER
    yield chat("gkt", "", messages=[{"role": "user", "content": [{"type": PROMPT[:3], "text": PROMPT}]}]), CALLER
    yield chat("gkt", "", metadata=METADATA), CALLER
    yield chat("gkt", "", stop={"of": PROMPT}), CALLER
    yield chat("gkt", "", tools=TOOL), CALLER
    yield f'{{"messages": "{PROMPT}'.encode(), CALLER
    yield f'{{"model": "gkt", "messages": [{{"content": "{PROMPT * 4000}"}}]}}'.encode(), CALLER


def chat(model: str, fate: str, **more: Any) -> bytes:
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": f"You love {SYSTEM}."},
            {"role": "user", "content": f"Tell me of {PROMPT}. {fate}"},
        ],
        "metadata": {"about": METADATA},
        "user": METADATA,
        **more,
    }
    return json.dumps(body).encode()


def tools() -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "look", "description": TOOL, "parameters": {}}}]}


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that asks for a password, and whose own files are not the gateway's."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        with server.client() as client:
            client.config_set("requirepass", REDIS)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(("database", "text"), [("sqlite", False), ("postgresql", True)])
def test_nothing_that_it_writes_tells_what_it_was_told(
    database: str, text: bool, tmp_path: Path, postgres: Postgres, redis: RedisServer
) -> None:
    fake_teacher, fake_student = Answering(teacher), Answering(student)
    errors: list[bytes] = []
    statuses: set[int] = set()
    answered = b""
    url = postgres() if database == "postgresql" else f"sqlite:///{tmp_path}/ledger.db"
    with beside(fake_teacher, fake_student), collecting() as (collector, traces):
        config = {
            "server": {"keys_env": "GKT_E2E_KEYS", "admin_key_env": "GKT_E2E_ADMIN", "max_body_bytes": 30_000},
            "telemetry": {"traces": True},
            "ledger": {"url": url, "store_text": text, "spool": str(tmp_path / "spool")},
            "shared": {"redis_url_env": "GKT_E2E_REDIS", "when_away": "local"},
            "limits": {"requests_per_minute": 100_000},
            "upstreams": {
                "teacher": {
                    "kind": "openai_api",
                    "model": "gpt-6-sol",
                    "base_url": fake_teacher.url,
                    "api_key_env": KEY_ENV,
                    "retries": 0,
                    "breaker": None,  # it fails on purpose, again and again
                },
                "student": {
                    "kind": "openai_api",
                    "model": "llama-3.1-8b",
                    "base_url": fake_student.url,
                    "prefill": "continue_flag",
                    "probe": False,
                    "retries": 0,
                },
            },
            "routes": routes(
                byo={**routes()["gkt"], "pass_key": True},
                **{"gkt-strict": {**routes()["gkt"], "on_teacher_failure": "error", "on_student_failure": "error"}},
            ),
            "prices": PRICES,
        }
        environ = {
            "GKT_E2E_KEYS": CALLER,
            "GKT_E2E_ADMIN": ADMIN,
            "GKT_E2E_REDIS": redis.url.replace("//", f"//:{REDIS}@"),
            "PGPASSWORD": POSTGRES,
            KEY_ENV: PROVIDER,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {COLLECTOR}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with serving(tmp_path, config, key=CALLER, **environ) as served:
            made = [created(served), created(served)]
            secrets, by_made = [*made], [(chat("gkt", ""), key) for _, key in made]
            for body, key in [*chats(), (chat("gkt", "", **tools()), CALLER), *by_made]:
                status, answer = sent(served, "POST", "/v1/chat/completions", body, key)
                statuses.add(status)
                if status != 200:
                    errors.append(answer)
                elif b'data: {"error"' in answer:
                    errors.append(answer.partition(b'data: {"error"')[2])
                else:
                    answered += answer
            for path in ("/gkt/v1/savings", "/metrics", "/v1/nothing", "/gkt/v1/requests/none", "/v1/models/none"):
                for key in (CALLER, STRANGER, None):
                    status, answer = sent(served, "GET", path, b"", key)
                    errors += [answer] if status >= 400 else []
            assert cut_off(served, redis), "without Redis it goes on, and says so"
            for (key_id, _), path in zip(made, ("/rotate", ""), strict=True):
                changed = admins(served, "POST" if path else "DELETE", f"/gkt/v1/keys/{key_id}{path}")
                secrets += [(key_id, changed["secret"])] if path else []
            for _, key in secrets:
                status, answer = sent(served, "POST", "/v1/chat/completions", chat("gkt", ""), key)
                errors += [answer] if status >= 400 else []
            session, pages = looked_at(served)
            served.rewrite(configured(tmp_path, {**config, "routs": {}}))  # a reload that fails
            served.process.send_signal(signal.SIGHUP)
            eventually(lambda: "the old one stays" in served.log())
            metrics = served.scraped(Authorization=f"Bearer {ADMIN}").encode()
            said = "\n".join(served.said).encode()
        # Stopped, so that all is written: the log, the ledger, the last traces.
        rest = (
            served.process.stdout.read().encode() if served.process.stdout and not served.process.stdout.closed else b""
        )
    held = (*SECRETS, session, *(key for _, key in secrets))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.name: text for path, text in files.items()} | {
        "standard output": said + rest,
        "metrics": metrics,
        "traces": b"".join(traces),
        "errors": b"\n".join(errors),
        "the dashboard": pages,
        "the ledger": tables(url),
    }
    # The fakes did hear the secrets, the client did get the answers, and each place does hold what it is for.
    assert {PROVIDER in str(fake_teacher.headers), CALLER in str(fake_teacher.headers)} == {True, False}
    assert BROUGHT in {each["Authorization"].removeprefix("Bearer ") for each in fake_teacher.headers}
    assert CALLER not in str(fake_student.headers)
    assert BROUGHT not in str(fake_student.headers)
    assert all(word in str(fake_teacher.asked) for word in (PROMPT, SYSTEM, TOOL))
    assert GUIDANCE.encode() in answered
    assert ANSWER.encode() in answered
    assert {200, 400, 401, 413, 502, 503} <= statuses
    assert len(errors) > 40
    assert b"gkt_requests_total{" in kept["metrics"]
    assert b"gpt-6-sol" in kept["traces"]
    assert b"chatcmpl-" in kept["the ledger"]
    assert (database == "sqlite") == (b"chatcmpl-" in kept.get("ledger.db", b""))
    assert all(key_id.encode() in kept["the ledger"] for key_id, _ in made)
    assert len(held) == len(SECRETS) + 4
    assert b"chatcmpl-" in kept["the dashboard"]
    assert b"redis" in kept["gkt.log"]
    assert all((word.encode() in kept["the ledger"]) == text for word in KEPT)
    assert b'"event":"request"' in kept["gkt.log"]
    for place, written in kept.items():
        may_be_there = KEPT if text and place in ("the ledger", "the dashboard") else ()
        for secret in (*held, *SAID):
            if secret not in may_be_there:
                assert secret.encode() not in written, f"{secret} is in {place}: {around(written, secret)!r}"


def admins(served: Served, method: str, path: str, body: bytes = b"{}") -> dict[str, Any]:
    """What the admin is answered."""
    status, _, told = served.raw(method, path, body, Authorization=f"Bearer {ADMIN}", content_type="application/json")
    assert status in (200, 201), told
    return cast("dict[str, Any]", told)


def created(served: Served) -> tuple[str, str]:
    """A key that is made over HTTP: its id and its secret."""
    told = admins(served, "POST", "/gkt/v1/keys", b'{"name": "made", "budgets": [{"usd": 100, "per": "day"}]}')
    return told["id"], told["secret"]


def cut_off(served: Served, redis: RedisServer) -> bool:
    """Its Redis dies, and it is asked all the same."""
    redis.kill()
    status, _ = sent(served, "POST", "/v1/chat/completions", chat("gkt", ""), CALLER)
    return status == 200 and bool(eventually(lambda: "redis is away" in served.log()))


def looked_at(served: Served) -> tuple[str, bytes]:
    """Somebody logs in to the dashboard, looks at its pages and logs out: the name of the session, and the pages."""
    address = urlsplit(served.url)
    pages = b""
    with contextlib.closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)) as connection:

        def asked(method: str, path: str, body: str = "", cookie: str = "") -> http.client.HTTPResponse:
            headers = {"content-type": "application/x-www-form-urlencoded", **({"cookie": cookie} if cookie else {})}
            connection.request(method, f"/dashboard{path}", body, headers)
            return connection.getresponse()

        for key in (STRANGER, ADMIN):
            answer = asked("POST", "/login", f"key={key}")
            pages += answer.read()
        cookie = str(answer.getheader("set-cookie")).partition(";")[0]
        for path in ("", "/requests", "/models", "/keys", "/tradeoff", "/requests?format=csv", "/keys?format=csv"):
            answer = asked("GET", path, cookie=cookie)
            assert answer.status == 200, path
            pages += answer.read()
        newest = re.findall(rb'href="/dashboard(/requests/chatcmpl-[^"?]+)"', pages)[0].decode()
        pages += asked("GET", newest, cookie=cookie).read()
        asked("POST", "/logout", cookie=cookie).read()
        over = asked("GET", "", cookie=cookie)
        over.read()
        assert over.status == 303
    return cookie.partition("=")[2].split(".")[0], pages


def tables(url: str) -> bytes:
    """All that is in the ledger's database, row by row."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [str(row) for table in metadata.sorted_tables for row in connection.execute(select(table))]
    engine.dispose()
    return "\n".join(rows).encode()


def around(text: bytes, secret: str) -> bytes:
    """Where it was found."""
    at = text.index(secret.encode())
    return text[max(0, at - 200) : at + 100]
