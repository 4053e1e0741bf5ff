"""The records of sessions: whether they are whole, and what git keeps of them."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import (
    Style,
    count_of,
    cut,
    fold,
    one_line,
    print_json,
    printable,
    tell,
    terminal_width,
    warn,
)
from csa.cli.selecting import add_selector, find_one, find_to_show, open_client, selected_if_any
from csa.cli.views.naming import as_read
from csa.errors import StateError
from csa.model.clock import from_timestamp, local_clock
from csa.runner.sessions.acting import record_act
from csa.runner.sessions.history import session_log
from csa.runner.sessions.repairing import repair_session
from csa.runner.turns.checkpointing import checkpoint_session
from csa.store.checking import check_names, check_session
from csa.store.checkpoints import find_checkpoint, list_checkpoints, read_kept_file, verify_checkpoint

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.client import Csa
    from csa.runner.context import Context
    from csa.runner.session import Session
    from csa.store.checkpoints import Checkpoint, Verification


_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


def configure_validate(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_validate(arguments: argparse.Namespace) -> int:
    """Check the records of a session, or of all sessions of the project, for damage.

    Checks the state, every line of the transcript, the result, the queue, the files and their permissions, the names,
    and the parents. Changes nothing. An error is damage, which `csa repair` may be able to repair; a warning may
    become one.

    Exits 0 when there is no error, else 6.
    """
    is_one = arguments.session is not None or arguments.session_option is not None
    one = find_one(arguments, retired=True) if is_one else None
    store = one.store if one else open_client().store
    ids = [one.session_id] if one else store.ids()
    problems = [problem for session_id in ids for problem in check_session(store, store.find(session_id))]
    problems += [problem for problem in check_names(store) if not is_one or problem.session_id == ids[0]]
    if arguments.json:
        print_json([problem.to_json() for problem in problems])
    else:
        style = Style(sys.stdout)
        for problem in problems:
            print(
                f"{style(problem.severity, _STYLES[problem.severity])}: {as_read(one_line(str(problem)), sys.stdout)}"
            )
    damaged = dict.fromkeys(problem.session_id for problem in problems if problem.severity == "error")
    if not arguments.json:
        print(f"{count_of(len(ids), 'session')} checked, {len(damaged)} damaged")
    if damaged and not arguments.json:
        tell("hint", f"csa repair --dry-run {next(iter(damaged))}")
    return StateError.exit_code if damaged else 0


def configure_repair(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--steal", action="store_true", help="take it over from a machine that may still run it")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_repair(arguments: argparse.Namespace) -> int:
    """Repair what can safely be repaired in a session's record, and print what was done.

    It drops a last line of the transcript that was cut off; rebuilds an unreadable state.toml from the transcript;
    completes a state.toml or a transcript that lacks the end of the last turn; rewrites a
    result.toml that contradicts the transcript; and restores a missing final.md from the last message. Nothing else is
    touched. Refused while the session is running.

    What it changes is kept as it was, in backup/TIME in the session's directory; of the transcript only what was
    dropped. csa gc removes that after 7 days (`undo_days`).

    --steal takes over a session that another machine ran and that csa cannot know has ended: on a shared disk, or in a
    copy of the state directory. Only you can know that it is no longer running there. If it still is, its turn ends as
    soon as that csa notices.

    Exits 0 when nothing is damaged any more, else 6.
    """
    session = find_one(arguments, retired=True, acts=not arguments.dry_run)
    repair = repair_session(session, dry_run=arguments.dry_run, steal=arguments.steal)
    if arguments.json:
        left = [problem.to_json() for problem in repair.left]
        facts = {"session_id": repair.session_id, "dry_run": arguments.dry_run, "done": repair.done, "left": left}
        print_json({**facts, "backup": repair.backup, "kept": repair.kept})
    else:
        for done in repair.done:
            print(f"{'would repair' if arguments.dry_run else 'repaired'} {one_line(done)}")
        if repair.kept:
            verb = "would keep" if arguments.dry_run else "kept"
            print(f"{verb} {one_line(', '.join(repair.kept))} as before in {repair.backup}")
        if not repair.done:
            print("Nothing to repair")
    warn(repair.losses)
    if not arguments.json:
        words = "cannot be repaired" if arguments.dry_run else "still wrong"
        warn(f"{words}: {problem}" for problem in repair.left)
    return StateError.exit_code if repair.left else 0


def configure_checkpoint(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--label", metavar="TEXT", help="a label for the checkpoint")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_checkpoint(arguments: argparse.Namespace) -> int:
    """Save a checkpoint of a session: its state.toml, its result.toml and its transcript's hash, as a git commit.

    The commit goes to csa's own repository (audit.git in the project's store), on a ref of the session, with a git
    note. Your project's repository is not touched. Prints the commit. Also works while the session is running.
    """
    made = save_checkpoint(find_one(arguments, acts=True), label=arguments.label)
    if arguments.json:
        print_json(made.to_json())
    else:
        print(made.commit)
    return 0


def save_checkpoint(session: Session, *, label: str | None) -> Checkpoint:
    """Save a checkpoint and record the act; what could not be written is told on stderr."""
    made, losses = checkpoint_session(session, label=label)
    loss = record_act(
        session.context, "session checkpoint", session.session_id, what="checkpointed", commit=made.commit
    )
    warn([*losses, *([loss] if loss else [])])
    return made


_ENTRY_COLOURS = {"commit": "yellow", "checkpoint": "cyan", "head": "dim"}
_SHOWN = 12  # characters of a commit's name
_LEAST = 16  # columns for what a checkpoint is of


_VERDICT_COLOURS = {"ok": "green", "gone": "dim"}


def configure_checkpoints(parser: argparse.ArgumentParser) -> None:
    what = "only this session's: a name, an id or a unique prefix of one, or @last"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=what)
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--show", metavar="COMMIT", help="print the contents of a checkpoint")
    kinds.add_argument("--verify", action="store_true", help="recompute the hashes, and compare")
    parser.add_argument("--json", action="store_true", help="print an array of objects; with --show, an object")


def execute_checkpoints(arguments: argparse.Namespace) -> int:
    """List the checkpoints of the project's sessions, or of one session, newest first.

    --show prints the contents of a checkpoint; it takes a commit or a prefix of one. --verify recomputes the hashes and
    compares them: `ok`; `changed` or `truncated` when the transcript is not what it was; `unbound` when the git note is
    missing or different; `gone` when the session no longer exists. Exits 1 when one is changed, truncated or unbound.
    """
    session_id, context = _chosen_session(open_client(), arguments)
    if arguments.show is not None:
        return _show_checkpoint(context, arguments.show, as_json=arguments.json)
    store = context.store
    found = list(list_checkpoints(store, context.environ, session_id))
    verdicts = [verify_checkpoint(store, each) if arguments.verify else None for each in found]
    if arguments.json:
        print_json([each.to_json(verdict) for each, verdict in zip(found, verdicts, strict=True)])
    else:
        _print_checkpoints(found, verdicts, of_one=session_id is not None)
    return 1 if any(verdict not in {None, "ok", "gone"} for verdict in verdicts) else 0


def _chosen_session(client: Csa, arguments: argparse.Namespace) -> tuple[str | None, Context]:
    """Return the session that is named, if one is, and the context of its project, else of this one."""
    if (selector := selected_if_any(arguments)) is None:
        return None, client.context
    session = client.session(selector, retired=True)
    return session.session_id, session.context


def _print_checkpoints(found: list[Checkpoint], verdicts: list[Verification | None], *, of_one: bool) -> None:
    if not found:
        print("No checkpoints found")
        tell("hint", "csa checkpoint S saves one")
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    for each, verdict in zip(found, verdicts, strict=True):
        facts = each.facts
        name = each.commit[:_SHOWN] if width else each.commit
        clock = local_clock(from_timestamp(each.at))
        what = one_line(facts.label or ("automatic" if facts.automatic else ""))
        whose = "" if of_one else f"{as_read(facts.session_id, sys.stdout)}  "
        checked = "" if verdict is None else f"{style(f'{verdict:<10}', _VERDICT_COLOURS.get(verdict, 'red'))}"
        taken = len(name) + 2 + (10 if verdict else 0)
        lines = fold(f"{whose}{clock}  turn {facts.turn:<3} {what}".rstrip(), width and max(_LEAST, width - taken))
        print(f"{checked}{style(name, 'cyan')}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<{taken}}{line.lstrip()}")


def _show_checkpoint(context: Context, name: str, *, as_json: bool) -> int:
    store, environ = context.store, context.environ
    found = find_checkpoint(store, environ, name)
    files = {kept: read_kept_file(store, environ, found, kept) for kept in ("state.toml", "result.toml")}
    verdict = verify_checkpoint(store, found)
    if as_json:
        print_json({**found.to_json(verdict), "files": files})
        return 0
    style = Style(sys.stdout)
    for key, value in found.to_json(verdict).items():
        if value is not None:
            print(f"{key:<11} {one_line(str(value))}")
    for kept, content in files.items():
        if content is not None:
            print(f"\n{style(f'--- {kept}', 'bold')}\n{printable(content.rstrip())}")
    return 0


def configure_log(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_log(arguments: argparse.Namespace) -> int:
    """Print the git history of a session, newest first: its checkpoints, and the commits made during its turns.

    These are the commits between the HEADs that csa saw before and after each turn, including those of others. Without
    a git repository there are only checkpoints. For what happened in the session, see csa logs.
    """
    session = find_to_show(arguments)
    refusals: dict[str, None] = {}  # each is said once
    entries = session_log(session, on_refusal=refusals.setdefault)
    warn(refusals)
    if arguments.json:
        print_json([entry.to_json() for entry in entries])
        return 0
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    for entry in entries:
        name = entry.commit[:_SHOWN] if width else entry.commit
        clock = local_clock(entry.at)
        head = f"{style(name, _ENTRY_COLOURS[entry.kind])}  {clock}  turn {entry.turn:<3} "
        text = f"{entry.kind}: {one_line(entry.subject)}" if entry.kind != "commit" else one_line(entry.subject)
        print(head + cut(text, width and width - len(name) - 2 - len(clock) - 2 - 9))
    if not entries:
        print("Nothing in the git history of this session yet")
        tell("hint", f"csa checkpoint {session.session_id} saves a checkpoint")
    return 0
