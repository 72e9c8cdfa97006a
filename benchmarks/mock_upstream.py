"""A teacher and a student that answer at once with bytes made beforehand: what stands before them costs the time.

`POST /v1/chat/completions` in OpenAI's shape, streaming and not. The request decides which answer comes: where at
most 40 tokens are allowed it is the guidance (3 content chunks, finish `length`); after a trailing assistant message
the continuation (40 chunks, `stop`); otherwise the whole answer (43 chunks, `stop`).

`PUT /pace` with `{"gap_ms": 2, "coalesce": 1}` sets the pause between two writes of a stream, and how many chunks one
write holds. With 0 each write still has a turn of the event loop of its own. An answer that is not streamed comes
after as many pauses as its stream has. `GET /calls` says how many answers of each kind were asked for.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httptools
import orjson
import uvloop

from benchmarks.process import HOST

GUIDANCE: Final = (
    "A queue between the two services is the right place to start, because the",
    " burst you describe lasts for minutes and the database needs that time to",
    " catch up; three things decide whether it will hold in your case, and",
)
CONTINUATION: Final = (
    " each",
    *(" of", " them", " can", " be", " measured", " today,") * 6,
    " without",
    " new",
    " code.",
)
ANSWERS: Final = {"guidance": GUIDANCE, "continuation": CONTINUATION, "whole": GUIDANCE + CONTINUATION}
GUIDANCE_TOKENS: Final = 40


def kind_of(request: dict[str, Any]) -> str:
    """Which of `ANSWERS` a chat completions request is given."""
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    if limit is not None and limit <= GUIDANCE_TOKENS:
        return "guidance"
    return "continuation" if request["messages"][-1]["role"] == "assistant" else "whole"


def _envelope(kind: str, object_: str) -> dict[str, Any]:
    model = "student" if kind == "continuation" else "gpt-6-sol"
    return {"id": f"chatcmpl-{kind}", "object": object_, "created": 1_795_000_000, "model": model}


def _finish(kind: str) -> str:
    return "length" if kind == "guidance" else "stop"


def _usage(kind: str) -> dict[str, Any]:
    output = {"guidance": 40, "continuation": 40, "whole": 80}[kind]
    return {
        "prompt_tokens": 742,
        "completion_tokens": output,
        "total_tokens": 742 + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _events(kind: str) -> list[bytes]:
    """The frames of a stream: the role, one for each piece of text, the finish, usage and end."""

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    def frame(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**_envelope(kind, "chat.completion.chunk"), "system_fingerprint": "fp_mock"}
        return b"data: " + orjson.dumps({**chunk, "choices": choices, "usage": usage}) + b"\n\n"

    return [
        frame(choice({"role": "assistant", "content": "", "refusal": None})),
        *(frame(choice({"content": text})) for text in ANSWERS[kind]),
        frame(choice({}, _finish(kind))),
        frame([], _usage(kind)) + b"data: [DONE]\n\n",
    ]


def _completion(kind: str) -> bytes:
    message = {"role": "assistant", "content": "".join(ANSWERS[kind]), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(kind)}
    return orjson.dumps({**_envelope(kind, "chat.completion"), "choices": [choice], "usage": _usage(kind)})


def _json(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(slots=True)
class Script:
    """What all connections share: the bytes of every answer at the present pace, and the count of calls."""

    gap: float = 0.0
    writes: dict[str, list[bytes]] = field(default_factory=dict)
    completions: dict[str, bytes] = field(default_factory=lambda: {kind: _json(_completion(kind)) for kind in ANSWERS})
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pace(gap_ms=0.0)

    def pace(self, gap_ms: float, coalesce: int = 1) -> None:
        """Pause `gap_ms` milliseconds between writes of `coalesce` chunks each."""
        self.gap = gap_ms / 1000
        for kind in ANSWERS:
            events = _events(kind)
            bodies = [b"".join(events[at : at + coalesce]) for at in range(0, len(events), coalesce)]
            framed = [b"%x\r\n%b\r\n" % (len(body), body) for body in bodies]
            self.writes[kind] = [_STREAM_HEAD + framed[0], *framed[1:-1], framed[-1] + b"0\r\n\r\n"]
            if len(framed) == 1:
                self.writes[kind] = [_STREAM_HEAD + framed[0] + b"0\r\n\r\n"]


class Connection(asyncio.Protocol):
    """One keep-alive connection; answers one request after the other."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._path = url

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: answer what has come in."""
        body = b"".join(self._body)
        self._body.clear()
        match self._parser.get_method(), self._path:
            case b"POST", b"/v1/chat/completions":
                self._complete(orjson.loads(body))
            case b"GET", b"/v1/models":
                models = [{"id": name, "object": "model"} for name in ("gpt-6-sol", "student")]
                self._transport.write(_json(orjson.dumps({"object": "list", "data": models})))
            case b"GET", b"/calls":
                self._transport.write(_json(orjson.dumps(dict(self._script.calls))))
            case b"PUT", b"/pace":
                self._script.pace(**orjson.loads(body))
                self._transport.write(_json(b"{}"))
            case _:
                error = {"message": f"no such path: {self._path.decode()}", "type": "invalid_request_error"}
                self._transport.write(_json(orjson.dumps({"error": error}), "404 Not Found"))

    def _complete(self, request: dict[str, Any]) -> None:
        script, kind = self._script, kind_of(request)
        script.calls[kind] += 1
        if request.get("stream"):
            self._write(script.writes[kind], 0)
        elif script.gap:
            pauses = len(script.writes[kind]) - 1
            self._loop.call_later(script.gap * pauses, self._write, [script.completions[kind]], 0)
        else:
            self._transport.write(script.completions[kind])

    def _write(self, writes: list[bytes], at: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(writes[at])
        if at + 1 == len(writes):
            return
        if self._script.gap:
            self._loop.call_later(self._script.gap, self._write, writes, at + 1)
        else:
            self._loop.call_soon(self._write, writes, at + 1)


async def serve(port: int) -> None:
    """Answer on the loopback address until the process is ended."""
    script = Script()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(script), HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
