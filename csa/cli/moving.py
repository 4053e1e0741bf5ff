"""Sessions that are exported, imported, or adopted by a project that has moved."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from csa.cli.output import count_of, one_line, print_json, text_for, warn
from csa.cli.selecting import Unlistable, add_selector, open_client, selectors_given
from csa.cli.views.conversation_formats import FORMATS, Document
from csa.cli.views.naming import as_read
from csa.errors import NotFoundError, StateError, UsageError
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.sessions.acting import record_act
from csa.runner.sessions.adoption import adopt_project
from csa.runner.sessions.exporting import (
    Skipped,
    check_exportable,
    choose_sessions,
    read_messages,
    session_to_json,
    write_archive,
)
from csa.runner.sessions.importing import Imported, import_archive
from csa.store.archive import Spool
from csa.store.atomic import sync_file
from csa.store.sessions import Store
from csa.store.shown import SessionInfo

ARCHIVE = "archive"
_BACK = "to have it: csa restore"


def configure_export(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tree", action="store_true", help="include its descendants")
    parser.add_argument("--all", action="store_true", help="export all sessions of the project")
    parser.add_argument(
        "--format", choices=(ARCHIVE, *FORMATS), default=ARCHIVE, help="what to write (default: archive)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE (default: stdout, also `-`)")
    parser.add_argument(
        "--encrypt",
        action="append",
        metavar="KEY",
        help="encrypt it for the holder of a key: age1..., a public key of SSH, or a file with some; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="with -o: print what was written, as an object")
    parser.add_argument(
        "--skip-corrupted",
        action="store_true",
        help="skip damaged sessions and lines, and directories that cannot be read, instead of failing",
    )
    parser.add_argument(
        "--skip-running", action="store_true", help="skip sessions that are, or may be, running, instead of failing"
    )


def execute_export(arguments: argparse.Namespace) -> int:
    """Export sessions to stdout or a file: as an archive for `csa import`, or as a document to read.

    The archive is a gzipped tar of the records and of the files agents have left, redacted again with the secrets in
    your environment. Refused while one of the sessions is running. With --tree it includes all descendants, in other
    projects too. Links, files larger than 4 GiB and, with --all, deleted sessions are skipped and listed on stderr.
    To make a backup while agents work, use --all --skip-running.

    The formats to read are md, html, json, and jsonl (one message per line).

    With --encrypt it is a file of age (age-encryption.org), which csa import --identity reads, and so does age itself.
    Nobody without a key reads it: if you lose yours, it is lost.
    """
    if arguments.output == "-":
        arguments.output = None
    if arguments.json and arguments.output is None:
        raise UsageError(
            "--json says what was written to a file; stdout is the archive, or what --format asks for.",
            hint="--json -o FILE, or --format json",
        )
    client, selector = open_client(), _selector_or_all(arguments)
    unlistable = Unlistable()
    infos = (
        choose_sessions(client.session(selector, retired=True), with_tree=arguments.tree, on_fault=unlistable.note)
        if selector is not None
        else client.sessions()[::-1]
    )
    left_out = [Skipped(str(fault.path), fault.problem) for fault in unlistable.faults.values()]
    if arguments.all:
        left_out += [Skipped(each, f"it was deleted; {_BACK} {each}") for each in client.store.retired_ids()]
    is_archive = arguments.format == ARCHIVE
    if (is_archive or arguments.encrypt) and arguments.output is None and sys.stdout.isatty():
        raise UsageError("An archive is not written to a terminal.", hint="csa export ... -o FILE")
    if is_archive:
        if unlistable.faults and not arguments.skip_corrupted:
            fault = next(iter(unlistable.faults.values()))
            raise StateError(fault.path, fault.problem, hint="--skip-corrupted leaves out its content")
        skips = {"skip_corrupted": arguments.skip_corrupted, "skip_running": arguments.skip_running}
        kept, skipped = check_exportable(infos, **skips)
        spool = _spool() if arguments.encrypt else None
        more = _write(arguments, lambda stream: write_archive(client.context, kept, stream, spool=spool, **skips))
        left = {item.what for item in more}  # what has begun to run in this moment
        written = [info.session_id for info in kept if info.session_id not in left]
        _report_export(arguments, written, [*left_out, *skipped, *more])
    else:
        readable = [info for info in infos if info.record.fault is None]
        _write(arguments, lambda stream: _write_documents(client, readable, arguments.format, stream))
        skipped = [Skipped(i.session_id, i.record.fault.message) for i in infos if i.record.fault]
        _report_export(arguments, [info.session_id for info in readable], [*left_out, *skipped])
    return 0


def _selector_or_all(arguments: argparse.Namespace) -> str | None:
    """Return the named session; None for all."""
    given = selectors_given(arguments)
    if len(given) + arguments.all != 1:
        raise UsageError("Name a session, or use --all.", hint="csa ls")
    if arguments.all and arguments.tree:
        raise UsageError("--tree needs a session; --all exports everything.")
    return given[0] if given else None


def _write_documents(client: Csa, infos: Sequence[SessionInfo], kind: str, stream: IO[bytes]) -> list[Skipped]:
    for part in FORMATS[kind](_documents(client, infos)):
        stream.write(text_for(stream, part).encode("utf-8", "backslashreplace") + b"\n")
    return []


def _documents(client: Csa, infos: Sequence[SessionInfo]) -> Iterator[Document]:
    for info in infos:
        about = session_to_json(client.context, info)
        yield Document(info.session_id, about, read_messages(client.context, info))


def _write(arguments: argparse.Namespace, write: Callable[[IO[bytes]], list[Skipped]]) -> list[Skipped]:
    if not arguments.encrypt:
        return _write_output(arguments.output, write)
    from csa.store.sealing import seal  # noqa: PLC0415  # few encrypt

    return _write_output(arguments.output, lambda stream: seal(arguments.encrypt, stream, write))


def _spool() -> Spool:
    from csa.store.sealing import spooled  # noqa: PLC0415  # as above

    return spooled


def _write_output(output: str | None, write: Callable[[IO[bytes]], list[Skipped]]) -> list[Skipped]:
    """Write to stdout, or to a file, which appears, or replaces an old one, only when it is complete.

    A link stays, and what it leads to is replaced. A device, a pipe, or what only a descriptor still names is written
    to as it is.
    """
    if output is None:
        sys.stdout.flush()
        skipped = write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return skipped
    target = Path(os.path.realpath(output))
    if target.is_dir():
        raise UsageError(f"{output} is a directory.")
    if os.path.exists(output) and not target.is_file():
        with open(output, "wb", opener=_open_existing) as file:
            return write(file)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb", opener=_private) as file:
            skipped = write(file)
            file.flush()
            sync_file(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return skipped


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT | os.O_CLOEXEC)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _report_export(arguments: argparse.Namespace, written: Sequence[str], skipped: Sequence[Skipped]) -> None:
    if arguments.json:
        path = Path(arguments.output).absolute()
        left_out = [{"what": item.what, "why": item.why} for item in skipped]
        facts = {"file": str(path), "format": arguments.format, "bytes": path.stat().st_size}
        print_json({**facts, "sessions": list(written), "left_out": left_out})
        return
    warn(f"left out: {item.what}: {item.why}" for item in skipped)


def configure_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="FILE", help="the archive; `-` is stdin")
    parser.add_argument(
        "-i",
        "--identity",
        action="append",
        metavar="FILE",
        help="of an encrypted archive: a file with your secret key, of age or SSH; repeatable",
    )
    parser.add_argument("--new-ids", action="store_true", help="import copies with new ids")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_import(arguments: argparse.Namespace) -> int:
    """Import the sessions of an archive, as `csa export` writes it, into this project, and print their ids.

    Sessions keep their ids, and nothing is overwritten: if one of the ids already exists, nothing is imported. With
    --new-ids you get copies, with new ids throughout.

    A copy, or a session that another project on this machine also has, starts a new conversation: its next turn gets a
    summary, because the tool's own conversation belongs to the other session.

    Exits 2 when one of the ids already exists, 6 when the archive or a record in it is damaged, or no key opens it.
    """
    context = open_client().context
    if arguments.archive == "-":
        if sys.stdin.isatty():
            raise UsageError("An archive is not read from a terminal.", hint="csa import FILE")
        imported = _import(context, sys.stdin.buffer, arguments)
    else:
        with _open_archive(arguments.archive) as file:
            imported = _import(context, file, arguments)
    for item in imported:
        loss = record_act(context, "session import", item.session_id, what="imported", old_id=item.old_id)
        warn([loss] if loss else [])
    if arguments.json:
        print_json([_imported_to_json(item, context.store) for item in imported])
        return 0
    for item in imported:
        print(f"{as_read(item.session_id, sys.stdout)}  {one_line(item.description)}")
        if item.dropped_name:
            name = one_line(item.dropped_name)
            warn([f"{item.session_id} lost its name '{name}', which another session has"])
    return 0


def _import(context: Context, stream: IO[bytes], arguments: argparse.Namespace) -> list[Imported]:
    from csa.store.sealing import is_sealed, opened  # noqa: PLC0415  # `csa completion` loads every command

    if not is_sealed(stream):
        return import_archive(context, stream, new_ids=arguments.new_ids)
    with opened(arguments.identity or (), stream) as plain:
        return import_archive(context, plain, new_ids=arguments.new_ids)


def _open_archive(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {path}.") from error


def _imported_to_json(item: Imported, store: Store) -> dict[str, object]:
    return {
        "session_id": item.session_id,
        "project": store.project_pathname,
        "old_id": item.old_id,
        "description": item.description,
        "dropped_name": item.dropped_name,
        "is_copy": item.is_copy,
        "id": item.session_id,
    }


EXIT_LEFT = 4


def configure_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="DIR", help="the old directory of the project")
    parser.add_argument("-f", "--force", action="store_true", help="even if the old directory still exists")
    parser.add_argument("--dry-run", action="store_true", help="show what would be moved, and change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_adopt(arguments: argparse.Namespace) -> int:
    """Take over the sessions of a project whose directory has moved here.

    Sessions belong to a project by its path. After `mv old new`, run `cd new; csa adopt ../old`: it moves the sessions,
    deleted ones included, and updates the path in them and in the tools' own conversations. Sessions that are running,
    damaged, or already exist here are left behind and listed. If it is interrupted, run it again to finish.

    Exits 3 when there are no sessions of that directory, 4 when some were left behind, and 5 when the old directory
    still exists (--force takes its sessions anyway).
    """
    client = open_client()
    adoption = adopt_project(client.context, arguments.old, force=arguments.force, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(
            {
                "dry_run": arguments.dry_run,
                "old_project": str(adoption.old),
                "project": str(client.store.project),
                "moved": adoption.moved,
                "left": [{"session_id": session_id, "why": why} for session_id, why in adoption.left],
                "renamed": [{"session_id": session_id, "name": name} for session_id, name in adoption.renamed],
            }
        )
    else:
        verb = "would adopt" if arguments.dry_run else "adopted"
        for session_id in adoption.moved:
            print(f"{verb} {session_id}")
        print(f"{verb} {count_of(len(adoption.moved), 'session')} of {adoption.old}")
    warn(f"{session_id} was not moved: {why}" for session_id, why in adoption.left)
    warn(f"{session_id} is no longer called {name}: a session here is" for session_id, name in adoption.renamed)
    warn(adoption.warnings)
    return EXIT_LEFT if adoption.left else 0
