"""How opencode's tools read in a transcript: their kinds, and titles that say what a call is about."""

from __future__ import annotations

from typing import Any

from csa_adapters.jsonlines import list_of, mapping_of, text_of

# name -> kind, and the input that tells one call from another
_TOOLS: dict[str, tuple[str, str]] = {
    "bash": ("execute", "command"),
    "read": ("read", "filePath"),
    "list": ("search", "path"),
    "glob": ("search", "pattern"),
    "grep": ("search", "pattern"),
    "codesearch": ("search", "query"),
    "websearch": ("search", "query"),
    "edit": ("edit", "filePath"),
    "multiedit": ("edit", "filePath"),
    "write": ("edit", "filePath"),
    "apply_patch": ("edit", ""),
    "webfetch": ("fetch", "url"),
    "task": ("think", "description"),
    "skill": ("other", "name"),
    "invalid": ("other", "tool"),  # a call of a tool that is not offered
}
_UNKNOWN = ("other", "")
_STATUSES = frozenset({"pending", "in_progress", "completed"})


def describe_call(name: str, given: dict[str, Any]) -> tuple[str, str]:
    """Return a call's kind and title: the command of a shell call, else the tool's name and its subject."""
    kind, key = _TOOLS.get(name, _UNKNOWN)
    subject = text_of(given.get(key))
    if name == "bash" and subject:
        return kind, subject
    return kind, f"{name} {subject}".strip()


def plan_entries(name: str, given: dict[str, Any]) -> list[dict[str, str]] | None:
    """Return the entries of a call that states the whole plan; None of any other call."""
    if name != "todowrite" or type(given.get("todos")) is not list:
        return None
    return [_entry(todo) for todo in map(mapping_of, list_of(given["todos"])) if todo]


def _entry(todo: dict[str, Any]) -> dict[str, str]:
    status = text_of(todo.get("status"))
    return {"content": text_of(todo.get("content")), "status": status if status in _STATUSES else "pending"}
