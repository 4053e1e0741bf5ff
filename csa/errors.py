"""Every failure csa reports, by cause.

    CsaError
    ├── UsageError            2  wrong arguments of a command or call
    │   └── NameTakenError    2  another session of the project has the name
    ├── NotFoundError         3  no such session, project or record
    ├── AmbiguousError        3  a selector names several sessions
    ├── BusyError             4  another supervisor holds the session
    ├── ChangedError          4  the session has another turn than the caller knew
    ├── SettledError          4  what is answered was answered already, or its turn has ended
    ├── RefusedError          5  refused by a limit or a budget, for the caller's own session, or for one that is closed
    │   ├── FullError         5  a limit on running turns is reached; waiting may help
    │   └── MirroredError     5  the session is another host's
    ├── StateError            6  a stored record is damaged (path, and line where known)
    │   └── DeniedError       6  a file of another user, which may be undamaged
    ├── ArchiveError          6  the archive to import is not one of csa's, or damaged
    ├── ConfigError           6  a config file or variable is wrong
    ├── ToolUnavailableError  7  the tool is missing or cannot be used
    ├── SealedError           7  the session is encrypted, and there is no key that opens it
    └── UnfinishedError       1  the result of a turn that still runs was asked for

Errors are built from data; the command line renders them in one place.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing, or dataclasses, would take longer than `csa --version`
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class CsaError(Exception):
    """Base of all failures: a sentence, an exit code, and a hint with the next step, if there is one."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, object]:
        """Return the error object of every `--json`; `code` is deprecated."""
        known = {"kind": self.code, "message": self.message, "hint": self.hint}
        return {**known, "exit_code": self.exit_code, "code": self.code}


class UsageError(CsaError):
    """Arguments contradict each other, or a value is out of range."""

    code = "usage"
    exit_code = 2


class NameTakenError(UsageError):
    """Another session of the project has the name that a new one was to have."""

    code = "name_taken"


class NotFoundError(CsaError):
    """There is no such session, project or record."""

    code = "not_found"
    exit_code = 3


class RetiredError(NotFoundError):
    """The session was deleted (is in the trash), and can only be read."""


class AmbiguousError(CsaError):
    """A selector matches `count` sessions; `matches` holds lines that describe them, perhaps not all."""

    code = "ambiguous"
    exit_code = 3

    def __init__(self, selector: str, matches: list[str], count: int, *, hint: str | None = None) -> None:
        super().__init__(
            "\n  ".join([f"Session prefix is ambiguous: '{selector}' matches {count} sessions.", *matches]),
            hint=hint or "use more characters of the id",
        )
        self.selector = selector
        self.matches = matches


class Obstacle:
    """What is in the way and can be waited for."""

    def __init__(self, words: str, is_over: Callable[[], bool]) -> None:
        self.words = words
        self.is_over = is_over


class BusyError(CsaError):
    """`obstacle` is what to wait for; if it is None, only another try can tell."""

    code = "busy"
    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None, obstacle: Obstacle | None = None) -> None:
        super().__init__(message, hint=hint)
        self.obstacle = obstacle


class ChangedError(CsaError):
    """The session's last turn is another than the caller knew."""

    code = "changed"
    exit_code = 4


class SettledError(CsaError):
    """What an agent has asked for was answered already, or its turn has ended."""

    code = "settled"
    exit_code = 4


class RefusedError(CsaError):
    """A limit, a budget, or the caller's own place among the sessions forbids it; or the session is closed."""

    code = "refused"
    exit_code = 5


class FullError(RefusedError):
    """A limit on running turns is reached. If `obstacle` is None, waiting cannot help."""

    code = "full"

    def __init__(self, message: str, *, hint: str | None = None, obstacle: Obstacle | None = None) -> None:
        super().__init__(message, hint=hint)
        self.obstacle = obstacle


class MirroredError(RefusedError):
    """The session is on another host, and here it can only be read."""

    def __init__(self, host: str, session_id: str) -> None:
        super().__init__(
            f"Session {session_id} is on {host}; here it can only be read.",
            hint=f"act there: ssh {host} csa ... -s {session_id}",
        )
        self.host, self.session_id = host, session_id


class StateError(CsaError):
    """A record on disk cannot be trusted; it is left as it is. `status` is the one its session has in lists."""

    code = status = "damaged"
    exit_code = 6

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, hint: str | None = None) -> None:
        where = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}.", hint=hint)
        self.path = path
        self.line = line
        self.problem = problem

    @classmethod
    def unreadable(cls, path: Path | str, error: OSError) -> StateError:
        """Make the error for a record's file that the system does not let csa read."""
        return cls.denied(path, "cannot be read", error)

    @classmethod
    def denied(cls, path: Path | str, what: str, error: OSError) -> StateError:
        """Make the error for anything that cannot be done with a file: a DeniedError if it is another user's."""
        problem = f"{what} ({error.strerror or error})"
        if isinstance(error, PermissionError):
            from csa.ownership import explain_denial  # noqa: PLC0415  # hardly ever needed

            if explained := explain_denial(path):
                whose, step = explained
                return DeniedError(path, f"{problem}: {whose}", hint=step)
        return cls(path, problem)


class DeniedError(StateError):
    """The file belongs to another user. It is not known to be damaged."""

    code = "denied"
    status = "unknown"


class ArchiveError(CsaError):
    """What is to be imported is not an archive of csa, or is damaged."""

    code = "damaged"
    exit_code = 6


class ConfigError(CsaError):
    """A config file or a CSA_CONF_* variable is wrong."""

    code = "config"
    exit_code = 6


class ToolUnavailableError(CsaError):
    """The tool is not installed, or cannot be used."""

    code = "tool"
    exit_code = 7


class SealedError(CsaError):
    """What was said in the session is encrypted, and there is no key that opens it. Nothing was changed."""

    code = "sealed"
    exit_code = 7


class UnfinishedError(CsaError):
    """The turn still runs, so it has no result yet."""

    code = "unfinished"
