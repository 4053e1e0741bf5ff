"""Secrets for a tool's environment: `--secret NAME[=env:X|file:F]`.

Only names and sources are passed on and stored; whoever runs a turn reads the values, and hides them in all it writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from csa.errors import RefusedError, UsageError
from csa.model.permission import Permission
from csa.model.redaction import can_be_hidden
from csa.paths import expand_home
from csa.store.atomic import open_regular
from csa.structs import Struct

LONGEST_BYTES = 16 << 10  # a longer line is not found again in what a tool prints (see csa/model/redaction.py)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What csa, the loader and every program need, and whose values stand in everything.
_TAKEN = {"HOME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "TMPDIR", "TZ", "USER"}
_TAKEN_PREFIXES = ("CSA_", "LC_", "LD_", "XDG_")
_ENV, _FILE = "env", "file"


class SecretSource(Struct):
    """Where a secret comes from: `kind` env or file, and the variable or the file's absolute path."""

    name: str
    kind: str
    place: str

    @property
    def words(self) -> str:
        """What `--secret` takes."""
        return f"{self.name}={self.kind}:{self.place}"

    def read(self, environ: Mapping[str, str]) -> str:
        """Return its value; UsageError, which names it, if there is none that can be hidden."""
        value = self._from_variable(environ) if self.kind == _ENV else self._from_file()
        if not value:
            raise self._error("is empty")
        if "\0" in value or len(value.encode("utf-8", "surrogateescape")) > LONGEST_BYTES:
            raise self._error(f"holds a NUL character or more than {LONGEST_BYTES >> 10} KiB")
        if not can_be_hidden(value):
            raise self._error("is too short, or too common a word, to be hidden in what csa writes")
        return value

    def _from_variable(self, environ: Mapping[str, str]) -> str:
        if self.place not in environ:
            raise self._error("is not set in csa's environment")
        return environ[self.place]

    def _from_file(self) -> str:
        """Return the text of the file, without line breaks at its end."""
        try:
            with open(open_regular(self.place), "rb") as file:
                return file.read(LONGEST_BYTES + 3).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise self._error("is not UTF-8") from None
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"The secret {self.name}: {self.kind}:{self.place} {problem}.")


def parse_secrets(words: Iterable[str], directory: Path | str, environ: Mapping[str, str]) -> list[SecretSource]:
    """Return what `--secret` options name; UsageError for what is none. Files are relative to `directory`."""
    found = {source.name: source for source in (_parse(word, directory, environ) for word in words)}
    return list(found.values())


def refuse_later(words: Iterable[str] | None, *, is_agents: bool) -> None:
    """Refuse secrets to an agent whose turn another process begins, with variables that are not the agent's."""
    if words and is_agents:
        raise RefusedError(
            "An agent's turn that waits in a queue, or was parked, cannot have secrets: who begins it may have others.",
            hint="csa run --detach --wait begins it itself",
        )


def refuse_words_of_records(secrets: Mapping[str, str], names: Iterable[str]) -> None:
    """Refuse a secret that is a part of what a turn's records need: it would be redacted there, too."""
    from csa.model.schemas.shared import STATUSES  # noqa: PLC0415  # few turns have secrets

    words = [*STATUSES, *(level.value for level in Permission), *names]
    for name, value in secrets.items():
        if any(value.strip() in word for word in words):
            raise UsageError(f"The secret {name} is, or is a part of, a word or path that csa has to record.")


def sources_of(words: Iterable[str] | None) -> list[dict[str, str]]:
    """Return what `run_started` has of a plan's secrets: names and sources."""
    return [{"name": name, "source": source} for name, _, source in (word.partition("=") for word in words or ())]


def _parse(word: str, directory: Path | str, environ: Mapping[str, str]) -> SecretSource:
    name, equals, source = word.partition("=")
    if not _NAME.fullmatch(name):
        raise UsageError("--secret takes NAME, NAME=env:VARIABLE or NAME=file:FILE.", hint="csa run --secret GH_TOKEN")
    if name.upper() in _TAKEN or name.upper().startswith(_TAKEN_PREFIXES):
        raise UsageError(f"{name} cannot be a secret: csa, or the system, needs that variable itself.")
    kind, colon, place = source.partition(":") if equals else (_ENV, ":", name)
    if kind not in {_ENV, _FILE} or not colon or not place:  # a value itself is not repeated
        raise UsageError(
            f"The secret {name} needs a source: its value would be in the process list and the shell's history.",
            hint=f"--secret {name}=env:VARIABLE or --secret {name}=file:FILE",
        )
    if kind == _FILE:
        place = os.path.join(os.path.abspath(directory), expand_home(place, environ))
    return SecretSource(name, kind, place)
