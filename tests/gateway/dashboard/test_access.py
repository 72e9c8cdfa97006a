"""Who sees the pages: nobody without the admin key, and what a session is worth."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from gateway.auth import Authenticator
from gateway.dashboard import PATH
from gateway.dashboard.access import ATTEMPTS, COOKIE, HOURS, WITHIN, Access, local
from gateway.ledger.store import Store
from gateway.shared.logouts import Logouts

pytestmark = pytest.mark.anyio

EVERY = ["", "/requests", "/requests/guided-0", "/requests/nobody", "/models", "/keys", "/tradeoff"]
ADMIN = "admin-key-of-the-test"
KEY = "callers-key-of-the-test"


@pytest.mark.parametrize("query", ["", "?format=csv", "?format=csv&table=sums"])
@pytest.mark.parametrize("path", EVERY)
async def test_nothing_is_shown_without_the_key(pages: Any, path: str, query: str) -> None:
    async with pages(log_in=False) as site:
        for headers in ({}, {"cookie": f"{COOKIE}=forged.abc.def"}):
            response = await site.http.get(PATH + path + query, headers=headers)
            assert response.status_code == 303
            assert response.headers["location"].startswith(f"{PATH}/login")
            assert response.text == ""
        for wrong in (KEY, ADMIN + "x", ""):
            response = await site.http.get(PATH + path + query, headers={"authorization": f"Bearer {wrong}"})
            assert response.status_code == 401
            assert "$" not in response.text


async def test_logging_in_and_out(pages: Any) -> None:
    async with pages(log_in=False) as site:
        asked = await site.http.get(f"{PATH}/requests", params={"model": "gkt"})
        form = await site.get(asked.headers["location"].removeprefix(PATH))
        assert {"type": "hidden", "name": "next", "value": f"{PATH}/requests?model=gkt"} in form.all("input")
        wrong = await site.log_in("not the key")
        assert wrong.status_code == 401
        assert "This is not the admin key." in wrong.text
        assert "not the key" not in wrong.text.replace("This is not the admin key.", "")
        assert COOKIE not in wrong.headers.get("set-cookie", "")
        right = await site.http.post(f"{PATH}/login", data={"key": ADMIN, "next": f"{PATH}/keys"})
        assert (right.status_code, right.headers["location"]) == (303, f"{PATH}/keys")
        cookie = right.headers["set-cookie"]
        for attribute in ("HttpOnly", "SameSite=strict", "Path=/dashboard", f"Max-Age={HOURS * 3600}"):
            assert attribute in cookie
        assert "Secure" not in cookie
        assert ADMIN not in cookie
        await site.get()
        session = site.http.cookies[COOKIE]
        out = await site.http.post(f"{PATH}/logout")
        assert out.status_code == 303
        assert COOKIE not in site.http.cookies
        again = await site.http.get(PATH, headers={"cookie": f"{COOKIE}={session}"})
        assert again.status_code == 303, "a session that was ended is no session"


@pytest.mark.parametrize(
    "headers", [{"x-forwarded-proto": "https"}, {"origin": "https://gateway.test"}], ids=["proxy", "origin"]
)
async def test_the_cookie_is_secure_behind_https(pages: Any, headers: dict[str, str]) -> None:
    async with pages(log_in=False) as site:
        response = await site.http.post(f"{PATH}/login", data={"key": ADMIN}, headers=headers)
        assert "; Secure" in response.headers["set-cookie"]


@pytest.mark.parametrize("origin", ["https://evil.test", "http://[", "null", "//", "http://gateway.test:x["])
async def test_a_form_of_another_site_is_refused(pages: Any, origin: str) -> None:
    async with pages() as site:
        for path, data in (("/login", {"key": ADMIN}), ("/logout", {})):
            response = await site.http.post(PATH + path, data=data, headers={"origin": origin})
            assert response.status_code == 403
            assert "set-cookie" not in response.headers
            assert (await site.http.get(PATH + path)).status_code in (303, 405), "and nothing changes by a link"
        await site.get()


async def test_a_program_may_bring_the_key_itself(pages: Any) -> None:
    async with pages(log_in=False) as site:
        given = {"authorization": f"Bearer {ADMIN}"}
        response = await site.http.get(f"{PATH}/keys", params={"format": "csv"}, headers=given)
        assert response.status_code == 200
        assert response.text.startswith("caller,name,")


async def test_without_any_key_it_is_open_and_says_so(pages: Any) -> None:
    async with pages(admin=None, keys=None) as site:
        page = await site.get()
        assert "No key is configured" in page.text
        assert not [said for said in page.all("form") if said["action"].endswith("/logout")]
        assert (await site.http.get(f"{PATH}/login")).headers["location"] == PATH


async def test_with_callers_keys_and_no_admin_key_it_is_closed_and_says_how_to_open_it(pages: Any) -> None:
    async with pages(admin=None) as site:
        for path in EVERY:
            page = await site.get(path, 403)
            assert "admin_key_env" in page.text
        assert (await site.log_in("anything")).status_code == 403


async def test_attempts_are_limited(pages: Any) -> None:
    async with pages(log_in=False) as site:
        for _ in range(ATTEMPTS):
            assert (await site.log_in("wrong")).status_code == 401
        late = await site.log_in()
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= WITHIN
        assert "set-cookie" not in late.headers


async def test_a_form_that_is_too_long(pages: Any) -> None:
    async with pages(log_in=False) as site:
        assert (await site.http.post(f"{PATH}/login", content=b"key=" + b"x" * 5_000)).status_code == 400


async def test_every_answer_has_its_headers(pages: Any) -> None:
    async with pages() as site:
        for path in (*EVERY, "/login", "/no/such/page"):
            headers = (await site.http.get(PATH + path)).headers
            policy = dict(each.strip().partition(" ")[::2] for each in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-request-id"]


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def request(cookie: str | None = None, address: str = "192.0.2.1") -> Any:
    from starlette.requests import Request

    headers = [] if cookie is None else [(b"cookie", f"{COOKIE}={cookie}".encode())]
    return Request({"type": "http", "headers": headers, "client": (address, 1), "path": PATH, "method": "GET"})


@pytest.fixture
def logouts() -> Iterator[Logouts]:
    with closing(Store.open("sqlite://")) as store:
        yield Logouts(store, Clock())


async def test_a_session_ends_and_dies_with_its_key(logouts: Logouts) -> None:
    clock = Clock()
    access = Access(lambda: Authenticator([KEY], ADMIN), logouts, clock)
    session = access.enter(request(), ADMIN)
    assert await access.standing(request(session)) == "session"
    replica = Access(lambda: Authenticator([KEY], ADMIN), logouts, clock)
    assert await replica.standing(request(session)) == "session", "replicas agree without asking each other"
    changed = Access(lambda: Authenticator([KEY], "another admin key"), logouts, clock)
    for other, cookie in (
        (changed, session),
        (access, session[:-1] + ("A" if session[-1] != "A" else "B")),
        (access, ""),
    ):
        with pytest.raises(Exception, match="key"):
            await other.standing(request(cookie))
    clock.now += HOURS * 3600 + 1
    with pytest.raises(Exception, match="key"):
        await access.standing(request(session))


async def test_who_logged_out_is_out_at_every_replica_and_after_a_restart(pages: Any) -> None:
    """Each `pages` is a gateway of its own, on one ledger."""
    async with pages() as site:
        cookie = f"{COOKIE}={site.http.cookies[COOKIE]}"
        async with pages([], log_in=False) as replica:
            assert (await replica.http.get(PATH, headers={"cookie": cookie})).status_code == 200
            assert (await site.http.post(f"{PATH}/logout")).status_code == 303
            assert (await replica.http.get(PATH, headers={"cookie": cookie})).status_code == 303
            assert (await replica.log_in()).status_code == 303, "only that session is over"
            await replica.get()
    async with pages([], log_in=False) as later:
        assert (await later.http.get(PATH, headers={"cookie": cookie})).status_code == 303


async def test_nobody_is_let_in_while_nobody_can_say_who_logged_out(
    pages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pages() as site:

        def fails(*_: Any, **__: Any) -> Any:
            raise OperationalError("SELECT", {}, sqlite3.OperationalError("gone"))

        monkeypatch.setattr(site.gateway.ledger.store, "transaction", fails)
        page = await site.get(status=503)
        assert "$" not in page.text
        assert (await site.http.post(f"{PATH}/logout")).status_code == 503, "nobody is told to be out who may not be"
        assert COOKIE in site.http.cookies


def test_wrong_keys_are_counted_by_address_and_forgotten_in_time(logouts: Logouts) -> None:
    clock = Clock()
    access = Access(lambda: Authenticator([KEY], ADMIN), logouts, clock)
    for _ in range(ATTEMPTS):
        with pytest.raises(Exception, match="not the admin key"):
            access.enter(request(), "wrong")
    with pytest.raises(Exception, match="Too many"):
        access.enter(request(), ADMIN)
    assert access.enter(request(address="192.0.2.2"), ADMIN)
    clock.now += WITHIN
    assert access.enter(request(), ADMIN)


@pytest.mark.parametrize(
    ("target", "where"),
    [
        (PATH, PATH),
        (f"{PATH}/requests?model=gkt", f"{PATH}/requests?model=gkt"),
        (f"{PATH}?range=all", f"{PATH}?range=all"),
        ("https://evil.test", PATH),
        ("//evil.test/dashboard", PATH),
        ("/dashboardevil", PATH),
        (f"{PATH}/\\evil.test", PATH),
        (f"{PATH}/\r\nx: y", PATH),
        (f"{PATH}/login?next=/", PATH),
        ("", PATH),
    ],
)
def test_nobody_is_sent_elsewhere(target: str, where: str) -> None:
    assert local(target) == where


def test_httpx_is_what_it_is_taken_for() -> None:
    """The client of these tests does not follow redirects by itself: a 303 is seen as one."""
    assert httpx.AsyncClient().follow_redirects is False
