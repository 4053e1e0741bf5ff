"""How gemini-cli is started: flags, settings, rules and surroundings, each against something the real one did."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
from csa_adapters.gemini_cli import GeminiCliAdapter

from csa.errors import UsageError
from csa.model.adapter import Invocation
from csa.model.permission import Permission
from tests.unit.adapters.support import FRESH, THREAD, has_flags, make_request

ADAPTER = GeminiCliAdapter()
HOME = {"HOME": "/home/dev"}
RUN = "/home/dev/state/runtime"


def invoke(**fields: Any) -> Invocation:
    given = {"environ": HOME, "run_directory": RUN, "run_directory_is_roots": True, **fields}
    return ADAPTER.invocation(make_request(**given))


def settings(made: Invocation, name: str = "settings.json") -> Any:
    return json.loads(made.files[name])


def test_the_prompt_goes_through_stdin_and_never_as_a_command() -> None:
    """A slash at the beginning would be run as the tool's own command; after a space it is text."""
    assert invoke(prompt="-- Do it.").stdin == b"-- Do it."
    assert invoke(prompt="/compress").stdin == b" /compress"
    assert not any("Do it" in word for word in invoke(prompt="Do it").argv)


def test_trust_and_one_process() -> None:
    """Untrusted directories end with exit 55; the launcher ignores signals and leaves its child behind."""
    made = invoke()
    assert has_flags(made.argv, "--skip-trust", "--output-format", "stream-json")
    assert made.env["GEMINI_CLI_NO_RELAUNCH"] == "true"


def test_the_id_is_chosen_and_resumed_by() -> None:
    """A new session has csa's UUIDv4; a resume takes a UUID only, where gemini would also take an index or `latest`."""
    assert has_flags(invoke().argv, "--session-id", FRESH)
    assert has_flags(invoke(provider_session_id=THREAD).argv, "--resume", THREAD)
    for wrong in ("latest", "1"):
        with pytest.raises(UsageError, match="not the id of a gemini session"):
            invoke(provider_session_id=wrong)


@pytest.mark.parametrize(
    ("level", "mode"), [(Permission.READ_ONLY, "default"), (Permission.EDIT, "auto_edit"), (Permission.FULL, "yolo")]
)
def test_levels_are_modes_and_rules(level: Permission, mode: str) -> None:
    """Every level but `full` has rules; administrators' ones, for `--policy` would replace the user's."""
    made = invoke(permission=level)
    assert has_flags(made.argv, "--approval-mode", mode)
    assert has_flags(made.argv, "--admin-policy", f"{RUN}/policy.toml") == (level is not Permission.FULL)
    assert "--policy" not in made.argv


def decide(level: Permission, command: str, csa: str = "csa") -> bool:
    """Say whether the rules allow a single command, as gemini matches them."""
    given = {"command": command}
    text = "{" + ",".join(f'\x00"{key}":{json.dumps(value)}\x00' for key, value in given.items()) + "}"
    rules = tomllib.loads(invoke(permission=level, csa_command=csa).files["policy.toml"])["rule"]
    matching = [
        rule
        for rule in rules
        if "run_shell_command" in rule["toolName"] and re.search(rule.get("argsPattern", ""), text)
    ]
    return bool(matching) and max(matching, key=lambda rule: rule["priority"])["decision"] == "allow"


@pytest.mark.parametrize("level", [Permission.READ_ONLY, Permission.EDIT])
@pytest.mark.parametrize(
    "command",
    [
        *("csa run 'go'", "'/opt/my csa/csa' run x", "csa run - <<'E'\nx\nE", "env", "env | grep CSA_"),
        *("cat f", "ls", "ls; pwd", "git status", "grep -r x . 2>/dev/null", "cat f 2>&1 | head"),
    ],
)
def test_allowed_commands(level: Permission, command: str) -> None:
    """csa by its name and path, bare env, and what only reads; gemini checks every command of a list by itself."""
    assert decide(level, command, "/opt/my csa/csa")


@pytest.mark.parametrize("level", [Permission.READ_ONLY, Permission.EDIT])
@pytest.mark.parametrize(
    "command",
    [
        *("rm x", "python3 -c 1", "env rm x", "env X=1 csa", "ls > f", "env > f", "env | cat > f", "csax", "catx f"),
        *("lsof", "git diff --output=f", "git push", "X=1 csa run y", "echo a >> f", "/opt/myXcsa/csa run x"),
    ],
)
def test_refused_commands(level: Permission, command: str) -> None:
    """Whatever writes, also through a redirection, which gemini itself would let pass in auto_edit."""
    assert not decide(level, command, "/opt/my.csa/csa")


@pytest.mark.parametrize("level", [Permission.READ_ONLY, Permission.EDIT])
def test_plan_mode_cannot_be_entered(level: Permission) -> None:
    """Without a terminal, leaving it switches to yolo: neither the rules nor the settings let an agent in."""
    made = invoke(permission=level)
    denied = [rule["toolName"] for rule in tomllib.loads(made.files["policy.toml"])["rule"] if rule["priority"] == 999]
    assert ["enter_plan_mode", "exit_plan_mode"] in denied
    assert settings(made)["general"]["plan"] == {"enabled": False}


def test_patterns_have_no_quantified_group() -> None:
    """gemini drops a rule whose pattern it takes for dangerous: one with a quantified group."""
    for rule in tomllib.loads(invoke().files["policy.toml"])["rule"]:
        assert not re.search(r"\([^)]*[*+?{].*\)[*+?{]", rule.get("argsPattern", ""))


def test_settings_are_given_per_run() -> None:
    """Its clean-up would delete sessions, ten attempts take four minutes, GITHUB_SHA would strip CSA_*."""
    made = invoke(environ={**HOME, "GITHUB_SHA": "abc", "GEMINI_API_KEY": "k"})
    found = settings(made)
    assert made.env["GEMINI_CLI_SYSTEM_SETTINGS_PATH"] == f"{RUN}/settings.json"
    assert found["general"]["sessionRetention"] == {"enabled": False}
    assert found["general"]["maxAttempts"] == 3
    assert {"CSA_SESSION_ID", "CSA_SESSION_DIR", "CSA_DEPTH"} <= set(
        found["security"]["environmentVariableRedaction"]["allowed"]
    )
    assert found["security"]["auth"] == {"selectedType": "gemini-api-key"}
    assert "GITHUB_SHA" not in made.env
    assert "auth" not in settings(invoke())["security"]


def test_the_users_own_settings_are_kept() -> None:
    """What an administrator's file says stays in the one that takes its place, comments or not."""
    theirs = '// ours\n{"general": {"vimMode": true}, "security": {"environmentVariableRedaction": {"allowed": ["X"]}}}'
    user = '{"general": {"maxAttempts": 9}, "security": {"auth": {"selectedType": "oauth-personal"}}}'
    files = {"$GEMINI_CLI_SYSTEM_SETTINGS_PATH": theirs, "~/.gemini/settings.json": user}
    environ = {**HOME, "GEMINI_CLI_SYSTEM_SETTINGS_PATH": "/etc/theirs.json", "GEMINI_API_KEY": "k"}
    made = invoke(environ=environ, files=files)
    found = settings(made)
    assert found["general"]["vimMode"] is True
    assert "maxAttempts" not in found["general"]
    assert found["security"]["environmentVariableRedaction"]["allowed"][0] == "X"
    assert "auth" not in found["security"]
    assert made.env["OUTER_GEMINI_CLI_SYSTEM_SETTINGS_PATH"] == "/etc/theirs.json"


def test_settings_that_cannot_be_read_are_not_silently_dropped() -> None:
    """They may be there to restrict."""
    environ = {**HOME, "GEMINI_CLI_SYSTEM_SETTINGS_PATH": "/etc/theirs.json"}
    with pytest.raises(UsageError, match="settings of gemini-cli"):
        invoke(environ=environ, files={"$GEMINI_CLI_SYSTEM_SETTINGS_PATH": "{"})


def test_a_nested_run_starts_from_the_users_settings_and_not_from_the_outer_runs() -> None:
    """The outer run's note and home are of another session."""
    environ = {
        **HOME,
        "GEMINI_CLI_SYSTEM_SETTINGS_PATH": "/outer/runtime/settings.json",
        "OUTER_GEMINI_CLI_SYSTEM_SETTINGS_PATH": "",
        "GEMINI_CLI_HOME": "/outer/runtime/home",
        "OUTER_GEMINI_CLI_HOME": "",
    }
    files = {"$GEMINI_CLI_SYSTEM_SETTINGS_PATH": '{"general": {"vimMode": true}}'}
    made = invoke(environ=environ, files=files)
    assert "vimMode" not in settings(made)["general"]
    assert made.env["GEMINI_CLI_HOME"] is None
    assert ADAPTER.account(environ) == "~/.gemini"


def test_the_system_text_is_one_more_context_file() -> None:
    """Global context files are part of the system prompt; the names the user has chosen stay."""
    made = invoke(system="Speak Latin.", files={"./.gemini/settings.json": '{"context": {"fileName": "AGENTS.md"}}'})
    assert settings(made)["context"]["fileName"] == ["AGENTS.md", "../state/runtime/csa-note.md"]
    assert made.files["csa-note.md"] == "Speak Latin."
    assert settings(invoke(system="x"))["context"]["fileName"][0] == "GEMINI.md"
    assert "context" not in settings(invoke())


def test_a_mention_in_the_system_text_is_no_import() -> None:
    """A context file's `@name` would be replaced by that file, or by an error."""
    assert invoke(system="ask @alice ``` b").files["csa-note.md"] == "````\nask @alice ``` b\n````"
    assert invoke(system="mail a@b.c").files["csa-note.md"] == "mail a@b.c"


def test_model_and_effort() -> None:
    """There is no flag for the effort: the models' aliases are overridden, and a model without one by its name."""
    made = invoke(model="some-model-9", effort="high")
    assert "--model=some-model-9" in made.argv
    overrides = settings(made)["modelConfigs"]["customOverrides"]
    chosen = {one["match"]["model"]: one["modelConfig"]["generateContentConfig"]["thinkingConfig"] for one in overrides}
    assert chosen == {
        "chat-base-3": {"thinkingLevel": "HIGH"},
        "chat-base-2.5": {"thinkingBudget": 24576},
        "some-model-9": {"thinkingLevel": "HIGH"},
    }
    assert "modelConfigs" not in settings(invoke())


def test_without_roots_directory_the_settings_are_a_users() -> None:
    """gemini skips a system file that root does not own: the run has a home that stands for the user's but for them."""
    files = {"~/.gemini/settings.json": '{"ui": {"theme": "x"}, "general": {"sessionRetention": {"enabled": true}}}'}
    environ = {**HOME, "SURFACE": "Github"}
    made = invoke(run_directory_is_roots=False, system="Note.", effort="high", environ=environ, files=files)
    assert made.files.keys() == {"policy.toml", "csa-note.md", "home/.gemini/settings.json"}
    found = settings(made, "home/.gemini/settings.json")
    assert found["ui"] == {"theme": "x"}
    assert found["general"]["sessionRetention"] == {"enabled": False}
    assert found["context"]["fileName"] == ["GEMINI.md", "../../csa-note.md"]
    assert "modelConfigs" in found
    assert made.env["GEMINI_CLI_HOME"] == f"{RUN}/home"
    assert made.env["OUTER_GEMINI_CLI_HOME"] == ""
    assert (made.env["SURFACE"], made.env["GITHUB_SHA"]) == (None, None)
    assert "GEMINI_CLI_SYSTEM_SETTINGS_PATH" not in made.env
    assert made.links["home/.gemini/tmp"] == "/home/dev/.gemini/tmp/"
    assert made.links["home/.gemini/*"] == "/home/dev/.gemini"
    assert made.links["home/.env"] == "/home/dev/.env"
    assert made.warnings == ()


def test_a_nested_run_stands_for_the_users_home_too() -> None:
    """The home of the outer run goes with it; the user's, named or not, is the one that is linked."""
    nested = {**HOME, "GEMINI_CLI_HOME": "/outer/runtime/home", "OUTER_GEMINI_CLI_HOME": ""}
    assert invoke(run_directory_is_roots=False, environ=nested).links["home/.gemini/*"] == "/home/dev/.gemini"
    named = {**nested, "OUTER_GEMINI_CLI_HOME": "/data/g"}
    made = invoke(run_directory_is_roots=False, environ=named)
    assert made.links["home/.gemini/*"] == "/data/g/.gemini"
    assert made.env["OUTER_GEMINI_CLI_HOME"] == "/data/g"


def test_what_the_project_settles_is_not_claimed() -> None:
    """Its settings are above the user's: the note goes before the prompt, an effort is refused, a clean-up told."""

    def under(settings: str, **fields: Any) -> Invocation:
        return invoke(run_directory_is_roots=False, files={"./.gemini/settings.json": settings}, **fields)

    assert under('{"context": {"fileName": "RULES.md"}}', system="Note.").stdin == b"Note.\n\nDo it."
    assert "sessionRetention" in under('{"general": {"sessionRetention": {"enabled": true}}}').warnings[0]
    with pytest.raises(UsageError, match="effort"):
        under('{"modelConfigs": {"customOverrides": []}}', effort="high")


def test_an_ephemeral_run_has_a_home_that_goes_with_it() -> None:
    """gemini always writes a conversation; the user's login and settings are taken along."""
    files = {"~/.gemini/oauth_creds.json": "{}", "~/.gemini/settings.json": '{"ui": {"theme": "x"}}'}
    made = invoke(ephemeral=True, system="Note.", files=files)
    assert made.env["GEMINI_CLI_HOME"] == f"{RUN}/home"
    assert made.env["TMPDIR"] == RUN
    assert made.files["home/.gemini/oauth_creds.json"] == "{}"
    found = settings(made, "home/.gemini/settings.json")
    assert found["ui"] == {"theme": "x"}
    assert found["context"]["fileName"] == ["GEMINI.md", "../../csa-note.md"]


def test_account_and_homes() -> None:
    """Conversations belong to a home and an endpoint; credentials of the endpoint are not named."""
    environ = {**HOME, "GOOGLE_GEMINI_BASE_URL": "https://user:pw@proxy.example/x/"}
    assert ADAPTER.account(environ) == "~/.gemini https://proxy.example/x"
    assert ADAPTER.account(HOME) == "~/.gemini"
    assert ADAPTER.homes({**HOME, "GEMINI_CLI_HOME": "/data/g"}) == ("/data/g/.gemini",)


def server_rules(level: Permission) -> list[tuple[str, dict[str, bool]]]:
    """Return the decisions on MCP tools, strongest first, with the annotations they ask for."""
    rules = tomllib.loads(invoke(permission=level).files["policy.toml"])["rule"]
    found = sorted((rule for rule in rules if "mcpName" in rule), key=lambda rule: -rule["priority"])
    csas = found.pop(0)
    assert (csas["toolName"], csas["mcpName"], csas["decision"]) == ("*", "csa", "allow")
    assert all((rule["toolName"], rule["mcpName"]) == ("*", "*") for rule in found)
    return [(rule["decision"], rule.get("toolAnnotations", {})) for rule in found]


def test_mcp_tools_below_full_are_those_that_declare_themselves_harmless() -> None:
    """At `edit` the user's own trust holds as well; at `read-only` nothing but reading."""
    reads = ("allow", {"readOnlyHint": True})
    assert server_rules(Permission.READ_ONLY) == [reads, ("deny", {})]
    assert server_rules(Permission.EDIT) == [reads, ("allow", {"destructiveHint": False, "openWorldHint": False})]


@pytest.mark.parametrize(
    ("timeout_s", "limit_s"), [(None, 86400), (60.0, 86400), (200_000.0, 200_060), (1e9, 2_147_483)]
)
def test_its_own_limits_are_beyond_those_of_csa(timeout_s: float | None, limit_s: float) -> None:
    """A silent command would be cancelled after 300 s, its own agent after 10 minutes; timers have a maximum."""
    for made, name in (
        (invoke(timeout_s=timeout_s), "settings.json"),
        (invoke(timeout_s=timeout_s, run_directory_is_roots=False), "home/.gemini/settings.json"),
    ):
        found = settings(made, name)
        assert found["tools"]["shell"]["inactivityTimeout"] == limit_s
        assert found["agents"]["overrides"]["generalist"]["runConfig"]["maxTimeMinutes"] == limit_s / 60


@pytest.mark.parametrize(
    "place", ["~/.gemini/settings.json", "./.gemini/settings.json", "/etc/gemini-cli/settings.json"]
)
@pytest.mark.parametrize("is_roots", [True, False])
def test_limits_of_the_user_and_the_project_hold(place: str, is_roots: bool) -> None:  # noqa: FBT001  # a parameter
    """What somebody has set, csa does not set."""
    theirs = {
        "tools": {"shell": {"inactivityTimeout": 20, "pager": "less"}},
        "agents": {"overrides": {"generalist": {"runConfig": {"maxTimeMinutes": 2}}}},
    }
    made = invoke(files={place: json.dumps(theirs)}, run_directory_is_roots=is_roots)
    found = settings(made, "settings.json" if is_roots else "home/.gemini/settings.json")
    assert found.get("tools", {}).get("shell", {}).get("inactivityTimeout") in (None, 20)
    overrides = found.get("agents", {}).get("overrides", {})
    assert overrides.get("generalist", {}).get("runConfig", {}).get("maxTimeMinutes") in (None, 2)
