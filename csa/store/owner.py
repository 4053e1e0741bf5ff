"""Who holds a session's lock: the record a supervisor writes into the lock file, and this machine's own identity."""

from __future__ import annotations

import json
import os
from datetime import datetime

from csa.procfs import ProcessId, boot_id, machine_id, pid_namespace, process_start_time
from csa.structs import Struct, asdict, fields

# What is done, if it is not a turn.
INTERFACE, COMPACTION, CHANGE, LANDING = "interface open", "compaction", "change", "landing"


class Owner(Struct, kw_only=True):
    """The content of a held lock file. `start_time` is in clock ticks since boot, as in /proc/<pid>/stat.

    With an `errand` it runs no turn, and `turn` is the session's last.
    """

    pid: int
    start_time: int
    boot_id: str
    machine_id: str
    pid_namespace: int
    host: str
    tool: str
    turn: int
    since: str  # RFC 3339
    detached: bool = False  # it does not end with the process that started it
    errand: str = ""
    parked_until: str = ""  # RFC 3339: no tool is running; the next turn begins by itself when a quota has reset
    asking: str = ""  # what the agent waits to be allowed
    asks: str = ""  # the ids of all that it asks, with blanks between them

    def to_bytes(self) -> bytes:
        """Render as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @property
    def process(self) -> ProcessId:
        """The supervisor; to be signalled only when `is_local`."""
        return ProcessId(self.pid, self.start_time)

    @property
    def is_same_boot(self) -> bool:
        """Whether it was written by this kernel, though maybe in another container."""
        return self.boot_id == boot_id()

    @property
    def is_local(self) -> bool:
        """Whether its pid is valid here: the same boot and pid namespace."""
        return self.is_same_boot and self.pid_namespace == pid_namespace()

    @property
    def work(self) -> str:
        """What it is doing, as text: `turn 3`, or its errand."""
        return self.errand or f"turn {self.turn}"

    @property
    def in_words(self) -> str:
        """Its description, as `codex, turn 3, PID 4711, since 10:02`, or what it waits for."""
        return f"{self.tool}, {self.work}, PID {self.pid}, {self.waits or f'since {self.since_clock}'}"

    @property
    def parked(self) -> str:
        """`parked until 03:39`, with the date if it is not today's; empty while a turn runs."""
        if not self.parked_until:
            return ""
        return f"parked until {_clock(self.parked_until)}"

    @property
    def waits(self) -> str:
        """What it waits for, as text: a quota, or a person; empty while it works."""
        return f"waiting for your permission: {self.asking}" if self.asks else self.parked

    @property
    def since_clock(self) -> str:
        """The local time at which the turn began: `10:02`, with the date if it is not today's."""
        return _clock(self.since)


def _clock(stamp: str) -> str:
    moment = datetime.fromisoformat(stamp).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M")


def parse_owner(content: bytes) -> Owner | None:
    """Read a lock file's content; None if it is empty, half-written, or another program's."""
    if not content:  # as most are; a long list reads thousands
        return None
    try:
        record = json.loads(content)
        owner = Owner(**{name: record[name] for name in fields(Owner) if name in record})
        datetime.fromisoformat(owner.since).astimezone()
        if owner.parked_until:
            datetime.fromisoformat(owner.parked_until).astimezone()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    kinds = {"int": int, "str": str, "bool": bool}
    is_sound = all(isinstance(getattr(owner, name), kinds[kind]) for name, kind in Owner.__annotations__.items())
    return owner if is_sound else None


def current_owner(
    *, tool: str, turn: int, since: str, detached: bool = False, errand: str = "", parked_until: str = ""
) -> Owner:
    """Describe this process as the owner of a turn or an errand."""
    return Owner(
        pid=os.getpid(),
        start_time=process_start_time(os.getpid()) or 0,
        boot_id=boot_id(),
        machine_id=machine_id(),
        pid_namespace=pid_namespace(),
        host=os.uname().nodename,
        tool=tool,
        turn=turn,
        since=since,
        detached=detached,
        errand=errand,
        parked_until=parked_until,
    )


def may_be_running(owner: Owner) -> bool:
    """Say whether the owner's process exists, or cannot be inspected from here."""
    if not owner.is_local:
        return True
    return process_start_time(owner.pid) == owner.start_time
