"""What agents under gemini-cli may do, as rules of its policy engine (seen at 0.61.0). Pure.

Without a terminal, gemini denies everything that would ask. Rules match the arguments as JSON with a NUL around
each top-level pair, so the text of another argument cannot match a pattern that begins with one. Every command of a
list or pipe is checked separately. The engine refuses patterns with a quantified group.
"""

from __future__ import annotations

import json
import re
import shlex

from csa.model.permission import Permission

_WRITERS = ("write_file", "replace")
# Leaving plan mode without a terminal switches to "allow everything": no level but `full` may enter it.
_ESCALATING = ("enter_plan_mode", "exit_plan_mode")
# Commands that only read, with any arguments; likewise git's, without an output file.
_READERS = (
    "basename|cat|cut|df|diff|dirname|du|echo|false|file|grep|head|id|ls|nl|printenv|printf|pwd|readlink|realpath|stat"
    r"|tail|test|tr|true|uname|wc|which|whoami|git (?:status|log|diff|show)(?![^\x00]*--(?:output|ext))"
)
_END = r'"\x00'
_BREAK = r"(?:\s|\\[nt]|[;|&])"
# Up to the end of the command without writing to a file; the only redirections discard errors.
_NO_FILE = rf"(?:[^>]*|[^>]*2>(?:&1|/dev/null)[^>]*){_END}"


def policy(permission: Permission, csa_command: str) -> str:
    """Return the policy file of a level below `full`."""
    rules = [
        _rule(_ESCALATING, "deny", 999),
        _command(rf'(?:{"|".join(map(_escaped, _csa_names(csa_command)))})(?:[\s"]|\\[nt"])'),
        _command(rf"(?:{_READERS})(?:{_END}|{_BREAK}{_NO_FILE})"),
        _command(rf"env(?:{_END}|\s*[|;&]{_NO_FILE})"),  # alone: `env X=1 rm` runs rm
    ]
    rules.append(_servers("allow", 950, name="csa"))  # `csa mcp`, as the shell may call csa
    rules.append(_servers("allow", 945, readOnlyHint=True))
    if permission is Permission.EDIT:
        rules.append(_servers("allow", 945, destructiveHint=False, openWorldHint=False))
    if permission is Permission.READ_ONLY:
        rules += [_rule(_WRITERS, "deny", 999), _rule(("run_shell_command",), "deny", 940), _servers("deny", 940)]
    return "\n".join(rules)


def _servers(decision: str, priority: int, *, name: str = "*", **annotations: bool) -> str:
    """Rules for MCP tools by their server's name, or their own declarations: nothing else is known about them."""
    declared = ", ".join(f"{hint} = {str(value).lower()}" for hint, value in annotations.items())
    meant = f"toolAnnotations = {{ {declared} }}\n" if declared else ""
    return f'[[rule]]\ntoolName = "*"\nmcpName = "{name}"\n{meant}decision = "{decision}"\npriority = {priority}\n'


def _csa_names(path: str) -> tuple[str, ...]:
    return ("csa",) if path == "csa" else ("csa", shlex.quote(path))


def _escaped(command: str) -> str:
    """Write a command for a regular expression over JSON; a TOML literal cannot contain a quote."""
    text = json.dumps(command, ensure_ascii=False)[1:-1]
    return re.sub(r"[^\w/ -]", lambda match: "." if match.group() in "'\"\\" else "\\" + match.group(), text)


def _command(pattern: str) -> str:
    return f"""[[rule]]
toolName = "run_shell_command"
argsPattern = '\\x00"command":"{pattern}'
decision = "allow"
priority = 950
"""


def _rule(tools: tuple[str, ...], decision: str, priority: int) -> str:
    names = ", ".join(f'"{tool}"' for tool in tools)
    return f'[[rule]]\ntoolName = [{names}]\ndecision = "{decision}"\npriority = {priority}\n'
