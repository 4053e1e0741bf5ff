"""Noting in audit.jsonl who read what of a session, where `audit_reads` asks for it.

These commands are to start fast: where no config file as much as names the key, the configuration is not read.
"""

from __future__ import annotations

from csa.cli.selecting import open_client, selected
from csa.paths import user_config_file
from csa.runner.setting import Setting
from csa.store.atomic import read_regular

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_KEY = "audit_reads"


def note_read(command: str, arguments: argparse.Namespace) -> None:
    """Note that a session is about to be read; raises what the command itself would where there is none."""
    client = open_client(arguments)
    if not _may_be_asked_for(client.setting) or not client.setting.config.audit_reads:
        return
    from csa.cli.output import warn  # noqa: PLC0415  # only who wants this pays for it
    from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # as above

    loss = record_act(client.setting, command, client.resolve(selected(arguments)), what="read")
    warn([loss] if loss else [])


def _may_be_asked_for(setting: Setting) -> bool:
    if f"CSA_CONF_{_KEY.upper()}" in setting.environ:
        return True
    for path in (user_config_file(setting.environ), setting.store.project / ".csa" / "config.toml"):
        try:
            if _KEY.encode() in read_regular(path):
                return True
        except OSError:
            continue
    return False
