"""Kubernetes as an engine, through `kubectl`. Pure: the arguments of its commands, and what their output means.

A turn is a Job with one pod. The user's template is laid over what csa says of it, and what must not be otherwise over
both: `kubectl` does it. The order travels in the arguments of the pod's container, in pieces as the kernel takes them.

A pod is a host of its own, which is gone with its turn, unless its state root is on a volume: then all pods of the
engine are the host that `[engines.NAME] host` names.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from csa.errors import ConfigError, UsageError
from csa.model.config import Engine
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look

MOST_SCRIPT = 1_000_000  # what etcd takes at once is 1.5 MB, and the job and its pod are more than the order
_MOST_ARGUMENT = 100_000  # Linux takes 128 KiB
_KEPT_S = 3600  # a job that has ended
_CONTAINER, _LABEL = "csa", "csa-order"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?")  # with an id it has to fit into a label
_RUN = """f=$(mktemp) && printf %s "$@" | base64 -d > "$f" && exec 3< "$f" && rm "$f" && cd && exec {csa} <&3 3<&-"""
_LOGIN = """cd && exec "$@\""""
_PLACE = """template=$1 must=$2; shift 2
case $template in "~/"*) template=$HOME/${template#"~/"} ;; esac
job=$(kubectl patch --local -f - --patch-file "$template" -o json) || exit
job=$(printf %s "$job" | kubectl patch --local -f - --patch "$must" -o json) || exit
printf %s "$job" | kubectl "$@" create -f - -o name"""

_CHECK = """for each in "create jobs" "get jobs" "list jobs" "delete jobs" "get pods" "list pods" \\
    "create pods --subresource=exec"; do
  case $(kubectl "$@" auth can-i $each) in
    yes*) ;; no*) echo "error: you may not $each" >&2; exit 1 ;; *) exit 1 ;;
  esac
done"""


def place(engine: Engine, name: str, node: str | None) -> tuple[str, ...]:
    """Return what submits the job that it reads, as the user's template has it."""
    if node and node != engine.host:
        raise UsageError(
            f"{node} is not a host that {engine.name} can be asked for: a pod is gone with its turn.",
            hint=f"csa show {node}:NAME shows what was brought; a new session goes anywhere: --on {engine.name}",
        )
    if not engine.template:
        hint = f'[engines.{engine.name}] template = "/path/job.yaml", see docs/hosts.md'
        raise ConfigError(f"{engine.name} needs a template that names the image.", hint=hint)
    return ("/bin/sh", "-c", _PLACE, "kubectl", engine.template, json.dumps(_must(_job(engine, name))), *engine.options)


def script(engine: Engine, name: str, order: bytes) -> bytes:
    """Return a Job, for what its `csa supervise` hears."""
    text = base64.b64encode(order).decode()
    pieces = [text[at : at + _MOST_ARGUMENT] for at in range(0, len(text), _MOST_ARGUMENT)]
    words = " ".join(map(_quoted, (*engine.csa, "supervise", "--job")))
    container = {"name": _CONTAINER, "command": ["/bin/sh", "-lc", _RUN.format(csa=words)], "args": ["csa", *pieces]}
    pod = {"spec": {"automountServiceAccountToken": False, "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", **_must(_job(engine, name))}
    return json.dumps({**job, "spec": {"ttlSecondsAfterFinished": _KEPT_S, "template": pod}}).encode()


def _must(job: str) -> dict[str, Any]:
    """Return what is so whatever a template says: one pod, which is not begun again, and is found by its label."""
    labelled = {"labels": {_LABEL: job}}
    pod = {"metadata": labelled, "spec": {"restartPolicy": "Never"}}
    once = {"parallelism": 1, "completions": 1, "backoffLimit": 0, "podReplacementPolicy": "Failed"}
    once |= dict.fromkeys(("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "maxFailedIndexes"))
    return {"metadata": {"name": job, **labelled}, "spec": {**once, "template": pod}}


def _job(engine: Engine, name: str) -> str:
    """Return what a job is called: as csa calls it, with its engine, by which its pods are known to csa."""
    if not _NAME.fullmatch(engine.name):
        words = f"'{engine.name}' is not what a job of Kubernetes may be called: a-z, 0-9 and -, 30 at most."
        raise ConfigError(words, hint=f"call [engines.{engine.name}] otherwise")
    return f"{engine.name}-{name.rpartition('-')[2].lower()}"


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def handle(said: str) -> str:
    """Return the job that `place` has said; empty if it makes no sense."""
    kind, _, job = said.strip().rpartition("\n")[2].partition("/")
    return job if kind == "job.batch" else ""


def look(engine: Engine, job: str) -> tuple[str, ...]:
    """Return what tells how a job and its pod are."""
    return ("kubectl", *engine.options, "get", "jobs,pods", f"--selector={_LABEL}={job}", "--output=json")


def read_look(code: int, said: str, _complaint: str) -> Look | None:
    """Return how a job is; None if that could not be found out."""
    try:
        items = json.loads(said)["items"] if code == 0 else None
    except (ValueError, KeyError):
        items = None
    if items is None:
        return None
    pods = [each for each in items if each["kind"] == "Pod"]
    if pods:
        return _look_at_pod(max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))))
    jobs = [each for each in items if each["kind"] == "Job"]
    return _look_at_job(jobs[0]) if jobs else Look(GONE)


def _look_at_job(job: Mapping[str, Any]) -> Look:
    """Return how a job is that has no pod: none yet, or none any more."""
    over = [each for each in job["status"].get("conditions", ()) if each["status"] == "True"]
    for each in over:
        if each["type"] in {"Failed", "Complete"}:
            return Look(GONE, reason=_reason(each) or each["type"])
    reason = "suspended" if job["spec"].get("suspend") else "no pod yet"
    return Look(PENDING, reason=reason)


def _look_at_pod(pod: Mapping[str, Any]) -> Look:
    name, status = str(pod["metadata"]["name"]), pod["status"]
    found = [each["state"] for each in status.get("containerStatuses", ()) if each["name"] == _CONTAINER]
    state = found[0] if found else {}
    if "terminated" in state or status.get("phase") in {"Succeeded", "Failed"}:
        ended = state.get("terminated", {})
        host = name if ended.get("startedAt") else ""
        return Look(GONE, host, _reason(status) or _reason(ended) or str(status.get("phase")), ended.get("exitCode"))
    if "running" in state:
        return Look(RUNNING, name)
    if waiting := state.get("waiting"):
        return Look(PENDING, reason=_reason(waiting))
    conditions = [each for each in status.get("conditions", ()) if each["status"] == "False"]
    return Look(PENDING, reason=_reason(conditions[0]) if conditions else "")


def _reason(said: Mapping[str, Any]) -> str:
    """Return why something is so, in one line."""
    words = [str(said[key]) for key in ("reason", "message") if said.get(key)]
    return " ".join(": ".join(words).split())


def check(engine: Engine) -> tuple[str, ...]:
    """Return what succeeds if the cluster is there, and we may do all that a turn needs."""
    return ("/bin/sh", "-c", _CHECK, "kubectl", *engine.options)


def keep(_engine: Engine, _job: str) -> tuple[str, ...]:
    """Return nothing: a job that is suspended ends, if it runs."""
    return ()


def cancel(engine: Engine, job: str) -> tuple[str, ...]:
    """Return what ends a job, and its pod before it."""
    gone = ("--ignore-not-found", "--cascade=foreground", "--timeout=50s")
    return ("kubectl", *engine.options, "delete", "job", job, *gone)


def find(engine: Engine, name: str) -> tuple[str, ...]:
    """Return what says, as `place` does, the job that was submitted by a name."""
    return ("kubectl", *engine.options, "get", "job", _job(engine, name), "--ignore-not-found", "--output=name")


def reach(engine: Engine, job: str) -> tuple[str, ...]:
    """Return what runs a command in the pod of a job that runs: in that one, if the host is a pod."""
    pod = f"pod/{engine.name}" if engine.name.startswith(f"{job}-") else f"job/{job}"
    where = ("exec", "--stdin", f"--container={_CONTAINER}", pod)
    return ("kubectl", *engine.options, *where, "--", "/bin/sh", "-lc", _LOGIN, "csa")


def lasts(engine: Engine) -> bool:
    """Say whether a host is there after its turn: a volume is, if that is what `host` names."""
    return bool(engine.host)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for its commands: they need a login's tools, and where the cluster is."""
    return dict(environ)
