"""The door of a gateway without keys: its own machine's programs pass, pages in its browsers do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import httpx
import pytest

from gateway.api.app import create_app
from gateway.api.door import is_loopback, refusal
from gateway.bootstrap import open_gateway
from gateway.config import Config

CHAT = b'{"model": "gkt", "messages": [{"role": "user", "content": "Hi"}]}'
KEY = "a-key-of-a-caller"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST.", "gkt.localhost"])
def test_names_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "10.0.0.1", "::", "evil.test", "localhost.evil.test", "notlocalhost"])  # noqa: S104 - that is what is tried
def test_names_of_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([], None),
        ([(b"host", b"127.0.0.1:8080")], None),
        ([(b"host", b"[::1]:8080")], None),
        ([(b"host", b"localhost"), (b"origin", b"http://localhost:3000")], None),
        ([(b"host", b"evil.test:8080")], "Host"),
        ([(b"host", b"127.0.0.1.evil.test")], "Host"),
        ([(b"host", b"evil.test@127.0.0.1")], None),  # a user part is none of the host; no browser sends one
        ([(b"host", b"127.0.0.1@evil.test")], "Host"),
        ([(b"host", b"[::1")], "Host"),
        ([(b"host", b"")], "Host"),
        ([(b"host", b"localhost"), (b"origin", b"https://evil.test")], "Origin"),
        ([(b"host", b"localhost"), (b"origin", b"null")], "Origin"),  # a sandboxed page, or a file
        ([(b"host", b"localhost"), (b"host", b"evil.test")], "Host"),
    ],
)
def test_who_is_let_in(headers: list[tuple[bytes, bytes]], refused: str | None) -> None:
    found = refusal(headers)
    assert (found is None) == (refused is None)
    if refused is not None:
        assert f"the {refused} header" in str(found)
        assert "evil" not in str(found)


PICTURE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("fetched", "method", "let_in"),
    [
        (PICTURE, "GET", False),
        (LINK, "GET", True),
        ({name: value for name, value in LINK.items() if name != "sec-fetch-dest"}, "GET", True),
        (LINK, "POST", False),  # a form that a page of another site sends
        ({**LINK, "sec-fetch-dest": "iframe"}, "GET", False),
        ({"sec-fetch-site": "cross-site"}, "GET", False),
        ({**PICTURE, "sec-fetch-site": "same-origin"}, "GET", True),
        ({**PICTURE, "sec-fetch-site": "same-site"}, "GET", True),
        ({**LINK, "sec-fetch-site": "none"}, "GET", True),  # typed, or out of the bookmarks
    ],
)
def test_what_a_page_of_another_site_shows_is_not_fetched(fetched: dict[str, str], method: str, let_in: bool) -> None:
    headers = [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in fetched.items())]
    assert (refusal(headers, method) is None) == let_in


@asynccontextmanager
async def gateway(**server: str) -> AsyncIterator[httpx.AsyncClient]:
    config = Config.parse(
        {
            "ledger": {"url": "sqlite://"},
            "server": server,
            "upstreams": {"s": {"kind": "scripted"}},
            "routes": {"gkt": {"strategy": "student", "student": "s"}},
        }
    )
    async with open_gateway(config, environ={"KEYS": KEY}) as opened:
        app = create_app(config, opener=lambda _: nullcontext(opened))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
        ):
            yield client
            sums = await opened.ledger.savings()
            client.headers["x-test-requests"] = str(sum(row.requests for row in sums))


@pytest.mark.anyio
@pytest.mark.parametrize("header", [{"host": "evil.test"}, {"origin": "https://evil.test"}, PICTURE])
async def test_a_page_of_another_site_gets_nothing_and_spends_nothing(header: dict[str, str]) -> None:
    async with gateway() as client:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/gkt/v1/savings"), ("GET", "/v1/models")):
            # As a page can send it without asking first: a simple request, whose body says nothing of JSON.
            answer = await client.request(method, path, content=CHAT, headers={**header, "content-type": "text/plain"})
            assert answer.status_code == 403
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["x-request-id"].startswith("req_")
    assert client.headers["x-test-requests"] == "0"


@pytest.mark.anyio
async def test_programs_of_this_machine_are_served() -> None:
    async with gateway() as client:
        assert (await client.post("/v1/chat/completions", content=CHAT)).status_code == 200
        assert (await client.get("/gkt/v1/savings")).status_code == 200
    assert client.headers["x-test-requests"] == "1"


@pytest.mark.anyio
async def test_where_a_key_is_asked_for_it_is_the_key_that_counts() -> None:
    async with gateway(keys_env="KEYS") as client:
        headers = {"host": "gateway.example", "authorization": f"Bearer {KEY}"}
        assert (await client.post("/v1/chat/completions", content=CHAT, headers=headers)).status_code == 200
