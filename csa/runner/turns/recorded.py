"""Which recorded turn stands in for the tool of a turn: `CSA_REPLAY=S csa run`.

The n-th turn of a session replays the n-th turn of the recorded session that the variable names: an id, a name, or
ARCHIVE, ARCHIVE#ID for an export. For nested runs, whatever stands in for the agent sets it. The variable gives no
permission, and lifts no limit; what it starts is never a tool.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csa.errors import AmbiguousError, ConfigError, CsaError, NotFoundError, RefusedError, UsageError
from csa.model.config import Config
from csa.model.configkeys import AUTO
from csa.model.permission import Permission
from csa.model.redaction import MARK
from csa.model.text import shortened
from csa.paths import SessionPaths
from csa.runner.context import REPLAY, Context
from csa.runner.request import RunRequest
from csa.runner.session import Session, find_session
from csa.runner.toolbox import ToolChoice, find_adapter, transport_of
from csa.store.archive import unpack
from csa.store.family import family_of
from csa.store.recording import Call, RecordedTurn, Recording, Span
from csa.store.sessions import Target
from csa.store.transcript import last_started
from csa.structs import Struct, replace

_ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar")
_ACP_BRIDGE = "acp_bridge.py"
_CUT = b"[csa: the oldest "
_OPTIONS = (
    ("model", "--model"),
    ("effort", "--effort"),
    ("timeout_s", "--timeout"),
    ("idle_timeout_s", "--idle-timeout"),
)
_SHOWN = 60  # characters of a prompt in a message


class Replay(Struct):
    """The recorded turn that stands in for a tool, and the runs that its agent has called for."""

    archive: str  # where it is from; empty: from the state root
    turn: RecordedTurn
    calls: tuple[Call, ...]

    @property
    def session_id(self) -> str:
        return self.turn.session.session_id

    def to_event(self) -> dict[str, object]:
        """Return what `run_started` says of it."""
        return {"session": self.session_id, "turn": self.turn.span.number}

    def selector_of(self, call: Call) -> str:
        """Return what the variable of a nested run names."""
        return f"{self.archive}#{call.session.session_id}" if self.archive else call.session.session_id


def find_replay(context: Context, *, turn: int, continues: SessionPaths | None) -> Replay:
    """Return the recorded turn that the environment names for this turn of a session, the one it `continues` if any.

    Raises:
        UsageError: that session replays another recording, or none.
        CsaError: the recording is missing or damaged, or cannot be replayed.
    """
    with open_recording(context, context.replay) as (recording, session_id, archive):
        if continues is not None and (before := replayed_session(continues)) != session_id:
            is_what = f"a replay of {before}" if before else "no replay"
            raise UsageError(
                f"{REPLAY} names {session_id}, but session {continues.session_id} is {is_what}.",
                hint="name the session that it replays, or begin a new session",
            )
        found = recording.session(session_id).turn(turn)
        _refuse_unplayable(found)
        return Replay(archive, found, tuple(recording.calls_of(found)))


def replayed_session(paths: SessionPaths) -> str | None:
    """Return the recorded session that the last turn of a session has replayed; None if it has not."""
    started = last_started(paths.transcript)
    told = started.data.get("replayed_from") if started else None
    return str(told.get("session")) if isinstance(told, dict) else None


def as_recorded(context: Context, request: RunRequest, replay: Replay) -> RunRequest:
    """Return the request with all that it leaves open as it was recorded.

    UsageError if it asks for another tool or another prompt.
    """
    started: Mapping[str, Any] = replay.turn.span.started.data
    tool, prompt = str(started.get("tool")), str(started.get("prompt"))
    if request.tool not in {None, AUTO, tool}:
        raise _mismatch(replay, "--tool", f"was run by {tool}, not {request.tool}")
    if request.prompt.strip() and not _is_same(context.redactor.redact(request.prompt), prompt):
        raise _mismatch(replay, "the prompt", f"has the prompt '{_shorten(prompt)}', not '{_shorten(request.prompt)}'")
    origins = _mapping(started.get("origins"))
    options: dict[str, Any] = {
        name: started.get(name)
        for name, option in _OPTIONS
        if getattr(request, name) is None and origins.get(name) == option
    }
    argv = started.get("argv")
    is_acp = isinstance(argv, list) and any(os.path.basename(str(word)) == _ACP_BRIDGE for word in argv)
    return replace(
        request,
        prompt=request.prompt if request.prompt.strip() else prompt,
        tool=tool,
        transport=request.transport or ("acp" if is_acp else None),
        permission=request.permission or _permission(context, started.get("permission")),
        fallback=_fallback(replay) if request.fallback is None else request.fallback,
        retries=_retries(replay),
        park_limit_s=0.0,
        schema=request.schema or replay.turn.schema,
        **options,
    )


def replayed_tool(request: RunRequest, config: Config) -> ToolChoice:
    """Return the tool of a replay, which need not be installed."""
    assert request.tool is not None  # see `as_recorded`
    try:
        adapter = find_adapter(request.tool, config, request.transport)
    except (UsageError, ConfigError) as error:
        raise UsageError(f"The recording is of {request.tool}, and {error.message}", hint=error.hint) from error
    words = config.for_tool(adapter.name).command or (adapter.executable,)
    return ToolChoice(adapter, words, "replayed", transport_of(adapter.name, config, request.transport))


def replays_below(top: Target) -> dict[str, str]:
    """Return the sessions of a tree that replay recorded ones, by the id of the recorded one."""
    store, session_id = top
    found = {}
    for place, each in [(store, session_id), *family_of([top]).look()]:
        if recorded := replayed_session(place.find(each)):
            found[recorded] = each
    return found


def is_archive(named: str) -> bool:
    """Say whether what names a recording is ARCHIVE or ARCHIVE#ID, and no session here."""
    place, _ = _split(named)
    return place.endswith(_ARCHIVE_ENDINGS) or "/" in place


def _split(named: str) -> tuple[str, str]:
    """Return the parts of ARCHIVE#ID; a directory's name may have a #, too."""
    place, mark, chosen = named.rpartition("#")
    return (place, chosen) if mark and "/" not in chosen and not chosen.endswith(_ARCHIVE_ENDINGS) else (named, "")


@contextmanager
def open_recording(context: Context, named: str) -> Iterator[tuple[Recording, str, str]]:
    """Yield the recording that is named, the session in it, and the archive it is in, if it is in one.

    Raises as `find_session`, and:
        NotFoundError: there is no such archive, or no such session in it.
        ArchiveError, RefusedError: as `unpack`.
    """
    place, chosen = _split(named)
    if not is_archive(named):
        yield _recorded_here(context, named)
        return
    archive = os.path.join(context.directory_pathname, os.path.expanduser(place))
    with tempfile.TemporaryDirectory(prefix="csa-replay-") as directory:
        try:
            with open(archive, "rb") as stream:
                unpacked = unpack(stream, Path(directory))
        except OSError as error:
            raise NotFoundError(f"{archive} cannot be read: {error.strerror}.") from error
        recording = Recording({each: SessionPaths(Path(directory, each)) for each in unpacked.files})
        matching = (
            sorted(each for each in unpacked.files if each.startswith(chosen)) if chosen else recording.founders()
        )
        if len(matching) > 1:
            raise AmbiguousError(named, matching, len(matching), hint=f"name one: {place}#ID")
        if not matching:
            raise NotFoundError(f"There is no session {chosen or 'at all'} in {archive}.")
        yield recording, matching[0], archive


def _recorded_here(context: Context, selector: str) -> tuple[Recording, str, str]:
    """Return the whole tree of a session, which also has what an agent has continued without having begun it."""
    session = find_session(context, selector, retired=True)
    state = session.load() if not session.record.is_retired else session.record.state
    top = session
    if state is not None and state.root_session_id:
        try:
            top = find_session(context, state.root_session_id, retired=True)
        except CsaError:
            top = session  # the root is gone; what is below this one is what there is
    targets = [session.target, top.target, *family_of([top.target]).look()]
    return (
        Recording({each: Session(context.in_store(store), each).content for store, each in targets}),
        session.session_id,
        "",
    )


def _refuse_unplayable(turn: RecordedTurn) -> None:
    """Raise RefusedError for a turn whose recording does not say all that a replay needs."""
    finished = turn.span.finished
    error = finished.data.get("error") if finished else None
    kind = error.get("kind") if isinstance(error, dict) else None
    problems = {
        "its end is missing: it is running, or its supervisor was killed": (
            finished is None or finished.data.get("status") == "lost"
        ),
        f"it has no output of a tool ({kind})": kind in {"spawn", "fenced"},
        "the tool's output (stdout.log) was not kept": turn.stdout is None,
        "the tool has written so much that the beginning of its output was dropped": (
            any(log.startswith(_CUT) for log in (turn.stdout or b"", turn.stderr))
        ),
        "an older csa has started the tool more than once, and its output does not say which time it is of": (
            turn.starts is None
        ),
    }
    if reason := next((words for words, is_one in problems.items() if is_one), None):
        whose = f"Turn {turn.span.number} of session {turn.session.session_id}"
        raise RefusedError(f"{whose} cannot be replayed: {reason}.", hint="csa replay shows what was recorded")


def _mismatch(replay: Replay, option: str, words: str) -> UsageError:
    which = f"turn {replay.turn.span.number} of session {replay.session_id}"
    return UsageError(
        f"This is not the turn that was recorded: {which} {words}.",
        hint=f"leave {option} out, and csa takes the recorded one",
    )


def _is_same(prompt: str, recorded: str) -> bool:
    """Compare prompts; what was a secret when it was recorded may be any text."""
    pattern = ".*".join(map(re.escape, recorded.strip().split(MARK)))
    return re.fullmatch(pattern, prompt.strip(), re.DOTALL) is not None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shorten(text: str) -> str:
    return shortened(" ".join(text.split()), _SHOWN)


def _permission(context: Context, recorded: object) -> Permission | None:
    try:
        wanted = Permission(recorded)
    except ValueError:
        return None
    return wanted.at_most(context.caller.permission) if context.caller else wanted


def _fallback(replay: Replay) -> tuple[str, ...]:
    """Return the tools that took over after this turn, each with its model, if it was asked for."""
    session, span = replay.turn.session, replay.turn.span
    last = session.run_of(span).number
    return tuple(_with_model(each) for each in session.spans if span.number < each.number <= last)


def _retries(replay: Replay) -> int:
    """Return how often csa may retry: as often as then, but after a failure no more than it did."""
    retries = [event.data for event in replay.turn.events if event.type == "retry" and event.data.get("by") == "csa"]
    retries = [data for data in retries if data.get("kind") != "invalid_output"]
    finished = replay.turn.span.finished
    has_succeeded = finished is not None and finished.data.get("status") == "succeeded"
    return int(retries[-1].get("max") or 0) if retries and has_succeeded else len(retries)


def _with_model(span: Span) -> str:
    started = span.started.data
    is_asked = _mapping(started.get("origins")).get("model") == "--model" and started.get("model")
    return f"{started.get('tool')}:{started['model']}" if is_asked else str(started.get("tool"))
