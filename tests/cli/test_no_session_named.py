"""What commands do when no session is named."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from tests.cli.prepared import session_id, store_of, write_session
from tests.support import Place

READING = ("show", "logs", "result", "status", "info", "why", "context", "budget", "artifacts", "log", "attach")
ACTING = ("kill", "open", "rm", "restore", "rename", "describe", "pin", "compress", "checkpoint", "repair")
ASKING = ("wait", "is-alive", "export")  # whose answer a script must not get about another session


@pytest.fixture
def sessions(place: Place) -> None:
    """Two sessions; the one with the name was used last."""
    write_session(store_of(place), 1, name="api", age=timedelta(days=3, hours=1))
    write_session(store_of(place), 2, age=timedelta(days=4))


@pytest.mark.usefixtures("sessions")
def test_what_only_reads_takes_the_last(place: Place) -> None:
    """It does as with @last, and says so in one line on stderr; also with --json."""
    for command in READING:
        named, alone = place.run(command, "@last"), place.run(command)
        assert (alone.code, alone.out) == (named.code, named.out), command
        assert alone.err == "csa: using api, the session used last\n" + named.err
    assert place.run("info", "--json").json == place.run("info", "api", "--json").json
    assert place.run("rm", "api").code == 0
    assert place.run("show").err == f"csa: using {session_id(2)} (work 2), the session used last\n"


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize("command", ACTING + ASKING)
def test_all_else_asks_for_one(place: Place, command: str) -> None:
    """What changes, ends or answers for a session is not guessed at."""
    done = place.run(command)
    assert (done.code, done.out) == (2, "")
    assert re.search("[Nn]ame (a|one) session", done.err)


def test_where_there_is_none(place: Place) -> None:
    """Without any session, the hint is how to begin one."""
    done = place.run("show")
    assert (done.code, done.out) == (3, "")
    assert 'hint: csa run "..."' in done.err
