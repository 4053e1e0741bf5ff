"""Where csa runs, for whom, and what a session selector means there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from csa.errors import NotFoundError, UsageError
from csa.paths import make_path
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path

    from csa.model.config import Config
    from csa.model.redaction import Redactor
    from csa.runner.caller import Caller

RELATIVE_SELECTORS = ("@self", "@parent", "@root")  # relative to the caller, whose project may be another


class Setting:
    """What every command starts from. The configuration is read, and the caller looked up, when first needed."""

    def __init__(
        self,
        *,
        store: Store,
        environ: Mapping[str, str],
        directory: Path | str,
        config: Callable[[], Config],
        caller: Callable[[], Caller | None],
    ) -> None:
        self.store = store
        self.environ = environ
        self._directory = str(directory)
        self._load_config = config
        self._find_caller = caller

    @property
    def directory(self) -> Path:
        """Where new sessions start."""
        return make_path(self._directory)

    @cached_property
    def config(self) -> Config:
        """The settings in force; ConfigError when a file or variable is wrong."""
        return self._load_config()

    @cached_property
    def caller(self) -> Caller | None:
        """The session csa was called in; RefusedError when the environment names one that is not there."""
        return self._find_caller()

    @cached_property
    def redactor(self) -> Redactor:
        """What knows the secrets of this environment."""
        from csa.model.redaction import Redactor  # noqa: PLC0415  # twenty patterns, which reading does not need

        return Redactor(self.environ)


def resolve_selector(setting: Setting, selector: str, *, retired: bool = False) -> str:
    """Return the id a selector means: besides what `Store.resolve` takes, @current, @last, @self, @parent, @root."""
    if not selector.startswith("@"):
        return setting.store.resolve(selector, retired=retired)
    if selector == "@current":
        return _current(setting, retired=retired)
    caller = setting.caller
    if selector == "@last":
        return setting.store.last_used(caller.session_id if caller else None)
    if selector not in RELATIVE_SELECTORS:
        raise UsageError(f"Unknown selector '{selector}'.", hint="there are @current, @last, @self, @parent and @root")
    return setting.store.resolve(relative_id(caller, selector), retired=retired)


def relative_id(caller: Caller | None, selector: str) -> str:
    """Return the id that one of RELATIVE_SELECTORS means, in whichever project; NotFoundError where there is none."""
    if caller is None:
        raise NotFoundError(f"{selector} means something only inside a session.")
    found = {
        "@self": caller.session_id,
        "@parent": caller.state.parent_session_id,
        "@root": caller.state.root_session_id or caller.session_id,
    }[selector]
    if found is None:
        raise NotFoundError(f"Session {caller.session_id} is a root; it has no parent.")
    return found


def _current(setting: Setting, *, retired: bool) -> str:
    from csa.store.current import read_current  # noqa: PLC0415  # few selectors need it

    chosen = read_current(setting.store)
    if chosen is None:
        raise NotFoundError(f"No session is the current one in {setting.store.project}.", hint="csa session switch S")
    return setting.store.resolve(chosen, retired=retired)
