"""Real CLIs on another host, over a real ssh: what `csa run --on` is for."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from fixtures.mock_provider import MockProvider, slow, text, tool_call
from tests.real.elsewhere import furnish, provider_on
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, KEY, TOOLS, RealTool
from tests.realhosts import Host, Hosts
from tests.support import wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


@pytest.fixture
def furnished(hosts: Hosts) -> Iterator[Callable[[str], tuple[Host, MockProvider]]]:
    """Return what starts a host that has the real CLIs, each set up for a provider there."""
    providers: list[MockProvider] = []

    def start(name: str) -> tuple[Host, MockProvider]:
        host = hosts[name]
        provider = provider_on(host)
        providers.append(provider)
        furnish(host, provider)
        _commit(host)
        return host, provider

    yield start
    for provider in providers:
        provider.__exit__(None, None, None)


def _commit(host: Host) -> None:
    host.git("init", "-q", "-b", "main", ".")
    (host.project / "parser").write_text("wrong\n")
    host.git("add", "-A")
    host.git("commit", "-q", "-m", "the parser")


def test_a_real_agent_works_on_another_host(
    hosts: Hosts, furnished: Callable[[str], tuple[Host, MockProvider]], tool: RealTool
) -> None:
    """It gets the code, changes it there, and its commit comes back; its conversation goes on; no key is here."""
    _, provider = furnished("n1")
    _commit(home := hosts["a"])
    (home.project / "notes").write_text("not committed\n")
    before = home.git("status", "--porcelain")
    command = "cat notes parser && echo right > parser"
    provider.on("mend", tool_call(command), text("It is right now."))
    provider.on("again", text("It still is."))
    done = home.run("run", "--on", "n1", "--tool", tool.name, "--permission", "full", "mend the parser")
    assert (done.code, done.out) == (0, "It is right now.\n"), done.err
    session_id = str(done.session_id)
    shown = home.run("logs", "--json", f"n1:{session_id}").out
    assert "not committed" in shown
    assert "wrong" in shown
    assert home.git("status", "--porcelain") == before
    assert home.git("show", f"refs/csa/{session_id}/1:parser") == "right"
    more = home.run("run", "-s", f"n1:{session_id}", "--json", "again")
    assert (more.code, more.json["turn"], more.json["text"]) == (0, 2, "It still is."), more.err
    assert "mend the parser" in "".join(provider.requests[-1].user_texts)
    assert home.run("ls", "--json", "--all-hosts").json[0]["status"] == "succeeded"
    for path in (each for each in home.tmp.rglob("*") if each.is_file() and ".ssh" not in each.parts):
        assert KEY.encode() not in path.read_bytes(), path
    wait_for(lambda: len(home.everyone()) == 2, "only its first process and sshd are left here")


def test_a_real_agent_has_another_one_work_elsewhere(
    hosts: Hosts, furnished: Callable[[str], tuple[Host, MockProvider]]
) -> None:
    """codex here calls csa, claude works there as its child, and both are one tree with what both have used."""
    (home, here), (n1, there) = furnished("a"), furnished("n1")
    call = f"{CSA} run --on n1 --tool {CLAUDE_CODE.name} --permission full 'INNER work'"
    waits = {"yield_time_ms": 30_000}  # or it would tell its model that the command still runs
    here.on("OUTER", tool_call(call, arguments=waits), text("outer is done", usage=(100, 10, 0)))
    there.on("INNER", tool_call("env; touch made"), text("inner is done", usage=(200, 20, 0)))
    done = home.run("run", "--tool", CODEX.name, "--permission", "full", "OUTER work")
    assert (done.code, done.out) == (0, "outer is done\n"), done.err
    outer = str(done.session_id)
    assert "inner is done" in home.run("logs", "--json", outer).out
    (inner,) = n1.run("ls", "--json", "--all-projects").json
    assert (inner["parent_session_id"], inner["depth"], inner["tools"]) == (outer, 1, [CLAUDE_CODE.name])
    tree = home.run("ls", "--tree", outer, "--json").json
    assert {each["id"] for each in tree} == {outer, inner["id"]}
    assert f"CSA_SESSION_ID={inner['id']}" in n1.run("logs", "--json", inner["id"]).out
    assert home.run("hosts", "--placed", "--json").json == []


@pytest.mark.parametrize("tool", [each for each in TOOLS if each in (CODEX, CLAUDE_CODE)], ids=lambda tool: tool.name)
def test_ctrl_c_ends_a_real_agent_elsewhere(
    hosts: Hosts, furnished: Callable[[str], tuple[Host, MockProvider]], tool: RealTool
) -> None:
    """In the middle of its work: the turn is cancelled there and here, and nothing is left of it, on either host."""
    n1, provider = furnished("n1")
    _commit(home := hosts["a"])
    provider.on("long", tool_call("tail -f parser"), slow(100, text("never")))
    running = home.start("run", "--on", "n1", "--tool", tool.name, "--permission", "full", "a long work")
    wait_for(lambda: "tail -f parser" in n1.shell(["ps", "-e", "-o", "args"]).out, "its command runs", within_s=60)
    running.signal(signal.SIGINT)
    done = running.wait()
    assert done.code == 130, done.err
    wait_for(lambda: len(n1.everyone()) == 2, "only its first process and sshd are left there")
    assert [each["status"] for each in home.run("ls", "--json", "--all-hosts").json] == ["cancelled"]
