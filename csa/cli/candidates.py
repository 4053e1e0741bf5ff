"""Completion candidates for a word: `csa __complete KIND WORD [the words before it ...]`, called by shell scripts.

Prints one candidate per line, with a tab and a description if there is one. It runs at every key press, so it
reads directory names, and at most the newest states or the configuration. Errors are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from csa.cli.output import cut, one_line
from csa.errors import CsaError
from csa.ids import ID_LENGTH, unique_prefix_length

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.client import Csa

READ_AT_MOST = 50
_MOST_BYTES = 1 << 18  # of ssh's configuration
_LONG_PREFIX = 10  # characters that are looked for in all projects, as `csa.runner.session` does
_DESCRIPTION_WIDTH = 60
_RELATIVES = (
    ("@current", "the current one"),
    ("@last", "the one used last"),
    ("@self", "the calling one"),
    ("@parent", "its parent"),
    ("@root", ""),
)


def print_candidates(words: Sequence[str]) -> int:
    """Print the candidates; always succeeds."""
    kind, typed, *before = [*words, "", ""][: max(2, len(words))]
    for candidate, description in candidates(kind, typed, before):
        print(f"{candidate}\t{description}" if description else candidate)
    return 0


def candidates(kind: str, typed: str, before: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the candidates of a kind, with a description that may be empty; none when something fails."""
    try:
        found = list(_KINDS[kind](typed, before)) if kind in _KINDS else []
    except (CsaError, OSError):
        return []
    return [(candidate, cut(one_line(description), _DESCRIPTION_WIDTH)) for candidate, description in found]


def _session_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names for a word that begins with a letter, ids for a digit, and for an empty word the better of both.

    A name that stands on the line already is not offered again.
    """
    if typed.startswith("@"):
        yield from ((name, meaning) for name, meaning in _RELATIVES if name.startswith(typed))
        return
    client = _client(before)
    ids = client.store.retired_ids() if ("session", "restore") in pairwise(before) else client.store.ids()
    by_id = typed[:1].isdigit()
    matching = [session_id for session_id in ids if session_id.startswith(typed.upper())] if by_id else ids
    for session_id in reversed(matching[-READ_AT_MOST:]):
        state = client.store.record(session_id).state
        description = state.description if state else "damaged"
        name = state.name if state else None
        if name and not by_id and name.startswith(typed) and name not in before:
            yield name, description
        elif by_id or not (typed or name):
            yield _id_candidate(session_id, typed, ids), description
    if by_id and not matching and len(typed) >= _LONG_PREFIX:
        yield from _foreign_candidates(client, typed)


def _foreign_candidates(client: Csa, typed: str) -> Iterator[tuple[str, str]]:
    """Yield the matching ids of other projects, which every command accepts too."""
    from csa.store.stores import find_stores  # noqa: PLC0415  # most typed ids are here

    for store in find_stores(client.store.root):
        found = store.ids(typed.upper())[-READ_AT_MOST:]
        yield from ((typed + session_id[len(typed) :], f"in {store.project}") for session_id in found)


def _id_candidate(session_id: str, typed: str, ids: Sequence[str]) -> str:
    """Return the unique prefix, or the whole id, in the case of the typed word: shells compare case."""
    length = unique_prefix_length(session_id, ids)
    return typed + session_id[len(typed) : length if length > len(typed) else ID_LENGTH]


def _tool_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the tools, and `auto`."""
    from csa.model.configkeys import AUTO  # noqa: PLC0415  # sessions need none of it

    yield from ((name, "") for name in (*_known_tools(before), AUTO) if name.startswith(typed))


def _tool_list_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from _list_candidates(typed, _known_tools(before))


def _status_candidates(typed: str, _before: Sequence[str]) -> Iterator[tuple[str, str]]:
    from csa.runner.sessions.listing import PHASES, STATUSES  # noqa: PLC0415  # as above

    yield from _list_candidates(typed, (*STATUSES, *PHASES))


def _template_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    from csa.runner.templates import list_templates  # noqa: PLC0415  # as above

    for each in list_templates(_client(before).context):
        if each.name.startswith(typed) and not each.is_hidden:
            yield each.name, each.template.values.get("description", "") if each.template else "damaged"


def _host_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the hosts of the configuration, those that have a mirror, and those that ssh has a name for."""
    from csa.store.mirrors import is_host_name  # noqa: PLC0415  # as above

    names = [*_client(before).context.config.engines, *(name for name, _ in _mirror_candidates("", before)), *_of_ssh()]
    yield from ((name, "") for name in dict.fromkeys(names) if name.startswith(typed) and is_host_name(name))


def _mirror_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    from csa.store.mirrors import find_mirrors  # noqa: PLC0415  # as above

    for mirror in find_mirrors(_client(before).store.root_pathname, lambda _: None):
        if mirror.host.startswith(typed):
            yield mirror.host, ""


def _placement_candidates(typed: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the sessions that are placed on other hosts, and not settled."""
    from csa.store.placements import list_placements  # noqa: PLC0415  # as above

    for each in list_placements(_client(before).store.root_pathname):
        if each.session_id.startswith(typed.upper()):
            yield typed + each.session_id[len(typed) :], f"on {each.host}"


def _of_ssh() -> Iterator[str]:
    """Yield the names in ssh's own configuration, without patterns."""
    try:
        with open(os.path.expanduser("~/.ssh/config"), errors="replace") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        keyword, *names = line.replace("=", " ", 1).split() or [""]
        if keyword.lower() == "host":
            yield from (name for name in names if not {*"*?!"} & {*name})


def _list_candidates(typed: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the typed text with each name that can follow its last comma."""
    before, comma, begun = typed.rpartition(",")
    given = before.split(",")
    yield from ((f"{before}{comma}{name}", "") for name in names if name.startswith(begun) and name not in given)


def _known_tools(before: Sequence[str]) -> Iterable[str]:
    """Return the tools with adapters, and the agents in the configuration."""
    from csa.runner.toolbox import adapter_names  # noqa: PLC0415  # as above

    try:
        config = _client(before).context.config
    except (CsaError, OSError):  # installed tools are known without it
        config = None
    return adapter_names(config)


def _client(before: Sequence[str]) -> Csa:
    """Open the project that the command would act in."""
    from csa.runner.client import Csa  # noqa: PLC0415  # a word that begins with @ needs none of it

    directory = "."
    for word, following in pairwise([*before, ""]):
        if word == "--cd" and following:
            directory = following
        elif word.startswith("--cd="):
            directory = word.removeprefix("--cd=")
    return Csa.from_environment(os.path.expanduser(directory))  # shells complete words before they expand them


_KINDS = {
    "sessions": _session_candidates,
    "tools": _tool_candidates,
    "tool_lists": _tool_list_candidates,
    "statuses": _status_candidates,
    "templates": _template_candidates,
    "hosts": _host_candidates,
    "mirrors": _mirror_candidates,
    "placements": _placement_candidates,
}
