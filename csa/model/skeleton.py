"""What stays readable of a transcript that is encrypted: when turns began, how they ended, and what they used. Pure.

Numbers stay, and words that say what kind of thing happened; whatever a person, a model or a command may have written
does not. So lists, statuses, sums and budgets need no key: they read the skeleton as they read any transcript.
"""

from __future__ import annotations

from collections.abc import Mapping

from csa.ids import is_session_id
from csa.structs import replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from csa.model.events import Event

HIDDEN = "(encrypted)"  # stands for a text in a record
SEALED = "sealed"  # in the data of each event
_TURNS = frozenset({"run_started", "run_finished", "usage", "compaction"})
_KEPT = _TURNS | {"session_updated", "session_bound", "handoff", "fork", "parked", "checkpoint"}
_MESSAGES = frozenset({"agent_message", "user_message"})  # are counted
READ = _KEPT | _MESSAGES  # of other kinds the data does not matter
_WORDS = frozenset(
    {
        *("tool", "model", "effort", "permission", "cwd", "caller", "resumed", "queued", "template", "head", "commit"),
        *("status", "kind", "retry_at", "started_at", "finished_at", "error_kind", "provider_session_id", "trigger"),
        *("what", "how", "until", "commits", "onto", "turn_id"),
    }
)


def skeleton(events: Iterable[Event], *, up_to: int) -> Iterator[Event]:
    """Yield what is left of the events with numbers up to `up_to`, among them the last one; later ones as they are."""
    was_chunk = False
    for event in events:
        if event.seq > up_to:
            yield event
            continue
        is_chunk = event.type in _MESSAGES and (event.data.get("chunk") is True)
        if event.type in _KEPT or event.seq == up_to or (event.type in _MESSAGES and not (is_chunk and was_chunk)):
            yield replace(event, data={**_bare(event.type, event.data), SEALED: True})
        was_chunk = is_chunk


def is_bare(event: Event) -> bool:
    """Say whether an event is what a skeleton has left of it."""
    return event.data.get(SEALED) is True


def _bare(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in _KEPT:
        return {}
    return {**_mapping(data), **({"argv": []} if "argv" in data else {})}  # by which csa's own compactions are known


def _mapping(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: kept for key, value in data.items() if (kept := _value(key, value)) is not None}


def _value(key: str, value: Any) -> Any:
    """Return what is kept of a value; None for nothing."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if key in _WORDS or is_session_id(value) else None
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list):
        return [kept for each in value if (kept := _value(key, each)) is not None]
    return None
