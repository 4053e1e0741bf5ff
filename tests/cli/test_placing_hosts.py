"""`csa run --on` over real hosts: trees over several, what binds there, what ends them, and what does not travel."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.realhosts import Host, Hosts
from tests.support import Json, Running, children_of, wait_for

pytestmark = pytest.mark.thorough
LEASH_S = 5
IDLE = 2  # a host's own processes: the first one, and its sshd


@pytest.fixture
def three(hosts: Hosts) -> list[Host]:
    """Three hosts, each with a project in a directory of the same name, whose turns elsewhere have a short leash."""
    found = hosts.up("a", "n1", "n2")
    for host in found:
        host.project = hosts.same
        own_config(host).parent.mkdir(parents=True)
        engines = (f"[engines.{each.name}]\nleash_s = {LEASH_S}\ncode = 'shared'\n" for each in found)
        own_config(host).write_text("".join(engines))
    return found


def own_config(host: Host) -> Path:
    return host.home / ".config" / "csa" / "config.toml"


def rule(match: str, *steps: list[object]) -> Json:
    return {"match": match, "do": list(steps)}


def on(host: Host, prompt: str, *words: str) -> str:
    """Return what an agent calls to have another one work on a host."""
    return " ".join(["csa", "run", "--on", host.name, "--tool", "codex", *words, f"'{prompt}'"])


def card(host: Host, name: str) -> Json:
    (found,) = (each for each in host.run("ls", "--json").json if each["name"] == name)
    return {**found}


def test_a_child_elsewhere_is_bound_as_one_here(three: list[Host]) -> None:
    """It has its parent, depth and root; depth, permission and allowance bind there, with exit code 5 and all below."""
    a, n1, _ = three
    a.script(
        rule(
            "outer",
            ["run", on(n1, "inner", "--name inner --allow-tokens 1500")],
            ["run", on(n1, "too much", "--allow-tokens 1000000") + "; echo beyond $?"],
            ["run", on(n1, "any", "--permission full --allow-tokens 1000") + "; echo permission $?"],
            ["say", "over"],
        )
    )
    n1.script(
        rule("inner", ["run", "csa run --tool codex --name leaf 'leaf'"], ["say", "inner is done"]),
        rule("leaf", ["run", "csa run --tool codex 'deeper'; echo deeper $?"], ["say", "leaf is done"]),
    )
    a.env["CSA_CONF_MAX_DEPTH"] = "2"
    done = a.start("run", "--tool", "codex", "--name", "outer", "--budget-tokens", "9000", "outer")
    assert done.process.wait(90) == 0, done.err
    said = a.run("logs", "--json", done.session_id).out
    assert "beyond 5" in said
    assert "permission 5" in said
    inner, leaf = card(n1, "inner"), card(n1, "leaf")
    assert "deeper 5" in n1.run("logs", "--json", "leaf").out
    assert (inner["parent_session_id"], inner["depth"]) == (done.session_id, 1)
    assert (leaf["parent_session_id"], leaf["depth"]) == (inner["session_id"], 2)
    assert {n1.state(each["session_id"])["genealogy"]["root_session_id"] for each in (inner, leaf)} == {done.session_id}
    more = a.run("run", "-s", "n1:inner", "more")
    assert (more.code, "budget" in more.err) == (5, True), more.err
    assert a.run("hosts", "--placed", "--json").json == []
    tree = set(a.run("ls", "-q", "--tree", "outer").out.split())
    assert tree == {done.session_id, inner["session_id"], leaf["session_id"]}


def tree_over_all(three: list[Host]) -> Running:
    """Begin a tree on n1, from a: there a child, and a child of that on n2; all of them wait."""
    a, n1, n2 = three
    n1.script(
        rule("outer", ["run-parallel", ["csa run --tool codex --name child 'child'", on(n2, "far", "--name far")]]),
        rule("child", *n1.hold()),
    )
    n2.script(rule("far", *n2.hold()))
    running = a.start("run", "--on", "n1", "--tool", "codex", "--name", "outer", "outer")
    wait_for(lambda: n1.ready.exists() and n2.ready.exists(), "both wait", within_s=60)
    return running


def test_nothing_is_left_when_its_submitter_is_killed(three: list[Host]) -> None:
    """SIGKILL of csa run: twice a leash later there is nothing left of the tree, on any host."""
    a, n1, n2 = three
    running = tree_over_all(three)
    running.kill()
    killed_at = time.monotonic()
    wait_for(lambda: len(n1.everyone()) == len(n2.everyone()) == IDLE, "nothing is left", within_s=2 * LEASH_S)
    assert time.monotonic() - killed_at > LEASH_S - 2
    wait_for(lambda: len(a.everyone()) == IDLE, "nothing is left here")
    assert {card(n1, "outer")["status"], card(n1, "child")["status"], card(n2, "far")["status"]} == {"cancelled"}


@pytest.mark.long
def test_whenever_its_connection_breaks_an_order_is_carried_out_once_or_not_at_all(three: list[Host]) -> None:
    """SIGKILL of ssh at any instant: csa run succeeds and there is one session, or fails and there is none."""
    a, n1, _ = three
    generator = random.Random(5)
    for number in range(8):
        before = set(n1.published())
        running = a.start("run", "--on", "n1", "--tool", "codex", "hello")
        time.sleep(generator.uniform(0.3, 2.5))
        for pid in children_of(running.pid):
            if has(f"/proc/{pid}/cmdline", b"supervise"):
                os.kill(pid, signal.SIGKILL)
        code = running.process.wait(60)
        assert (code, len(set(n1.published()) - before)) in {(0, 1), (7, 0)}, (number, running.err)
    wait_for(lambda: len(n1.everyone()) == IDLE, "nothing is left")
    assert a.run("hosts", "--placed", "--json").json == []


def test_detached_it_goes_on_without_its_submitter(three: list[Host]) -> None:
    """Also when that host is off: what runs there ends as it would, and is seen when the host is back."""
    a, n1, _ = three
    n1.play(*n1.hold(), ["say", "done"])
    session_id = a.run("run", "--on", "n1", "--tool", "codex", "--detach", "long").out.strip()
    n1.wait_ready()
    a.kill()
    time.sleep(LEASH_S + 1)  # what would have been its leash
    n1.release()
    wait_for(lambda: n1.status(session_id) == "succeeded", "it ends")
    a.start_again()
    assert a.run("sync", "n1").code == 0
    assert a.run("result", session_id).out == "done\n"


@pytest.mark.long
def test_many_turns_on_three_hosts_are_found_from_one(three: list[Host]) -> None:
    """20 of them, 6 nested: each is found from one host by the first characters of its id, and has one root."""
    a, n1, n2 = three
    for host, other in ((n1, n2), (n2, n1)):
        host.script(rule("nest", ["run", on(other, "leaf", "-q")], ["say", "nested"]))
    started = [a.start("run", "--on", host.name, "--tool", "codex", "nest") for host in (n1, n2) for _ in range(3)]
    started += [a.start("run", "--on", host.name, "--tool", "codex", "plain") for host in (n1, n2) for _ in range(3)]
    started += [a.start("run", "--tool", "codex", "plain") for _ in range(2)]
    codes = [running.process.wait(90) for running in started]
    assert codes == [0] * 14, [running.err for running in started]
    assert a.run("sync", "n1", "n2").code == 0
    ids = {each for host in three for each in host.published()}
    assert len(ids) == 20
    for each in ids:
        assert a.run("status", "--json", each[:16]).json["session_id"] == each
    listed = a.run("ls", "--json", "--all-hosts").json
    assert sorted(each["depth"] for each in listed) == [0] * 14 + [1] * 6
    assert {each["status"] for each in listed} == {"succeeded"}


def places_of(host: Host, secret: str) -> list[str]:
    """Return where a host has a secret: in its files, in environments and command lines of what runs there."""
    content = secret.encode()
    files = [str(path) for path in host.tmp.rglob("*") if path.is_file() and content in path.read_bytes()]
    shown = (f"/proc/{pid}/{name}" for pid in host.everyone() for name in ("environ", "cmdline"))
    return [*files, *(pathname for pathname in shown if has(pathname, content))]


def has(pathname: str, content: bytes) -> bool:
    try:
        return content in Path(pathname).read_bytes()
    except OSError:  # it has just ended
        return False


def test_a_tree_over_three_hosts_is_seen_and_ended_from_one(three: list[Host]) -> None:
    """What was placed on a host, and from there on a third one, is in one tree; killed from here, nothing is left."""
    a, n1, n2 = three
    a.script(rule("outer", ["run", on(n1, "middle", "--name middle")]))
    n1.script(rule("middle", ["run", on(n2, "far", "--name far")]))
    n2.script(rule("far", *n2.hold()))
    running = a.start("run", "--tool", "codex", "--name", "outer", "outer")
    n2.wait_ready()
    assert a.run("sync", "n2").code == 0
    wait_for(lambda: len(a.run("ls", "--tree", "-q").out.split()) == 3, "all of it is seen")
    rows = a.run("ls", "--tree", "--json", "outer").json
    assert [(row["name"], row["mirror"]) for row in rows] == [("outer", None), ("middle", "n1"), ("far", "n2")]
    assert {row["status"] for row in rows} == {"running"}
    assert {row["name"] for row in a.run("top", "--json").json} == {"outer", "middle", "far"}
    killed = a.run("kill", "--tree", "outer")
    assert killed.code == 0, killed
    assert running.wait().code != 0
    for host in (n1, n2):
        assert host.run("ps", "--json").json == []
        assert [each["status"] for each in host.run("ls", "--json").json] == ["cancelled"]


def test_no_secret_travels(three: list[Host]) -> None:
    """Not one of ours to the other host, in no file, environment or command line; nor one of that host's to ours."""
    a, n1, _ = three
    ours, theirs = "sk-ours-0123456789abcdef", "sk-theirs-0123456789abcdef"
    a.env["OPENAI_API_KEY"] = a.env["MY_SECRET_TOKEN"] = ours
    (a.home / ".codex").mkdir()
    (a.home / ".codex" / "auth.json").write_text(f'{{"OPENAI_API_KEY": "{ours}"}}')
    own_config(a).write_text("")  # code travels, which it does by default
    code = a.tmp / "same"
    for name, content in {"app.py": "pass\n", ".gitignore": ".env\n", ".env": f"KEY={ours}\n"}.items():
        (code / name).write_text(content)
    for words in (["init", "-q"], ["remote", "add", "origin", f"https://ann:{ours}@host/r"], ["add", "."]):
        a.git(*words)
    a.git("commit", "-qm", "one")
    n1.env["OPENAI_API_KEY"] = theirs
    n1.play(["run", "env; ls -a; cat app.py .env"], *n1.hold(), ["say", f"the key is {theirs}"])
    running = a.start("run", "--on", "n1", "--tool", "codex", "long")
    n1.wait_ready()
    assert places_of(n1, theirs), "it is looked for in vain"
    assert places_of(a, ours), "likewise"
    assert places_of(n1, ours) == []
    assert "pass" in n1.run("logs", "--json", running.session_id).out, "the code is there"
    n1.release()
    done = running.wait()
    assert (done.code, theirs in done.out) == (0, False), done
    assert places_of(n1, ours) == []
    assert places_of(a, theirs) == []


@pytest.mark.long
def test_a_budget_reaches_over_three_hosts(three: list[Host]) -> None:
    """Each takes a part along, refuses what is beyond it, and says what was used; of a host that is gone it is held."""
    a, n1, n2 = three
    uses: list[object] = ["usage", 990, 10]
    a.script(rule("top", ["run", on(n1, "middle", "--name", "middle", "--allow-tokens", "9000")], uses))
    n1.script(
        rule(
            "middle",
            ["run", f"{on(n2, 'leaf')}; test $? = 2"],  # its budget has to say how much
            ["run", f"{on(n2, 'leaf', '--allow-tokens', '9500')}; test $? = 5"],
            ["run", on(n2, "leaf", "--name", "leaf", "--allow-tokens", "3000")],
            uses,
        ),
        rule("", ["run", "exit 1"]),
    )
    n2.play(uses, ["say", "done"])
    a.run("run", "--tool", "codex", "--name", "top", "--budget-tokens", "20000", "top")
    for host, name, used in ((a, "top", 3000), (n1, "middle", 2000), (n2, "leaf", 1000)):
        report = host.run("budget", name, "--json").json
        assert (report["used"]["tokens"], report["reserved"]["tokens"]) == (used, None), name
        assert host.run("hosts", "--placed", "--json").json == []
    leaf = n2.state(n2.ids()[0])["genealogy"]
    assert (leaf["depth"], leaf["parent_host"]) == (2, "n1")
    assert leaf["root_session_id"] == a.ids()[0]
    n1.play(*n1.hold(), uses, ["say", "done"])
    (middle,) = n1.ids()
    a.run("run", "-s", f"n1:{middle}", "--detach", "again")
    n1.wait_ready()
    assert a.run("budget", "top", "--json").json["reserved"]["tokens"] == 9000
    assert a.run("hosts", "--release", middle).code == 4
    n1.cut()
    assert a.run("hosts", "--release", middle).code == 7
    assert a.run("hosts", "--release", middle, "--force").code == 0
    assert a.run("budget", "top", "--json").json["used"]["tokens"] == 3000
    n1.heal()
    n1.release()
    wait_for(lambda: card(n1, "middle")["status"] == "succeeded", "it has ended")
    a.run("sync", "n1")
    assert a.run("budget", "top", "--json").json["used"]["tokens"] == 4000
