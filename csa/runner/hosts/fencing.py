"""Asking a host what has become of an order, so that one that has not come can never begin there."""

from __future__ import annotations

from contextlib import closing

from csa.model.config import Engine
from csa.runner.hosts.answers import error_in
from csa.runner.hosts.engines import Link
from csa.runner.hosts.frames import read_line
from csa.runner.hosts.supervising import NOT_PLACED, SUPERVISE


def is_fenced(engine: Engine, order_id: str) -> bool:
    """Say whether an order has never begun on a host, and from now on never will; False: it has.

    HostError if the host does not say.
    """
    with closing(Link(engine, SUPERVISE, "--hold", order_id)) as link:
        link.greeting()
        said = read_line(link.stdout)
        if said is None:
            raise link.failure()
    if not (error := error_in(engine.name, said)):
        return False
    if error.code == NOT_PLACED:
        return True
    raise error
