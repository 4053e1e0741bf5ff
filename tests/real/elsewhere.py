"""Hosts of the tests' kind with the real CLIs, each with a provider on its own loopback."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from fixtures.mock_provider import MockProvider
from tests.real.workplace import CSA, KEY, SEARCH_PATH, SILENT, TOOLS, executables
from tests.realhosts import Host

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, of <sched.h>


def provider_on(host: Host) -> MockProvider:
    """Start a provider that only this host reaches: a socket stays in the network in which it was made."""
    made: list[MockProvider] = []

    def work() -> None:
        with Path(f"/proc/{host.first_pid}/ns/net").open() as network:
            assert ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _NEW_NETWORK) == 0, ctypes.get_errno()
        made.append(MockProvider().__enter__())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


def furnish(host: Host, provider: MockProvider) -> None:
    """Set all tools up there for that provider."""
    host.env |= {"PATH": os.pathsep.join([str(executables()), str(CSA.parent), SEARCH_PATH]), **SILENT}
    for tool in TOOLS:
        host.env |= {tool.key_variable: KEY, **tool.env(provider.url)}
        for place, content in tool.files(provider.url).items():
            path = host.home / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    host.tell_logins()
