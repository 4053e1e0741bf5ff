"""The object of a session in `csa land --json`, and wherever else its work is landed. Pure."""

from __future__ import annotations

from csa.model.schemas.kit import each, flag, maybe, one_of, record, ref, text, texts
from csa.model.schemas.shared import words

LANDED = record(
    {
        **words("session_id"),
        "status": one_of(
            "what became of its work: `already` (it was in the checkout), `would_land` and `would_refuse` in a dry run",
            *("landed", "already", "nothing", "refused", "not_tried", "would_land", "would_refuse"),
        ),
        "into": maybe(text("the checkout; null if nothing was done, like the next three")),
        "branch": maybe(text("the branch that is checked out there; null if its head is detached")),
        "onto": maybe(text("its commit before")),
        "head": maybe(text("and after")),
        "commits": texts("those that it got, oldest first"),
        "files": texts("what has changed"),
        "conflicts": texts("the files in conflict, or with conflict markers"),
        "in_way": texts("in a dry run: the files that you have changed, and that would change"),
        "warnings": texts("what else to know"),
        "others": each(
            record(
                {
                    "commit": text("the commit"),
                    "subject": text("its first line"),
                    "session_id": maybe(text("the session whose work it was")),
                }
            ),
            "the commits that have changed the files in conflict meanwhile, newest first",
        ),
        "is_squashed": flag("the work is one commit now"),
        "is_dropped": flag("its worktree was removed"),
        "said": maybe(text("the last lines of the check, or of the hook that refuses")),
        "error": maybe(ref("error", "why it is not landed; `kind` is also `conflict`, `markers`, `check` or `hook`")),
    },
)
