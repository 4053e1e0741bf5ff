"""What a plan costs: python bench/plans.py [TASKS]; by default 200 tasks of `csa plan run --each` over the fakes.

Prints the CPU time of each task beyond the bare tool's, which GNU parallel runs (xargs -P where that is missing), for
tasks without and with worktrees; and what a turn costs in this process, and with a supervisor of its own.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from csa import Csa

ROOT = Path(__file__).parents[1]
CSA = str(Path(sys.executable).with_name("csa"))
JOBS = 4


def main() -> None:
    count = int((sys.argv[1:] or ["200"])[0])
    with tempfile.TemporaryDirectory(prefix="csa-plans-") as base:
        home = _Home(Path(base))
        lines = "".join(f"line {number}\n" for number in range(count))
        bare = _spent(lambda: home.run(*_many(), stdin=lines)) / count
        print(f"{count} times the bare tool, with {Path(_many()[0]).name}: {bare * 1e3:.0f} ms CPU each")
        each = ("plan", "run", "--each", "-", "--max-running", str(JOBS), "--tool", "codex", "-q", "work on {}")
        for title, more in (("without worktrees", ("--no-worktree", "--name", "plain")), ("with", ("--name", "trees"))):
            begin = time.monotonic()
            whole = _spent(lambda more=more: home.run(CSA, *each, *more, stdin=lines)) / count  # type: ignore[misc]
            wall = time.monotonic() - begin
            print(f"csa plan run, {title}: {(whole - bare) * 1e3:.0f} ms CPU each beyond that, {wall:.0f} s in all")
        turns = min(count, 20)
        client = Csa.from_environment(home.project, environ=home.env, command=CSA)
        attached = _spent(lambda: [client.start_attached("x", tool="codex").wait() for _ in range(turns)])
        inside = _spent(lambda: [anyio.run(lambda: client.ask("x", tool="codex")) for _ in range(turns)])
        for title, spent in (("with a supervisor of its own", attached), ("in this process", inside)):
            print(f"a turn {title}: {(spent / turns - bare) * 1e3:.0f} ms CPU beyond the bare tool")


def _many() -> tuple[str, ...]:
    tool = ("codex", "exec", "--json", "--skip-git-repo-check")
    if found := shutil.which("parallel"):
        return (found, "-q", "-j", str(JOBS), *tool, "work on {}")  # -q: words stay words
    return ("xargs", "-P", str(JOBS), "-d", "\\n", "-I{}", *tool, "work on {}")


def _spent(run: Callable[[], object]) -> float:
    """Return the seconds of CPU that this process and all it waits for have taken."""
    before = _cpu()
    run()
    return _cpu() - before


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class _Home:
    """A home with a repository, and the fakes on its path."""

    def __init__(self, base: Path) -> None:
        self.project = base / "project"
        self.project.mkdir()
        search = os.pathsep.join([str(ROOT / "adapters/csa_fakes/bin"), str(Path(CSA).parent), os.environ["PATH"]])
        state = str(base / "state")
        self.env = {"HOME": str(base), "PATH": search, "LANG": "C.UTF-8", "CSA_STATE_DIR": state}
        os.environ["PATH"] = search
        self.run("git", "init", "-q")
        named = ("-c", "user.name=T", "-c", "user.email=t@localhost")
        self.run("git", *named, "commit", "-q", "--allow-empty", "-m", "first")

    def run(self, *words: str, stdin: str = "") -> None:
        """Run a command; what it says is shown if it fails: each codex says that it reads stdin."""
        done = subprocess.run(
            words, cwd=self.project, env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{words[0]} exited with {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    main()
