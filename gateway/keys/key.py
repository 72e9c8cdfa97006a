"""Key: who holds one, what it allows, and until when; its secrets are known by their digests alone."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from gateway.allowance import NO_LIMITS, Allowance, Quota
from gateway.chat import Caller, Overrides, StrategyName
from pricing.money import Money
from students.spec import Strict

PREFIX = "gkt_"
HINT = 8
"""Characters of a secret that are kept, so that its holder and its maker can tell it from others."""

Status = Literal["active", "expired", "revoked"]


def new_secret() -> str:
    """A fresh secret: 256 random bits, in characters that every header, shell and URL takes as they are."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """What is kept of a secret.

    A plain SHA-256, without salt and stretching: they protect words that people think of. Nobody can go through 256
    random bits, and the same secret must have the same digest, or no table could be looked up by it.
    """
    return hashlib.sha256(secret.encode()).digest()


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be a text of printable characters")
    return text


Word = Annotated[str, Field(max_length=256), AfterValidator(_printable)]


class Grant(Quota):
    """What a key is made for, and what it allows.

    `models` are names and patterns (`gpt-*`, as `fnmatch` reads them; case matters). None: no limit of the key's own,
    the routes' limits hold all the same. `expires_at` is in seconds since the epoch; None: never. Limits and budgets
    that are None are those of the configuration's `limits`; no `budgets` at all is an empty list.
    """

    name: Word
    owner: Word | None = None
    tags: tuple[Word, ...] = Field((), max_length=32)
    models: tuple[Word, ...] | None = Field(None, min_length=1, max_length=256)
    strategies: tuple[StrategyName, ...] | None = Field(None, min_length=1)
    overrides: tuple[str, ...] | None = None
    expires_at: float | None = Field(None, allow_inf_nan=False)

    @field_validator("overrides")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name not in Overrides.__slots__:
                raise ValueError(f"unknown override {name[:40]!r}; known are: {', '.join(Overrides.__slots__)}")
        return value


class Secret(Strict):
    """One secret of a key, without the secret: its first characters and its life.

    `valid_until`: when a replaced secret stops to open the gateway; None: as long as its key does.
    """

    hint: str
    created_at: float
    valid_until: float | None = None


class Key(Grant):
    """A key on record, with the secrets that it has had, oldest first. Times are seconds since the epoch."""

    id: str
    created_at: float
    revoked_at: float | None = None
    secrets: tuple[Secret, ...] = ()

    def status(self, now: float) -> Status:
        """Whether it opens the gateway at `now`, or why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    @property
    def understood(self) -> bool:
        """False when another version, or a hand, has written limits or budgets that cannot be read here."""
        try:
            return (self.limits, self.allowances) is not None
        except (ArithmeticError, AttributeError, TypeError, ValueError):
            return False

    @property
    def caller(self) -> Caller:
        """Whom it lets in. Limits and budgets that are not `understood` allow nothing, as a budget of $0 does."""
        understood = self.understood
        return Caller(
            id=self.id,
            overrides=None if self.overrides is None else frozenset(self.overrides),
            models=self.models,
            strategies=self.strategies,
            tags=self.tags,
            expires_at=self.expires_at,
            limits=self.limits if understood else NO_LIMITS,
            budgets=self.allowances if understood else (Allowance(Money.ZERO, "total"),),
        )

    def plain(self, now: float) -> dict[str, Any]:
        """As JSON data, with the secrets that still open the gateway and those alone."""
        status = self.status(now)
        open_ = [each for each in self.secrets if each.valid_until is None or each.valid_until > now]
        shown = [each.model_dump() for each in open_ if status == "active"]
        first = {"object": "key", "id": self.id, "status": status}
        return {**first, **self.model_dump(mode="json", exclude={"id", "secrets"}), "secrets": shown}


@dataclass(frozen=True, slots=True)
class Held:
    """One secret that may open the gateway: its digest, whom it lets in, and the key it is of.

    `key` is None for a secret of the gateway's environment, which has no end; `until` as `Secret.valid_until`.
    """

    digest: bytes
    caller: Caller
    key: Key | None = None
    until: float | None = None

    def refusal(self, now: float) -> str | None:
        """Why this secret does not open the gateway at `now`, in words for its holder; None: it does."""
        if self.key is None:
            return None
        status = self.key.status(now)
        if status == "revoked":
            return "This API key was revoked."
        if status == "expired" and self.key.expires_at is not None:
            return f"This API key expired on {_moment(self.key.expires_at)}."
        if self.until is not None and self.until <= now:
            return f"This API key was replaced by a new one and has not been valid since {_moment(self.until)}."
        return None


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
