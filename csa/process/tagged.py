"""The processes that carry a session's variables in their environment: what its tools have started, and theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = b"CSA_SESSION_DIR="


@dataclass(frozen=True, slots=True)
class TaggedProcess:
    """A process, and the session directory that its environment names."""

    pid: int
    session_dir: Path
    command: str


def tagged_processes() -> Iterator[TaggedProcess]:
    """Yield the processes with a CSA_SESSION_DIR, as far as they may be looked at; not this one, and no zombies."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and (found := look_at(int(name))):
            yield found


def look_at(pid: int) -> TaggedProcess | None:
    """Return one process; None when it has ended, is another user's, or belongs to no session."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return None
    directory = next((entry.removeprefix(_VARIABLE) for entry in variables if entry.startswith(_VARIABLE)), None)
    if directory is None:
        return None
    return TaggedProcess(pid, Path(os.fsdecode(directory)), words.decode(errors="replace").strip())
