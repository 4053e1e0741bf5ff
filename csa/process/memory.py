"""Whether the kernel has killed processes for lack of memory: the counters of our cgroup, and of the whole machine."""

from __future__ import annotations

from csa.structs import Struct

_MOUNT = "/sys/fs/cgroup"


class Kills(Struct):
    """How many processes have been killed for that; None if not counted. Both only grow."""

    cgroup: int | None = None
    machine: int | None = None


def count_kills() -> Kills:
    """Read the counters: `oom_kill` in memory.events (cgroup v2) or memory.oom_control (v1), and in /proc/vmstat."""
    cgroups = [line.split(":", 2) for line in _lines("/proc/self/cgroup") if line.count(":") > 1]
    counts = (_counter(place) for _, controllers, path in cgroups for place in _events_of(controllers, path))
    return Kills(next((count for count in counts if count is not None), None), _counter("/proc/vmstat"))


def explain_kill(before: Kills, now: Kills) -> str:
    """Explain why a process was killed between two readings, and not by csa."""
    words = "perhaps out of memory"
    if before.cgroup is not None and now.cgroup is not None and now.cgroup > before.cgroup:
        return f"out of memory: the kernel killed {_processes(now.cgroup - before.cgroup)} of this cgroup meanwhile"
    if before.machine is not None and now.machine is not None and now.machine > before.machine:
        count = _processes(now.machine - before.machine)
        return f"{words}: the kernel killed {count} on this machine for lack of memory meanwhile"
    return words


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


def _events_of(controllers: str, path: str) -> list[str]:
    """Return the files that may have a cgroup's counter: a container sees its own cgroup as the top."""
    if not controllers:
        return [f"{_MOUNT}{place}/memory.events" for place in (path.rstrip("/"), "")]
    if "memory" not in controllers.split(","):
        return []
    return [f"{_MOUNT}/memory{place}/memory.oom_control" for place in (path.rstrip("/"), "")]


def _counter(path: str) -> int | None:
    found = [line.split() for line in _lines(path) if line.startswith("oom_kill ")]
    return int(found[0][1]) if found and found[0][1].isdigit() else None


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
