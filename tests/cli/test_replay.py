"""`CSA_REPLAY=S csa run`: recorded turns stand in for tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.prepared import store_of, write_session
from tests.cli.terminal import Terminal
from tests.replays import normalised
from tests.support import CSA, Done, Place, snapshot

NO_TOOLS = {"PATH": f"{Path(CSA).parent}:/usr/bin:/bin", "FAKE_TOOL_SCRIPT": None}


def replay(place: Place, recording: str, *words: str, cwd: Path | None = None, **env: str) -> Done:
    """Run a turn again, where no tool is installed."""
    return place.run("run", *words, env={**NO_TOOLS, "CSA_REPLAY": recording, **env}, cwd=cwd)


def record_tree(place: Place) -> str:
    """Record a tree of three tools: children at once, one that fails, one that is continued, and a second turn."""
    place.script(
        {"match": "first part", "do": [["think", "hm"], ["say", "the first"]]},
        {"match": "second part", "do": [["call", "make", "no rule", 2], ["fail", "context"]]},
        {"match": "more of it", "do": [["say", "more"]]},
        {
            "match": "all of it",
            "do": [
                ["run", "csa run -q --tool claude-code --name one 'first part'"],
                [
                    "run-parallel",
                    [
                        "csa run -q --tool gemini-cli --permission read-only 'second part'",
                        "csa run -q --session one 'more of it'",
                    ],
                ],
                ["say", "done"],
            ],
        },
        {"match": "and again", "do": [["run", "csa run -q --session one 'more of it'"], ["say", "done again"]]},
    )
    session = place.codex("all of it").session_id
    place.run("run", "-q", "--session", session, "and again")
    return session


def test_a_turn_is_replayed(place: Place) -> None:
    """A recorded turn runs again without its tool, into a session of its own that names the recording."""
    place.play(["think", "hm"], ["call", "ls", "a.py"], ["say", "it works"], ["stderr", "careful"])
    recorded = place.codex("do it").session_id
    done = replay(place, recorded, "do it")
    assert (done.code, done.out) == (0, "it works\n")
    sessions = place.store / "sessions"
    assert normalised(sessions, done.session_id) == normalised(sessions, recorded)
    started = place.events(done.session_id)[0]["data"]
    assert started["replayed_from"] == {"session": recorded, "turn": 1}
    tools = [place.state(each)["tools"]["codex"]["provider_session_id"] for each in (recorded, done.session_id)]
    assert len({*tools}) == 2  # the real conversation stays that of the real session alone
    assert (place.session(done.session_id) / "output/turn-0001/stderr.log").read_text() == "careful\n"


@pytest.mark.thorough
def test_a_tree_is_replayed(place: Place) -> None:
    """Where the recorded agent had called csa, csa is called again: parents, order, failures and answers are equal."""
    recorded = record_tree(place)
    sessions = place.store / "sessions"
    was = normalised(sessions, recorded)
    assert len(was) == 3
    for _ in range(2):
        first = replay(place, recorded)
        assert (first.code, first.out) == (0, "done\n"), first.err
        second = replay(place, recorded, "--session", first.session_id)
        assert (second.code, second.out) == (0, "done again\n"), second.err
        assert normalised(sessions, first.session_id) == was
    assert place.run("status", first.session_id, "--json").json["last_turn"]["replayed_from"]["session"] == recorded
    stats = place.run("stats", "--json").json
    assert (stats["total"]["turns"], stats["replayed_turns"]) == (6, 12)
    assert "codex · replay · " in place.run("show", first.session_id).out


@pytest.mark.thorough
def test_an_archive_is_replayed(place: Place, tmp_path: Path) -> None:
    """A bug report is an export: its tree runs again in another project, without importing it."""
    recorded = record_tree(place)
    was = normalised(place.store / "sessions", recorded)
    archive = tmp_path / "bug #1" / "bug.tar.gz"
    archive.parent.mkdir()
    assert place.run("export", recorded, "--tree", "-o", str(archive)).code == 0
    shutil.rmtree(place.state_root)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".git").mkdir(parents=True)
    (elsewhere / ".git/HEAD").write_text("ref: refs/heads/main\n")
    first = replay(place, str(archive), cwd=elsewhere)
    assert (first.code, first.out) == (0, "done\n"), first.err
    second = replay(place, str(archive), "--session", first.session_id, cwd=elsewhere)
    assert second.code == 0, second.err
    (store,) = place.state_root.glob("**/elsewhere/sessions")
    found = json.dumps(normalised(store, first.session_id)).replace(str(elsewhere), str(place.project))
    assert json.loads(found) == was


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([["say", "hm"], ["signal-self", "KILL"]], 1),
        ([["say", "hm"], ["fail", "401"]], 7),
        ([["say", "hm"], ["exit", 3]], 1),
        ([["emit-partial", '{"type":"item.compl']], 1),
        ([["emit", "not json"], ["say", "fine"]], 0),
    ],
)
def test_ends(place: Place, steps: list[Any], code: int) -> None:
    """A turn ends as it had ended: by a signal, a failure, an exit code, or in the middle of a line."""
    place.play(*steps)
    recorded = place.run("run", "--tool", "codex", "--retries", "0", "try")
    done = replay(place, recorded.session_id)
    assert (recorded.code, done.code) == (code, code)
    sessions = place.store / "sessions"
    assert normalised(sessions, done.session_id) == normalised(sessions, recorded.session_id)


@pytest.mark.thorough
def test_ended_by_csa(place: Place) -> None:
    """What csa had ended is ended again, for the same reason, and at once."""
    place.play(["say", "hm"], ["sleep", 60])
    late = place.run("run", "--tool", "claude-code", "--timeout", "1", "slow")
    running = place.start("run", "--tool", "claude-code", "cancelled")
    place.wait_noted(running.session_id, '"hm"')
    place.run("kill", running.session_id)
    cancelled = running.wait()
    sessions = place.store / "sessions"
    for recorded in (late, cancelled):
        done = replay(place, recorded.session_id)
        assert done.code == recorded.code
        assert normalised(sessions, done.session_id) == normalised(sessions, recorded.session_id)


@pytest.mark.thorough
def test_started_more_than_once(place: Place) -> None:
    """A turn that csa had retried, and one whose conversation was lost, start their tool as often as recorded."""
    sessions = place.store / "sessions"
    place.script(
        {"match": "flaky", "times": 1, "do": [["stderr", "oh"], ["fail", "503"]]},
        {"match": "flaky", "do": [["say", "in the end"]]},
    )
    retried = place.codex("flaky").session_id
    done = replay(place, retried)
    assert (done.code, done.out) == (0, "in the end\n"), done.err
    assert normalised(sessions, done.session_id) == normalised(sessions, retried)
    lost = place.codex("remember me").session_id
    shutil.rmtree(place.home / ".codex")
    assert place.run("run", "--session", lost, "what was it").code == 0
    first = replay(place, lost)
    second = replay(place, lost, "--session", first.session_id)
    assert second.code == 0, second.err
    assert normalised(sessions, first.session_id) == normalised(sessions, lost)


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["claude-code", "gemini-cli", "opencode", "acp-agent"])
def test_each_tool(place: Place, tool: str) -> None:
    """Whatever the tool, and the way to it: two turns of one conversation come out as they were."""
    config = Path(place.env["XDG_CONFIG_HOME"]) / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[tools.acp-agent]\ntransport = "acp"\ncommand = ["fake-acp"]\n')
    place.play(["think", "hm"], ["call", "ls", "a.py"], ["say", "it works"])
    done = place.run("run", "--tool", tool, "do it")
    assert done.code == 0, done.err
    assert place.run("run", "--session", done.session_id, "and more").code == 0
    first = replay(place, done.session_id)
    second = replay(place, done.session_id, "--session", first.session_id)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    sessions = place.store / "sessions"
    assert normalised(sessions, first.session_id) == normalised(sessions, done.session_id)


@pytest.mark.thorough
def test_forks_fallbacks_and_detached_turns(place: Place) -> None:
    """What an agent had forked is forked; another tool takes over as it had; what outlived its parent does so again."""
    fork = ["csa run -q --tool claude-code --name a 'the base'", "csa run -q --fork-from a 'forked'"]
    place.script(
        {"match": "slow", "do": [["wait-file", str(place.go), 60], ["say", "late"]]},
        {"match": "quota", "tool": "codex", "do": [["fail", "quota"]]},
        {"match": "all", "do": [
            *(["run", command] for command in fork),
            ["run", "csa run -q --tool codex --fallback gemini-cli 'quota'"],
            ["run", "csa run -q --tool claude-code --detach 'slow'"],
            ["say", "over"],
        ]},
    )  # fmt: skip
    recorded = place.codex("all").session_id
    place.release()
    assert place.run("wait", "--tree", recorded).code == 0
    done = replay(place, recorded)
    assert done.code == 0, done.err
    assert place.run("wait", "--tree", done.session_id).code == 0
    sessions = place.store / "sessions"
    was = normalised(sessions, recorded)
    assert normalised(sessions, done.session_id) == was
    archive = place.tmp / "bug.tgz"
    assert place.run("export", recorded, "--tree", "-o", str(archive)).code == 0
    done = replay(place, str(archive))
    assert (done.code, place.run("wait", "--tree", done.session_id).code) == (0, 0)
    assert normalised(sessions, done.session_id) == was


@pytest.mark.thorough
def test_another_turn(place: Place) -> None:
    """Another prompt, another tool, a turn that was not recorded, and a session that is no replay are refused."""
    recorded = place.codex("do it").session_id
    other = place.codex("other").session_id
    before = place.published()
    asked = [
        (["do that"], 2, "turn 1 of session", "has the prompt 'do it', not 'do that'"),
        (["--tool", "gemini-cli", "do it"], 2, "was run by codex, not gemini-cli", ""),
        (["--session", other, "do it"], 2, f"session {other} is no replay", ""),
    ]
    for words, code, *said in asked:
        done = replay(place, recorded, *words)
        assert done.code == code, done.err
        assert all(each in done.err for each in said), done.err
    done = replay(place, recorded)
    assert place.published() == [*before, done.session_id]
    done = replay(place, recorded, "--session", done.session_id)
    assert (done.code, "has 1 turn only" in done.err) == (3, True)
    assert place.run("compress", other, env={"CSA_REPLAY": recorded}).code == 2


@pytest.mark.thorough
def test_an_incomplete_recording(place: Place) -> None:
    """A turn without the tool's output, or without its beginning or its end, is refused with the reason."""
    recorded = place.codex("do it").session_id
    log = place.session(recorded) / "output/turn-0001/stdout.log"
    whole = log.read_bytes()
    log.write_bytes(b"[csa: the oldest 9 bytes were dropped]\n" + whole)
    assert "the beginning of its output was dropped" in replay(place, recorded).err
    log.unlink()
    done = replay(place, recorded)
    assert (done.code, "(stdout.log) was not kept" in done.err) == (5, True)
    log.write_bytes(whole)
    transcript = place.session(recorded) / "transcript.jsonl"
    lines = transcript.read_text().splitlines(keepends=True)
    transcript.write_text("".join(lines[:-1]))
    assert "its end is missing" in replay(place, recorded).err
    assert "cannot be read" in replay(place, "no/such.tar.gz").err
    assert replay(place, "nobody").code == 3


@pytest.mark.thorough
def test_a_replay_that_diverges(place: Place) -> None:
    """A nested run that ends in another way than the recorded one fails the turn, with the reason."""
    recorded = record_tree(place)
    done = replay(place, recorded, CSA_CONF_MAX_DEPTH="0")
    assert done.code == 1
    assert "goes another way than the recording: a nested run did not begin" in " ".join(done.err.split())


def test_a_conversation_on_the_screen(place: Place) -> None:
    """`csa replay` prints what `csa show -f` had printed, and nothing is written."""
    recorded = write_session(store_of(place), 1, events=(("agent_message", {"text": "it works"}),))
    before = snapshot(place.state_root)
    shown = place.run("replay", recorded, "--speed", "max")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == place.run("show", "-f", recorded).out
    assert "it works" in shown.out
    assert snapshot(place.state_root) == before


@pytest.mark.thorough
def test_a_tree_on_the_screen(place: Place, tmp_path: Path) -> None:
    """In a pipe a tree is replayed as the lines of `logs --tree`, also from an archive; on a terminal it is drawn."""
    recorded = record_tree(place)
    lines = place.run("logs", "--tree", recorded).out
    assert place.run("replay", "--tree", recorded, "--speed", "0").out == lines
    archive = tmp_path / "bug.tgz"
    assert place.run("export", recorded, "--tree", "-o", str(archive)).code == 0
    assert place.run("replay", "--tree", str(archive), "--speed", "max").out == lines
    with Terminal(place, "replay", "--tree", recorded, "--speed", "2") as terminal:
        terminal.wait_for_frame("● ", "3 sessions, ")
        assert terminal.end() == 0
        assert "csa: 3 sessions in" in terminal.frame[-2]
        assert terminal.frame[-1] == "done again"


@pytest.mark.thorough
def test_a_session_without_a_turn_is_no_replay(place: Place) -> None:
    """What begins one says so, and takes nothing of the recording."""
    one, two = (place.codex(prompt).session_id for prompt in ("first", "second"))
    for words in (["new"], ["merge", one, two]):
        done = place.run(*words, env={"CSA_REPLAY": one})
        assert (done.code, "a session without a turn cannot be replayed" in done.err) == (2, True), done
    assert place.ids() == [one, two]
