"""The sessions that a turn's agent starts, as tool calls of its client: what each does, and its answer. Only reads."""

from __future__ import annotations

import os
import time
from collections import deque

from csa.errors import CsaError
from csa.model.events import Event
from csa.model.genealogy import descend
from csa.model.wording import describe
from csa.rpc.acp.updates import Json, text_content
from csa.store.following import Follower
from csa.store.genealogy import ancestors
from csa.store.liveness import probe
from csa.store.sessions import Store
from csa.store.trees import Member, read_members

LOOK_S = 0.4
_LINES = 5  # of what one does


class SubAgents:
    """The descendants of a session that are new since this was made."""

    def __init__(self, store: Store, session_id: str) -> None:
        self._store, self._id = store, session_id
        self._looked_at = 0.0
        self._size = -1
        self._known = {member.session_id for member in self._members()}
        self._shown: dict[str, _SubAgent] = {}

    def look(self, *, is_last: bool = False) -> list[Json]:
        """Return the updates since the last look; those that still run at the last one are left to themselves."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S and not is_last:
            return []
        self._looked_at = now
        found: list[Json] = []
        for member in self._members():
            if member.session_id not in self._known:
                self._known.add(member.session_id)
                self._shown[member.session_id] = _SubAgent(self._store, member)
        for child in self._shown.values():
            found += child.look(is_last=is_last)
        return found

    def close(self) -> None:
        """Close the files."""
        for child in self._shown.values():
            child.close()

    def _members(self) -> list[Member]:
        """Return the session's descendants, if there may be new ones since the last call."""
        try:
            state = self._store.load(self._id)
            top = [state, *ancestors(self._store.root, state)][-1]
            path = Store(self._store.root, top.project_path).paths(top.session_id).tree_lock
            size = os.stat(path).st_size
            if size == self._size:
                return []
            self._size = size
            members = read_members(self._store.root, top)[0]
        except (CsaError, OSError):  # it begins just now, or a record is damaged; lists show that
            return []
        below = set(descend({self._id}, ((each.session_id, each.parent) for each in members))) - {self._id}
        return [each for each in members if each.session_id in below and not each.host]


class _SubAgent:
    def __init__(self, store: Store, member: Member) -> None:
        place = Store(store.root, member.project)
        self._id, self._parent = member.session_id, member.parent
        self._paths = place.paths(member.session_id)
        self._follower = Follower(self._paths.transcript)
        self._doing: deque[str] = deque(maxlen=_LINES)
        self._answer = ""
        self._status = ""
        self._is_told = False

    def look(self, *, is_last: bool) -> list[Json]:
        try:
            events = list(self._follower.read())
        except CsaError:  # it cannot be read, or is gone
            events = []
        title = ""
        for event in events:
            title = self._take(event) or title
        is_left = is_last and self._status == "in_progress"
        if is_left and not self._is_running():
            self._status = "failed"
            self._doing.append("ended without a result: lost")
        if not self._status or not (events or is_left):
            return []
        return [self._tell(title, is_left=is_left)]

    def close(self) -> None:
        self._follower.close()

    def _is_running(self) -> bool:
        return probe(self._paths).state == "alive"

    def _take(self, event: Event) -> str | None:
        """Take an event; return the title, if it begins a turn."""
        data = event.data
        line = describe(event)
        if event.type == "run_started":
            self._status, self._answer = "in_progress", ""
            return f"{data.get('tool')}: {' '.join(str(data.get('prompt')).split())[:80]}"
        if event.type == "run_finished":
            self._status = "completed" if data.get("status") == "succeeded" else "failed"
            self._answer = self._answer if self._status == "completed" else line or ""
        elif event.type == "agent_message" and not data.get("parent_id"):
            text = str(data.get("text") or "")
            self._answer = self._answer + text if data.get("chunk") else text or self._answer
        if line and event.type not in {"usage", "run_finished"} and not data.get("chunk"):
            self._doing.append(line)
        return None

    def _tell(self, title: str, *, is_left: bool) -> Json:
        status, text = self._status, self._answer if self._status != "in_progress" else ""
        if is_left and status == "in_progress":
            status, text = "completed", f"It goes on in the background: csa wait {self._id}"
        kind, self._is_told = "tool_call_update" if self._is_told else "tool_call", True
        update: Json = {"sessionUpdate": kind, "toolCallId": f"csa-{self._id}", "kind": "other", "status": status}
        update |= {"title": title or self._id} if title or kind == "tool_call" else {}
        update["content"] = [text_content(text or "\n".join(self._doing) or "started")]
        return {**update, "_meta": {"csa": {"session_id": self._id, "parent_session_id": self._parent}}}
