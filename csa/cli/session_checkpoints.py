"""List the checkpoints of the project's sessions, or of one, newest first.

--show prints what a checkpoint holds; it takes a commit's name or the beginning of one. --verify computes the digests
anew and compares them: `ok`; `changed` or `truncated`, when the transcript is not what it was; `unbound`, when the git
note is missing or another; `gone`, when the session is no more. Exits 1 when one is changed, truncated or unbound.
"""

from __future__ import annotations

import sys
from typing import Any

from csa.cli.output import Style, cut_behind, one_line, print_json, printable, terminal_width
from csa.cli.selecting import open_client
from csa.errors import UsageError
from csa.model.clock import from_timestamp, local_clock
from csa.model.state import format_time

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.runner.client import Csa
    from csa.runner.setting import Setting
    from csa.store.checkpoints import Checkpoint, Verification

_COLOURS = {"ok": "green", "gone": "dim"}
_SHOWN = 12  # characters of a commit's name


def configure(parser: argparse.ArgumentParser) -> None:
    what = "only of this session: an id, a unique prefix of one, a name, or @last"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=what)
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--show", metavar="COMMIT", help="print what a checkpoint holds")
    kinds.add_argument("--verify", action="store_true", help="compute the digests anew, and compare")
    parser.add_argument("--json", action="store_true", help="print an array of objects; with --show, an object")


def execute(arguments: argparse.Namespace) -> int:
    session_id, setting = _chosen(open_client(), arguments)
    if arguments.show is not None:
        return _show(setting, arguments.show, as_json=arguments.json)
    from csa.store.checkpoints import list_checkpoints, verify_checkpoint  # noqa: PLC0415  # --help needs none of it

    store = setting.store
    found = list(list_checkpoints(store, setting.environ, session_id))
    verdicts = [verify_checkpoint(store, each) if arguments.verify else None for each in found]
    if arguments.json:
        print_json([to_json(each, verdict) for each, verdict in zip(found, verdicts, strict=True)])
    else:
        _print_rows(found, verdicts, of_one=session_id is not None)
    return 1 if any(verdict not in {None, "ok", "gone"} for verdict in verdicts) else 0


def to_json(checkpoint: Checkpoint, verdict: Verification | None = None) -> dict[str, Any]:
    """Return a checkpoint as an object; `verified` only where it was."""
    facts = checkpoint.facts
    checked = {} if verdict is None else {"verified": verdict}
    return {
        "commit": checkpoint.commit,
        "session_id": facts.session_id,
        "created_at": format_time(from_timestamp(checkpoint.at)),
        "turn": facts.turn,
        "status": facts.status,
        "tool": facts.tool,
        "label": facts.label,
        "automatic": facts.automatic,
        "sha256": facts.sha256,
        "events": facts.events,
        "bytes": facts.bytes,
        **checked,
    }


def _chosen(client: Csa, arguments: argparse.Namespace) -> tuple[str | None, Setting]:
    """Return the session that is named, if one is, and the setting of its project, else of this one."""
    given = [text for text in (arguments.session, arguments.session_option) if text is not None]
    if len(given) > 1:
        raise UsageError("Name the session once.", hint="csa session list")
    if not given:
        return None, client.setting
    session = client.session(given[0], retired=True)
    return session.session_id, session.setting


def _print_rows(found: list[Checkpoint], verdicts: list[Verification | None], *, of_one: bool) -> None:
    if not found:
        print("No checkpoints found")
        print("hint: csa session checkpoint --session S makes one", file=sys.stderr)
    style, width = Style(sys.stdout), terminal_width(sys.stdout)
    for each, verdict in zip(found, verdicts, strict=True):
        facts = each.facts
        name = each.commit[:_SHOWN] if width else each.commit
        clock = local_clock(from_timestamp(each.at))
        what = one_line(facts.label or ("automatic" if facts.automatic else ""))
        whose = "" if of_one else f"{facts.session_id}"
        row = f"{'' if of_one else '  '}{clock}  turn {facts.turn:<3} {what}"
        checked = "" if verdict is None else f"{style(f'{verdict:<10}', _COLOURS.get(verdict, 'red'))}"
        taken = len(name) + 2 + (10 if verdict else 0)
        print(f"{checked}{style(name, 'cyan')}  {cut_behind(whose, row, width and max(1, width - taken))}".rstrip())


def _show(setting: Setting, name: str, *, as_json: bool) -> int:
    from csa.store.checkpoints import find_checkpoint, read_kept_file, verify_checkpoint  # noqa: PLC0415  # as above

    store, environ = setting.store, setting.environ
    found = find_checkpoint(store, environ, name)
    files = {kept: read_kept_file(store, environ, found, kept) for kept in ("state.toml", "result.toml")}
    verdict = verify_checkpoint(store, found)
    if as_json:
        print_json({**to_json(found, verdict), "files": files})
        return 0
    style = Style(sys.stdout)
    for key, value in to_json(found, verdict).items():
        if value is not None:
            print(f"{key:<11} {one_line(str(value))}")
    for kept, content in files.items():
        if content is not None:
            print(f"\n{style(f'--- {kept}', 'bold')}\n{printable(content.rstrip())}")
    return 0
