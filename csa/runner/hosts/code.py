"""Your code on another host, and what became of it there.

The work tree goes along as a commit, into one repository for each root commit, `<state root>/.code/<key>`; the session
there has a git worktree of that. What it has done comes back as the refs that keep it, `refs/csa/<session>/<turn>`.
Nothing is merged, and no branch of either repository is touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from csa.errors import RefusedError
from csa.model.config import Engine
from csa.model.configkeys import BUNDLE
from csa.paths import CODE
from csa.runner.context import Context
from csa.runner.hosts.answers import error_in
from csa.runner.hosts.engines import Link
from csa.runner.hosts.frames import SILENCE_S, ProtocolError, read_line, write_line
from csa.runner.session import Session, find_session
from csa.runner.turns.worktree import refuse_foreign
from csa.store.comingback import BroughtRef, is_name, keep_refs, note_fetched, note_origin
from csa.store.gitplumbing import Git, open_project
from csa.store.gitwork import find_commit, is_ancestor, is_object_id, kept_last, open_repository, refs_of
from csa.store.project import git_top
from csa.store.travelling import (
    CUT,
    Code,
    CodeError,
    bounded,
    ensure_received,
    is_whole,
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
from csa.structs import Struct, replace

OUTCOME = "outcome"  # the hidden command, and what it calls itself
_FORMS = {"sha1": 40, "sha256": 64}
_MOST_NAME, _MOST_CUT = 4096, 100_000
_MOST_REFS, _MOST_PROBLEMS, _SHOWN = 100_000, 5, 60
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


class Outgoing(Struct):
    """A work tree that is to go to a host; for the session there whose work is to follow it, if one is named."""

    code: Code
    session_id: str | None = None

    @property
    def key(self) -> str:
        """Which repository there it goes to."""
        return self.code.key

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not go along."""
        return self.code.left

    @property
    def first_said(self) -> dict[str, Any]:
        """What is said of it first, so that the other side says what it has."""
        return {"key": self.code.key, "session": self.session_id}

    @property
    def said(self) -> dict[str, Any]:
        """What the order says of it."""
        code = self.code
        said = {**self.first_said, "commit": code.commit, "cut": list(code.cut), "form": code.form}
        return {**said, "below": code.below if _is_inside(code.below) else "", "target": code.target}

    def write_bundle(self, stream: IO[bytes], haves: Sequence[str]) -> None:
        """Write what the host needs besides what it says it has; GitError, and OSError when nobody reads any more."""
        code = self.code
        known = which_are_here(code.git, [each for each in haves if is_object_id(each)])
        write_pack(code.git, stream, [code.commit], haves=known, cut=code.cut)


def outgoing(
    context: Context, engine: Engine, *, commit: str | None = None, session_id: str | None = None
) -> Outgoing | None:
    """Return the work tree around the context's directory, for a host; None if there is none, or none is to go there.

    It is as it is now, with what is not committed and what is untracked, but for what git ignores. If a commit of its
    repository is named, it is that, for the repository of a session there. Raises as `read_code`, and RefusedError for
    an agent in a repository that it may have made.
    """
    if engine.code != BUNDLE:
        return None
    if top := git_top(os.path.realpath(context.directory_pathname)):
        refuse_foreign(context, top)
    code = read_code(context.directory_pathname, context.environ)
    if code and commit:
        code = replace(code, commit=commit, left=())
    return Outgoing(code, session_id) if code else None


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


def haves(context: Context, said: Mapping[str, Any]) -> list[str]:
    """Return commits that are here of a repository, so that they need not be sent.

    Raises as `find_session`, of a session that is named, and ToolUnavailableError without git.
    """
    if session_id := said.get("session"):
        return list_haves(_repository_of(context, session_id))
    place = _place_of(context, _checked_key(said.get("key")))
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


def receive_for(context: Context, said: Mapping[str, Any], stream: IO[bytes], session_id: str) -> None:
    """Take the code of an order into the repository of a session that is here; raises as `receive`."""
    code = _checked(said)
    take_pack(_repository_of(context, session_id), read_blocks(stream), [code.commit], cut=code.cut)


def _repository_of(context: Context, session_id: object) -> Git:
    session = find_session(context, str(session_id))
    if (tree := session.load().worktree) is None:
        raise RefusedError(f"Session {session_id} has no worktree of its own.")
    git = bounded(open_repository(tree, context.environ))
    require_git(git)
    return git


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


class Brought(Struct):
    """What has come back of a session's work, or was here by now.

    Attributes:
        session_id: the session's id.
        host: where it is.
        base: the commit that its work begins with.
        target: the branch that it is for.
        refs: the refs here that keep it.
        tip: the last commit of it; None if there is none yet.
        is_clean: whether the base is in what is checked out here: nothing was sent that was not committed.
        problems: what did not come, in words.
    """

    session_id: str
    host: str
    base: str
    target: str | None
    refs: tuple[BroughtRef, ...]
    tip: str | None
    is_clean: bool
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that `fetch --json` prints."""
        facts = {"session_id": self.session_id, "mirror": self.host, "base": self.base, "target": self.target}
        refs = [each.to_json() for each in self.refs]
        return {**facts, "tip": self.tip, "refs": refs, "is_clean": self.is_clean, "problems": list(self.problems)}


def bring_back(context: Context, engine: Engine, session_id: str) -> Brought:
    """Have the work of a session on a host in the repository around the context's directory, by refs of the session.

    Raises:
        HostError, ProtocolError: the host cannot be reached, or what it says makes no sense.
        RefusedError: the directory is in no repository, or in another one.
        CodeError: what came is not complete, or odd.
        CsaError: what the host says, as that it knows no such session.
    """
    link = Link(engine, OUTCOME, session_id)
    try:
        link.greeting()
        return _take_back(context, engine, session_id, link)
    finally:
        link.close()


def _take_back(context: Context, engine: Engine, session_id: str, link: Link) -> Brought:
    said = _heard(link)
    _refuse_error(engine, said)
    if not is_object_id(base := said.get("base")):
        raise ProtocolError(f"{engine.name} does not say where the work begins.")
    git = _repository_around(context)
    if (state := context.store.record(session_id).state) and state.worktree:
        raise RefusedError(  # its refs keep what was done here, and land as that
            f"{engine.name} has a session with the id of one that is here, {session_id}: its work is not fetched.",
            hint=f"git fetch from {engine.name}, if you trust it",
        )
    found, problems = _read_refs(link)
    begins = [each for each in (base, *_words(said, "parents")) if is_object_id(each)]
    head = find_commit(git, "HEAD")
    own = refs_of(git, session_id)
    if not which_are_here(git, [*begins, *own.values()]):
        raise RefusedError(
            f"The work of session {session_id} is not of the repository around {context.directory_pathname}.",
            hint="csa fetch in that repository",
        )
    known = which_are_here(git, list(dict.fromkeys([*filter(None, [head]), *own.values(), *list_haves(git)])))
    if base not in known and find_commit(git, base) and is_whole(git, base):  # no ref need have it
        known.append(base)
    note_origin(git, session_id, engine.name)
    with suppress(BrokenPipeError):  # it has ended, and says why
        write_line(link.stdin, {"have": known})
        link.stdin.flush()
    take_pack(git, _blocks(link), list(found.values()), is_checked=True)
    refs = keep_refs(git, session_id, found)
    with suppress(OSError):  # then it keeps the session until it is fetched again
        write_line(link.stdin, {"kept": True})
        link.stdin.flush()
        link.stdout.read(1)
    target = said.get("target")
    return Brought(
        session_id=session_id,
        host=engine.name,
        base=base,
        target=target if _is_name(target) else None,
        refs=tuple(refs),
        tip=kept_last({each.ref: each.commit for each in refs}),
        is_clean=head is not None and find_commit(git, base) is not None and is_ancestor(git, base, head),
        problems=tuple(problems),
    )


def _refuse_error(engine: Engine, said: Mapping[str, Any]) -> None:
    """Raise the error that a host has answered with, if it has."""
    if error := error_in(engine.name, said):
        raise error


def _heard(link: Link) -> dict[str, Any]:
    with link.ended_after(SILENCE_S):
        said = read_line(link.stdout)
    if said is None:
        raise link.failure()
    return said


def _blocks(link: Link) -> Iterator[bytes]:
    """Yield the blocks of a pack; CodeError, too, if none comes for long."""
    blocks = read_blocks(link.stdout)
    while True:
        with link.ended_after(SILENCE_S):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _read_refs(link: Link) -> tuple[dict[str, str], list[str]]:
    """Return the refs of a session there, by the ends of their names, and what is wrong with others."""
    found: dict[str, str] = {}
    problems: list[str] = []
    while "ref" in (said := _heard(link)):
        name, commit = said["ref"], said.get("commit")
        if is_name(name) and is_object_id(commit) and len(found) < _MOST_REFS:
            found[name] = commit
        elif len(problems) < _MOST_PROBLEMS:
            problems.append(f"the ref {str(name)[:_SHOWN]!r} there is not one of csa's: it was not fetched")
    _refuse_error(link.engine, said)
    return found, problems


def _repository_around(context: Context) -> Git:
    directory = context.directory_pathname
    if (top := git_top(os.path.realpath(directory))) is None:
        raise RefusedError(f"{directory} is in no git repository.", hint="csa fetch in that which the code came from")
    refuse_foreign(context, top)
    return bounded(open_project(directory, context.environ, commits=False))


def _words(said: Mapping[str, Any], key: str) -> list[Any]:
    return found if isinstance(found := said.get(key), list) else []


def send_outcome(session: Session, stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Send what keeps a session's work to where its code came from: what it has not, as it says on stdin.

    Raises:
        RefusedError: the session has no worktree.
        WorktreeError, GitError: its repository is gone, or git refuses.
    """
    session_id, environ = session.session_id, session.context.environ
    state = session.load()
    if (tree := state.worktree) is None or not tree.git_dir:
        raise RefusedError(
            f"Session {session_id} has no worktree of its own: what it has done is where it worked.",
            hint=f"git fetch, or csa artifacts -s {session_id} there",
        )
    git = bounded(open_repository(tree, environ))
    found = {
        name: commit for ref, commit in refs_of(git, session_id).items() if is_name(name := ref.rpartition("/")[2])
    }
    parents = git.line("show", "--no-patch", "--format=%P", tree.base).split()
    write_line(stdout, {"base": tree.base, "parents": parents, "target": tree.target})
    for name, commit in found.items():
        write_line(stdout, {"ref": name, "commit": commit})
    write_line(stdout, {})
    stdout.flush()
    if (said := read_line(stdin)) is None:
        return
    known = which_are_here(git, [each for each in _words(said, "have") if is_object_id(each)])
    write_pack(git, stdout, list(dict.fromkeys(found.values())), haves=known)
    stdout.flush()
    if (read_line(stdin) or {}).get("kept") is True:
        note_fetched(git, session_id, found)
