"""How csa runs Claude Code: every flag answers a trap of the real CLI."""

from __future__ import annotations

import json

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter

from csa.errors import UsageError
from csa.model.permission import Permission
from tests.unit.adapters.support import FRESH, THREAD, has_flags, make_request

ADAPTER = ClaudeCodeAdapter()


def argv(**fields: object) -> tuple[str, ...]:
    return ADAPTER.invocation(make_request(**fields)).argv


def allowed(words: tuple[str, ...]) -> list[str]:
    return words[words.index("--allowedTools") + 1].split(",")


def test_prompt_goes_through_stdin_unchanged_and_never_into_argv() -> None:
    """A prompt of 300 KiB with a leading dash and no final newline is stdin, byte for byte."""
    prompt = "-- x \t'\"`$é😀\r\n" * 20_000
    invocation = ADAPTER.invocation(make_request(prompt=prompt))
    assert invocation.stdin == prompt.encode()
    assert not any("😀" in word for word in invocation.argv)


def test_stream_json_always_comes_with_verbose() -> None:
    """Without --verbose the CLI refuses to start."""
    assert argv(command=("claude", "--debug"))[:6] == (
        "claude",
        "--debug",
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
    )


def test_new_run_takes_the_id_csa_chose_and_resume_the_one_it_knows() -> None:
    """Both flags at once are an error of the CLI."""
    assert has_flags(argv(), "--session-id", FRESH)
    resumed = argv(provider_session_id=THREAD)
    assert has_flags(resumed, "--resume", THREAD)
    assert "--session-id" not in resumed


def test_resume_of_what_is_no_uuid_is_refused() -> None:
    """`--resume` takes titles too, and could find another conversation."""
    with pytest.raises(UsageError):
        argv(provider_session_id="auth refactor")


def test_read_only_denies_what_would_ask_and_takes_writing_tools_away() -> None:
    """The mode is said, since the user's settings may name a looser default."""
    words = argv(permission=Permission.READ_ONLY)
    assert has_flags(words, "--permission-mode", "dontAsk")
    assert has_flags(words, "--disallowedTools", "Edit,Write,NotebookEdit")
    assert allowed(words) == ["Read", "Glob", "Grep", "Bash(csa:*)", "mcp__csa"]


def test_edit_accepts_edits_and_lets_an_agent_call_csa() -> None:
    """A nested `csa run` must work under edit; other commands stay denied."""
    words = argv()
    assert has_flags(words, "--permission-mode", "acceptEdits")
    assert allowed(words) == ["Bash(csa:*)", "mcp__csa", "Bash(env)"]


@pytest.mark.parametrize("level", [Permission.EDIT, Permission.READ_ONLY])
def test_an_absolute_csa_has_a_rule_of_its_own(level: Permission) -> None:
    """Neither the name's rule nor the path's covers the other form."""
    rules = allowed(argv(permission=level, csa_command="/opt/v/bin/csa"))
    assert {"Bash(csa:*)", "Bash(/opt/v/bin/csa:*)"} <= set(rules)
    rules = allowed(argv(permission=level, csa_command="/odd dir/csa"))
    assert {"Bash(csa:*)", "Bash('/odd dir/csa':*)"} <= set(rules)


@pytest.mark.parametrize("path", ["csa", "/a,Bash(*)/csa", "/a:*),Bash/csa"])
def test_a_path_that_could_be_read_as_another_rule_gets_none(path: str) -> None:
    """A comma or parenthesis in a directory's name must not allow more."""
    assert allowed(argv(csa_command=path)) == ["Bash(csa:*)", "mcp__csa", "Bash(env)"]


def test_full_skips_permissions_also_as_root() -> None:
    """As root the CLI does so only in a sandbox. Rules by name would lack the user's MCP tools."""
    for is_root in (False, True):
        invocation = ADAPTER.invocation(make_request(permission=Permission.FULL, is_root=is_root))
        assert "--dangerously-skip-permissions" in invocation.argv
        assert ("IS_SANDBOX" in invocation.env) is is_root


@pytest.mark.parametrize("level", [Permission.EDIT, Permission.READ_ONLY])
def test_only_full_is_called_a_sandbox(level: Permission) -> None:
    """An agent that starts another claude must not give it more than it has."""
    assert "IS_SANDBOX" not in ADAPTER.invocation(make_request(permission=level, is_root=True)).env


SHELL = ("BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS")
WAIT = "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS"


def limits(**fields: object) -> dict[str, str | None]:
    env = ADAPTER.invocation(make_request(**fields)).env
    return {name: env[name] for name in (*SHELL, WAIT) if name in env}


@pytest.mark.parametrize(
    ("timeout_s", "limit_ms"), [(None, "86460000"), (600.0, "660000"), (0.5, "60500"), (1e9, "2147483647")]
)
def test_nothing_of_the_tools_ends_work_before_the_turns_own_limit(timeout_s: float | None, limit_ms: str) -> None:
    """A nested csa runs in claude's shell; the CLI's timers count in 31 bits."""
    assert limits(timeout_s=timeout_s) == dict.fromkeys((*SHELL, WAIT), limit_ms)


@pytest.mark.parametrize("name", SHELL)
def test_the_users_own_limits_win(name: str) -> None:
    """One of the two, in the environment or in claude's settings, leaves both alone: each bounds the other."""
    assert limits(environ={name: "300000"}).keys() == {WAIT}
    settings = json.dumps({"env": {name: "300000"}})
    assert limits(files={"~/.claude/settings.json": settings}).keys() == {WAIT}


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"env": 1}', '{"env": null}', "\ud800"])
def test_settings_that_cannot_be_read_set_nothing(broken: str) -> None:
    """The CLI itself tells the user of them."""
    assert limits(files={"~/.claude/settings.json": broken}).keys() == {*SHELL, WAIT}


def test_model_and_effort_are_given() -> None:
    """One word each, so that a value may begin with a dash."""
    words = argv(model="sonnet", effort="high")
    assert "--model=sonnet" in words
    assert "--effort=high" in words


@pytest.mark.parametrize("resumed", [None, THREAD])
def test_system_text_comes_with_the_snapshot_off(resumed: str | None) -> None:
    """With the snapshot a resume sends the first turn's text and ignores the new one."""
    words = argv(system="--be brief\n", provider_session_id=resumed)
    assert has_flags(words, "--append-system-prompt=--be brief\n", "--system-prompt-snapshot", "off")
    assert "--system-prompt-snapshot" not in argv()


@pytest.mark.parametrize("text", ["x" * 131_072, "a\0b"])
def test_system_text_that_cannot_be_an_argument_is_refused_before_the_spawn(text: str) -> None:
    """The kernel takes no NUL and no argument over 128 KiB."""
    with pytest.raises(UsageError):
        argv(system=text)


def test_ephemeral_keeps_no_transcript_and_reads_no_project_files() -> None:
    """The user's own settings stay: they may hold the login."""
    invocation = ADAPTER.invocation(make_request(ephemeral=True))
    assert "--no-session-persistence" in invocation.argv
    assert has_flags(invocation.argv, "--setting-sources", "user")
    assert invocation.env["CLAUDE_CODE_DISABLE_CLAUDE_MDS"] == "1"
    assert "CLAUDE_CODE_DISABLE_CLAUDE_MDS" not in ADAPTER.invocation(make_request()).env


@pytest.mark.parametrize(("prompt", "sent"), [("/compact", b" /compact"), ("/usr/bin/ls", b" /usr/bin/ls")])
def test_a_prompt_that_looks_like_a_command_reaches_the_model(prompt: str, sent: bytes) -> None:
    """`/compact` would be run; with --disable-slash-commands it is answered with success and without the model."""
    invocation = ADAPTER.invocation(make_request(prompt=prompt))
    assert invocation.stdin == sent
    assert "--disable-slash-commands" not in invocation.argv


@pytest.mark.parametrize("prompt", [" /compact", "\n/context", "!ls", "#note", "see /compact"])
def test_other_prompts_are_left_as_they_are(prompt: str) -> None:
    """These reach the model verbatim by themselves."""
    assert ADAPTER.invocation(make_request(prompt=prompt)).stdin == prompt.encode()


def test_retries_are_bounded_unless_the_environment_says_how_many() -> None:
    """Ten retries, the CLI's own number, keep a dead provider's turn going for three minutes."""
    assert ADAPTER.invocation(make_request()).env["CLAUDE_CODE_MAX_RETRIES"] == "5"
    chosen = make_request(environ={"CLAUDE_CODE_MAX_RETRIES": "0"})
    assert "CLAUDE_CODE_MAX_RETRIES" not in ADAPTER.invocation(chosen).env


@pytest.mark.parametrize(
    ("environ", "account", "home"),
    [
        ({"HOME": "/home/u"}, "~/.claude", "/home/u/.claude"),
        ({"HOME": "/home/u", "CLAUDE_CONFIG_DIR": "/srv/cl"}, "/srv/cl", "/srv/cl"),
        (
            {"HOME": "/home/u", "ANTHROPIC_BASE_URL": "https://me:p@ss@gw.example/v1/?token=t#f"},
            "~/.claude https://gw.example/v1",
            "/home/u/.claude",
        ),
        (
            {"HOME": "/root", "ANTHROPIC_BASE_URL": "http://127.0.0.1:1/"},
            "~/.claude http://127.0.0.1:1",
            "/root/.claude",
        ),
    ],
)
def test_account_is_the_config_directory_and_the_endpoint(environ: dict[str, str], account: str, home: str) -> None:
    """Credentials in the endpoint's URL are not recorded; homes are directories, as codex's sandbox takes no files."""
    assert ADAPTER.account(environ) == account
    assert ADAPTER.homes(environ) == (home,)


def test_markers_of_an_outer_claude_are_removed_but_configuration_stays() -> None:
    """The config directory and the retry limit are the user's."""
    assert {"CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_MESSAGING_TOKEN"} <= ADAPTER.outer_markers
    assert not {"CLAUDE_CONFIG_DIR", "CLAUDE_CODE_MAX_RETRIES", "ANTHROPIC_BASE_URL"} & ADAPTER.outer_markers
