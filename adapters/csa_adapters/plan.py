"""The tool `plan`: csa's own scheduler (`csa.runner.plans`), which runs the tasks of a plan as nested sessions.

It is no tool that one could ask for: `csa plan run` makes its sessions. The plan is the prompt. The program writes JSON
by lines, one object for each thing that happens to a task, and the last one says how the plan has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from csa.model.adapter import Capabilities, ErrorKind, Invocation, Outcome, Probe, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa.structs import replace
from csa_adapters.decoder import StreamDecoder, warning_update
from csa_adapters.failures import Failure
from csa_adapters.jsonlines import Json, number_of, text_of

_MODULE = "csa.runner.plans"
_KINDS: Mapping[int, ErrorKind] = {8: "quota", 5: "budget"}


class PlanAdapter:
    """The tool `plan`."""

    name = "plan"
    family = "csa"
    executable = sys.executable
    capabilities = Capabilities()
    outer_markers: frozenset[str] = frozenset()
    probe = Probe(version_arguments=("--version",), login_variables=(), login_files=())

    def account(self, environ: Mapping[str, str]) -> str:  # noqa: ARG002  # as its protocol says
        """Return nothing: it has no provider."""
        return ""

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:  # noqa: ARG002  # as above
        """Return nothing: it keeps no state."""
        return ()

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the plan that is the prompt."""
        words = ("--csa", request.csa_command, *request.flags)
        return Invocation((*request.command, "-P", "-m", _MODULE, *words), request.prompt.encode())

    def decoder(self, request: TurnRequest) -> PlanDecoder:  # noqa: ARG002  # as above
        """Begin to read a run."""
        return PlanDecoder()


class PlanDecoder(StreamDecoder):
    """Reads what the scheduler says."""

    def __init__(self) -> None:
        super().__init__()
        self._end: Json | None = None
        self._usage = Usage(cost_usd=0.0)  # what its tasks use is theirs
        self._events = {
            "begin": self._begin,
            "end": self._finish,
            "say": lambda event: [Update("agent_message", {"text": text_of(event.get("text"))})],
            "plan": lambda event: [Update("plan", {"entries": event.get("entries", [])})],
            "warning": lambda event: [warning_update(text_of(event.get("text")))],
            "ended": self._close_all,
        }

    def _begin(self, event: Json) -> list[Update]:
        return self._begin_call(text_of(event.get("id")), "execute", text_of(event.get("text")))

    def _finish(self, event: Json) -> list[Update]:
        call = text_of(event.get("id"))
        self._open.pop(call, None)
        status = "completed" if event.get("ok") is True else "failed"
        return [Update("tool_call_update", {"id": call, "status": status, "content": text_of(event.get("text"))})]

    def _close_all(self, event: Json) -> list[Update]:
        self._end, self._text = event, text_of(event.get("text"))
        return [Update("agent_message", {"text": self._text})]

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        return replace(super().close(end), retry_at=number_of((self._end or {}).get("retry_at")))

    @property
    def is_finished(self) -> bool:
        """Whether the plan has ended."""
        return self._end is not None

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._end is None:
            said = end.stderr_tail.strip().splitlines()
            return "internal", f"the scheduler has ended early{f': {said[-1]}' if said else ''}"
        code = int(number_of(self._end.get("code")) or 0)
        if not code:
            return None
        return _KINDS.get(code, "tasks"), text_of(self._end.get("message"))
