"""The agents that csa can start by name with the Agent Client Protocol.

The command lines come from `source`, as of November 2026; docs/acp-transport.md says which were tested, and its
table is compared with this one by a test. "registry" is that file in github.com/agentclientprotocol/registry.
"""

from __future__ import annotations

from collections.abc import Mapping

from csa.structs import Struct, field


class Agent(Struct):
    """How an agent is started."""

    words: tuple[str, ...]  # after its program
    program: str = ""  # empty for a tool with a native adapter, which names it
    source: str = ""
    env: Mapping[str, str] = field(default_factory=dict)  # if the user has set nothing
    settles: frozenset[str] = frozenset()  # what its command line, or its native adapter's files, already set
    model_flag: str | None = None
    policy_flag: str | None = None  # for the policy that the tool's native adapter writes
    forced_env: Mapping[str, str] = field(default_factory=dict)
    counts: str | None = None  # where the bridge gets a turn's usage, if the agent's answer does not have it


AGENTS: Mapping[str, Agent] = {
    "gemini-cli": Agent(
        ("--acp",),
        source="its --help",
        settles=frozenset({"model", "effort"}),
        model_flag="--model",
        policy_flag="--admin-policy",
        forced_env={"GEMINI_CLI_TRUST_WORKSPACE": "true"},  # headless, an untrusted folder is refused (0.61.0)
    ),
    "opencode": Agent(("acp",), source="its --help", counts="opencode"),
    "amp": Agent((), "amp-acp", "registry amp-acp"),
    "auggie": Agent(("--acp",), "auggie", "registry auggie", env={"AUGMENT_DISABLE_AUTO_UPDATE": "1"}),
    "cagent": Agent(("acp",), "cagent", "registry cagent"),
    "claude-agent-acp": Agent((), "claude-agent-acp", "registry claude-acp"),
    "cline": Agent(("--acp",), "cline", "registry cline"),
    "code-assistant": Agent(("acp",), "code-assistant", "registry code-assistant"),
    "codebuddy": Agent(("--acp",), "codebuddy", "registry codebuddy-code"),
    "codex-acp": Agent((), "codex-acp", "registry codex-acp"),
    "copilot": Agent(("--acp",), "copilot", "registry github-copilot-cli", env={"COPILOT_AUTO_UPDATE": "false"}),
    "cursor": Agent(("acp",), "cursor-agent", "registry cursor"),
    "devin": Agent(("acp",), "devin", "registry devin"),
    "droid": Agent(
        ("exec", "--output-format", "acp"),
        "droid",
        "the table of github.com/openclaw/acpx",
        env={"DROID_DISABLE_AUTO_UPDATE": "true", "FACTORY_DROID_AUTO_UPDATE_ENABLED": "false"},
    ),
    "fast-agent": Agent(("-x",), "fast-agent-acp", "registry fast-agent"),
    "goose": Agent(("acp",), "goose", "registry goose"),
    "grok": Agent(("agent", "stdio"), "grok", "registry grok-build"),
    "hermes": Agent(("acp",), "hermes", "github.com/NousResearch/hermes-agent"),
    "iflow": Agent(("--experimental-acp",), "iflow", "the table of github.com/openclaw/acpx"),
    "junie": Agent(("--acp=true",), "junie", "registry junie"),
    "kilo": Agent(("acp",), "kilo", "registry kilo"),
    "kimi": Agent(("acp",), "kimi", "registry kimi"),
    "kiro": Agent(("acp",), "kiro-cli", "kiro.dev/docs/cli/acp"),
    "mistral-vibe": Agent((), "vibe-acp", "registry mistral-vibe"),
    "openhands": Agent(("acp",), "openhands", "docs.openhands.dev, run-openhands/acp"),
    "pi": Agent((), "pi-acp", "registry pi-acp"),
    "qoder": Agent(("--acp",), "qodercli", "registry qoder"),
    "qwen": Agent(("--acp",), "qwen", "registry qwen-code"),
    "stakpak": Agent(("acp",), "stakpak", "registry stakpak"),
    "vtcode": Agent(
        ("acp",),
        "vtcode",
        "github.com/vinhnx/vtcode",
        env={"VT_ACP_ENABLED": "1", "VT_ACP_ZED_ENABLED": "1"},
    ),
}
UNKNOWN = Agent(())
