"""What a tool is given, and what its agent is told."""

from datetime import UTC, datetime
from pathlib import Path

from csa.model.adapter import Invocation
from csa.model.config import ToolConfig
from csa.model.state import SessionState
from csa.paths import SessionPaths
from csa.runner.environment import apply_changes, base_environment, outer_sandbox, session_environment, system_note

ID = "01JH4QWERT1234567890ABCDEF"
PARENT = "01JH4QWERT0000000000000000"
NOW = datetime(2024, 2, 6, 12, tzinfo=UTC)
PATHS = SessionPaths(Path("/r/p/sessions") / ID)


def make_state(*, parent: str | None = None, depth: int = 0) -> SessionState:
    return SessionState(
        session_id=ID, project_path="/p", created_at=NOW, last_accessed=NOW, parent_session_id=parent, depth=depth
    )


def test_the_base_has_no_trace_of_an_outer_agent() -> None:
    """Markers of outer tools and the outer session's identity go; all else stays, and the user's settings win."""
    outer = {
        "PATH": "/bin",
        "CLAUDECODE": "1",
        "CSA_SESSION_ID": PARENT,
        "CSA_SESSION_DIR": "/r",
        "CSA_DEPTH": "4",
        "CSA_PARENT_SESSION": ID,
        "CSA_TOOL": "codex",
        "CSA_OUTPUT_DIR": "/o",
        "CSA_PROJECT_ROOT": "/q",
        "CSA_CURRENT": "pane1",
        "CSA_CONF_MAX_DEPTH": "2",
        "EDITOR": "vi",
    }
    assert base_environment(outer, {"CLAUDECODE"}, ToolConfig(env={"EDITOR": "ed", "NEW": "1"})) == {
        "PATH": "/bin",
        "CSA_CONF_MAX_DEPTH": "2",
        "EDITOR": "ed",
        "NEW": "1",
    }


def test_the_session_variables() -> None:
    """A tool finds its session, its record, its output directory and the state root."""
    root = session_environment(make_state(), PATHS, turn=2, tool="codex", root=Path("/r"))
    assert root == {
        "CSA_SESSION_ID": ID,
        "CSA_DEPTH": "0",
        "CSA_PROJECT_ROOT": "/p",
        "CSA_SESSION_DIR": str(PATHS.root),
        "CSA_OUTPUT_DIR": str(PATHS.root / "output" / "turn-0002"),
        "CSA_TOOL": "codex",
        "CSA_STATE_DIR": "/r",
    }
    child = session_environment(make_state(parent=PARENT, depth=1), PATHS, turn=1, tool="codex", root=Path("/r"))
    assert (child["CSA_PARENT_SESSION"], child["CSA_DEPTH"]) == (PARENT, "1")


def test_changes_set_and_remove() -> None:
    """The adapter's changes apply to the base, and PWD is where the tool starts."""
    invocation = Invocation(("t",), b"", {"A": None, "B": "2", "PWD": "/wrong"})
    assert apply_changes({"A": "1", "C": "3", "PWD": "/old"}, invocation, "/p") == {"B": "2", "C": "3", "PWD": "/p"}


def test_the_note_names_session_output_and_command() -> None:
    """An agent learns its session, where files go and how to start a sub-agent."""
    note = system_note(make_state(), csa_command="/bin/csa", max_depth=5)
    assert ID in note
    assert "CSA_OUTPUT_DIR" in note
    assert '/bin/csa run "task"' in note
    assert len(note) < 1000


def test_the_note_offers_no_sub_agents_at_the_limit() -> None:
    """At the deepest level nothing is said of sub-agents."""
    note = system_note(make_state(parent=PARENT, depth=5), csa_command="/bin/csa", max_depth=5)
    assert "/bin/csa" not in note


def test_the_outer_sandbox_is_asked_of_the_first_process() -> None:
    """Outside of codex's sandbox there is none."""
    assert outer_sandbox() in {None, "codex"}


def test_the_command_is_told_as_a_shell_takes_it() -> None:
    """csa may be installed in a directory whose name has blanks or quotes."""
    note = system_note(make_state(), csa_command="/it's my/bin/csa", max_depth=5)
    assert """'/it'"'"'s my/bin/csa' run "task\"""" in note
