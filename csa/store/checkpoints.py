"""Checkpoints: the state of a session at a moment, kept in its store's `audit.git`.

A checkpoint is a commit on the session's own ref: state.toml, result.toml, and `checkpoint.json` with the hash of the
transcript. A git note bound to that commit (refs/notes/csa-checkpoints) repeats that file, so that neither can be
changed without the other showing it. Both refs move in one transaction, from the values that were read, or not at all;
whoever comes second reads again and repeats. The project's own repository is not involved.

The transcript itself is not copied. It only grows, so a hash of its first N bytes can be recomputed at any time, also
of a session that was running when the checkpoint was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from csa.errors import AmbiguousError, BusyError, CsaError, NotFoundError, StateError
from csa.ids import is_session_id
from csa.model.clock import from_timestamp
from csa.model.state import format_time
from csa.ownership import explain_denial, give_tree
from csa.paths import CHECKPOINTS, SessionPaths
from csa.store.atomic import open_regular, read_regular
from csa.store.gitplumbing import Git, GitError, ensure_bare, open_bare
from csa.store.sessions import Store
from csa.store.transcript import end_of_last_line
from csa.structs import Struct, asdict, fields

REF_PREFIX = "refs/csa/sessions/"
NOTES_REF = "refs/notes/csa-checkpoints"
FACTS = "checkpoint.json"
VERSION = 1
PATIENCE_S = 20.0
_FANOUT = 2  # characters of a commit's name that are a directory of the notes: trees stay small
_BLOCK = 1 << 20
_ABSENT = "0" * 40  # the name of no object
_HEX = re.compile(r"[0-9a-fA-F]{4,64}")
_UNWRITABLE = ("Permission denied", "Read-only file system", "No space left on device", "insufficient permission")
_LOST_RACE = ("cannot lock ref", "is at ", "reference already exists", "Unable to create", "File exists")

Verification = Literal["ok", "changed", "truncated", "gone", "unbound"]


class Facts(Struct, kw_only=True):
    """The content of a checkpoint. `sha256` is that of the transcript's first `bytes`, with `events` lines."""

    session_id: str
    turn: int
    status: str | None
    tool: str | None
    label: str | None
    automatic: bool
    sha256: str
    events: int
    bytes: int
    v: int = VERSION


class Checkpoint(Struct):
    """A commit on a session's ref, when it was made (seconds), and what its note says; None if it has none."""

    commit: str
    at: int
    facts: Facts
    note: Facts | None

    def to_json(self, verdict: Verification | None = None) -> dict[str, Any]:
        """Return the object that `checkpoint --json` prints; `verdict` is what verifying it has found."""
        facts = self.facts
        return {
            "commit": self.commit,
            "session_id": facts.session_id,
            "created_at": format_time(from_timestamp(self.at)),
            "turn": facts.turn,
            "status": facts.status,
            "tool": facts.tool,
            "label": facts.label,
            "automatic": facts.automatic,
            "sha256": facts.sha256,
            "events": facts.events,
            "bytes": facts.bytes,
            "verified": verdict,
        }


def digest_transcript(paths: SessionPaths, limit: int | None = None) -> tuple[str, int, int]:
    """Return the sha256, the number of lines and of bytes of the whole lines, or of the first `limit` bytes.

    Raises:
        StateError: the transcript cannot be read.
    """
    digest, lines, count = hashlib.sha256(), 0, 0
    try:
        fd = open_regular(paths.transcript)
    except FileNotFoundError:
        return digest.hexdigest(), 0, 0
    except OSError as error:
        raise StateError.unreadable(paths.transcript, error) from error
    try:
        size = end_of_last_line(fd, os.fstat(fd).st_size) if limit is None else limit
        while count < size and (block := os.pread(fd, min(_BLOCK, size - count), count)):
            digest.update(block)
            lines, count = lines + block.count(b"\n"), count + len(block)
    except OSError as error:
        raise StateError.unreadable(paths.transcript, error) from error
    finally:
        os.close(fd)
    return digest.hexdigest(), lines, count


def make_checkpoint(store: Store, facts: Facts, environ: Mapping[str, str], *, now: int) -> Checkpoint:
    """Commit a checkpoint of a session as its files are now, with its note.

    Raises:
        ToolUnavailableError: git is not installed.
        BusyError: others kept moving the refs for too long.
        CsaError: the repository cannot be written.
        GitError: git refuses for another reason.
    """
    path = store.path / CHECKPOINTS
    try:
        return _make_checkpoint(path, store, facts, environ, now=now)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    except GitError as error:
        reason = _reason_unwritable(error)
        if reason is None:
            raise
        raise _unwritable(path, reason) from error


def _unwritable(path: Path, reason: str) -> CsaError:
    whose, step = explain_denial(path) or ("", "")
    return CsaError(
        f"The checkpoint cannot be written to {path}: {reason}{whose and f'; {whose}'}.",
        hint=step or "make it writable, or free space; the session itself is unchanged",
    )


def _reason_unwritable(error: GitError) -> str | None:
    """Return why git cannot write, if that is the problem; its messages are in English (see gitplumbing)."""
    found = next((words for words in _UNWRITABLE if words in error.said), None)
    return "Permission denied" if found == "insufficient permission" else found


def _make_checkpoint(path: Path, store: Store, facts: Facts, environ: Mapping[str, str], *, now: int) -> Checkpoint:
    ensure_bare(path, environ)
    give_tree(path)  # git wrote it as root, before csa took care of that
    git = open_bare(path, environ)
    content = (json.dumps(asdict(facts), ensure_ascii=False, indent=1) + "\n").encode()
    tree = _write_tree(git, store.paths(facts.session_id), content)
    note = git.line("hash-object", "-w", "--stdin", stdin=content)
    message = f"checkpoint: {facts.label or f'turn {facts.turn}'}\n".encode()
    ref, deadline, pause_s = REF_PREFIX + facts.session_id, time.monotonic() + PATIENCE_S, 0.01
    while True:
        heads = _read_refs(git, ref, NOTES_REF)
        parents = ("-p", heads[ref]) if ref in heads else ()
        commit = git.line("commit-tree", tree, *parents, stdin=message, when=now)
        notes = _add_note(git, heads.get(NOTES_REF), commit, note, now=now)
        try:
            _swap_refs(git, {ref: (heads.get(ref), commit), NOTES_REF: (heads.get(NOTES_REF), notes)})
        except GitError as error:
            if _reason_unwritable(error) or not any(words in error.said for words in _LOST_RACE):
                raise
            if time.monotonic() > deadline:
                raise BusyError("Others keep writing checkpoints of this project.", hint="retry later") from error
        else:
            return Checkpoint(commit, now, facts, facts)
        time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  # so that they do not collide again
        pause_s = min(0.3, pause_s * 1.5)


def list_checkpoints(store: Store, environ: Mapping[str, str], session_id: str | None = None) -> Iterator[Checkpoint]:
    """Yield the checkpoints of one session, or of all, newest first."""
    path = store.path / CHECKPOINTS
    if not (path / "HEAD").exists():
        return
    git = open_bare(path, environ)
    refs = git.run("for-each-ref", "--format=%(refname)", REF_PREFIX).decode().split()
    wanted = [ref for ref in refs if session_id in {None, ref.removeprefix(REF_PREFIX)}]
    if not wanted:
        return
    lines = git.run("rev-list", "--date-order", "--timestamp", *wanted).decode().splitlines()
    yield from _read_checkpoints(git, [(name, int(at)) for at, name in map(str.split, lines)])


def find_checkpoint(store: Store, environ: Mapping[str, str], name: str) -> Checkpoint:
    """Return the checkpoint that a commit id, or the beginning of one, means; NotFoundError, AmbiguousError."""
    matches = []
    if _HEX.fullmatch(name):
        matches = [each for each in list_checkpoints(store, environ) if each.commit.startswith(name.lower())]
    if len(matches) > 1:
        raise AmbiguousError(name, [f"{each.commit}  {each.facts.session_id}" for each in matches], len(matches))
    if not matches:
        raise NotFoundError(f"There is no checkpoint '{name}' in {store.project}.", hint="csa checkpoints")
    return matches[0]


def read_kept_file(store: Store, environ: Mapping[str, str], checkpoint: Checkpoint, name: str) -> str | None:
    """Return a file of a checkpoint: `state.toml`, `result.toml`, `checkpoint.json`; None if it does not have it."""
    git = open_bare(store.path / CHECKPOINTS, environ)
    try:
        return git.run("cat-file", "blob", f"{checkpoint.commit}:{name}").decode("utf-8", "replace")
    except GitError:
        return None


def verify_checkpoint(store: Store, checkpoint: Checkpoint) -> Verification:
    """Recompute the transcript's hash, and compare the note.

    `changed`: the same part of the transcript differs. `truncated`: it has become shorter. `gone`: the
    session no longer exists. `unbound`: the note is missing, or differs.
    """
    facts = checkpoint.facts
    if checkpoint.note != facts:
        return "unbound"
    places = [store.paths(facts.session_id), SessionPaths(store.path / "retired" / facts.session_id)]
    paths = next((place for place in places if place.root.is_dir()), None)
    if paths is None:
        return "gone"
    sha256, events, count = digest_transcript(paths, facts.bytes)
    if count < facts.bytes:
        return "truncated"
    return "ok" if (sha256, events) == (facts.sha256, facts.events) else "changed"


def _write_tree(git: Git, paths: SessionPaths, content: bytes) -> str:
    files = {FACTS: content}
    for path in (paths.state, paths.result):
        try:
            files[path.name] = read_regular(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StateError(path, f"cannot be read ({error.strerror})") from error
    entries = [
        f"100644 blob {git.line('hash-object', '-w', '--stdin', stdin=data)}\t{name}" for name, data in files.items()
    ]
    return git.line("mktree", stdin="\n".join([*entries, ""]).encode())


def _read_refs(git: Git, *refs: str) -> dict[str, str]:
    lines = git.run("for-each-ref", "--format=%(objectname) %(refname)", *refs).decode().splitlines()
    found = {ref: name for name, ref in map(str.split, lines)}
    return {ref: found[ref] for ref in refs if ref in found}


def _add_note(git: Git, notes: str | None, commit: str, note: str, *, now: int) -> str:
    """Return a commit of the notes that also has this one."""
    root = _read_tree(git, notes) if notes else {}
    folder, name = commit[:_FANOUT], commit[_FANOUT:]
    below = _read_tree(git, f"{notes}:{folder}") if folder in root else {}
    below[name] = f"100644 blob {note}"
    root[folder] = f"040000 tree {_make_tree(git, below)}"
    parents = ("-p", notes) if notes else ()
    return git.line("commit-tree", _make_tree(git, root), *parents, stdin=b"notes of checkpoints\n", when=now)


def _read_tree(git: Git, tree: str) -> dict[str, str]:
    lines = git.run("ls-tree", "-z", tree).decode().split("\0")
    return {name: about for about, _, name in (line.partition("\t") for line in lines if line)}


def _make_tree(git: Git, entries: Mapping[str, str]) -> str:
    return git.line("mktree", "-z", stdin="".join(f"{about}\t{name}\0" for name, about in entries.items()).encode())


def _swap_refs(git: Git, moves: Mapping[str, tuple[str | None, str]]) -> None:
    """Move all the refs, each from the value that was read, or none."""
    orders = [f"update {ref} {new} {old or _ABSENT}" for ref, (old, new) in moves.items()]
    git.run("update-ref", "--stdin", stdin="\n".join(["start", *orders, "prepare", "commit", ""]).encode())


def _read_checkpoints(git: Git, commits: list[tuple[str, int]]) -> Iterator[Checkpoint]:
    """Read the files and the notes of all at once. Commits that are not ours are skipped."""
    notes = _list_notes(git)
    asked = [spec for name, _ in commits for spec in (f"{name}:{FACTS}", notes.get(name, _ABSENT))]
    answers = _cat_objects(git, asked)
    for index, (name, at) in enumerate(commits):
        facts, note = (_parse_facts(answer) for answer in answers[2 * index : 2 * index + 2])
        if facts is not None:
            yield Checkpoint(name, at, facts, note)


def _list_notes(git: Git) -> dict[str, str]:
    """Return the note of each commit. git finds them anywhere: another program may have moved them."""
    lines = git.run("notes", f"--ref={NOTES_REF}", "list").decode().splitlines()
    return {commit: note for note, commit in map(str.split, lines)}


def _cat_objects(git: Git, specs: list[str]) -> list[bytes | None]:
    said = git.run("cat-file", "--batch", stdin="\n".join([*specs, ""]).encode())
    answers: list[bytes | None] = []
    at = 0
    for _ in specs:
        end = said.index(b"\n", at)
        head = said[at:end].split()
        at = end + 1
        if head[-1:] == [b"missing"]:
            answers.append(None)
            continue
        size = int(head[-1])
        answers.append(said[at : at + size])
        at += size + 1
    return answers


def _parse_facts(content: bytes | None) -> Facts | None:
    try:
        data: dict[str, Any] = json.loads(content or b"")
        facts = Facts(**{name: data[name] for name in fields(Facts)})
    except (ValueError, TypeError, KeyError):
        return None
    return facts if is_session_id(str(facts.session_id)) else None
