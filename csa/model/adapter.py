"""The seam between csa and a tool: what an adapter is asked and what it answers. Adapters do no I/O.

A third party's adapter is a class with the shape of `Adapter`, constructible without arguments, named by an entry
point of the group `csa.adapters`; the entry point's name is the adapter's `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from csa.model.permission import Permission
from csa.model.usage import Usage
from csa.structs import Struct, field

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
    "internal",
    "budget",  # csa's own: a budget was used up
    "unknown_conversation",  # the tool has no copy of the one to go on in, or to begin with; nobody was asked anything
]


class Capabilities(Struct):
    """What the tool can do.

    fork: a run can begin with a copy of another conversation (`TurnRequest.fork_of`).
    system_on_resume: it heeds another system text when a conversation is resumed.
    reads: files of the tool's configuration that the adapter must see, named like `Probe.login_files`; `./` stands for
        the directory of the turn. Those that exist come with the request (`TurnRequest.files`).
    extra_writable: it can be allowed to write further directories at `edit` (`TurnRequest.extra_writable`).
    """

    fork: bool = False
    system_on_resume: bool = True
    reads: tuple[str, ...] = ()
    extra_writable: bool = False


class TurnRequest(Struct, kw_only=True):
    """One turn to run, as the adapter sees it."""

    prompt: str
    cwd: str
    command: tuple[str, ...]  # how the tool is started: its executable, and arguments the user configured
    provider_session_id: str | None  # the conversation to resume; None begins a new one
    new_provider_id: str  # a fresh UUIDv4, for tools that let the caller choose
    fork_of: str | None = None  # the conversation that a new one is to begin with a copy of
    permission: Permission
    model: str | None = None
    effort: str | None = None
    auth_method: str | None = None  # how an ACP agent is told who asks, where its user has chosen
    system: str | None = None  # text to add to the tool's system prompt
    timeout_s: float | None = None  # the wall limit of the turn, where it has one
    ephemeral: bool = False  # load no project files, keep no copy at the provider's side where that can be avoided
    environ: Mapping[str, str] = field(default_factory=dict)  # the environment the tool starts from
    is_root: bool = False
    csa_command: str = "csa"  # how an agent calls csa: an absolute path where one is known
    sandboxed_by: str | None = None  # the adapter in whose tool's sandbox csa itself runs ("codex")
    extra_writable: tuple[str, ...] = ()  # directories that the agent may write besides `cwd`; none but at `edit`
    writable_dirs: tuple[str, ...] = ()  # what a nested `csa run` must be able to write, besides the project
    previous_totals: Mapping[str, float] | None = None  # `Outcome.totals` of the last turn of this, or the forked, one
    files: Mapping[str, str] = field(default_factory=dict)  # what `Capabilities.reads` names, as far as it exists
    run_directory: str = ""  # where `Invocation.files` will stand: absolute, private, of this turn alone
    run_directory_is_roots: bool = False  # nobody but root can change it or any directory above it

    @property
    def conversation(self) -> str | None:
        """The tool's conversation that the run goes on in, or begins with a copy of.

        That the tool does not know it (`unknown_conversation`) counts only where the tool names it, or answers the very
        request for it, before the turn begins: a provider answers 404 as well, and a model may write anything.
        """
        return self.fork_of if self.provider_session_id is None else self.provider_session_id


class Invocation(Struct):
    """The process to start. Never holds the prompt in `argv`."""

    argv: tuple[str, ...]
    stdin: bytes
    env: Mapping[str, str | None] = field(default_factory=dict)  # changes to the environment; None removes a name
    files: Mapping[str, str] = field(default_factory=dict)  # by their place below `run_directory`; gone after the turn
    # Places below `run_directory` that stand for absolute ones: one that ends with `/` is made where it is missing, and
    # a place that ends with `/*` stands for whatever its target holds and no other file or link has the name of.
    links: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # what the user should know of this run


class Update(Struct):
    """One event for the transcript: a type of its vocabulary, and that type's data."""

    type: str
    data: dict[str, Any]


class ToolExit(Struct):
    """How the tool ended: an exit code, or the number of the signal it died of; both None when csa had to reap it."""

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
    retry_after_s: float | None = None  # when the provider says that it can be asked again
    retry_at: float | None = None  # ... where it states the moment, as when a quota returns: seconds since the epoch
    usage: Usage | None = None  # of this turn; None when unknown
    totals: Mapping[str, float] | None = None  # running totals of a tool that reports no per-turn figures
    denied: tuple[str, ...] = ()  # titles of tool calls that were refused permission


class CompactionOutcome(Outcome, kw_only=True):
    """The verdict on a compaction. It has succeeded only with a proof: the tool's typed event, or its own record."""

    proof: str | None = None  # what shows it, in words
    tokens_before: int | None = None  # of the context; None where the tool does not say
    tokens_after: int | None = None


class Decoder(Protocol):
    """Turns the lines of one run's stdout into updates, and its end into an outcome.

    Its `usage` updates may come as often as more is known; each states what the turn has used so far, in all.
    """

    @property
    def is_finished(self) -> bool:
        """Whether the tool has announced the end of the turn, with nothing of its own left to do.

        May become false again: a later line of work takes an announced end back.
        """

    @property
    def fault(self) -> str | None:
        """Why the run must be stopped at once (it is not the conversation that was asked for); None if it need not."""

    def feed(self, line: bytes) -> list[Update]:
        """Take one line without its newline. Never raises: what cannot be read becomes an `other` update."""

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run after its last line."""


@runtime_checkable
class BackgroundReader(Protocol):
    """A decoder whose tool tells what it still has running beside the conversation."""

    @property
    def background(self) -> tuple[str, ...]:
        """Titles of the commands and sub-agents that run in the background at this moment."""

    @property
    def has_answered(self) -> bool:
        """Whether the turn has its answer, though not yet its end: only what runs in the background keeps the tool."""


@runtime_checkable
class RecordReader(Protocol):
    """A decoder whose tool writes down of a turn what it does not tell in its stream.

    The files are read when the tool has ended, before `close`.
    """

    @property
    def records(self) -> tuple[str, ...]:
        """Absolute glob patterns of the files, in the order to read them; may become longer while they are read."""

    def feed_record(self, line: bytes) -> None:
        """Take one line of such a file. Never raises."""

    def close_records(self) -> list[Update]:
        """Return what they have told beyond the stream."""


class CompactionDecoder(Decoder, Protocol):
    """Reads the run of a compaction."""

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the run after its last line."""


@runtime_checkable
class StderrReader(Protocol):
    """A decoder whose tool tells of its retries on stderr alone."""

    def feed_stderr(self, line: bytes) -> list[Update]:
        """Take one line of stderr without its newline; most say nothing of interest. Never raises."""


class Probe(Struct):
    """How to see whether the tool is usable: its version command, and what shows that it has credentials.

    Any of the variables or files does, but where the adapter is a `LoginJudge`.
    """

    version_arguments: tuple[str, ...]
    login_variables: tuple[str, ...]  # any of these set
    login_files: tuple[str, ...]  # or any of these present; `~` and `$NAME` stand for the environment's
    tested: str = ""  # the version csa is tested with
    install: str = ""  # the command that installs it
    login: str = ""  # what to do to log in, besides setting one of the variables


class LoginRequest(Struct, kw_only=True):
    """What shows whether a tool has credentials."""

    command: tuple[str, ...]  # how the tool is started, as in a `TurnRequest`
    environ: Mapping[str, str]
    files: Mapping[str, str]  # what `Probe.login_files` and `Capabilities.reads` name, as far as it can be read


class Login(Struct):
    """Whether the tool would send credentials: None where its configuration does not tell.

    `why` is what shows it, or what is lacking, without a full stop; `step` what to do, if not what the probe says.
    """

    is_there: bool | None
    why: str = ""
    step: str = ""


@runtime_checkable
class LoginJudge(Protocol):
    """An adapter that can tell from what its probe names whether the tool would send credentials."""

    def login(self, request: LoginRequest) -> Login:
        """Judge; never raises for what the files hold."""


class RemovalRequest(Struct):
    """A conversation whose copy at the tool's side is to go. `command` is empty where the tool is not installed."""

    command: tuple[str, ...]
    provider_session_id: str
    environ: Mapping[str, str]


class Removal(Struct):
    """How to remove the tool's own copy of a conversation: a command that asks nothing, or the files that are it.

    `files` are absolute glob patterns.
    """

    argv: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@runtime_checkable
class Remover(Protocol):
    """An adapter whose tool's copies of conversations can be removed."""

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Say how to remove one; None where the id is none of the tool's."""


@runtime_checkable
class InteractiveTool(Protocol):
    """An adapter whose tool has a terminal interface that can take up a conversation."""

    def interactive(self, request: TurnRequest) -> Invocation:
        """Say how to open it on `request.provider_session_id`, for a person; `stdin` does not matter."""


class Adapter(Protocol):
    """What csa knows of a tool."""

    name: str
    family: str  # the vendor of its models: "openai", "anthropic", ...
    executable: str  # the command looked up on PATH unless the user configures another
    capabilities: Capabilities
    outer_markers: frozenset[str]  # variables this tool sets for its agents that confuse a nested CLI of any kind
    probe: Probe

    def account(self, environ: Mapping[str, str]) -> str:
        """Name whose conversations these are: the tool's home, and the endpoint where the environment sets one."""

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Name the directories and files the tool writes its own state to."""

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn."""

    def decoder(self, request: TurnRequest) -> Decoder:
        """Begin to read a run of `request`."""


@runtime_checkable
class Compactor(Protocol):
    """An adapter whose tool can compact a conversation from outside."""

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact the conversation `request.provider_session_id`; the prompt is empty."""

    def compaction_decoder(self, request: TurnRequest) -> CompactionDecoder:
        """Begin to read that run."""
