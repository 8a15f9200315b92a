"""The errors that a client may see: each carries its code, HTTP status and whether a retry can help."""

from __future__ import annotations


class AppError(Exception):
    """An anticipated failure whose message is written for the client.

    `param` names the offending argument, if one is to blame. Only the text of an `AppError` ever
    leaves the server; each door translates `code` and `status` once.
    """

    code: str = "internal"
    status: int = 500
    retryable: bool = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidInput(AppError):
    """The arguments do not fit; the caller can mend them."""

    code = "invalid_input"
    status = 400


class Unauthenticated(AppError):
    """No key, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    status = 401


class Forbidden(AppError):
    """The caller is known but may not do this."""

    code = "forbidden"
    status = 403


class NotFound(AppError):
    """It does not exist, or it belongs to another tenant: both answer alike."""

    code = "not_found"
    status = 404


class Conflict(AppError):
    """The state is not what the caller expected."""

    code = "conflict"
    status = 409


class LeaseLost(Conflict):
    """The caller works for a run that its lease does not hold any more: nothing it does may take effect."""

    def __init__(
        self,
        message: str = "this run is held by another worker now, or has ended",
        *,
        param: str | None = None,
    ) -> None:
        super().__init__(message, param=param)


class LimitExceeded(AppError):
    """A rate, size, row or time budget is used up. `retry_after` is in seconds, None if waiting does not help."""

    code = "limit_exceeded"
    status = 429
    retryable = True

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class Unavailable(AppError):
    """An engine or upstream cannot answer now."""

    code = "unavailable"
    status = 503
    retryable = True


class Timeout(AppError):
    """The deadline passed before the work was done."""

    code = "timeout"
    status = 504
    retryable = True


class ConfigurationError(Exception):
    """A setting or the environment is wrong: the command ends with exit code 2 and this one line."""
