"""What `csa doctor` says about the machine: the kernel, sandboxes, and what logind does to background runs.

Each judgement is a function of facts, so that it can be tested for machines that are not at hand.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from csa.model.check import Check
from csa.process import kernelprobe
from csa.runner.environment import outer_sandbox
from csa.store.atomic import read_regular

EXIT_TOOL = 7
_PROBE_LIMIT_S = 30.0  # it takes milliseconds on an idle machine
_NEEDED = {
    "subreaper": "PR_SET_CHILD_SUBREAPER",
    "children": "/proc/PID/task/TID/children",
}
_NAMESPACE_SWITCHES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
_LOGIND_PLACES = ("usr/lib", "run", "etc")  # weakest first


def check_system() -> list[Check]:
    """Check the machine."""
    found = probe_kernel()
    logout = check_logind(Path("/"), _user())
    if found is None:
        detail = f"could not be tried within {_PROBE_LIMIT_S:g} s: the machine is very busy"
        return [Check("system", "kernel", "warn", detail, "csa doctor again, when it is less busy"), logout]
    return [judge_kernel(found), judge_sandbox(outer_sandbox(), found), logout]


def check_temporary(environ: Mapping[str, str]) -> Check:
    """Check the directory for temporary files, which every tool needs."""
    place = environ.get("TMPDIR") or "/tmp"  # noqa: S108  # as tools look for it
    if os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
        return Check("system", "temporary", "ok", f"temporary files can be written to {place}")
    problem = "is not writable" if os.path.isdir(place) else "is not a directory"
    step = "set TMPDIR to a writable directory"
    return Check("system", "temporary", "warn", f"{place}, for temporary files, {problem}", step)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's made-up user
        return str(os.getuid())


def probe_kernel() -> Mapping[str, str | None] | None:
    """Use the kernel's features in a process of their own; return what went wrong with each. None: it took too long."""
    command = [sys.executable, "-I", "-S", str(Path(kernelprobe.__file__))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_LIMIT_S, check=True)
        found: dict[str, str | None] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return dict.fromkeys(kernelprobe.FEATURES, type(error).__name__)
    return found


def judge_kernel(found: Mapping[str, str | None]) -> Check:
    """Say whether runs can be contained: without these features, csa could not find and end what an agent starts."""
    missing = [f"{word} ({found[name]})" for name, word in _NEEDED.items() if found.get(name)]
    if missing:
        step = "run csa on a Linux kernel that has it; some container runtimes (gVisor) do not"
        return Check("system", "kernel", "fail", f"lacks {', '.join(missing)}", step, EXIT_TOOL)
    if found.get("pidfd"):
        detail = f"has no pidfd_open ({found['pidfd']}): processes are signalled by pid"
        return Check("system", "kernel", "warn", detail, "allow pidfd_open in the container's seccomp profile")
    return Check("system", "kernel", "ok", f"Linux {os.uname().release}: processes can be contained")


def judge_sandbox(outer: str | None, found: Mapping[str, str | None], root: Path = Path("/")) -> Check:
    """Say whether csa is in a tool's sandbox, and whether codex could build its own."""
    if outer:
        return Check(
            "system",
            "sandbox",
            "warn",
            f"csa runs inside {outer}'s sandbox: agents started here are confined by it, and end with it",
            "start runs that must outlive it from your own shell",
        )
    problem = found.get("user_namespace")
    if problem is None:
        return Check("system", "sandbox", "ok", "user namespaces work, so codex can build its sandbox")
    step = next((f"{fix}   (as root)" for path, bad, fix in _NAMESPACE_SWITCHES if _reads(root, path) == bad), None)
    return Check(
        "system",
        "sandbox",
        "warn",
        f"user namespaces do not work ({problem}): codex cannot build its sandbox, and its commands fail",
        (step or "in a container, allow it to create user namespaces") + "; or run codex with --permission full",
    )


def _reads(root: Path, path: str) -> str:
    try:
        return (root / path.lstrip("/")).read_text().strip()
    except (OSError, ValueError):
        return ""


def check_logind(root: Path, user: str) -> Check:
    """Say whether logind would kill background runs at logout. `root` is where the system's files are."""
    if not os.path.exists(root / "run/systemd/seats"):
        return Check("system", "logout", "ok", "no logind: nothing ends a detached run at logout")
    settings = _logind_settings(root)
    if settings.get("KillUserProcesses", "no").lower() not in {"yes", "true", "on", "1"}:
        return Check("system", "logout", "ok", "detached runs survive a logout")
    if user in settings.get("KillExcludeUsers", "root").split():
        return Check("system", "logout", "ok", f"logind kills processes at logout, but not those of {user}")
    if os.path.exists(root / "var/lib/systemd/linger" / user):
        return Check("system", "logout", "ok", f"{user} lingers, so detached runs survive a logout")
    return Check(
        "system",
        "logout",
        "warn",
        "logind has KillUserProcesses=yes: runs under nohup or --detach die when you log out",
        f"loginctl enable-linger {user}",
    )


def _logind_settings(root: Path) -> dict[str, str]:
    """Read logind.conf and its drop-ins: those come after it, by name, whichever directory they are in."""
    files = [root / place / "systemd/logind.conf" for place in _LOGIND_PLACES]
    dropins: dict[str, Path] = {}
    for place in _LOGIND_PLACES:
        dropins.update({path.name: path for path in (root / place / "systemd/logind.conf.d").glob("*.conf")})
    settings: dict[str, str] = {}
    for path in [*files, *(dropins[name] for name in sorted(dropins))]:
        try:
            lines = read_regular(path).decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, found, value = line.partition("=")
            if found and not key.lstrip().startswith(("#", ";")):
                settings[key.strip()] = value.strip()
    return settings
