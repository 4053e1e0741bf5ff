"""Clean-up of old sessions: `csa clean`, and `csa gc` for cron."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.cli.output import (
    can_redraw,
    count_of,
    cut_behind,
    error_to_json,
    is_in_background,
    lossy,
    one_line,
    print_json,
    tell,
    terminal_width,
    warn,
)
from csa.cli.selecting import (
    find_projects,
    open_client,
    read_tools,
    refuse_unknown_tools,
)
from csa.cli.views.naming import as_read
from csa.errors import CsaError, StateError, UsageError
from csa.model.collection import Rule
from csa.model.duration import parse_duration
from csa.paths import CODE, MIRRORS, PLACED
from csa.runner.context import Context
from csa.runner.doctor.store_checks import size_words
from csa.runner.sessions.collecting import Item, Report, collect
from csa.runner.turns.leftovers import find_leftovers, reap
from csa.runner.waking import wake_parked, wake_queues
from csa.store.liveness import probe
from csa.store.searchindex import has_index
from csa.store.sessions import Store, Target, format_age


def configure_clean(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--days", type=_days, metavar="N", help="sessions not used for more than N whole days")
    which.add_argument("--older-than", metavar="TIME", help="the same, as a time: 7d, 12h, 30m")
    which.add_argument("--expired", action="store_true", help="only sessions whose --ttl has run out")
    parser.add_argument("-t", "--tool", metavar="T,..", help="only sessions that used no other tools than these")
    parser.add_argument("--damaged", action="store_true", help="also damaged sessions, by the age of their files")
    parser.add_argument("--purge", action="store_true", help="delete for good at once, and what was deleted before")
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, and change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_clean(arguments: argparse.Namespace) -> int:
    """Delete the project's old sessions.

    That is, those not used for so many whole days, or whose --ttl has run out. They can be restored with `csa restore`
    until they are purged, after `undo_days` (7). Sessions that are running, pinned, or damaged stay. Also purges
    sessions that were deleted long enough ago, and what interrupted starts, deletions and ephemeral runs have left.

    Exits 0 even when there is nothing to do, and 1 when something could not be deleted.
    """
    client, dry_run = open_client(), arguments.dry_run
    context = client.context
    rule, counter = _read_rule(arguments, context), _Counter()
    refuse_unknown_tools(client, [context.store], rule.tools)
    report = collect(
        context,
        rule,
        [context.store],
        command="session clean",
        now=datetime.now(UTC),
        dry_run=dry_run,
        progress=counter,
    )
    counter.end()
    if arguments.json:
        _print_report(report, dry_run=dry_run)
        return 1 if report.failures else 0
    _print_items(report, dry_run=dry_run)
    print(_summary(report, dry_run=dry_run) or "Nothing to delete")
    _warn_of_rest(report, damaged=True)
    return 1 if report.failures else 0


def configure_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days", type=_days, metavar="N", required=True, help="sessions not used for more than N whole days"
    )
    parser.add_argument("--all-projects", action="store_true", help="in every project, not only this one")
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, and change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_gc(arguments: argparse.Namespace) -> int:
    """Delete old sessions and whatever finished ones have left behind: for cron.

    Does what `csa clean --days N` does, deletes the runtime directories of runs that died, and stops processes that
    finished sessions have left running, unless they were kept with --keep-background. Code that other hosts have sent
    is deleted when no session has used it for 30 days. Also resumes detached turns that wait for a quota (--on-quota
    wait) when their time has come and their supervisor has died, as after a reboot, and goes on with queued prompts
    (csa run --queue) that nobody goes on with. What other hosts have deleted more than N days ago is forgotten here.

    Prints one line when something was done, else nothing. Exits 0 in both cases, and 1 when something could not be
    deleted.
    """
    context, dry_run, counter = open_client().context, arguments.dry_run, _Counter()
    root = context.store.root
    stores = find_projects(root) if arguments.all_projects else [context.store]
    woken: list[str] = []
    going_on: list[str] = []
    problems: list[str] = []
    for store in () if dry_run else stores:
        started, failed = wake_parked(store, context.environ)
        queues, stuck = wake_queues(context, store)
        woken += started
        going_on += queues
        problems += [*failed, *stuck]
    orphans = find_leftovers(root, (store.paths(session_id) for store in stores for session_id in store.ids()))
    report = collect(
        context,
        _read_rule(arguments, context),
        stores,
        command="gc",
        now=datetime.now(UTC),
        dry_run=dry_run,
        with_runtime=True,
        progress=counter,
    )
    counter.end()
    if not dry_run and has_index(root):
        from csa.runner.sessions.indexing import tidy_up  # noqa: PLC0415  # most have no index

        tidy_up(root, stores)
    sealed = _encrypt(context, stores, report, dry_run=dry_run)
    forgotten = _forget_mirrored(root, arguments, report)
    if not dry_run and os.path.isdir(root / PLACED):
        _sweep_placed(root, report)
    code = _forget_code(context, report, dry_run=dry_run)
    ended = [] if dry_run else orphans
    report.failures += problems
    report.failures += [f"process {orphan.pid} could not be ended" for orphan in reap(ended)]
    if arguments.json:
        known = [{"pid": o.pid, "session_id": o.session_dir.name, "command": o.command} for o in orphans]
        _print_report(
            report,
            dry_run=dry_run,
            more={
                "processes": known,
                "reaped": len(ended),
                "woken": [*woken, *going_on],
                "encrypted": sealed,
                "forgotten": [{"session_id": each, "mirror": store.host} for store, each in forgotten],
            },
        )
        return 1 if report.failures else 0
    if dry_run:
        _print_items(report, dry_run=True, with_project=arguments.all_projects)
        for orphan in orphans:
            print(f"process {orphan.pid} of session {orphan.session_dir.name}: {one_line(orphan.command)}")
    words = [_summary(report, dry_run=dry_run)] + (
        [f"ended {count_of(len(ended), 'process', 'processes')}"] if ended else []
    )
    words += [f"forgot {count_of(len(forgotten), 'session')} that other hosts have deleted"] * bool(forgotten)
    words += [f"{'would encrypt' if dry_run else 'encrypted'} {count_of(len(sealed), 'session')}"] * bool(sealed)
    words.append(code)
    words += [f"{session_id} continues, its quota has reset" for session_id in woken]
    words += [f"{session_id} goes on with its queue" for session_id in going_on]
    if said := "; ".join(word for word in words if word):
        print(f"csa gc: {said}")
    _warn_of_rest(report, damaged=dry_run or sys.stderr.isatty())
    return 1 if report.failures else 0


def _encrypt(context: Context, stores: Iterable[Store], report: Report, *, dry_run: bool) -> list[str]:
    """Encrypt what has finished, if that is configured, deleted sessions too; return the ids."""
    from csa.runner.atrest import is_to_seal, seal_finished, sweep_memory  # noqa: PLC0415  # few are encrypted

    if not dry_run:
        sweep_memory()
    encryption = context.config.encryption
    if not encryption.seals:
        return []
    done: list[str] = []
    for store in stores:
        for session_id in (*store.ids(), *store.retired_ids()):
            try:
                if dry_run:
                    is_sealed = is_to_seal(paths := store.find(session_id)) and probe(paths).state == "not_alive"
                else:
                    is_sealed = seal_finished(store, session_id, encryption.recipients)
            except StateError:  # it is damaged, or gone, and said elsewhere
                continue
            except (OSError, CsaError) as error:
                report.failures.append(f"session {session_id} could not be encrypted: {error}")
                continue
            done += [session_id] * is_sealed
    return done


def _forget_mirrored(root: Path, arguments: argparse.Namespace, report: Report) -> list[Target]:
    if not os.path.isdir(root / MIRRORS):
        return []
    from csa.runner.hosts.forgetting import forget_deleted  # noqa: PLC0415  # few know other hosts

    try:
        return forget_deleted(root, days=arguments.days, dry_run=arguments.dry_run)
    except StateError as error:
        report.failures.append(error.message)
        return []


def _sweep_placed(root: Path, report: Report) -> None:
    from csa.store.placements import sweep_placements  # noqa: PLC0415  # few have placed anything

    try:
        sweep_placements(root)
    except OSError as error:
        report.failures.append(f"{error.filename}: {error.strerror}")


def _forget_code(context: Context, report: Report, *, dry_run: bool) -> str:
    """Delete code of other hosts that no session uses any more; return what to say of it."""
    root = context.store.root_pathname
    if not os.path.isdir(f"{root}/{CODE}"):  # as for nearly everybody
        return ""
    from csa.store.oldcode import find_unused, forget_code  # noqa: PLC0415  # as above

    try:
        sizes = [0] * len(find_unused(root)) if dry_run else list(forget_code(root, context.environ))
    except OSError as error:
        report.failures.append(f"{error.filename}: {error.strerror}")
        return ""
    report.freed_bytes += sum(sizes)
    what = count_of(len(sizes), "repository of other hosts' code", "repositories of other hosts' code")
    return f"{'would delete' if dry_run else 'deleted'} {what}" if sizes else ""


_PROGRESS_S = 0.2


def _days(text: str) -> int:
    """Read the value of --days."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 0 or more")
    return int(text)


def _read_rule(arguments: argparse.Namespace, context: Context) -> Rule:
    """Build the rule from the options that the command has."""
    asked = getattr(arguments, "older_than", None)
    older_than = parse_duration(asked) if asked is not None else None
    if asked is not None and older_than is None:
        raise UsageError(f"--older-than takes a duration such as 7d, 12h or 30m, not '{asked}'.")
    return Rule(
        days=arguments.days,
        older_than=older_than,
        tools=read_tools(getattr(arguments, "tool", None)),
        damaged=getattr(arguments, "damaged", False),
        purge=getattr(arguments, "purge", False),
        undo_days=context.config.undo_days,
    )


class _Counter:
    """Shows a count on stderr while it takes long, on a terminal."""

    def __init__(self) -> None:
        self._is_terminal = can_redraw(sys.stderr)
        self._is_shown = False
        self._count = 0
        self._next = time.monotonic() + _PROGRESS_S

    def __call__(self, _item: Item) -> None:
        """Add one."""
        self._count += 1
        if self._is_terminal and time.monotonic() >= self._next and not is_in_background(sys.stderr):
            self._is_shown = True
            self._next = time.monotonic() + _PROGRESS_S
            self._write(f"\r{self._count} deleted ...")

    def end(self) -> None:
        """Remove the count."""
        if self._is_shown:
            self._write("\r\033[K")

    @staticmethod
    def _write(text: str) -> None:
        with lossy(sys.stderr):
            sys.stderr.write(text)
            sys.stderr.flush()


def _print_items(report: Report, *, dry_run: bool, with_project: bool = False) -> None:
    """Print a line for each item that was, or would be, deleted."""
    width, now = terminal_width(sys.stdout), datetime.now(UTC)
    tool_width = max((len(_tools_of(item)) for item in (*report.retired, *report.purged)), default=0)
    for verb, items in (("delete", report.retired), ("purge", report.purged)):
        word = f"would {verb}" if dry_run else f"{verb}d"
        for item in items:
            about = _item_in_words(item, now, tool_width, with_project=with_project)
            print(cut_behind(as_read(f"{word}  {item.session_id}", sys.stdout), about, width))


def _item_in_words(item: Item, now: datetime, tool_width: int, *, with_project: bool) -> str:
    state = item.state
    age = format_age(now, state.last_accessed) if state else "-"
    about = (f"[{state.name}] " if state.name else "") + state.description if state else ""
    place = f"  {one_line(str(item.store.project))}" if with_project else ""
    return f"  {item.reason:<9} {age:>4}  {_tools_of(item):<{tool_width}}{place}  {one_line(about)}".rstrip()


def _tools_of(item: Item) -> str:
    return one_line(",".join(item.state.tools)) or "-" if item.state else "-"


def _summary(report: Report, *, dry_run: bool) -> str:
    """Return a one-line summary; empty if nothing was deleted."""
    size = "" if report.is_size_whole else "more than "
    parts = []
    if report.retired:
        verb = "would delete" if dry_run else "deleted"
        parts.append(f"{verb} {_count_items(report.retired)} ({size}{size_words(report.retired_bytes)})")
    if report.purged:
        verb = "would purge" if dry_run else "purged"
        parts.append(f"{verb} {_count_items(report.purged)} ({size}{size_words(report.freed_bytes)} freed)")
    return "; ".join(parts)


def _count_items(items: list[Item]) -> str:
    """Count sessions and other items."""
    counts: dict[str, int] = {}
    for item in items:
        name = {each: each for each in ("remains", "runtime", "backup", "worktree")}.get(item.reason, "session")
        counts[name] = counts.get(name, 0) + 1
    words = {
        "session": ("session", "sessions"),
        "remains": ("remains of a start or deletion", "remains of starts or deletions"),
        "runtime": ("runtime directory", "runtime directories"),
        "backup": ("backup of a repair", "backups of repairs"),
        "worktree": ("worktree", "worktrees"),
    }
    return ", ".join(f"{count} {words[name][count != 1]}" for name, count in counts.items())


def _warn_of_rest(report: Report, *, damaged: bool) -> None:
    """Warn about what was left although it is old enough, and what failed."""
    shown = report.damaged if damaged else []
    warn(f"damaged, left as it is: {fault.message}" for _, fault in shown)
    warn(f"session {kept.session_id} is kept: {kept.why}" for kept in (report.kept if damaged else []))
    warn(report.failures)
    if damaged and report.kept:
        tell("hint", "csa land S brings the work into your checkout; csa rm --force S gives it up")
    if shown:
        tell("hint", "csa validate shows more; --damaged deletes old ones")


def _damaged_to_json(session_id: str, fault: StateError) -> dict[str, object]:
    return {"session_id": session_id, "fault": error_to_json(fault), "id": session_id, "error": str(fault)}


def _print_report(report: Report, *, dry_run: bool, more: dict[str, Any] | None = None) -> None:
    """Print everything as one object."""
    print_json(
        {
            "dry_run": dry_run,
            "retired": [item.to_json() for item in report.retired],
            "purged": [item.to_json() for item in report.purged],
            "damaged": [_damaged_to_json(session_id, fault) for session_id, fault in report.damaged],
            "running": report.running,
            "kept": [kept.to_json() for kept in report.kept],
            "retired_bytes": report.retired_bytes,
            "freed_bytes": report.freed_bytes,
            "failures": report.failures,
            **(more or {}),
        }
    )
