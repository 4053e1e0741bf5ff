"""Naming a session: resuming by prefix, name, --last and --session-id; what is refused, and how busy ones answer."""

from __future__ import annotations

import json
import os
import pwd
import re
from pathlib import Path

import pytest

from tests.support import Place

LIST_KEYS = {
    "id",
    "prefix",
    "name",
    "description",
    "status",
    "phase",
    "tools",
    "depth",
    "parent_session_id",
    "root_session_id",
    "children",
    "turns",
    "branch",
    "created_at",
    "last_accessed",
    "usage",
}
UNUSED = "01JH4QWERT1234567890ABCDEF"
UUID = "0198f3a2-6c1e-7d45-9b0a-3f2e1d0c9b8a"  # as a program makes them: it begins with a digit


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["id", "lower", "prefix", "short", "name", "last", "@last", "session-id", "given-name"])
def test_resume(place: Place, way: str) -> None:
    """Every way of naming a session continues the provider's conversation: the tool sees its second turn."""
    session_id = place.codex("one", "--name", "auth").session_id
    words = {
        "id": ["--session", session_id],
        "lower": ["-s", session_id.lower()],
        "prefix": ["--session", session_id[:20]],
        "short": ["--session", session_id[:1]],
        "name": ["--session", "auth"],
        "last": ["--last"],
        "@last": ["--session", "@last"],
        "session-id": ["--session-id", session_id.lower()],
        "given-name": ["--session-id", "auth"],
    }[way]
    done = place.run("run", *words, "two")
    assert (done.code, done.out) == (0, "FAKE ECHO: two [turns=2]\n")
    assert done.session_id == session_id
    assert place.ids() == [session_id]
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_last_is_the_one_used_last(place: Place) -> None:
    """`--last` means the session used last, not the one created last."""
    older = place.codex("one").session_id
    place.codex("another")
    place.codex("two", "--session", older)
    assert place.codex("three", "--last").session_id == older


@pytest.mark.parametrize("asked", [UNUSED, UNUSED.lower(), "nightly-build", UUID])
def test_session_id_creates_and_continues(place: Place, asked: str) -> None:
    """`--session-id` with a ULID, a UUID or a name creates the session at first and continues it from then on."""
    turns = [place.codex("go", "--session-id", asked) for _ in range(2)]
    assert [turn.out for turn in turns] == [f"FAKE ECHO: go [turns={n}]\n" for n in (1, 2)]
    assert len(place.ids()) == 1
    if asked.upper() == UNUSED:
        assert place.ids() == [UNUSED]
    else:
        assert place.state(place.ids()[0])["name"] == asked
        assert place.run("session", "is-alive", asked).out == "not alive\n"
        assert place.run("session", "rename", asked, "--clear").code == 0
        assert f"No session is named '{asked}'" in place.run("session", "result", asked).err


@pytest.mark.thorough
def test_session_id_of_a_collected_session(place: Place) -> None:
    """It is not made a second time beside the one that may come back; once that is back, it is continued."""
    place.codex("one", "--session-id", UNUSED)
    assert place.run("session", "delete", UNUSED).code == 0
    refused = place.run("run", "--tool", "codex", "--session-id", UNUSED.lower(), "two")
    assert (refused.code, f"csa restore {UNUSED}" in refused.err) == (3, True)
    assert place.ids() == []
    assert place.run("session", "restore", UNUSED).code == 0
    assert place.codex("two", "--session-id", UNUSED).out == "FAKE ECHO: two [turns=2]\n"


@pytest.mark.thorough
def test_the_owner_without_variables(place: Place) -> None:
    """Where neither USER nor LOGNAME is set, as for services, the system knows the user's name."""
    session_id = place.codex("one", env={"USER": None, "LOGNAME": None}).session_id
    assert place.state(session_id)["owner"].partition("@")[0] == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.thorough
def test_resume_keeps_the_directory(place: Place) -> None:
    """A session is resumed where its conversation was started, whatever directory csa is called from."""
    (place.project / "sub").mkdir()
    place.play(["expect-cwd", str(place.project / "sub")])
    first = place.run("run", "--tool", "codex", "one", cwd=place.project / "sub")
    assert first.code == 0, first.err
    done = place.run("run", "--session", first.session_id, "two", cwd=place.project)
    assert done.code == 0, done.err


@pytest.mark.thorough
def test_directory_that_is_gone(place: Place) -> None:
    """When the directory of a session is gone the resume is refused, and says so."""
    (place.project / "sub").mkdir()
    first = place.run("run", "--tool", "codex", "one", cwd=place.project / "sub")
    (place.project / "sub").rmdir()
    done = place.run("run", "--session", first.session_id, "two")
    assert done.code == 3
    assert "sub, which is gone" in done.err


@pytest.mark.thorough
def test_other_account_is_refused(place: Place) -> None:
    """A conversation of one home of the tool is not looked for in another."""
    first = place.codex("one")
    other = place.tmp / "codex-home"
    other.mkdir()
    done = place.run("run", "--session", first.session_id, "two", env={"CODEX_HOME": str(other)})
    assert done.code == 5
    assert str(other) in done.err


@pytest.mark.thorough
def test_ambiguous_prefix(place: Place) -> None:
    """A prefix of several sessions: exit 3, all of them with id, age, tool and description, nothing run."""
    ids = [place.codex(f"task {n}").session_id for n in range(3)]
    for words in (["run", "--session", "0", "more"], ["session", "result", "0"], ["session", "is-alive", "-s", "0"]):
        done = place.run(*words)
        assert done.code == 3
        assert "Session prefix is ambiguous" in done.err
        for number, session_id in enumerate(ids):
            assert re.search(rf"{session_id} +\d+s +codex +task {number}", done.err)
    as_json = place.run("session", "result", "0", "--json")
    assert (as_json.code, as_json.json["error"]["code"]) == (3, "ambiguous")
    assert all(place.state(session_id)["turns"] == 1 for session_id in ids)


@pytest.mark.thorough
def test_empty_selector(place: Place) -> None:
    """An empty selector is refused, though one session is all there is."""
    session_id = place.codex("one").session_id
    for words in (["run", "--session", "", "x"], ["session", "logs", "  "], ["session", "result", "-s", ""]):
        assert place.run(*words).code == 2
    assert place.state(session_id)["turns"] == 1


@pytest.mark.parametrize("selector", ["01", UNUSED, "no-such-name", "@last", "@self", "@root"])
def test_not_found(place: Place, selector: str) -> None:
    """What names no session: exit 3 with a hint, as an object with --json, and nothing is created."""
    for words in (
        ["run", "--session", selector, "x"],
        ["session", "result", selector],
        ["session", "is-alive", selector],
    ):
        done = place.run(*words)
        assert done.code == 3, words
        assert done.err.startswith("error: ")
    assert place.run("session", "is-alive", selector, "--json").json["error"]["code"] == "not_found"
    assert not place.state_root.exists()


def test_last_without_any(place: Place) -> None:
    """`--last` in a project without sessions: exit 3."""
    assert place.run("run", "--last", "x").code == 3


def test_name_is_unique(place: Place) -> None:
    """A name that is taken is refused for a new session."""
    place.codex("one", "--name", "auth")
    done = place.run("run", "--name", "auth", "two")
    assert done.code == 2
    assert "auth" in done.err
    assert len(place.ids()) == 1


@pytest.mark.thorough
def test_stray_files_are_no_sessions(place: Place) -> None:
    """What is not named by a ULID in sessions/ disturbs neither list nor prefixes."""
    session_id = place.codex("one").session_id
    sessions = place.store / "sessions"
    (sessions / "0-notes.txt").write_text("x")
    (sessions / session_id.lower()).mkdir()
    (sessions / f"{session_id}.bak").mkdir()
    (sessions / f".new-{UNUSED}").mkdir()
    assert place.run("run", "--session", "0", "two").code == 0
    assert [item["id"] for item in place.run("session", "list", "--json").json] == [session_id]


@pytest.mark.thorough
def test_busy_session(place: Place) -> None:
    """A running session answers a second turn with exit 4, naming pid, tool, turn and time; it is not disturbed."""
    first = place.codex("one").session_id
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--session", first, "two")
    place.wait_ready()
    done = place.run("run", "--session", first, "three")
    assert done.code == 4
    assert re.search(rf"locked by PID {running.pid} \(codex, turn 2, since \d\d:\d\d\)", done.err)
    as_json = place.run("run", "--session", first, "--json", "three")
    assert (as_json.code, as_json.json["error"]["code"]) == (4, "busy")
    place.release()
    assert running.wait().out == "done\n"
    assert place.state(first)["turns"] == 2


@pytest.mark.thorough
def test_list_json_has_exactly_the_keys_of_the_contract(place: Place) -> None:
    """`session list --json` is an array, newest first, of objects with fixed keys."""
    assert place.run("session", "list", "--json").json == []
    ids = [place.codex(f"task {number}").session_id for number in range(2)]
    listed = place.run("session", "list", "--json").json
    assert [item["id"] for item in listed] == ids[::-1]
    assert all(set(item) >= LIST_KEYS for item in listed)
    assert (listed[0]["branch"], listed[0]["tools"], listed[0]["status"]) == ("main", ["codex"], "succeeded")
    assert all(len(item["prefix"]) >= 10 and item["id"].startswith(item["prefix"]) for item in listed)
    assert len({item["prefix"] for item in listed}) == 2


def test_list_without_sessions(place: Place) -> None:
    """An empty project: `No sessions found` and a hint, exit 0, and still no store."""
    done = place.run("session", "list")
    assert (done.code, done.out) == (0, "No sessions found\n")
    assert "hint: csa run" in done.err
    assert not place.state_root.exists()


@pytest.mark.thorough
def test_list_shows_whole_ids_in_a_pipe(place: Place) -> None:
    """In a pipe ids are whole, so that scripts can use them."""
    session_id = place.codex("one").session_id
    assert session_id in place.run("session", "list").out
    assert session_id in place.run("ls").out


@pytest.mark.thorough
def test_projects_are_apart(place: Place) -> None:
    """A name of one project is not found from another, nor a short prefix; --cd goes there."""
    session_id = place.codex("one", "--name", "first").session_id
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    assert place.run("session", "is-alive", "first", cwd=other).code == 3
    assert place.run("session", "is-alive", session_id[:9], cwd=other).code == 3
    assert place.run("session", "is-alive", session_id, "--cd", str(place.project), cwd=other).code == 1
    done = place.run("run", "--cd", str(place.project), "--session", session_id, "two", cwd=other)
    assert done.out == "FAKE ECHO: two [turns=2]\n"


@pytest.mark.thorough
def test_two_names_for_one_session_are_refused(place: Place) -> None:
    """`--session-id NAME` is what the session is called, the next time too; with an id it may be given a name."""
    assert place.run("run", "--tool", "codex", "--session-id", "job", "--name", "other", "one").code == 2
    assert place.ids() == []
    for prompt in ("one", "two"):
        assert place.codex(prompt, "--session-id", "job", "--name", "job").code == 0
    assert place.codex("one", "--session-id", UNUSED, "--name", "other").code == 0
    assert len(place.ids()) == 2


@pytest.mark.thorough
def test_a_new_description_is_one_line(place: Place) -> None:
    """It is folded and cut, whenever it is given."""
    long = "two\nlines " + "and more " * 20
    session_id = place.codex("one", "--description", long).session_id
    described = place.state(session_id)["description"]
    assert (len(described), described[:15]) == (80, "two lines and m")
    place.codex("two", "--session", session_id, "--description", f"new {long}")
    assert place.state(session_id)["description"].startswith("new two lines and more")
    assert len(place.state(session_id)["description"]) == 80


@pytest.mark.thorough
def test_cd_is_as_if_started_there(place: Place) -> None:
    """Files that are named, read or written, are looked for in the directory that --cd names, as with git -C."""
    below = place.project / "below"
    below.mkdir()
    (place.project / "p.md").write_text("wrong")
    (below / "p.md").write_text("right")
    assert place.run("run", "--tool", "codex", "--cd", "below", "--prompt-file", "p.md").out.startswith(
        "FAKE ECHO: right"
    )
    assert place.run("session", "export", "--cd", "below", "@last", "-o", "archive").code == 0
    assert (below / "archive").exists()
    assert place.state(place.ids()[0])["tools"]["codex"]["cwd"] == str(below)
    assert place.run("ps", "--cd", "nowhere").code == 2
    assert place.run("ps", "--cd", "p.md").err.startswith("error: --cd: there is no directory p.md.")


@pytest.mark.thorough
def test_project_is_the_nearest_marked_directory(place: Place) -> None:
    """From a subdirectory, and through a symlink, the project's sessions are found."""
    session_id = place.codex("one").session_id
    deep = place.project / "a" / "b"
    deep.mkdir(parents=True)
    (place.tmp / "link").symlink_to(place.project)
    for start in (deep, place.tmp / "link"):
        assert [item["id"] for item in place.run("session", "list", "--json", cwd=start).json] == [session_id]


@pytest.mark.parametrize("first", ["codex", "claude-code"])
def test_change_of_tool_hands_over(place: Place, first: str) -> None:
    """Another tool than before: the same session, a digest before the prompt, each tool's conversation kept."""
    second = {"codex": "claude-code", "claude-code": "codex"}[first]
    seen = place.tmp / "stdin"
    place.script(
        {"match": "", "tool": first, "turn": 1, "do": [["say", "the plan is blue"]]},
        {"match": "", "do": [["write-stdin", str(seen)], ["say", "understood"]]},
    )
    session_id = place.run("run", "--tool", first, "the secret plan?").session_id
    done = place.run("run", "--session", session_id, "--tool", second, "go on")
    assert (done.code, done.out, done.session_id) == (0, "understood\n", session_id)
    prompt = seen.read_text()
    assert "the secret plan?" in prompt
    assert "the plan is blue" in prompt
    assert prompt.endswith("go on")
    (handoff,) = [event for event in place.events(session_id) if event["type"] == "handoff"]
    assert (handoff["data"]["to"], handoff["data"]["turns"]) == (second, [1])
    assert set(place.state(session_id)["tools"]) == {first, second}
    # Without --tool the tool of the last turn goes on, with nothing to hand over.
    assert f"turn 3, {second}" in place.run("run", "--session", session_id, "more").err
    assert seen.read_text() == "more"
    # Back to the first: it hears of what the other did.
    assert place.run("run", "--session", session_id, "--tool", first, "back").code == 0
    assert "understood" in seen.read_text()
    assert "the plan is blue" not in seen.read_text()


@pytest.mark.thorough
def test_result_of_a_turn(place: Place) -> None:
    """`session result` prints the last answer, or that of the turn asked for."""
    session_id = place.codex("one").session_id
    place.codex("two", "--last")
    assert place.run("session", "result", session_id).out == "FAKE ECHO: two [turns=2]\n"
    assert place.run("session", "result", session_id, "--turn", "1").out == "FAKE ECHO: one [turns=1]\n"
    assert place.run("session", "result", session_id, "--turn", "3").code == 3


@pytest.mark.thorough
def test_result_before_the_end(place: Place) -> None:
    """A session that has not finished any turn has no result: exit 3."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    assert place.run("session", "result", running.session_id).code == 3
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_logs(place: Place) -> None:
    """`session logs` tells what happened, `--json` prints the transcript's own lines, `--tail` the last ones."""
    place.play(["call", "ls", "a"], ["say", "done"])
    session_id = place.codex("hello").session_id
    transcript = (place.session(session_id) / "transcript.jsonl").read_text()
    as_json = place.run("session", "logs", session_id, "--json").out
    assert [json.loads(line) for line in as_json.splitlines()] == [json.loads(x) for x in transcript.splitlines()]
    assert place.run("session", "logs", session_id, "--json", "--tail", "2").out == "".join(
        as_json.splitlines(keepends=True)[-2:]
    )
    assert "done" in place.run("session", "logs", session_id).out


@pytest.mark.thorough
def test_session_is_private(place: Place) -> None:
    """Directories of the store are 0700 and files 0600, whatever the umask."""
    place.shell(["bash", "-c", "umask 0; csa run --tool codex hello"])
    modes = {path: path.stat().st_mode & 0o777 for path in [place.store, *place.store.rglob("*")]}
    wrong = {p: oct(m) for p, m in modes.items() if m != (0o700 if Path(p).is_dir() else 0o600)}
    assert not wrong
