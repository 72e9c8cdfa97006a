"""Auth: an API key becomes a `Caller`. Keys are held as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from gateway.chat import Caller
from gateway.errors import Forbidden, Unauthorized

ANONYMOUS = Caller()


class Authenticator:
    """Knows the keys of callers; with none, everybody is anonymous (the gateway then listens on loopback only)."""

    def __init__(self, keys: Iterable[str] = (), admin: str | None = None) -> None:
        self._admin = None if admin is None else _hash(admin)
        self._callers = [(_hash(key), Caller(id=f"key-{_hash(key).hex()[:8]}")) for key in keys]

    @property
    def open(self) -> bool:
        """True when no key is asked for."""
        return not self._callers

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization` header. Raises `Unauthorized`; the key is in no message."""
        if not self._callers:
            return ANONYMOUS
        given = _given(authorization)
        found: Caller | None = None
        for known, caller in self._callers:  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = caller
        if found is None:
            raise Unauthorized("Incorrect API key provided.")
        return found

    def admin(self, authorization: str | None) -> None:
        """Passes who may read and change accounts. Raises `Unauthorized` or, where there is no admin key, `Forbidden`.

        A gateway that knows no key at all is open to its own machine, in this too.
        """
        if self._admin is None:
            if self._callers:
                raise Forbidden("This needs an admin key, and none is configured: set server.admin_key_env.")
            return
        if not hmac.compare_digest(self._admin, _given(authorization)):
            raise Unauthorized("This needs the admin key.")


def _given(authorization: str | None) -> bytes:
    """The hash of the key in an `Authorization` header. Raises `Unauthorized` when there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("You didn't provide an API key: send it as `Authorization: Bearer KEY`.")
    return _hash(key.strip())


def _hash(key: str) -> bytes:
    # Keys are long random strings, so a plain digest cannot be searched; it keeps the keys themselves out of memory.
    return hashlib.sha256(key.encode()).digest()
