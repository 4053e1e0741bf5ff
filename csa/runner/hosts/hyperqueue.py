"""HyperQueue as an engine, through `hq`. Pure: the arguments of its commands, and what their output means.

The order travels as the job's stdin, in the server's memory. A job is one task. HyperQueue begins a task again whose
worker is lost, unless it is told not to; and a server that was restarted may begin all that had not ended.

It runs no command beside a task, so that its hosts are reached as any others are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from csa.model.config import Engine
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look

MOST_SCRIPT = 16 * 1024 * 1024
_LOGIN = """cd && exec /bin/sh -lc 'exec "$@"' csa "$@\""""
# What has failed is said on stderr only where the output is no JSON.
_LOOK = """job=$1; shift; hq "$@" --output-mode=quiet server info > /dev/null || exit
hq "$@" --output-mode=json job info "$job" && exec hq "$@" --output-mode=json worker list --all"""
_FIND = """name=$1; shift; jobs=$(hq "$@" job list --all) || exit
printf '%s\\n' "$jobs" | while IFS="|" read -r _ job its _; do
    case $its in " $name "*) echo ${job# } ;; esac
done"""
_WAITS = "no worker is free"
_EXITED = "exit code "


def place(engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
    """Return what submits the order that it reads. An option that is given twice is refused by `hq`."""
    server, mine = _split(engine)
    chosen = (f"--resource=node/{node}=1",) if node else ()
    shape = (f"--name={name}", "--cwd=/", "--stdout=none", "--stderr=none", "--crash-limit=never-restart")
    submit = ("hq", *server, "--output-mode=quiet", "submit", "--stdin", "--directives=off", *shape, *mine, *chosen)
    return (*submit, "--", "/bin/sh", "-c", _LOGIN, "csa", *engine.csa, "supervise", "--job")


def script(_engine: Engine, _name: str, order: bytes) -> bytes:
    """Return the order as it is."""
    return order


def handle(said: str) -> str:
    """Return the job that `place` has said; empty if it makes no sense."""
    job = said.strip().rpartition("\n")[2]  # after its words about stdin
    return job if job.isdecimal() else ""


def look(engine: Engine, job: str) -> tuple[str, ...]:
    """Return what tells how a job is, and then which host each worker is on."""
    return ("/bin/sh", "-c", _LOOK, "hq", job, *_split(engine)[0])


def read_look(code: int, said: str, _complaint: str) -> Look | None:
    """Return how a job is; None if that could not be found out."""
    found = [*_objects(said)]
    if code != 0 or len(found) != 2 or not all(isinstance(each, list) for each in found):  # noqa: PLR2004
        return None
    jobs, workers = found
    if not jobs:
        return Look(GONE)  # it has been forgotten
    task = jobs[0]["tasks"][0]
    hosts = {each["id"]: each["configuration"]["hostname"] for each in workers}
    host, state = hosts.get(task.get("worker"), ""), task["state"]
    if state == "waiting":
        return Look(PENDING, reason=_WAITS)
    if state == "running":
        return Look(RUNNING, host) if host else None
    return Look(GONE, host, reason=task.get("error") or state, exit_code=_exit_code(task))


def _exit_code(task: Mapping[str, Any]) -> int | None:
    word = str(task.get("error") or "").partition(_EXITED)[2].split(" ")[0].rstrip(".")
    return int(word) if word.isdecimal() else None


def check(engine: Engine) -> tuple[str, ...]:
    """Return what succeeds if the server is there."""
    return ("hq", *_split(engine)[0], "server", "info")


def keep(_engine: Engine, _job: str) -> tuple[str, ...]:
    """Return nothing: it has no way to hold a job back."""
    return ()


def cancel(engine: Engine, job: str) -> tuple[str, ...]:
    """Return what ends a job."""
    return ("hq", *_split(engine)[0], "job", "cancel", job)


def find(engine: Engine, name: str) -> tuple[str, ...]:
    """Return what says, as `place` does, the job that was submitted by a name."""
    return ("/bin/sh", "-c", _FIND, "hq", name, *_split(engine)[0])


def reach(_engine: Engine, _job: str) -> tuple[str, ...]:
    """Return nothing: it runs no command beside a task."""
    return ()


def lasts(_engine: Engine) -> bool:
    """Return True: they do."""
    return True


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for its commands: without what a task that we are in has set."""
    kept = {name: each for name, each in environ.items() if name == "HQ_SERVER_DIR" or not name.startswith("HQ_")}
    return {**kept, "RUST_BACKTRACE": "0"}


def _split(engine: Engine) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those of the user's options that say where the server is, and those of a job."""
    server = tuple(each for each in engine.options if each.startswith("--server-dir="))
    return server, tuple(each for each in engine.options if each not in server)


def _objects(said: str) -> Iterator[Any]:
    """Yield what there is of JSON, one after the other; lines of words may be between them."""
    decoder = json.JSONDecoder()
    while said := said.lstrip():
        try:
            found, at = decoder.raw_decode(said)
            yield found
        except ValueError:
            at = said.find("\n") + 1 or len(said)
        said = said[at:]
