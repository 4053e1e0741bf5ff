"""Reaching a host while what is needed for a turn there is loaded and made ready here: a login takes as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from csa.model.config import Config
from csa.model.configkeys import SSH
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.frames import SUPERVISE
from csa.store.mirrors import is_host_name


@contextmanager
def reached_ahead(config: Config, host: str) -> Iterator[Link | None]:
    """Begin to reach a host that takes orders, and yield the connection, which is closed then; None if that is none."""
    link = None
    if is_host_name(host) and (engine := config.engine(host)).kind == SSH:
        with suppress(HostError):  # whoever needs it says why
            link = Link(engine, SUPERVISE)
    try:
        yield link
    finally:
        if link:
            link.close()
