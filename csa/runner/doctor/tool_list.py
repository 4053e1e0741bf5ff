"""Which tools csa can run here, as values: installed, logged in, version, model."""

from __future__ import annotations

from typing import Any

import anyio

from csa.errors import CsaError
from csa.runner.context import Context
from csa.runner.doctor.tool_checks import find_tools
from csa.runner.toolbox import choose_tool, installed_agents, loadable_adapters


def look_at_tools(context: Context, limit_s: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects that `csa tools --json` prints, and the problems with others."""
    config, environ = context.config, context.environ
    adapters, problems = loadable_adapters(config)
    adapters += installed_agents(config, environ)
    findings = anyio.run(lambda: find_tools(context, config, adapters, limit_s=limit_s, report=lambda _: None))
    try:
        chosen = choose_tool(None, None, config, environ, avoid_family=None).adapter.name
    except CsaError:  # `csa doctor` says why
        chosen = ""
    redact = context.redactor.redact
    facts = [
        {
            "tool": found.adapter.name,
            "is_default": found.adapter.name == chosen,
            "installed": found.command is not None,
            "version": found.answer.version,
            "problem": redact(found.answer.problem) if found.answer.problem else None,
            "logged_in": found.login.is_there if found.command else None,
            "login": found.login.why or None,
            "model": config.for_tool(found.adapter.name).model or None,
            "command": list(found.command or ()),
        }
        for found in findings
    ]
    return facts, list(map(redact, problems))
