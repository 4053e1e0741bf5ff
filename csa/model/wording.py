"""An event as one line of text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from csa.model.clock import local_clock
from csa.model.conversation import count_told
from csa.model.events import Event
from csa.model.state import parse_time
from csa.model.text import count_of, one_line, some_names
from csa.model.usage import CHARS_PER_TOKEN, Usage, number_of

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    _Data = Mapping[str, Any]


def describe(event: Event) -> str | None:
    """Return a description; None for events that people need not see."""
    render = _RENDER.get(event.type)
    line = render(event.data) if render else None
    return None if line is None else one_line(line)


def _text(prefix: str) -> Callable[[_Data], str | None]:
    def render(data: _Data) -> str | None:
        text = str(data.get("text", ""))
        return prefix + text if text and not text.isspace() else None

    return render


def _tool_call(data: _Data) -> str:
    title = str(data.get("title") or data.get("kind") or "tool")
    return f"$ {title}" if data.get("kind") == "execute" else f"{data.get('kind', 'other')}: {title}"


def _tool_call_update(data: _Data) -> str | None:
    if data.get("status") != "failed":
        return None
    return "failed: " + str(data.get("content") or "no output")


def _retry(data: _Data) -> str:
    count = f" {data['attempt']}/{data['max']}" if data.get("attempt") and data.get("max") else ""
    seconds = number_of(data.get("retry_after_s"))
    after = f", in {round(seconds, 1):g} s" if seconds else ""
    whose = " by csa" if data.get("by") == "csa" else ""
    return f"retry{whose}{count} ({data.get('kind', 'unknown')}{after}): {data.get('message', '')}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _problem(word: str) -> Callable[[_Data], str]:
    return lambda data: f"{word}: {data.get('message', '')}"


def _plan(data: _Data) -> str | None:
    entries = [entry for entry in _list(data.get("entries")) if isinstance(entry, Mapping)]
    done = sum(entry.get("status") == "completed" for entry in entries)
    current = [str(entry.get("content", "")) for entry in entries if entry.get("status") == "in_progress"]
    if not entries:
        return None
    return f"plan {done}/{len(entries)}" + (f": {', '.join(current)}" if current else "")


_DECIDED = {"user": " by you", "timeout": ", since nobody answered", "end": " at the end of its turn"}


def _permission(data: _Data) -> str:
    status = str(data.get("status", "asked"))
    if data.get("ask"):
        status = f"asked ({data['ask']})" if status == "pending" else f"{status}{_DECIDED.get(str(data.get('by')), '')}"
    return f"permission {status}: {data.get('title') or data.get('message') or ''}"


def _started(data: _Data) -> str:
    told = data.get("replayed_from")
    replay = f" (replay of {told.get('session')})" if isinstance(told, Mapping) else ""
    return f"started {data.get('tool')}{replay}: {data.get('prompt', '')}"


def _finished(data: _Data) -> str:
    error = data.get("error")
    reason = error.get("message") if isinstance(error, Mapping) else None
    status, words = str(data.get("status")), str(reason or data.get("summary") or "").strip()
    return status if words in {"", status} else f"{status}: {words}"


def _usage(data: _Data) -> str:
    used = Usage.from_dict(data)
    return f"usage: {tokens(used.input_tokens)} in, {tokens(used.output_tokens)} out"


def _handoff(data: Mapping[str, Any]) -> str:
    count, size = count_told(data), number_of(data.get("characters"))
    tool = f"{data.get('to')} ({data['vendor']})" if data.get("vendor") else data.get("to")
    amount = f", about {tokens(int(size) // CHARS_PER_TOKEN)} tokens" if size else ""
    given = f"a summary of {count} earlier turn{'s' * (count != 1)}{amount}" if count else "nothing from earlier turns"
    if data.get("reason") == "context_window":
        return f"{tool} begins a new conversation with {given}: {data.get('message')}"
    return f"gave {tool} {given}"


def _compaction(data: _Data) -> str | None:
    status, error = data.get("status"), data.get("error")
    before, after = number_of(data.get("tokens_before")), number_of(data.get("tokens_after"))
    if status == "started":
        return f"compacting the conversation of {data.get('tool')}"
    if status not in (None, "succeeded"):  # it may have any type
        reason = error.get("message", "") if isinstance(error, Mapping) else ""
        return f"compaction {status}: {reason}"
    sizes = ""
    if before is not None and after is not None:
        sizes = f" from {tokens(int(before))} to {tokens(int(after))} tokens"
    return f"the conversation was compacted{sizes}"


def _checkpoint(data: _Data) -> str:
    label = str(data.get("label") or "").strip()
    return f"checkpoint {str(data.get('commit'))[:12]}" + (f": {label}" if label else "")


def _parked(data: _Data) -> str:
    return f"{data.get('kind')}: parked until {local_clock(parse_time(data.get('until')))}"


def _updated(data: _Data) -> str | None:
    """Render the change of a record that belongs to the conversation: what it began with, what became of its work."""
    if data.get("what") == "landed":
        return (
            f"landed {count_of(len(_list(data.get('commits'))), 'commit')} on {data.get('branch') or data.get('into')}"
        )
    if data.get("what") == "refused" and data.get("kind"):
        return f"not landed: {data['kind']} {some_names([str(each) for each in _list(data.get('files'))])}".rstrip()
    sources = [each for each in _list(data.get("sources")) if isinstance(each, Mapping)]
    if data.get("what") != "merged" or not sources:
        return None
    return f"merged from {', '.join(str(each.get('from')) for each in sources)}"


_COPIES = {"native": "native copy", "handoff": "with a summary"}
_RENDER: Mapping[str, Callable[[_Data], str | None]] = {
    "run_started": _started,
    "user_message": _text("user: "),
    "agent_message": _text(""),
    "agent_thought": _text("thinking: "),
    "tool_call": _tool_call,
    "tool_call_update": _tool_call_update,
    "plan": _plan,
    "permission": _permission,
    "usage": _usage,
    "retry": _retry,
    "warning": _problem("warning"),
    "error": _problem("error"),
    "handoff": _handoff,
    "fork": lambda data: f"forked from {data.get('from')} ({_COPIES.get(str(data.get('how')), data.get('how'))})",
    "session_updated": _updated,
    "compaction": _compaction,
    "checkpoint": _checkpoint,
    "run_finished": _finished,
    "parked": _parked,
}


def tokens(count: int) -> str:
    """Render a number of tokens in at most five characters: 950, 5.2k, 310k, 1.2M."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"  # noqa: PLR2004  # three digits
    return str(count)


def size(count_bytes: int) -> str:
    """Render bytes in at most five characters: 950B, 5.2M, 310M, 1.2G."""
    for unit, length in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count_bytes >= length:
            value = count_bytes / length
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"  # noqa: PLR2004  # three digits
    return f"{count_bytes}B"


def elapsed(seconds: float) -> str:
    """Render a duration in at most seven characters: 4s, 3m12s, 2h05m, 5d04h."""
    whole = int(seconds)
    if whole < 60:  # noqa: PLR2004  # a minute
        return f"{whole}s"
    if whole < 3600:  # noqa: PLR2004  # an hour
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def tokens_of(usage: Usage | None) -> str:
    """Render the tokens of a sum in at most six characters: `5.2k+` means at least that many, `-` unknown."""
    if usage is None or (usage.turns_unmeasured and not usage.tokens):
        return "-"
    return tokens(usage.tokens) + ("+" if usage.turns_unmeasured else "")


def cost_of(usage: Usage | None) -> str:
    """Render the cost of a sum in at most seven characters: `$1.30+` means at least that much, `-` unknown."""
    if usage is None or usage.cost_usd is None:
        return "-"
    return money(usage.cost_usd) + ("+" if usage.turns_unpriced else "")


def usage_in_words(usage: Usage) -> list[str]:
    """Return a sum as text: `5.2k tokens` and `$1.30+`."""
    if usage == Usage():
        return []
    amounts = ((tokens_of(usage), "{} tokens", "tokens unknown"), (cost_of(usage), "{}", "cost unknown"))
    return [unknown if shown == "-" else known.format(shown) for shown, known, unknown in amounts]


def money(cost_usd: float) -> str:
    """Render US dollars, mostly in at most six characters: $0.042, $1.30, $1234."""
    if not cost_usd:
        return "$0"
    digits = 3 if cost_usd < 0.1 else 2 if cost_usd < 100 else 0  # noqa: PLR2004  # as many as fit
    return f"${cost_usd:.{digits}f}"
