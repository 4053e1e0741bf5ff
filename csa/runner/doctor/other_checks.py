"""What `csa doctor` says about other hosts, and the other implementation of the format: its store, and its command."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from csa.errors import ArchiveError, CsaError, StateError
from csa.model.check import Check
from csa.model.config import Encryption
from csa.paths import other_state_root
from csa.store.mirrors import find_mirrors

_OURS = b"csa.cli"  # in the launcher of every csa of this kind
_LAUNCHER_BYTES = 4096
_LONG_S = 30 * 86400.0


def check_other_store(root: Path, environ: Mapping[str, str]) -> list[Check]:
    """Say where its sessions are, if there are any."""
    other = other_state_root(environ)
    if not other.is_dir() or os.path.realpath(other) == os.path.realpath(root):
        return []
    detail = f"another program (cli-sub-agent) keeps its sessions in {other}; csa does not use them"
    step = f"CSA_STATE_DIR={shlex.quote(str(other))} csa list shows those of this project"
    return [Check("state", "other store", "warn", detail, step)]


def check_mirrors(root: Path) -> list[Check]:
    """Name the hosts that were not heard of for long: their mirrors stay until they are deleted."""
    try:
        old = [mirror for mirror in find_mirrors(str(root)) if mirror.heard_s() > _LONG_S]
    except StateError as error:
        return [Check("state", "other hosts", "warn", error.message, error.hint)]
    if not old:
        return []
    detail = "not heard of for 30 days or more: " + ", ".join(f"{each.host} ({each.in_words})" for each in old)
    step = f"csa sync {old[0].host}, or if it is gone for good: rm -r {shlex.quote(old[0].pathname)}"
    return [Check("state", "other hosts", "warn", detail, step)]


def check_command(environ: Mapping[str, str]) -> list[Check]:
    """Check what `csa` means in a shell: for an agent that is told to call csa, and for you."""
    found = shutil.which("csa", path=environ.get("PATH"))
    if found is None or _is_ours(found):
        return []
    detail = f"the first csa on the PATH, {found}, is another program"
    return [Check("setup", "command", "warn", detail, "put this csa's directory before it on the PATH")]


def _is_ours(command: str) -> bool:
    try:
        with open(command, "rb") as file:
            return _OURS in file.read(_LAUNCHER_BYTES)
    except OSError:
        return True  # it cannot be judged


def check_encryption(encryption: Encryption, environ: Mapping[str, str]) -> list[Check]:
    """Check that what is encrypted for the recipients can be opened here, if a key is named, by doing both."""
    if not encryption.recipients:
        return []
    from csa.runner.atrest import SET, Keys  # noqa: PLC0415  # few sessions are encrypted
    from csa.store.sealing import opened_with, seal  # noqa: PLC0415  # as above

    how = "what has finished is encrypted" if encryption.seals else "csa seal encrypts"
    if not (encryption.identity or encryption.identity_command):
        return [Check("state", "encryption", "ok", f"{how}; no key that opens it is named here")]
    sealed = BytesIO()
    try:
        seal(encryption.recipients, sealed, lambda stream: stream.write(b"csa"))
        sealed.seek(0)
        with opened_with(Keys(encryption, environ).found, sealed) as plain:
            plain.read()
    except CsaError as error:
        step = SET if isinstance(error, ArchiveError) else error.hint
        words = "your key does not open what is encrypted for these recipients"
        detail = words if isinstance(error, ArchiveError) else error.message.rstrip(".")
        return [Check("state", "encryption", "fail", detail, step)]
    return [Check("state", "encryption", "ok", f"{how}, and your key opens it")]
