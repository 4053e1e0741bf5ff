"""How Claude Code's tools read in a transcript: their kinds, and titles that say what a call is about."""

from __future__ import annotations

from typing import Any

from csa_adapters.jsonlines import list_of, mapping_of, text_of

# name -> kind, and the input that tells one call from another
_TOOLS: dict[str, tuple[str, str]] = {
    "Bash": ("execute", "command"),
    "BashOutput": ("execute", "bash_id"),
    "KillShell": ("execute", "shell_id"),
    "Read": ("read", "file_path"),
    "NotebookRead": ("read", "notebook_path"),
    "LS": ("search", "path"),
    "Glob": ("search", "pattern"),
    "Grep": ("search", "pattern"),
    "WebSearch": ("search", "query"),
    "web_search": ("search", "query"),
    "ToolSearch": ("search", "query"),
    "Edit": ("edit", "file_path"),
    "MultiEdit": ("edit", "file_path"),
    "Write": ("edit", "file_path"),
    "NotebookEdit": ("edit", "notebook_path"),
    "WebFetch": ("fetch", "url"),
    "Task": ("think", "description"),
    "Agent": ("think", "description"),
    "TaskCreate": ("think", "subject"),
    "TaskUpdate": ("think", "taskId"),
    "TaskGet": ("think", "taskId"),
    "TaskList": ("think", ""),
    "TodoWrite": ("think", ""),
    "ExitPlanMode": ("think", ""),
    "Skill": ("other", "skill"),
}
_UNKNOWN = ("other", "")
_PLAN_STATUSES = frozenset({"pending", "in_progress", "completed"})


def describe_call(name: str, given: dict[str, Any]) -> tuple[str, str]:
    """Return a call's kind and title: the command of a shell call, else the tool's name and its subject."""
    kind, key = _TOOLS.get(name, _UNKNOWN)
    subject = text_of(given.get(key))
    if name == "Bash" and subject:
        return kind, subject
    return kind, f"{name} {subject}".strip()


def plan_entries(name: str, given: dict[str, Any]) -> list[dict[str, str]] | None:
    """Return the entries of a call that states the whole plan; None of any other call."""
    if name != "TodoWrite" or type(given.get("todos")) is not list:
        return None
    return [_entry(todo) for todo in map(mapping_of, list_of(given["todos"])) if todo]


def text_of_content(content: Any) -> str:
    """Return the text of a message's content: a string, or blocks of which some are no text."""
    if type(content) is str:
        return content
    return "\n".join(filter(None, (_text_of_block(mapping_of(block)) for block in list_of(content))))


def _entry(todo: dict[str, Any]) -> dict[str, str]:
    status = text_of(todo.get("status"))
    return {"content": text_of(todo.get("content")), "status": status if status in _PLAN_STATUSES else "pending"}


def _text_of_block(block: dict[str, Any]) -> str:
    kind = text_of(block.get("type"))
    return text_of(block.get("text")) if kind in ("text", "") else f"[{kind}]"
