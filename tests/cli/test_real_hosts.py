"""Other hosts over a real ssh, and what befalls hosts and networks: see tests/realhosts.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.realhosts import Hosts, OpenSsh
from tests.support import is_running, wait_for

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
