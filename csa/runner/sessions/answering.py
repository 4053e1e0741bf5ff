"""What the agents of running turns ask to be allowed, and answers to that, from any process that is no agent's."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError, SettledError, UsageError
from csa.model.events import Event
from csa.model.permission import asked_for
from csa.runner.session import Session
from csa.runner.sessions.acting import record_act
from csa.store.liveness import probe
from csa.store.owner import Owner
from csa.store.transcript import read_events_backwards
from csa.structs import Struct

ANSWER_S = 5.0
_LISTS = "csa answer lists what is asked"


class Ask(Struct, kw_only=True):
    """One thing that an agent waits to be allowed."""

    ask: str
    session_id: str
    turn: int
    tool: str
    since: str
    data: Mapping[str, Any]  # of its event

    @property
    def title(self) -> str:
        return asked_for(self.data)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa answer --json` lists."""
        return {
            "ask": self.ask,
            "session_id": self.session_id,
            "turn": self.turn,
            "tool": self.tool,
            "title": self.title,
            "kind": self.data.get("kind") or "other",
            "command": self.data.get("command"),
            "paths": list(self.data.get("paths") or []),
            "options": list(self.data.get("options") or []),
            "since": self.since,
        }


class Answered(Struct, kw_only=True):
    """An answer that counts; `losses` is what could not be recorded of it."""

    session_id: str
    ask: str
    title: str
    allowed: bool
    losses: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa answer ASK --json` prints."""
        return {"session_id": self.session_id, "ask": self.ask, "title": self.title, "allowed": self.allowed}


def pending_asks(session: Session) -> list[Ask]:
    """Return what the agent of a running turn waits to be allowed, oldest first."""
    owner = _supervisor(session)
    wanted = set(owner.asks.split()) if owner else set()
    found: list[Ask] = []
    for event in read_events_backwards(session.files.transcript) if wanted else ():
        if _ask_of(event) in wanted and event.data.get("status") == "pending":
            wanted.remove(_ask_of(event))
            found.append(_make(session, event, tool=owner.tool if owner else ""))
        if not wanted or event.type == "run_started":
            break
    return found[::-1]


def answer_ask(session: Session, ask: str | None = None, *, allow: bool, via: str) -> Answered:
    """Allow once what an agent asks for, or deny it; without `ask`, the only thing it asks.

    Args:
        session: where.
        ask: which.
        allow: whether it may.
        via: through which door the answer comes, for the record.

    Raises:
        RefusedError: an agent answers.
        NotFoundError: nothing is asked, or nothing by that name.
        UsageError: several things are asked.
        SettledError: it was answered already, or denied because nobody had answered, or the turn has ended.
        BusyError: the turn's process does not respond.
    """
    refuse_agents(session)
    if ask is None:
        ask = _only(session)
    elif not _was_asked(session, ask):
        raise NotFoundError(f"Session {session.session_id} does not ask '{ask}'.", hint=_LISTS)
    said = _send(session, {"ask": ask, "allow": allow, "via": via})
    if said.get("error") == "settled":
        raise _settled(session, ask)
    if "error" in said:
        raise RefusedError(f"{str(said.get('message', ''))[:1].upper()}{str(said.get('message', ''))[1:]}.")
    title = str(said.get("title", ""))
    what = "allowed" if allow else "denied"
    loss = record_act(session.context, "session answer", session.session_id, what=what, ask=ask)
    losses = (loss,) if loss else ()
    return Answered(session_id=session.session_id, ask=ask, title=title, allowed=allow, losses=losses)


def refuse_agents(session: Session) -> None:
    """Raise RefusedError inside any session: nothing an agent does may widen what agents may do."""
    if (caller := session.context.caller) is not None:
        raise RefusedError(
            f"Session {caller.session_id} cannot answer what an agent asks.",
            hint="a person answers: csa answer, in a terminal of their own",
        )


def _only(session: Session) -> str:
    found = pending_asks(session)
    if not found:
        raise NotFoundError(f"Session {session.session_id} asks nothing.")
    if len(found) > 1:
        raise UsageError("It asks several things.", hint=", ".join(f"{each.ask} ({each.title})" for each in found))
    return found[0].ask


def _was_asked(session: Session, ask: str) -> bool:
    events = read_events_backwards(session.files.transcript)
    return bool(ask) and any(_ask_of(event) == ask for event in events)


def _settled(session: Session, ask: str) -> SettledError:
    """Return why an answer comes too late."""
    for event in read_events_backwards(session.files.transcript):
        if _ask_of(event) != ask:
            continue
        if event.data.get("status") == "pending":
            break
        by = {"user": "by a person", "timeout": "because nobody had answered in time"}
        how = by.get(str(event.data.get("by")), "when its turn ended")
        return SettledError(f"That is {event.data.get('status')} already, {how}.")
    return SettledError("That was answered already, or its turn has ended.", hint=_LISTS)


def _send(session: Session, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send an answer to the turn's process, and return what it says."""
    from csa.runner.turns.asking import MAX_BYTES, SOCKET  # noqa: PLC0415  # only this needs them
    from csa.runner.turns.runfiles import run_directory  # noqa: PLC0415  # as above

    owner = _supervisor(session)
    if owner is None:
        raise _settled(session, str(request["ask"]))
    if not owner.is_local:
        raise CsaError(f"The turn runs on {owner.host}, or in another container.", hint="answer there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        try:
            fd = os.open(run_directory(session.files), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{fd}/{SOCKET}")  # the path may be too long for an address
            finally:
                os.close(fd)
            connection.sendall(json.dumps(request).encode() + b"\n")
            said = json.loads(connection.makefile("rb").readline(MAX_BYTES))
        except (TimeoutError, BlockingIOError) as error:
            raise BusyError(
                f"The process of the turn, PID {owner.pid}, does not respond; nothing was answered.",
                hint=f"if it was stopped: kill -CONT {owner.pid}",
            ) from error
        except (OSError, ValueError) as error:  # it has just ended
            raise _settled(session, str(request["ask"])) from error
    return said if isinstance(said, dict) else {}


def _supervisor(session: Session) -> Owner | None:
    """Return who runs the session's turn; None if none is running."""
    found = probe(session.files)
    return found.owner if found.runs_turn else None


def _ask_of(event: Event) -> str:
    return str(event.data.get("ask") or "") if event.type == "permission" else ""


def _make(session: Session, event: Event, *, tool: str) -> Ask:
    return Ask(
        ask=_ask_of(event),
        session_id=session.session_id,
        turn=event.turn,
        tool=tool,
        since=event.ts,
        data=event.data,
    )
