"""Plans, and agents that do what their tasks say, for the tests of plans."""

from __future__ import annotations

import json

from tests.cli.worktrees import sh
from tests.support import Done, Json, Place

BRANCH = "csa/plan-plan"


def write_plan(place: Place, needs: dict[str, list[str]], top: str = "", **more: str) -> None:
    """Write a plan whose tasks are asked to `do NAME`; `more` are further keys of tasks."""
    tables = [
        f"[task.{name}]\nprompt = 'do {name}!'\nneeds = {json.dumps(others)}\n{more.get(name, '')}\n"
        for name, others in needs.items()
    ]
    (place.project / "plan.toml").write_text(f'tool = "codex"\n{top}\n' + "".join(tables))


def agents_do(place: Place, scripts: dict[str, str], *first: Json) -> None:
    """Have the agent of each task run a script, and answer `NAME is done`; `first` are rules that come before."""
    rules = [
        {"match": f"do {name}!", "do": [["run", f"set -e; {script}"], ["say", f"{name} is done"]]}
        for name, script in scripts.items()
    ]
    place.script(*first, *rules)


def run_plan(place: Place, *words: str, code: int = 0) -> Done:
    done = place.run("plan", "run", "plan.toml", *words)
    assert done.code == code, done.out + done.err
    return done


def states(done: Done) -> dict[str, str]:
    """Return what the table that a run prints says of each task."""
    lines = [line.split(None, 1) for line in done.out.splitlines() if line.strip()]
    return {name: words.strip() for name, words in lines}


def states_now(place: Place) -> dict[str, str]:
    """Return what `csa plan status` says of each task; nothing before the plan's first run."""
    found = place.run("plan", "status", "plan.toml", "--json").json
    return {task["task"]: task["words"] for task in found["tasks"]}


def prompts(place: Place, name: str) -> list[str]:
    """Return what the session of that name was asked, turn by turn."""
    events = place.run("logs", name, "--json").events
    return [event["data"]["prompt"] for event in events if event["type"] == "run_started"]


def files_on(place: Place, branch: str = BRANCH) -> list[str]:
    """Return the files of tasks in a branch."""
    return [name for name in sh(place, f"git ls-tree -r --name-only {branch}").split() if name[0] in "tx"]


def files_on_if_any(place: Place) -> list[str]:
    """Return the same of the plan's branch; nothing before there is one."""
    return files_on(place) if sh(place, f"git branch --list {BRANCH}") else []


def until(place: Place, name: str) -> str:
    """Return the script that waits for the test to touch a file."""
    return f"while [ ! -e {place.tmp / name} ]; do sleep 0.01; done"
