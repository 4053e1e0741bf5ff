"""csa chat: on a terminal, and in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import termios

import pytest

from csa.store.prompts import MAX_BYTES
from tests.cli.terminal import SHOW_CURSOR, Terminal
from tests.support import CSA, Place, wait_for


def chat(place: Place, *words: str, size: tuple[int, int] = (80, 24), **env: str | None) -> Terminal:
    """Start a chat on a terminal."""
    return Terminal(place, "chat", *words, size=size, env={"PYTHONUNBUFFERED": None, **env})


def is_as_before(terminal: Terminal) -> bool:
    """Say whether the terminal's settings are what they were, and its cursor can be seen."""
    return termios.tcgetattr(terminal.theirs) == terminal.before and not terminal.screen.cursor.hidden


def prompts(place: Place, session_id: str) -> list[str]:
    """Return what was asked in a session."""
    return [event["data"]["prompt"] for event in place.events(session_id) if event["type"] == "run_started"]


def test_lines(place: Place) -> None:
    """In a pipe each line is a prompt of one session, a backslash joins lines, and a failing turn ends it."""
    place.script({"match": "bad", "do": [["fail", "401"]]}, {"match": "", "do": [["say", "Done."]]})
    done = place.run("chat", "--tool", "codex", "--name", "api", stdin=b"\n/help two \\\nlines\nbad\nnever\n")
    assert (done.code, done.out) == (7, "Done.\n")
    assert prompts(place, done.session_id) == ["/help two \nlines", "bad"]
    assert place.state(done.session_id)["name"] == "api"


@pytest.mark.thorough
def test_pipeline(place: Place) -> None:
    """Three stages on one session: what one answers is the next one's prompt; each keeps its tool, and waits."""
    answers = {"codex": "beta", "claude-code": "gamma", "gemini-cli": "delta"}
    place.script(*({"match": "", "tool": tool, "do": [["say", answer]]} for tool, answer in answers.items()))
    pipe = " | ".join(f"{CSA} chat -q --session-id work --tool {tool}" for tool in answers)
    done = place.shell(["bash", "-c", f"printf 'one\\ntwo\\n' | {pipe}; echo ${{PIPESTATUS[*]}}"])
    assert done.out == "delta\ndelta\n0 0 0 0\n"
    (session_id,) = place.ids()
    assert sorted(prompts(place, session_id)) == ["beta", "beta", "gamma", "gamma", "one", "two"]


@pytest.mark.thorough
def test_auto_save(place: Place) -> None:
    """A checkpoint is saved after every so many turns, and stdout has the answers alone."""
    done = place.run("chat", "--tool", "codex", "--auto-save", "2", stdin=b"one\ntwo\nthree\n")
    assert done.out.count("\n") == 3  # the answers
    assert done.err.count("saved checkpoint") == 1
    assert len(place.run("checkpoints", done.session_id, "--json").json) == 1


@pytest.mark.thorough
def test_conversation(place: Place) -> None:
    """A person talks: Markdown is rendered, prompts have several lines, and leaving says how to come back."""
    place.script({"match": "", "do": [["call", "make test", "fine"], ["say", "Use **this**:\n\n- `one`\n- <b>"]]})
    with chat(place, "--tool", "codex", "--name", "api") as terminal:
        terminal.wait_for("new session api: codex, permission edit")
        terminal.type("first\\\rsecond\r")
        terminal.wait_for("succeeded in")
        terminal.wait_for_frame("> first", "> second", "✓ $ make test  1 line", "Use this:", " • one", " • <b>")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "to go on: csa chat --session api" in terminal.text
        assert is_as_before(terminal)
    (session_id,) = place.ids()
    assert prompts(place, session_id) == ["first\nsecond"]
    assert place.run("current").out.startswith(session_id)


@pytest.mark.thorough
def test_whole_conversation(place: Place) -> None:
    """A turn is cancelled, another tool takes over, prompts wait in a queue, a fork goes on, and it is exported."""
    place.script(
        {"match": "slow", "tool": "codex", "do": [*place.hold(), ["say", "never said"]]},
        {"match": "", "tool": "claude-code", "do": [["say", "I am claude."]]},
    )
    with chat(place, "--tool", "codex", "--name", "api") as terminal:
        terminal.wait_for("codex>")
        terminal.type("slow work\r")
        place.wait_ready()
        terminal.type("and then this\r")
        terminal.wait_for_frame("queued: and then this")
        terminal.type("half a prom\x03")
        terminal.wait_for("ended after")
        terminal.wait_for("FAKE ECHO: and then this")
        terminal.wait_for("succeeded in")
        terminal.wait_for_frame("codex> half a prom")
        terminal.type("\x03/tool claude\r")
        terminal.wait_for("error: ")
        terminal.type("/tool claude-code\r")
        terminal.wait_for("next: claude-code")
        terminal.type("who are you?\r")
        terminal.wait_for_frame("I am claude.")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 1, "the turn ends")
        terminal.type("/fork other\r")
        terminal.wait_for("begins a new session, with a copy")
        terminal.type("go on\r")
        terminal.wait(lambda: terminal.text.count("I am claude.") > 1, "the fork answers")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 2, "its turn ends")
        terminal.type("/export talk.md\r")
        terminal.wait_for("written to talk.md")
        terminal.type("/exprt\r")
        terminal.wait_for("did you mean '/export'?")
        terminal.type("exit\r")
        assert terminal.end() == 0
        assert "to go on: csa chat --session other" in terminal.text
        assert is_as_before(terminal)
    first, fork = place.ids()
    assert prompts(place, first) == ["slow work", "and then this", "who are you?"]
    assert prompts(place, fork) == ["go on"]
    assert place.state(fork)["genealogy"]["fork_of"] == first
    assert "I am claude." in (place.project / "talk.md").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ended_by_a_signal(place: Place, number: signal.Signals, code: int) -> None:
    """A signal ends the turn, which is recorded, and the chat; the terminal is as it was and no process is left."""
    place.play(*place.hold())
    with chat(place, "--tool", "codex") as terminal:
        terminal.wait_for("codex>")
        terminal.type("work\r")
        place.wait_ready()
        os.kill(terminal.process.pid, number)
        assert terminal.end() == code
        assert is_as_before(terminal)
    (session_id,) = place.ids()
    assert place.last_event(session_id)["status"] == "cancelled"
    place.wait_until_empty(within_s=3)


@pytest.mark.thorough
def test_closed_terminal(place: Place) -> None:
    """When the terminal is closed the turn ends as by SIGHUP, and nothing is left running."""
    place.play(*place.hold())
    with chat(place, "--tool", "codex") as terminal:
        terminal.wait_for("codex>")
        terminal.type("work\r")
        place.wait_ready()
        terminal.process.kill()
    (session_id,) = place.ids()
    wait_for(lambda: place.status(session_id) != "running", "the turn has ended")
    place.wait_until_empty(within_s=5)


@pytest.mark.thorough
def test_leaving_while_a_turn_is_running(place: Place) -> None:
    """Ctrl-D says that a turn is running; pressed again it ends it and the chat. What was queued waits."""
    place.play(*place.hold(), ["say", "done"])
    with chat(place, "--tool", "codex") as terminal:
        terminal.wait_for("codex>")
        terminal.type("work\r")
        place.wait_ready()
        terminal.type("and then\r")
        terminal.wait_for_frame("queued: and then")
        terminal.type("/fork\r")
        terminal.wait_for("/fork has to wait until the turn has ended")
        terminal.type("\x15\x04")
        terminal.wait_for("leaving when the turn has ended")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "1 prompt not sent: csa queue" in terminal.text
    (session_id,) = place.ids()
    assert place.last_event(session_id)["status"] == "cancelled"
    place.release()
    with chat(place, "--session", session_id) as terminal:
        terminal.wait_for("1 turn so far")
        terminal.wait_for("1 prompt waiting")
        terminal.type("/queue\r")
        terminal.wait_for("turn 1 was cancelled")
        terminal.type("/queue resume\r")
        terminal.wait_for("succeeded in")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert prompts(place, session_id) == ["work", "and then"]


@pytest.mark.thorough
def test_killed_chat_loses_no_prompt(place: Place) -> None:
    """What was queued in a chat that is killed with SIGKILL is sent by the next one."""
    place.play(*place.hold(), ["say", "done"])
    with chat(place, "--tool", "codex", "--name", "api") as terminal:
        terminal.wait_for("codex>")
        terminal.type("work\r")
        place.wait_ready()
        terminal.type("and then\r")
        terminal.wait_for_frame("queued: and then")
        terminal.process.kill()
    place.release()
    (session_id,) = place.ids()
    wait_for(lambda: place.status(session_id) != "running", "the turn is lost")
    place.wait_until_empty(within_s=5)
    done = place.run("queue", session_id, "--json").json
    assert [prompt["prompt"] for prompt in done["prompts"]] == ["and then"]


@pytest.mark.thorough
def test_commands(place: Place) -> None:
    """Commands work on the chat's session as those of csa do; what cannot be done is told, and the chat goes on."""
    place.run("run", "--tool", "codex", "--name", "other", "the other one")
    with chat(place, "--tool", "codex", "--name", "api", size=(100, 50)) as terminal:
        terminal.wait_for("codex>")
        terminal.type("/info\r")
        terminal.wait_for("error: There is no session yet.")
        terminal.type("/etc/hosts is a file\r")
        terminal.wait_for("FAKE ECHO: /etc/hosts is a file")
        terminal.wait_for("succeeded in")
        terminal.type("/permission everything\r")
        terminal.wait_for("There is no permission 'everything'.")
        terminal.type("/model gpt-9\r")
        terminal.wait_for("next: codex, gpt-9, permission edit")
        terminal.type("/prune 1\r")
        terminal.wait_for("api sends all its turns")
        terminal.type("/clear\r")
        terminal.wait_for("api sends none of its turns")
        terminal.type("/context\r")
        terminal.wait_for("from turn 2 on")
        terminal.type("/diff\r")
        terminal.wait_for("not a git repository")
        (place.project / "new.txt").write_text("before\n")
        place.shell(["bash", "-c", "git init -q && git add new.txt"])
        (place.project / "new.txt").write_text("after \033[2J\n")
        terminal.type("/diff\r")
        terminal.wait_for("+after \ufffd[2J")
        terminal.type("/merge other\r")
        terminal.wait_for("0 turns so far")
        terminal.type("both\r")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 1, "its turn ends")
        terminal.type("/cancel\r")
        terminal.wait_for("No turn is running.")
        place.run("rm", place.ids()[-1])
        terminal.type("gone\r")
        terminal.wait_for("is deleted")
        terminal.wait_for("codex> gone")  # it stands there again, and Ctrl-C takes it away
        terminal.type("\x03/new third\r")
        terminal.wait_for("begins a new session")
        terminal.type("//slash\r")
        terminal.wait_for("FAKE ECHO: /slash")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 2, "its turn ends")
        terminal.type("/exit\r")
        assert terminal.end() == 0
    assert [place.state(session_id).get("name") for session_id in place.ids()] == ["other", "api", "third"]


@pytest.mark.thorough
def test_inside_an_agent(place: Place) -> None:
    """An agent's chat starts its children, with no more rights than it has, and does not change the current session."""
    parent, env = place.agent("--permission", "read-only")
    refused = place.run("chat", "--tool", "codex", "--permission", "full", env=env, stdin=b"hello\n")
    assert refused.code == 5
    done = place.run("chat", "--tool", "codex", env=env, stdin=b"hello\nagain\n")
    assert (done.code, done.out.count("FAKE ECHO")) == (0, 2)
    child = place.state(done.session_id)
    assert child["genealogy"]["parent_session_id"] == parent
    assert place.run("current").out.startswith(parent)


@pytest.mark.thorough
def test_allowed_once(place: Place) -> None:
    """A denial is pointed out; /allow runs one turn with full permission, which the session does not keep."""
    place.script(
        {"match": "may do now", "do": [["expect-arg", "--dangerously-skip-permissions"], ["say", "Done."]]},
        {"match": "", "do": [["deny", "Bash", "rm -rf x"], ["say", "I may not."]]},
    )
    with chat(place, "--tool", "claude-code") as terminal:
        terminal.wait_for("claude-code>")
        terminal.type("remove x\r")
        terminal.wait_for("1 action was denied; /allow")
        terminal.type("/allow\r")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 1, "it is done")
        assert "Done." in terminal.text
        terminal.type("again\r")
        terminal.wait(lambda: terminal.text.count("succeeded in") > 2, "it is denied again, and that turn has ended")
        terminal.type("\x04")
        assert terminal.end() == 0
    (session_id,) = place.ids()
    started = [event["data"] for event in place.events(session_id) if event["type"] == "run_started"]
    assert [data["permission"] for data in started] == ["edit", "full", "edit"]


@pytest.mark.thorough
def test_asked(place: Place) -> None:
    """What an ACP agent asks for, and would be denied, can be allowed once or denied; a forged answer denies."""
    (place.tmp / "config.toml").write_text('[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n')
    place.env["CSA_CONFIG"] = str(place.tmp / "config.toml")
    place.play(["ask", "execute", "rm x"], ["ask", "execute", "rm y"], ["ask", "read", "z"], ["say", "tried"])
    with chat(place, "--tool", "goose") as terminal:
        terminal.wait_for("goose>")
        terminal.type("try\r")
        terminal.wait_for("may it do this? rm x: /allow or /deny")
        terminal.type("/allow\r")
        terminal.wait_for("may it do this? rm y: /allow or /deny")
        (session_id,) = place.ids()
        pending = [event["data"] for event in place.events(session_id) if event["type"] == "permission"][-1]
        (place.session(session_id) / "runtime" / f"permission-{pending['ask']}").write_text("yes")
        terminal.wait_for("tried")
        terminal.wait_for("1 action was denied")
        terminal.type("/deny\r")
        terminal.wait_for("Nothing is asked.")
        terminal.type("try again\r")
        terminal.wait(lambda: terminal.text.count("may it do this? rm x") > 1, "it asks again")
        terminal.type("/deny\r")
        terminal.wait(lambda: terminal.text.count("may it do this? rm y") > 1, "it asks for more")
        terminal.type("\x03")
        terminal.wait_for("ended after")
        terminal.type("\x04")
        assert terminal.end() == 0
    asked = [event["data"] for event in place.events(session_id) if event["type"] == "permission"]
    assert [data["status"] for data in asked[:5]] == ["pending", "allowed", "pending", "denied", "allowed"]
    assert [data["status"] for data in asked[5:8]] == ["pending", "denied", "pending"]
    place.wait_until_empty(within_s=3)


@pytest.mark.thorough
def test_stopped_and_continued(place: Place) -> None:
    """Ctrl-Z gives the shell its terminal back; after fg the prompt is there again, with what was typed."""
    with Terminal(place, "bash", "--norc", "--noprofile", "-i", env={"PS1": "shell: "}) as terminal:
        terminal.type(f"{CSA} chat -t codex\n")
        terminal.wait_for("codex>")
        terminal.type("half")
        terminal.wait_for_frame("codex> half")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.type("echo $((40 + 2))\n")
        terminal.wait_for("42\r\n")
        terminal.type("fg\n")
        terminal.wait(lambda: terminal.frame[-1].endswith("codex> half"), "the prompt is back")
        terminal.type(" done\r")
        terminal.wait_for("FAKE ECHO: half done")
        terminal.wait_for("succeeded in")
        terminal.type("\x04")
        terminal.wait_for("to go on")
        terminal.type("exit\n")
        terminal.end()


@pytest.mark.thorough
def test_planted_sequences_and_pasted_lines(place: Place) -> None:
    """What an answer or a paste contains cannot act on the terminal; pasted lines are one prompt."""
    place.play(["say", "a\x1b]0;owned\x07b \x1b[2Jc `\x1b[31mred` \u202egnp"])
    with chat(place, "--tool", "codex") as terminal:
        terminal.wait_for("codex>")
        terminal.type("\x1b[200~one\ntwo\n\x1b[2Jthree\x1b[201~")
        terminal.wait_for_frame("codex> one", "two", "three")
        terminal.type("\r")
        terminal.wait_for("succeeded in")
        assert "\x1b]0;" not in terminal.output
        assert "\x1b[2J" not in terminal.output
        assert "\x1b[31mred" not in terminal.output
        assert "\u202e" not in terminal.output
        terminal.type("\x04")
        assert terminal.end() == 0
    (session_id,) = place.ids()
    assert prompts(place, session_id)[0].startswith("one\ntwo\n")


@pytest.mark.thorough
def test_narrow_and_plain(place: Place) -> None:
    """At 40 columns nothing is wider than the screen, and with NO_COLOR there is no colour."""
    place.play(["say", "日本語の長い答え" * 8])
    with chat(place, "--tool", "codex", size=(40, 12), NO_COLOR="1") as terminal:
        terminal.wait_for("codex>")
        terminal.type("日本\r")
        terminal.wait_for("succeeded in")
        terminal.resize(60, 12)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.type("/fo\t")
        terminal.wait_for_frame("codex> /fork")
        assert not re.search(r"\x1b\[([0-9;]*;)?[349][0-9](;[0-9;]*)?m", terminal.output)
        terminal.type("\x15\x04")
        assert terminal.end() == 0
        assert is_as_before(terminal)


@pytest.mark.thorough
def test_completion_and_history(place: Place) -> None:
    """Tab completes commands, sessions and files; what was entered is there the next time, without secrets."""
    place.run("run", "--tool", "codex", "--name", "backend", "hello")
    (place.project / "notes.txt").touch()
    secret = "correct-horse-battery"
    with chat(place, "--tool", "codex", "--secret", "WORD", WORD=secret) as terminal:
        terminal.wait_for("codex>")
        terminal.type("/use back\t")
        terminal.wait_for_frame("codex> /use backend")
        terminal.type("\r")
        terminal.wait_for("session backend, 1 turn so far")
        terminal.type("read @not\t")
        terminal.wait_for_frame("codex> read @notes.txt")
        terminal.type(f" with {secret}\r")
        terminal.wait_for("succeeded in")
        terminal.type("\x04")
        assert terminal.end() == 0
    kept = place.store / "chat_history"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert secret not in kept.read_text()
    with chat(place, "--session", "backend") as terminal:
        terminal.wait_for("codex>")
        terminal.type("\x1b[A")
        terminal.wait_for_frame("codex> read @notes.txt with ")
        terminal.type("\x03\x04")
        assert terminal.end() == 0
    kept.write_bytes(b'"old"\n' * (MAX_BYTES // 4) + b'broken\n"new"\n')
    with chat(place, "--session", "backend") as terminal:
        terminal.wait_for("codex>")
        terminal.type("\x1b[A")
        terminal.wait_for_frame("codex> new")
        terminal.type("\x03\x04")
        assert terminal.end() == 0
    assert kept.stat().st_size < MAX_BYTES
    assert json.loads(kept.read_bytes().splitlines()[-1]) == "new"


@pytest.mark.thorough
def test_dumb_terminal(place: Place) -> None:
    """Where nothing can be drawn, lines are read as in a pipe."""
    with chat(place, "--tool", "codex", TERM="dumb") as terminal:
        terminal.type("hello\n")
        terminal.wait_for("FAKE ECHO: hello")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert SHOW_CURSOR not in terminal.output


@pytest.mark.thorough
@pytest.mark.parametrize("how", [["--last"], ["--continue"], ["--session-id", "one"]])
def test_the_session_that_was_greeted_gets_the_prompt(place: Place, how: list[str]) -> None:
    """While the person types, another terminal may use other sessions: the chat stays in its own."""
    place.run("run", "--name", "one", "--tool", "codex", "first")
    with chat(place, *how) as terminal:
        terminal.wait_for("session one, 1 turn so far")
        terminal.wait_for("codex>")
        place.run("run", "--name", "two", "--tool", "codex", "second")
        terminal.type("hello\r")
        terminal.wait_for("succeeded in")
        terminal.type("\x04")
        assert terminal.end() == 0
    one, two = place.ids()
    assert (prompts(place, one), prompts(place, two)) == (["first", "hello"], ["second"])


@pytest.mark.thorough
def test_words_that_a_command_does_not_take(place: Place) -> None:
    """A command with words too many does nothing, /queue says when nothing waits, and /new shows what will be used."""
    place.run("run", "--name", "a", "--tool", "claude-code", "--permission", "read-only", "first")
    with chat(place, "--session", "a") as terminal:
        terminal.wait_for("claude-code>")
        terminal.type("/clear the table\r")
        terminal.wait_for("/clear takes no words.")
        terminal.type("/queue resume\r")
        terminal.wait_for("Nothing is queued.")
        (place.project / "a.md").write_text("mine")
        terminal.type("/export\r")
        terminal.wait_for("a.md exists.")
        assert (place.project / "a.md").read_text() == "mine"
        terminal.type("/queue --move\r")
        terminal.wait_for("/queue takes clear, or resume, or nothing.")
        terminal.type("/new b\r")
        terminal.wait_for("next: codex, its default model, permission edit")
        terminal.wait_for_frame("codex>")
        terminal.type("/help\r")
        terminal.wait_for("one slash.")
        assert "\r\nUp, Down and Ctrl-R find earlier prompts" in terminal.text
        terminal.type("\x04")
        assert terminal.end() == 0
    assert place.run("context", "a", "--json").json["window"]["since_turn"] == 0
