"""Rename, describe, pin, delete, restore, adopt: what they change, what they refuse, and what is noted of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ForeignWriter
from tests.support import Json, Place, snapshot

OTHER = "01JH4QWERT0000000000000000"


def audit(place: Place) -> list[Json]:
    """Return what audit.jsonl holds."""
    return [json.loads(line) for line in (place.store / "audit.jsonl").read_text().splitlines()]


def last_update(place: Place, session_id: str) -> Json:
    """Return the data of the last event, a session_updated."""
    event = place.events(session_id)[-1]
    assert event["type"] == "session_updated"
    data: Json = event["data"]
    return data


@pytest.mark.thorough
def test_rename(place: Place) -> None:
    """A name leads to its session, is unique, and can be taken away; each change is an event, and noted."""
    first, second = (place.codex(f"task {number}").session_id for number in range(2))
    done = place.run("session", "rename", "-s", first, "auth")
    assert (done.code, done.out) == (0, f"{first} is called auth\n")
    assert place.state(first)["name"] == "auth"
    assert last_update(place, first) | {"by": ""} == {"what": "renamed", "name": "auth", "before": None, "by": ""}
    taken = place.run("session", "rename", second, "auth")
    assert (taken.code, "A session named 'auth' exists." in taken.err) == (2, True)
    assert place.run("session", "rename", second, "1st").code == 2
    assert place.run("session", "rename", second).code == 2
    assert place.run("session", "rename", "auth", "auth").code == 0
    assert len(audit(place)) == 1
    done = place.run("session", "rename", "auth", "--clear", "--json")
    assert done.json == {"session_id": first, "project": str(place.project), "name": None, "before": "auth"}
    assert "name" not in place.state(first)
    assert place.run("session", "rename", second, "auth").code == 0
    assert [line["command"] for line in audit(place)] == ["session rename"] * 3
    # What a turn needs is as it was.
    assert place.run("run", "--session", first, "more").out == "FAKE ECHO: more [turns=2]\n"


@pytest.mark.thorough
def test_describe(place: Place) -> None:
    """A description is one line, without secrets, of at most 80 characters."""
    session_id = place.codex("hello").session_id
    assert place.run("session", "describe", "-s", session_id, "the\nlogin").code == 0
    assert place.state(session_id)["description"] == "the login"
    assert "the login" in place.run("session", "list").out
    place.run("session", "describe", session_id, "key sk-abcdefghijklmnopqrstuvwxyz012345 " + "x" * 90)
    text = place.state(session_id)["description"]
    assert len(text) == 80
    assert "sk-abc" not in text + (place.store / "audit.jsonl").read_text()
    assert "sk-abc" not in (place.session(session_id) / "transcript.jsonl").read_text()
    assert place.run("session", "describe", session_id).code == 2


@pytest.mark.thorough
def test_pin(place: Place) -> None:
    """A pinned session is neither collected nor deleted, until it is let go."""
    session_id = place.codex("hello", "--ttl", "1s").session_id
    assert place.run("session", "pin", session_id).out == f"{session_id} is pinned\n"
    assert place.run("session", "pin", session_id).out == f"{session_id} is pinned already\n"
    assert place.state(session_id)["pinned"] is True
    assert len(audit(place)) == 1
    refused = place.run("session", "delete", session_id)
    assert refused.code == 5
    assert f"csa pin --off {session_id}" in refused.err
    place.run("session", "clean", "--older-than", "1s", "--purge")
    assert place.ids() == [session_id]
    assert place.run("session", "pin", "--off", session_id).code == 0
    assert "pinned" not in place.state(session_id)
    assert place.run("session", "delete", session_id).code == 0


def test_delete_and_restore(place: Place) -> None:
    """Several are deleted at once, or none where one does not exist; each can be restored, by id, prefix or name."""
    ids = [place.codex(f"task {number}").session_id for number in range(3)]
    place.run("session", "rename", ids[0], "auth")
    before = place.state(ids[0])
    assert place.run("session", "delete", ids[0], "nobody").code == 3
    assert place.ids() == ids
    done = place.run("session", "delete", ids[0], "-s", ids[1], ids[1][:24], "--json")
    assert [(item["session_id"], item["done"]) for item in done.json] == [(ids[0], "removed"), (ids[1], "removed")]
    assert place.ids() == [ids[2]]
    assert place.run("session", "restore", "auth").code == 0
    after = place.state(ids[0])
    assert {key for key in after if after[key] != before[key]} == {"last_accessed"}
    assert last_update(place, ids[0])["what"] == "restored"
    assert place.run("session", "restore", ids[1].lower()).code == 0
    assert place.run("session", "restore", ids[1]).code == 3
    assert place.run("run", "--session", ids[1], "more").out == "FAKE ECHO: more [turns=2]\n"
    assert [line["what"] for line in audit(place)] == ["renamed", "retired", "retired", "restored", "restored"]


@pytest.mark.thorough
def test_a_name_that_was_taken_meanwhile(place: Place) -> None:
    """A session is restored without its name when another has got it."""
    first = place.codex("one", "--name", "auth").session_id
    place.run("session", "delete", "auth")
    place.codex("two", "--name", "auth")
    done = place.run("session", "restore", first)
    assert done.code == 0
    assert "another session is now called auth" in done.err
    assert "name" not in place.state(first)


@pytest.mark.thorough
def test_purge(place: Place) -> None:
    """With --purge nothing is left to restore."""
    session_id = place.codex("hello").session_id
    assert place.run("session", "delete", session_id, "--purge").out == f"purged {session_id}\n"
    assert place.run("session", "restore", session_id).code == 3
    assert not {"sessions", "retired"} & {path.name for path in place.store.iterdir()}


def test_delete_of_a_damaged_session(place: Place, write_foreign: ForeignWriter) -> None:
    """What cannot be read can be deleted by its id, and is kept for a while as it is."""
    write_foreign(OTHER, text="not toml")
    assert place.run("session", "delete", OTHER).code == 0
    assert (place.store / "retired" / OTHER / "state.toml").read_text() == "not toml"
    assert place.run("session", "restore", OTHER).code == 6


@pytest.mark.thorough
def test_a_damaged_session_that_was_deleted(place: Place) -> None:
    """Where it cannot be restored as it is, the way to mend it is said, and goes."""
    session_id = place.codex("hello", "--name", "auth").session_id
    (place.session(session_id) / "state.toml").write_text("not toml")
    for words in (["info"], ["budget"], ["pin"], ["log"]):
        done = place.run("session", *words, session_id)
        assert (done.code, done.err.splitlines()[1]) == (6, f"hint: csa repair --dry-run {session_id}")
    assert place.run("session", "delete", session_id).code == 0
    done = place.run("session", "restore", session_id)
    assert (done.code, done.err.splitlines()[1]) == (6, f"hint: csa repair --dry-run {session_id}")
    assert place.run("session", "repair", session_id).code == 0
    assert place.run("session", "info", session_id, "--json").json["phase"] == "retired"
    assert place.run("session", "restore", session_id).code == 0
    assert place.state(session_id)["phase"] == "active"
    assert place.run("run", "--session", session_id, "more").out == "FAKE ECHO: more [turns=2]\n"


@pytest.mark.thorough
def test_which_of_several_is_to_be_restored(place: Place) -> None:
    """Of several that a prefix means each is described, as everywhere."""
    ids = [place.codex(f"task {number}").session_id for number in range(2)]
    assert place.run("session", "delete", *ids).code == 0
    done = place.run("session", "restore", ids[0][:2])
    assert (done.code, "is ambiguous" in done.err, "task 1" in done.err) == (3, True, True)


@pytest.mark.thorough
def test_running_sessions_are_refused_or_ended(place: Place) -> None:
    """A running session is neither closed nor deleted (exit 4); --force ends its turn first."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = running.session_id
    for words in (["close", session_id], ["delete", session_id]):
        done = place.run("session", *words)
        assert (done.code, "running" in done.err or "locked by PID" in done.err) == (4, True), done.err
    assert place.run("session", "repair", session_id).code == 4
    assert place.ids() == [session_id]
    assert place.run("session", "delete", "--force", session_id).code == 0
    assert running.wait().code != 0
    assert place.ids() == []
    transcript = (place.store / "retired" / session_id / "transcript.jsonl").read_text().splitlines()
    assert json.loads(transcript[-1])["data"]["status"] == "cancelled"


@pytest.mark.thorough
def test_no_session_deletes_itself_or_those_above_it(place: Place) -> None:
    """An agent may delete other sessions, not its own or an ancestor, running or not."""
    parent, environ = place.agent()
    other = place.codex("other").session_id
    child, child_environ = place.agent(env=environ)
    for target, env in ((parent, environ), (parent, child_environ), (child, child_environ)):
        done = place.run("session", "delete", "--force", target, env=env)
        assert (done.code, "cannot delete" in done.err) == (5, True)
        assert place.run("session", "clean", "--older-than", "1s", "--purge", "--dry-run", env=env).code == 0
    assert place.run("session", "delete", other, env=environ).code == 0
    assert audit(place)[-1]["caller"] == parent
    assert place.run("session", "delete", child, env=environ).code == 0


@pytest.mark.thorough
def test_children_that_go_with_their_parent_are_not_told_of(place: Place) -> None:
    """What the end of a running parent takes along does not run any more when it is deleted."""
    place.script(
        {"match": "parent", "do": [["run", "csa run -q --tool codex child"]]}, {"match": "", "do": place.hold()}
    )
    running = place.start("run", "--tool", "codex", "parent")
    place.wait_ready()
    done = place.run("session", "delete", "--force", running.session_id)
    assert (done.code, "still running" in done.err) == (0, False), done.err
    running.wait()


@pytest.mark.thorough
def test_living_children_are_told_of(place: Place) -> None:
    """Who deletes a parent hears which of its children still run; they go on."""
    parent, environ = place.agent()
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello", env=environ)
    place.wait_ready()
    done = place.run("session", "delete", parent)
    assert done.code == 0
    assert f"its child {running.session_id} is still running" in done.err
    place.release()
    assert running.wait().code == 0
    assert place.ids() == [running.session_id]


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "gemini-cli", "opencode"])
def test_the_vendors_copy_is_removed_by_its_command(place: Place, tool: str) -> None:
    """`--provider` has the tool delete its copy of the conversation, in the directory in which it was begun."""
    session_id = place.run("run", "--tool", tool, "hello").session_id
    conversation = place.state(session_id)["tools"][tool]["provider_session_id"]
    command, seen = place.tmp / "the-tool", place.tmp / "seen"
    command.write_text(f'#!/bin/bash\necho "$PWD $*" > {seen}\n')
    command.chmod(0o700)
    config = place.home.parent / "config" / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[tools.{tool}]\ncommand = ["{command}"]\n')
    done = place.run("session", "delete", "--provider", "--json", session_id)
    assert done.code == 0, done.err
    assert done.json[0]["provider_copies"] == [f"{tool} {conversation}"]
    words = {
        "codex": f"delete --force {conversation}",
        "gemini-cli": f"--delete-session {conversation}",
        "opencode": f"session delete {conversation}",
    }[tool]
    assert seen.read_text() == f"{place.project} {words}\n"


@pytest.mark.thorough
def test_the_vendors_copy_of_claude_is_its_files(place: Place) -> None:
    """Claude's transcript of the conversation goes, and no other."""
    session_id = place.run("run", "--tool", "claude-code", "hello").session_id
    conversation = place.state(session_id)["tools"]["claude-code"]["provider_session_id"]
    kept = place.home / ".claude" / "projects" / "-some-where"
    (kept / conversation / "subagents").mkdir(parents=True)
    for name in (f"{conversation}.jsonl", f"{OTHER}.jsonl"):
        (kept / name).touch()
    assert place.run("session", "delete", "--provider", session_id).code == 0
    assert [path.name for path in kept.iterdir()] == [f"{OTHER}.jsonl"]


@pytest.mark.thorough
def test_a_vendors_copy_that_stays_is_told_of(place: Place, write_foreign: ForeignWriter) -> None:
    """An id that is none, and another account, are told of; the session is deleted all the same."""
    write_foreign(OTHER, tools={"codex": {"provider_session_id": "../../etc", "last_exit_code": 0}})
    done = place.run("session", "delete", "--provider", OTHER)
    assert done.code == 0
    assert "not an id of the tool" in done.err
    session_id = place.codex("hello").session_id
    done = place.run("session", "delete", "--provider", session_id, env={"CODEX_HOME": str(place.tmp)})
    assert "belongs to the account ~/.codex" in done.err
    assert place.ids() == []


@pytest.mark.thorough
def test_adopt(place: Place) -> None:
    """After the project's directory has moved, its sessions are taken over, and go on where they are now."""
    (place.project / "sub").mkdir()
    parent = place.run("run", "--tool", "codex", "--name", "auth", "one", cwd=place.project / "sub").session_id
    removed = place.codex("two").session_id
    place.run("session", "delete", removed)
    new = place.tmp / "moved"
    shutil.move(place.project, new)
    assert place.run("session", "list", "--json", cwd=new).json == []
    before = snapshot(place.state_root)
    dry = place.run("session", "adopt", "../project", "--dry-run", "--json", cwd=new)
    assert (dry.json["moved"], snapshot(place.state_root)) == ([parent, removed], before)
    done = place.run("session", "adopt", str(place.project), cwd=new)
    assert (done.code, done.err) == (0, "")
    state = place.state(parent, new)
    assert (state["project_path"], state["tools"]["codex"]["cwd"]) == (str(new), str(new / "sub"))
    more = place.run("run", "--session", "auth", "more", cwd=new)
    assert (more.code, more.out) == (0, "FAKE ECHO: more [turns=2]\n"), more.err
    assert place.run("session", "restore", removed, cwd=new).code == 0
    assert not place.store.exists()
    assert place.run("session", "adopt", str(place.project), cwd=new).code == 3
    assert place.run("session", "validate", cwd=new).code == 0


def test_adopt_keeps_links_and_what_is_there(place: Place, write_foreign: ForeignWriter) -> None:
    """Children keep their parent; what this project has already, and what is damaged, stays behind and is named."""
    old = place.tmp / "old"
    ids = [f"01JH4QWERT000000000000000{number}" for number in range(4)]
    write_foreign(ids[0], place=old)
    write_foreign(ids[1], place=old, parent=ids[0], depth=1)
    write_foreign(ids[2], place=old)
    write_foreign(ids[2], description="mine")
    write_foreign(ids[3], place=old, text="not toml")
    done = place.run("session", "adopt", str(old), "--json")
    assert done.code == 4
    assert done.json["moved"] == ids[:2]
    assert [item["session_id"] for item in done.json["left"]] == ids[2:]
    assert place.state(ids[2])["description"] == "mine"
    assert place.state(ids[1])["genealogy"]["parent_session_id"] == ids[0]
    assert place.ids(old) == ids[2:]


def test_adopt_refuses_a_project_that_has_not_moved(place: Place, write_foreign: ForeignWriter) -> None:
    """A directory that is still there keeps its sessions, unless that is insisted on; no project adopts itself."""
    old = place.tmp / "old"
    old.mkdir()
    write_foreign(OTHER, place=old)
    assert place.run("session", "adopt", str(old)).code == 5
    assert place.run("session", "adopt", ".").code == 2
    assert place.ids(old) == [OTHER]
    assert place.run("session", "adopt", "--force", str(old)).code == 0
    assert place.ids() == [OTHER]


@pytest.mark.thorough
def test_a_disk_that_refuses_the_audit_is_told_of(place: Place) -> None:
    """An act stands when audit.jsonl cannot be written, and that is said."""
    session_id = place.codex("hello").session_id
    (place.store / "audit.jsonl").mkdir()
    done = place.run("session", "rename", session_id, "auth")
    assert done.code == 0
    assert "audit.jsonl could not be written" in done.err
    assert place.state(session_id)["name"] == "auth"
    assert Path(place.store / "audit.jsonl").is_dir()


@pytest.mark.thorough
def test_reads_are_noted_where_that_is_asked_for(place: Place) -> None:
    """With audit_reads, who reads a result or the logs is noted; else reading writes nothing."""
    session_id = place.codex("hello").session_id
    before = snapshot(place.state_root)
    place.run("session", "result", session_id)
    assert snapshot(place.state_root) == before
    (place.project / ".csa").mkdir()
    (place.project / ".csa" / "config.toml").write_text("audit_reads = true\n")
    assert place.run("session", "result", session_id).out == "FAKE ECHO: hello [turns=1]\n"
    assert place.run("session", "logs", "-s", session_id).code == 0
    assert place.run("session", "result", "nobody").code == 3
    assert place.run("session", "list", env={"CSA_CONF_AUDIT_READS": "perhaps"}).code == 0
    told = [(line["command"], line["session_id"], line["what"]) for line in audit(place)]
    assert told == [("session result", session_id, "read"), ("session logs", session_id, "read")]


@pytest.mark.thorough
@pytest.mark.parametrize("words", [["session", "kill"], ["kill", "--all", "--yes"]])
def test_what_is_killed_is_noted(place: Place, words: list[str]) -> None:
    """`session kill` and `kill --all` tell audit.jsonl which sessions they have ended."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = running.session_id
    assert place.run(*words, *([session_id] if words[0] == "session" else [])).code == 0
    assert running.wait().code != 0
    (line,) = audit(place)
    assert (line["command"], line["session_id"], line["what"]) == (
        " ".join(words[:2]).split(" -")[0],
        session_id,
        "killed",
    )


@pytest.mark.thorough
@pytest.mark.parametrize("words", ["close {}", "compress {}"])
def test_a_running_session_is_busy(place: Place, words: str) -> None:
    """Commands that do not wait do not speak of --wait."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    done = place.run("session", *words.format(running.session_id).split())
    assert done.code == 4
    assert "is locked by PID" in done.err
    assert "retry later" in done.err
    assert "--wait" not in done.err
    place.release()
    assert running.wait().code == 0
