"""Ending turns wherever they run: here, and by `csa kill` on other hosts, once nothing here can place more there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from csa.errors import StateError
from csa.runner.caller import refuse_own_lineage
from csa.runner.session import Session
from csa.runner.sessions.ending import GRACE_S, KillResult, kill_sessions
from csa.store.family import find_placed
from csa.store.sessions import Target


def kill_everywhere(
    sessions: Sequence[Session],
    *,
    tree: bool = False,
    grace_s: float = GRACE_S,
    force: bool = False,
    on_fault: Callable[[StateError], None] | None = None,
    on_loss: Callable[[str], None] = lambda _: None,
) -> Iterator[KillResult]:
    """End sessions as `kill_sessions` does, those of other hosts there; with `tree` also those placed there.

    Of a host that cannot be reached, what is not known to have ended is yielded with a HostError.
    """
    context = sessions[0].context
    for session in sessions:
        refuse_own_lineage(context.caller, session.session_id, verb="kill")
    here = [session for session in sessions if not session.store.host]
    if here:
        yield from kill_sessions(here, tree=tree, grace_s=grace_s, force=force, on_fault=on_fault, on_loss=on_loss)
    there: list[Target] = [session.target for session in sessions if session.store.host]
    if tree:  # asked now: what ran here may have placed one more
        there += find_placed([session.target for session in here])
    if not there:
        return
    from csa.runner.hosts.ending_there import kill_there  # noqa: PLC0415  # few trees are on several hosts

    words = ["kill", "--json", "--timeout", f"{grace_s:g}", *["--tree"] * tree, *["--force"] * force]
    yield from kill_there(context.config.engine, there, words, grace_s=grace_s)
