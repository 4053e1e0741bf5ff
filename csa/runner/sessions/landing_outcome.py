"""What became of a landing: what was brought into a checkout, or why nothing was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from csa.errors import CsaError
from csa.model.redaction import Redactor
from csa.model.text import some_names
from csa.model.worktree import Refused
from csa.store.landing import Commit
from csa.structs import Struct, asdict

_TOLD_LINES = 40  # of the output of a check


class LandError(CsaError):
    """The work of a session cannot be landed as it is; nothing was changed in the checkout.

    Attributes:
        kind: conflict, markers (left by a repair), check (failed) or hook (of the project, refused).
        session_id: whose work it is.
        files: in conflict, or with markers.
        onto: the commit that it was to follow.
        others: what has changed those files there meanwhile: commits, with the sessions they were landed for.
        said: the last lines of the check, or of the hook.
    """

    def __init__(
        self, refused: Refused, session_id: str, *, check: str | None = None, others: Sequence[Commit] = ()
    ) -> None:
        super().__init__(_WORDS[refused.kind](refused, session_id, check), hint=f"csa run -s {session_id} --repair")
        self.kind = self.code = refused.kind
        self.session_id = session_id
        self.files = refused.files
        self.onto = refused.onto
        self.others = tuple(others)
        self.said = refused.message


_WORDS: dict[str, Callable[[Refused, str, str | None], str]] = {
    "conflict": lambda refused, who, _: f"The work of session {who} conflicts in {some_names(refused.files)}.",
    "markers": lambda refused, who, _: (
        f"The work of session {who} has conflict markers in {some_names(refused.files)}."
    ),
    "check": lambda _, who, check: f"The check of session {who}'s work failed: {check}.",
    "hook": lambda _, who, __: f"The pre-commit hook refuses what session {who} has left.",
}


class Landed(Struct, kw_only=True):
    """What was landed, or would be.

    Attributes:
        session_id: whose work.
        into: the top of the checkout.
        branch: the branch that is checked out there; None if its head is detached.
        onto: its commit before.
        head: its commit after; the same if there was nothing to land.
        commits: those that it got, oldest first.
        files: the paths that have changed.
        is_squashed: whether the work is one commit now, as asked for or because it did not fit otherwise.
        is_dropped: whether the session's worktree was removed.
        is_contained: whether the work had come into the checkout in another way.
        is_preview: whether it is a dry run, which has changed nothing.
        conflicts: of a dry run, the files in conflict.
        in_way: of a dry run, the files that were changed in the checkout, and would change.
        warnings: what else one should know.
    """

    session_id: str
    into: str
    branch: str | None
    onto: str
    head: str
    commits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    is_squashed: bool = False
    is_dropped: bool = False
    is_contained: bool = False
    is_preview: bool = False
    conflicts: tuple[str, ...] = ()
    in_way: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """What became of the work, in a word."""
        if self.is_preview and self.commits:
            return "would_refuse" if self.conflicts or self.in_way else "would_land"
        if self.is_contained:
            return "already"
        return "landed" if self.commits else "nothing"


def told(redactor: Redactor, output: str) -> str:
    """Return the last lines of an output, redacted."""
    return "\n".join(redactor.redact(output).strip().splitlines()[-_TOLD_LINES:])


def outcome_to_json(
    session_id: str,
    landed: Landed | None = None,
    error: CsaError | None = None,
    *,
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the object of a session in `csa land --json`; without an outcome it was not tried.

    `told` is the error's object.
    """
    known: dict[str, Any] = dict.fromkeys(("into", "branch", "onto", "head"))
    known |= {name: [] for name in ("commits", "files", "conflicts", "in_way", "warnings", "others")}
    known |= {"is_squashed": False, "is_dropped": False, "said": None}
    if landed:
        known |= {name: getattr(landed, name) for name in known if hasattr(landed, name)}
    if isinstance(error, LandError):
        others = [asdict(each) for each in error.others]
        known |= {"conflicts": error.files, "onto": error.onto, "others": others, "said": error.said or None}
    status = landed.status if landed else "refused" if error else "not_tried"
    lists = {name: list(value) for name, value in known.items() if isinstance(value, tuple)}
    return {"session_id": session_id, "status": status, **known, **lists, "error": told}
