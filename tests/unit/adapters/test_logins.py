"""What the adapters take for a login is what the real CLIs send as credentials.

Each case was run with the real CLI against a provider on the loopback, which looked at the headers; what is marked with
`unproven` could not be, as it asks a vendor's server or the keyring. tests/real/test_logins.py runs some of them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from csa_adapters.acp import AcpAdapter
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.model.adapter import Login, LoginJudge, LoginRequest

CODEX, CLAUDE, GEMINI, OPENCODE = CodexAdapter(), ClaudeCodeAdapter(), GeminiCliAdapter(), OpencodeAdapter()
BLANKS = ["", "  "]
OURS = 'model_provider = "m"\n[model_providers.m]\nname = "m"\nbase_url = "http://127.0.0.1/v1"\n'
TOKENS = {"id_token": "a.b.c", "access_token": "a.b.c", "refresh_token": "r"}


def judged(
    adapter: LoginJudge,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str | object] | None = None,
    command: tuple[str, ...] = (),
) -> Login:
    texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in (files or {}).items()}
    unknown = texts.keys() - {*adapter.probe.login_files, *adapter.capabilities.reads}  # type: ignore[attr-defined]
    assert not unknown, "csa does not read these"
    return adapter.login(LoginRequest(command=command, environ=environ or {}, files=texts))


@pytest.mark.parametrize(
    ("environ", "files", "command", "is_there"),
    [
        ({}, {}, (), False),
        ({"OPENAI_API_KEY": "k"}, {}, (), False),
        ({"CODEX_ACCESS_TOKEN": "k"}, {}, (), False),
        ({"CODEX_API_KEY": "k"}, {}, (), True),
        *(({"CODEX_API_KEY": blank}, {}, (), False) for blank in BLANKS),
        ({"CODEX_API_KEY": ""}, {"~/.codex/auth.json": {"OPENAI_API_KEY": "k"}}, (), True),
        ({}, {"~/.codex/auth.json": {"OPENAI_API_KEY": "k", "tokens": None}}, (), True),
        ({}, {"~/.codex/auth.json": {"OPENAI_API_KEY": ""}}, (), False),
        ({}, {"~/.codex/auth.json": {"OPENAI_API_KEY": None}}, (), False),
        ({}, {"~/.codex/auth.json": {}}, (), False),
        ({}, {"~/.codex/auth.json": ""}, (), False),
        ({}, {"~/.codex/auth.json": "[1"}, (), False),
        ({}, {"~/.codex/auth.json": {"OPENAI_API_KEY": None, "tokens": TOKENS}}, (), True),
        ({}, {"~/.codex/auth.json": {"auth_mode": "chatgpt", "OPENAI_API_KEY": "k", "tokens": TOKENS}}, (), True),
        ({}, {"~/.codex/auth.json": {"auth_mode": "chatgpt", "OPENAI_API_KEY": "k", "tokens": None}}, (), False),
        ({"CODEX_HOME": "/x"}, {"~/.codex/auth.json": {"OPENAI_API_KEY": "k"}}, (), False),
        ({"CODEX_HOME": "/x"}, {"$CODEX_HOME/auth.json": {"OPENAI_API_KEY": "k"}}, (), True),
        # the store of credentials
        (
            {},
            {
                "~/.codex/auth.json": {"OPENAI_API_KEY": "k"},
                "~/.codex/config.toml": 'cli_auth_credentials_store = "keyring"',
            },
            (),
            None,
        ),
        (
            {},
            {
                "~/.codex/auth.json": {"OPENAI_API_KEY": "k"},
                "~/.codex/config.toml": 'cli_auth_credentials_store = "auto"',
            },
            (),
            True,
        ),
        # a provider of the user's own
        ({"MYK": "k"}, {"~/.codex/config.toml": OURS + 'env_key = "MYK"'}, (), True),
        ({"CODEX_API_KEY": "k"}, {"~/.codex/config.toml": OURS + 'env_key = "MYK"'}, (), False),
        *(({"MYK": blank}, {"~/.codex/config.toml": OURS + 'env_key = "MYK"'}, (), False) for blank in BLANKS),
        ({"CODEX_API_KEY": "k"}, {"~/.codex/config.toml": OURS}, (), None),
        ({"OPENAI_API_KEY": "k"}, {"~/.codex/config.toml": OURS + 'env_key = "OPENAI_API_KEY"'}, (), True),
        ({}, {"~/.codex/config.toml": OURS + 'experimental_bearer_token = "k"'}, (), True),
        ({}, {"~/.codex/config.toml": OURS + 'http_headers = {Authorization = "Bearer k"}'}, (), True),
        ({}, {"~/.codex/config.toml": OURS + 'http_headers = {x-thing = "k"}'}, (), None),
        ({"EH": "Bearer k"}, {"~/.codex/config.toml": OURS + 'env_http_headers = {Authorization = "EH"}'}, (), True),
        ({}, {"~/.codex/config.toml": OURS + 'env_http_headers = {Authorization = "EH"}'}, (), None),
        ({}, {"~/.codex/config.toml": OURS + '[model_providers.m.auth]\ncommand = "echo"'}, (), True),
        ({}, {"~/.codex/config.toml": OURS + "requires_openai_auth = true"}, (), False),
        ({"CODEX_API_KEY": "k"}, {"~/.codex/config.toml": OURS + "requires_openai_auth = true"}, (), True),
        ({}, {"~/.codex/config.toml": 'model_provider = "ollama"'}, (), True),  # needs none
        ({}, {"~/.codex/config.toml": 'model_provider = "amazon-bedrock"'}, (), None),
        ({}, {"~/.codex/config.toml": "= no TOML"}, (), None),
        # what the configured command says
        (
            {"MYK": "k"},
            {"~/.codex/config.toml": OURS.partition("\n")[2] + 'env_key = "MYK"'},
            ("codex", "-c", "model_provider=m"),
            True,
        ),
        (
            {},
            {"~/.codex/config.toml": OURS.partition("\n")[2] + 'env_key = "MYK"'},
            ("codex", '--config=model_provider="m"'),
            False,
        ),
        ({"MYK": "k"}, {"~/.codex/config.toml": OURS}, ("codex", "-c", "model_providers.m.env_key=MYK"), True),
        ({}, {}, ("codex", "--profile", "p"), None),
    ],
)
def test_codex(
    environ: dict[str, str], files: dict[str, object], command: tuple[str, ...], *, is_there: bool | None
) -> None:
    """OPENAI_API_KEY is no login; a provider of one's own is sent only what its table names."""
    assert judged(CODEX, environ, files, command).is_there is is_there


def test_what_codex_says_of_a_key_that_it_does_not_send() -> None:
    """The user is told, and how to make a login of it."""
    found = judged(CODEX, {"OPENAI_API_KEY": "k"})
    assert found.why == "codex does not send OPENAI_API_KEY"
    assert found.step == "printenv OPENAI_API_KEY | codex login --with-api-key, or set CODEX_API_KEY"


CREDENTIALS = {"claudeAiOauth": {"accessToken": "t", "expiresAt": 4102444800000, "scopes": ["user:inference"]}}


@pytest.mark.parametrize(
    ("environ", "files", "is_there"),
    [
        ({}, {}, False),
        *(({name: "k"}, {}, True) for name in CLAUDE.probe.login_variables),
        *(({name: ""}, {}, False) for name in CLAUDE.probe.login_variables),
        ({"ANTHROPIC_CUSTOM_HEADERS": "x-api-key: k"}, {}, True),
        ({"ANTHROPIC_CUSTOM_HEADERS": "x-thing: k"}, {}, False),
        *(({}, {f"{place}.json": {"apiKeyHelper": "echo k"}}, True) for place in ("~/.claude/settings",)),
        ({}, {"./.claude/settings.json": {"apiKeyHelper": "echo k"}}, True),
        ({}, {"./.claude/settings.local.json": {"apiKeyHelper": "echo k"}}, True),
        ({}, {"~/.claude/settings.json": {"env": {"ANTHROPIC_API_KEY": "k"}}}, True),
        ({}, {"~/.claude/settings.json": {"env": {"ANTHROPIC_AUTH_TOKEN": "k"}}}, True),
        ({}, {"./.claude/settings.json": {"env": {"ANTHROPIC_API_KEY": "k"}}}, True),
        ({}, {"~/.claude/settings.json": {"model": "x"}}, False),
        ({}, {"~/.claude/.credentials.json": CREDENTIALS}, True),
        ({}, {"~/.claude/.credentials.json": {}}, False),
        ({}, {"~/.claude/.credentials.json": {"mcpOAuth": {"x": {"accessToken": "t"}}}}, False),
        (
            {},
            {"~/.claude/.credentials.json": {"claudeAiOauth": {"accessToken": "t", "scopes": ["user:profile"]}}},
            False,
        ),
        (
            {},
            {"~/.claude/.credentials.json": {"claudeAiOauth": {"accessToken": "", "scopes": ["user:inference"]}}},
            False,
        ),
        ({"CLAUDE_CONFIG_DIR": "/x"}, {"~/.claude/.credentials.json": CREDENTIALS}, False),
        ({"CLAUDE_CONFIG_DIR": "/x"}, {"$CLAUDE_CONFIG_DIR/.credentials.json": CREDENTIALS}, True),
        ({}, {"~/.claude.json": {"primaryApiKey": "k"}}, True),
        # clouds
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, {}, None),
        ({"CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_API_KEY": "k"}, {}, None),
        ({"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_BEARER_TOKEN_BEDROCK": "k"}, {}, True),
        ({"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}, {}, True),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, {"~/.aws/credentials": "[default]"}, True),
        ({"CLAUDE_CODE_USE_BEDROCK": "0"}, {}, False),
        ({"CLAUDE_CODE_USE_BEDROCK": "0", "ANTHROPIC_API_KEY": "k"}, {}, True),
        ({"CLAUDE_CODE_USE_VERTEX": "1"}, {}, None),
        ({"CLAUDE_CODE_USE_VERTEX": "1", "GOOGLE_APPLICATION_CREDENTIALS": "/k"}, {}, True),
        ({"CLAUDE_CODE_USE_FOUNDRY": "1"}, {}, None),
        ({"CLAUDE_CODE_USE_FOUNDRY": "1", "ANTHROPIC_FOUNDRY_API_KEY": "k"}, {}, True),
    ],
)
def test_claude(environ: dict[str, str], files: dict[str, object], *, is_there: bool | None) -> None:
    """An empty variable, a file without a token, and a token without the scope of inference are no login."""
    assert judged(CLAUDE, environ, files).is_there is is_there


ACCOUNT = {"access_token": "t", "refresh_token": "r"}
SETTINGS = "~/.gemini/settings.json"


def selecting(kind: str) -> dict[str, object]:
    return {SETTINGS: {"security": {"auth": {"selectedType": kind}}}}


@pytest.mark.parametrize(
    ("environ", "files", "is_there"),
    [
        ({}, {}, False),
        ({"GEMINI_API_KEY": "k"}, {}, True),
        ({"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1"}, {}, True),
        *(({"GEMINI_API_KEY": blank}, {}, False) for blank in BLANKS),
        ({"GOOGLE_API_KEY": "k"}, {}, False),
        ({"GOOGLE_API_KEY": "k"}, selecting("gemini-api-key"), False),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "true"}, {}, False),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_API_KEY": "k"}, {}, True),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "false", "GOOGLE_API_KEY": "k"}, {}, False),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "1", "GOOGLE_API_KEY": "k"}, {}, False),
        (
            {"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l"},
            {},
            None,
        ),
        ({"GOOGLE_API_KEY": "k"}, selecting("vertex-ai"), True),
        ({"GOOGLE_GENAI_USE_GCA": "true"}, {}, False),
        ({"GOOGLE_GENAI_USE_GCA": "1"}, {"~/.gemini/oauth_creds.json": ACCOUNT}, False),
        ({"GOOGLE_GENAI_USE_GCA": "true", "GOOGLE_CLOUD_ACCESS_TOKEN": "k"}, {}, True),
        ({"GOOGLE_GENAI_USE_GCA": "true", "GEMINI_API_KEY": "k"}, {}, True),
        ({}, {"~/.gemini/oauth_creds.json": ACCOUNT}, False),
        ({}, {"~/.gemini/oauth_creds.json": {}, **selecting("oauth-personal")}, False),
        ({}, selecting("oauth-personal"), False),
        ({"GEMINI_API_KEY": "k"}, selecting("oauth-personal"), False),
        pytest.param({}, {"~/.gemini/oauth_creds.json": ACCOUNT, **selecting("oauth-personal")}, True, id="unproven"),
        ({}, selecting("gemini-api-key"), False),
        ({}, {**selecting("gemini-api-key"), "~/.gemini/.env": "GEMINI_API_KEY=k\n"}, True),
        ({}, {**selecting("gemini-api-key"), "./.env": "GEMINI_API_KEY=k\n"}, True),
        ({}, {**selecting("gemini-api-key"), "./.gemini/.env": "export GEMINI_API_KEY='k'\n"}, True),
        ({}, {**selecting("gemini-api-key"), "./.env": "FOO=1\n", "~/.gemini/.env": "GEMINI_API_KEY=k\n"}, False),
        ({}, {"./.env": "GEMINI_API_KEY=k\n"}, True),
        ({}, {"~/.env": "GEMINI_API_KEY=k\n"}, True),
        ({}, {"./.env": "GOOGLE_GENAI_USE_VERTEXAI=true\nGOOGLE_API_KEY=k\n"}, False),
        ({"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1"}, {"./.env": "GEMINI_API_KEY=k\n"}, False),
        (
            {},
            {SETTINGS: '{"selectedAuthType": "gemini-api-key" /* the old place */}', "./.env": "GEMINI_API_KEY=k"},
            True,
        ),
        ({}, selecting("compute-default-credentials"), None),
        ({"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1"}, selecting("gateway"), False),
        ({}, {**selecting("gemini-api-key"), "~/.gemini/gemini-credentials.json": "secret"}, None),
        ({"GEMINI_CLI_HOME": "/x"}, {**selecting("oauth-personal"), "~/.gemini/oauth_creds.json": ACCOUNT}, False),
    ],
)
def test_gemini(environ: dict[str, str], files: dict[str, object], *, is_there: bool | None) -> None:
    """What is selected decides; a switch counts as "true" alone, and a login's file alone does nothing."""
    assert judged(GEMINI, environ, files).is_there is is_there


AUTH = "~/.local/share/opencode/auth.json"
CONFIG = "~/.config/opencode/opencode.json"


def provider(**table: object) -> dict[str, object]:
    return {CONFIG: {"model": "mock/mm", "provider": {"mock": table}}}


@pytest.mark.parametrize(
    ("environ", "files", "is_there"),
    [
        ({}, {}, False),  # models that are free
        *(({name: "k"}, {}, True) for name in OPENCODE.probe.login_variables),
        *(({name: "k"}, {}, True) for name in ("GEMINI_API_KEY", "GROQ_API_KEY", "XAI_API_KEY")),
        ({"OPENAI_API_KEY": ""}, {}, False),
        ({"GITHUB_TOKEN": "k", "AWS_PROFILE": "x"}, {}, False),  # set for other ends
        ({}, {AUTH: {"openai": {"type": "api", "key": "k"}}}, True),
        ({}, {AUTH: {"anthropic": {"type": "oauth", "refresh": "r", "access": "a"}}}, False),
        pytest.param({}, {AUTH: {"github-copilot": {"type": "oauth", "refresh": "r"}}}, True, id="unproven"),
        ({}, {AUTH: {}}, False),
        ({}, {AUTH: {"groq": {}}}, False),
        ({}, {CONFIG: {"theme": "dark"}}, False),
        ({"OPENCODE_AUTH_CONTENT": '{"openai": {"type": "api", "key": "k"}}'}, {}, True),
        ({"OPENAI_API_KEY": "k"}, {CONFIG: {"disabled_providers": ["openai"]}}, False),
        ({"MYK": "k"}, provider(options={"apiKey": "{env:MYK}"}), True),
        ({"OPENAI_API_KEY": "k"}, provider(options={"apiKey": "{env:MYK}"}), False),
        ({}, provider(options={"apiKey": "k"}), True),
        ({}, provider(options={"baseURL": "http://127.0.0.1/v1"}), None),
        ({"MYK": "k"}, provider(env=["MYK"]), True),
        ({}, {**provider(), AUTH: {"mock": {"type": "api", "key": "k"}}}, True),
        ({"OPENAI_API_KEY": "k"}, {CONFIG: {"model": "anthropic/claude"}}, False),
        ({"ANTHROPIC_API_KEY": "k"}, {CONFIG: {"model": "anthropic/claude"}}, True),
        ({"OPENAI_API_KEY": "k"}, {CONFIG: {"model": "openai/x"}, "./opencode.json": {"model": "groq/x"}}, False),
        (
            {},
            {"~/.config/opencode/opencode.jsonc": '{// mine\n"provider": {"openai": {"options": {"apiKey": "k"},}}}'},
            True,
        ),
        ({"XDG_DATA_HOME": "/x"}, {AUTH: {"openai": {"type": "api", "key": "k"}}}, False),
    ],
)
def test_opencode(environ: dict[str, str], files: dict[str, object], *, is_there: bool | None) -> None:
    """The provider of the configured model decides; a configuration alone is no login."""
    assert judged(OPENCODE, environ, files).is_there is is_there


def test_agents_of_the_protocol() -> None:
    """A tool that has an adapter is judged as that does; of another agent nothing is known."""
    assert judged(AcpAdapter("opencode", OPENCODE), {"OPENAI_API_KEY": "k"}).is_there is True
    assert judged(AcpAdapter("goose"), {"OPENAI_API_KEY": "k"}).is_there is None
