"""Runs one turn of opencode (seen at 1.18.33) through its own server; the adapter starts it as the tool.

    python -I -S opencode_bridge.py opencode    with one JSON object on stdin: what `main` reads

Why not `opencode run --format json`: it names its session only with the model's first token, so a first turn that
is killed is lost; it does not report its retries, of which it makes five with growing pauses (over a minute, longer
if the provider asks for it); its tool shells survive a TERM. The server reports all of that, accepts a system text with
each prompt, and ends the shells on abort. Measured side by side with a trivial prompt (medians of five): the CPU
time and, within 5 %, the wall time of `run`; the id in half of that; 13 MB besides opencode's own 600. `serve`
with `run --attach` takes a third more of all three, since the client is a complete opencode.

stdout has the lines of `run --format json` (`step_start`, `text`, `reasoning`, `tool_use`, `step_finish`, `error`),
each with our session's id at the top, and of its own: `session` (first, at once), `retry`, `permission`, `compaction`.
A `tool_use` comes when the tool starts and again when it ends. Of a sub-agent's session only `step_finish` is reported,
with that session's id as `child`: the usage. The exit code is 0 only after a step that ended with `stop`, when nobody
is working in the background any more; if the server dies, the bridge ends in the same way. The server listens on
the loopback interface with a random password, which is never on a command line.

With `fork` it starts with a copy of another session. With `compact` it summarises the session instead of prompting,
and finally reports `compacted`, with what the server has recorded, or an error `NothingToCompactError`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import quote

if __name__ == "__main__":  # -I leaves it out; last, so that it shadows nothing
    sys.path.append(os.path.dirname(os.path.dirname(__file__)))

from csa_adapters.bridges import ENDS, Json, Terminated, end_at_signals, say
from csa_adapters.opencode_asks import Answers
from csa_adapters.opencode_family import Family
from csa_adapters.opencode_server import CALL_LIMIT_S, BridgeError, Server

RETRY_LIMIT_S = 25.0  # do not wait for a retry that would begin later than this after the first failure
RETRIES = 5  # opencode's own limit
ABORT_LIMIT_S = 1.5  # csa kills three seconds after TERM
_REFUSAL = "This run is unattended and its permission level does not allow that."
_ENDED = frozenset({"completed", "error"})


class Turn:
    """One prompt in one session: the request, and the report on stdout."""

    def __init__(self, server: Server, asked: Json) -> None:
        self._server = server
        self._asked = asked
        self._id = ""
        self._family = Family("")
        self._messages: dict[str, bool] = {}  # the assistants' messages of this turn: whether one is a compaction's
        self._told: dict[str, str] = {}  # parts: the last reported state
        self._stopped_well = False
        self._compacted = False
        self._before: set[str] = set()  # the messages before a compaction
        self._handlers: dict[str, Callable[[Json], bool]] = {
            "message.updated": self._message,
            "message.part.updated": self._part,
            "session.created": self._created,
            "session.status": self._status,
            "session.error": self._error,
            "session.compacted": self._has_compacted,
            "session.idle": self._idle,
            "server.heartbeat": self._heartbeat,
            "permission.asked": self._permission,
            "question.asked": self._question,
        }

    def run(self) -> int:
        """Run the turn to its end; return the exit code."""
        try:
            self._server.start()
            self._enter_session()
            if self._asked.get("compact"):
                return self._compact()
            self._listen(lambda: self._server.call("POST", f"/session/{self._id}/prompt_async", self._prompt()))
        except BridgeError as failure:
            self._tell("error", error=failure.error)
            return self._server.exit_code(1)
        return 0 if self._stopped_well else 1

    def _compact(self) -> int:
        """Have the session summarised, and report the server's own record of it; return the exit code."""
        before = self._history()
        if not before or before[-1].get("summary") is True:
            why = "its last message is already a summary" if before else "the session has no messages"
            raise BridgeError("NothingToCompactError", f"there is nothing to compact ({why})")
        told = next((info for info in reversed(before) if info.get("role") == "assistant"), {})
        model = self._asked.get("model") or {key: told.get(key) for key in ("providerID", "modelID")}
        self._before = {info["id"] for info in before}
        try:
            self._listen(lambda: threading.Thread(target=self._summarise, args=(model,), daemon=True).start())
            after = self._history()
        except BridgeError:
            self._undo()
            raise
        summary = after[-1] if len(after) > len(before) else {}
        if not self._compacted or summary.get("summary") is not True or summary.get("finish") != "stop":
            self._undo()
            return 1
        self._tell("compacted", messageID=summary["id"], tokensBefore=(told.get("tokens") or {}).get("total"))
        return 0

    def _undo(self) -> None:
        """Undo what a failed compaction has left: the next prompt would otherwise begin with it (1.18.33)."""
        with suppress(BridgeError):
            left = [info["id"] for info in self._history(ABORT_LIMIT_S) if info["id"] not in self._before]
            for name in reversed(left):
                self._server.call("DELETE", f"/session/{self._id}/message/{name}", limit_s=ABORT_LIMIT_S)

    def _history(self, limit_s: float = CALL_LIMIT_S) -> list[Json]:
        messages = self._server.call("GET", f"/session/{self._id}/message", limit_s=limit_s)
        return [message["info"] for message in messages]

    def _summarise(self, model: Json) -> None:
        """Request the summary. The answer comes when it is complete; events report what happens until then."""
        with suppress(BridgeError):
            self._server.call("POST", f"/session/{self._id}/summarize", model, limit_s=None)

    def _listen(self, ask: Callable[[], object]) -> None:
        """Send the prompt, and read events until the turn has ended; nothing is sent before the subscription works."""
        events = self._server.events()
        next(events, None)
        try:
            ask()
        except BridgeError:
            if not self._server.ending():
                raise  # it refuses; a server that died may have sent something before
        for event in events:
            handler = self._handlers.get(str(event.get("type")))
            if handler and handler(event.get("properties") or {}):
                return
        raise BridgeError("ServerError", f"opencode's server ended before the turn did{self._server.ending()}")

    def abort(self) -> None:
        """Have opencode end the turn and its shells, including those of background sub-agents."""
        if self._id:
            for session in self._family.at_work:
                with suppress(BridgeError):
                    self._server.call("POST", f"/session/{session}/abort", limit_s=ABORT_LIMIT_S)
            if self._before:
                self._undo()

    def _enter_session(self) -> None:
        """Create the session or find the requested one, and report it before any model is called."""
        if wanted := self._asked.get("session") or self._asked.get("fork"):
            session = self._server.call("GET", f"/session/{quote(wanted)}")
            self._server.directory = session["directory"]
            if not self._asked.get("session"):
                session = self._server.call("POST", f"/session/{quote(wanted)}/fork", {})
        else:  # an untitled session costs a model call for a title
            session = self._server.call("POST", "/session", {"title": self._asked["title"]})
        self._id = session["id"]
        self._family = Family(self._id)
        self._tell("session", directory=session["directory"], version=session.get("version"))

    def _prompt(self) -> Json:
        kept = {key: self._asked[key] for key in ("system", "tools", "model", "variant") if self._asked.get(key)}
        return {**kept, "parts": [{"type": "text", "text": self._asked["prompt"]}, *self._asked.get("files", ())]}

    def _tell(self, kind: str, **content: Any) -> None:
        say(kind, timestamp=int(time.time() * 1000), sessionID=self._id, **content)

    # Events; true ends the turn

    def _message(self, event: Json) -> bool:
        info = event["info"]
        if info["sessionID"] in self._family and info["role"] == "assistant":
            self._messages[info["id"]] = info.get("summary") is True
        return False

    def _part(self, event: Json) -> bool:
        part = event["part"]
        if part["sessionID"] not in self._family:
            return False
        self._family.take_part(part)
        is_summary = self._messages.get(part["messageID"])
        if part["type"] == "step-finish" and is_summary is not None and part["id"] not in self._told:
            self._step_finish(part, is_summary=is_summary)
        if part["sessionID"] == self._id:
            self._own_part(part, is_summary)
        return False

    def _own_part(self, part: Json, is_summary: bool | None) -> None:  # noqa: FBT001  # three answers, no switch
        if part["type"] == "compaction":
            self._tell_part("compaction", part, "begun")
        if is_summary is None:  # the user's
            return
        if part["type"] == "tool":
            status = part["state"]["status"]
            if status in _ENDED or status == "running":
                self._tell_part("tool_use", part, status)
        elif part["type"] in {"text", "reasoning"}:
            if (part.get("time") or {}).get("end") and part["text"] and not is_summary:
                self._tell_part(part["type"], part, "ended")
        elif part["type"] == "step-start":
            self._stopped_well = False
            self._tell_part("step_start", part, "told", **({"summary": True} if is_summary else {}))

    def _step_finish(self, part: Json, *, is_summary: bool) -> None:
        """Report a step with its usage, and end a turn that makes no progress."""
        if part["sessionID"] == self._id:
            self._stopped_well = part.get("reason") == "stop" and not is_summary
            self._tell_part("step_finish", part, "told", **({"summary": True} if is_summary else {}))
        else:
            self._tell_part("step_finish", part, "told", child=part["sessionID"])
        problem = self._family.take_step(part, is_summary=is_summary)
        if problem:
            self.abort()
            raise BridgeError("ContextOverflowError" if is_summary else "UnfinishedStepsError", problem)

    def _tell_part(self, kind: str, part: Json, state: str, **more: Any) -> None:
        if self._told.get(part["id"]) != state:
            self._told[part["id"]] = state
            self._tell(kind, part=part, **more)

    def _created(self, event: Json) -> bool:
        self._family.take_session(event["info"])
        return False

    def _status(self, event: Json) -> bool:
        """Report a retry as soon as it is decided, and do not wait for one that is too far away."""
        status = event["status"]
        self._family.take_status(event["sessionID"], status["type"])
        if event["sessionID"] not in self._family or status["type"] != "retry":
            return False
        now = time.time()
        since = self._family.failing_since(event["sessionID"], now)
        begins = status["next"] / 1000
        after_s = round(max(0.0, begins - now), 3)
        told = {"attempt": status["attempt"], "max": RETRIES, "message": status["message"], "retry_after_s": after_s}
        self._tell("retry", **told, **({"action": status["action"]} if status.get("action") else {}))
        if begins - since > RETRY_LIMIT_S:
            self.abort()
            reason = (status.get("action") or {}).get("reason")  # the name of a limit of opencode's own provider
            limit = {"limit": reason} if reason else {}
            raise BridgeError("RetriesEndedError", status["message"], retryAfterS=after_s, **limit)
        return False

    def _error(self, event: Json) -> bool:
        if event.get("sessionID") != self._id or not event.get("error"):
            return False
        self._stopped_well = False
        self._tell("error", error=event["error"])
        # What fails before the turn begins, such as an unknown agent, is not followed by its end.
        return not self._messages and not self._is_busy()

    def _is_busy(self) -> bool:
        return self._id in self._server.call("GET", "/session/status")

    def _has_compacted(self, event: Json) -> bool:
        self._compacted = self._compacted or event["sessionID"] == self._id
        return False

    def _idle(self, event: Json) -> bool:
        self._family.take_status(event["sessionID"], "idle")
        return event["sessionID"] in self._family and self._family.is_at_rest

    def _heartbeat(self, _event: Json) -> bool:
        """Poll the status every ten seconds, so that a missed event cannot make a turn endless."""
        return self._family.has_begun and self._family.take_truth(self._server.call("GET", "/session/status"))

    def _permission(self, event: Json) -> bool:
        """Answer what opencode's rules leave open. A refusal without a message ends the turn."""
        if event["sessionID"] not in self._family:
            return False
        allowed = self._asked.get("approve") or self._answers().allow(event)
        reply = {"reply": "once"} if allowed else {"reply": "reject", "message": _REFUSAL}
        if not allowed:
            told = {key: event.get(key) for key in ("permission", "patterns", "tool")}
            self._tell("permission", status="denied", **told)
        self._server.call("POST", f"/permission/{event['id']}/reply", reply)
        return False

    def _answers(self) -> Answers:
        written = os.environ.get("CSA_OUTPUT_DIR")
        return Answers(
            self._asked.get("grants") or {},
            directory=self._server.directory,
            outside=[each for each in (written, *self._asked.get("writable", [])) if each],
            worktree=lambda: str(self._server.call("GET", "/path")["worktree"]),
        )

    def _question(self, event: Json) -> bool:
        if event["sessionID"] in self._family:
            self._server.call("POST", f"/question/{event['id']}/reject", {})
        return False


def main() -> int:
    """Run the turn that stdin describes: prompt, title, and options (see `opencode._order`)."""
    end_at_signals()
    server = Server(sys.argv[1:])
    turn = None
    try:
        turn = Turn(server, json.loads(sys.stdin.buffer.read()))
        return turn.run()
    except Terminated as end:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        if turn is not None:
            turn.abort()
        return end.code
    finally:
        server.stop()


def leave(code: int) -> NoReturn:
    """Exit as the server did, also if that was by a signal."""
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
