"""Starting a turn whose supervisor outlives its caller: the terminal, the shell, or the agent that asked for it.

`start_detached` plans the turn, so that refusals come at once, and starts `csa.runner.supervisor` in
a process session of its own. It returns when the session is durable and resolvable. The supervisor has its own session
in its environment, so that it is not mistaken for a process of its caller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from csa import errors
from csa.errors import BusyError, CsaError, FullError, RefusedError, UsageError
from csa.model.permission import Permission
from csa.model.worktree import Task
from csa.process.session_processes import SUPERVISOR
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.context import Context
from csa.runner.environment import outer_sandbox
from csa.runner.on_finish import FollowUp
from csa.runner.request import FromTemplate, RunRequest
from csa.runner.secrets import refuse_later
from csa.runner.turns.plan import TurnPlan
from csa.store.inherited import without_descriptors, without_repository
from csa.store.sessions import Store
from csa.structs import Struct, asdict, replace

START_LIMIT_S = 60.0
_T = TypeVar("_T")


class AppearedError(CsaError):
    """Another run has created the session that this one was to create."""

    code, exit_code = "appeared", BusyError.exit_code

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Another run has just created session {session_id}.", hint="retry")
        self.session_id = session_id


class Detached(Struct):
    """A turn that runs in the background."""

    session_id: str
    turn: int
    tool: str
    pid: int  # of its supervisor
    project: str
    host: str | None = None  # on which it runs, if that is another one

    def to_json(self) -> dict[str, Any]:
        """Return the object that `run --detach --json` prints."""
        known = asdict(self)
        host = known.pop("host")
        return {**known, "mirror": host}


def start_detached(
    context: Context, request: RunRequest, *, wait_s: float | None = None, on_finish: FollowUp | None = None
) -> Detached:
    """Start the turn and return when its session can be found by any process.

    `wait_s` is how long to wait for a busy session or a full limit; `on_finish` is as for `run_on_finish`.

    Raises as `plan_turn` and entering a turn do, and:
        UsageError: an ephemeral session would be gone before anyone could look at it.
        RefusedError: csa runs in a sandbox whose end would end the supervisor.
    """
    refuse_ephemeral(request)
    refuse_sandbox()

    def start(order: dict[str, Any], environ: dict[str, str], project: str) -> Detached:
        return _require(_start(order, environ, project=project))

    return give_order(context, request, start, wait_s=wait_s, on_finish=on_finish)


def give_order(
    context: Context,
    request: RunRequest,
    start: Callable[[dict[str, Any], dict[str, str], str], _T],
    *,
    wait_s: float | None,
    on_finish: FollowUp | None,
) -> _T:
    """Plan the turn, and return what `start` does with the order, a supervisor's environment and the project."""
    from csa.runner.turns.planning import plan_turn  # noqa: PLC0415  # who carries out an order for a host plans nothing

    deadline = time.monotonic() + (wait_s or 0.0)
    plan = plan_turn(context, request)
    session_id = plan.state.session_id
    order = order_for(context, request, plan, wait_s=wait_s, on_finish=on_finish)
    store = plan.context.store
    try:
        return start(order, supervisors_environment(context.environ, store, session_id), str(store.project))
    except AppearedError:  # its name has come to mean another session, whose supervisor has to be another
        if wait_s is None or time.monotonic() >= deadline:
            raise
        return give_order(context, request, start, wait_s=deadline - time.monotonic(), on_finish=on_finish)


def order_for(
    context: Context, request: RunRequest, plan: TurnPlan, *, wait_s: float | None, on_finish: FollowUp | None
) -> dict[str, Any]:
    """Return what a supervisor is to do, as JSON values; `plan` is what the request means now."""
    session_id = plan.state.session_id
    pinned = request if plan.is_new else replace(request, session=session_id, session_id=None, last=False)
    pinned = replace(pinned, images=plan.request.images, files=plan.request.files)  # with their contents
    return {
        "request": request_to_json(pinned),
        "session_id": session_id,
        **place_of(context),
        "wait_s": wait_s,
        "on_finish": asdict(on_finish) if on_finish else None,
    }


def place_of(context: Context) -> dict[str, Any]:
    """Return the part of an order that says where and on whose behalf.

    `variables` are the names of all that an agent has: another process may carry the order out, which has others.
    """
    caller = {name: context.environ.get(name) for name in IDENTITY_VARIABLES}
    return {
        "directory": str(context.directory),
        "command": context.command,
        "caller": caller,
        "variables": sorted(context.environ) if any(caller.values()) else None,
    }


def start_queue(context: Context, session_id: str, *, resumes: bool, holds: bool = False) -> Detached | None:
    """Start a supervisor for the queue of a session of the context's project, and return with the turn it begins.

    None if nothing waits there any more; without `resumes` also if the queue is held. Raises as `start_detached`: then
    the next prompt still waits, and with `holds` the queue is held.
    """
    refuse_sandbox()
    order = _queue_order(context, session_id, resumes=resumes, holds=holds)
    environ = supervisors_environment(context.environ, context.store, session_id)
    return _start(order, environ, project=str(context.store.project))


def hand_over_queue(context: Context, session_id: str, *, resumes: bool = False) -> None:
    """Have another process go on with the queue of a session, when its lock and a slot are free.

    With `resumes` also if the last turn's end holds it. Raises as `start_queue`; then the queue is held.
    """
    with suppress(BusyError, FullError):
        start_queue(context, session_id, resumes=resumes, holds=True)
        return
    order = _queue_order(context, session_id, resumes=resumes, holds=True, waits=True)
    process = spawn_supervisor(
        supervisors_environment(context.environ, context.store, session_id), subprocess.DEVNULL, subprocess.DEVNULL
    )
    _send(process, order)
    threading.Thread(target=process.wait, daemon=True).start()


def _queue_order(context: Context, session_id: str, **how: bool) -> dict[str, Any]:
    return {"queue": {"resumes": False, "waits": False, **how}, "session_id": session_id, **place_of(context)}


def parked_order(order: dict[str, Any], request: RunRequest) -> dict[str, Any]:
    """Return the order for the turn that continues after a quota reset, in place of the one `order` was for."""
    return {**order, "request": request_to_json(request), "wait_s": None}


def restart(order: dict[str, Any], environ: Mapping[str, str], store: Store, session_id: str) -> Detached:
    """Carry out an order whose supervisor has died; raises as `start_detached`."""
    refuse_later(order["request"].get("secrets"), is_agents=any(order["caller"].values()))
    return _require(_start(order, supervisors_environment(environ, store, session_id), project=str(store.project)))


def _require(started: Detached | None) -> Detached:
    assert started is not None  # only a queue may be empty
    return started


def supervisors_environment(environ: Mapping[str, str], store: Store, session_id: str) -> dict[str, str]:
    """Return a supervisor's environment: its own session, and nothing meant for its caller's own work."""
    own = {"CSA_SESSION_ID": session_id, "CSA_SESSION_DIR": str(store.paths(session_id).root)}
    return {**without_repository(without_descriptors(environ)), **own}


def refuse_sandbox() -> None:
    """Raise RefusedError in a sandbox whose end would end a supervisor."""
    if sandbox := outer_sandbox():
        raise RefusedError(
            f"A detached turn cannot outlive the {sandbox} sandbox that csa was called in.",
            hint="run it in the foreground, or give the calling session --permission full",
        )


def refuse_ephemeral(request: RunRequest) -> None:
    """Raise UsageError for a session that would be gone before anyone could look."""
    if request.ephemeral:
        raise UsageError("--detach and --ephemeral cannot be combined: nobody would see the answer.")


def _start(order: dict[str, Any], environ: dict[str, str], *, project: str) -> Detached | None:
    """Start a supervisor; return what it answers: the turn that has begun, or that there is nothing to do."""
    process = spawn_supervisor(environ, subprocess.PIPE)  # where it reports; later it writes to supervisor.log
    _send(process, order)
    said = read_answer(process)
    if not said:
        return None
    threading.Thread(target=process.wait, daemon=True).start()  # a caller that lives on must not be left with a zombie
    return Detached(said["session_id"], said["turn"], said["tool"], process.pid, project)


def read_answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what a supervisor says of the turn it has begun, empty if there is nothing to do; raises its error."""
    assert process.stdout is not None
    with process.stdout as answer:
        line = answer.readline()
    if not line:
        raise CsaError(f"The supervisor exited at once, with code {process.wait(START_LIMIT_S)}.", hint="csa doctor")
    said: dict[str, Any] = json.loads(line)
    if "session_id" not in said:
        process.wait(START_LIMIT_S)
        if "error" in said:
            raise error_from_json(said["error"])
    return said


def spawn_supervisor(environ: dict[str, str], output: int, errors: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process that waits for an order on its stdin."""
    return subprocess.Popen(
        [sys.executable, *SUPERVISOR],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        cwd="/",
        env=environ,
        start_new_session=True,
    )


def _send(process: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:  # it died, and an answer will be missing
        stdin.write(order_line(order))


def order_line(order: dict[str, Any]) -> bytes:
    """Return an order as a supervisor reads it from its stdin."""
    return json.dumps(order).encode() + b"\n"


def request_to_json(request: RunRequest) -> dict[str, Any]:
    """Return a request as JSON values."""
    return {name: _converted(name, value, 0) for name, value in asdict(request).items()}


def request_from_json(values: dict[str, Any]) -> RunRequest:
    """Return what `request_to_json` was given."""
    return RunRequest(**{name: _converted(name, value, 1) for name, value in values.items()})


def _converted(name: str, value: Any, way: int) -> Any:
    form = _FORMS.get(RunRequest.__annotations__.get(name, ""))
    return value if value is None or form is None else form[way](value)


def _attachment(given: Any) -> Any:
    if isinstance(given, str):
        return given
    from csa.model.attachment import attachment_from_json  # noqa: PLC0415  # few turns have some

    return attachment_from_json(given)


_FORMS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {  # to JSON and back
    "Permission | PermissionName | None": (lambda level: Permission(level).value, Permission),
    "timedelta | None": (timedelta.total_seconds, lambda seconds: timedelta(seconds=seconds)),
    "Path | None": (os.fspath, Path),
    "tuple[str, ...] | None": (list, tuple),
    "tuple[str | Attachment, ...]": (
        lambda given: [each if isinstance(each, str) else each.to_json() for each in given],
        lambda given: tuple(map(_attachment, given)),
    ),
    "Task | None": (asdict, lambda values: Task(**values)),
    "FromTemplate | None": (asdict, lambda values: FromTemplate(**{**values, "fields": tuple(values["fields"])})),
}


def error_to_json(error: CsaError) -> dict[str, Any]:
    """Return an error for another process to raise."""
    said = {"code": error.code, "exit_code": error.exit_code, "message": error.message, "hint": error.hint}
    return {**said, "session_id": error.session_id} if isinstance(error, AppearedError) else said


def error_from_json(said: dict[str, Any]) -> CsaError:
    """Return the error that `error_to_json` was given, as the caller would have raised it."""
    if said["code"] == AppearedError.code:
        return AppearedError(said["session_id"])
    kinds = (
        UsageError,
        errors.NotFoundError,
        BusyError,
        errors.ChangedError,
        RefusedError,
        FullError,
        errors.ConfigError,
        errors.ToolUnavailableError,
    )
    kind = next((kind for kind in kinds if kind.code == said["code"]), CsaError)
    error = kind(said["message"], hint=said["hint"])
    error.code, error.exit_code = said["code"], said["exit_code"]
    return error
