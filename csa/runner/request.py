"""What a caller of the library asks for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from csa.model.permission import Permission
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    from csa.model.attachment import Attachment
    from csa.model.worktree import Task

    PermissionName = Literal["read-only", "edit", "full"]

    class RunOptions(TypedDict, total=False):
        """The fields of RunRequest but `prompt`, as keyword arguments."""

        tool: str | None
        transport: str | None
        session: str | None
        last: bool
        session_id: str | None
        description: str | None
        name: str | None
        owner: str | None
        model: str | None
        effort: str | None
        extra_writable: tuple[str, ...] | None
        permission: Permission | PermissionName | None
        ask: bool | None
        ask_timeout_s: float | None
        system: str | None
        schema: dict[str, Any] | None
        images: tuple[str | Attachment, ...]
        files: tuple[str | Attachment, ...]
        opening: str | None
        secrets: tuple[str, ...] | None
        flags: tuple[str, ...] | None
        template: FromTemplate | None
        ephemeral: bool
        fork_from: str | None
        timeout_s: float | None
        idle_timeout_s: float | None
        keep_background: bool
        retries: int | None
        fallback: tuple[str, ...] | None
        park_limit_s: float | None
        handoff: bool | None
        shared: bool | None
        context_window: int | None
        context_tokens: int | None
        budget_tokens: int | None
        budget_usd: float | None
        budget_time_s: float | None
        ttl: timedelta | None
        steal: bool
        reopen: bool
        after_turn: int | None
        directory: Path | None
        worktree: str | None
        worktree_base: str | None
        worktree_target: str | None
        with_changes: bool
        setup: str | None
        repair: bool
        refused: dict[str, Any] | None
        task: Task | None
        plan: tuple[str, ...] | None


class RunRequest(Struct, kw_only=True):
    """What one turn is to do. At most one of `session`, `last` and `session_id` is given; none begins a new session.

    None, or False, leaves what the session has kept, or what is configured. A *selector* is a session's id, a unique
    prefix of one, its name, or `@last`, `@self`, `@parent`, `@root`.

    Attributes:
        prompt: what the agent is to do. The only field that is required.
        tool: the tool's name, or "auto".
        transport: "native" or "acp".
        session: a selector; continue that session.
        last: continue the session used last.
        session_id: a ULID, a UUID or a name; continue that session, or create it.
        description: what the session is about; the beginning of the prompt when None.
        name: a name for the session, unique in its project.
        owner: whose a new session is, for lists and sums; the user and host when None.
        model: the model to ask the tool for, which the session keeps; "default" forgets it.
        effort: the reasoning effort, kept and forgotten likewise.
        extra_writable: directories that the agent may write in too with the permission "edit", kept by the session.
        permission: "read-only", "edit" or "full", or a Permission.
        ask: whether the agent may ask for what its permission denies (see `Csa.asks`), from now on.
        ask_timeout_s: for how many seconds it waits for an answer, before it is denied.
        system: text to add to the tool's system prompt.
        schema: a JSON Schema that the answer has to conform to; the value is `output` in the result.
        images: paths of PNG, JPEG, GIF or WebP files that come with the prompt, as they are when the turn is planned.
        files: likewise, paths of text files or PDFs.
        opening: text that comes before the prompt if the session is new.
        secrets: NAME, NAME=env:VARIABLE or NAME=file:FILE: variables for the tool whose values are stored nowhere.
        flags: words for the tool's own command line, in this turn only; not for an agent that calls csa.
        template: the template it was made from, for the record (see `Csa.from_template`).
        ephemeral: keep nothing; the session is gone when the turn has ended.
        fork_from: a selector; begin the new session with a copy of that one's conversation.
        timeout_s: seconds of wall time, after which the turn is ended.
        idle_timeout_s: seconds without output or CPU use, after which it is ended.
        keep_background: do not end processes that the tool leaves running when it has ended well.
        retries: how often to try again after a transient error of the provider.
        fallback: TOOL or TOOL:MODEL of those that take over, in this order, when the provider fails.
        park_limit_s: how many seconds to wait at most for a used-up quota to reset; 0 is not at all.
        shared: whether other tools may work in the session or get its history, from now on.
        handoff: whether to give the tool a summary of turns that others have run.
        context_window: how many earlier turns the tool is sent at most, from now on; 0 is all.
        context_tokens: how many tokens of earlier turns it is sent at most, from now on; 0 is no limit.
        budget_tokens: tokens that the session and all below it may use; 0 is no budget, None leaves it as it is.
        budget_usd: likewise in US dollars.
        budget_time_s: likewise in seconds of all turns, added up.
        ttl: after which the session expires.
        steal: continue it although another machine, as far as is known, may still run it.
        reopen: continue it although it is closed.
        after_turn: the number of the last turn the sender knows of; if there is another, ChangedError.
        directory: where a new session starts; where the client was opened when None.
        worktree: give the new session a git worktree of its own, made from the checkout around `directory`; its branch
            is `csa/` and this name, or a part of the session's id when empty.
        worktree_base: the commit that it begins with; the checkout's when None.
        worktree_target: the branch that its work is for, of another host's repository; only with `worktree_base`.
        with_changes: begin it with what is not committed in that checkout, too.
        setup: a shell command that prepares the worktree before the tool starts; as configured when None.
        repair: have the agent resolve what kept the session's work from being landed; the prompt may be empty.
        refused: why the work could not be landed on the host that it was fetched to, with `repair`.
        task: which task of a plan the session is for.
        plan: words for csa's scheduler, whose session it is (csa plan run); the prompt is the plan then.
    """

    prompt: str
    tool: str | None = None
    transport: str | None = None
    session: str | None = None
    last: bool = False
    session_id: str | None = None
    description: str | None = None
    name: str | None = None
    owner: str | None = None
    model: str | None = None
    effort: str | None = None
    extra_writable: tuple[str, ...] | None = None
    permission: Permission | PermissionName | None = None
    ask: bool | None = None
    ask_timeout_s: float | None = None
    system: str | None = None
    schema: dict[str, Any] | None = None
    images: tuple[str | Attachment, ...] = ()
    files: tuple[str | Attachment, ...] = ()
    opening: str | None = None
    secrets: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    template: FromTemplate | None = None
    ephemeral: bool = False
    fork_from: str | None = None
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    keep_background: bool = False
    retries: int | None = None
    fallback: tuple[str, ...] | None = None
    park_limit_s: float | None = None
    handoff: bool | None = None
    shared: bool | None = None
    context_window: int | None = None
    context_tokens: int | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    budget_time_s: float | None = None
    ttl: timedelta | None = None
    steal: bool = False
    reopen: bool = False
    after_turn: int | None = None
    directory: Path | None = None
    worktree: str | None = None
    worktree_base: str | None = None
    worktree_target: str | None = None
    with_changes: bool = False
    setup: str | None = None
    repair: bool = False
    refused: dict[str, Any] | None = None
    task: Task | None = None
    plan: tuple[str, ...] | None = None

    def is_templates(self, field: str) -> bool:
        """Say whether it was the template that set a field."""
        return self.template is not None and field in self.template.fields

    def origin_of(self, field: str, option: str) -> str:
        """Return what has set a field: the option, or the template."""
        return f"template {self.template.name}" if self.template and self.is_templates(field) else option


class FromTemplate(Struct):
    """The template that a request was made from: its file, and the fields of the request that it has set."""

    name: str
    place: str
    is_project: bool = False  # it came with the project
    fields: tuple[str, ...] = ()


def request_of(prompt: str | RunRequest, options: RunOptions) -> RunRequest:
    """Return a request for a prompt with options; of a request that is one already, they replace its fields."""
    return replace(prompt, **options) if isinstance(prompt, RunRequest) else RunRequest(prompt=prompt, **options)


def going_on(request: RunRequest, **changes: Any) -> RunRequest:
    """Return the request with `changes`, for the next turn of the session that exists by now.

    What it said about the session and the tool's conversation is in the record and in the plan by now.
    """
    said: dict[str, Any] = {"session": None, "session_id": None, "last": False, "ephemeral": False, "fork_from": None}
    said |= {"name": None, "owner": None, "description": None, "effort": None, "extra_writable": None, "reopen": False}
    said |= {"ask": None, "after_turn": None, "worktree": None, "with_changes": False, "setup": None, "task": None}
    said |= {"repair": False, "refused": None, "worktree_base": None, "worktree_target": None}
    if request.template:
        kept = tuple(field for field in request.template.fields if field not in said | changes)
        said["template"] = replace(request.template, fields=kept)
    return replace(request, **{**said, **changes})
