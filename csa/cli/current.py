"""The current session, which `csa run --continue` continues: making one without a turn, choosing one, closing it."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import one_line, print_act, print_json, tell, terminal_width, warn
from csa.cli.selecting import add_selector, find, open_client, selected_if_any, selectors_given
from csa.cli.views.naming import called, head_of_line
from csa.errors import UsageError
from csa.runner.current import change_current, current_id, find_pointer, leave_current, make_current
from csa.runner.session import refuse_closed
from csa.store.queue import count_queued
from csa.store.shown import SessionInfo


def configure_new(parser: argparse.ArgumentParser) -> None:
    from csa.cli.run_options import add_about_options, add_budget_options, add_kept_options  # noqa: PLC0415  # as below

    add_about_options(parser)
    add_kept_options(parser.add_argument_group("what its turns use, unless they ask for something else"))
    add_budget_options(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_new(arguments: argparse.Namespace) -> int:
    """Make a session without running anything in it, make it the current one, and print its id.

    Its first turn, by csa run --continue "..." or csa run --session ID "...", uses the tool, the model, the permission
    and so on that are given here, in the directory csa was called in. Until then its status is idle. Inside a session
    it becomes a child of that, within its limits, and nobody's current session.
    """
    from csa.cli.run_options import defaults_of_run  # noqa: PLC0415  # `csa current` need not wait for it
    from csa.cli.run_request import request_from  # noqa: PLC0415  # as above

    client = open_client()
    if client.caller is None:
        find_pointer(client.context)  # what CSA_CURRENT cannot mean is refused before anything is made
    warn(client.context.config.warnings)
    given = argparse.Namespace(**{**defaults_of_run(), **vars(arguments), "prompt": "", "is_literal": True})
    created = client.create(request_from(given))
    loss = make_current(client.context, created.session_id)
    losses = [each for each in (created.loss, loss) if each]
    is_current = current_id(client.context, client.store) == created.session_id
    if arguments.json:
        print_json({**created.to_json(), "current": is_current})
    else:
        print(created.session_id)
    warn(losses)
    if is_current:
        tell("csa", f"session {created.session_id} is the current one")
    return 0


def configure_current(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", nargs="?", metavar="SESSION", help="the session to make the current one")
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")
    parser.add_argument("--clear", action="store_true", help="choose no session")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_current(arguments: argparse.Namespace) -> int:
    """Choose the current session, which csa run --continue continues; without a session, print it.

    csa use S and csa switch S do the same. Every csa run makes its session the current one. @current names it, csa ls
    marks it. There is one in each project; with the variable CSA_CURRENT set to a word, such as the number of the
    terminal, one for each word; set to a full session id, it is that session, whatever runs. Agents have none.
    """
    given = selectors_given(arguments)
    if len(given) + arguments.clear > 1:
        raise UsageError("Name one session, or use --clear.")
    client = open_client()
    chosen = None
    if arguments.clear:
        change_current(client.context, None)
    elif given:
        chosen = client.session(given[0])
        if state := chosen.record.state:
            refuse_closed(state)
        change_current(client.context, chosen.session_id)
    elif not arguments.json or find_pointer(client.context).read(client.store):  # with --json, none is an answer
        chosen = client.session("@current", retired=True)
    if arguments.json:
        print_json({"session_id": chosen.session_id if chosen else None})
    elif chosen:
        _print_current(SessionInfo(record=chosen.record, status=""), terminal_width(sys.stdout))
    return 0


def _print_current(info: SessionInfo, width: int | None) -> None:
    about = one_line((not width and info.name) or info.state.description) if info.state else ""
    end = f" ({info.phase})" if info.state and info.phase in {"closed", "retired"} else ""
    print(f"{called(info, width)}  {about}{end}".rstrip())


def configure_close(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_close(arguments: argparse.Namespace) -> int:
    """Close a session that is done with, by default the current one, which is then no longer current.

    A closed session stays, and can be read, renamed, exported and forked. It is continued only with --reopen, as in
    csa run --session S --reopen "..." or csa open S --reopen, which open it again: run, retry, chat, open and compress
    refuse it otherwise, and --last passes it over. Refused while the session is running.
    """
    from csa.model.state import format_time  # noqa: PLC0415  # 40 ms, with the next, which `csa current` need not wait for
    from csa.runner.sessions.editing import close_session  # noqa: PLC0415  # as above

    client = open_client()
    selector = selected_if_any(arguments)
    session = find(client, "@current" if selector is None else selector, acts=True)  # an empty one is a mistake
    edit = close_session(session)
    state = edit.after
    loss = leave_current(client.context, state.session_id)
    who, named = head_of_line(state.session_id)
    words = f"{who} is closed{'' if edit.is_change else ' already'}{f'  {named}' if named else ''}"
    assert state.closed_at
    facts = {"session_id": state.session_id, "project": state.project_path, "closed_at": format_time(state.closed_at)}
    print_act(arguments, words, facts, [*edit.losses, *([loss] if loss else [])])
    if waiting := count_queued(session.files):
        tell("csa", f"{waiting} queued prompt{'s' * (waiting != 1)} of it will not begin")
        tell("hint", f"csa queue {state.session_id} lists what waits")
    return 0
