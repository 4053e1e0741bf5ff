"""Real processes for the tests of the store: children that run a piece of Python, and talk in lines."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.model.redaction import Redactor
from csa.model.result import RunResult
from csa.model.state import SessionState, ToolState
from csa.store.held import HeldSession, build_session
from csa.store.journal import Journal
from csa.store.results import save_result
from csa.store.sessions import Store
from csa.structs import replace

IDS = [f"01JH4QWERT00000000000000{at:02d}" for at in range(40)]
NOON = datetime(2024, 2, 6, 12, tzinfo=UTC)
PLAIN = Redactor()
PATIENCE_S = 20.0

_PREAMBLE = """
import sys
from pathlib import Path

def say(text="ready"):
    print(text, flush=True)

def wait():
    return sys.stdin.readline().strip()

args = sys.argv[1:]
"""


class Child:
    """A process that runs a piece of Python and answers line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        """Return its next line; empty when it has ended."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def tell(self, text: str = "go") -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Close its stdin and wait for its end."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def child(code: str, *arguments: object) -> Iterator[Child]:
    """Start a child with `say`, `wait` and `args` at hand; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def make_state(session_id: str, project: Path, **changes: Any) -> SessionState:
    """Return the state of a new root session."""
    state = SessionState(
        session_id=session_id,
        project_path=str(project),
        created_at=NOON,
        last_accessed=NOON,
        description="work",
        schema=1,
    )
    return replace(state, **changes)


def publish(store: Store, session_id: str, *, tool: str = "codex", **changes: Any) -> HeldSession:
    """Create a session whose first turn begins, and hold it."""
    held = build_session(store, make_state(session_id, store.project, **changes), PLAIN, tool=tool)
    begin(held)
    held.publish()
    return held


def begin(held: HeldSession, *, turn: int = 1, tool: str = "codex") -> None:
    """Record the start of a turn."""
    journal = Journal(held.paths.transcript, PLAIN, turn=turn)
    journal.append("run_started", {"tool": tool, "prompt": "hello"})
    journal.sync()
    journal.close()


def finish(held: HeldSession, *, turn: int = 1, text: str = "done", **changes: Any) -> RunResult:
    """Record the end of a turn, as a supervisor does."""
    known: dict[str, Any] = {"status": "succeeded", "exit_code": 0, "tool": "codex", "summary": text, **changes}
    result = RunResult(
        session_id=held.state.session_id, turn=turn, started_at=NOON, finished_at=NOON, text=text, **known
    )
    held.paths.turn_output(turn).mkdir(parents=True, exist_ok=True)
    (held.paths.turn_output(turn) / "final.md").write_text(text)
    journal = Journal(held.paths.transcript, PLAIN, turn=turn)
    journal.append("agent_message", {"text": text})
    journal.append("run_finished", result.to_event())
    journal.sync()
    journal.close()
    save_result(held.paths, result)
    tools = {**held.state.tools, result.tool: ToolState(last_exit_code=result.tool_exit_code)}
    held.save(replace(held.state, turns=turn, tools=tools))
    return result


def finished_session(store: Store, session_id: str, **changes: Any) -> None:
    """Create a session with one turn that has ended well."""
    with publish(store, session_id, **changes) as held:
        finish(held)
