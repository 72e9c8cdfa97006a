"""What the gateway answers when it cannot answer; each leaf knows its HTTP status, OpenAI type and code.

    GatewayError            500 server_error
    ├── BadRequest          400 invalid_request_error
    │   └── Unsupported     400 unsupported_parameter
    ├── Unauthorized        401 invalid_api_key
    ├── Forbidden           403 permission_denied
    ├── NotFound            404 model_not_found, or not_found for a path
    ├── MethodNotAllowed    405 method_not_allowed
    ├── TooLarge            413 request_too_large
    ├── RateLimited         429 rate_limit_exceeded
    ├── OverBudget          429 insufficient_quota
    ├── Busy                503 overloaded, the gateway's own queue is full or it is closing
    ├── UpstreamFailed      502 upstream_error (504 when a deadline passed)
    └── ConfigError         never answered: the gateway does not start

Shapes and retry behaviour follow what the OpenAI SDK does with them: it retries 408, 409, 429 and 5xx unless
`x-should-retry: false` is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isfinite
from typing import Any, ClassVar


class GatewayError(Exception):
    """An answer in OpenAI's error shape. The message is shown to the caller: no key, no prompt text, no path."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    retry: ClassVar[bool | None] = None
    """Sent as `x-should-retry`; None: leave it to the client's own rules."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code

    @property
    def http_status(self) -> int:
        """The status of the response; before the first byte of a stream only."""
        return self.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that belong to this answer."""
        return {} if self.retry is None else {"x-should-retry": "true" if self.retry else "false"}

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


class BadRequest(GatewayError):
    """The request cannot be understood or allowed; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class Unsupported(BadRequest):
    """The request asks for something that this gateway or its models do not do."""

    code = "unsupported_parameter"


class Unauthorized(GatewayError):
    """No key, or a wrong one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """The key is right but may not do this."""

    status = 403
    type = "invalid_request_error"
    code = "permission_denied"


class NotFound(GatewayError):
    """No such model, or no such path."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class TooLarge(GatewayError):
    """The request body is over the configured size."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(GatewayError):
    """A limit of requests or tokens per minute, or of requests at once, was reached.

    `limit` names it. `retry_after` is in seconds; None: not known. `headers` are sent beside it (`x-ratelimit-*`).
    """

    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        limit: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.limit = limit
        self.retry_after = retry_after
        self._headers = dict(headers or {})

    @property
    def headers(self) -> Mapping[str, str]:
        sent = {**super().headers, **self._headers}
        if self.retry_after is not None and isfinite(self.retry_after):
            # OpenAI's clients prefer the milliseconds; a whole second is what HTTP knows.
            sent["retry-after"] = str(max(1, ceil(self.retry_after)))
            sent["retry-after-ms"] = str(max(1, ceil(self.retry_after * 1000)))
        return sent


class OverBudget(GatewayError):
    """A budget in dollars is spent; trying again does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    retry = False


class Busy(GatewayError):
    """The gateway has no room now, or is closing."""

    status = 503
    type = "server_error"
    code = "overloaded"
    retry = True


class UpstreamFailed(GatewayError):
    """A model behind the gateway failed and no fallback answered."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self._status = status
        self.retry_after = retry_after

    @property
    def http_status(self) -> int:
        return self._status or self.status

    @property
    def headers(self) -> Mapping[str, str]:
        # The gateway has made its own retries; a client that repeats the request would pay the teacher again.
        sent = {"x-should-retry": "false"}
        if self.retry_after is not None and isfinite(self.retry_after):
            sent["retry-after"] = str(max(1, round(self.retry_after)))
        return sent


class ConfigError(GatewayError):
    """The configuration cannot be used; the message says what to mend."""
