"""What other hosts hold of the budgets here, as the commands show it: reserved, then settled, or given back."""

from __future__ import annotations

import pytest

from csa.model.config import Engine
from csa.model.limits import Budget
from csa.runner.client import Csa
from csa.runner.hosts import escrow
from csa.runner.hosts.escrow import Escrow
from csa.store.statefile import load_state, save_state
from csa.structs import replace
from tests.cli.hosts import sync
from tests.store.support import NOON
from tests.support import Json, Place

AWAY = "01JH4QWERT0000000000000009"


class Family:
    """A root with a budget of 9,000 tokens, whose agent places a session on n1."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.root, seen = place.agent("--budget-tokens", "9000", "--name", "root")
        self.env = {name: value for name, value in seen.items() if not name.startswith("CSA_CONF_")}
        self.used: int = self.budget()["used"]["tokens"]

    def reserve(self, tokens: int) -> Escrow:
        environ = {**self.place.environment(None), **self.env}
        client = Csa.from_environment(
            self.place.project, environ={name: value for name, value in environ.items() if value}
        )
        return escrow.reserve(client.context, Engine("n1"), AWAY, Budget(tokens=tokens))

    def budget(self) -> Json:
        found: Json = self.place.run("budget", "root", "--json").json
        return found

    def run_there(self, remote: Place) -> int:
        """Have n1 run it, as its supervisor does; return what it uses."""
        session_id = remote.codex("the outer work", "--session-id", AWAY, "--name", "kid").session_id
        at = remote.session(session_id) / "state.toml"
        state = replace(load_state(at), parent_host="home", parent_project=str(self.place.project))
        save_state(at, replace(state, parent_session_id=self.root, root_session_id=self.root, depth=1))
        return int(remote.run("budget", AWAY, "--json").json["used"]["tokens"])


@pytest.fixture
def family(place: Place) -> Family:
    return Family(place)


def test_a_budget_shows_what_is_reserved_and_then_settled(family: Family, place: Place, remote: Place) -> None:
    """As a row, and in sums; until it is settled what is reserved is not there for others, and its tree is kept."""
    with family.reserve(4000) as escrowed:
        escrowed.sent()
        report = family.budget()
        assert (report["used"]["tokens"], report["reserved"]["tokens"]) == (family.used, 4000)
        assert report["left"]["tokens"] == 5000 - family.used
        (_, row) = report["sessions"]
        assert (row["state"], row["mirror"], row["tokens"]) == ("reserved", "n1", 4000)
        shown = place.run("budget", "root").out
        assert f"{family.used:,} and 4,000 reserved of 9,000 tokens" in shown
        assert "reserved" in shown.splitlines()[-1]
        (listed,) = place.run("hosts", "--placed", "--json").json
        assert (listed["session_id"], listed["state"], listed["held"]["tokens"]) == (AWAY, "sent", 4000)
        assert AWAY in place.run("hosts", "--placed").out
        refused = place.run("rm", "root")
        assert (refused.code, f"session {AWAY} is placed on n1, and not settled" in refused.err) == (5, True)
        at = place.session(family.root) / "state.toml"
        save_state(at, replace(load_state(at), last_accessed=NOON))
        (kept,) = place.run("clean", "--days", "30", "--json").json["kept"]
        assert (kept["session_id"], "placed on n1" in kept["why"]) == (family.root, True)
        spent = family.run_there(remote)
        sync(place)
        assert family.budget()["reserved"]["tokens"] == 4000  # whoever has placed it is still there
    sync(place)
    report = family.budget()
    assert (report["used"]["tokens"], report["reserved"]["tokens"]) == (family.used + spent, None)
    assert [row["state"] for row in report["sessions"]] == ["at_rest", "at_rest"]
    assert place.run("budget", "root").out.splitlines()[-1].endswith("on n1: the outer work")
    assert place.run("hosts", "--placed").out == "Nothing is placed on other hosts\n"
    assert place.run("validate").code == remote.run("validate").code == 0
    assert place.run("rm", "root").code == 0


@pytest.mark.thorough
def test_giving_back_asks_the_host(family: Family, place: Place, remote: Place) -> None:
    """What was never sent needs no answer; what may be there does, or force, and then what it has used counts late."""
    family.reserve(4000).close()
    done = place.run("hosts", "--release", AWAY[:20])
    assert (done.code, done.out) == (0, f"{AWAY}: given back; used on n1: nothing\n")
    assert family.budget()["sessions"][1:] == []
    with family.reserve(4000) as escrowed:
        escrowed.sent()
        assert place.run("hosts", "--release", AWAY).code == 4
    gone = {"PATH": "/usr/bin:/bin"}
    assert place.run("hosts", "--release", AWAY, env=gone).code == 7
    assert place.run("hosts", "--release", AWAY).code == 0  # the host has not had it, and will not take it any more
    with family.reserve(4000) as escrowed:
        escrowed.sent()
    assert place.run("hosts", "--release", AWAY, "--force", env=gone).code == 0
    assert family.budget()["left"]["tokens"] == 9000 - family.used
    spent = family.run_there(remote)
    sync(place)
    assert family.budget()["left"]["tokens"] == 9000 - family.used - spent
    assert place.run("hosts", "--force").code == place.run("hosts", "--placed", "--check").code == 2
    assert place.run("hosts", "--release", AWAY).code == 3


@pytest.mark.thorough
def test_a_child_of_another_host_is_whole(family: Family, place: Place, remote: Place) -> None:
    """Nothing calls it damaged or an orphan: it can be listed, exported, imported, adopted and repaired there."""
    family.run_there(remote)
    for words in (["validate"], ["repair", "kid"], ["ls", "--tree"], ["top", "--once"], ["status", "kid"]):
        done = remote.run(*words)
        assert (done.code, "missing" in done.out, "orphan" in done.out) == (0, False, False), (words, done)
    assert "(on home)" in remote.run("ls", "--tree").out
    assert remote.run("status", "kid", "--json").json["parent_host"] == "home"
    bundle = remote.tmp / "kid.csa"
    assert remote.run("export", "kid", "-o", str(bundle)).code == 0
    assert place.run("import", str(bundle)).code == 0
    assert place.run("status", AWAY, "--json").json["parent_host"] == "home"
    moved = remote.project.with_name("moved")
    remote.project.rename(moved)
    was, remote.project = remote.project, moved
    assert remote.run("adopt", str(was)).code == 0
    assert remote.run("status", "kid", "--json").json["parent_host"] == "home"
    assert remote.state(AWAY)["genealogy"]["parent_project"] == str(place.project)
    assert remote.run("validate").code == 0
