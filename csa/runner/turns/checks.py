"""What is wrong with a request in itself: words and numbers that no session, tool or machine could make right. Pure."""

from __future__ import annotations

import re

from csa.errors import ChangedError, UsageError
from csa.ids import is_session_id
from csa.runner.request import RunRequest

_SESSION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
MAX_SYSTEM_BYTES = 96 << 10  # it is one argument of the tool, and the kernel allows 128 KiB


def check_request(request: RunRequest, *, may_lack_prompt: bool = False) -> None:
    """Raise UsageError for a request that cannot be carried out, whatever there is."""
    ways = [request.session is not None, request.last, request.session_id is not None]
    if sum(ways) > 1:
        raise UsageError("--session, --last and --session-id cannot be combined.")
    if None not in {request.session_id, request.name} and request.name != request.session_id and not asked_id(request):
        raise UsageError(f"--session-id {request.session_id} already names the session; drop --name {request.name}.")
    _check_beginning(request)
    if not (request.prompt.strip() or may_lack_prompt):
        raise UsageError("The prompt is empty.", hint='csa run "what to do"')
    check_texts(request)
    check_numbers(request)
    if request.schema is not None:
        from csa.runner.turns.conformance import check_schema  # noqa: PLC0415  # few turns have one

        check_schema(request.schema)
    for name in (request.name, None if asked_id(request) else request.session_id):
        check_name(name)


def check_name(name: str | None) -> None:
    """Raise UsageError for what cannot name a session."""
    if name is not None and not _SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"Invalid session name '{name}'.",
            hint="names begin with a letter and have up to 64 letters, digits, dots, dashes, underscores; or are UUIDs",
        )


def _check_beginning(request: RunRequest) -> None:
    """Refuse options that start a session together with those that continue one; --session-id may do either."""
    continues = request.session is not None or request.last
    if request.ephemeral and (continues or request.session_id is not None):
        raise UsageError("--ephemeral always starts a new session; it cannot continue one.")
    if request.fork_from is not None and continues:
        raise UsageError("--fork-from always starts a new session; it cannot continue one.")
    if request.ephemeral and request.worktree is not None:
        raise UsageError("--ephemeral keeps nothing, and --worktree makes what is to be kept.")
    if request.with_changes and request.worktree is None:
        raise UsageError(
            "--with-changes says what a new worktree begins with.", hint="csa run --worktree --with-changes"
        )
    if request.setup is not None and request.worktree is None and not (continues or request.session_id is not None):
        raise UsageError("--setup prepares a worktree.", hint='csa run --worktree --setup CMD "..."')
    if request.repair and not (continues or request.session_id is not None):
        raise UsageError("--repair continues the session that could not be landed.", hint="csa run -s S --repair")
    if request.reopen and not (continues or request.session_id is not None):
        raise UsageError("--reopen continues a closed session.", hint='csa run --session S --reopen "..."')


def check_texts(request: RunRequest) -> None:
    """Raise UsageError for texts that no tool takes."""
    texts = (
        request.prompt,
        request.description,
        request.system,
        request.opening,
        request.model,
        request.effort,
        *(request.flags or ()),
    )
    if any(text is not None and not is_unicode(text) for text in texts):
        raise UsageError("The prompt and the options must be valid UTF-8.")
    if "\0" in request.prompt:
        raise UsageError("The prompt contains a NUL character, which no tool accepts.")
    if any(text and "\0" in text for text in texts):
        raise UsageError("The system text, or another option, contains a NUL character, which no tool accepts.")
    if request.system and len(request.system.encode()) > MAX_SYSTEM_BYTES:
        raise UsageError(f"The system text is longer than {MAX_SYSTEM_BYTES >> 10} KiB.", hint="put it into the prompt")


def check_numbers(request: RunRequest) -> None:
    """Raise UsageError for limits that are none."""
    for option, seconds in (("--timeout", request.timeout_s), ("--idle-timeout", request.idle_timeout_s)):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise UsageError(f"{option} must be more than 0 seconds.")
    if request.ask_timeout_s is not None and not 0 <= request.ask_timeout_s < float("inf"):
        raise UsageError("--ask-timeout must be 0 seconds or more.")
    if request.after_turn is not None and request.after_turn < 0:
        raise UsageError("--after-turn is the number of a turn, 0 or more.")
    if request.retries is not None and request.retries < 0:
        raise UsageError("--retries must be 0 or more.")


def refuse_changed(request: RunRequest, session_id: str, *, turn: int) -> None:
    """Raise ChangedError if a session's last turn is another than the sender knew."""
    if request.after_turn not in {None, turn}:
        raise ChangedError(
            f"Session {session_id} is at turn {turn}, not {request.after_turn}.", hint=f"csa show {session_id}"
        )


def asked_id(request: RunRequest) -> str | None:
    """Return the session id that a request names, to continue that session or to create it."""
    asked = (request.session_id or "").upper()
    return asked if is_session_id(asked) else None


def is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8; arguments and paths of other bytes contain surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
