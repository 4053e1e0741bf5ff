"""Failures of a request, and the HTTP status of each kind. The body is the command line's error object."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from csa.errors import CsaError


class RequestError(CsaError):
    """A request that is refused before it means anything."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.headers = headers or {}
        self.status = status
        self.code = code


class NotServedError(CsaError):
    """The project is not among those that this server serves."""

    code = "not_served"
    exit_code = 5


_STATUSES: Mapping[str, int] = {
    "usage": 400,
    "not_served": 403,
    "refused": 403,
    "not_found": 404,
    "unfinished": 404,
    "ambiguous": 409,
    "busy": 409,
    "settled": 409,
    "appeared": 409,
    "changed": 412,
    **dict.fromkeys(("conflict", "markers", "check", "hook"), 409),  # of landing
    "tool": 424,
    "full": 429,
    "withdrawn": 429,
    "host": 424,
    "sealed": 424,
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_INSUFFICIENT_STORAGE = 507


def status_of(error: CsaError) -> int:
    """Return the HTTP status of a failure."""
    if isinstance(error, RequestError):
        return error.status
    is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
    return _INSUFFICIENT_STORAGE if is_full else _STATUSES.get(error.code, 500)


def failure_of(error: OSError) -> CsaError:
    """Return the failure for an error of the system."""
    words = f"{error.filename or 'a file cannot be read or written'}: {error.strerror or error}."
    return RequestError(_INSUFFICIENT_STORAGE if error.errno in _FULL else 500, "error", words)
