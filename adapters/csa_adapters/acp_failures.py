"""What the errors of ACP agents mean: JSON-RPC errors, unsuccessful ends, and codex-acp's typed failures.

Agents put an HTTP status into the code (gemini-cli), into the message (opencode) or into the data (codex-acp); the
protocol itself names only a few codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from csa.model.adapter import ErrorKind
from csa_adapters.failures import MESSAGE_LIMIT, kind_of_message, kind_of_status, rules, stderr_message
from csa_adapters.jsonlines import mapping_of, text_of

_NOT_FOUND = -32002  # a resource: a session, if one was asked for
_CODES: dict[int, ErrorKind] = {
    -32000: "auth",
    _NOT_FOUND: "invalid_request",
    -32600: "protocol",
    -32601: "protocol",
    -32602: "invalid_request",
    -32700: "protocol",
}
_ANY_SERVER_ERROR = -32000
_MESSAGES = rules(
    (r"ran out of room|context.?(window|length)|prompt is too long|too many tokens", "context_overflow"),
    (r"quota|usage.?limit|insufficient credits|billing|budget", "quota"),
    (r"account.{0,20}(on.?hold|suspended)|verification.?required", "auth"),
    (r"authenticat|not logged in|log ?in again|api.?key|unauthorized|credentials", "auth"),
    (r"no rollout found|session.{0,60}not found|unknown session|invalid session", "invalid_request"),
    (r"model.{0,80}(not found|does not exist|not supported)", "invalid_request"),
    (r"rate.?limit|too many requests", "rate_limit"),
    (r"at capacity|overloaded", "overloaded"),
    (r"high demand|internal server error|server.?error", "server"),
    (r"stream (disconnected|closed)|connection|network|timed? ?out|fetch failed|ECONN|unreachable", "network"),
)
# How agents answer a request for a session they do not have, if the code does not show it.
_UNKNOWN = re.compile(
    r"no rollout found for thread|invalid session identifier|no previous sessions found|no conversation found"
    r"|\b(session|conversation|thread)\b((?!model|server|provider|director|file).){0,80}"
    r"\b(not found|unknown|(does not|doesn't|no longer) exists?)\b"
    r"|\b(unknown|no such) (session|conversation|thread)\b",
    re.IGNORECASE,
)
_STATUS = re.compile(r"\b(40[0-9]|41[0-9]|42[0-9]|5[0-3][0-9])\b")
# codex-acp's `sessionFailure`, if its title is not more specific.
_CATEGORIES: dict[str, ErrorKind] = {
    "connection": "network",
    "access": "auth",
    "limit": "rate_limit",
    "service": "server",
    "request": "invalid_request",
}
_GIVEN: dict[str, ErrorKind] = {
    "spawn": "spawn",
    "unsupported": "invalid_request",
    "forgetful": "unknown_conversation",  # from an agent that keeps no sessions
    "protocol": "protocol",
    "auth": "auth",
}
_AS_OF_UNKNOWN = (None, "invalid_request", "internal", "protocol", "server")  # other kinds explain why it is not opened
_NOT_UNDERSTOOD = (-32601, -32700)
# Stop reasons that are not success, as text for people.
STOPS: dict[str, tuple[ErrorKind, str]] = {
    "max_tokens": ("context_overflow", "the agent ran out of tokens"),
    "max_turn_requests": ("internal", "the agent reached its limit of requests per turn"),
    "refusal": ("invalid_request", "the agent refused to continue"),
    "cancelled": ("internal", "the agent reports that the turn was cancelled"),
}


def read_failure(line: Mapping[str, Any], asked: str | None) -> tuple[ErrorKind, str]:
    """Return the kind and the message of a `failed` line: an error of the agent, or one the bridge found.

    `asked` is the session that was to be resumed or loaded.
    """
    message = _words(text_of(line.get("message")), line.get("data"))
    stage = text_of(line.get("stage"))
    given = text_of(line.get("kind"))
    if found := _GIVEN.get(given):
        return found, message
    kind = _kind(line.get("code"), message, line.get("data"))
    if stage == "session" and asked and kind in _AS_OF_UNKNOWN and _is_unknown(line, message):
        return "unknown_conversation", message
    if kind is None and stage == "session":  # agents have no common wording for a conversation they cannot open
        kind = "invalid_request"
    return kind or "internal", message


def _is_unknown(line: Mapping[str, Any], message: str) -> bool:
    """Say whether an agent does not have a requested session: by the code, its message, or its own list."""
    is_listed = line.get("listed")
    if line.get("code") in _NOT_UNDERSTOOD:
        return False
    if line.get("code") == _NOT_FOUND or _UNKNOWN.search(message):
        return is_listed is not True
    return is_listed is False


def explain_exit(failure: tuple[ErrorKind, str], tail: str) -> tuple[ErrorKind, str]:
    """Add the stderr of an agent that ended by itself, if nothing else explains why."""
    said = stderr_message(tail)
    kind, message = failure
    if not said:
        return failure
    return (kind_of_message(said, _MESSAGES) or kind) if kind == "internal" else kind, f"{message}: {said}"[
        :MESSAGE_LIMIT
    ]


def read_session_failure(found: Mapping[str, Any]) -> tuple[ErrorKind, str]:
    """Return the kind and the message of codex-acp's `sessionFailure`."""
    title = text_of(found.get("title"))[:MESSAGE_LIMIT] or "the turn failed"
    by_words = _kind(None, title, None)
    return by_words or _CATEGORIES.get(text_of(found.get("category")), "internal"), title


def _kind(code: Any, message: str, data: Any) -> ErrorKind | None:
    by_words = kind_of_message(message, _MESSAGES)
    if by_words in ("context_overflow", "quota"):
        return by_words
    # The code comes last: gemini uses 500 for everything it cannot name.
    status = _status_in(mapping_of(data)) or _status_in_words(message) or kind_of_status(code)
    named = _CODES.get(code) if type(code) is int else None
    if code == _ANY_SERVER_ERROR and by_words:  # "authenticate" in the protocol, anything in JSON-RPC
        named = by_words
    return status or named or by_words


def _status_in(data: Mapping[str, Any]) -> ErrorKind | None:
    return next((kind for key in ("statusCode", "status", "code") if (kind := kind_of_status(data.get(key)))), None)


def _status_in_words(message: str) -> ErrorKind | None:
    found = _STATUS.search(message)
    return kind_of_status(int(found.group(1))) if found else None


def _words(message: str, data: Any) -> str:
    """Join the message with the details that agents put into the data."""
    details = text_of(data) or next(
        (text_of(mapping_of(data).get(key)) for key in ("details", "message", "error") if mapping_of(data).get(key)), ""
    )
    both = f"{message}: {details}" if message and details and details not in message else message or details
    return both[:MESSAGE_LIMIT] or "the agent failed without giving a reason"
