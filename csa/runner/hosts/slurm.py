"""Slurm as an engine. Pure: the arguments of its commands, and what their output means.

The order travels in the job's script, which the controller keeps and brings to the node: no directory has to be shared,
and nothing is left behind. What does not fit into a script is refused. The job's process is `csa supervise`.

Slurm may say of a job that it failed although its turn succeeded (a node that did not answer for a while): what it
says is used only to find the node, and for a job that has no node. It forgets a job some minutes after its end; then
its accounting, where there is one, still has it.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping

from csa.errors import ConfigError
from csa.model.config import Engine
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look

MOST_SCRIPT = 4 * 1024 * 1024 - 4096  # the default of its MaxScriptSize
# Steps have no HOME. What reaches a job begins as its script does: at home, with the environment of a login.
_LOGIN = """eval "HOME=~$(id -un)"; export HOME; cd && exec /bin/sh -lc 'exec "$@"' csa "$@\""""
# A job that an administrator has put into the queue again may have begun before, on a node that this one knows not of.
_SCRIPT = """#!/bin/sh -l
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit
cd || exit
base64 -d << 'END' | exec {csa} supervise --job
{order}
END
"""
# Its commands read these: inside of a job they would mean that job. The first ones say which cluster it is.
_OURS = ("SLURM_CONF", "SLURM_CLUSTERS")
_THEIRS = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SRUN_")
_HANDLE = re.compile(r"\d+(;[A-Za-z0-9_][A-Za-z0-9_-]*)?")
_FIELDS = (("State", 32), ("BatchHost", 256), ("exit_code", 16), ("Reason", 200))
_FORMAT = ",".join(f"{name}:{width}" for name, width in _FIELDS)
_ACCOUNTS = 'sacct --allocations --noheader --parsable2 "$@" 2> /dev/null'
_LOOK = f"""job=$1; shift
said=$(squeue --noheader --states=all --jobs="$job" --Format={_FORMAT} "$@" 2>&1)
case $?$said in
0?*) printf '%s\\n' "$said" ;;
0 | *[Ii]nvalid\\ job\\ id*) set -- --jobs="$job" --format=State,NodeList,ExitCode "$@"; {_ACCOUNTS} || : ;;
*) printf '%s\\n' "$said" >&2; exit 1 ;;
esac"""
_FIND = f"""name=$1; shift
job=$(squeue --noheader --me --states=all --name="$name" --format=%A "$@") || exit
[ "$job" ] || job=$(set -- --name="$name" --starttime=now-30days --format=JobIDRaw "$@"; {_ACCOUNTS})
printf '%s\\n' "$job${{job:+${{1+;${{1#*=}}}}}}\""""
_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_PENDING |= {"POWER_UP_NODE", "EXPEDITING"}
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
_OVER = {"COMPLETED", "COMPLETING", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
_OVER |= {"OUT_OF_MEMORY", "LAUNCH_FAILED", "RECONFIG_FAIL"}
_NOTHING = {"", "n/a", "None", "(null)", "None assigned"}


def place(engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
    """Return what submits the script that it reads. The user's options come late, so that they can say otherwise.

    A job that is begun again, or many times, or that has the environment of this host with its secrets, or another
    name, is not for users to choose.
    """
    if many := next((option for option in engine.options if option.startswith(("--array", "-a"))), ""):
        raise ConfigError(f"A turn is one job, not many: {many}.", hint=f"[engines.{engine.name}] options without it")
    chosen = (f"--nodelist={node}",) if node else ()
    shape = ("--nodes=1", "--ntasks=1", "--chdir=/", "--output=/dev/null")
    must = (f"--job-name={name}", *chosen, "--no-requeue", "--export=NIL")
    return ("sbatch", "--parsable", *shape, *engine.options, *must)


def script(engine: Engine, _name: str, order: bytes) -> bytes:
    """Return a job's script, for what its `csa supervise` hears."""
    text = base64.encodebytes(order).decode().rstrip()
    return _SCRIPT.format(csa=shlex.join(engine.csa), order=text).encode()


def handle(said: str) -> str:
    """Return the job that `place` has said, and its cluster, if it says one; empty if it makes no sense."""
    job = said.strip().rpartition("\n")[2]
    return job if _HANDLE.fullmatch(job) else ""


def _called(job: str) -> tuple[str, ...]:
    """Return what commands are told of a job: its number, and the cluster that knows it by that."""
    number, _, cluster = job.partition(";")
    return (number, f"--clusters={cluster}") if cluster else (number,)


def find(engine: Engine, name: str) -> tuple[str, ...]:
    """Return what says, as `place` does, the job that was submitted by a name."""
    where = (option for option in engine.options if option.startswith("--cluster"))
    return ("/bin/sh", "-c", _FIND, "squeue", name, *where)


def look(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what tells how a job is; it is asked for what has ended, too."""
    return ("/bin/sh", "-c", _LOOK, "squeue", *_called(job))


def read_look(code: int, said: str, _complaint: str) -> Look | None:
    """Return how a job is; None if that could not be found out."""
    if code != 0:
        return None
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("CLUSTER: ")]
    found = (_read(line) for line in lines)  # a wrapper's words, or warnings, may be among them
    return next(filter(None, found), None) if lines else Look(GONE)  # it has been forgotten


def _read(line: str) -> Look | None:
    state, host, status, reason = _accounted(line) if "|" in line else _fields(line)
    found, reason = ("" if word in _NOTHING else word for word in (host, reason))
    if state in _PENDING:
        return Look(PENDING, reason="Configuring" if state == "CONFIGURING" else reason)
    if state in _RUNNING:
        return Look(RUNNING, found)
    if state == "REVOKED":  # another cluster of the federation has it, and this one does not know where
        return Look(GONE)
    return Look(GONE, found, reason=state, exit_code=_exit_code(status)) if state in _OVER else None


def _accounted(line: str) -> list[str]:
    """Return what accounting says, as `squeue` would."""
    state, host, code, *_ = [*line.split("|"), "", ""]
    exited, _, ended_by = code.partition(":")
    status = int(exited) << 8 | int(ended_by) if exited.isdecimal() and ended_by.isdecimal() else ""
    return [state.partition(" ")[0], host, str(status), ""]  # CANCELLED by somebody


def _exit_code(status: str) -> int | None:
    """Return what a job's script has returned; None if that is not known, or a signal has ended it."""
    return int(status) >> 8 if status.isdecimal() and not int(status) & 0x7F else None


def _fields(line: str) -> list[str]:
    found, at = [], 0
    for _, width in _FIELDS:
        found.append(line[at : at + width].strip())
        at += width
    return found


def check(_engine: Engine) -> tuple[str, ...]:
    """Return what succeeds if the controller is there."""
    return ("scontrol", "ping")


def keep(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what has a job that waits not begin; to one that runs it does nothing."""
    number, *where = _called(job)
    return ("scontrol", *where, "hold", number)


def cancel(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what ends a job."""
    return ("scancel", "--quiet", *_called(job))


def reach(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what runs a command on the node of a job that runs, as part of it."""
    # Without --unbuffered it sends on only what ends with a newline, and not the end of a pack of git.
    shape = ("--nodes=1", "--ntasks=1", "--chdir=/", "--export=NIL", "--mpi=none", "--quiet", "--unbuffered")
    number, *where = _called(job)
    return ("srun", f"--jobid={number}", *where, "--overlap", *shape, "/bin/sh", "-c", _LOGIN, "csa")


def lasts(_engine: Engine) -> bool:
    """Return True: nodes do."""
    return True


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for its commands: without what a job that we are in has set."""
    return {name: value for name, value in environ.items() if name in _OURS or not name.startswith(_THEIRS)}
