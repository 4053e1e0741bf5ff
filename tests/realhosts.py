"""Hosts of their own for tests: each has its network, processes, mounts, name and boot id, and a real sshd.

    def test_x(hosts: Hosts) -> None:
        a, n1 = hosts.up("a", "n1")  # each starts when it is named first, in half a second
        a.codex("hello")             # a Host is a Place, whose commands run there
        a.run("sync", "n1")          # plain `ssh n1` works from each to each
        n1.cut(); n1.heal(); n1.kill(); n1.start_again(); n1.freeze(); n1.thaw()

What a host has is in `host.tmp`, which has the same path there and here; of the other hosts' files it sees none. The
directory `hosts.same` is another one on each, `host.tmp / "same"` here. Logins by ssh get the environment `host.env`.

The network is one of its own too, a bridge that no address of this machine reaches, so that any number of tests run at
once. Everything is in namespaces that end with their first process, and that ends with pytest, however that does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support import PATIENCE_S, Json, Place, Running, children_of, close_place, wait_for

NAMES = ("a", "n1", "n2", "n3")
FETCHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-openssh"
_ADDRESSES = {name: f"10.17.0.{10 + number}" for number, name in enumerate(NAMES)}
_NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc", "--time")
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "unshare")
_NEEDED = ("unshare", "nsenter", "setpriv", "ip", "hostname", "mount")
_SWITCH = "ip link add switch type bridge && ip link set switch up && echo up && exec cat"
# The arguments are its name, its directory, that of all hosts, its address, and sshd with its libraries.
_FIRST_PROCESS = """set -eu
name=$1 own=$2 all=$3 address=$4 sshd=$5 libraries=$6
hostname "$name"
mount -t proc proc /proc
mount --bind "$own/etc/boot_id" /proc/sys/kernel/random/boot_id
for file in passwd hosts nsswitch.conf machine-id; do
  [ ! -e "/etc/$file" ] || mount --bind "$own/etc/$file" "/etc/$file"
done
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/own
mount --bind "$own" /run/own
mount -t tmpfs tmpfs "$all"
mkdir "$own" "$all/same"
mount --bind "/run/own/same" "$all/same"
mount --move /run/own "$own"
echo mounted
read -r _
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
LD_LIBRARY_PATH=$libraries "$sshd" -f "$own/etc/sshd_config" -E "$own/sshd.log"
until [ -s /run/sshd.pid ]; do sleep 0.01; done
echo ready
exec env --ignore-signal=CHLD cat  # the kernel then reaps what is left to us
"""
_SSHD = """HostKey {etc}/host_key
PidFile /run/sshd.pid
AuthorizedKeysFile .ssh/authorized_keys
PermitUserEnvironment yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
"""
_SSH = """Host {name}
  HostName {address}
  HostKeyAlias {name}
"""
_OWN_SSH = """#!/bin/sh
LD_LIBRARY_PATH={libraries} exec {ssh} "$@"
"""


@dataclass(frozen=True)
class OpenSsh:
    """The programs, and the keys that all tests of this worker use: one of the user, one of each host."""

    sshd: str
    libraries: str
    keys: Path

    def private(self, name: str) -> str:
        return (self.keys / name).read_text()

    def public(self, name: str) -> str:
        return " ".join((self.keys / f"{name}.pub").read_text().split()[:2])


class RunningThere(Running):
    """A command that runs on a host; what is its process here only waits for it."""

    @property
    def pid(self) -> int:
        """Its own process."""
        wait_for(lambda: children_of(self.process.pid) or self.process.poll() is not None, "it has started")
        return next(iter(children_of(self.process.pid)), self.process.pid)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)


class Host(Place):
    """A host, and its user. A command there has the environment `env`, and a login by ssh too."""

    running = RunningThere

    def __init__(self, name: str, switch: int, everything: Path, openssh: OpenSsh) -> None:
        tmp = everything / name
        super().__init__(tmp, tmp / "app", tmp / "home" / ".local" / "state" / "csa")
        self.name, self.address = name, _ADDRESSES[name]
        self.home = tmp / "home"
        self._switch, self._openssh = switch, openssh
        self._process: subprocess.Popen[bytes] | None = None
        self.first_pid = 0
        self._ports = 0
        self._port = ""
        for directory in (self.home / ".ssh", self.project / ".git", tmp / "etc", tmp / "tmp", tmp / "same"):
            directory.mkdir(parents=True)
        (self.project / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        self.env = {name: value for name, value in self.env.items() if not name.startswith(("XDG_", "PYTEST_"))}
        self.env |= {"HOME": str(self.home), "TMPDIR": str(tmp / "tmp"), "USER": "root"}
        self._furnish()

    # Commands

    def prepare(self, argv: list[str], cwd: Path) -> tuple[list[str], Path | None]:
        """Have a command run there."""
        self.tell_logins()
        return ["nsenter", "--target", str(self.first_pid), *_NAMESPACES, "env", "-C", str(cwd), *argv], None

    def script(self, *rules: Json, strict: bool = False) -> None:
        super().script(*rules, strict=strict)
        self.tell_logins()

    def git(self, *words: str, cwd: Path | None = None) -> str:
        """Run git there, which must succeed."""
        done = self.shell(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=cwd)
        assert done.code == 0, done.err
        return done.out.strip()

    # What happens to hosts

    def boot(self) -> None:
        """Start it, with a boot id that it has not had; it can be reached then."""
        assert self._process is None, f"{self.name} is up"
        (self.tmp / "etc" / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self.tell_logins()
        openssh = self._openssh
        words = [self.name, self.tmp, self.tmp.parent, self.address, openssh.sshd, openssh.libraries]
        since_boot = [f"--boottime=-{int(time.clock_gettime(time.CLOCK_BOOTTIME))}"]
        unshare = [*_WITH_US, *_NAMESPACES, *since_boot, "--fork", "--kill-child", "sh", "-c", _FIRST_PROCESS]
        process = self._process = _start([*unshare, "sh", *words], self.tmp / "boot.log")
        assert process.stdin
        _expect(process, "mounted", self.tmp / "boot.log")
        (self.first_pid,) = children_of(process.pid)
        self._plug_in()
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        _expect(process, "ready", self.tmp / "boot.log")

    def kill(self) -> None:
        """Kill its first process: everything there ends at once, and nobody is told."""
        assert self._process is not None, f"{self.name} is down"
        os.kill(self.first_pid, signal.SIGKILL)
        self._wait()

    def start_again(self) -> None:
        """Start it, after a kill, with another boot id, and later than anything that was done before."""
        time.sleep(-time.clock_gettime(time.CLOCK_BOOTTIME) % 1)  # its time since the boot is set in whole seconds
        self.boot()

    def cut(self) -> None:
        """Let nothing that it sends arrive, and nothing reach it; nobody is told."""
        self._ip("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Undo a cut."""
        self._ip("link", "set", self._port, "master", "switch")

    def freeze(self) -> None:
        """Stop all its processes; its kernel goes on to answer for them."""
        frozen = set[int]()
        while more := self.everyone() - frozen:
            for pid in more:
                _send(pid, signal.SIGSTOP)
            frozen |= more

    def thaw(self) -> None:
        """Undo a freeze."""
        for pid in self.everyone() | {process.pid for process in self.started}:
            _send(pid, signal.SIGCONT)

    def everyone(self) -> set[int]:
        """Return the processes there, by their pids here."""
        there = os.stat(f"/proc/{self.first_pid}/ns/pid").st_ino
        return {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _pid_namespace(pid) == there}

    def close(self) -> None:
        """End it; fail if what was started there still runs."""
        if self._process is None:
            return
        try:
            self.thaw()
            close_place(self)
        finally:
            self.kill()

    # Its parts

    def _furnish(self) -> None:
        etc, ssh, keys = self.tmp / "etc", self.home / ".ssh", self._openssh
        files = {
            etc / "passwd": f"root:x:0:0:root:{self.home}:/bin/sh\nsshd:x:74:65534::/run/sshd:/bin/false\n",
            etc / "hosts": f"127.0.0.1 localhost\n{self.address} {self.name}\n",
            etc / "nsswitch.conf": "hosts: files\n",
            etc / "machine-id": f"{uuid.uuid4().hex}\n",
            etc / "sshd_config": _SSHD.format(etc=etc),
            etc / "host_key": keys.private(self.name),
            ssh / "id_ed25519": keys.private("user"),
            ssh / "authorized_keys": keys.public("user") + "\n",
            ssh / "known_hosts": "".join(f"{name} {keys.public(name)}\n" for name in NAMES),
            ssh / "config": "".join(_SSH.format(name=name, address=_ADDRESSES[name]) for name in NAMES),
        }
        if os.path.exists(more := f"{FETCHED}/usr/lib/openssh/sshd-session"):  # of a newer one, which looks for parts
            auth = more.replace("session", "auth")
            files[etc / "sshd_config"] += f"SshdSessionPath {more}\n"
            files[etc / "sshd_config"] += f"SshdAuthPath {auth}\n" if os.path.exists(auth) else ""
        for path, content in files.items():
            path.write_text(content)
            path.chmod(0o600 if path.name in {"host_key", "id_ed25519"} else 0o644)
        if not shutil.which("ssh"):
            (self.tmp / "bin").mkdir()
            (self.tmp / "bin" / "ssh").write_text(_OWN_SSH.format(libraries=keys.libraries, ssh=_program("ssh")))
            (self.tmp / "bin" / "ssh").chmod(0o755)
            self.env["PATH"] = f"{self.tmp}/bin:{self.env['PATH']}"

    def tell_logins(self) -> None:
        """Have logins get what `env` has now."""
        lines = [f"{name}={value}\n" for name, value in self.env.items() if name not in {"HOME", "USER"}]
        (self.home / ".ssh" / "environment").write_text("".join(lines))

    def _plug_in(self) -> None:
        self._ports += 1
        self._port = f"{self.name}-{self._ports}"
        own = f"02:00:0a:11:00:{NAMES.index(self.name):02x}"  # a reboot does not change it
        peer = ("peer", "name", "eth0", "address", own, "netns", str(self.first_pid))
        self._ip("link", "add", self._port, "master", "switch", "up", "type", "veth", *peer)

    def _ip(self, *words: str) -> None:
        """Run ip in the network of the switch."""
        argv = ["nsenter", "--target", str(self._switch), "--net", "ip", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _wait(self) -> None:
        assert self._process is not None
        _close(self._process)
        self._process = None
        for process in self.started:
            process.wait(PATIENCE_S)


class Hosts:
    """Hosts that reach each other; those that were named have been started."""

    def __init__(self, everything: Path, openssh: OpenSsh) -> None:
        self._openssh = openssh
        self._everything = everything
        self.same = everything / "same"
        self._hosts: dict[str, Host] = {}
        self._switch = _start([*_WITH_US, "--net", "sh", "-c", _SWITCH], everything / "switch.log")
        _expect(self._switch, "up", everything / "switch.log")

    def __getitem__(self, name: str) -> Host:
        """Return a host, which is started when it is named first."""
        if name not in self._hosts:
            host = self._hosts[name] = Host(name, self._switch.pid, self._everything, self._openssh)
            host.boot()
        return self._hosts[name]

    def up(self, *names: str) -> list[Host]:
        return [self[name] for name in names]

    def close(self) -> None:
        """End all; fail if one of them had to end something else."""
        failures = []
        for host in self._hosts.values():
            try:
                host.close()
            except AssertionError as failure:
                failures.append(f"{host.name}: {failure}")
        _close(self._switch)
        assert not failures, "\n".join(failures)


@pytest.fixture(scope="session")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> OpenSsh:
    """The programs, and keys; skips where there are none, or where hosts cannot be made."""
    if why := why_not():
        pytest.skip(f"no hosts of their own: {why}")
    return make_openssh(tmp_path_factory.mktemp("keys"))


def make_openssh(keys: Path) -> OpenSsh:
    """Return the programs, with new keys in a directory."""
    fetched = (FETCHED / "usr/sbin/sshd").exists()
    libraries = os.pathsep.join(str(path) for path in FETCHED.glob("**/*-linux-gnu")) if fetched else ""
    environ = {**os.environ, "LD_LIBRARY_PATH": libraries}
    for name in (*NAMES, "user"):
        make = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(keys / name)]
        subprocess.run(make, env=environ, check=True, stdin=subprocess.DEVNULL)
    return OpenSsh(str(FETCHED / "usr/sbin/sshd") if fetched else "/usr/sbin/sshd", libraries, keys)


@pytest.fixture
def hosts(tmp_path: Path, openssh: OpenSsh) -> Iterator[Hosts]:
    """Hosts `a`, `n1`, `n2`, `n3`; what is left running on one fails the test."""
    everything = tmp_path / "hosts"
    everything.mkdir()
    found = Hosts(everything, openssh)
    yield found
    found.close()


@cache
def why_not() -> str:
    """Say why this machine cannot have such hosts; empty if it can."""
    if os.geteuid() != 0:
        return "only root can make them"
    if missing := [name for name in _NEEDED if not shutil.which(name)]:
        return f"there is no {missing[0]}"
    if not os.path.exists("/usr/sbin/sshd") and not (FETCHED / "usr/sbin/sshd").exists():
        reason = FETCHED / "reason"
        return reason.read_text().strip() if reason.exists() else "make openssh fetches OpenSSH"
    script = "ip link add switch type bridge && ip link add n type veth peer name m && mount -t proc proc /proc"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip().rpartition("\n")[2] if tried.returncode else ""


def _program(name: str) -> str:
    return shutil.which(name) or str(FETCHED / "usr/bin" / name)


def _start(argv: list[object], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as errors:
        words = [str(word) for word in argv]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)


def _expect(process: subprocess.Popen[bytes], word: str, log: Path) -> None:
    assert process.stdout
    said = process.stdout.readline().decode().strip()
    assert said == word, f"{said!r}: {log.read_text()}"


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream
        stream.close()
    process.kill()
    process.wait(PATIENCE_S)


def _pid_namespace(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:  # it has just ended
        return 0


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        return
