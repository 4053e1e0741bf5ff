"""What calls say of the files they name and change, the same for all tools."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.acp_calls import Calls
from csa_adapters.decoder import files_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"command": "ls"}, {}),
        ({"file_path": "/a"}, {"paths": ["/a"]}),
        (
            {"file_path": "/a", "old_string": "x", "new_string": "y"},
            {"paths": ["/a"], "changes": [{"path": "/a", "old": "x", "new": "y"}]},
        ),
        (
            {"filePath": "a", "oldString": "x", "newString": ""},
            {"paths": ["a"], "changes": [{"path": "a", "old": "x", "new": ""}]},
        ),
        (
            {"file_path": "/a", "content": "all"},
            {"paths": ["/a"], "changes": [{"path": "/a", "old": None, "new": "all"}]},
        ),
        (
            {"file_path": "/a", "edits": [{"old_string": "1", "new_string": "2"}, {"new_string": "3"}, 7]},
            {
                "paths": ["/a"],
                "changes": [{"path": "/a", "old": "1", "new": "2"}, {"path": "/a", "old": "", "new": "3"}],
            },
        ),
        ({"file_path": "/a", "content": "x" * 100_000}, {"paths": ["/a"]}),
        ({"file_path": 7, "content": []}, {}),
    ],
)
def test_the_files_in_parameters(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert files_of(given) == expected


def test_the_files_of_an_acp_agents_call() -> None:
    """Its diffs and locations come with the end of the call."""
    content = [{"type": "diff", "path": "/a", "oldText": None, "newText": "n"}, {"type": "diff", "oldText": 7}]
    (_, end) = Calls().begin(
        {"toolCallId": "c", "title": "t", "status": "completed", "content": content, "locations": [{"path": "/b"}]}
    )
    assert end.data["paths"] == ["/b", "/a"]
    assert end.data["changes"] == [{"path": "/a", "old": None, "new": "n"}]
