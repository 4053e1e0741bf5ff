"""The interface between csa and a tool: what an adapter is asked and what it answers. Adapters do no I/O.

A third-party adapter is a class with the shape of `Adapter`, constructible without arguments, named by an entry
point of the group `csa.adapters`; the entry point's name is the adapter's `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from csa.model.permission import Permission
from csa.model.usage import Usage
from csa.structs import Struct, field

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment

ErrorKind = Literal[
    "auth",
    "rate_limit",
    "quota",
    "overloaded",
    "network",
    "server",
    "invalid_request",
    "context_overflow",
    "permission",
    "protocol",
    "spawn",
    "setup",  # csa's own: the command that prepares a worktree failed, and the tool was not started
    "tasks",  # csa's own: a plan has tasks that are neither merged nor done
    "internal",
    "budget",  # csa's own: a budget was used up
    "invalid_output",  # the answer does not conform to the schema that was asked for
    "unknown_conversation",  # the tool has no copy of the conversation to resume or fork; no model was called
]


class Capabilities(Struct):
    """What the tool can do.

    fork: a run can start with a copy of another conversation (`TurnRequest.fork_of`).
    system_on_resume: a different system text takes effect when a conversation is resumed.
    reads: configuration files of the tool that the adapter needs, named like `Probe.login_files`; `./` stands for
        the directory of the turn. Those that exist come with the request (`TurnRequest.files`).
    flags: its command line takes words of the user's own (`TurnRequest.flags`).
    extra_writable: it can be allowed to write extra directories at `edit` (`TurnRequest.extra_writable`).
    images: a prompt can come with images (`TurnRequest.attachments`).
    files: likewise, with text files and PDFs.
    asks: what the level denies can be asked of a person (`TurnRequest.asks`).
    writes_repository: what its agents run at `edit` may write `.git`, and so make branches.
    """

    fork: bool = False
    system_on_resume: bool = True
    reads: tuple[str, ...] = ()
    extra_writable: bool = False
    images: bool = False
    files: bool = False
    flags: bool = False
    asks: bool = False
    writes_repository: bool = True


class TurnRequest(Struct, kw_only=True):
    """One turn to run, as the adapter sees it."""

    prompt: str
    cwd: str
    command: tuple[str, ...]  # how to start the tool: its executable, and arguments the user configured
    provider_session_id: str | None  # the conversation to resume; None starts a new one
    new_provider_id: str  # a fresh UUIDv4, for tools that let the caller choose
    fork_of: str | None = None  # the conversation to copy into a new one
    permission: Permission
    model: str | None = None
    effort: str | None = None
    auth_method: str | None = None  # how to authenticate with an ACP agent, if its user has chosen
    system: str | None = None  # text to add to the tool's system prompt
    schema: Mapping[str, Any] | None = None  # that the answer is to be held to; only one that `accepts_schema`
    attachments: tuple[Attachment, ...] = ()  # images and files that come with the prompt, with their copies' paths
    timeout_s: float | None = None  # the wall-time limit of the turn, if it has one
    ephemeral: bool = False  # load no project files; keep no copy with the provider, if that can be avoided
    environ: Mapping[str, str] = field(default_factory=dict)  # the environment the tool starts with
    is_root: bool = False
    csa_command: str = "csa"  # how an agent calls csa: an absolute path if known
    flags: tuple[str, ...] = ()  # the user's own words for the tool's command line, before those of the adapter
    sandboxed_by: str | None = None  # the adapter in whose tool's sandbox csa itself runs ("codex")
    extra_writable: tuple[str, ...] = ()  # directories that the agent may write besides `cwd`; only at `edit`
    writable_dirs: tuple[str, ...] = ()  # what a nested `csa run` must be able to write, besides the project
    previous_totals: Mapping[str, float] | None = None  # `Outcome.totals` of the last turn of this, or the forked, one
    files: Mapping[str, str] = field(default_factory=dict)  # the existing files of `Capabilities.reads`
    run_directory: str = ""  # where `Invocation.files` will be: absolute, private, only for this turn
    asks: str | None = None  # the token of the answers to permission requests, `permission-ID` in `run_directory`
    ask_timeout_s: float | None = None  # how long to wait for one
    run_directory_is_roots: bool = False  # only root can change it or any directory above it

    @property
    def conversation(self) -> str | None:
        """The tool's conversation that the run resumes or forks.

        An unknown conversation (`unknown_conversation`) counts only if the tool names it, or answers exactly
        the request for it, before the turn begins: a provider may also answer 404, and a model may write anything.
        """
        return self.fork_of if self.provider_session_id is None else self.provider_session_id


class Invocation(Struct):
    """The process to start. The prompt is never in `argv`."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str | None] = field(default_factory=dict)  # changes to the environment; None removes a name
    files: Mapping[str, str] = field(default_factory=dict)  # by their path in `run_directory`; deleted after the turn
    # Paths in `run_directory` that link to absolute ones: one that ends with `/` is created if missing, and
    # one that ends with `/*` links to everything in its target whose name no other file or link has.
    links: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # warnings for the user about this run


class Update(Struct):
    """One event for the transcript: its type, and that type's data."""

    type: str
    data: dict[str, Any]


class ToolExit(Struct):
    """How the tool ended: an exit code, or the signal that killed it; both None if csa had to reap it."""

    code: int | None
    signal: int | None
    stderr_tail: str = ""  # the last 16 KiB


class Outcome(Struct, kw_only=True):
    """The adapter's verdict on a turn, from typed evidence only."""

    succeeded: bool
    text: str = ""  # the final agent message
    stop_reason: str | None = None
    error_kind: ErrorKind | None = None
    error_message: str | None = None
    retry_after_s: float | None = None  # when the provider can be used again, as a delay
    retry_at: float | None = None  # ... if it states the time, such as a quota reset: seconds since the epoch
    usage: Usage | None = None  # of this turn; None if unknown
    totals: Mapping[str, float] | None = None  # running totals of a tool that reports no per-turn figures
    denied: tuple[str, ...] = ()  # titles of tool calls that were refused permission


class CompactionOutcome(Outcome, kw_only=True):
    """The verdict on a compaction. Success needs a proof: the tool's typed event, or its own record."""

    proof: str | None = None  # the proof, as text
    tokens_before: int | None = None  # of the context; None if the tool does not report them
    tokens_after: int | None = None


class Decoder(Protocol):
    """Turns the lines of one run's stdout into updates, and its end into an outcome.

    `usage` updates may come at any time; each has the turn's total so far.
    """

    @property
    def is_finished(self) -> bool:
        """Whether the tool has announced the end of the turn, with nothing left to do.

        May become false again: a later line of work revokes an announced end.
        """

    @property
    def fault(self) -> str | None:
        """Why the run must be stopped at once (it is the wrong conversation); None if it need not."""

    def feed(self, line: bytes) -> list[Update]:
        """Take one line without its newline. Never raises: what cannot be read becomes an `other` update."""

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run after its last line."""


@runtime_checkable
class BackgroundReader(Protocol):
    """A decoder whose tool reports what is still running in the background."""

    @property
    def background(self) -> tuple[str, ...]:
        """Titles of the commands and sub-agents currently running in the background."""

    @property
    def has_answered(self) -> bool:
        """Whether the turn has its answer but not its end: only background work keeps the tool running."""


@runtime_checkable
class RecordReader(Protocol):
    """A decoder whose tool records details of a turn that are not in its stream.

    The files are read after the tool has ended, before `close`.
    """

    @property
    def records(self) -> tuple[str, ...]:
        """Absolute glob patterns of the files, in reading order; the list may grow while they are read."""

    def feed_record(self, line: bytes) -> None:
        """Take one line of such a file. Never raises."""

    def close_records(self) -> list[Update]:
        """Return the updates that are not in the stream."""


class CompactionDecoder(Decoder, Protocol):
    """Reads the run of a compaction."""

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the run after its last line."""


@runtime_checkable
class StderrReader(Protocol):
    """A decoder whose tool reports its retries only on stderr."""

    def feed_stderr(self, line: bytes) -> list[Update]:
        """Take one line of stderr without its newline; most say nothing of interest. Never raises."""


class Probe(Struct):
    """How to check whether the tool is usable: its version command, and what shows that it has credentials.

    Any of the variables or files suffices, unless the adapter is a `LoginJudge`.
    """

    version_arguments: tuple[str, ...]
    login_variables: tuple[str, ...]  # any of these is set
    login_files: tuple[str, ...]  # or any of these exists; `~` and `$NAME` are expanded from the environment
    tested: str = ""  # the version csa is tested with
    install: str = ""  # the command that installs it
    login: str = ""  # what to do to log in, besides setting one of the variables


class LoginRequest(Struct, kw_only=True):
    """What shows whether a tool has credentials."""

    command: tuple[str, ...]  # how to start the tool, as in a `TurnRequest`
    environ: Mapping[str, str]
    files: Mapping[str, str]  # the readable files of `Probe.login_files` and `Capabilities.reads`


class Login(Struct):
    """Whether the tool would send credentials: None if its configuration does not show it.

    `why` is what shows it, or what is missing, without a full stop; `step` is what to do, if not what the probe says.
    """

    is_there: bool | None
    why: str = ""
    step: str = ""


@runtime_checkable
class LoginJudge(Protocol):
    """An adapter that can decide from its probe's files whether the tool would send credentials."""

    def login(self, request: LoginRequest) -> Login:
        """Judge; never raises because of the files' content."""


class RemovalRequest(Struct):
    """A conversation whose copy with the tool is to be deleted. `command` is empty if the tool is not installed."""

    command: tuple[str, ...]
    provider_session_id: str
    environ: Mapping[str, str]


class Removal(Struct):
    """How to delete the tool's copy of a conversation: a command without prompts, or the files.

    `files` are absolute glob patterns.
    """

    argv: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@runtime_checkable
class Remover(Protocol):
    """An adapter whose tool's copies of conversations can be deleted."""

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Say how to delete one; None if the id is not one of the tool's."""


@runtime_checkable
class InteractiveTool(Protocol):
    """An adapter whose tool has a terminal interface that can resume a conversation."""

    def interactive(self, request: TurnRequest) -> Invocation:
        """Say how to open it on `request.provider_session_id`, for a person; `stdin` is ignored."""


class Adapter(Protocol):
    """What csa knows about a tool."""

    name: str
    family: str  # the vendor of its models: "openai", "anthropic", ...
    executable: str  # the command to look up on the PATH unless the user configures another
    capabilities: Capabilities
    outer_markers: frozenset[str]  # variables this tool sets for its agents that confuse any nested CLI
    probe: Probe

    def account(self, environ: Mapping[str, str]) -> str:
        """Name the account of the conversations: the tool's home, and the endpoint if the environment sets one."""

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the directories and files the tool writes its own state to."""

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn."""

    def decoder(self, request: TurnRequest) -> Decoder:
        """Begin to read a run of `request`."""


@runtime_checkable
class SchemaTool(Protocol):
    """An adapter whose tool can make the model's final answer conform to a JSON Schema."""

    def accepts_schema(self, schema: Mapping[str, Any]) -> bool:
        """Say whether tool and provider take this one, a valid one; else csa asks for it in the prompt.

        The answer is `Outcome.text`, as JSON. csa checks it in either case.
        """


@runtime_checkable
class Compactor(Protocol):
    """An adapter whose tool can compact a conversation on request."""

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact the conversation `request.provider_session_id`; the prompt is empty."""

    def compaction_decoder(self, request: TurnRequest) -> CompactionDecoder:
        """Begin to read that run."""
