"""The tool calls of an ACP agent, as in a transcript: a call once its title is known, then its result.

Agents announce a call before they know its arguments (`pending`, titled `bash`), repeat it with every update, and send
the whole output again with each line of it. Reported are the call once it has a title, new output, and its end.
"""

from __future__ import annotations

from typing import Any

from csa.model.adapter import Update
from csa_adapters.decoder import changes_of
from csa_adapters.jsonlines import Json, list_of, mapping_of, text_of

_KINDS = frozenset({"read", "edit", "delete", "move", "search", "execute", "think", "fetch"})
_STATUSES = frozenset({"pending", "in_progress", "completed", "failed"})
ENDED = frozenset({"completed", "failed"})


class Calls:
    """The calls of one turn."""

    def __init__(self) -> None:
        self._titles: dict[str, str] = {}  # of all known calls
        self._announced: dict[str, Json] = {}  # not reported yet
        self._shown: dict[str, str] = {}  # the output so far of calls that have not ended

    def title_of(self, call: str) -> str:
        """Return what a call is about, as far as known."""
        return self._titles.get(call) or call

    def knows(self, update: Json) -> bool:
        """Say whether an update is for a known call."""
        return text_of(update.get("toolCallId")) in self._titles

    def begin(self, update: Json) -> list[Update]:
        """Take a `tool_call`; agents repeat it instead of sending a `tool_call_update`."""
        if self.knows(update):
            return [] if update.get("status") == "pending" else self.go_on(update)
        call, status = text_of(update.get("toolCallId")), text_of(update.get("status"))
        self._titles[call] = text_of(update.get("title")) or call
        kind = text_of(update.get("kind"))
        told = {"id": call, "title": self._titles[call], "kind": kind if kind in _KINDS else "other"}
        if status == "pending":
            self._announced[call] = told
            return []
        begun = [Update("tool_call", {**told, "status": "in_progress"})]
        return begun + self.go_on(update) if status in ENDED else begun

    def go_on(self, update: Json) -> list[Update]:
        """Take a `tool_call_update`."""
        call = text_of(update.get("toolCallId"))
        if call not in self._titles:
            return self.begin({"status": "completed", **update})
        title, kind = text_of(update.get("title")), text_of(update.get("kind"))
        renamed = bool(title) and title != self._titles[call]
        if renamed:
            self._titles[call] = title
        begun = self.tell(call, kind)
        data: Json = {"id": call, "status": text_of(update.get("status"))}
        if data["status"] not in _STATUSES:
            data["status"] = "in_progress"
        if renamed and not begun:
            data["title"] = title
        return begun + self._output(call, data, update)

    def tell(self, call: str, kind: str = "") -> list[Update]:
        """Report an announced call."""
        told = self._announced.pop(call, None)
        if told is None:
            return []
        told["title"] = self._titles[call]
        if kind in _KINDS:
            told["kind"] = kind
        return [Update("tool_call", {**told, "status": "in_progress"})]

    def flush(self) -> list[Update]:
        """Report what is known about calls that never ended."""
        updates = [update for call in list(self._announced) for update in self.tell(call)]
        for call, content in self._shown.items():
            updates.append(Update("tool_call_update", {"id": call, "status": "in_progress", "content": content}))
        self._shown.clear()
        return updates

    def _output(self, call: str, data: Json, update: Json) -> list[Update]:
        content, added = _content_of(update), _added_of(update)
        if data["status"] in ENDED:
            before = self._shown.pop(call, "")
            data["content"] = "\n".join(filter(None, (content or ("" if added else before), added)))
            data |= _files_of(update)
            code = _exit_code(update)
            if code is not None:
                data["exit_code"] = code
            return [Update("tool_call_update", data)]
        if content:
            self._shown[call] = content
        if not added and "title" not in data:
            return []
        return [Update("tool_call_update", {**data, "content": added})]


def text_of_block(block: Any) -> str:
    """Return the text of a content block; other blocks are named."""
    found = mapping_of(block)
    kind = text_of(found.get("type"))
    if kind in ("text", ""):
        return text_of(found.get("text"))
    return text_of(mapping_of(found.get("resource")).get("text")) or f"[{kind}]"


def _files_of(update: Json) -> Json:
    """Return the files that a call names, and how it changes them."""
    diffs = [each for each in map(mapping_of, list_of(update.get("content"))) if each.get("type") == "diff"]
    changes: list[Json] = [
        {"path": text_of(each.get("path")), "old": each.get("oldText"), "new": text_of(each.get("newText"))}
        for each in diffs
        if type(each.get("oldText")) in {str, type(None)}
    ]
    named = [text_of(mapping_of(each).get("path")) for each in list_of(update.get("locations"))]
    paths = list(dict.fromkeys(filter(None, (*named, *(change["path"] for change in changes)))))
    return {**({"paths": paths} if paths else {}), **changes_of(changes)}


def _content_of(update: Json) -> str:
    """Return everything a call has shown: its text, and the files it changes."""
    parts = [_text_of_item(mapping_of(item)) for item in list_of(update.get("content"))]
    if not any(parts):
        raw = update.get("rawOutput")
        parts = [text_of(raw) or text_of(mapping_of(raw).get("output"))]
    return "\n".join(filter(None, parts))


def _added_of(update: Json) -> str:
    """Return what the agent's own terminal has printed since the last update."""
    meta = mapping_of(update.get("_meta"))
    return "".join(
        text_of(mapping_of(meta.get(key)).get("data")) for key in ("terminal_output", "terminal_output_delta")
    )


def _text_of_item(item: Json) -> str:
    if item.get("type") == "diff":
        return f"{'update' if text_of(item.get('oldText')) else 'add'} {text_of(item.get('path'))}"
    return text_of_block(item.get("content")) if item.get("type") == "content" else ""


def _exit_code(update: Json) -> int | None:
    told = mapping_of(mapping_of(update.get("_meta")).get("terminal_exit")).get("exit_code")
    if told is None:
        told = mapping_of(mapping_of(update.get("rawOutput")).get("metadata")).get("exit")
    return told if type(told) is int else None
