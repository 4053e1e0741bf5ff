"""Shells in which TAB is pressed: those that are installed, or that `make shells` has fetched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.support import CSA, Place

FETCHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-shells"
SETUP = {
    "bash": r"""
source {script}
csa() {{ if [[ $1 == __complete ]]; then command {csa} "$@"; else printf '%s\n' "$@" > {seen}.new; mv {seen}.new {seen}; fi; }}
""",  # noqa: E501
    "zsh": r"""
autoload -Uz compinit; compinit -u -D; eval "$(<{script})"
csa() {{ if [[ $1 == __complete ]]; then command {csa} "$@"; else printf '%s\n' "$@" > {seen}.new; mv {seen}.new {seen}; fi }}
""",  # noqa: E501
    "fish": r"""
source {script}
function csa; if test "$argv[1]" = __complete; {csa} $argv; else; printf '%s\n' $argv > {seen}.new; mv {seen}.new {seen}; end; end
""",  # noqa: E501
}
COMMANDS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-d", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}


def shell_environment(place: Place, name: str) -> dict[str, str | None]:
    """Return what a shell needs in its environment; skip the test where there is no such shell."""
    settings = place.tmp / "zdot"
    settings.mkdir(exist_ok=True)
    (settings / ".zshrc").touch()  # or zsh offers to write one
    changes: dict[str, str | None] = {"ZDOTDIR": str(settings)}
    if shutil.which(name, path=place.env["PATH"]):
        return changes
    if not (FETCHED / "usr/share" / name).exists():
        reason = FETCHED / "reason"
        pytest.skip(
            f"there is no {name}: {reason.read_text().strip() if reason.exists() else 'make shells fetches it'}"
        )
    libraries = next((FETCHED / "usr/lib").glob("*-linux-*"))
    modules = next((libraries / "zsh").glob("*"))
    functions = FETCHED / "usr/share/zsh/functions"
    (settings / ".zshenv").write_text(f"module_path=({modules})\nfpath=({functions} {functions}/**/*(/))\n")
    path = f"{FETCHED}/bin:{FETCHED}/usr/bin:{place.env['PATH']}"
    return {**changes, "LD_LIBRARY_PATH": str(libraries), "PATH": path}


class Pressed(Terminal):
    """An interactive shell that has loaded csa's script."""

    def __init__(self, place: Place, name: str, script: Path, **changes: str | None) -> None:
        self._seen = place.tmp / "seen"
        environ = {"TERM": "dumb", "PS1": "ready> ", "HISTFILE": None, **shell_environment(place, name), **changes}
        super().__init__(place, *COMMANDS[name], env=environ)
        self.type(SETUP[name].format(script=script, csa=CSA, seen=self._seen))

    def complete(self, typed: str) -> list[str]:
        """Return the arguments of csa after TAB and Enter."""
        self._seen.unlink(missing_ok=True)
        self.type(f"csa {typed}\t\n")
        self.wait(lambda: self._seen.exists() and self._seen.read_text(), f"{typed} is completed and run")
        return self._seen.read_text().splitlines()
