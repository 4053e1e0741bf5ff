"""The hidden commands that `csa run --on` calls on another host."""

from __future__ import annotations

import argparse
import os
import sys
import time

from csa import __version__
from csa.cli.ourselves import own_command
from csa.cli.selecting import open_client


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hold", metavar="ID", help="attend to the turn of this order, whose connection broke")
    parser.add_argument(
        "--within", metavar="S", type=float, default=0.0, help="with --hold: it may come within S seconds"
    )
    parser.add_argument("--job", action="store_true", help="as the job of a scheduler")


def execute(arguments: argparse.Namespace) -> int:
    """Run a turn for another host: its order comes on stdin, and ends with it. csa run --on calls it."""
    from csa.runner.hosts.frames import PROTOCOL, write_line  # noqa: PLC0415  # `csa completion` loads every command

    out, node = sys.stdout.buffer, os.uname().nodename
    known = {"protocol": PROTOCOL, "version": __version__, "node": node, "time": time.time()}
    write_line(out, {"csa": "supervise", **known, "feeds": arguments.hold is None})
    out.flush()  # first of all: the other side goes on meanwhile
    context = open_client(command=own_command()).context  # which need not be on the PATH of agents here
    if arguments.hold is None:
        from csa.runner.hosts.supervising import supervise  # noqa: PLC0415  # as above

        return supervise(context, is_job=arguments.job)
    from csa.runner.hosts.holding import hold  # noqa: PLC0415  # as above

    return hold(context, arguments.hold, within_s=arguments.within)
