"""What the server does not do, in one shape for every client: a status, a code, one sentence, the field it is about."""

from __future__ import annotations

from typing import Any

from ullava.errors import UserError, one_line

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusedError(Exception):
    """Answered with ``status`` and ``body()``. ``param``: field of the request; ``retry_after_s``: when to come again;
    ``challenge``: how to say who one is (of status 401).

    ``body()`` is OpenAI's error object, which has all that the error objects of Falcon Perception's server (message,
    type, code) and of X-AnyLabeling-Server (code, message) have.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        challenge: str = "Bearer",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = one_line(message)
        self.param = param
        self.retry_after_s = retry_after_s
        self.challenge = challenge

    def body(self) -> dict[str, Any]:
        """Return ``{"error": {"message", "type", "param", "code"}}``."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to it."""
        made = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return made | ({"www-authenticate": self.challenge} if self.status == 401 else {})


def invalid(message: str, param: str | None = None) -> RefusedError:
    """Return the refusal of a request that its sender can mend."""
    return RefusedError(400, "invalid_request", message, param)


def invalid_of(error: UserError, param: str | None = None) -> RefusedError:
    """Return a UserError as the refusal of the request that caused it."""
    return invalid("; ".join(error.problems), param)


def too_large(message: str, param: str | None = None) -> RefusedError:
    """Return the refusal of something above a limit."""
    return RefusedError(413, "too_large", message, param)


def timed_out(seconds: int) -> RefusedError:
    """Return what is said when the time of a request is up."""
    return RefusedError(504, "timeout", f"not answered within {seconds} s")


def internal() -> RefusedError:
    """Return what is said where the fault is the server's own."""
    return RefusedError(500, "internal_error", "the server failed to answer; its log says why")
