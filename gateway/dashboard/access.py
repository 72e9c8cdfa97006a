"""Access: the admin key by a login form becomes a signed session cookie, until it is over or somebody logs out."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth import Authenticator
from gateway.dashboard import PATH
from gateway.errors import Forbidden, RateLimited, Unauthorized
from gateway.shared.logouts import Logouts

COOKIE = "gkt_session"
HOURS = 12
"""How long a session lasts; then the key is asked for again."""

ATTEMPTS = 10
WITHIN = 60.0
"""After this many wrong keys from one address within so many seconds, further ones are not looked at."""

ADDRESSES = 10_000
"""How many addresses with wrong keys are remembered; the oldest is forgotten first."""

Standing = Literal["open", "session", "key"]
"""Why somebody may see the pages: no key is configured; they logged in; the request brought the admin key itself."""


class Access:
    """Who may see the pages.

    A session is a random name and its time, signed with a secret that follows from the admin key: replicas agree on
    it without asking each other, and a changed key ends all sessions. Those that somebody logged out of are over for
    all replicas (`logouts`). Wrong keys are counted by this process alone.
    """

    def __init__(
        self, auth: Callable[[], Authenticator], logouts: Logouts, clock: Callable[[], float] = time.time
    ) -> None:
        self._auth = auth
        self._logouts = logouts
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}

    async def standing(self, request: Request) -> Standing:
        """Why this request may see the pages.

        Raises `Unauthorized`, `Forbidden` where no key would do, or `Busy` when nobody can say whether its session is
        over.
        """
        authorization = request.headers.get("authorization")
        try:
            self._auth().admin(authorization)
        except Unauthorized:
            name = None if authorization is not None else self._session(request)
            if name is not None and not await self._logouts.ended(name):
                return "session"
            raise
        return "open" if authorization is None else "key"

    def enter(self, request: Request, key: str) -> str:
        """A new session for who knows the key. Raises `Unauthorized`, `Forbidden` or `RateLimited`."""
        address = request.client.host if request.client else ""
        wrong = self._wrong.get(address, deque())
        now = self._clock()
        while wrong and wrong[0] <= now - WITHIN:
            wrong.popleft()
        if len(wrong) >= ATTEMPTS:
            raise RateLimited("Too many wrong keys; wait a minute.", retry_after=wrong[0] + WITHIN - now)
        try:
            self._auth().admin(f"Bearer {key}")
        except Unauthorized:
            wrong.append(now)
            self._wrong.pop(address, None)
            self._wrong[address] = wrong
            if len(self._wrong) > ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            raise Unauthorized("This is not the admin key.") from None
        self._wrong.pop(address, None)
        signer = self._signer()
        return "" if signer is None else signer.sign(secrets.token_urlsafe(16)).decode()

    async def leave(self, request: Request) -> None:
        """End the session of this request, everywhere. Raises `Busy`: it may not be over."""
        name = self._session(request)
        if name is not None:
            await self._logouts.end(name, self._clock() + HOURS * 3600)

    def _session(self, request: Request) -> str | None:
        """The name of the request's session, when we have signed it and its time is not over."""
        signer, cookie = self._signer(), request.cookies.get(COOKIE)
        if signer is None or not cookie:
            return None
        try:
            return signer.unsign(cookie, max_age=HOURS * 3600).decode()
        except BadSignature:
            return None

    def _signer(self) -> TimestampSigner | None:
        secret = self._auth().secret("dashboard session")
        return None if secret is None else _Signer(secret, self._clock)


class _Signer(TimestampSigner):
    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        super().__init__(secret, salt="gkt.dashboard", digest_method=hashlib.sha256)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock())


def same_site(request: Request) -> None:
    """Raises `Forbidden` for a form that another site sent; browsers say where a form comes from."""
    origin = request.headers.get("origin")
    try:
        here = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:  # it is no address at all
        here = False
    if not here:
        raise Forbidden("This form was sent by another site.")


def give(response: Response, request: Request, session: str) -> None:
    """Hand out the session; an empty one takes it back. Never readable by scripts, never sent from other sites."""
    secure = "https" in (
        request.url.scheme,
        request.headers.get("x-forwarded-proto"),  # said by a proxy, or by somebody who harms only himself
        urlsplit(request.headers.get("origin", "")).scheme,
    )
    response.set_cookie(
        COOKIE,
        session,
        max_age=HOURS * 3600 if session else 0,
        path=PATH,
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def local(target: str) -> str:
    """`target` when it is a page of this dashboard, else the first page: nobody is sent elsewhere after a login."""
    inside = target == PATH or target.startswith((PATH + "/", PATH + "?"))
    safe = inside and "\\" not in target and target.isprintable() and not target.startswith(f"{PATH}/login")
    return target if safe else PATH
