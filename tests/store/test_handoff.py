"""What a tool is told of turns it has not seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.paths import SessionPaths
from csa.runner.turns.handoff import (
    Digest,
    DigestLimits,
    Handoff,
    Origin,
    digest,
    hand_over_histories,
    make_handoff,
)
from csa.store.journal import Journal
from csa.store.sessions import Store
from tests.store.support import IDS, PLAIN, publish

LIMITS = DigestLimits()
Call = tuple[str, str, dict[str, Any] | None]  # kind, title, how it ended


def record(
    paths: SessionPaths,
    turn: int,
    tool: str,
    prompt: str,
    *answers: str,
    calls: tuple[Call, ...] = (),
    bound: bool = True,
    end: dict[str, Any] | None = None,
) -> None:
    """Write the events of a turn; without an end (an empty one) csa was killed in it."""
    journal = Journal(paths.transcript, PLAIN, turn=turn)
    journal.append("run_started", {"tool": tool, "prompt": prompt, "resumed": None})
    if bound:
        journal.append("session_bound", {"provider_session_id": f"{tool}-1"})
    for number, (kind, title, ended) in enumerate(calls):
        journal.append("tool_call", {"id": str(number), "kind": kind, "title": title, "status": "in_progress"})
        if ended:
            journal.append("tool_call_update", {"id": str(number), "content": "x" * 100, **ended})
    for answer in answers:
        journal.append("agent_message", {"text": answer})
    if answers:
        final = paths.turn_output(turn) / "final.md"
        final.parent.mkdir(parents=True, exist_ok=True)
        final.write_text(answers[-1])
    if end is None:
        end = {"status": "succeeded", "exit_code": 0}
    if end:
        journal.append("run_finished", end)
    journal.close()


def make_paths(store: Store) -> SessionPaths:
    with publish(store, IDS[0]) as held:
        held.paths.transcript.unlink()
        return held.paths


def hand_over(
    paths: SessionPaths, tool: str, *, turn: int = 99, conversation: str | None = "id", prompt: str = "go on"
) -> Handoff | None:
    return make_handoff(paths, tool, LIMITS, turn=turn, conversation=conversation, prompt=prompt)


def told(paths: SessionPaths, limits: DigestLimits = LIMITS, **how: Any) -> str:
    found = digest(paths, limits, **how)
    assert isinstance(found, Digest)
    return found.text


def test_nothing_is_handed_over_to_the_last_tool(store: Store) -> None:
    """The tool of the last turn knows all it has to, and a first turn has nothing before it."""
    paths = make_paths(store)
    assert hand_over(paths, "codex") is None
    record(paths, 1, "codex", "one", "1")
    assert hand_over(paths, "codex") is None


def test_what_others_did_meanwhile_is_told_in_order(store: Store) -> None:
    """Only the turns since the tool's own last one are digested: what was asked, and the final answer."""
    paths = make_paths(store)
    record(paths, 1, "claude-code", "long ago", "known already")
    record(paths, 2, "codex", "first question", "thinking aloud", "first answer")
    record(paths, 3, "codex", "second question", end={})
    handoff = hand_over(paths, "claude-code")
    assert handoff is not None
    assert handoff.data["turns"] == [2, 3]
    positions = [handoff.text.index(part) for part in ("first question", "first answer", "second question", "killed")]
    assert positions == sorted(positions)
    for absent in ("long ago", "known already", "thinking aloud"):
        assert absent not in handoff.text
    assert handoff.data["characters"] == len(handoff.text)


def test_a_tool_without_a_conversation_is_told_all(store: Store) -> None:
    """One whose own turn failed before it had a conversation knows nothing of what was before it."""
    paths = make_paths(store)
    record(paths, 1, "claude-code", "first question", "first answer")
    record(paths, 2, "codex", "second", bound=False, end={"status": "failed", "error": {"kind": "auth"}})
    handoff = hand_over(paths, "codex", conversation=None)
    assert handoff is not None
    assert handoff.data["turns"] == [1, 2]
    assert "first answer" in handoff.text


def test_calls_are_folded(store: Store) -> None:
    """Of a tool call its title and how it ended are told, in order, and nothing of what it printed."""
    paths = make_paths(store)
    calls: tuple[Call, ...] = (
        ("read", "Read a.py", {"status": "completed"}),
        ("execute", "make\n  test", {"status": "completed", "exit_code": 0}),
        ("execute", "make lint", {"status": "failed", "exit_code": 2}),
        ("edit", "Edit src/a.py", {"status": "completed"}),
        ("execute", "sleep 9", None),
    )
    record(paths, 1, "codex", "do it", "done", calls=calls)
    lines = told(paths).splitlines()
    assert lines == [
        "Turn 1, with codex.",
        "User: do it",
        "Did:",
        "- Read a.py (completed)",
        "- $ make test (completed)",
        "- $ make lint (exit 2)",
        "- Edit src/a.py (completed)",
        "- $ sleep 9 (unfinished)",
        "Answer: done",
    ]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"status": "failed", "error": {"kind": "quota", "message": "no more"}}, "failed (quota): no more"),
        ({"status": "timed_out", "error": None}, "ended as timed_out"),
        ({"status": "timed_out", "error": {"kind": "timeout", "message": "too long"}}, "ended as timed_out: too long"),
        ({}, "has no recorded end"),
    ],
)
def test_a_turn_that_failed_says_so(store: Store, end: dict[str, Any], words: str) -> None:
    """The last line of its part is how it ended; what it had said before is told too."""
    paths = make_paths(store)
    record(paths, 1, "codex", "do it", end=end)
    assert words in told(paths).splitlines()[-1]


def test_the_same_prompt_is_not_repeated(store: Store) -> None:
    """A fallback asks the same again."""
    paths = make_paths(store)
    record(paths, 1, "codex", "do it", end={"status": "failed", "error": {"kind": "quota", "message": "no more"}})
    handoff = hand_over(paths, "claude-code", prompt="do it")
    assert handoff is not None
    assert "do it" not in handoff.text
    assert "same" in handoff.text


def test_only_turns_before(store: Store) -> None:
    """A turn that is tried again does not tell of itself."""
    paths = make_paths(store)
    record(paths, 1, "codex", "one", "1")
    record(paths, 2, "claude-code", "two", end={})
    assert "two" not in told(paths, before=2)
    assert digest(paths, LIMITS, before=1) is None


def test_a_fork_digests_another_session_whole(store: Store) -> None:
    """Without a tool that knows some of them, all turns are told."""
    paths = make_paths(store)
    for turn, tool in enumerate(("codex", "claude-code", "codex"), 1):
        record(paths, turn, tool, f"question {turn}", f"answer {turn}")
    found = digest(paths, LIMITS)
    assert found is not None
    assert found.turns == (1, 2, 3)


def test_a_digest_is_bounded(store: Store) -> None:
    """However much was said, the newest part fits the budget, and long messages keep both their ends."""
    paths = make_paths(store)
    for turn in range(1, 20):
        record(paths, turn, "codex", f"<{turn}" + "p" * 20_000 + f"{turn}>", "a" * 20_000)
    text = told(paths)
    assert len(text) <= LIMITS.tokens * 4
    assert "<19" in text
    assert "19>" in text
    assert "<1p" not in text


def test_number_of_turns_is_bounded(store: Store) -> None:
    """The newest ones are told."""
    paths = make_paths(store)
    for turn in range(1, 9):
        record(paths, turn, "codex", f"question {turn}", "ok")
    found = digest(paths, DigestLimits(turns=3))
    assert found is not None
    assert found.turns == (6, 7, 8)
    assert digest(paths, DigestLimits(turns=0)) is None
    assert digest(paths, DigestLimits(tokens=0)) is None


def test_changes_outlive_other_calls(store: Store) -> None:
    """Where not all calls fit, those that changed files stay, and the number of the others is told."""
    paths = make_paths(store)
    reads: list[Call] = [("read", f"Read file-{number}.py", {"status": "completed"}) for number in range(300)]
    edit: Call = ("edit", "Edit the-one.py", {"status": "completed"})
    record(paths, 1, "codex", "do it", "done", calls=(*reads[:150], edit, *reads[150:]))
    text = told(paths, DigestLimits(tokens=250))
    assert len(text) <= 1000
    assert "the-one.py" in text
    assert "other calls)" in text
    assert "file-299.py" in text
    assert "file-0.py" not in text


def test_what_was_streamed_counts(store: Store) -> None:
    """A turn without an end left no answer, but what its tool had said."""
    paths = make_paths(store)
    journal = Journal(paths.transcript, PLAIN, turn=1)
    journal.append("run_started", {"tool": "gemini-cli", "prompt": "one"})
    for text in ("so ", "far ", "so good"):
        journal.append("agent_message", {"text": text, "chunk": True})
    journal.close()
    assert "Answer: so far so good" in told(paths)


@given(
    texts=st.tuples(st.text(max_size=3000), st.text(max_size=3000)),
    calls=st.integers(0, 60),
    turns=st.integers(1, 4),
    tokens=st.integers(60, 600),
)
def test_no_digest_is_longer_than_its_budget(
    tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, str], calls: int, turns: int, tokens: int
) -> None:
    """Whatever was said and done."""
    paths = SessionPaths(tmp_path_factory.mktemp("session"))
    made: tuple[Call, ...] = tuple(("execute", f"command {n} " + "x" * (n * 3), None) for n in range(calls))
    for turn in range(1, turns + 1):
        record(paths, turn, "codex", *texts, calls=made)
    found = digest(paths, DigestLimits(tokens=tokens))
    assert found is None or len(found.text) <= tokens * 4
    assert found is not None


@given(
    sizes=st.lists(st.lists(st.integers(0, 4000), min_size=1, max_size=6), min_size=2, max_size=4),
    tokens=st.integers(0, 3000),
    turns=st.integers(0, 8),
)
def test_a_handoff_of_several_sessions_keeps_to_its_budget(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], tokens: int, turns: int
) -> None:
    """With all that stands around it; as far as there is room it has something of each, in the order of time."""
    histories = []
    for number, lengths in enumerate(sizes):
        paths = SessionPaths(tmp_path_factory.mktemp("session") / f"session-{number}")
        paths.root.mkdir()
        for turn, length in enumerate(lengths, 1):
            failed = {"status": "failed", "error": {"kind": "quota", "message": "m" * length}}
            record(paths, turn, "codex", "p" * length, "a" * length, end=failed if length % 2 else None)
        histories.append([Origin(paths, len(lengths))])
    handoff = hand_over_histories(histories, "codex", DigestLimits(turns=turns, tokens=tokens))
    room_for_all = tokens >= 80 + 61 * len(sizes) and turns >= len(sizes)
    assert handoff is not None or not room_for_all
    if handoff is not None:
        assert len(handoff.text) <= tokens * 4
        assert sum(len(source["turns"]) for source in handoff.data.get("sources", ())) <= turns
        assert len(handoff.data.get("sources", ())) == len(sizes) or not room_for_all


def test_a_history_that_needs_little_leaves_its_room_to_others(store: Store) -> None:
    """Old turns of one session are told although another has had many since."""
    old, busy = (store.paths(each) for each in IDS[:2])
    for paths in (old, busy):
        paths.root.mkdir(parents=True)
    record(old, 1, "codex", "long ago", "known")
    for turn in range(1, 40):
        record(busy, turn, "gemini-cli", f"question {turn}.", "a" * 2000)
    handoff = hand_over_histories([[Origin(old, 1)], [Origin(busy, 39)]], "codex", LIMITS)
    assert handoff is not None
    assert len(handoff.text) > LIMITS.tokens * 4 * 0.8
    assert handoff.data["sources"][0] == {"session_id": IDS[0], "turns": [1]}
    assert handoff.text.index("long ago") < handoff.text.index("question 39.")
