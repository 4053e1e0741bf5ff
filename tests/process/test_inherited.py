"""What csa inherits from whoever started it, signals and children, neither hinders it nor falls to it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from csa.procfs import parent_of
from tests.support import CSA, PATIENCE_S, Done, Place, children_of, is_running, kill_all, wait_for

INHERITED = {
    "as it is": "pass",
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "SIGCHLD blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])",
    "all blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "all ignored": "[signal.signal(n, signal.SIG_IGN) for n in signal.valid_signals() - {9, 19, signal.SIGTERM}]",
}
each = pytest.mark.parametrize("how", INHERITED)


def run_with(place: Place, how: str, *words: str) -> Done:
    """Run csa as somebody would who has done this to his signals."""
    code = f"import os, signal, sys; {INHERITED[how]}; os.execv(sys.argv[1], sys.argv[1:])"
    return place.shell([sys.executable, "-c", code, CSA, *words])


@each
def test_a_turn(place: Place, how: str) -> None:
    """The tool's end is seen, and its answer told."""
    done = run_with(place, how, "run", "-q", "--tool", "codex", "hello")
    assert (done.code, done.out, done.err) == (0, "FAKE ECHO: hello [turns=1]\n", "")


@pytest.mark.thorough
@each
def test_a_detached_turn(place: Place, how: str) -> None:
    """Its end is seen, and the command that was asked for is run with it."""
    order = f'echo "$CSA_FINISHED_STATUS" > {place.tmp}/new; mv {place.tmp}/new {place.ready}'
    run_with(place, how, "run", "-q", "--detach", "--on-finish", order, "--tool", "codex", "hello")
    place.wait_ready()
    assert place.ready.read_text() == "succeeded\n"
    place.wait_until_empty(within_s=2)


@pytest.mark.thorough
@each
def test_the_tools_signals(place: Place, how: str) -> None:
    """The tool starts with no signal blocked, and ignores none."""
    status, tool = place.tmp / "status", place.tmp / "codex"
    real = shutil.which("codex", path=place.env["PATH"])
    look = f"while read name value; do echo $name $value; done < /proc/$$/status > {status}"  # starts no process
    tool.write_text(f'#!/bin/sh\n{look}\nexec {real} "$@"\n')
    tool.chmod(0o755)
    place.env["PATH"] = f"{place.tmp}:{place.env['PATH']}"
    assert run_with(place, how, "run", "-q", "--tool", "codex", "hello").code == 0
    seen = dict(line.split(maxsplit=1) for line in status.read_text().splitlines() if line.startswith("Sig"))
    ours = sum(
        1 << (number - 1) for number in signal.valid_signals()
    )  # the rest is glibc's: make has its children ignore 32
    assert (int(seen["SigBlk:"], 16) & ours, int(seen["SigIgn:"], 16) & ours) == (0, 0)


@pytest.mark.thorough
def test_a_checkup(place: Place) -> None:
    """Tools are asked for their versions where SIGCHLD is ignored."""
    found = [run_with(place, how, "doctor", "--json").json["checks"] for how in ("SIGCHLD ignored", "as it is")]
    heard, expected = ([check for check in checks if check["topic"] == "tools"] for checks in found)
    assert heard == expected


@pytest.mark.thorough
def test_a_reader_of_its_output(place: Place) -> None:
    """A child that the shell has left to csa, and that csa writes to, gets the answer to the end."""
    answer = place.tmp / "answer"
    pipe_to = f"exec > >(cat > {answer}.new; mv {answer}.new {answer})"
    done = place.shell(["bash", "-c", f"{pipe_to}; exec {CSA} run -q --tool codex hello"])
    assert (done.code, done.err) == (0, "")
    wait_for(answer.exists, "what csa writes to has read its end")
    assert answer.read_text() == "FAKE ECHO: hello [turns=1]\n"


class Neighbours:
    """Processes that stay until they are killed; each notes its pid, as it is in its own namespace, under its name."""

    def __init__(self, place: Place) -> None:
        self._pids = place.tmp / "pids"
        self._pids.mkdir()
        self._script = place.tmp / "stay"
        note = f"echo $$ > {place.tmp}/$1\nmv {place.tmp}/$1 {self._pids}"
        self._script.write_text(f"{note}\nexec -a {place.mark} sleep 600\n")
        self._mark = place.mark

    def start(self, name: str) -> str:
        """Return the command that starts one."""
        return f"bash {self._script} {name}"

    def pid(self, name: str) -> int:
        wait_for((self._pids / name).exists, f"{name} is there")
        return int((self._pids / name).read_text())

    def who_lives(self) -> str:
        """Return a command that writes a line for each that lives."""
        return f"cd {self._pids}; for name in *; do grep -q {self._mark} /proc/$(cat $name)/cmdline && echo $name; done"


def kill_guardian(csa: int) -> None:
    """SIGKILL, to the one of csa's children that is a guardian."""
    (pid,) = [each for each in children_of(csa) if b"guardian.main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    os.kill(pid, signal.SIGKILL)


@pytest.mark.thorough
@pytest.mark.parametrize("is_killed", [False, True], ids=["the tool ends", "the guardian is killed"])
def test_children_of_the_shell(place: Place, *, is_killed: bool) -> None:
    """What the shell has started before it became csa is spared, with its orphans; what the tool leaves is not."""
    others = Neighbours(place)
    place.play(["spawn-grandchild", f"exec setsid {others.start('left')}"], *place.hold(), ["say", "done"])
    shell = place.tmp / "shell"
    orphan = f"until [ -e {place.ready} ]; do sleep 0.01; done; {others.start('orphan')} & exit"
    shell.write_text(f"{others.start('child')} &\n({orphan}) &\nexec {CSA} run -q --tool codex hello\n")
    csa = place.popen(["bash", str(shell)])
    child, orphan_pid, left = (others.pid(name) for name in ("child", "orphan", "left"))
    wait_for(lambda: parent_of(orphan_pid) == csa.pid, "csa has adopted the orphan")
    if is_killed:
        kill_guardian(csa.pid)
    place.release()
    assert csa.wait(PATIENCE_S) == (1 if is_killed else 0)
    running = [is_running(pid) for pid in (child, orphan_pid, left)]
    kill_all({child: "", orphan_pid: ""})
    assert running == [True, True, False]


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nsenter"), reason="only root makes a container of his own")
def test_first_process_of_a_container(place: Place) -> None:
    """As PID 1 csa adopts the orphans of all; when its guardian is killed, it ends those of its tool alone."""
    others = Neighbours(place)
    place.play(["spawn-grandchild", f"exec setsid {others.start('left')}"], *place.hold())
    lives = place.tmp / "lives"
    turn = ["run", "-q", "--tool", "codex", "--on-finish", f"{others.who_lives()} > {lives}", "hello"]
    unshare = place.popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", CSA, *turn])
    others.pid("left")
    (csa,) = children_of(unshare.pid)
    command = f"{others.start('orphan')} & exit"
    entered = place.popen(["nsenter", "--target", str(csa), "--pid", "--mount", "bash", "-c", command])
    assert entered.wait(PATIENCE_S) == 0
    others.pid("orphan")
    kill_guardian(csa)
    assert unshare.wait(PATIENCE_S) == 1
    assert lives.read_text() == "orphan\n"
