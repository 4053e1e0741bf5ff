"""What a tool is told of the turns that others have run meanwhile."""

from csa.paths import SessionPaths
from csa.runner.handoff import MAX_DIGEST_CHARS, make_handoff
from csa.store.journal import Journal
from csa.store.sessions import Store
from tests.store.support import IDS, PLAIN, publish


def record(paths: SessionPaths, turn: int, tool: str, prompt: str, *answers: str) -> None:
    """Write the events of a turn."""
    journal = Journal(paths.transcript, PLAIN, turn=turn)
    journal.append("run_started", {"tool": tool, "prompt": prompt})
    for answer in answers:
        journal.append("agent_message", {"text": answer})
    if answers:
        final = paths.turn_output(turn) / "final.md"
        final.parent.mkdir(parents=True, exist_ok=True)
        final.write_text(answers[-1])
    journal.append("run_finished", {"status": "succeeded", "exit_code": 0})
    journal.close()


def make_paths(store: Store) -> SessionPaths:
    with publish(store, IDS[0]) as held:
        held.paths.transcript.unlink()
        return held.paths


def test_nothing_is_handed_over_to_the_last_tool(store: Store) -> None:
    """The tool of the last turn knows all it has to, and a first turn has nothing before it."""
    paths = make_paths(store)
    assert make_handoff(paths, "codex") is None
    record(paths, 1, "codex", "one", "1")
    assert make_handoff(paths, "codex") is None


def test_what_others_did_meanwhile_is_told_in_order(store: Store) -> None:
    """Only the turns since the tool's own last one are digested: what was asked, and the final answer."""
    paths = make_paths(store)
    record(paths, 1, "claude-code", "long ago", "known already")
    record(paths, 2, "codex", "first question", "thinking aloud", "first answer")
    record(paths, 3, "codex", "second question")
    handoff = make_handoff(paths, "claude-code")
    assert handoff is not None
    assert handoff.data["turns"] == [2, 3]
    positions = [
        handoff.text.index(part) for part in ("first question", "first answer", "second question", "no answer")
    ]
    assert positions == sorted(positions)
    for absent in ("long ago", "known already", "thinking aloud"):
        assert absent not in handoff.text
    assert handoff.data["characters"] == len(handoff.text)


def test_a_digest_is_bounded(store: Store) -> None:
    """However much was said, the newest part fits the budget, and long messages keep both their ends."""
    paths = make_paths(store)
    for turn in range(1, 20):
        record(paths, turn, "codex", f"<{turn}" + "p" * 20_000 + f"{turn}>", "a" * 20_000)
    handoff = make_handoff(paths, "claude-code")
    assert handoff is not None
    assert len(handoff.text) < MAX_DIGEST_CHARS + 1000
    assert "<19" in handoff.text
    assert "19>" in handoff.text
    assert "<1p" not in handoff.text
