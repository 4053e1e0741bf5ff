"""Root and a second user in one home: nobody is kept from working, and nothing of root's is left behind.

The second user has no account: a uid of its own is all that it takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from csa.paths import store_dir
from csa.store.locks import acquire_lock
from tests.conftest import FAKE_TOOLS_BIN, REPOSITORY
from tests.support import Done, Place, Running, close_place

USER = 54321
OWN_PYTHONS = (sys.executable, "/usr/bin/python3")
SITE = [path for path in sys.path if path.endswith("-packages")]
OPTIONAL = ("parked", "audit.jsonl", "usage_stats.toml", "usage_stats.lock", "current", "audit.git")  # of a store
IMPORTS = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "adapters"), *SITE])

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a second user")


class Shared(Place):
    """A home of the second user's, in which root runs csa as well."""

    python: str

    def user(self, *words: str, env: dict[str, str | None] | None = None, cwd: Path | None = None) -> Done:
        """Run csa as the second user."""
        own = {"PYTHONPATH": IMPORTS, "PATH": f"{FAKE_TOOLS_BIN}:/usr/bin:/bin", **(env or {})}
        return self.shell([*as_user(), self.python, "-m", "csa.cli.main", *words], env=own, cwd=cwd)

    def start_as_user(self, *words: str) -> Running:
        """Start csa as the second user."""
        own = {"PYTHONPATH": IMPORTS, "PATH": f"{FAKE_TOOLS_BIN}:/usr/bin:/bin"}
        first, *rest = as_user()
        return self.start(*rest, self.python, "-m", "csa.cli.main", *words, env=own, program=first)

    def roots(self) -> list[str]:
        """Name everything of root's in the user's home."""
        return [str(path) for path in sorted(self.home.rglob("*")) if path.lstat().st_uid == 0]


def as_user() -> tuple[str, ...]:
    """Return what runs a command as the second user; setpriv itself may still read what root may."""
    return ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--", "/usr/bin/env", "--")


def python_of_all() -> str | None:
    """Return a python that another user may run, with csa in it."""
    for python in OWN_PYTHONS:
        words = [*as_user(), python, "-c", "import csa, anyio, sys; sys.exit(sys.version_info < (3, 11))"]
        env = {"PYTHONPATH": IMPORTS, "PATH": "/usr/bin:/bin"}
        try:
            if subprocess.run(words, env=env, cwd="/", capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """Give the second user a home, with a project in it; pytest's own directories are root's alone."""
    python = python_of_all()
    if python is None:
        pytest.skip("another user can run no python here that has csa")
    base = Path(tempfile.mkdtemp(prefix="csa-users-", dir="/tmp"))  # where others may go
    try:
        base.chmod(0o755)
        home = base / "home"
        for path in (home, home / "project", home / "project" / ".csa", home / "tmp"):
            path.mkdir(0o700)
            os.chown(path, USER, USER)
        for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("TMPDIR", str(home / "tmp"))
        place = Shared(base, home / "project", home / ".local" / "state" / "csa")
        place.python = python
        yield place
        close_place(place)
    finally:
        shutil.rmtree(base)


def own(path: Path, uid: int) -> Path:
    """Give a path, and all below it, to a user."""
    for each in (path, *path.rglob("*")):
        os.chown(each, uid, uid, follow_symlinks=False)
    return path


@pytest.mark.thorough
def test_root_leaves_nothing_behind(shared: Shared) -> None:
    """Whatever root does in a user's home, first, beside him or after him, the user can go on with."""
    first = shared.run("run", "--tool", "codex", "first")
    assert first.code == 0, first.err
    assert "csa runs as root under the home of 54321" in first.err
    assert [path for path in shared.roots() if "/.codex" not in path] == []
    own(shared.home / ".codex", USER)  # the tool's own files are what csa has warned of
    mine = shared.user("run", "--tool", "codex", "--session", first.session_id, "more")
    assert mine.code == 0, mine.err
    shared.play(["run", "mkdir $CSA_OUTPUT_DIR/deep; touch $CSA_OUTPUT_DIR/deep/x"], ["say", "done"])
    for words in (
        ("run", "--tool", "codex", "--session", first.session_id, "again"),
        ("run", "--tool", "claude-code", "--name", "roots", "--detach", "--print-id", "another"),
        ("session", "wait", "roots"),
        ("session", "rename", first.session_id, "renamed"),
        ("session", "checkpoint", "renamed"),
        ("session", "export", "renamed", "-o", str(shared.tmp / "archive")),
        ("session", "import", str(shared.tmp / "archive"), "--new-ids"),
        ("session", "current", "renamed"),
        ("session", "delete", "roots"),
        ("session", "restore", "roots"),
        ("run", "--tool", "codex", "--fork-from", "renamed", "fork"),
        ("gc", "--days", "30"),
        ("doctor",),
    ):
        done = shared.run(*words)
        assert done.code == 0, (words, done.err)
    assert [path for path in shared.roots() if "/.codex" not in path and "/.claude" not in path] == []
    own(shared.home / ".codex", USER)
    for mine_too in (
        ("session", "checkpoint", "renamed"),
        ("run", "--tool", "codex", "--session", "renamed", "again"),
        ("session", "delete", "--purge", "renamed"),
        ("session", "delete", "--purge", "roots"),
        (
            "session",
            "list",
        ),
    ):
        done = shared.user(*mine_too)
        assert done.code == 0, (mine_too, done.err)


@pytest.mark.thorough
def test_root_beside_a_turn_of_the_user(shared: Shared) -> None:
    """Two turns at once, either way round; a child of root's in the user's agent; each ends the other's turn.

    `sudo -E csa run` in an agent's shell keeps its variables.
    """
    shared.ready, shared.go = shared.home / "tmp" / "ready", shared.home / "tmp" / "go"
    shared.play(["write-env", str(shared.home / "tmp" / "env")], *shared.hold(), ["say", "done"])
    mine = shared.start_as_user("run", "--tool", "codex", "mine")
    shared.wait_ready()
    agents = json.loads((shared.home / "tmp" / "env").read_text())
    variables: dict[str, str | None] = {name: value for name, value in agents.items() if name.startswith("CSA_")}
    shared.play(["say", "quick"])
    assert shared.run("run", "--tool", "codex", "root's").code == 0
    child = shared.run("run", "--tool", "codex", "child", env=variables)
    assert child.code == 0, child.err
    assert shared.state(child.session_id)["genealogy"]["parent_session_id"] == mine.session_id
    own(shared.home / ".codex", USER)
    assert shared.user("run", "--tool", "codex", "x").code == 0
    assert shared.run("session", "kill", mine.session_id).code == 0
    assert mine.wait().code != 0
    shared.ready.unlink()
    shared.play(*shared.hold(), ["say", "done"])
    roots = shared.start("run", "--tool", "claude-code", "roots")
    shared.wait_ready()
    shared.play(["say", "quick"])
    assert shared.user("run", "--tool", "codex", "x").code == 0
    assert roots.session_id in shared.user("ps", "--json").out
    assert shared.user("session", "kill", roots.session_id).code == 0
    assert roots.wait().code != 0
    assert [path for path in shared.roots() if "/.claude" not in path and not path.endswith("/ready")] == []


@pytest.mark.thorough
def test_slots_of_root(shared: Shared) -> None:
    """A slot that root has left, or that root's turn holds, is passed over; one that is held counts."""
    assert shared.user("run", "--tool", "codex", "x").code == 0
    slots = shared.state_root / ".slots"
    for at, name in enumerate(("0001.lock", "0002.lock", "0007.lock")):
        (slots / name).touch(0o600 if at else 0o644)
        own(slots / name, 0)
    os.mkfifo(slots / "0003.lock")
    (slots / "0004.lock").mkdir()
    done = shared.user("run", "--tool", "codex", "x")
    assert done.code == 0, done.err
    found = shared.user("doctor", "--json")
    check = next(each for each in found.json["checks"] if each["name"] == "files")
    assert (check["status"], check["blocks_runs"]) == ("warn", False)
    assert (
        f"{slots}/0002.lock: cannot be used (Permission denied): {slots}/0002.lock belongs to root" in check["detail"]
    )
    assert f"sudo chown {USER}: {slots}/0002.lock" in check["next_step"]
    with ExitStack() as stack:
        for name in ("0002.lock", "0007.lock"):
            stack.enter_context(acquire_lock(slots / name))
            own(slots / name, 0)  # acquiring has just given it away
        full = shared.user("run", "--tool", "codex", "x", env={"CSA_CONF_MAX_RUNNING": "2"})
        assert (full.code, "max_running is 2" in full.err) == (5, True)
    assert shared.user("run", "--tool", "codex", "x", env={"CSA_CONF_MAX_RUNNING": "2"}).code == 0
    assert shared.run("run", "--tool", "codex", "x").code == 0, "root's own turn makes them the user's"


@pytest.mark.thorough
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("names", "is_blocking"),
    [
        (["", ".slots", ".slots/lock", "STORE", "STORE/sessions", "STORE/store.lock"], True),
        ([f"STORE/{name}" for name in OPTIONAL], False),
    ],
    ids=["needed", "optional"],
)
def test_state_of_root(shared: Shared, names: list[str], *, is_blocking: bool) -> None:
    """What a run needs is named with the chown that helps, as a run and doctor do alike; nothing else stops one."""
    session = shared.user("run", "--tool", "codex", "x").session_id
    shared.user("session", "current", session)
    shared.user("session", "checkpoint", session)
    for name in names:
        _try_state_of_root(shared, session, name, is_blocking=is_blocking)


def _try_state_of_root(shared: Shared, session: str, name: str, *, is_blocking: bool) -> None:
    path = Path(f"{shared.state_root}/{name.replace('STORE', store_dir('/', str(shared.project))[1:])}".rstrip("/"))
    if path.name == "parked":
        path.mkdir()
    assert path.exists()
    path.chmod(0o700 if path.is_dir() else 0o600)
    own(path, 0)
    done = shared.user("run", "--tool", "codex", "x")
    found = shared.user("doctor", "--json")
    assert "Traceback" not in done.err + found.err
    assert "checks" in found.json, (name, found)
    checks = {each["name"]: each for each in found.json["checks"]}
    check = checks["files"] if "files" in checks else checks["state root"]
    step = f"sudo chown {'-R ' * path.is_dir()}{USER}: {path}"
    assert step in check["next_step"]
    assert f"{path} belongs to root" in check["detail"]
    assert check["blocks_runs"] is is_blocking
    assert (done.code, found.code) == ((6, 6) if is_blocking else (0, 0)), done.err
    assert (f"hint: {step}\n" in done.err) is is_blocking, done.err
    for words in (
        ("session", "list"),
        ("session", "info", session),
        ("session", "rename", session, "n"),
        ("gc", "--days", "9"),
    ):
        done = shared.user(*words)
        assert "Traceback" not in done.err, words
        assert done.code == 0 or step in done.err, (words, done.err)
    own(path, USER)
    assert shared.user("run", "--tool", "codex", "x").code == 0


@pytest.mark.thorough
def test_a_session_of_root(shared: Shared) -> None:
    """A session that is root's is no damaged one: it is named with its owner, and nobody takes it for rubbish."""
    mine, roots = (shared.user("run", "--tool", "codex", "x").session_id for _ in range(2))
    path = own(shared.session(roots), 0)
    listed = {each["id"]: each for each in shared.user("session", "list", "--json").json}
    assert listed[mine]["status"] == "succeeded"
    assert f"{path} belongs to root" in listed[roots]["error"]
    assert listed[roots]["status"] == "unknown"
    for words in (
        "session list",
        "session list --tree",
        "session list --all-projects",
        "session info ID",
        "ps --all",
        "session why ID",
        "session wait ID",
        "session wait ID --json",
        "top --json",
        "stats",
        "session result ID",
        "kill --all --yes",
        "session kill ID",
        "session validate",
        "session repair ID",
        "session delete ID",
        "session is-alive ID",
        "session export ID -o x",
        "session log ID",
        "session checkpoint ID",
        "session rename ID x",
        "session show ID",
    ):
        done = shared.user(*words.replace("ID", roots).split())
        assert "Traceback" not in done.err, words
        assert "damaged (" not in done.out
        if "session wait" in words or words.startswith("session list"):
            assert f"{path} belongs to root" in done.out + done.err, (words, done)
            assert "unknown" in done.out or words == "session wait ID", words
    assert shared.user("session", "wait", roots).code == 6
    assert "belongs to root" in shared.user("session", "why", roots).out
    done = shared.user("run", "--tool", "codex", "--session", roots, "more")
    assert (done.code, f"hint: sudo chown -R {USER}: {path}\n" in done.err) == (6, True)
    found = {each["name"]: each for each in shared.user("doctor", "--json").json["checks"]}
    assert "2 sessions in 1 project, 1 of another user's" in found["sessions"]["detail"]
    assert found["sessions"]["next_step"] == f"sudo chown -R {USER}: {path}"
    assert roots in shared.ids()
    shared.user("session", "clean", "--older-than", "0s", "--damaged", "--purge")
    assert roots in shared.ids()
    assert shared.user("run", "--tool", "codex", "x").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["root's", "directory", "pipe", "loop", "bytes", "long", "mode"])
def test_files_of_one_tool(shared: Shared, kind: str) -> None:
    """Whatever one tool's files are, doctor ends with its list, and `auto` with another tool or a clear error."""
    for name in (".codex/auth.json", ".codex/config.toml", ".gemini/settings.json", ".claude/.credentials.json"):
        path = shared.home / name
        path.parent.mkdir(exist_ok=True)
        os.chown(path.parent, USER, USER)
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "long":
            path.symlink_to("x" * 300)
        else:
            path.write_bytes(b"\xff\xfe\0")
        if kind == "root's":
            path.chmod(0o600)
        elif not path.is_symlink():
            own(path, USER)
            path.chmod(0 if kind == "mode" else 0o600)
    found = shared.user("doctor", "--json")
    assert (found.code, found.err) == (0, "")
    checks = {each["name"]: each for each in found.json["checks"]}
    if kind == "root's":
        assert f"{shared.home}/.codex/auth.json belongs to root" in checks["codex"]["detail"]
        assert f"sudo chown {USER}: {shared.home}/.codex/auth.json" in checks["codex"]["next_step"]
    done = shared.user("run", "x", env={"ANTHROPIC_API_KEY": "a-key-of-claude"})
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert kind == "bytes" or "claude-code" in done.err


@pytest.mark.thorough
def test_config_of_root(shared: Shared) -> None:
    """A config that may not be read stops a run with its owner and the chown; doctor says the same."""
    for path in (shared.home / ".config" / "csa" / "config.toml", shared.project / ".csa" / "config.toml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("max_depth = 3\n")
        path.chmod(0o600)
        own(shared.home / ".config", USER)
        own(path, 0)
        step = f"sudo chown {USER}: {path}"
        for words in (("run", "--tool", "codex", "x"), ("doctor",), ("config", "show")):
            done = shared.user(*words)
            assert done.code == 6, words
            assert "Traceback" not in done.err
        assert f"{path} belongs to root" in done.err
        assert f"hint: {step}\n" in done.err
        own(path, USER)
        assert shared.user("run", "--tool", "codex", "x").code == 0


@pytest.mark.thorough
def test_homes_of_tools(shared: Shared) -> None:
    """A run makes the home of its own tool, and no other; one of root's is named with the chown."""
    assert shared.user("run", "--tool", "codex", "x").code == 0
    assert sorted(path.name for path in shared.home.iterdir()) == [".codex", ".local", "project", "tmp"]
    (shared.home / ".config" / "opencode").mkdir(parents=True)
    own(shared.home / ".config", USER)
    assert shared.user("run", "--tool", "codex", "x").code == 0
    assert (shared.home / ".local" / "share" / "opencode").is_dir(), "one that is set up can be started by an agent"
    own(shared.home / ".codex", 0).chmod(0o700)
    done = shared.user("run", "--tool", "codex", "x")
    assert f"codex cannot write {shared.home}/.codex: {shared.home}/.codex belongs to root" in done.err
    found = {each["name"]: each for each in shared.user("doctor", "--json").json["checks"]}
    assert f"sudo chown -R {USER}: {shared.home}/.codex" in found["codex"]["next_step"]
    assert "Traceback" not in done.err


def test_a_link_is_no_way_to_another_file(shared: Shared) -> None:
    """Root gives nobody a file that he has only put a link to."""
    session = shared.user("run", "--tool", "codex", "x").session_id
    secret = shared.tmp / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    for name in ("heartbeat", "output/turn-0002/stdout.log", "output/turn-0002/final.md", "cancel"):
        path = shared.session(session) / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    shared.run("run", "--tool", "codex", "--session", session, "more")
    assert secret.stat().st_uid == 0
