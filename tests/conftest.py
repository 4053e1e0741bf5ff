"""What every test gets: an environment of its own, and a check that it leaves no process behind."""

import gc
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from csa.paths import SessionPaths
from csa.store.sessions import Store
from tests import effort, reading
from tests.browser import _started, chromium, context  # noqa: F401  # fixtures
from tests.cli.hosts import mirror, remote  # noqa: F401  # fixtures
from tests.databases import postgres_server, redis_server  # noqa: F401  # fixtures
from tests.forkserver import ForkServer
from tests.realhosts import hosts, openssh  # noqa: F401  # fixtures
from tests.realslurm import cluster  # noqa: F401  # likewise
from tests.serving import Server, serving
from tests.support import OUTLASTING, Place, close_place

REPOSITORY = Path(__file__).parents[1]
FAKE_TOOLS_BIN = REPOSITORY / "adapters" / "csa_fakes" / "bin"
SEARCH_PATH = os.pathsep.join([str(FAKE_TOOLS_BIN), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
_KEPT_PREFIXES = ("PYTEST_", "COV_", "COVERAGE_", "HYPOTHESIS_", "MUTANT_", "MUTMUT_")
_GRACE_S = 10.0
_HOSTS = frozenset({"hosts", "cluster"})  # fixtures
_THOROUGH = re.compile(r"^pytestmark = .*\bpytest\.mark\.thorough\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --thorough."""
    parser.addoption("--thorough", action="store_true", help="all tests, and more examples of each property")


def pytest_configure(config: pytest.Config) -> None:
    """Choose how much is tried; undo what a background job or nohup has left: an ignored signal would stay ignored."""
    effort.choose(thorough=config.getoption("--thorough"))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Have the workers of pytest-xdist share what they compile."""
    reading.tell(node)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Have the workers read the tests together; what is read stays, so that looking for garbage in it is in vain."""
    gc.disable()
    try:
        reading.read(session, is_wanted=lambda path: not _is_left_out(path, session.config))
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even read what is left to other suites as a whole."""
    return _is_left_out(collection_path, config) or None


@cache
def _is_left_out(path: Path, config: pytest.Config) -> bool:
    """Say whether the quick suite does without a file: of the real tools, or whose `pytestmark` is `thorough`."""
    if not _is_quick(config):
        return False
    return "real" in path.relative_to(REPOSITORY).parts or bool(path.is_file() and _THOROUGH.search(path.read_text()))


def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> list[pytest.Item] | None:
    """Make nothing of what is marked so as a whole in the quick suite, which has as many of these as of others."""
    marks = getattr(obj, "pytestmark", ())
    is_thorough = isinstance(marks, list) and any(mark.name == "thorough" for mark in marks)
    return [] if is_thorough and name.startswith("test_") and _is_quick(collector.config) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before they are shuffled: the first case is the same each time
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Leave what is marked so to the thorough suite, and the further cases of a test that runs csa."""
    for item in items:
        if isinstance(item, pytest.Function) and not _HOSTS.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.hosts)
    if _is_quick(config):
        left_out = _left_out_of(items)
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    found = yield
    items[:] = _longest_first(items, getattr(config, "workerinput", {}).get("workercount", 1))
    return found


def _longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Have each worker begin with its share of what takes longest, so that none is alone with it at the end.

    pytest-xdist gives each a share of the first quarter, in order, and the rest as they are done.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    share, ordered = max(len(items) // (4 * workers), 2), list[pytest.Item]()
    for number in range(workers):
        own = long[number::workers]
        room = max(share - len(own), 0)
        ordered += own + others[:room]
        others = others[room:]
    return ordered + others


def _left_out_of(items: list[pytest.Item]) -> set[pytest.Item]:
    seen: set[tuple[Path, str]] = set()
    left_out: set[pytest.Item] = set()
    for item in items:
        if item.get_closest_marker("thorough"):
            left_out.add(item)
        elif isinstance(item, pytest.Function) and ("place" in item.fixturenames or item.path.parent.name == "process"):
            test = item.path, item.originalname
            if test in seen:
                left_out.add(item)
            seen.add(test)
    return left_out


def _is_quick(config: pytest.Config) -> bool:
    """Say whether this is the quick suite: not the thorough one, and not that of the real tools."""
    return not config.getoption("--thorough") and config.getoption("markexpr") == "not real"


@dataclass(frozen=True)
class Hermetic:
    """The places of one test's environment."""

    home: Path
    tmp: Path
    state_home: Path
    config_home: Path


@pytest.fixture(autouse=True)
def hermetic(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hermetic]:
    """Give the test its own HOME, XDG directories and TMPDIR, a fixed clock zone, and nothing of ours or of agents."""
    place = tmp_path_factory.mktemp("hermetic")
    found = Hermetic(place / "home", place / "tmp", place / "state", place / "config")
    for directory in (found.home, found.tmp):
        directory.mkdir()
    for name in list(os.environ):
        if not name.startswith(_KEPT_PREFIXES):
            monkeypatch.delenv(name)
    variables = {
        "HOME": found.home,
        "TMPDIR": found.tmp,
        "XDG_STATE_HOME": found.state_home,
        "XDG_CONFIG_HOME": found.config_home,
        "XDG_CACHE_HOME": place / "cache",
        "XDG_DATA_HOME": place / "data",
        "PATH": SEARCH_PATH,
        "TZ": "UTC",
        "COLUMNS": "100",
        "LINES": "40",
        "LANG": "C.UTF-8",
        "USER": "tester",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", None)
    time.tzset()
    yield found
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def _no_process_is_left(hermetic: Hermetic) -> Iterator[None]:
    """Fail a test that leaves a child, reaped or not, or any process that inherited the test's HOME."""
    yield
    left = _wait_for_none(hermetic.home)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for pid in left:
        with suppress(ChildProcessError):  # it is another's
            os.waitpid(pid, 0)
    assert not left, f"processes left behind: {left}"


def _wait_for_none(home: Path) -> dict[int, str]:
    """Return the processes that are still there when their grace is over."""
    deadline = time.monotonic() + _GRACE_S
    while (left := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.01)  # what has been killed already needs a moment, and there is nothing to wait on
    return left


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def processes_of(home: Path) -> dict[int, str]:
    """Find our children (only looked for when there are any) and the processes whose environment has that HOME."""
    mark, me, any_child = f"HOME={home}".encode(), os.getpid(), _has_children()
    found: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == me or int(name) in OUTLASTING:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environ:
                is_ours = mark in environ.read().split(b"\0")
        except OSError:  # another user's, or just gone
            is_ours = False
        try:
            if is_ours or (any_child and _parent_of(name) == me):
                words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                if words or _parent_of(name) == me:  # a zombie that is not ours to reap has ended
                    found[int(name)] = words.decode(errors="replace").strip() or "a zombie"
        except OSError:
            continue
    return found


def _parent_of(pid: str) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make an empty project on the branch `main`, without git."""
    place = tmp_path / "project"
    (place / ".git").mkdir(parents=True)
    (place / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return place.resolve()


@pytest.fixture
def state_root(hermetic: Hermetic) -> Path:
    """Return the state root that csa finds in the test's environment; nothing is there yet."""
    return hermetic.state_home / "csa"


ForeignWriter = Callable[..., SessionPaths]


@pytest.fixture
def write_foreign(project: Path, state_root: Path) -> ForeignWriter:
    """Return a function that writes a session as another implementation of the format would: only its minimal keys.

    Arguments: the id, then by keyword `text` (the whole state.toml instead), `tools` (name to keys), `parent`, `depth`,
    `description`, `times` (a pair of TOML literals), `place` (a project other than the fixture's).
    """

    def write(
        session_id: str,
        *,
        text: str | None = None,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
        parent: str | None = None,
        depth: int = 0,
        description: str = "Foreign work",
        times: tuple[str, str] = ("2024-02-06T10:00:00Z", "2024-02-06T14:30:00Z"),
        place: Path | None = None,
    ) -> SessionPaths:
        paths = Store(state_root, place or project).paths(session_id)
        paths.root.mkdir(parents=True, mode=0o700)
        if text is None:
            lines = [
                f'meta_session_id = "{session_id}"',
                f'description = "{description}"',
                f'project_path = "{place or project}"',
                f"created_at = {times[0]}",
                f"last_accessed = {times[1]}",
                "",
                "[genealogy]",
                *([f'parent_session_id = "{parent}"'] if parent else []),
                f"depth = {depth}",
                "",
                "[context_status]",
                "is_compacted = false",
            ]
            for tool, keys in (tools or {}).items():
                lines += ["", f"[tools.{tool}]"]
                lines += [f"{k} = {v if isinstance(v, int) else chr(34) + str(v) + chr(34)}" for k, v in keys.items()]
            text = "\n".join([*lines, ""])
        paths.state.write_text(text)
        return paths

    return write


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer | None]:
    """The process that csa is forked from, unless each is to be started from scratch."""
    if os.environ.get("PYTEST_CSA_APART"):
        yield None
        return
    server = ForkServer(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def place(tmp_path: Path, project: Path, state_root: Path, fork_server: ForkServer | None) -> Iterator[Place]:
    """Run csa here; what it leaves running fails the test, and is killed."""
    found = Place(tmp_path, project, state_root, fork_server)
    yield found
    close_place(found)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    """Serve here, as a user does: see tests/serving.py."""
    with serving(place) as found:
        yield found
