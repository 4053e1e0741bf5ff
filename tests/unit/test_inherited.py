"""What of a caller's environment is not handed on."""

import subprocess
from pathlib import Path

import pytest

from csa.store.inherited import is_same_work_tree, without_descriptors, without_repository

KEPT = {"PATH": "/bin", "GIT_SSH_COMMAND": "ssh", "GIT_ASKPASS": "ask", "GIT_TRACE": "1", "SSH_AUTH_SOCK": "/s"}


def test_all_that_git_lists() -> None:
    """Everything that this machine's git calls local to a repository is left out."""
    listed = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    assert "GIT_DIR" in names
    assert without_repository({**KEPT, **dict.fromkeys(names, "x")}) == KEPT


def test_a_hooks_commit() -> None:
    """With a repository go the author and date of the commit that is being made in it."""
    hook = {"GIT_INDEX_FILE": ".git/index", "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a", "GIT_AUTHOR_DATE": "@1"}
    hook |= {
        "GIT_EDITOR": ":",
        "GIT_EXEC_PATH": "/usr/lib/git-core",
        "GIT_CONFIG_KEY_0": "k",
        "GIT_QUARANTINE_PATH": "q",
    }
    assert without_repository({**KEPT, **hook}) == KEPT


def test_a_users_own_identity() -> None:
    """Who has set his author's name for all he does keeps it."""
    own = {**KEPT, "GIT_AUTHOR_NAME": "Me", "GIT_EDITOR": "vi"}
    assert without_repository(own) == own


@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({"MAKEFLAGS": " -j --jobserver-auth=3,4", "MAKELEVEL": "1", "MFLAGS": "-j"}, {}),
        ({"MAKEFLAGS": "--jobserver-fds=3,4 -j"}, {}),
        ({"MAKEFLAGS": "-j8"}, {"MAKEFLAGS": "-j8"}),
        ({"CARGO_MAKEFLAGS": "-j --jobserver-fds=3,4"}, {}),
        (
            {"NOTIFY_SOCKET": "/run/n", "LISTEN_FDS": "1", "LISTEN_PID": "7", "INVOCATION_ID": "i"},
            {"INVOCATION_ID": "i"},
        ),
    ],
)
def test_descriptors(environ: dict[str, str], kept: dict[str, str]) -> None:
    """What names descriptors that no tool inherits is left out; what a user has set is not."""
    assert without_descriptors(environ) == kept


def test_work_trees(tmp_path: Path) -> None:
    """Directories of one checkout are in one work tree; a submodule's, a linked worktree's and others' are not."""
    one, two = tmp_path / "one", tmp_path / "two"
    for place in (one / "deep", two):
        place.mkdir(parents=True)
    assert not is_same_work_tree(one, one / "deep")
    (one / ".git").mkdir()  # as codex's sandbox leaves one
    assert not is_same_work_tree(one, one / "deep")
    (one / ".git" / "HEAD").touch()
    assert is_same_work_tree(one, one / "deep")
    (one / "deep" / ".git").write_text("gitdir: ../.git/modules/deep\n")
    assert not is_same_work_tree(one, one / "deep")
    assert not is_same_work_tree(one, two)
    assert is_same_work_tree(two, two)
