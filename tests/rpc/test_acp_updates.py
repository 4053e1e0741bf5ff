"""Events as updates: what the fakes do not do."""

from __future__ import annotations

from typing import Any

from csa.model.events import Event
from csa.rpc.acp.updates import Updates

Json = dict[str, Any]


def told(*events: tuple[str, Json]) -> list[Json]:
    updates = Updates("S", with_prompts=True)
    found = [updates.of(Event(number, "", kind, 1, data)) for number, (kind, data) in enumerate(events, 1)]
    return [update for each in found for update in each]


def test_a_files_changes_stay_with_its_call() -> None:
    """An update of a call replaces all its content, and paths are absolute."""
    changes = [{"path": "a.py", "old": None, "new": "x"}, {"path": "/b", "old": "1", "new": "2"}]
    begun, end = told(
        ("run_started", {"cwd": "/p"}),
        ("tool_call", {"id": "c", "title": "Edit", "kind": "edit", "paths": ["a.py"], "changes": changes}),
        ("tool_call_update", {"id": "c", "status": "completed", "content": "done"}),
    )
    diffs = [
        {"type": "diff", "path": "/p/a.py", "newText": "x"},
        {"type": "diff", "path": "/b", "oldText": "1", "newText": "2"},
    ]
    assert (begun["content"], begun["locations"]) == (diffs, [{"path": "/p/a.py"}])
    assert (end["content"][1:], end["toolCallId"]) == (diffs, "1-c")


def test_a_streamed_message_is_one_and_the_next_one_another() -> None:
    found = told(
        ("agent_message", {"text": "a", "chunk": True}),
        ("usage", {}),
        ("agent_message", {"text": "b", "chunk": True}),
        ("agent_message", {"text": "c"}),
        ("agent_message", {"text": "of a sub-agent", "parent_id": "t"}),
    )
    assert [each["content"]["text"] for each in found] == ["a", "b", "\n\nc", "of a sub-agent"]
    assert [each["messageId"] for each in found] == ["S-1", "S-1", "S-4", "S-5"]
    assert found[-1]["sessionUpdate"] == "agent_thought_chunk"


def test_plans_denials_and_remarks() -> None:
    found = told(
        ("plan", {"entries": [{"content": "x", "status": "odd", "priority": "high"}, 7]}),
        ("permission", {"id": "c", "title": "rm", "status": "denied"}),
        ("permission", {"id": "d", "title": "rm", "status": "pending"}),
        ("warning", {"message": "careful"}),
        ("run_finished", {"status": "failed", "error": {"kind": "auth", "message": "no key"}}),
        ("news of a later csa", {}),
    )
    assert found[0]["entries"] == [{"content": "x", "priority": "high", "status": "pending"}]
    assert (found[1]["status"], found[1]["title"]) == ("failed", "rm")
    assert [each["content"]["text"] for each in found[2:]] == ["warning: careful", "\n\nturn 1 failed: no key"]
