"""What the git that is installed can do: the suite also runs with an old one, as docs/worktrees.md says of each."""

from __future__ import annotations

import os

import pytest

from csa.store.gitplumbing import open_work_tree, version_of


def needs_git(*version: int) -> pytest.MarkDecorator:
    """Skip a test with an older git."""
    words = ".".join(map(str, version))
    return pytest.mark.skipif(
        version_of(open_work_tree("/", os.environ)) < version, reason=f"git is older than {words}"
    )
