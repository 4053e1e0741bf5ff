"""A tour of all that csa prints as JSON: what each command of `csa schema` prints in a project with a few sessions."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from csa.ids import new_session_id
from csa.model.limits import Budget
from csa.model.placement import Placement
from csa.model.state import format_time
from csa.store.placements import save_placement
from tests.support import CSA, Place, wait_for

DESIGN, CHECK, REVIEW = "Design the rate limiter", "Check the bucket's arithmetic", "Review the limiter"
FILES = (
    'echo "# Limits" > "$CSA_OUTPUT_DIR/limits.md" && echo "RATE = 5" > limiter.py && git add limiter.py'
    ' && git commit -q -m "Add the limiter"'
)
PLAN = """
tool = "codex"
[task.notes]
prompt = "Write more notes"
[task.index]
needs = ["notes"]
prompt = "Read the notes"
worktree = false
"""
RULES = (
    {
        "match": DESIGN,
        "do": [
            ["think", "First the arithmetic."],
            ["run", f'csa run --quiet --tool codex "{CHECK}"'],
            ["run", FILES],
            ["usage", 5200, 480, 3000],
            ["say", "One token bucket per key: 20 requests at once, 5 per second."],
        ],
    },
    {"match": CHECK, "do": [["usage", 900, 60], ["say", "It adds up."]]},
    {"match": "/compact", "do": [["compact"]]},
    {"match": "Write more notes", "do": [["run", "echo More > more.md"], ["usage", 700, 40], ["say", "Written."]]},
    {"match": "Write notes", "do": [["run", "echo Notes > notes.md"], ["say", "Written."]]},
    {"match": "Tidy up", "do": [["ask", "execute", "rm -r build"], ["say", "Done."]]},
)


class Shown(NamedTuple):
    """A command line, and what it printed."""

    words: tuple[str, ...]
    value: Any


def tour(place: Place) -> dict[str, Shown]:
    """Run every command that prints JSON; return what each printed, by the name of its schema."""
    return _Tour(place).run()


class _Tour:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.found: dict[str, Shown] = {}

    def run(self) -> dict[str, Shown]:
        place = self.place
        for words in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "Start"]):
            place.shell(["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *words])
        place.shell(["git", "config", "user.name", "Ada"])
        place.shell(["git", "config", "user.email", "ada@example.com"])
        busy = {"match": REVIEW, "do": [["call", "make test", "ok\n", 0], *place.hold(), ["say", "Looks good."]]}
        place.script(*RULES, busy)
        self._run_agents()
        self._look()
        self._land()
        self._answer()
        self._manage()
        self._plan()
        self._clean_up()
        return self.found

    def show(self, name: str, *words: str, code: int = 0) -> Any:
        """Run a command and keep what it printed."""
        done = self.place.run(*words)
        assert done.code == code, (words, done)
        value = done.events if name == "event" else done.json
        self.found[name] = Shown(words, value)
        return value

    def _run_agents(self) -> None:
        place = self.place
        self.show("schema", "schema", "--json")
        self.show("tools", "tools", "--json")
        self.show("doctor", "doctor", "--json")
        self.show("config validate", "config", "validate", "--json")
        self.show("config show", "config", "show", "--json")
        self.show(
            "template save", "template", "save", "reviewer", "--tool", "codex", "--prompt", "Review {{x}}", "--json"
        )
        self.show("template show", "template", "show", "reviewer", "--json")
        self.show("template list", "template", "list", "--json")
        self.show("template delete", "template", "delete", "reviewer", "--json")
        self.place.run("serve", "token", "phone", "--read")
        self.show("serve token", "serve", "token", "--json")
        self.show("run --dry-run", "run", "--tool", "codex", "--dry-run", "--json", DESIGN)
        self.show("run --dry-run --on", "run", "--dry-run", "--on", "build1", "--json", DESIGN)
        self.show("run", "run", "--tool", "codex", "--name", "api", "--budget-tokens", "50000", "--json", DESIGN)
        self.show("error", "show", "apj", "--json", code=3)
        self.show("run --detach", "run", "--tool", "claude-code", "--name", "review", "--detach", "--json", REVIEW)
        place.wait_ready()
        place.wait_noted(self.found["run --detach"].value["session_id"], "make test")

    def _look(self) -> None:
        place = self.place
        for name in ("top", "top --once", "ps"):
            self.show(name, *name.split(), "--json")
        for name in ("is-alive", "why"):
            self.show(name, name, "review", "--json")
        self.show("run --queue", "run", "--queue", "-s", "review", "--json", CHECK)
        self.show("queue", "queue", "review", "--json")
        attached = place.start("attach", "review", "--json")
        place.release()
        self.show("wait", "wait", "review", "--json")
        done = attached.wait()
        self.found["attach"] = Shown(("attach", "review", "--json"), done.json)
        self.show("retry --dry-run", "retry", "review", "--dry-run", "--json")
        self.show("retry", "retry", "review", "--json")
        self.show("retry --detach", "retry", "review", "--detach", "--json")
        self.show("wait", "wait", "review", "--json")
        self.show("kill", "kill", "review", "--json")
        self.show("list", "list", "--json")
        self.show("list --tree", "list", "--tree", "--json")
        for name in ("show", "result", "status", "info", "artifacts", "diff", "budget", "log"):
            self.show(name, name, "api", "--json")
        self.show("event", "logs", "api", "--json")
        self.show("stats", "stats", "--json")
        self.show("search", "search", "bucket", "--json")
        self._look_elsewhere()
        self.place.run("index", "build")
        self.show("index status", "index", "status", "--json")

    def _look_elsewhere(self) -> None:
        """Be another host for a moment."""
        place = self.place
        have = place.run("intake", "n1", "--have").out
        place.run("intake", "n1", stdin=place.run("outlet", stdin=have.encode()).out.encode())
        self.show("hosts", "hosts", "--json")
        placement_id, session_id = (new_session_id(time.time_ns() // 1_000_000, os.urandom(10)) for _ in range(2))
        placed = Placement(
            id=placement_id,
            session_id=session_id,
            host="n1",
            project=str(place.project),
            at=format_time(datetime.now(UTC)),
            held=Budget(tokens=20000),
        )
        save_placement(place.state_root, placed)
        self.show("hosts --placed", "hosts", "--placed", "--json")
        self.show("hosts --release", "hosts", "--release", session_id, "--json")
        shutil.rmtree(place.state_root / ".mirrors")

    def _fetch(self) -> None:
        """Have a session's work back from another host, which has a state root of its own and the same repository."""
        place, there = self.place, {"CSA_STATE_DIR": str(self.place.tmp / "there")}
        place.run("run", "--tool", "codex", "--worktree", "--name", "theirs", "Write notes", env=there)
        have = place.run("intake", "n1", "--have").out
        place.run("intake", "n1", stdin=place.run("outlet", stdin=have.encode(), env=there).out.encode())
        reach = ["env", f"CSA_STATE_DIR={there['CSA_STATE_DIR']}"]
        (place.tmp / "hosts.toml").write_text(f'[engines.n1]\nreach = {json.dumps(reach)}\ncsa = ["{CSA}"]\n')
        place.env["CSA_CONFIG"] = str(place.tmp / "hosts.toml")
        self.show("fetch", "fetch", "n1:theirs", "--json")
        del place.env["CSA_CONFIG"]
        shutil.rmtree(place.state_root / ".mirrors")

    def _land(self) -> None:
        """Have an agent work in a worktree."""
        self.place.run("run", "--tool", "codex", "--worktree", "--name", "notes", "Write notes")
        self._fetch()
        self.show("land", "land", "notes", "--json")
        self.show("stats --landed", "stats", "--landed", "--json")
        self.place.run("rm", "notes", "--purge")

    def _plan(self) -> None:
        """Run the tasks of a plan."""
        (self.place.project / "docs.toml").write_text(PLAN)
        self.show("plan run --dry-run", "plan", "run", "docs.toml", "--dry-run", "--json")
        self.show("plan run", "plan", "run", "docs.toml", "--json")
        self.show("plan status", "plan", "status", "--json")
        self.show("plan drop", "plan", "drop", "docs.toml", "--json", code=5)
        self.show("plan run --detach", "plan", "run", "docs.toml", "--fresh", "index", "--detach", "--json")
        self.place.run("wait", "plan-docs")

    def _answer(self) -> None:
        """Have an agent ask."""
        place = self.place
        (place.tmp / "asking.toml").write_text('[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n')
        place.env["CSA_CONFIG"] = str(place.tmp / "asking.toml")
        place.run("run", "--detach", "--tool", "goose", "--name", "tidy", "--ask", "Tidy up")
        wait_for(lambda: self.show("answer", "answer", "--json"), "it asks")
        self.show("answer --allow", "answer", "--allow", "--json")
        place.run("wait", "tidy")
        place.run("rm", "tidy", "--purge")
        del place.env["CSA_CONFIG"]

    def _manage(self) -> None:
        self.show("rename", "rename", "review", "limits-review", "--json")
        self.show("describe", "describe", "limits-review", "What the reviewer said", "--json")
        self.show("pin", "pin", "api", "--json")
        self.show("current", "current", "api", "--json")
        self.show("new", "new", "--name", "next", "--tool", "codex", "--permission", "read-only", "--json")
        self.show("close", "close", "next", "--json")
        self.place.run("rm", "next", "--purge")
        self.show("compress", "compress", "limits-review", "--json")
        self.show("merge", "merge", "api", "limits-review", "--name", "both", "--json")
        self.show("context", "context", "limits-review", "--json")
        self.show("prune", "prune", "limits-review", "--keep-last", "1", "--json")
        self.show("clear", "clear", "limits-review", "--json")
        self.show("checkpoint", "checkpoint", "api", "--label", "designed", "--json")
        self.show("checkpoints", "checkpoints", "--verify", "--json")
        commit = self.found["checkpoint"].value["commit"]
        self.show("checkpoints --show", "checkpoints", "--show", commit[:12], "--json")
        self.show("export", "export", "limits-review", "-o", "review.tgz", "--json")
        words = ("export", "limits-review", "--format", "json")
        self.found["export --format json"] = Shown(words, self.place.run(*words).json)
        self.show("validate", "validate", "--json")
        self.show("repair", "repair", "api", "--dry-run", "--json")

    def _clean_up(self) -> None:
        place = self.place
        self.show("import", "import", "review.tgz", "--new-ids", "--json")
        self.show("delete", "delete", "limits-review", "--json")
        self.show("restore", "restore", self.found["delete"].value[0]["session_id"], "--json")
        place.run("delete", "--tree", self.found["delete"].value[0]["session_id"])
        self.show("restore --tree", "restore", "--tree", self.found["delete"].value[0]["session_id"], "--json")
        self.show("clean", "clean", "--days", "0", "--dry-run", "--json")
        self.show("gc", "gc", "--days", "30", "--json")
        moved = place.project.with_name("moved")
        shutil.move(place.project, moved)
        os.makedirs(place.project.with_name("gone"), exist_ok=True)
        done = place.run("adopt", str(place.project), "--json", cwd=moved)
        self.found["adopt"] = Shown(("adopt", "../shop", "--json"), done.json)


def readable(value: Any) -> str:
    """Render JSON as documents show it."""
    return json.dumps(value, indent=2, ensure_ascii=False)
