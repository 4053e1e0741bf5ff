"""What kind of failure Claude Code's names, numbers and messages mean (2.1.328; the names are from its own tables).

Only typed evidence comes here: fields of error lines and of results, and the texts of lines the CLI marks as errors.
"""

from __future__ import annotations

from typing import Any

from csa.model.adapter import ErrorKind
from csa_adapters.failures import kind_of_message, kind_of_status, rules
from csa_adapters.jsonlines import text_of

# `terminal_reason`, `startup_failure_reason`, `api_error_type`, `api_error` and `error`, if they are more specific than
# the HTTP status.
_NAMES: dict[str, ErrorKind] = {
    "prompt_too_long": "context_overflow",
    "blocking_limit": "context_overflow",
    "rapid_refill_breaker": "context_overflow",
    "context_length_exceeded": "context_overflow",
    "model_context_window_exceeded": "context_overflow",
    "request_too_large": "context_overflow",
    "insufficient_quota": "quota",
    "usage_limit_reached": "quota",
    "billing_error": "quota",
    "authentication_error": "auth",
    "authentication_failed": "auth",
    "oauth_org_not_allowed": "auth",
    "account_on_hold": "auth",
    "verification_required": "auth",
    "cloud_credential_error": "auth",
    "org_pin_api_key_conflict": "auth",
    "org_pin_mismatch": "auth",
    "org_verify_failed": "auth",
    "provider_not_allowed": "auth",
    "gateway_signin_required": "auth",
    "gateway_access_denied": "auth",
    "permission_error": "auth",
    "bypass_root": "permission",
    "blocked_by_hook": "permission",
    "stopped_by_hook": "permission",
    "dropped_by_hook": "permission",
    "hook_stopped": "permission",
    "not_found_error": "invalid_request",
    "model_not_found": "invalid_request",
    "image_error": "invalid_request",
    "max_output_tokens": "invalid_request",
    "overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "structured_output_retry_exhausted": "invalid_output",
    "connection_failed": "network",
    "timeout_error": "network",
}
_COARSE_NAMES: dict[str, ErrorKind] = {
    "rate_limit": "rate_limit",
    "server_error": "server",
    "model_error": "server",
    "invalid_request": "invalid_request",
}
# The texts of lines the CLI marks as API errors or error results itself.
_LIMITS = rules(
    (
        r"(usage|session|weekly|monthly|daily|5-hour|five-hour|opus|sonnet|spend(ing)?) limit|hit your .{0,20}limit",
        "quota",
    ),
    (r"credit balance|current quota|out of (extra )?usage|exceeds your .{0,40}budget", "quota"),
    (r"^Prompt is too long", "context_overflow"),  # its status, 400, and type only mean invalid_request
    (r"reached its context window limit", "context_overflow"),  # its name is max_output_tokens
)
_MESSAGES = rules(
    (r"No conversation found|does not match any session|already in use|Invalid session ID", "invalid_request"),
    (r"not logged in|/login|authenticate|API key", "auth"),
    (r"too long", "context_overflow"),
    (r"ECONN|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|connection|network|timed out", "network"),
)
STARTUP = rules(
    (r"cannot be used with root", "permission"),
    (r"No conversation found|already in use|Invalid session ID|Input must be provided", "invalid_request"),
    (r"unknown option|argument .* is invalid|requires --verbose|missing required", "invalid_request"),
    (r"not logged in|/login|Invalid API key", "auth"),
)
# Ends without an error in the result where the agent was not done. A `Stop` hook that forbids continuing
# (`stop_hook_prevented`) comes after the answer.
_BROKEN_OFF = frozenset(
    {
        "aborted_streaming",
        "aborted_tools",
        "api_error",
        "blocking_limit",
        "budget_exhausted",
        "hook_stopped",
        "image_error",
        "malformed_tool_use_exhausted",
        "max_turns",
        "model_error",
        "prompt_too_long",
        "rapid_refill_breaker",
        "structured_output_retry_exhausted",
        "tool_deferred",
        "tool_deferred_unavailable",
        "turn_setup_failed",
    }
)
_LAST_WORDS_MISSING = {
    "tool_use": "it ended in the middle of a tool call",
    "pause_turn": "the model had paused and was not continued",
    "max_tokens": "the answer was cut off at the output token limit",
    "model_context_window_exceeded": "the answer was cut off at the end of the context window",
    "tool_deferred": "a tool call was deferred",
}


def kind_of(names: list[Any], status: Any, message: str) -> ErrorKind:
    """Return the kind of a failure: by exact names, then the status, then coarse names, then the message."""
    texts = [text_of(name) for name in names]
    named = next((_NAMES[text] for text in texts if text in _NAMES), None)
    coarse = next((_COARSE_NAMES[text] for text in texts if text in _COARSE_NAMES), None)
    return (
        kind_of_message(message, _LIMITS)
        or named
        or kind_of_status(status)
        or coarse
        or kind_of_message(message, _MESSAGES)
        or "internal"
    )


def kind_of_failure(message: str) -> ErrorKind:
    """Return the kind of a failure for which the CLI only has a message."""
    return kind_of([], None, message)


def broken_off(result: dict[str, Any]) -> tuple[ErrorKind, str] | None:
    """Return why a result without an error is not that of a completed turn; None if it is."""
    reason, last = text_of(result.get("terminal_reason")), text_of(result.get("stop_reason"))
    if reason in _BROKEN_OFF:
        said = text_of(result.get("result"))
        words = said if reason != "hook_stopped" and said else f"claude aborted the turn ({reason})"
        return kind_of([reason], None, ""), words
    if last in _LAST_WORDS_MISSING and result.get("structured_output") is None:  # that is given by a call
        return kind_of([last], None, ""), f"claude aborted the turn ({last}): {_LAST_WORDS_MISSING[last]}"
    return None
