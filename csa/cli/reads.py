"""Noting in audit.jsonl who read what of a session, where `audit_reads` asks for it.

These commands are to start fast: where no config file as much as names the key, the configuration is not read.
"""

from __future__ import annotations

from csa.cli.selecting import find_one
from csa.paths import user_config_file
from csa.runner.session import Session
from csa.runner.setting import Setting
from csa.store.atomic import read_regular

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_KEY = "audit_reads"


def find_to_read(arguments: argparse.Namespace, command: str) -> Session:
    """Return the session that is named, and note that it is about to be read."""
    session = find_one(arguments, retired=True)
    if not _may_be_asked_for(session.setting) or not session.setting.config.audit_reads:
        return session
    from csa.cli.output import warn  # noqa: PLC0415  # only who wants this pays for it
    from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # as above

    loss = record_act(session.setting, command, session.session_id, what="read")
    warn([loss] if loss else [])
    return session


def _may_be_asked_for(setting: Setting) -> bool:
    if f"CSA_CONF_{_KEY.upper()}" in setting.environ:
        return True
    for path in (user_config_file(setting.environ), setting.config_directory / ".csa" / "config.toml"):
        try:
            if _KEY.encode() in read_regular(path):
                return True
        except OSError:
            continue
    return False
