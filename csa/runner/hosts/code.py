"""Your code on another host, and what became of it there.

The work tree goes along as a commit, into one repository for each root commit, `<state root>/.code/<key>`; the session
there has a git worktree of that. What it has done comes back as the refs that keep it, `refs/csa/<session>/<turn>`.
Nothing is merged, and no branch of either repository is touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

from csa.model.config import BUNDLE, Engine
from csa.paths import CODE
from csa.runner.context import Context
from csa.store.gitplumbing import open_project
from csa.store.gitwork import is_object_id
from csa.store.travelling import (
    CUT,
    Code,
    CodeError,
    ensure_received,
    keep_base,
    lay_out,
    list_haves,
    open_received,
    read_blocks,
    read_code,
    require_git,
    take_pack,
    which_are_here,
    write_pack,
)
from csa.structs import Struct

_FORMS = {"sha1": 40, "sha256": 64}
_MOST_NAME, _MOST_CUT = 4096, 100_000
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


class Outgoing(Struct):
    """A work tree that is to go to a host."""

    code: Code

    @property
    def key(self) -> str:
        """Which repository there it goes to."""
        return self.code.key

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not go along."""
        return self.code.left

    @property
    def said(self) -> dict[str, Any]:
        """What the order says of it."""
        code = self.code
        said = {"key": code.key, "commit": code.commit, "cut": list(code.cut), "form": code.form}
        return {**said, "below": code.below if _is_inside(code.below) else "", "target": code.target}

    def write_bundle(self, stream: IO[bytes], haves: Sequence[str]) -> None:
        """Write what the host needs besides what it says it has; GitError, and OSError when nobody reads any more."""
        code = self.code
        known = which_are_here(code.git, [each for each in haves if is_object_id(each)])
        write_pack(code.git, stream, [code.commit], haves=known, cut=code.cut)


def outgoing(context: Context, engine: Engine) -> Outgoing | None:
    """Return the work tree around the context's directory, for a host; None if there is none, or none is to go there.

    It is as it is now, with what is not committed and what is untracked, but for what git ignores. Raises as
    `read_code`.
    """
    if engine.code != BUNDLE:
        return None
    code = read_code(context.directory_pathname, context.environ)
    return Outgoing(code) if code else None


class CodePlace(Struct):
    """Where the code of an order is: `directory`, from which `base` is the commit to begin with, for `target`."""

    directory: str
    base: str
    target: str | None


class _Said(Struct):
    """What an order says of its code, checked."""

    key: str
    commit: str
    cut: tuple[str, ...]
    form: str
    below: str
    target: str | None


def haves(context: Context, key: object) -> list[str]:
    """Return commits that are here of a repository, so that they need not be sent; ToolUnavailableError without git."""
    place = _place_of(context, _checked_key(key))
    if not os.path.isfile(f"{place}/.git/HEAD"):
        require_git(open_project("/", context.environ, commits=False))
        return []
    git = open_received(place, context.environ)
    require_git(git)
    return list_haves(git)


def receive(context: Context, said: Mapping[str, Any], stream: IO[bytes]) -> CodePlace:
    """Take the code of an order, up to its end in the stream; complete and checked, or nothing of it is here.

    Raises:
        CodeError: it is not complete, or makes no sense.
        GitError, OSError: it cannot be kept, as on a full disk.
        ToolUnavailableError: git is not installed, or too old.
    """
    code = _checked(said)
    place = _place_of(context, code.key)
    git = ensure_received(place, context.environ, form=code.form)
    take_pack(git, read_blocks(stream), [code.commit], cut=code.cut)
    keep_base(git, code.commit)
    return CodePlace(lay_out(git, place, code.commit, code.below), code.commit, code.target)


def _place_of(context: Context, key: str) -> str:
    return f"{os.path.realpath(context.store.root_pathname)}/{CODE}/{key}"


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not is_object_id(key.removesuffix(CUT)):
        raise CodeError("The order names no repository.")
    return key


def _checked(said: Mapping[str, Any]) -> _Said:
    """Return what an order says of its code; CodeError if it makes no sense."""
    key, form, target, below = _checked_key(said.get("key")), said.get("form"), said.get("target"), said.get("below")
    cut = found if isinstance(found := said.get("cut"), list) and len(found) <= _MOST_CUT else [None]
    commits = (said.get("commit"), *cut)
    if (
        not isinstance(form, str)
        or not all(is_object_id(each) and len(each) == _FORMS.get(form) for each in (key.removesuffix(CUT), *commits))
        or not isinstance(below, str)
        or not _is_inside(below)
        or not (target is None or _is_name(target))
    ):
        raise CodeError("What the order says of its code makes no sense.")
    return _Said(key, commits[0], commits[1:], form, below, target)


def _is_name(target: object) -> bool:
    return isinstance(target, str) and len(target) <= _MOST_NAME and not _CONTROL.search(target)


def _is_inside(below: str) -> bool:
    """Say whether a path of a work tree leads nowhere else, nor to what is git's or csa's."""
    names = below.split("/") if below else []
    odd = {"", ".", "..", ".git", ".csa"}
    return len(below) <= _MOST_NAME and not any(name.lower() in odd or "\0" in name for name in names)
