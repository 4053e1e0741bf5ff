"""What `csa doctor` takes for a login is what the real CLIs send: the header that the provider saw, of each alone."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

import pytest

from tests.real.workplace import (
    CLAUDE_CODE,
    CODEX,
    CSA,
    GEMINI_CLI,
    OPENCODE,
    SEARCH_PATH,
    TOOLS,
    Json,
    RealTool,
    Workplace,
    executables,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
OPENAI = 'openai_base_url = "@/v1"\n[analytics]\nenabled = false\n'  # the built-in provider, but here
OURS = 'model_provider = "m"\n[model_providers.m]\nname = "m"\nbase_url = "@/v1"\nwire_api = "responses"\n'
SELECTED = json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}})
CREDENTIALS = json.dumps(
    {"claudeAiOauth": {"accessToken": "kept", "refreshToken": "r", "expiresAt": 4102444800000, "scopes": ["%"]}}
)


def opencode(**more: object) -> dict[str, str]:
    options = {"baseURL": "@/v1", **more}
    mock = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"mm": {}}, "env": ["MOCK_KEY"]}
    config = {"model": "mock/mm", "small_model": "mock/mm", "share": "disabled", "provider": {"mock": mock}}
    return {".config/opencode/opencode.json": json.dumps(config).replace("@ai-sdk", "%ai-sdk")}


@dataclass(frozen=True)
class Case:
    """What a user has, and the key that is sent for it; None where none is."""

    tool: RealTool
    what: str
    sent: str | None
    env: dict[str, str | None] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    says: bool | None = True  # doctor, of a login; None: that it is not known

    def __str__(self) -> str:
        return f"{self.tool.name}-{self.what}"


HERE: dict[str, str | None] = {"CLAUDE_CODE_MAX_RETRIES": "0"}
CASES = [
    Case(CODEX, "nothing", None, files={".codex/config.toml": OPENAI}, says=False),
    Case(CODEX, "OPENAI_API_KEY", None, {"OPENAI_API_KEY": "k"}, {".codex/config.toml": OPENAI}, says=False),
    Case(CODEX, "CODEX_API_KEY", "k", {"CODEX_API_KEY": "k"}, {".codex/config.toml": OPENAI}),
    Case(
        CODEX,
        "auth.json",
        "kept",
        files={".codex/config.toml": OPENAI, ".codex/auth.json": '{"OPENAI_API_KEY": "kept"}'},
    ),
    Case(
        CODEX,
        "auth.json-logged-out",
        None,
        files={".codex/config.toml": OPENAI, ".codex/auth.json": '{"OPENAI_API_KEY": ""}'},
        says=False,
    ),
    Case(CODEX, "env_key", "k", {"MYK": "k"}, {".codex/config.toml": OURS + 'env_key = "MYK"'}),
    Case(
        CODEX,
        "env_key-unset",
        None,
        {"CODEX_API_KEY": "k"},
        {".codex/config.toml": OURS + 'env_key = "MYK"'},
        says=False,
    ),
    Case(CODEX, "provider-without-key", None, {"CODEX_API_KEY": "k"}, {".codex/config.toml": OURS}, says=None),
    Case(CODEX, "bearer", "k", files={".codex/config.toml": OURS + 'experimental_bearer_token = "k"'}),
    Case(CLAUDE_CODE, "nothing", None, HERE, says=False),
    Case(CLAUDE_CODE, "ANTHROPIC_API_KEY", "k", {**HERE, "ANTHROPIC_API_KEY": "k"}),
    Case(CLAUDE_CODE, "empty", None, {**HERE, "ANTHROPIC_API_KEY": ""}, says=False),
    Case(CLAUDE_CODE, "ANTHROPIC_AUTH_TOKEN", "k", {**HERE, "ANTHROPIC_AUTH_TOKEN": "k"}),
    Case(CLAUDE_CODE, "CLAUDE_CODE_OAUTH_TOKEN", "k", {**HERE, "CLAUDE_CODE_OAUTH_TOKEN": "k"}),
    Case(CLAUDE_CODE, "apiKeyHelper", "k", HERE, {".claude/settings.json": '{"apiKeyHelper": "echo k"}'}),
    Case(CLAUDE_CODE, "settings", "k", HERE, {".claude/settings.json": '{"env": {"ANTHROPIC_API_KEY": "k"}}'}),
    Case(CLAUDE_CODE, "login", "kept", HERE, {".claude/.credentials.json": CREDENTIALS.replace("%", "user:inference")}),
    Case(
        CLAUDE_CODE,
        "scope",
        None,
        HERE,
        {".claude/.credentials.json": CREDENTIALS.replace("%", "user:profile")},
        says=False,
    ),
    Case(CLAUDE_CODE, "logged-out", None, HERE, {".claude/.credentials.json": "{}"}, says=False),
    Case(CLAUDE_CODE, "bedrock", None, {**HERE, "CLAUDE_CODE_USE_BEDROCK": "1", "AWS_REGION": "x-1"}, says=None),
    Case(GEMINI_CLI, "nothing", None, says=False),
    Case(GEMINI_CLI, "GEMINI_API_KEY", "k", {"GEMINI_API_KEY": "k"}),
    Case(GEMINI_CLI, "GOOGLE_API_KEY", None, {"GOOGLE_API_KEY": "k"}, says=False),
    Case(
        GEMINI_CLI,
        "vertex",
        "k",
        {
            "GOOGLE_API_KEY": "k",
            "GOOGLE_GENAI_USE_VERTEXAI": "true",
            "GOOGLE_GEMINI_BASE_URL": None,
            "GOOGLE_VERTEX_BASE_URL": "@",
        },
    ),
    Case(GEMINI_CLI, "vertex-alone", None, {"GOOGLE_GENAI_USE_VERTEXAI": "true"}, says=False),
    Case(GEMINI_CLI, "env-file", "k", files={".gemini/.env": "GEMINI_API_KEY=k\n", ".gemini/settings.json": SELECTED}),
    Case(
        GEMINI_CLI, "oauth-unselected", None, files={".gemini/oauth_creds.json": '{"refresh_token": "r"}'}, says=False
    ),
    Case(OPENCODE, "variable", "k", {"MOCK_KEY": "k"}, opencode()),
    Case(OPENCODE, "configured-variable", "k", {"MYK": "k"}, opencode(apiKey="{env:MYK}")),
    Case(OPENCODE, "configured-variable-unset", None, {}, opencode(apiKey="{env:MYK}"), says=False),
    Case(OPENCODE, "configured", "k", {}, opencode(apiKey="k")),
    Case(OPENCODE, "without-key", None, {}, opencode(), says=None),
    Case(
        OPENCODE,
        "auth.json",
        "kept",
        files={**opencode(), ".local/share/opencode/auth.json": '{"mock": {"type": "api", "key": "kept"}}'},
    ),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.tool in TOOLS], ids=str)
def test_what_is_sent(place: Workplace, case: Case) -> None:
    """The key is sent that doctor says there is, and no other; without one csa's failure is about that, if any."""
    url = place.provider.url
    for tool in TOOLS:
        del place.env[tool.key_variable]
    for name in (".codex/config.toml", ".config/opencode/opencode.json"):
        (place.home / name).unlink(missing_ok=True)
    for name, content in case.files.items():
        path = place.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.replace("@", url).replace("%ai-sdk", "@ai-sdk"))
    place.env |= {name: value.replace("@", url) for name, value in case.env.items() if value is not None}
    for name in [name for name, value in case.env.items() if value is None]:
        place.env.pop(name, None)
    done = place.csa("run", "--tool", case.tool.name, "--retries", "0", "--timeout", "60", "hello")
    headers = [{name.lower(): value for name, value in each.headers.items()} for each in place.provider.requests]
    keys = {each[name].removeprefix("Bearer").strip() for each in headers for name in HEADERS if name in each}
    assert keys - {""} == ({case.sent} if case.sent else set()), done
    check = doctor_on(place, case.tool)
    words = {True: "logged in or key set", False: "no login or key found", None: "login not known"}
    assert words[case.says] in check["detail"]
    assert (case.says is False) == bool(check["next_step"])


def doctor_on(place: Workplace, tool: RealTool) -> Json:
    """Return what doctor says of the tool, with no other on the PATH: each takes seconds to tell its version."""
    alone = place.base / "bin"
    alone.mkdir()
    (alone / tool.executable).symlink_to(executables() / tool.executable)
    path = os.pathsep.join([str(alone), str(CSA.parent), SEARCH_PATH])
    done = place.csa("doctor", "--json", "--timeout", "60", env={"PATH": path})
    found: Json = {check["name"]: check for check in done.json["checks"]}[tool.name]
    return found


def test_the_choice_goes_by_that(place: Workplace) -> None:
    """With OPENAI_API_KEY alone `csa run` does not take codex, whose first run would fail."""
    tools = {tool.name for tool in TOOLS}
    if not {"codex", "claude-code"} <= tools:
        pytest.skip("needs codex and claude-code")
    for tool in TOOLS:
        del place.env[tool.key_variable]
    for name in (".codex/config.toml", ".config/opencode/opencode.json"):
        os.unlink(place.home / name)
    place.env |= {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    (place.home / ".config/csa").mkdir(parents=True)
    (place.home / ".config/csa/config.toml").write_text('tools_order = ["codex", "claude-code"]\n')
    done = place.csa("run", "--json", "hello", env={"OPENCODE_DISABLE_MODELS_FETCH": "1"})
    assert done.json["tool"] == "claude-code", done
