"""The options of `csa run`, and those of them that any command takes that runs a turn."""

from __future__ import annotations

import argparse
import math

from csa.cli.parsing import Parser
from csa.model.configkeys import AUTO, TRANSPORTS
from csa.model.permission import Permission


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all that `csa run` takes."""
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="what to do; `-`, or no PROMPT in a pipe, reads it from stdin; on a terminal no PROMPT opens $EDITOR",
    )
    which = add_session_options(parser)
    which.add_argument(
        "--queue",
        action="store_true",
        help="run in the background after the session's running turn and what is queued already; else at once",
    )
    which.add_argument("--after-turn", type=int, metavar="N", help="only if turn N is the session's last; else exit 4")
    which.add_argument("--ephemeral", action="store_true", help="read no project files and keep no session")
    add_worktree_options(parser)
    add_template_options(parser)
    prompt = parser.add_argument_group("the prompt")
    prompt.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file; `-` is stdin")
    prompt.add_argument("--stdin", action="store_true", help="append stdin to PROMPT, after a blank line")
    add_turn_options(parser)
    parser.set_defaults(is_literal=False, flags=(), way_to_stdin="csa run --stdin adds it to the prompt")


def add_session_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what says which session a turn belongs to; return the group for more of that kind."""
    which = parser.add_argument_group("which session")
    which.add_argument("-s", "--session", metavar="S", help="continue session S (an id, a unique prefix or a name)")
    which.add_argument("-c", "--last", action="store_true", help="continue the session used last")
    which.add_argument(
        "--continue", dest="continues", action="store_true", help="continue the current session (csa current)"
    )
    which.add_argument("--new", action="store_true", help="start a new session, as by default; never continue one")
    which.add_argument(
        "--session-id", metavar="ID", help="continue the session of this ULID, UUID or name, or create it"
    )
    which.add_argument("--fork-from", metavar="S", help="start a new session with a copy of S's conversation")
    add_about_options(which)
    return which


def add_worktree_options(parser: argparse.ArgumentParser) -> None:
    """Add what gives a new session a checkout of its own."""
    tree = parser.add_argument_group("a git worktree of its own (docs/worktrees.md)")
    tree.add_argument(
        "--worktree",
        nargs="?",
        const="",
        metavar="NAME",
        help="work in a new worktree, on the new branch csa/NAME from HEAD; csa commits there what each turn leaves",
    )
    tree.add_argument("--with-changes", action="store_true", help="begin it with what is not committed here, too")
    tree.add_argument(
        "--setup",
        metavar="CMD",
        help="run this shell command in it before the agent (default: as configured); '' is none",
    )
    tree.add_argument(
        "--repair",
        action="store_true",
        help="have the agent resolve what csa land has refused: a conflict, or a failed check; needs no PROMPT",
    )


def add_template_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a template."""
    template = parser.add_argument_group("a template: what no option says, it does")
    which = template.add_mutually_exclusive_group()
    which.add_argument("--template", metavar="TEMPLATE", help="use this template (csa template list)")
    which.add_argument(
        "--as", dest="specialist", metavar="TEMPLATE", help="the same, for one that names a tool: a specialist"
    )
    template.add_argument(
        "--var", dest="variables", action="append", metavar="NAME=VALUE", help="set a variable of it; repeatable"
    )


def defaults_of_run() -> dict[str, object]:
    """Return the arguments of a `csa run` without any, for commands that run turns with fewer of them."""
    parser = Parser(prog="csa run", description="")
    add_options(parser)
    return dict(vars(parser.parse_args([])))


def add_turn_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how a turn is run, whatever its prompt and its session, and what is printed of it."""
    how = add_agent_options(parser)
    add_place_options(parser)
    add_outcome_options(parser, how)


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add what says on which host a turn runs."""
    where = parser.add_argument_group("on which host (docs/hosts.md)")
    where.add_argument(
        "--on",
        metavar="HOST",
        help="run it on HOST, as in ssh HOST; a session HOST:S runs there without this (default: here)",
    )
    where.add_argument(
        "--allow-tokens", type=int, metavar="N", help="tokens that it and all below it may use there of a budget here"
    )
    where.add_argument("--allow-usd", type=float, metavar="X", help="likewise in US dollars")
    where.add_argument("--allow-time", type=float, metavar="S", help="likewise in seconds of all turns")


def add_outcome_options(parser: argparse.ArgumentParser, how: argparse._ArgumentGroup) -> None:
    """Add what says when a turn runs, and what is printed of it."""
    how.add_argument("--detach", action="store_true", help="run in the background: print the session's id and return")
    how.add_argument(
        "--wait",
        nargs="?",
        const=math.inf,
        type=float,
        metavar="S",
        help="wait if the session is busy or a limit on running turns is reached; at most S seconds with --wait=S",
    )
    how.add_argument("--dry-run", action="store_true", help="show what would run; create and start nothing")
    output = parser.add_argument_group("output")
    told = output.add_mutually_exclusive_group()
    told.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    told.add_argument("-v", "--verbose", action="store_true", help="show the conversation on stderr as it comes")
    kinds = output.add_mutually_exclusive_group()
    kinds.add_argument(
        "--summary", action="store_true", help="print about 200 tokens of a long answer, and how to get the rest"
    )
    kinds.add_argument("--json", action="store_true", help="print the result as a JSON object instead of the answer")
    kinds.add_argument("--stream-json", action="store_true", help="print the transcript's events as they happen")
    kinds.add_argument("--print-id", action="store_true", help="print the session's id instead of the answer")


def add_about_options(parser: argparse._ActionsContainer) -> None:
    """Add what a new session is told about itself."""
    parser.add_argument(
        "--description", metavar="TEXT", help="what the session is about (default: start of the prompt)"
    )
    parser.add_argument("--name", metavar="NAME", help="a name for the session, unique in the project")
    parser.add_argument("--ttl", metavar="TIME", help="let the session expire after this time: 7d, 12h, 30m")


def add_kept_options(how: argparse._ActionsContainer) -> None:
    """Add what a session keeps for its later turns."""
    how.add_argument("-t", "--tool", metavar="T", help=f"the tool to use: codex, claude-code, ..., or {AUTO}")
    how.add_argument(
        "-m", "--model", metavar="M", help="the model to ask for; the session keeps it, `default` forgets it"
    )
    how.add_argument("--effort", metavar="E", help="the reasoning effort to ask for; kept and forgotten likewise")
    how.add_argument(
        "--permission", choices=[level.value for level in Permission], help="what the agent may do (default: edit)"
    )
    how.add_argument(
        "--ask",
        action=argparse.BooleanOptionalAction,
        help="let the agent ask for what that denies (csa answer), from now on; where its tool can (default: no)",
    )
    how.add_argument(
        "--extra-writable",
        metavar="DIR",
        action="append",
        help="also let the agent write in DIR at --permission edit; repeatable, and kept by the session",
    )
    how.add_argument(
        "--shared",
        choices=("on", "off"),
        help="off: no other tool may work in the session or get its history, from now on (default: on)",
    )
    how.add_argument(
        "--context-window",
        type=int,
        metavar="N",
        help="send the tool at most the N newest turns of the session, from now on; 0 is all",
    )
    how.add_argument(
        "--context-tokens", type=int, metavar="N", help="send it at most N tokens of them, from now on; 0 is no limit"
    )


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_argument_group("budget of the session and everything its agents start; 0 means none")
    budget.add_argument("--budget-tokens", type=int, metavar="N", help="input and output tokens")
    budget.add_argument("--budget-usd", type=float, metavar="X", help="US dollars, as far as the tools report cost")
    budget.add_argument("--budget-time", type=float, metavar="S", help="total seconds of all turns")


def add_agent_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what says which agent runs a turn, with which rights and limits; return the group for more of that kind."""
    how = parser.add_argument_group("how")
    add_kept_options(how)
    how.add_argument(
        "--transport", choices=TRANSPORTS, help="how csa talks to the tool (default: as configured, or native)"
    )
    how.add_argument(
        "--ask-timeout",
        type=float,
        metavar="S",
        help="deny what it asks for (--ask) if nobody answers for S seconds; 0: wait as long as the turn lasts",
    )
    how.add_argument("--system", metavar="TEXT", help="add TEXT to the tool's system prompt")
    how.add_argument("--system-file", metavar="FILE", help="the same, from a file")
    how.add_argument(
        "--image", metavar="FILE", action="append", help="send a PNG, JPEG, GIF or WebP with the prompt; repeatable"
    )
    how.add_argument("--file", metavar="FILE", action="append", help="send a text file or PDF with it; repeatable")
    how.add_argument(
        "--schema",
        metavar="FILE",
        help="have the answer conform to the JSON Schema in FILE (or `{...}`), and print it as JSON; `none` is none",
    )
    how.add_argument(
        "--secret",
        metavar="NAME[=SOURCE]",
        action="append",
        help="give the tool the variable NAME from env:VARIABLE or file:FILE (default: env:NAME); hide its value in "
        "all that csa writes; repeatable, for this turn only",
    )
    how.add_argument("--timeout", type=float, metavar="S", help="end the turn after S seconds")
    how.add_argument("--idle-timeout", type=float, metavar="S", help="end it after S seconds without output or work")
    how.add_argument("--on-finish", metavar="CMD", help="run this shell command when the turn has ended")
    how.add_argument("--on-finish-timeout", type=float, metavar="S", help="kill that command after S seconds; 0: never")
    how.add_argument("--keep-background", action="store_true", help="keep processes that the tool leaves running")
    how.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="retry transient provider errors up to N times, if the agent has not done anything yet (default: 2)",
    )
    how.add_argument(
        "--fallback",
        metavar="T[:M],...",
        help="if the provider fails, continue the same session with the first of these tools (and models) that works",
    )
    how.add_argument(
        "--on-quota",
        metavar="WHAT",
        help="when a quota is used up: fail (default), or wait[=26h] for the stated reset, at most that long",
    )
    how.add_argument(
        "--no-handoff",
        action="store_true",
        help="do not summarise earlier turns by other tools; fail if the tool's own conversation is gone",
    )
    how.add_argument("--reopen", action="store_true", help="continue the session even if it is closed (csa close)")
    how.add_argument(
        "--steal", action="store_true", help="with --session: take it even if another machine may still be running it"
    )
    add_budget_options(parser)
    return how
