"""Other hosts over a real ssh, and what befalls hosts and networks: see tests/realhosts.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from csa.store.liveness import HEARTBEAT_FRESH_S
from csa.store.mirrors import LOST, mirror_for
from csa.store.sessions import Store
from tests.conftest import REPOSITORY
from tests.realhosts import Host, Hosts, OpenSsh
from tests.support import Running, allowing, is_running, read_transcript, wait_for

pytestmark = pytest.mark.thorough
_LOOK = "hostname; cat /proc/sys/kernel/random/boot_id; ps -e | wc -l; echo $HOME; ls {}"
_ALONE = """
import sys
from pathlib import Path
from tests.realhosts import Hosts, OpenSsh
hosts = Hosts(Path(sys.argv[1]), OpenSsh(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
n1, n2 = hosts.up("n1", "n2")
n1.freeze()
print(*n1.everyone(), *n2.everyone(), flush=True)
input()
"""


def test_hosts_are_hosts(hosts: Hosts) -> None:
    """Each has processes, files, a name, a boot and a network of its own; a reboot makes another boot."""
    a, n1, _ = named = hosts.up("a", "n1", "n2")
    said = {host.name: n1.shell(["ssh", host.name, _LOOK.format(host.tmp.parent)]).out.split() for host in named}
    assert [lines[0] for lines in said.values()] == ["a", "n1", "n2"]
    assert len({lines[1] for lines in said.values()}) == 3
    assert all(int(lines[2]) < 12 for lines in said.values())
    assert [lines[3] for lines in said.values()] == [str(host.home) for host in named]
    assert [lines[4:] for lines in said.values()] == [["a", "same"], ["n1", "same"], ["n2", "same"]]
    waiting = a.start("-c", "sleep 60", program="/bin/sh")
    wait_for(lambda: len(a.everyone()) > 2, "it runs there")
    a.kill()
    assert waiting.process.returncode
    a.start_again()
    boot = n1.shell(["ssh", "a", "cat /proc/sys/kernel/random/boot_id"])
    assert boot.code == 0, boot.err
    assert boot.out.strip() not in said["a"]
    a.cut()
    quick = ["ssh", "-o", "ConnectTimeout=1"]
    assert n1.shell([*quick, "a", "true"]).code == a.shell([*quick, "n1", "true"]).code == 255
    assert n1.shell([*quick, "n2", "true"]).code == 0
    a.heal()
    assert n1.shell(["ssh", "a", "true"]).code == 0


def test_nothing_is_left_of_hosts_when_their_test_is_killed(tmp_path: Path, openssh: OpenSsh) -> None:
    """Nor of one that is frozen."""
    words = [sys.executable, "-c", _ALONE, str(tmp_path), openssh.sshd, openssh.libraries, str(openssh.keys)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe) as alone:
        assert alone.stdout
        pids = [int(pid) for pid in alone.stdout.readline().split()]
        assert len(pids) == 4  # two first processes, two sshds
        alone.kill()
        wait_for(lambda: not any(map(is_running, pids)), "all have ended")


def mirrored(here: Host, there: Host, session_id: str) -> Path:
    """Return the directory of another host's session in the mirror here."""
    return Path(Store(mirror_for(str(here.state_root), there.name).pathname, there.project).paths(session_id).pathname)


def statuses(here: Host, *hosts: Host) -> list[str]:
    return [word for host in hosts for word in here.run("ls", "--host", host.name, "--format", "{status}").out.split()]


def place_held(here: Host, there: Host, name: str) -> Running:
    """Begin a turn on another host, which says something and then waits for a file there that is called as it is."""
    there.play(
        ["say", "This much was seen."], ["touch", str(there.tmp / "ready")], ["wait-file", str(there.tmp / name), 200]
    )
    placed = here.start("run", "--on", there.name, "--tool", "codex", "--name", name, "long")
    there.wait_ready()
    there.ready.unlink()
    return placed


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_host_dies_and_another_one_is_cut_off(hosts: Hosts) -> None:
    """Both are away after 30 s, none is lost; a minute later each says itself what has become of its turns.

    One of them died with its host, one has ended while nobody heard it, one goes on; each is waited for by csa run.
    """
    a, n1, n2 = named = hosts.up("a", "n1", "n2")
    for host in named:
        host.project = hosts.same
    config = a.home / ".config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("".join(f"[engines.{each.name}]\nleash_s = 150\ncode = 'shared'\n" for each in named))
    dead, early, late = place_held(a, n1, "dead"), place_held(a, n2, "early"), place_held(a, n2, "late")
    wait_for(lambda: statuses(a, n1, n2) == ["running"] * 3, "they are seen")
    n1.kill()
    n2.cut()
    began = time.monotonic()
    assert a.run("is-alive", "n1:dead").code == a.run("is-alive", "n2:early").code == 0
    (n2.tmp / "early").touch()
    wait_for(lambda: n2.run("is-alive", "early").code == 1, "it ends, cut off")
    away_after_s = 0.0
    while (passed := time.monotonic() - began) < 60:
        said = statuses(a, n1, n2)
        assert set(said) <= {"running", "away"}
        assert not away_after_s or said == ["away"] * 3
        away_after_s = away_after_s or (passed if said == ["away"] * 3 else 0)
        time.sleep(1)  # a minute is what this is about
    assert HEARTBEAT_FRESH_S - 2 < away_after_s < HEARTBEAT_FRESH_S + allowing(5)
    away = a.run("is-alive", "n1:dead")
    assert (away.code, away.out.partition(" when")[0]) == (4, "away: running")
    assert "This much was seen." in a.run("show", "n1:dead").out
    assert [each.process.poll() for each in (dead, early, late)] == [None] * 3
    n2.heal()
    n1.start_again()
    assert early.process.wait(60) == 0, early.err
    assert dead.process.wait(60) == 1, dead.err
    assert "was lost" in dead.err
    (n2.tmp / "late").touch()
    assert late.process.wait(60) == 0, late.err
    assert early.out == late.out == "This much was seen.\n"
    assert statuses(a, n1, n2) == ["lost", "succeeded", "succeeded"]
    assert read_transcript(mirrored(a, n2, late.session_id) / "transcript.jsonl") == n2.events(late.session_id)


def test_what_a_power_cut_took_is_kept_by_who_has_seen_it(hosts: Hosts) -> None:
    """The host loses its last lines, and goes on: the mirror follows, is valid, and has what was seen beside it."""
    a, n1 = hosts.up("a", "n1")
    session_id = n1.codex("remember the moon").session_id
    a.run("sync", "n1")
    n1.kill()
    transcript = n1.session(session_id) / "transcript.jsonl"
    before = transcript.read_bytes()
    transcript.write_bytes(b"".join(before.splitlines(keepends=True)[:-2]) + b'{"seq":')
    n1.start_again()
    assert n1.run("run", "-s", session_id, "what do you remember?").code == 0
    done = a.run("sync", "n1")
    assert (done.code, "1 transcript kept aside, which n1 has no more" in done.out) == (0, True), done
    its = mirrored(a, n1, session_id)
    assert read_transcript(its / "transcript.jsonl") == n1.events(session_id)
    assert (its / f"{LOST}1").read_bytes() == before
    assert a.run("validate", session_id).code == n1.run("validate", session_id).code
    assert statuses(a, n1) == ["succeeded"]


def test_what_the_real_ssh_says_comes_with_the_next_step(hosts: Hosts) -> None:
    """Of keys, of hosts, of a csa that is not there: one sentence, and what to do; noise of a login shell is none."""
    a, n1 = hosts.up("a", "n1")
    passwd, known = n1.tmp / "etc" / "passwd", a.home / ".ssh" / "known_hosts"
    passwd.write_text(passwd.read_text().replace("/bin/sh", "/bin/bash"))
    (n1.home / ".bashrc").write_text("echo Welcome to n1!; echo Be good. >&2\n")
    done = a.run("sync", "n1")
    assert done.out == "n1: nothing new\n", done.err

    def fails(sentence: str, hint: str, host: str = "n1") -> None:
        done = a.run("sync", host)
        assert done.code == 7
        assert sentence in done.err, done.err
        assert hint in done.err.partition("hint:")[2], done.err
        assert len(done.err.splitlines()) == 2

    n1.env["PATH"], path = "/usr/bin:/bin", n1.env["PATH"]
    n1.shell(["true"])
    fails("There is no csa on n1: bash: line 1: csa: command not found.", '[engines.n1] csa = ["/path/to/csa"]')
    n1.env["PATH"] = path
    n1.shell(["true"])
    keys = n1.home / ".ssh" / "authorized_keys"
    trusted = keys.read_text()
    keys.write_text("")
    fails("n1 cannot be reached: root@10.17.0.11: Permission denied (publickey).", "ssh-copy-id n1")
    keys.write_text(trusted)
    hosts_keys = known.read_text()
    known.write_text("")
    fails("n1 cannot be reached: Host key verification failed.", "ssh n1, and see whether its key is the right one")
    key_of = {line.split()[0]: line.split()[2] for line in hosts_keys.splitlines()}
    known.write_text(hosts_keys.replace(key_of["n1"], key_of["n2"]))
    fails("n1 cannot be reached: Host key verification failed.", "n1 has another key than before")
    known.write_text(hosts_keys)
    fails("nowhere cannot be reached: ssh: Could not resolve hostname nowhere", "~/.ssh/config", host="nowhere")
    n1.shell(["sh", "-c", "kill $(cat /run/sshd.pid)"])
    fails("n1 cannot be reached: ssh: connect to host 10.17.0.11 port 22: Connection refused.", "try: ssh")


def test_a_busy_sshd_is_asked_again(hosts: Hosts) -> None:
    """One that turns connections away because too many come at once."""
    a, n1 = hosts.up("a", "n1")
    config = n1.tmp / "etc" / "sshd_config"
    config.write_text(config.read_text() + "MaxStartups 3:100:3\n")
    n1.shell(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
    log = n1.tmp / "sshd.log"
    wait_for(lambda: log.read_text().count("Server listening on 0.0.0.0") == 2, "it has read that")
    started = [a.start("hosts", "--check", "n1") for _ in range(6)]
    codes = [running.process.wait(60) for running in started]
    assert "MaxStartups" in log.read_text()
    assert codes == [0] * 6, [running.err for running in started]


def test_a_watch_goes_on_after_its_connection_was_reset(hosts: Hosts) -> None:
    """When sshd, or the outlet there, was killed: what was said since comes. SIGKILL here leaves nothing there."""
    a, n1 = hosts.up("a", "n1")
    watch = a.start("sync", "--watch", "n1")
    wait_for(lambda: "connected" in watch.err, "it is connected")
    n1.shell(["pkill", "-9", "-f", "sshd: root@notty"])
    wait_for(lambda: watch.err.count("connected") == 2, "it is connected again")
    n1.codex("hello", "--name", "first")
    wait_for(lambda: a.run("show", "n1:first").code == 0, "it has come")
    n1.shell(["pkill", "-9", "-f", "csa outlet"])
    wait_for(lambda: watch.err.count("connected") == 3, "it is connected once more")
    n1.codex("hello", "--name", "second")
    wait_for(lambda: a.run("show", "n1:second").code == 0, "that too")
    watch.kill()
    wait_for(lambda: len(n1.everyone()) == 2, "nothing is left there but its first process and its sshd")
