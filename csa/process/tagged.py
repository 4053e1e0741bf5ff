"""The processes that carry a session's variables in their environment: what its tools have started, and theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from csa.procfs import ProcessId, command_of, identify, parent_of
from csa.structs import Struct

KEEP_VARIABLE = "CSA_KEEP_BACKGROUND"  # set for a turn whose leftovers were to live on
_DIRECTORY = b"CSA_SESSION_DIR="
_KEPT = f"{KEEP_VARIABLE}=".encode()


class TaggedProcess(Struct):
    """A process, and the session directory that its environment names."""

    process: ProcessId
    session_dir: Path
    command: str
    is_kept: bool  # it was started in a turn with --keep-background

    @property
    def pid(self) -> int:
        return self.process.pid


def tagged_processes() -> Iterator[TaggedProcess]:
    """Yield the processes with a CSA_SESSION_DIR, as far as they may be looked at; not this one, and no zombies."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and (found := look_at(int(name))):
            yield found


def look_at(pid: int) -> TaggedProcess | None:
    """Return one process; None when it has ended, is another user's, or belongs to no session."""
    process = identify(pid)
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    directory = next((entry.removeprefix(_DIRECTORY) for entry in variables if entry.startswith(_DIRECTORY)), None)
    if directory is None or process is None:
        return None
    kept = any(entry.startswith(_KEPT) for entry in variables)
    return TaggedProcess(process, Path(os.fsdecode(directory)), command_of(pid), kept)


def own_ancestors() -> set[int]:
    """Return the pids of this process and of those above it."""
    found, pid = set[int](), os.getpid()
    while pid and pid not in found:
        found.add(pid)
        pid = parent_of(pid) or 0
    return found
