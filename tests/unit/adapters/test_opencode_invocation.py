"""How csa runs opencode: every setting answers a trap of the real CLI."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.opencode import OpencodeAdapter, permission_rules

from csa.errors import UsageError
from csa.model.permission import Permission
from tests.unit.adapters.support import THREAD, make_request

ADAPTER = OpencodeAdapter()
SESSION = "ses_e0732aa96ffeK2K4Q3cO4JZASX"


def order(**fields: Any) -> dict[str, Any]:
    """Return what the bridge is told."""
    found: dict[str, Any] = json.loads(ADAPTER.invocation(make_request(**fields)).stdin)
    return found


def environment(**fields: Any) -> dict[str, str | None]:
    return dict(ADAPTER.invocation(make_request(**fields)).env)


def rules(**fields: Any) -> dict[str, Any]:
    """Return the rules given to opencode."""
    found: dict[str, Any] = json.loads(environment(**fields)["OPENCODE_PERMISSION"] or "")
    return found


def test_the_bridge_runs_as_the_tool_with_the_command_behind_it() -> None:
    """It is a file that exists, started without site-packages; nothing of the turn is on the command line."""
    invocation = ADAPTER.invocation(make_request(command=("/opt/opencode", "--pure"), prompt="secret", system="hush"))
    assert invocation.argv[:3] == (sys.executable, "-I", "-S")
    assert Path(invocation.argv[3]).is_file()
    assert invocation.argv[4:] == ("/opt/opencode", "--pure")


def test_prompt_reaches_the_bridge_unchanged() -> None:
    """`opencode run` puts an argument with a space into quotes; through the bridge 300 KiB arrive as they are."""
    prompt = "-- x \t'\"`$é😀\r\n" * 20_000
    assert order(prompt=prompt)["prompt"] == prompt


def test_a_resume_names_the_session_and_a_new_run_none() -> None:
    """The id of a new one is opencode's to choose."""
    assert order(provider_session_id=SESSION)["session"] == SESSION
    assert order()["session"] is None


@pytest.mark.parametrize("wrong", [THREAD, "ses_", "ses_../../config", "ses_a/abort", "", "--continue"])
def test_resume_of_what_is_no_session_id_is_refused(wrong: str) -> None:
    """It goes into the path of a request; what is no id is answered with 500."""
    with pytest.raises(UsageError):
        order(provider_session_id=wrong)


def test_model_and_effort_are_given() -> None:
    """Only the first slash separates the provider."""
    told = order(model="openrouter/meta/llama", effort="high")
    assert told["model"] == {"providerID": "openrouter", "modelID": "meta/llama"}
    assert told["variant"] == "high"
    assert order()["model"] is None


@pytest.mark.parametrize("name", ["gpt-5", "/gpt-5", "openai/"])
def test_a_model_without_its_provider_is_refused(name: str) -> None:
    """opencode would take the name for a provider's and fail without saying so."""
    with pytest.raises(UsageError, match="provider"):
        order(model=name)


@pytest.mark.parametrize("session", [None, SESSION])
def test_system_text_goes_with_every_prompt(session: str | None) -> None:
    """The server takes one with each prompt, and heeds the last; a file or a setting would be shared or kept."""
    assert order(system="be brief", provider_session_id=session)["system"] == "be brief"
    assert "OPENCODE_CONFIG_CONTENT" not in environment(system="be brief")


@pytest.mark.parametrize("level", Permission)
def test_nobody_is_asked_a_question(level: Permission) -> None:
    """Unattended, a question would wait for ever; what plan mode ends with is one too."""
    tools = order(permission=level)["tools"]
    assert {name for name, offered in tools.items() if not offered} >= {"question", "plan_enter", "plan_exit"}


def test_read_only_has_no_shell_and_no_writing() -> None:
    """`> file` is no command and is never asked for, so that no rule would stop it: there is no shell at all."""
    told = order(permission=Permission.READ_ONLY)
    assert (told["tools"]["edit"], told["tools"]["bash"], told["approve"]) == (False, False, False)
    found = rules(permission=Permission.READ_ONLY)
    assert next(iter(found.items())) == ("*", "deny")
    assert (found["edit"], found["bash"], found["grep"]) == ("deny", "deny", "allow")
    assert (found["read"]["*"], found["read"]["*.env"]) == ("allow", "deny")


def test_edit_lets_an_agent_read_and_call_csa_in_its_shell() -> None:
    """The last rule that fits wins, so the general one comes first; `env` runs commands if it is given any."""
    found = rules()["bash"]
    assert next(iter(found.items())) == ("*", "deny")
    assert {found[each] for each in ("csa *", "env", "ls *", "cat *", "git diff *")} == {"allow"}
    assert not {"env *", "git *", "find *", "sed *", "sort *", "xargs *"} & set(found)
    assert order()["approve"] is False


def test_an_absolute_csa_has_a_rule_of_its_own() -> None:
    """Neither the name's rule nor the path's covers the other form."""
    assert {"csa *", "/opt/v/bin/csa *"} <= set(rules(csa_command="/opt/v/bin/csa")["bash"])
    assert {"csa *", "'/odd dir/csa' *"} <= set(rules(csa_command="/odd dir/csa")["bash"])


@pytest.mark.parametrize("path", ["csa", "/*/csa", "/a?/csa"])
def test_a_path_that_could_be_read_as_a_pattern_gets_none(path: str) -> None:
    """A star in a directory's name must not allow more."""
    assert [each for each in rules(csa_command=path)["bash"] if "csa" in each] == ["csa *"]


def test_full_leaves_the_users_rules_and_grants_what_they_ask_for() -> None:
    """What the user denies stays denied."""
    assert permission_rules(make_request(permission=Permission.FULL)) == {}
    assert "OPENCODE_PERMISSION" not in environment(permission=Permission.FULL)
    assert order(permission=Permission.FULL)["approve"] is True


@pytest.mark.parametrize(
    ("level", "edits", "commands"), [(Permission.READ_ONLY, False, False), (Permission.EDIT, True, True)]
)
def test_what_a_level_grants_where_opencode_asks(level: Permission, *, edits: bool, commands: bool) -> None:
    """Reading at every level, by opencode's own names; the rest is what the rules allow."""
    granted = order(permission=level)["grants"]
    assert {"read", "grep", "glob", "list", "task", "webfetch"} <= set(granted["reading"])
    assert not {"edit", "bash", "external_directory", "doom_loop"} & set(granted["reading"])
    assert (granted["edits"], "csa *" in granted["commands"]) == (edits, commands)


def test_a_command_may_run_for_as_long_as_the_turn_unless_the_user_says_how_long() -> None:
    """By itself opencode ends it after two minutes, and a sub-agent in it."""
    name = "OPENCODE_EXPERIMENTAL_BASH_DEFAULT_TIMEOUT_MS"
    assert 24 * 3_600_000 < int(environment()[name] or "") < 1 << 31
    assert name not in environment(environ={name: "5000"})


def test_rules_of_the_environment_are_kept_before_ours() -> None:
    """The level decides about what it names, whatever stood there, and in whatever order."""
    users = {"bash": "allow", "webfetch": "deny"}
    found = rules(environ={"OPENCODE_PERMISSION": json.dumps(users)})
    assert list(found) == ["webfetch", "bash"]
    assert found["bash"]["*"] == "deny"


@pytest.mark.parametrize("odd", ["", "{", "[]", "7"])
def test_rules_of_the_environment_that_are_none_are_passed_over(odd: str) -> None:
    """So does opencode."""
    assert list(rules(environ={"OPENCODE_PERMISSION": odd})) == ["bash"]


def test_ephemeral_keeps_its_session_in_memory_and_reads_no_project_files() -> None:
    """A session that is deleted from the database leaves its text in the file's free pages."""
    changes = environment(ephemeral=True)
    assert changes["OPENCODE_DB"] == ":memory:"
    assert changes["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"
    assert not {"OPENCODE_DB", "OPENCODE_DISABLE_PROJECT_CONFIG"} & environment().keys()


def test_a_run_nested_in_an_ephemeral_one_keeps_its_session() -> None:
    """The outer one's settings are in the environment of its shell; only what csa put there is taken away."""
    inherited = {name: value for name, value in environment(ephemeral=True).items() if value is not None}
    changes = environment(environ=inherited)
    assert (changes["OPENCODE_DB"], changes["OPENCODE_DISABLE_PROJECT_CONFIG"]) == (None, None)
    assert "OPENCODE_DB" not in environment(environ={"OPENCODE_DB": "/srv/own.db"})


def test_nothing_is_updated_under_a_running_turn() -> None:
    """The updater replaces the binary."""
    assert environment()["OPENCODE_DISABLE_AUTOUPDATE"] == "1"


@pytest.mark.parametrize(
    ("environ", "account"),
    [
        ({"HOME": "/home/u"}, "~/.local/share/opencode"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "/srv/data"}, "/srv/data/opencode"),
        ({"HOME": "/home/u", "OPENCODE_DB": "/srv/own.db"}, "/srv/own.db"),
        ({"HOME": "/home/u", "OPENCODE_DB": "own.db"}, "~/.local/share/opencode/own.db"),
        ({"HOME": "/home/u", "OPENCODE_DB": ":memory:"}, "~/.local/share/opencode"),
    ],
)
def test_account_is_the_database(environ: dict[str, str], account: str) -> None:
    """A session of one is unknown in another."""
    assert ADAPTER.account(environ) == account


def test_homes_are_its_four_directories() -> None:
    """It writes to all of them at every start, also inside codex's sandbox."""
    assert ADAPTER.homes({"HOME": "/home/u", "XDG_CACHE_HOME": "/var/c"}) == (
        "/home/u/.local/share/opencode",
        "/home/u/.config/opencode",
        "/home/u/.local/state/opencode",
        "/var/c/opencode",
    )


def test_markers_of_an_outer_opencode_are_removed_but_configuration_stays() -> None:
    """The password is that of the outer one's server."""
    assert {"OPENCODE", "OPENCODE_PID", "OPENCODE_SERVER_PASSWORD"} <= ADAPTER.outer_markers
    assert not {"OPENCODE_CONFIG", "OPENCODE_DB", "OPENCODE_PERMISSION"} & ADAPTER.outer_markers
