"""How csa authenticates with an ACP agent that requires it: which of its methods may be used unasked.

Never one that opens a browser or a terminal; a method's type shows what it does, else its text. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from csa_adapters.jsonlines import list_of, mapping_of, text_of

AUTH_REQUIRED = -32000
_NEEDS_A_PERSON = re.compile(
    r"browser|oauth|device.?code|sso\b|sign.?in|log.?in with|chatgpt|subscription|google|github|\brun `|terminal",
    re.IGNORECASE,
)


def choose_method(methods: Iterable[Any], environ: Mapping[str, str], default: str = "") -> str | None:
    """Return the method to use: one whose variables are set, else the agent's default, else the only one there is."""
    offered = [found for found in map(mapping_of, methods) if text_of(found.get("id"))]
    for method in offered:
        names = variables_of(method)
        if names and all(environ.get(name) for name in names):
            return text_of(method["id"])
    named = [method for method in offered if method["id"] == default]
    only = named or (offered if len(offered) == 1 else [])
    return next((text_of(method["id"]) for method in only if _is_quiet(method)), None)


def describe_methods(methods: Iterable[Any]) -> str:
    """Describe the methods, and how to choose one."""
    told = [_describe(method) for method in map(mapping_of, methods) if text_of(method.get("id"))]
    names = ", ".join(told) or "none that it names"
    return f"one of its methods, by auth_method in its table of the config: {names}"


def variables_of(method: Mapping[str, Any]) -> list[str]:
    """Return the variables that a method of type `env_var` needs; codex-acp's old form has one, `varName`."""
    if method.get("type") != "env_var":
        return []
    needed = [each for each in map(mapping_of, list_of(method.get("vars"))) if each.get("optional") is not True]
    names = [text_of(each.get("name")) for each in needed] or [text_of(method.get("varName"))]
    return [name for name in names if name]


def _is_quiet(method: Mapping[str, Any]) -> bool:
    """Say whether a method works without a person."""
    if method.get("type") not in (None, "agent") or mapping_of(method.get("_meta")).get("terminal-auth"):
        return False
    words = (text_of(method.get(key)) for key in ("id", "name", "description"))
    return not any(map(_NEEDS_A_PERSON.search, words))


def _describe(method: Mapping[str, Any]) -> str:
    names = variables_of(method)
    note = f"set {' and '.join(names)}" if names else text_of(method.get("name"))
    return f"{method['id']} ({note})" if note else str(method["id"])
