"""The library as a program uses it: asking, starting, and what is done with sessions by their names."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import threading

import anyio
import pytest

import csa
from csa.structs import fields
from tests.support import PATIENCE_S, Place


def open_client(place: Place) -> csa.Csa:
    return csa.Csa(place.project, root=place.state_root, environ=place.env)


def test_asks(place: Place) -> None:
    """`ask` returns the result; options are those of a request, and a permission may be its name."""
    place.play(["say", "done"])
    client = open_client(place)

    async def scenario() -> tuple[csa.RunResult, csa.RunResult]:
        first = await client.ask("hello", tool="codex", name="api", permission="read-only")
        return first, await client.ask(csa.RunRequest(prompt="more", session="api"), permission=csa.Permission.EDIT)

    first, second = anyio.run(scenario)
    assert (first.status, first.text, first.turn) == ("succeeded", "done", 1)
    assert (second.session_id, second.turn) == (first.session_id, 2)
    asked = [event["data"]["permission"] for event in place.events(first.session_id) if event["type"] == "run_started"]
    assert asked == ["read-only", "edit"]
    with pytest.raises(csa.UsageError, match="'all' is not a permission"):
        client.run("hello", tool="codex", permission="all")  # type: ignore[arg-type]  # as one may mistype


def test_asks_without_a_loop(place: Place) -> None:
    """`ask_sync` works in any thread, and refuses one whose event loop it would stop."""
    place.play(["say", "done"])
    client = open_client(place)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(client.ask_sync("hello", tool="codex").text))
    thread.start()
    thread.join(PATIENCE_S)
    assert answers == ["done"]

    async def scenario() -> None:
        with pytest.raises(csa.UsageError, match="event loop") as refused:
            client.ask_sync("hello", tool="codex")
        assert "await client.ask" in (refused.value.hint or "")

    anyio.run(scenario)
    assert len(place.published()) == 1


def test_interrupt_ends_the_agent(place: Place) -> None:
    """Ctrl-C during `ask_sync` ends the agent and all it has started, records that, and is a KeyboardInterrupt."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], *place.hold())
    code = "import csa; csa.Csa.from_environment().ask_sync('hello', tool='codex')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=place.env, cwd=place.project, stderr=subprocess.PIPE, text=True
    )
    place.started.append(process)  # type: ignore[arg-type]  # of text
    place.wait_ready()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not place.processes()
    (session_id,) = place.published()
    assert place.last_event(session_id)["status"] == "cancelled"


def test_result_before_the_end(place: Place) -> None:
    """A turn that runs has no result: asking for it is a mistake that says so. From `run_finished` on it is there."""
    place.play(["say", "done"])

    async def scenario() -> None:
        async with open_client(place).run("hello", tool="codex") as turn:
            with pytest.raises(csa.UnfinishedError, match=turn.session_id):
                _ = turn.result
            assert not turn.has_ended
            async for event in turn:
                if event.type == "run_finished":
                    assert turn.result.text == "done"

    anyio.run(scenario)


async def fail_in(turn: csa.Turn) -> None:
    async with turn:
        async for event in turn:
            if event.type == "agent_message":
                raise ZeroDivisionError


@pytest.mark.thorough
def test_leaving_the_block_keeps_the_session(place: Place) -> None:
    """Who leaves the block by an exception gets that, and a cancelled turn in a session that can be continued."""
    place.play(["say", "first"], ["sleep", 60])
    client = open_client(place)

    async def scenario() -> None:
        turn = client.run("hello", tool="codex")
        with pytest.raises(ZeroDivisionError):
            await fail_in(turn)
        assert (turn.result.status, turn.result.error_message) == ("cancelled", "abandoned by its caller")
        assert (client.info(turn.session_id).status, client.liveness(turn.session_id).state) == (
            "cancelled",
            "not_alive",
        )
        assert not place.processes()
        place.play(["say", "second"])
        assert (await client.ask("go on", session=turn.session_id)).text == "second"

    anyio.run(scenario)


@pytest.mark.thorough
def test_background_turn(place: Place) -> None:
    """A turn that was started outlives the call; it is followed, waited for and killed by its session's name."""
    place.play(*place.hold(), ["say", "done"])
    client = open_client(place)
    started = client.start("hello", tool="codex", name="docs")
    assert client.info("docs").is_running
    assert [ending.status for ending in client.wait("docs", timeout_s=0.01)] == ["running"]
    place.release()
    assert [event.type for event in client.events("docs", follow=True)][-1] == "run_finished"
    (ending,) = client.wait("docs", tree=True, timeout_s=PATIENCE_S)
    assert (ending.session_id, ending.status, ending.exit_code) == (started.session_id, "succeeded", 0)
    assert client.result("docs").text == "done"
    assert [killed.outcome for killed in client.kill("docs", tree=True)] == ["not_running"]

    place.go.unlink()
    client.start("again", session="docs")
    (killed,) = client.kill("docs")
    assert (killed.outcome, killed.status) == ("killed", "cancelled")
    assert '"session kill"' in (place.store / "audit.jsonl").read_text()
    with pytest.raises(csa.UsageError, match="Name a session"):
        client.kill()


def test_verbs(place: Place) -> None:
    """What the command line does with sessions are methods, which return values and raise typed errors."""
    place.play(["call", "ls", "a b"], ["say", "done"])
    client = open_client(place)
    result = client.ask_sync("hello", tool="codex", name="api")
    messages = client.show("api")
    assert [(message.role, message.content) for message in messages if message.content] == [
        ("user", "hello"),
        ("assistant", "done"),
    ]
    assert [call.title for message in messages for call in message.calls] == ["ls"]
    assert client.show("api", turn=2) == []
    assert [(hit.session_id, hit.role, hit.text) for hit in client.search("HELL", "o")] == [
        (result.session_id, "user", "hello")
    ]
    assert client.budget("api").own.session_id == result.session_id
    assert client.budget("api", tokens=9_000_000).own.budget.tokens == 9_000_000
    compacted = anyio.run(client.compress, "api")
    assert (compacted.status, compacted.error_message) == ("succeeded", None)
    assert client.rename("api", "web").after.name == "web"
    assert client.describe("web", "The site").after.description == "The site"
    assert client.pin("web").after.pinned
    with pytest.raises(csa.RefusedError, match="pinned"):
        client.delete("web")
    client.pin("web", pinned=False)
    assert [removed.session_id for removed in client.delete("web")] == [result.session_id]
    with pytest.raises(csa.RetiredError):
        client.resolve("web")
    assert client.restore("web").state.name == "web"
    assert [info.session_id for info in client.sessions()] == [result.session_id]
    assert [node.session_id for node in client.tree()] == [result.session_id]


def test_options_are_the_fields_of_a_request() -> None:
    """What `ask` takes by name is what a request has, with the same types."""
    source = inspect.getsource(inspect.getmodule(csa.RunRequest) or csa)
    options = source[source.index("class RunOptions") : source.index("class RunRequest")]
    declared = [line.strip() for line in options.splitlines() if ": " in line and '"' not in line]
    wanted = [f"{name}: {csa.RunRequest.__annotations__[name]}" for name in fields(csa.RunRequest) if name != "prompt"]
    assert declared == wanted


@pytest.mark.parametrize("name", [name for name in csa.__all__ if name != "__version__"])
def test_public_names_are_described(name: str) -> None:
    """Each public name says what it is, and so does each of its public methods and properties."""
    public: object = getattr(csa, name)
    assert isinstance(public, type)
    assert vars(public).get("__doc__")
    if public in {csa.Csa, csa.Turn, csa.Session}:
        assert [
            member for member in dir(public) if member[0] != "_" and not inspect.getdoc(getattr(public, member))
        ] == []


def test_help_names_everything() -> None:
    """`help(csa)` and `dir(csa)` show what is imported when it is first used; a bare import imports none of it."""
    code = "import sys, csa; assert not [n for n in sys.modules if n.startswith('csa.')]; help(csa); print(dir(csa))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    _, _, listed = shown.rpartition("[")
    assert all(f"'{name}'" in listed for name in csa.__all__)
    assert "ask_sync(self, prompt: 'str | RunRequest'" in shown
    assert "RunRequest(*, prompt: 'str', tool: 'str | None' = None" in shown


@pytest.mark.thorough
def test_an_environment_of_the_callers(place: Place) -> None:
    """A variable that only the client has reaches the tool, in the background too; as a secret it is stored nowhere."""
    value = "s3cr3t-of-this-caller-alone"
    seen = place.tmp / "seen"
    place.play(["write-env", str(seen)], ["call", "env", f"DEPLOY_PASS={value}", 0], ["say", f"it is {value}"])
    client = csa.Csa(place.project, root=place.state_root, environ={**place.env, "DEPLOY_PASS": value})
    started = client.start("go", tool="codex", secrets=("DEPLOY_PASS",))
    client.wait(started.session_id, timeout_s=PATIENCE_S)
    assert value in seen.read_text()
    files = [path for path in place.session(started.session_id).rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if value in path.read_text(errors="replace")] == []
