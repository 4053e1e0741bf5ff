"""How csa runs codex: every flag answers a trap of the real CLI."""

from __future__ import annotations

import tomllib

import pytest
from csa_adapters.codex import CodexAdapter, toml_array, toml_string
from hypothesis import given
from hypothesis import strategies as st

from csa.errors import UsageError
from csa.model.permission import Permission
from tests.unit.adapters.support import OTHER_THREAD, THREAD, has_flags, make_request

ADAPTER = CodexAdapter()


def argv(**fields: object) -> tuple[str, ...]:
    return ADAPTER.invocation(make_request(**fields)).argv


def settings(words: tuple[str, ...]) -> dict[str, str]:
    """Read the `-c key=value` pairs."""
    pairs = [words[at + 1] for at, word in enumerate(words) if word == "-c"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_prompt_goes_through_stdin_unchanged_and_never_into_argv() -> None:
    """A prompt of 300 KiB with a leading dash and no final newline is stdin, byte for byte."""
    prompt = "-- x \t'\"`$é😀\r\n" * 20_000
    invocation = ADAPTER.invocation(make_request(prompt=prompt))
    assert invocation.stdin == prompt.encode()
    assert invocation.argv[-1] == "-"
    assert not any("😀" in word for word in invocation.argv)


def test_new_run_is_exec_json_with_the_configured_command_first() -> None:
    """A user's own command keeps its arguments, then comes exec."""
    words = argv(command=("/opt/codex", "--profile", "work"))
    assert words[:5] == ("/opt/codex", "--profile", "work", "exec", "--json")
    assert "resume" not in words


@pytest.mark.parametrize("resumed", [None, THREAD])
def test_every_turn_skips_the_git_check_bounds_retries_and_keeps_path(resumed: str | None) -> None:
    """Outside a repository codex would refuse; offline it would retry for ever; a login shell would lose csa."""
    words = argv(provider_session_id=resumed)
    assert "--skip-git-repo-check" in words
    assert has_flags(words, "--disable", "unbounded_connection_retries")
    assert settings(words)["allow_login_shell"] == "false"


def test_resume_comes_after_the_sandbox_and_before_the_dash() -> None:
    """`exec resume -s` is a usage error (rc 2), so all options precede `resume`."""
    words = argv(provider_session_id=THREAD, model="m", effort="high", system="s")
    assert words[-3:] == ("resume", THREAD, "-")
    assert words.index("--sandbox") < words.index("resume")


def test_a_fork_copies_its_source_and_its_later_turns_resume_the_copy() -> None:
    """The source's thread is named to `fork` alone; once there is a thread of one's own, that one goes on."""
    assert argv(fork_of=THREAD)[-3:] == ("fork", THREAD, "-")
    assert argv(fork_of=THREAD, provider_session_id=OTHER_THREAD)[-3:] == ("resume", OTHER_THREAD, "-")


@pytest.mark.parametrize("name", ["not-a-session", "thread_abc123", "", THREAD + "\n", f"x{THREAD}"])
def test_resume_of_what_is_no_uuid_is_refused(name: str) -> None:
    """`codex exec resume not-a-uuid` silently begins a new conversation with exit 0."""
    with pytest.raises(UsageError):
        argv(provider_session_id=name)


def test_read_only_is_the_read_only_sandbox() -> None:
    """The level is said on every turn: the sandbox of a thread is not sticky."""
    assert has_flags(argv(permission=Permission.READ_ONLY), "--sandbox", "read-only")
    assert has_flags(argv(permission=Permission.READ_ONLY, provider_session_id=THREAD), "--sandbox", "read-only")


def test_edit_opens_the_network_and_what_a_nested_csa_writes() -> None:
    """Without network and writable roots a nested agent neither starts nor reaches its provider."""
    words = argv(writable_dirs=("/home/u/.local/state/csa", '/odd "dir"\\x'))
    assert has_flags(words, "--sandbox", "workspace-write")
    assert settings(words)["sandbox_workspace_write.network_access"] == "true"
    roots = tomllib.loads("v=" + settings(words)["sandbox_workspace_write.writable_roots"])["v"]
    assert roots == ["/home/u/.local/state/csa", '/odd "dir"\\x']


def test_edit_without_extra_directories_leaves_the_users_own_roots() -> None:
    """An empty list would override writable_roots in the user's config."""
    assert "sandbox_workspace_write.writable_roots" not in settings(argv())


def test_full_bypasses_approvals_and_sandbox() -> None:
    """There is no sandbox flag beside the bypass."""
    words = argv(permission=Permission.FULL)
    assert "--dangerously-bypass-approvals-and-sandbox" in words
    assert "--sandbox" not in words


@pytest.mark.parametrize(
    ("outer", "level", "flag"),
    [
        ("codex", Permission.EDIT, "--dangerously-bypass-approvals-and-sandbox"),
        ("codex", Permission.READ_ONLY, "read-only"),
        ("codex", Permission.FULL, "--dangerously-bypass-approvals-and-sandbox"),
        ("other", Permission.EDIT, "workspace-write"),
        (None, Permission.EDIT, "workspace-write"),
    ],
)
def test_inside_a_codex_sandbox_edit_relies_on_the_outer_one(outer: str | None, level: Permission, flag: str) -> None:
    """codex cannot build its sandbox inside its own: every command fails; read-only must fail closed there."""
    assert flag in argv(sandboxed_by=outer, permission=level)


def test_the_environment_cannot_claim_an_outer_sandbox() -> None:
    """A variable can be set by the agent; only what the runner saw drops the sandbox."""
    claims = dict.fromkeys(("CODEX_SANDBOX", "CODEX_THREAD_ID", "CSA_CODEX_SANDBOX"), "1")
    assert has_flags(argv(environ=claims), "--sandbox", "workspace-write")


def test_model_effort_and_system_text_are_given() -> None:
    """The model is one word with its flag, so that it may begin with a dash."""
    words = argv(model="-odd", effort="high", system='Say "hi"\n\\o/')
    assert "--model=-odd" in words
    assert settings(words)["model_reasoning_effort"] == '"high"'
    assert tomllib.loads("v=" + settings(words)["developer_instructions"])["v"] == 'Say "hi"\n\\o/'


def test_ephemeral_keeps_no_rollout_and_reads_no_project_instructions() -> None:
    """--ephemeral alone still reads AGENTS.md."""
    words = argv(ephemeral=True)
    assert "--ephemeral" in words
    assert settings(words)["project_doc_max_bytes"] == "0"
    assert "--ephemeral" not in argv()


def test_system_text_longer_than_an_argument_may_be_is_refused_before_the_spawn() -> None:
    """The kernel's E2BIG would name no cause."""
    with pytest.raises(UsageError, match="too long for a command-line argument"):
        argv(system="x" * 131_072)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_toml_quoting_is_exact(text: str) -> None:
    """Quotes, backslashes, control characters and emoji come back as they were."""
    assert tomllib.loads(f"v={toml_string(text)}")["v"] == text
    assert tomllib.loads(f"v={toml_array((text, 'b'))}")["v"] == [text, "b"]


@pytest.mark.parametrize(
    ("environ", "account", "home"),
    [
        ({"HOME": "/home/u"}, "~/.codex", "/home/u/.codex"),
        ({"HOME": "/home/u", "CODEX_HOME": "/home/u/alt/cx/"}, "~/alt/cx", "/home/u/alt/cx"),
        ({"HOME": "/home/u", "CODEX_HOME": "/srv/cx"}, "/srv/cx", "/srv/cx"),
        ({"HOME": "/home/u", "CODEX_HOME": "/home/user2/cx"}, "/home/user2/cx", "/home/user2/cx"),
        ({"HOME": "/home/u", "CODEX_HOME": "cx", "PWD": "/w"}, "/w/cx", "/w/cx"),
        ({}, "/.codex", "/.codex"),
    ],
)
def test_account_is_the_codex_home(environ: dict[str, str], account: str, home: str) -> None:
    """Threads of one CODEX_HOME are unknown in another; it is shown with ~ below HOME, and homes are absolute."""
    assert ADAPTER.account(environ) == account
    assert ADAPTER.homes(environ) == (home,)


def test_markers_of_an_outer_codex_are_removed_but_configuration_stays() -> None:
    """CODEX_HOME says where the conversations are."""
    assert {"CODEX_THREAD_ID", "CODEX_SESSION_ID", "CODEX_TOOL_CALL_ID", "CODEX_CI"} <= ADAPTER.outer_markers
    assert not {"CODEX_HOME", "CODEX_API_KEY", "CODEX_SANDBOX_NETWORK_DISABLED"} & ADAPTER.outer_markers
