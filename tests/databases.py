"""A PostgreSQL and a Redis for tests: those that are installed, or that `make databases` has fetched.

There is one of each for a worker of pytest, on the loopback, in a directory of its own. It ends with the worker, also
when that is killed. As root, PostgreSQL runs as `nobody`, because it refuses to run as root.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import OUTLASTING, wait_for

FETCHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-databases"
_PR_SET_PDEATHSIG = 1
_OLDEST = 15
_VARIABLES = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Return the URL of a server, without a database."""
    with serving_postgres() as url:
        yield url


@contextmanager
def serving_postgres() -> Iterator[str]:
    """Run one in a block."""
    place = _make_directory("postgres")
    bin_, environ = _find_postgres(place)
    data, port, words = str(place / "data"), _free_port(), {**_VARIABLES, **environ, "HOME": str(place)}
    make = [f"{bin_}/initdb", "-D", data, "-U", "csa", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
    made = subprocess.run(make, env=words, preexec_fn=_as_nobody, capture_output=True, cwd="/", check=False)
    assert made.returncode == 0, made.stderr.decode()
    options = ("fsync=off", "shared_buffers=32MB", "max_connections=40", f"unix_socket_directories={place}")
    start = [f"{bin_}/postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port)]
    start += [word for option in options for word in ("-c", option)]
    begin = partial(_as_nobody, ends_with=os.getpid(), by=signal.SIGQUIT)
    yield from _serving(start, words, place, port, f"postgresql://csa@127.0.0.1:{port}", begin=begin)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Yield the URL of a server, without the number of a database; its password is `hidden-word`."""
    program, environ = _find_redis()
    place, port = _make_directory("redis"), _free_port()
    start = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(place)]
    start += ["--databases", "256", "--requirepass", "hidden-word"]
    begin = partial(_end_with, os.getpid(), signal.SIGTERM)
    url = f"redis://:hidden-word@127.0.0.1:{port}"
    yield from _serving(start, {**_VARIABLES, **environ}, place, port, url, begin=begin)


@contextmanager
def pooling(url: str, mode: str) -> Iterator[str]:
    """Run a PgBouncer before a PostgreSQL in a block; return the URL of the same database through it."""
    place, port = _make_directory("pgbouncer"), _free_port()
    program, environ = _find_pgbouncer(place)
    server = urlsplit(url)
    (place / "ini").write_text(
        f"[databases]\n* = host={server.hostname} port={server.port} user=csa\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"auth_file = {place}/users\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n"
    )
    (place / "users").write_text('"csa" ""\n')
    begin = partial(_as_nobody, ends_with=os.getpid(), by=signal.SIGTERM)
    pooled = f"postgresql://csa@127.0.0.1:{port}{server.path}"
    yield from _serving([program, str(place / "ini")], {**_VARIABLES, **environ}, place, port, pooled, begin=begin)


def _serving(
    start: list[str], environ: dict[str, str], place: Path, port: int, url: str, *, begin: Callable[[], None]
) -> Iterator[str]:
    log = place / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            start, env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, preexec_fn=begin
        )
    OUTLASTING.add(process.pid)
    try:
        wait_for(lambda: process.poll() is not None or _answers(port, place), "the server answers")
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.send_signal(signal.SIGQUIT if "postgres" in start[0] else signal.SIGTERM)
        process.wait(20)
        OUTLASTING.discard(process.pid)
        shutil.rmtree(place, ignore_errors=True)


def _answers(port: int, place: Path) -> bool:
    """Say whether a server is ready; a PostgreSQL says so in its lock file, long after it listens."""
    lock = place / "data" / "postmaster.pid"
    if (place / "data").exists() and not (lock.exists() and lock.read_text().rstrip().endswith("ready")):
        return False
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _as_nobody(*, ends_with: int = 0, by: int = signal.SIGTERM) -> None:
    """Before a program begins: give up root's rights, and have it end when its parent does."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    if ends_with:
        _end_with(ends_with, by)


def _end_with(parent: int, by: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def _make_directory(name: str) -> Path:
    """Make a directory that `nobody` reaches, unlike those of pytest."""
    place = tempfile.mkdtemp(prefix=f"csa-{name}-", dir="/tmp")
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
    return Path(place)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _find_postgres(place: Path) -> tuple[Path, dict[str, str]]:
    """Return the directory of its programs, and the variables that they need."""
    if found := _newest(Path("/")):
        return found, {}
    if not (found := _newest(FETCHED)):
        raise _skip("PostgreSQL")
    root = _reachable(place)
    return root / found.relative_to(FETCHED), _libraries(root)


def _reachable(place: Path) -> Path:
    """Return where what was fetched is for `nobody`, who cannot enter root's home."""
    if os.geteuid():
        return FETCHED
    shutil.copytree(FETCHED / "usr", place / "usr", symlinks=True)
    return place


def _newest(root: Path) -> Path | None:
    found = {int(each.parts[-3]): each.parent for each in root.glob("usr/lib/postgresql/*/bin/postgres")}
    return found[max(found)] if found and max(found) >= _OLDEST else None


def _find_redis() -> tuple[str, dict[str, str]]:
    if found := shutil.which("redis-server", path="/usr/bin:/usr/local/bin"):
        return found, {}
    if (fetched := FETCHED / "usr/bin/redis-server").exists():
        return str(fetched), _libraries(FETCHED)
    raise _skip("Redis")


def _find_pgbouncer(place: Path) -> tuple[str, dict[str, str]]:
    if found := shutil.which("pgbouncer", path="/usr/sbin:/usr/bin"):
        return found, {}
    if (FETCHED / "usr/sbin/pgbouncer").exists():
        root = _reachable(place)
        return str(root / "usr/sbin/pgbouncer"), _libraries(root)
    raise _skip("PgBouncer")


def _libraries(root: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": ":".join(map(str, root.glob("usr/lib/*-linux-gnu")))}


def _skip(what: str) -> BaseException:
    reason = FETCHED / "reason"
    why = reason.read_text().strip() if reason.exists() else "make databases fetches it"
    return pytest.skip.Exception(f"there is no {what} server: {why}")
