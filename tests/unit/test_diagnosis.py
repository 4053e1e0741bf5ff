"""What doctor makes of machines and answers that are not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from csa.model.adapter import ToolExit
from csa.runner.doctor.system_checks import check_logind, judge_kernel, judge_sandbox, probe_kernel
from csa.runner.doctor.tool_checks import Answer, judge_answer, order_key

WORKING = dict.fromkeys(("pidfd", "children", "subreaper", "user_namespace"))


def put(root: Path, name: str, text: str = "") -> None:
    """Write a file of the pretended system."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_kernel_here_can_contain_processes() -> None:
    """The probe really uses the features, and this suite could not run where they are missing."""
    found = probe_kernel()
    assert found
    assert set(found) == set(WORKING)
    assert judge_kernel(found).status == "ok"


def test_kernel_without_a_feature() -> None:
    """A feature that is missing is named with the kernel's error, and keeps runs from working."""
    check = judge_kernel({**WORKING, "children": "ENOENT"})
    assert (check.status, check.exit_code) == ("fail", 7)
    assert "/proc/PID/task/TID/children (ENOENT)" in check.detail


@pytest.mark.parametrize(
    ("file", "content", "step"),
    [
        ("proc/sys/kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("proc/sys/user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces"),
        (
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1\n",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("proc/sys/user/max_user_namespaces", "5000\n", "in a container, allow it"),
    ],
)
def test_no_user_namespaces(tmp_path: Path, file: str, content: str, step: str) -> None:
    """Where codex's sandbox cannot be built, the switch that forbids it is named; runs could still work."""
    put(tmp_path, file, content)
    check = judge_sandbox(None, {**WORKING, "user_namespace": "EPERM"}, tmp_path)
    assert (check.status, check.exit_code) == ("warn", 0)
    assert step in str(check.next_step)
    assert "--permission full" in str(check.next_step)


def test_inside_a_sandbox() -> None:
    """Inside codex's sandbox that is what matters, whatever namespaces do."""
    check = judge_sandbox("codex", {**WORKING, "user_namespace": "EPERM"})
    assert check.status == "warn"
    assert "inside codex's sandbox" in check.detail


def test_logind_that_kills(tmp_path: Path) -> None:
    """KillUserProcesses=yes without lingering is a trap for detached runs."""
    put(tmp_path, "run/systemd/seats/x")
    put(tmp_path, "etc/systemd/logind.conf", "[Login]\n#KillUserProcesses=no\nKillUserProcesses = yes\n")
    check = check_logind(tmp_path, "ann")
    assert check.status == "warn"
    assert check.next_step == "loginctl enable-linger ann"
    assert check_logind(tmp_path, "root").status == "ok"
    put(tmp_path, "var/lib/systemd/linger/ann")
    assert check_logind(tmp_path, "ann").status == "ok"


def test_logind_dropins(tmp_path: Path) -> None:
    """Drop-ins win over the file, later names over earlier ones, and one in /etc hides its namesake in /usr/lib."""
    put(tmp_path, "run/systemd/seats/x")
    put(tmp_path, "etc/systemd/logind.conf", "[Login]\nKillUserProcesses=no\n")
    put(tmp_path, "usr/lib/systemd/logind.conf.d/50-a.conf", "[Login]\nKillUserProcesses=yes\n")
    assert check_logind(tmp_path, "ann").status == "warn"
    put(tmp_path, "etc/systemd/logind.conf.d/50-a.conf", "")
    assert check_logind(tmp_path, "ann").status == "ok"
    put(tmp_path, "run/systemd/logind.conf.d/40-b.conf", "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=ann\n")
    assert check_logind(tmp_path, "ann").status == "ok"
    assert check_logind(tmp_path, "bob").status == "warn"


def test_no_logind(tmp_path: Path) -> None:
    """Without logind its settings mean nothing."""
    put(tmp_path, "etc/systemd/logind.conf", "[Login]\nKillUserProcesses=yes\n")
    assert check_logind(tmp_path, "ann").status == "ok"


@pytest.mark.parametrize(
    ("out", "version"),
    [
        ("codex-cli 0.169.0\n", "0.169.0"),
        ("2.1.328 (Claude Code)\n", "2.1.328"),
        ("git version 2.39.5\n", "2.39.5"),
        ("v1.18.33\n", "1.18.33"),
        ("\x1b[1m0.61.0\x1b[0m\n", "0.61.0"),
        ("update available!\ntool 1.0.0-rc.1+build5\n", "1.0.0-rc.1+build5"),
        ("42", None),
        ("at line 10.5:\n", None),
        ("\x00 1.2.3\n\ufffd 1.2.3\n", None),
        ("", None),
    ],
)
def test_versions(out: str, version: str | None) -> None:
    """A version is the first word of numbers and dots in a line of text on stdout."""
    assert judge_answer(ToolExit(0, None), out, "9.9.9").version == version


def test_answers_that_are_none() -> None:
    """A version on stdout counts for nothing when the command fails."""
    assert judge_answer(ToolExit(1, None), "1.2.3", "") == Answer(problem="exits 1: 1.2.3")
    assert judge_answer(ToolExit(None, 9), "1.2.3", "") == Answer(problem="was killed by signal 9: 1.2.3")
    assert len(judge_answer(ToolExit(1, None), "", "x" * 5000).problem or "") < 200


def test_an_error_is_quoted_from_where_it_says_so() -> None:
    """What node prints of its own source before an error is left out; words that only mention one are not."""
    trace = "node:internal/loader:1210\n  throw err;\n  ^\n\nError: Cannot find module './x'\nRequire stack:\n- /a/b"
    said = "exits 1: Error: Cannot find module './x' Require stack: - /a/b"
    assert judge_answer(ToolExit(1, None), "", trace) == Answer(problem=said)
    assert judge_answer(ToolExit(1, None), "", "no Error at all") == Answer(problem="exits 1: no Error at all")


def test_versions_are_ordered_by_number() -> None:
    """0.99 comes before 0.169."""
    assert order_key("0.99.0") < order_key("0.169.0") < order_key("0.169.1-beta") < order_key("1.0")
