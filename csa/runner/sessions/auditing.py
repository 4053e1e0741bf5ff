"""With `audit_reads`, reads are recorded in audit.jsonl.

Whoever reads must start fast: if no config file mentions the key, the configuration is not read.
"""

from __future__ import annotations

from csa.paths import user_config_file
from csa.runner.context import Context
from csa.store.atomic import read_regular

_AUDIT_KEY = "audit_reads"


def note_read(context: Context, session_id: str, command: str) -> str | None:
    """Record that a project's session is about to be read, if configured; return why that has failed."""
    if not _may_ask_for_audit(context) or not context.config.audit_reads:
        return None
    from csa.runner.sessions.acting import record_act  # noqa: PLC0415  # only users of this feature pay for it

    return record_act(context, command, session_id, what="read")


def _may_ask_for_audit(context: Context) -> bool:
    if f"CSA_CONF_{_AUDIT_KEY.upper()}" in context.environ:
        return True
    for path in (user_config_file(context.environ), context.config_directory / ".csa" / "config.toml"):
        try:
            if _AUDIT_KEY.encode() in read_regular(path):
                return True
        except OSError:
            continue
    return False
