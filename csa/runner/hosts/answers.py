"""What a host answers, checked before anything of it is kept: another program, or a hostile one, may answer there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.errors import CsaError
from csa.ids import is_session_id
from csa.model.usage import count_of
from csa.paths import is_project_path
from csa.runner.detach import AppearedError, error_from_json
from csa.runner.hosts.engines import HostError

_MOST_CODE = 255


def error_in(host: str, said: Mapping[str, Any]) -> CsaError | None:
    """Return the error that is said; HostError, which proves nothing of the turn, if that makes no sense."""
    if "error" not in said:
        return None
    told = said["error"] if isinstance(said["error"], Mapping) else {}
    code, message, hint, number = (told.get(name) for name in ("code", "message", "hint", "exit_code"))
    if code == AppearedError.code and is_session_id(str(told.get("session_id"))):
        return error_from_json(dict(told))
    is_whole = isinstance(code, str) and isinstance(message, str) and isinstance(hint, str | None)
    if code == AppearedError.code or not is_whole or type(number) is not int or not 0 < number <= _MOST_CODE:
        return nonsense(host, "an error")
    return error_from_json(dict(told))


def begun_in(host: str, session_id: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the turn that has begun; HostError if it is not one of that session."""
    names = {"session_id": str, "turn": int, "tool": str, "pid": int, "project": str}
    begun = {name: said.get(name) for name in names}
    is_whole = all(type(begun[name]) is kind for name, kind in names.items()) and begun["session_id"] == session_id
    if not is_whole or not count_of(begun["turn"]) or not is_project_path(begun["project"]):
        raise nonsense(host, "a turn")
    return begun


def ended_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a turn's end; one that makes no sense has failed."""
    code, spent = said["ended"], said.get("spent")
    is_code = type(code) is int and 0 <= code <= _MOST_CODE
    ended = {"ended": code if is_code else CsaError.exit_code, "turn": count_of(said.get("turn"))}
    ended |= {"lost": said.get("lost") is True, "running": bool(said.get("running"))}
    return {**ended, **({"spent": spent} if isinstance(spent, Mapping) else {})}


def nonsense(host: str, what: str) -> HostError:
    """Return the error for a host that says what no csa does."""
    hint = f"csa hosts --check {host}; if the turn is booked here: csa hosts --placed"
    return HostError(f"{host} has answered with {what} that makes no sense.", hint=hint)
