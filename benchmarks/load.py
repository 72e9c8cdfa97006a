"""A closed-loop load generator: so many connections, each sends its next request when the last one is answered.

A process of its own (`python -m benchmarks.load`): reads one `Job` a line from standard input, runs it, and writes one
`Result` a line to standard output. The server's CPU clock is read here, between the warm-up and the first request that
counts and after the last answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, dataclass, field
from statistics import quantiles
from typing import Any, Final, cast

import httptools
import orjson
import uvloop

from benchmarks.process import HOST, cpu_nanoseconds

SETTLE_SECONDS: Final = 0.2
"""Quiet time before each reading of the CPU clock, so that work put off (a ledger's group commit) is charged too."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: `connections` send to `path` for `seconds`, after `warm_up` seconds that do not count."""

    pid: int
    port: int
    path: str
    model: str
    stream: bool
    connections: int
    seconds: float
    warm_up: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one job came to. `sent` counts all requests, `requests` those measured; the rest is about these.

    `cpu_us`: CPU time of the server per request, microseconds. Latencies are milliseconds from sending a request to
    the last byte of its answer. `busy`: CPU time of the server per second of wall time. `reads`: how many pieces an
    answer arrived in. `text`, `chunks` and `receipt` describe the first answer: its text, the number of its content
    chunks (0: it was not a stream), and whether it carried a receipt.
    """

    sent: int
    requests: int
    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    busy: float
    reads: float
    text: str
    chunks: int
    receipt: bool


class BadAnswer(RuntimeError):
    """The server answered something else than a complete 200."""


@dataclass(slots=True)
class Tally:
    """What the connections of one phase of a job write down together."""

    deadline: float
    latencies: list[float] = field(default_factory=list)
    reads: int = 0
    first: bytes = b""


class Connection(asyncio.Protocol):
    """One keep-alive connection; `run` sends requests until the tally's deadline has passed."""

    def __init__(self, request: bytes, stream: bool) -> None:
        self._request = request
        self._stream = stream
        self._body: list[bytes] = []
        self._sent = 0.0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def run(self, tally: Tally) -> asyncio.Future[None]:
        """Start; the future is done when the last request is answered, and fails with `BadAnswer`."""
        self._tally = tally
        self._done = done = asyncio.get_running_loop().create_future()
        self._send()
        return done

    def close(self) -> None:
        """End the connection, and `run` with it."""
        self._transport.abort()

    def _end(self, problem: BadAnswer | None = None) -> None:
        if self._done is None or self._done.done():
            return
        if problem is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(problem)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._tally.reads += 1
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: check the answer, write it down, send the next request."""
        now, tally = time.perf_counter(), self._tally
        status = self._parser.get_status_code()
        complete = not self._stream or self._body[-1].endswith(b"data: [DONE]\n\n")
        if status != 200 or not complete:
            self._end(BadAnswer(f"status {status}: {b''.join(self._body)[-2000:]!r}"))
            return
        if not tally.first:
            tally.first = b"".join(self._body)
        self._body.clear()
        tally.latencies.append(now - self._sent)
        if now < tally.deadline:
            self._send()
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(BadAnswer(f"the server closed a connection ({exc})"))


async def run(job: Job) -> Result:
    """Warm up, measure, and report. Raises `BadAnswer` on anything but complete answers, `OSError` without a server."""
    request, loop = request_bytes(job), asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(request, job.stream), HOST, job.port))[1]
        for _ in range(job.connections)
    ]

    async def phase(seconds: float) -> tuple[Tally, float]:
        start = time.perf_counter()
        tally = Tally(start + seconds)
        await asyncio.gather(*(connection.run(tally) for connection in connections))
        wall = time.perf_counter() - start
        await asyncio.sleep(SETTLE_SECONDS)
        return tally, wall

    try:
        warm, _ = await phase(job.warm_up)
        before = cpu_nanoseconds(job.pid)
        tally, wall = await phase(job.seconds)
        spent = (cpu_nanoseconds(job.pid) - before) / 1e9
    finally:
        for connection in connections:
            connection.close()

    requests = len(tally.latencies)
    percentiles = quantiles(tally.latencies, n=100, method="inclusive")
    text, chunks, receipt = _read(warm.first, job.stream)
    return Result(
        sent=len(warm.latencies) + requests,
        requests=requests,
        per_second=requests / wall,
        cpu_us=spent / requests * 1e6,
        p50_ms=percentiles[49] * 1e3,
        p99_ms=percentiles[98] * 1e3,
        busy=spent / wall,
        reads=tally.reads / requests,
        text=text,
        chunks=chunks,
        receipt=receipt,
    )


def _read(body: bytes, stream: bool) -> tuple[str, int, bool]:
    """The text of an answer, the number of its content chunks, and whether a receipt is on it."""
    if not stream:
        completion = orjson.loads(body)
        return completion["choices"][0]["message"]["content"], 0, "gkt" in completion
    events = [orjson.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    texts = [choice["delta"].get("content") for event in events for choice in event["choices"]]
    words = [text for text in texts if text]
    return "".join(words), len(words), any("gkt" in event for event in events)


def request_bytes(job: Job) -> bytes:
    """The whole HTTP request of a job: a chat of about 3.3 kB."""
    body = orjson.dumps(chat_request(job.model, job.stream))
    head = f"POST {job.path} HTTP/1.1\r\nhost: {HOST}:{job.port}\r\naccept: */*\r\nuser-agent: load\r\n"
    head += (
        f"authorization: Bearer sk-benchmark\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def chat_request(model: str, stream: bool) -> dict[str, Any]:
    """A chat as applications send them: instructions, a few turns, sampling, a limit."""
    messages = [{"role": role, "content": text} for role, text in _TURNS]
    chat: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    if stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


_TURNS: Final = (
    (
        "system",
        "You are the assistant of the operations team of a mid-sized online shop. You answer questions about the "
        "design and the running of its services. Follow these rules.\n\n"
        "1. Be brief. Begin with the answer, then give the reason. No greeting, no closing sentence.\n"
        "2. Name the assumption when you make one. When a number is missing that would change the answer, ask for it.\n"
        "3. Prefer what the team runs already: PostgreSQL 16, RabbitMQ, Redis, Python services on Kubernetes, Grafana "
        "with Prometheus. Propose something new only with the cost of running it.\n"
        "4. Never invent metrics, table names or settings of the shop. What you have not been told, you do not know.\n"
        "5. Commands go in fenced blocks, one purpose a block, and must be safe to paste. Mark what changes data.\n"
        "6. When two designs are close, say so, and say what would decide between them.\n"
        "7. Answer in the language of the question. Use SI units and 24-hour times in UTC.\n"
        "8. A change of a database schema comes with the way back, and with what happens to rows that are written "
        "while it runs.",
    ),
    (
        "user",
        "Our order service writes each order straight to PostgreSQL and then calls the warehouse service over HTTP. On "
        "campaign days we see about 900 orders a minute for 20 to 30 minutes; on normal days it is 40. During the last "
        "campaign the warehouse service slowed down, our HTTP calls timed out after 10 s, workers piled up, and in the "
        "end the connection pool of the database was exhausted, so that even the product pages failed. What should we "
        "change first?",
    ),
    (
        "assistant",
        "Take the warehouse call out of the request. Commit the order together with a row in an outbox table, answer "
        "the customer, and let a separate worker deliver the outbox rows to the warehouse.\n\n"
        "Reason: the customer does not need the warehouse's answer, yet today each slow call holds a worker and a "
        "database connection for up to 10 s. At 900 orders a minute that is 15 a second, so 150 connections wait for "
        "the warehouse when it stalls. Assumption: the warehouse accepts the same order twice without harm; if it does "
        "not, send an idempotency key with each delivery.\n\n"
        "Until that is built, lower the time-out to 2 s and give the product pages a pool of their own.",
    ),
    (
        "user",
        "We did both of the quick changes and they helped. For the outbox: one of us wants to poll the table every "
        "second from a worker, another one wants to publish to RabbitMQ from the order service after the commit, "
        "because we have it anyway. The order service runs with six replicas of eight workers each, the database has "
        "400 connections in all, and nobody wants to look after one more stateful thing at night. Two of our reports "
        "read from the same tables. The warehouse is fine with duplicates, but not with an order that arrives before "
        "the customer it belongs to, and these are two different messages. Orders should reach it within a minute. "
        "Which of the two would you build, how do we keep the sequence per customer, and what would you watch to know "
        "that it will hold on the next campaign day?",
    ),
)


def main() -> None:
    """Run jobs until standard input ends; an error is a line `{"error": ...}`."""
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = asdict(uvloop.run(run(Job(**orjson.loads(line)))))
        except (BadAnswer, OSError) as problem:
            answer = {"error": str(problem)}
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
