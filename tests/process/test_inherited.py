"""What csa inherits from whoever started it, signals and children, neither hinders it nor falls to it."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.support import CSA, Done, Place

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


@each
def test_a_detached_turn(place: Place, how: str) -> None:
    """Its end is seen, and the command that was asked for is run with it."""
    order = f'echo "$CSA_FINISHED_STATUS" > {place.tmp}/new; mv {place.tmp}/new {place.ready}'
    run_with(place, how, "run", "-q", "--detach", "--on-finish", order, "--tool", "codex", "hello")
    place.wait_ready()
    assert place.ready.read_text() == "succeeded\n"
    place.wait_until_empty(within_s=2)


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
    assert (int(seen["SigBlk:"], 16), int(seen["SigIgn:"], 16)) == (0, 0)


def test_a_checkup(place: Place) -> None:
    """Tools are asked for their versions where SIGCHLD is ignored."""
    found = [run_with(place, how, "doctor", "--json").json["checks"] for how in ("SIGCHLD ignored", "as it is")]
    heard, expected = ([check for check in checks if check["topic"] == "tools"] for checks in found)
    assert heard == expected
