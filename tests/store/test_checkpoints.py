"""Checkpoints as objects of a repository: refs that move only from where they were seen, and digests of prefixes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csa.errors import ToolUnavailableError
from csa.store.checkpoints import (
    NOTES_REF,
    REF_PREFIX,
    Checkpoint,
    Facts,
    digest_transcript,
    list_checkpoints,
    make_checkpoint,
    verify_checkpoint,
)
from csa.store.gitplumbing import find_git, open_bare
from csa.store.sessions import Store
from tests.store.support import IDS


@pytest.fixture
def environ() -> Mapping[str, str]:
    return dict(os.environ)


@pytest.fixture
def store(state_root: Path, project: Path) -> Store:
    """Make a store with three sessions, as far as a checkpoint looks at them."""
    found = Store(state_root, project)
    for session_id in IDS[:3]:
        paths = found.paths(session_id)
        paths.root.mkdir(parents=True)
        paths.state.write_text(f'meta_session_id = "{session_id}"\n')
        paths.transcript.write_text('{"seq":1}\n{"seq":2}\n')
    return found


def _facts(store: Store, session_id: str, label: str = "") -> Facts:
    sha256, events, count = digest_transcript(store.paths(session_id))
    return Facts(
        session_id=session_id,
        turn=1,
        status="succeeded",
        tool="codex",
        label=label or None,
        automatic=False,
        sha256=sha256,
        events=events,
        bytes=count,
    )


def _make(store: Store, environ: Mapping[str, str], session_id: str, label: str = "") -> Checkpoint:
    return make_checkpoint(store, _facts(store, session_id, label), environ, now=1_700_000_000)


def test_a_digest_is_of_whole_lines(store: Store) -> None:
    """A partial last line, which a crash leaves and the next writer drops, is no part of it."""
    paths = store.paths(IDS[0])
    whole = digest_transcript(paths)
    assert whole[1:] == (2, 20)
    paths.transcript.write_text('{"seq":1}\n{"seq":2}\n{"seq"')
    assert digest_transcript(paths) == whole
    assert digest_transcript(paths, 20) == whole
    assert digest_transcript(store.paths(IDS[9]))[1:] == (0, 0)


def test_a_result_is_kept_where_there_is_one(store: Store, environ: Mapping[str, str]) -> None:
    """A session without one can be put on record as well."""
    first = _make(store, environ, IDS[0])
    git = open_bare(store.path / "audit.git", environ)
    assert git.line("ls-tree", "--name-only", first.commit).split() == ["checkpoint.json", "state.toml"]
    store.paths(IDS[0]).result.write_text("turn = 1\n")
    second = _make(store, environ, IDS[0])
    assert git.line("ls-tree", "--name-only", second.commit).split()[1] == "result.toml"
    assert git.line("rev-parse", f"{second.commit}^") == first.commit


@pytest.mark.thorough
def test_twenty_threads_lose_no_note(store: Store, environ: Mapping[str, str]) -> None:
    """All notes are in one tree, of which twenty writers at once each add their own."""
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda at: _make(store, environ, IDS[at % 3], f"n{at}"), range(20)))
    found = list(list_checkpoints(store, environ))
    assert {each.commit for each in found} == {each.commit for each in made}
    assert [verify_checkpoint(store, each) for each in found] == ["ok"] * 20
    assert open_bare(store.path / "audit.git", environ).line("rev-list", "--count", NOTES_REF) == "20"


@pytest.fixture
def meddle(tmp_path: Path, environ: Mapping[str, str]) -> Callable[[str], Mapping[str, str]]:
    """Return an environment whose git does something else before the first time that it moves refs."""

    def make(commands: str) -> Mapping[str, str]:
        program = tmp_path / "bin" / "git"
        program.parent.mkdir()
        real = find_git(environ)
        program.write_text(
            f"""#!/bin/sh
case "$*" in
*"update-ref --stdin"*)
    if mkdir {tmp_path}/meddled 2> {os.devnull}; then
        git() {{ {real} "$@"; }}
        {commands}
    fi
esac
exec {real} "$@"
"""
        )
        program.chmod(0o755)
        return {**environ, "PATH": f"{program.parent}{os.pathsep}{environ['PATH']}"}

    return make


def test_a_ref_that_moved_meanwhile_is_looked_at_again(
    store: Store, environ: Mapping[str, str], meddle: Callable[[str], Mapping[str, str]]
) -> None:
    """Whoever moved it, csa or not, keeps what he has written: the commit is made anew upon that."""
    _make(store, environ, IDS[0], "first")
    ref = REF_PREFIX + IDS[0]
    meddled = meddle(f"git update-ref {ref} $(echo a stranger | git commit-tree -p {ref} {ref}^{{tree}})")
    second = _make(store, meddled, IDS[0], "second")
    git = open_bare(store.path / "audit.git", environ)
    assert git.line("log", "-1", "--format=%s", f"{second.commit}^") == "a stranger"
    found = list(list_checkpoints(store, environ, IDS[0]))
    assert [(each.facts.label, each.note is not None) for each in found] == [
        ("second", True),
        ("first", False),  # the stranger's commit, which has the first one's files, and no note
        ("first", True),
    ]


def test_both_refs_move_or_none(
    store: Store, environ: Mapping[str, str], meddle: Callable[[str], Mapping[str, str]], tmp_path: Path
) -> None:
    """Where the notes cannot be written, the session's ref stays as well; it is tried again."""
    _make(store, environ, IDS[0], "first")
    lock = store.path / "audit.git" / f"{NOTES_REF}.lock"
    meddled = meddle(
        f"""touch '{lock}'; git "$@"; code=$?
        git for-each-ref > {tmp_path}/refs; rm '{lock}'; exit $code"""
    )
    git = open_bare(store.path / "audit.git", environ)
    before = git.line("for-each-ref")
    second = _make(store, meddled, IDS[0], "second")
    assert (tmp_path / "refs").read_text().strip() == before
    assert git.line("rev-parse", REF_PREFIX + IDS[0]) == second.commit


def test_making_the_repository_twice_at_once(store: Store, environ: Mapping[str, str]) -> None:
    """The first one stays, nothing else is left beside it, and it has neither hooks nor a work tree."""
    path = store.path / "audit.git"
    code = "import os, sys; from pathlib import Path; from csa.store.gitplumbing import ensure_bare; "
    code += "ensure_bare(Path(sys.argv[1]), dict(os.environ))"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert sorted(each.name for each in store.path.iterdir()) == ["audit.git", "sessions"]
    assert not (path / "hooks").exists()


def test_without_git(store: Store) -> None:
    """A missing git is told as such; listing where nothing was ever put on record needs none."""
    assert list(list_checkpoints(store, {"PATH": "/nonexistent"})) == []
    with pytest.raises(ToolUnavailableError):
        _make(store, {"PATH": "/nonexistent"}, IDS[0])
