"""What an ACP agent may do at each level: the answer to each request, and the mode that is set."""

from __future__ import annotations

from typing import Any

import pytest
from csa_adapters.acp_policy import Policy, calls_only, choose_mode, command_of

from csa.model.permission import Permission

CSA = "/opt/my tools/csa"
NAMES = frozenset({"csa", CSA})
READ_ONLY, EDIT, FULL = (
    Policy(level, ("/project", "/state/out"), NAMES)
    for level in (Permission.READ_ONLY, Permission.EDIT, Permission.FULL)
)
CODEX_ACP = ["read-only", "workspace-write", "agent-full-access"]
CLAUDE_ACP = ["default", "acceptEdits", "bypassPermissions"]
OPTIONS = [
    {"optionId": "a", "kind": "allow_always"},
    {"optionId": "y", "kind": "allow_once"},
    {"optionId": "n", "kind": "reject_once"},
]


def execute(command: Any) -> dict[str, Any]:
    return {"kind": "execute", "rawInput": {"command": command}}


@pytest.mark.parametrize("kind", ["read", "search", "fetch", "think"])
def test_reading_is_allowed_at_every_level(kind: str) -> None:
    """What changes nothing needs no level."""
    assert all(policy.allows({"kind": kind}) for policy in (READ_ONLY, EDIT, FULL))


@pytest.mark.parametrize("kind", ["edit", "delete", "move", "execute", "switch_mode", "other", None, 3])
def test_read_only_rejects_the_rest(kind: object) -> None:
    """Kinds that are unknown, missing or of the wrong type too."""
    assert not READ_ONLY.allows({"kind": kind, "locations": [{"path": "/project/a"}], "rawInput": {"path": "a"}})
    assert FULL.allows({"kind": kind})


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        ({"locations": [{"path": "/project/a"}]}, True),
        ({"rawInput": {"file_path": "sub/a"}}, True),
        ({"content": [{"type": "diff", "path": "/state/out/report.md"}]}, True),
        ({"rawInput": {"changes": {"/project/a": {}, "/project/b": {}}}}, True),
        ({"locations": [{"path": "/project/a"}, {"path": "/etc/passwd"}]}, False),
        ({"locations": [{"path": "/project/../etc/passwd"}]}, False),
        ({"locations": [{"path": "/projects/a"}]}, False),
        ({"rawInput": {"path": "../a"}}, False),
        ({"rawInput": {"changes": {"/project/a": {}, "/b": {}}}}, False),
        ({}, False),
        ({"locations": "everywhere", "rawInput": 7}, False),
    ],
)
def test_edits_stay_in_the_project(call: dict[str, Any], allowed: bool) -> None:  # noqa: FBT001  # a column
    """Every path a request names must lie there, and it must name one."""
    for kind in ("edit", "delete", "move"):
        assert EDIT.allows({"kind": kind, **call}) is allowed


@pytest.mark.parametrize(
    "command",
    [
        "csa run 'do it'",
        f"'{CSA}' run \"do it\" 2>&1",
        "csa run a && csa run b; csa session list | csa run --stdin c",
        "csa run a &\ncsa run b &\n",
        "csa run 'with `ticks`, $(this) and > that'",
        'csa run "costs \\$(5) \\` and $HOME"',
        "csa run x 2>/dev/null",
        "csa run it\\;",
    ],
)
def test_commands_that_only_call_csa_are_allowed(command: str) -> None:
    """At every level: what a child may do is limited by its parent's record."""
    assert calls_only(command, NAMES)
    assert READ_ONLY.allows(execute(command))
    assert EDIT.allows(execute(command))
    assert EDIT.allows({**execute(command), "kind": "other"})


@pytest.mark.parametrize(
    "command",
    [
        "",
        "   ",
        "rm -rf /",
        "csa run x; rm -rf /",
        "csa run x\nrm -rf /",
        "csa run x || rm y",
        "csa run x & rm y",
        "csa run $(rm y)",
        'csa run "$(rm y)"',
        "csa run `rm y`",
        'csa run "`rm y`"',
        "csa run x > ~/.bashrc",
        "csa run x 2>&1>file",
        "csa run < secret",
        "csa run <(rm y)",
        "X=1 csa run x",
        "env csa run x",
        "(csa run x)",
        "{ csa run x; }",
        "csarun x",
        "/tmp/csa run x",
        "csa run 'open",
        'csa run "open',
        "csa run $'\\'; rm y'",
        "csa run \\",
        "'csa run' x",
    ],
)
def test_other_commands_are_not(command: str) -> None:
    """Nor what would run, or write, anything beside csa."""
    assert not calls_only(command, NAMES)
    assert not EDIT.allows(execute(command))
    assert FULL.allows(execute(command))


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"command": "csa run x"}, "csa run x"),
        ({"cmd": "csa run x"}, "csa run x"),
        ({"command": ["csa", "run", "x; y"]}, "csa run 'x; y'"),
        ({"command": ["/bin/bash", "-lc", "csa run x; rm y"]}, "csa run x; rm y"),
        ({"command": "/bin/bash -lc 'csa run x; rm y'"}, "csa run x; rm y"),
        ({"command": "bash -c 'csa run x"}, None),
        ({"command": ["csa", 7]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_command_is_looked_at_without_its_shell(given: object, command: str | None) -> None:
    """Agents report a line, its words, or the shell around it."""
    assert command_of({"rawInput": given}) == command


def test_a_title_is_no_evidence() -> None:
    """A call that does not say its command is not judged by what it is called."""
    assert not EDIT.allows({"kind": "execute", "title": "csa run x"})


def test_the_option_that_leaves_no_trace_is_chosen() -> None:
    """`always` may be written to the agent's settings: it is taken where there is nothing else for what is allowed."""
    assert EDIT.choose_option(OPTIONS, allowed=True) == ("y", True)
    assert EDIT.choose_option(OPTIONS[:1], allowed=True) == ("a", True)
    assert EDIT.choose_option(OPTIONS[2:], allowed=True) == ("n", False)
    assert FULL.choose_option(OPTIONS[:1], allowed=True) == ("a", True)
    assert EDIT.choose_option(OPTIONS, allowed=False) == ("n", False)
    assert EDIT.choose_option([{"optionId": "never", "kind": "reject_always"}], allowed=False) == ("never", False)
    assert EDIT.choose_option(OPTIONS[:2], allowed=False) == (None, False)
    assert EDIT.choose_option([None, 7, {"kind": "allow_once"}], allowed=True) == (None, False)


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ({"optionId": "proceed_once", "name": "Yes"}, "allow_once"),
        ({"optionId": "a1", "name": "Allow for this session"}, "allow_always"),
        ({"optionId": "approved-for-session", "name": "Always"}, "allow_always"),
        ({"optionId": "no", "name": "No, and don't allow it again"}, "reject_once"),
        ({"optionId": "cancel", "name": "Always reject"}, "reject_always"),
        ({"optionId": "disallow", "name": ""}, "reject_once"),
        ({"optionId": "1", "name": "Something else"}, None),
        ({"optionId": "1", "name": "Unbelievable notes", "kind": 7}, None),
    ],
)
def test_an_option_without_a_kind_says_it_in_words(option: dict[str, Any], kind: str | None) -> None:
    """And one whose words say nothing is not taken."""
    for allowed in (True, False):
        taken = FULL.choose_option([option], allowed=allowed)
        fits = kind is not None and (allowed or kind.startswith("reject"))
        assert taken == ((option["optionId"], kind is not None and kind.startswith("allow")) if fits else (None, False))


@pytest.mark.parametrize(
    ("offered", "modes"),
    [
        (["agent", "workspace-write", "read-only", "agent-full-access"], CODEX_ACP),
        (["default", "autoEdit", "yolo", "plan"], ["default", "autoEdit", "yolo"]),
        (["default", "acceptEdits", "plan", "auto", "bypassPermissions"], CLAUDE_ACP),
        (["build", "plan"], ["plan", "build", "build"]),
        (["wild", "wilder"], [None, None, None]),
        ([], [None, None, None]),
    ],
)  # fmt: skip
def test_the_mode_of_each_level(offered: list[str], modes: list[str | None]) -> None:
    """As codex-acp, gemini, claude-agent-acp and opencode name theirs."""
    assert [choose_mode(level, offered) for level in Permission] == modes
