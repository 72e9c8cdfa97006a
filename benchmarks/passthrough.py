"""The yardstick: the least that Starlette and aiohttp must do to pass a chat on, with one hop or with two.

No checks, no errors, no deadlines, no receipt; what the libraries let one switch off is off. With one hop the
upstream's bytes are handed on unread; with two, the teacher's 40 tokens are read, become an assistant message, and
the student's bytes follow unread.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from benchmarks.mock_upstream import GUIDANCE_TOKENS
from benchmarks.process import HOST


def passthrough(upstream: str) -> Starlette:
    """`POST /one/v1/chat/completions` and `/two/...`, both towards the chat completions URL `upstream`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as app.state.session:
            yield

    def ask(chat: dict[str, Any]) -> Any:
        headers = {"content-type": "application/json"}
        return app.state.session.post(upstream, data=orjson.dumps(chat), headers=headers)

    def guided(chat: dict[str, Any], words: str) -> dict[str, Any]:
        return {**chat, "model": "student", "messages": [*chat["messages"], {"role": "assistant", "content": words}]}

    async def stream(chat: dict[str, Any], hops: str) -> AsyncIterator[bytes]:
        if hops == "two":
            words = []
            async with ask({**chat, "max_tokens": GUIDANCE_TOKENS}) as reply:
                async for line in reply.content:
                    choices = orjson.loads(line[6:])["choices"] if line.startswith(b"data: {") else None
                    if choices and (text := choices[0]["delta"].get("content")):
                        words.append(text)
                        yield line + b"\n"
            chat = guided(chat, "".join(words))
        async with ask(chat) as reply:
            async for piece in reply.content.iter_any():
                yield piece

    async def fold(chat: dict[str, Any], hops: str) -> bytes:
        if hops == "one":
            async with ask(chat) as reply:
                return bytes(await reply.read())
        async with ask({**chat, "max_tokens": GUIDANCE_TOKENS}) as reply:
            words = orjson.loads(await reply.read())["choices"][0]["message"]["content"]
        async with ask(guided(chat, words)) as reply:
            completion = orjson.loads(await reply.read())
        completion["choices"][0]["message"]["content"] = words + completion["choices"][0]["message"]["content"]
        return orjson.dumps(completion)

    async def complete(request: Request) -> Response:
        chat, hops = orjson.loads(await request.body()), request.path_params["hops"]
        if chat.get("stream"):
            return StreamingResponse(stream(chat, hops), media_type="text/event-stream")
        return Response(await fold(chat, hops), media_type="application/json")

    app = Starlette(routes=[Route("/{hops}/v1/chat/completions", complete, methods=["POST"])], lifespan=lifespan)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="URL of a chat completions endpoint")
    given = parser.parse_args()
    uvicorn.run(
        passthrough(given.upstream),
        host=HOST,
        port=given.port,
        loop="uvloop",
        http="httptools",
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
