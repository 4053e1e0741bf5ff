"""Slurm as an engine. Pure: the arguments of its commands, and what their output means.

The order travels in the job's script, which the controller keeps and brings to the node: no directory has to be shared,
and nothing is left behind. What does not fit into a script is refused. The job's process is `csa supervise`.

Slurm may say of a job that it failed although its turn succeeded (a node that did not answer for a while): what it
says is used only to find the node, and for a job that has no node.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping

from csa.model.config import Engine
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look

MOST_SCRIPT = 4 * 1024 * 1024 - 4096  # the default of its MaxScriptSize
# Steps have no HOME. What reaches a job begins as its script does: at home, with the environment of a login.
_LOGIN = """eval "HOME=~$(id -un)"; export HOME; cd && exec /bin/sh -lc 'exec "$@"' csa "$@\""""
_SCRIPT = """#!/bin/sh -l
cd || exit
base64 -d << 'END' | exec {csa} supervise --job
{order}
END
"""
# Its commands read these: inside of a job they would mean that job. The first ones say which cluster it is.
_OURS = ("SLURM_CONF", "SLURM_CLUSTERS")
_THEIRS = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SRUN_")
_LOOK = (("State", 32), ("BatchHost", 256), ("exit_code", 16), ("Reason", 200))
_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
_NOTHING = {"", "n/a", "None", "(null)"}


def place(engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
    """Return what submits the script that it reads. The user's options come last, so that they can say otherwise.

    A job that is begun again, or that has the environment of this host with its secrets, is not for users to choose.
    """
    chosen = (f"--nodelist={node}",) if node else ()
    shape = ("--nodes=1", "--ntasks=1", f"--job-name={name}", "--chdir=/", "--output=/dev/null")
    return ("sbatch", "--parsable", *shape, *engine.options, *chosen, "--no-requeue", "--export=NIL")


def script(engine: Engine, _name: str, order: bytes) -> bytes:
    """Return a job's script, for what its `csa supervise` hears."""
    text = base64.encodebytes(order).decode().rstrip()
    return _SCRIPT.format(csa=shlex.join(engine.csa), order=text).encode()


def handle(said: str) -> str:
    """Return the job that `place` has said; empty if it makes no sense."""
    job = said.strip().rpartition("\n")[2].partition(";")[0]  # a cluster's name may follow
    return job if job.isdecimal() else ""


def look(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what tells how a job is; it is asked for what has ended, too."""
    fields = ",".join(f"{name}:{width}" for name, width in _LOOK)
    return ("squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={fields}")


def read_look(code: int, said: str, complaint: str) -> Look | None:
    """Return how a job is; None if that could not be found out."""
    if code != 0:
        return Look(GONE) if "invalid job id" in complaint.lower() else None
    line = said.strip("\n").partition("\n")[0]
    if not line.strip():
        return Look(GONE)  # it has been forgotten
    state, host, status, reason = _fields(line)
    found, reason = ("" if word in _NOTHING else word for word in (host, reason))
    if state in _PENDING:
        return Look(PENDING, reason="Configuring" if state == "CONFIGURING" else reason)
    if state in _RUNNING:
        return Look(RUNNING, found)
    return Look(GONE, found, reason=state, exit_code=_exit_code(status))


def _exit_code(status: str) -> int | None:
    """Return what a job's script has returned; None if that is not known, or a signal has ended it."""
    return int(status) >> 8 if status.isdecimal() and not int(status) & 0x7F else None


def _fields(line: str) -> list[str]:
    found, at = [], 0
    for _, width in _LOOK:
        found.append(line[at : at + width].strip())
        at += width
    return found


def check(_engine: Engine) -> tuple[str, ...]:
    """Return what succeeds if the controller is there."""
    return ("scontrol", "ping")


def keep(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what has a job that waits not begin; to one that runs it does nothing."""
    return ("scontrol", "hold", job)


def cancel(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what ends a job."""
    return ("scancel", "--quiet", job)


def cancel_named(_engine: Engine, name: str) -> tuple[str, ...]:
    """Return what ends the jobs that are called so."""
    return ("scancel", "--quiet", f"--name={name}")


def reach(_engine: Engine, job: str) -> tuple[str, ...]:
    """Return what runs a command on the node of a job that runs, as part of it."""
    # Without --unbuffered it sends on only what ends with a newline, and not the end of a pack of git.
    shape = ("--nodes=1", "--ntasks=1", "--chdir=/", "--export=NIL", "--mpi=none", "--quiet", "--unbuffered")
    return ("srun", f"--jobid={job}", "--overlap", *shape, "/bin/sh", "-c", _LOGIN, "csa")


def lasts(_engine: Engine) -> bool:
    """Return True: nodes do."""
    return True


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for its commands: without what a job that we are in has set."""
    return {name: value for name, value in environ.items() if name in _OURS or not name.startswith(_THEIRS)}
