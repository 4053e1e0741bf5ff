"""How this csa is called: by agents, and by whoever is told what to call. Imports nothing that a run needs."""

from __future__ import annotations

import os
import sys


def own_command() -> str:
    """Return how agents should call this csa: by the absolute path it was started by."""
    started_as = sys.argv[0]
    if os.path.basename(started_as) == "csa" and os.path.isfile(started_as):
        return os.path.join(os.getcwd(), started_as)
    import shutil  # noqa: PLC0415  # as a rule csa was started by its path

    return shutil.which("csa") or "csa"
