"""Auth: an API key becomes a `Caller`. Keys are held as digests and compared in constant time."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.chat import Caller
from gateway.errors import Forbidden, Unauthorized
from gateway.keys.key import Held, digest

ANONYMOUS = Caller()


class Ring(Protocol):
    """Keys that may change while the gateway runs: `gateway.keys.ring.Keyring`."""

    def find(self, digest: bytes) -> Held | None:
        """The secret of that digest, whatever became of it."""
        ...

    def __len__(self) -> int:
        """How many there are, those too that open nothing any more."""
        ...


class Authenticator:
    """Knows the keys of callers; with none, everybody is anonymous (the gateway then listens on loopback only).

    `keys` are of the environment and hold as long as the process; `ring` has those that were made meanwhile. Where a
    key has once been asked for, one is asked for until the process ends: nothing opens the gateway again.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        admin: str | None = None,
        ring: Ring | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admin = None if admin is None else digest(admin)
        self._ring = ring
        self._clock = clock
        made = map(digest, keys)
        self._callers = {hashed: Held(hashed, Caller(id=f"key-{hashed.hex()[:8]}")) for hashed in made}
        self._asks = bool(self._callers)

    @property
    def open(self) -> bool:
        """True when no key is asked for: none is known, not even one that was revoked."""
        if not self._asks and self._ring is not None:
            self._asks = len(self._ring) > 0
        return not self._asks

    def admit(self, secret: str) -> None:
        """Let in, as anonymous, whoever has this secret: for the program that runs this gateway for itself alone."""
        hashed = digest(secret)
        self._callers[hashed] = Held(hashed, ANONYMOUS)

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization` header. Raises `Unauthorized`; the key is in no message."""
        if self.open:
            return ANONYMOUS
        given = _given(authorization)
        # How long the look-up takes may depend on the digests, of which nobody learns a key; the rest tells nothing.
        held = self._callers.get(given) or (self._ring.find(given) if self._ring is not None else None)
        if held is None or not hmac.compare_digest(held.digest, given):
            raise Unauthorized("Incorrect API key provided.")
        refusal = held.refusal(self._clock())
        if refusal is not None:
            raise Unauthorized(refusal)
        return held.caller

    def admin(self, authorization: str | None, *, always: bool = False) -> None:
        """Passes who may read and change accounts. Raises `Unauthorized` or, where there is no admin key, `Forbidden`.

        A gateway that knows no key at all is open to its own machine, in this too, but for what `always` needs the
        admin's key.
        """
        if self._admin is None:
            if always or not self.open:
                raise Forbidden("This needs an admin key, and none is configured: set server.admin_key_env.")
            return
        if not hmac.compare_digest(self._admin, _given(authorization)):
            raise Unauthorized("This needs the admin key.")

    def secret(self, purpose: str) -> bytes | None:
        """What only this gateway and its replicas know, for as long as the admin key is the same; None without one."""
        return None if self._admin is None else hmac.digest(self._admin, purpose.encode(), "sha256")


def _given(authorization: str | None) -> bytes:
    """The digest of the key in an `Authorization` header. Raises `Unauthorized` when there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("You didn't provide an API key: send it as `Authorization: Bearer KEY`.")
    return digest(key.strip())
