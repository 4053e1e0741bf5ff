"""Encryption at rest: `[store] encrypt = "finished"`, `csa seal` and `csa unseal`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from csa.store.locks import is_locked
from tests.cli.hosts import sync
from tests.cli.worktrees import make_repository
from tests.rpc.client import Client
from tests.rpc.test_mcp import connected
from tests.serving import serving
from tests.support import CSA, Place, wait_for

PLANTED = "planted-text-7712"
ANSWER = "planted-answer-3391"


def left_in_memory() -> list[Path]:
    """Return the directories in which sessions were opened, and that no process has any more."""
    return [path for path in Path("/dev/shm").glob("csa-open-*") if not is_locked(path / "lock")]


class Sealing:
    """A place whose sessions are encrypted, and the key that opens them."""

    def __init__(self, place: Place) -> None:
        self.place, self.key = place, pyrage.x25519.Identity.generate()
        self.file = place.tmp / "key.txt"
        self.file.write_text(f"{self.key}\n")
        self.configure(f'identity = "{self.file}"')

    def configure(self, more: str, *, encrypt: str = "finished") -> None:
        """Set what opens the sessions."""
        config = self.place.tmp / "own.toml"
        self.place.env["CSA_CONFIG"] = str(config)
        recipients = f'recipients = ["{self.key.to_public()}"]'
        config.write_text(f'[store]\nencrypt = "{encrypt}"\n{recipients}\n{more}\n')

    def plain(self, *words: str) -> list[Path]:
        """Return the files of the state root that have one of the words in plain, and of what is in memory."""
        places = [self.place.state_root, *left_in_memory()]
        files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
        wanted = [word.encode() for word in words or (PLANTED, ANSWER)]
        return [path for path in files if any(word in path.read_bytes() for word in wanted)]


@pytest.fixture
def sealing(place: Place) -> Iterator[Sealing]:
    yield Sealing(place)
    assert left_in_memory() == []


def test_what_has_finished_is_in_no_file_in_plain(sealing: Sealing) -> None:
    """What was asked, said and left is in no file of the state root; with the key everything reads as before."""
    place = sealing.place
    place.play(["run", f"echo {ANSWER} > $CSA_OUTPUT_DIR/left.txt"], ["usage", 20, 10], ["say", f"so: {ANSWER}"])
    done = place.codex(PLANTED, "--name", "kept")
    assert (done.code, ANSWER in done.out, done.err.count("warning")) == (0, True, 0), done.err
    assert sealing.plain() == []
    row = place.run("ls", "--json").json[0]
    assert (row["status"], row["description"], row["usage"]["output_tokens"]) == ("succeeded", "(encrypted)", 10)
    assert PLANTED in place.run("show", "kept").out
    assert place.run("result", "kept").out == f"so: {ANSWER}\n"
    assert PLANTED in place.run("logs", "kept", "--events").out
    (left,) = place.state_root.glob("**/sealed.age")
    found = place.run("artifacts", "kept")
    assert found.out == f"{left.parent}/output/turn-0001/left.txt\n", "where it is once it is opened"
    assert "--copy-to DIR" in found.err
    assert place.run("result", "kept", "--json").json["artifacts"] == [found.out.strip()]
    copied = place.run("artifacts", "kept", "--copy-to", str(place.tmp / "copies"))
    assert (Path(copied.out.strip()).read_text(), copied.err) == (f"{ANSWER}\n", "")
    assert len(place.run("search", "planted", "--json").json) == 3  # the prompt, the call, and the answer
    assert sealing.plain() == []
    sealing.file.unlink()
    for words in (["ls"], ["status", "kept"], ["wait", "kept"], ["ls", "--tree"], ["stats"], ["budget", "kept"]):
        done = place.run(*words)
        assert (done.code, PLANTED in done.out) == (0, False), done
    for words in (["show", "kept"], ["result", "kept"], ["logs", "kept"], ["run", "-s", "kept", "on"]):
        done = place.run(*words)
        assert (done.code, "hint: " in done.err) == (7, True), done
    sealing.file.write_text(str(sealing.key))
    assert place.run("run", "-s", "kept", "and more").code == 0
    assert sealing.plain() == []
    assert [turn["turn"] for turn in place.run("show", "kept", "--json").json][-1] == 2


@pytest.mark.thorough
def test_what_is_encrypted_is_served_with_the_key(sealing: Sealing) -> None:
    """The API streams and sends what was said, not what encryption has left; without a key it says so."""
    place = sealing.place
    place.play(["say", ANSWER])
    session_id = place.codex(PLANTED).session_id
    with serving(place) as server:
        with server.stream(f"/sessions/{session_id}/events") as events:
            said = [next(event for event in events if event.name == name) for name in ("agent_message", "run_finished")]
            assert said[0].data["data"]["text"] == ANSWER
            assert place.run("run", "-s", session_id, "go on").code == 0
            assert list(events) == [], "the client asks again, and gets what has come since"
        assert ANSWER.encode() in server.ask("GET", f"/sessions/{session_id}/logs").content
        assert sealing.plain() == []
        sealing.file.unlink()
        for path in ("events?limit=1", "logs", "result", "conversation"):
            assert server.ask("GET", f"/sessions/{session_id}/{path}").kind == "sealed", path
        refused = server.ask("GET", f"/sessions/{session_id}/events", headers={"Accept": "text/event-stream"})
        assert (refused.status, refused.kind) == (424, "sealed")
        assert server.get(f"/sessions/{session_id}")["status"] == "succeeded"


@pytest.mark.thorough
def test_who_follows_sees_each_event_once_whatever_becomes_of_the_files(sealing: Sealing) -> None:
    """A chat goes on over turns that are encrypted and opened again; who comes back gets what he has missed."""
    place = sealing.place
    sealing.configure(f'identity = "{sealing.file}"', encrypt="off")
    place.play(["run", f"echo {ANSWER}"], ["say", ANSWER])
    session_id = place.codex(PLANTED).session_id
    path = f"/api/updates?session_id={session_id}"
    with serving(place) as server, server.stream(f"/sessions/{session_id}/events") as plain:
        whole = [next(plain)]
        with server.stream(path) as chat:
            assert place.run("seal", session_id).code == 0
            whole += plain
            assert whole[-1].name == "run_finished", "it ends, once all was sent"
            assert place.run("rename", session_id, "called").code == 0
            sealing.configure(f'identity = "{sealing.file}"')
            for _ in range(2):
                assert place.run("run", "-s", session_id, "go on").code == 0
            assert sealing.plain() == []
            seen = [next(chat) for _ in range(6)]
            assert [each.data["type"] for each in seen] == ["tool_update", "tool_complete", "system_notice"] * 2
            assert {each.data["content"] for each in seen[1::3]} == {f"{ANSWER}\n"}
        with server.stream(path, last=seen[0].id) as again:
            assert [next(again) for _ in range(5)] == seen[1:]
        with server.stream(f"/sessions/{session_id}/events", last=whole[-1].id) as rest:
            numbers = [int(next(rest).id) for _ in range(int(seen[-1].id) - int(whole[-1].id))]
        assert numbers == [*range(int(whole[-1].id) + 1, int(seen[-1].id) + 1)]
        sealing.file.unlink()
        refused = server.ask("GET", path, headers={"Accept": "text/event-stream", "Last-Event-ID": "1"})
        assert (refused.status, refused.kind) == (424, "sealed")
        assert server.ask("GET", f"/api/state?session_id={session_id}").kind == "sealed"
        assert server.stop() == 0
        assert "Traceback" not in server.running.err


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_encryption_of_a_large_session(sealing: Sealing, number: signal.Signals) -> None:
    """The turn has ended as it has; the session stays in plain, whole, and csa gc encrypts it."""
    place = sealing.place
    place.play(["run", "head -c 96000000 /dev/urandom > $CSA_OUTPUT_DIR/large"], ["say", ANSWER])
    running = place.start("run", "--tool", "codex", "--name", "kept", PLANTED)
    wait_for(place.published, "it has its place")  # which walking the state root may not see it get
    wait_for(lambda: list(place.state_root.rglob(".sealed.age.tmp")), "it is being encrypted")
    running.signal(number)
    done = running.wait()
    assert (done.code, done.out) == (0, f"{ANSWER}\n")
    assert f"warning: the session could not be encrypted: {number.name} came first; csa seal --all does it" in done.err
    assert not list(place.state_root.rglob("*sealed.age*"))
    assert place.run("status", "kept", "--json").json["status"] == "succeeded"
    assert place.run("gc", "--days", "30").out == "csa gc: encrypted 1 session\n"
    assert sealing.plain() == []
    assert place.run("result", "kept").out == f"{ANSWER}\n"


@pytest.mark.thorough
def test_an_editor_sees_the_turns_of_a_session_that_was_encrypted(sealing: Sealing) -> None:
    """What happens in the next turn is told, though the transcript is another file by then."""
    sealing.place.play(["run", f"echo {ANSWER}"], ["say", ANSWER])
    with Client(sealing.place) as client:
        session = client.new()
        for count in (1, 2):
            assert client.prompt(session, PLANTED)["stopReason"] == "end_turn"
            assert client.text(session) == ANSWER * count
            assert len(client.updates(session, "tool_call")) == count
            assert sealing.plain() == []
        client.reopen("load", session)
        assert client.text(session) == ANSWER * 4, "it is told again"


@pytest.mark.thorough
def test_a_client_of_mcp_learns_how_it_has_ended_without_the_key(sealing: Sealing) -> None:
    """Only what was said needs it, and the way to that is said."""
    place = sealing.place
    place.play(["say", ANSWER])
    session_id = place.codex(PLANTED).session_id
    with connected(place) as client:
        assert client.call("wait", sessions=[session_id])["sessions"][0]["text"] == ANSWER
    sealing.file.unlink()
    with connected(place) as client:
        (ending,) = client.call("wait", sessions=[session_id])["sessions"]
        assert (ending["status"], ending["text"], "[store] identity" in ending["hint"]) == ("succeeded", "", True)
        assert client.fail("show", session=session_id)["kind"] == "sealed"


@pytest.mark.thorough
def test_the_key_may_come_from_a_command(sealing: Sealing) -> None:
    """A command that fails, prints nothing or another key is an error with the next step; lists do not ask it."""
    place = sealing.place
    place.codex(PLANTED, "--name", "kept")
    log = place.tmp / "asked"
    script = place.tmp / "print-key"
    script.write_text(f"#!/bin/sh\necho asked >> {log}\ncat {sealing.file}\n")
    script.chmod(0o755)
    sealing.configure(f'identity_command = ["{script}"]')
    assert place.run("ls").code == 0
    assert not log.exists()
    assert PLANTED in place.run("show", "kept").out
    assert log.read_text() == "asked\n"
    for words, error in (
        ('["false"]', "has failed (exit code 1)"),
        ('["true"]', "There is no secret key in what true prints"),
        ('["/nowhere/to-be-found"]', "cannot be read"),
        (f'["echo", "{pyrage.x25519.Identity.generate()}"]', "None of your keys opens"),
    ):
        sealing.configure(f"identity_command = {words}")
        done = place.run("show", "kept")
        assert (done.code, error in done.err, "hint: " in done.err) == (7, True, True), done
    done = place.run("search", "planted")
    assert (done.code, "1 encrypted session" in done.err) == (1, True), done
    checks = place.run("doctor", "--json").json["checks"]
    assert [(each["level"], "does not open" in each["detail"]) for each in checks if each["name"] == "encryption"] == [
        ("fail", True)
    ]
    sealing.configure("")
    assert place.run("show", "kept").code == 7
    assert sealing.plain() == []


@pytest.mark.thorough
def test_a_tree_is_encrypted_when_it_rests(sealing: Sealing) -> None:
    """While something of the tree runs, its members are plain: agents read what their sub-agents have answered."""
    place = sealing.place
    nested = f"csa run --tool codex --name child '{PLANTED} below' && csa result child > $CSA_OUTPUT_DIR/seen"
    place.script(
        {"match": "below", "do": [["say", ANSWER]]},
        {"match": "", "do": [["run", nested], ["say", "done"]]},
    )
    done = place.codex(PLANTED, "--name", "top", "--permission", "full")
    assert done.code == 0, done.err
    assert sealing.plain() == []
    assert ANSWER in place.run("artifacts", "top", "--json").out or place.run("show", "top").out.count("done")
    assert place.run("result", "child").out == f"{ANSWER}\n"
    assert place.run("ls", "--tree").out.count("succeeded") == 2
    assert place.run("run", "--fork-from", "child", "--tool", "codex", "go on").code == 0
    assert PLANTED in place.run("export", "top", "--tree", "--format", "md").out
    archive = place.tmp / "all.tar.gz"
    assert place.run("export", "top", "--tree", "-o", str(archive)).code == 0
    assert sealing.plain() == []


@pytest.mark.thorough
def test_a_plan_that_goes_on_reads_what_is_encrypted(sealing: Sealing) -> None:
    """A task that needs an encrypted one gets its answer; without the key it fails, and says why."""
    place = sealing.place
    make_repository(place)
    place.play(["say", ANSWER])
    plan = place.project / "plan.toml"
    one = f'[task.one]\ntool = "codex"\nprompt = "{PLANTED}"\n'
    plan.write_text(one)
    assert place.run("plan", "run", "plan.toml").code == 0
    assert sealing.plain() == []
    plan.write_text(f'{one}[task.two]\ntool = "codex"\nprompt = "and then"\nneeds = ["one"]\n')
    done = place.run("plan", "run", "plan.toml")
    assert done.code == 0, done.err
    assert ANSWER in place.run("show", "plan.two", "--json").json[0]["content"]
    assert sealing.plain() == []


@pytest.mark.thorough
def test_the_command_of_a_detached_turn_comes_first(sealing: Sealing) -> None:
    """It reads the answer without a key, and what it prints is in the log of the session, encrypted as all else."""
    place = sealing.place
    place.play(["say", ANSWER])
    key = sealing.file.read_text()
    sealing.file.unlink()
    command = f"{CSA} result $CSA_FINISHED_SESSION > {place.tmp}/seen 2>&1; echo {PLANTED} of it"
    done = place.codex("hello", "--name", "detached", "--detach", "--on-finish", command)
    assert done.code == 0, done.err
    place.wait_until_empty(within_s=20)
    assert (place.tmp / "seen").read_text() == f"{ANSWER}\n"
    assert sealing.plain() == []
    sealing.file.write_text(key)
    assert f"{PLANTED} of it" in place.run("logs", "detached", "--system").out


@pytest.mark.thorough
def test_by_hand_and_by_gc(sealing: Sealing) -> None:
    """csa seal, csa unseal and csa gc; what was there before, deleted sessions, names and descriptions."""
    place = sealing.place
    sealing.configure(f'identity = "{sealing.file}"', encrypt="off")
    first = place.codex(PLANTED, "--name", "kept").session_id
    second = place.codex(PLANTED, "--name", "other").session_id
    assert len(sealing.plain()) > 2
    assert place.run("index", "build").code == 0
    assert place.run("seal", "kept").out == f"{first} is encrypted\n"
    assert {hit["session_id"] for hit in place.run("search", "planted", "--json").json} == {first, second}
    assert place.run("validate").code == 0
    assert place.run("rename", "kept", "called").code == 0
    assert place.run("pin", "called").code == 0
    assert place.run("repair", "called").code == 7
    assert place.run("unseal", "called").out == f"{first} is open\n"
    assert PLANTED in place.run("ls", "--json").out
    events = [event["type"] for event in place.run("logs", "called", "--events").events]
    assert events[-2:] == ["session_updated", "session_updated"]
    assert place.run("validate").code == 0
    assert place.run("rm", "other").code == 0
    sealing.configure(f'identity = "{sealing.file}"')
    assert place.run("gc", "--days", "30", "--dry-run").out == "csa gc: would encrypt 2 sessions\n"
    assert place.run("gc", "--days", "30").out == "csa gc: encrypted 2 sessions\n"
    assert place.run("gc", "--days", "30").out == ""
    assert place.run("describe", "called", f"about {PLANTED}").code == 0
    assert sealing.plain() == []
    assert place.run("restore", second).code == 0
    assert PLANTED in place.run("show", "other").out
    assert sealing.plain() == []


@pytest.mark.thorough
def test_it_is_the_users_to_decide(sealing: Sealing) -> None:
    """A project cannot set it, and without anybody to encrypt for it is refused before anything runs."""
    place = sealing.place
    own = place.project / ".csa" / "config.toml"
    own.parent.mkdir(exist_ok=True)
    own.write_text('[store]\nencrypt = "off"\n')
    assert place.run("run", "--tool", "codex", "hello").code == 6
    own.unlink()
    (place.tmp / "own.toml").write_text('[store]\nencrypt = "finished"\n')
    done = place.run("run", "--tool", "codex", "hello")
    assert (done.code, "age-keygen" in done.err, place.ids()) == (6, True, [])


@pytest.mark.thorough
def test_a_mirror_keeps_what_its_host_has_encrypted_in_plain_no_longer(place: Place, remote: Place) -> None:
    """What was seen here is deleted, wherever it was; it is read there. What is opened there is read here again."""
    place.env["CSA_CONFIG"] = str(place.tmp / "none.toml")
    (place.tmp / "none.toml").write_text("")
    remote.codex(PLANTED, "--name", "kept")
    sync(place)
    assert place.run("index", "build").code == 0
    assert PLANTED in place.run("show", "n1:kept").out
    (transcript,) = (place.state_root / ".mirrors").rglob("transcript.jsonl")
    transcript.with_name("transcript.jsonl.lost-2").write_bytes(transcript.read_bytes())
    key = pyrage.x25519.Identity.generate()
    (remote.tmp / "key").write_text(str(key))
    config = remote.tmp / "own.toml"
    config.write_text(f'[store]\nrecipients = ["{key.to_public()}"]\nidentity = "{remote.tmp / "key"}"\n')
    remote.env["CSA_CONFIG"] = str(config)
    assert remote.run("seal", "kept").code == 0
    sync(place)
    files = [path for path in place.state_root.rglob("*") if path.is_file()]
    assert [path for path in files if PLANTED.encode() in path.read_bytes()] == []
    assert not list(transcript.parent.glob("*.lost-*"))
    done = place.run("show", "n1:kept")
    assert (done.code, "ssh n1 csa show" in done.err) == (7, True)
    done = place.run("search", "--host", "n1", "planted")
    assert (done.code, "1 encrypted session" in done.err, "ssh n1 csa search" in done.err) == (1, True, True), done.err
    assert place.run("ls", "--host", "n1", "--json").json[0]["status"] == "succeeded"
    assert remote.run("unseal", "kept").code == 0
    sync(place)
    assert not list(transcript.parent.glob("*.lost-*")), "nothing was lost"
    assert PLANTED in place.run("show", "n1:kept").out
    assert place.run("search", "--host", "n1", "planted").code == 0


@pytest.mark.thorough
def test_a_turn_for_another_host_is_encrypted_once_that_has_seen_it(place: Place, remote: Place) -> None:
    """The host leaves it to csa gc there: who placed the turn gets its answer, and may go on."""
    key = pyrage.x25519.Identity.generate()
    (remote.tmp / "key").write_text(str(key))
    config = remote.tmp / "config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[store]\nencrypt = "finished"\nrecipients = ["{key.to_public()}"]\nidentity = "{remote.tmp / "key"}"\n'
    )
    place.env["XDG_CONFIG_HOME"] = remote.env["XDG_CONFIG_HOME"] = str(config.parent.parent)
    place.play(["say", ANSWER])
    remote.env["FAKE_TOOL_SCRIPT"] = place.env["FAKE_TOOL_SCRIPT"]
    words = ("run", "--on", "n1", "--tool", "codex", "--cd", str(remote.project))
    done = place.run(*words, "--name", "kept", PLANTED)
    assert (done.code, done.out) == (0, f"{ANSWER}\n"), done.err
    assert not list(remote.state_root.rglob("sealed.age"))
    done = remote.run("gc", "--days", "30", "--all-projects")
    assert (done.code, done.out) == (0, "csa gc: encrypted 1 session\n"), done.err
    sync(place)
    files = [path for path in (*place.state_root.rglob("*"), *remote.state_root.rglob("*")) if path.is_file()]
    assert [path for path in files if ANSWER.encode() in path.read_bytes()] == []
    done = place.run("run", "-s", "n1:kept", "go on")
    assert (done.code, done.out) == (0, f"{ANSWER}\n"), done.err
