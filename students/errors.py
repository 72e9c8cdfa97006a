"""What can go wrong when a model is asked to speak.

EngineError
├── Unavailable      cannot be reached, or is not up (connection refused, 5xx, process gone, breaker open)
├── Overloaded       says it has no room now (429, 503 with retry-after); may carry `retry_after` seconds
├── TimedOut         a deadline passed: `deadline` names which (place, connect, first_token, idle, total)
├── PromptTooLong    the prompt does not fit the model's context
├── Refused          the request itself was refused (400, 401, 403, 404, 422); another try will not help
└── BadReply         answered, but not in a form that can be understood, or ended without its end
"""

from __future__ import annotations


class EngineError(Exception):
    """A model could not answer. `engine` names it; `status` is the upstream's HTTP status or None; the message
    holds no key and no prompt text, so it may be shown to a caller and written to a log."""

    def __init__(self, message: str, *, engine: str = "", status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.engine = engine
        self.status = status
        self.code = code


class Later(EngineError):
    """An error that may say when to come again: `retry_after` is in seconds; None: it does not say."""

    def __init__(
        self,
        message: str,
        *,
        engine: str = "",
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, engine=engine, status=status, code=code)
        self.retry_after = retry_after


class Unavailable(Later):
    """The upstream cannot be reached, or is not up; with the code `breaker_open`, it was not asked."""


class Overloaded(Later):
    """The upstream has no room now."""


class TimedOut(EngineError):
    """A deadline passed. `deadline` is one of place (`max_concurrent`), connect, first_token, idle, total."""

    def __init__(self, message: str, *, engine: str = "", deadline: str = "total") -> None:
        super().__init__(message, engine=engine)
        self.deadline = deadline


class PromptTooLong(EngineError):
    """The prompt does not fit the model's context."""


class Refused(EngineError):
    """The request itself was refused; the same request will be refused again."""


class BadReply(EngineError):
    """The answer cannot be understood, or the stream ended without its end: never a short answer."""
