"""`csa session checkpoint`, `checkpoints` and `log`: what git keeps of a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Json, Place, snapshot

IDENTITY = {
    "GIT_AUTHOR_NAME": "A User",
    "GIT_AUTHOR_EMAIL": "user@example.org",
    "GIT_COMMITTER_NAME": "A User",
    "GIT_COMMITTER_EMAIL": "user@example.org",
}


@pytest.fixture
def repository(place: Place) -> Place:
    """Make a place whose project is a real repository with one commit."""
    (place.project / ".git" / "HEAD").unlink()
    (place.project / ".git").rmdir()
    _git(place, "init", "-q", "-b", "main")
    _commit(place, "the first")
    return place


def _git(place: Place, *words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ["git", *words], cwd=cwd or place.project, env={**place.env, **IDENTITY}, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def _commit(place: Place, subject: str) -> str:
    _git(place, "commit", "-q", "--allow-empty", "-m", subject)
    return _git(place, "rev-parse", "HEAD")


def _audit(place: Place, *words: str) -> str:
    return _git(place, f"--git-dir={place.store / 'audit.git'}", *words)


def _checkpoints(place: Place, *words: str) -> list[Json]:
    found: list[Json] = place.run("session", "checkpoints", "--json", *words).json
    return found


@pytest.mark.thorough
def test_a_checkpoint_is_a_commit_with_a_note(repository: Place) -> None:
    """It has the state, the result and the digest, csa's own identity, a ref of the session and a bound note."""
    place = repository
    session_id = place.codex().session_id
    before = snapshot(place.project)
    state = (place.session(session_id) / "state.toml").read_text()
    done = place.run("session", "checkpoint", "-s", session_id, "--label", "before the storm")
    commit = done.out.strip()
    assert done.code == 0, done.err
    ref = f"refs/csa/sessions/{session_id}"
    assert _audit(place, "rev-parse", ref) == commit
    assert _audit(place, "ls-tree", "--name-only", commit).split() == ["checkpoint.json", "result.toml", "state.toml"]
    assert _audit(place, "show", f"{commit}:state.toml") == state.strip()
    assert _audit(place, "log", "-1", "--format=%an <%ae> %cn %s", commit) == (
        "csa <csa@localhost> csa checkpoint: before the storm"
    )
    facts = json.loads(_audit(place, "show", f"{commit}:checkpoint.json"))
    assert json.loads(_audit(place, "notes", "--ref=csa-checkpoints", "show", commit)) == facts
    assert (facts["session_id"], facts["turn"], facts["label"]) == (session_id, 1, "before the storm")
    assert snapshot(place.project) == before
    event = place.events(session_id)[-1]
    assert (event["type"], event["data"]["commit"]) == ("checkpoint", commit)


@pytest.mark.thorough
def test_it_is_private(place: Place) -> None:
    """Nobody else can read the repository."""
    place.run("session", "checkpoint", place.codex().session_id)
    modes = {path: path.stat().st_mode & 0o077 for path in (place.store / "audit.git").rglob("*")}
    assert modes
    assert {path: mode for path, mode in modes.items() if mode} == {}


def test_the_users_git_has_no_say(place: Place) -> None:
    """Neither variables nor config files, hooks or templates of the user change or break a checkpoint."""
    hook = place.tmp / "hooks" / "reference-transaction"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {place.tmp}/hooked\nexit 1\n")
    hook.chmod(0o755)
    (place.home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hook.parent}\n[init]\ntemplateDir = {hook.parent.parent}\n[commit]\ngpgSign = true\n"
        "[user]\nname = Somebody\n[notes]\ndisplayRef = refs/notes/other\n"
    )
    env = {"GIT_DIR": "/nonexistent", "GIT_INDEX_FILE": "/nonexistent", "GIT_AUTHOR_NAME": "Somebody"}
    done = place.run("session", "checkpoint", place.codex().session_id, env=env)
    assert done.code == 0, done.err
    assert _audit(place, "log", "-1", "--format=%an", done.out.strip()) == "csa"
    assert not (place.tmp / "hooked").exists()


@pytest.mark.thorough
def test_listing_and_showing(place: Place) -> None:
    """Newest first; of one session or all; a commit is shown by a prefix of its name."""
    first, second = place.codex("one").session_id, place.codex("two").session_id
    assert place.run("session", "checkpoints").out == "No checkpoints found\n"
    made = [
        place.run("session", "checkpoint", each, "--label", f"of {each[-4:]}").out.strip() for each in (first, second)
    ]
    assert {each["commit"] for each in _checkpoints(place)} == set(made)
    (only,) = _checkpoints(place, "-s", first)
    assert (only["commit"], only["session_id"], only["turn"], only["status"]) == (made[0], first, 1, "succeeded")
    rows = place.run("session", "checkpoints").out
    assert all(commit in rows for commit in made)
    shown = place.run("session", "checkpoints", "--show", made[0][:10])
    assert shown.code == 0, shown.err
    assert f'meta_session_id = "{first}"' in shown.out
    assert "--- result.toml" in shown.out
    shown = place.run("session", "checkpoints", "--show", made[1], "--json")
    assert f'meta_session_id = "{second}"' in shown.json["files"]["state.toml"]
    assert place.run("session", "checkpoints", "--show", "ffffffff").code == 3
    assert place.run("session", "checkpoints", "--show", "--help-me").code == 2
    assert place.run("session", "checkpoints", "--show", "HEAD").code == 3


@pytest.mark.thorough
def test_verifying(place: Place) -> None:
    """A session may go on; what was on record then must still be there, byte for byte, and so must the note."""
    session_id = place.codex("one").session_id
    place.run("session", "checkpoint", session_id)
    place.codex("two", "--session", session_id)
    place.run("session", "checkpoint", session_id)
    done = place.run("session", "checkpoints", "--verify", "--json")
    assert (done.code, [each["verified"] for each in done.json]) == (0, ["ok", "ok"])
    transcript = place.session(session_id) / "transcript.jsonl"
    content = transcript.read_bytes()
    transcript.write_bytes(content.replace(b"FAKE ECHO: two", b"FAKE ECHO: TWO"))
    done = place.run("session", "checkpoints", "--verify", "--json")
    assert (done.code, [each["verified"] for each in done.json]) == (1, ["changed", "ok"])
    transcript.write_bytes(content[:40])
    assert [each["verified"] for each in _checkpoints(place, "--verify")] == ["truncated", "truncated"]
    transcript.write_bytes(content)
    newest = _checkpoints(place)[0]["commit"]
    _audit(place, "notes", "--ref=csa-checkpoints", "remove", newest)
    assert [each["verified"] for each in _checkpoints(place, "--verify")] == ["unbound", "ok"]


@pytest.mark.thorough
def test_verifying_what_is_gone(place: Place) -> None:
    """The checkpoints of a session outlive it, and that is no damage."""
    session_id = place.codex("one").session_id
    place.run("session", "checkpoint", session_id)
    directory = place.session(session_id)
    (place.store / "retired").mkdir()
    directory.rename(place.store / "retired" / session_id)
    assert [each["verified"] for each in _checkpoints(place, "--verify")] == ["ok"]
    (place.store / "retired" / session_id).rename(place.tmp / "gone")
    done = place.run("session", "checkpoints", "--verify", "--json")
    assert (done.code, [each["verified"] for each in done.json]) == (0, ["gone"])


@pytest.mark.thorough
def test_a_running_session_can_be_put_on_record(place: Place) -> None:
    """The digest is of what is there; the supervisor alone writes the transcript, and its turn is not disturbed."""
    place.play(["say", "working"], *place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = running.session_id
    done = place.run("session", "checkpoint", session_id, "--json")
    assert (done.code, done.json["status"], done.json["turn"]) == (0, None, 1), done
    place.release()
    assert running.wait().code == 0
    assert "checkpoint" not in [event["type"] for event in place.events(session_id)]
    assert [each["verified"] for each in _checkpoints(place, "--verify")] == ["ok"]


@pytest.mark.thorough
def test_twenty_at_once_are_all_kept(place: Place) -> None:
    """Refs and notes move by compare-and-swap: of twenty checkpoints of one session at a time none is lost."""
    session_id = place.codex("one").session_id
    running = [place.start("session", "checkpoint", session_id, "--label", f"number {at}") for at in range(20)]
    done = [each.wait() for each in running]
    assert [each.code for each in done] == [0] * 20, [each.err for each in done]
    made = {each.out.strip() for each in done}
    found = _checkpoints(place, "--verify")
    assert {each["commit"] for each in found} == made
    assert {each["label"] for each in found} == {f"number {at}" for at in range(20)}
    assert {each["verified"] for each in found} == {"ok"}
    assert len(_audit(place, "notes", "--ref=csa-checkpoints", "list").splitlines()) == 20
    assert _audit(place, "rev-list", "--count", f"refs/csa/sessions/{session_id}") == "20"


@pytest.mark.thorough
def test_by_itself_every_second_turn(place: Place) -> None:
    """`checkpoint_every_turns` makes checkpoints at the ends of turns, of sessions that stay."""
    place.env["CSA_CONF_CHECKPOINT_EVERY_TURNS"] = "2"
    session_id = place.codex("one").session_id
    for prompt in ("two", "three", "four"):
        place.codex(prompt, "--session", session_id)
    place.codex("gone", "--ephemeral")
    found = _checkpoints(place, "--verify")
    assert [(each["turn"], each["automatic"], each["verified"]) for each in found] == [(4, True, "ok"), (2, True, "ok")]
    kept = place.run("session", "checkpoints", "--show", found[0]["commit"], "--json").json["files"]
    assert "turns = 4" in kept["state.toml"]
    assert "turn = 4" in kept["result.toml"]


def test_a_lost_checkpoint_fails_no_run(place: Place) -> None:
    """Where git is missing or refuses, the run succeeds and says what was lost."""
    place.env["CSA_CONF_CHECKPOINT_EVERY_TURNS"] = "1"
    place.store.mkdir(parents=True)
    (place.store / "audit.git").write_text("no repository")
    done = place.codex("one")
    assert "warning: the checkpoint could not be made" in done.err
    assert place.status(done.session_id) == "succeeded"


@pytest.mark.thorough
def test_without_git(place: Place) -> None:
    """A clear error with a next step, exit 7; the history without checkpoints and commits needs no git."""
    session_id = place.codex("one").session_id
    env = {"PATH": str(Path(sys.executable).parent)}
    done = place.run("session", "checkpoint", session_id, env=env)
    assert (done.code, "git is not installed" in done.err, "hint: install git" in done.err) == (7, True, True), done.err
    assert place.run("session", "log", session_id, env=env).code == 0
    assert place.run("session", "checkpoints", env=env).code == 0


@pytest.mark.thorough
def test_a_checkpoint_is_redacted(place: Place) -> None:
    """Labels are, and what is kept was already."""
    place.env["MY_API_KEY"] = "a-secret-of-some-length"
    session_id = place.codex("use a-secret-of-some-length").session_id
    done = place.run("session", "checkpoint", session_id, "--label", "with a-secret-of-some-length\n\x1b[31m")
    commit = done.out.strip()
    assert _checkpoints(place)[0]["label"].startswith("with [REDACTED]")
    assert "secret-of" not in "".join(
        _audit(place, "show", f"{commit}:{name}") for name in ("state.toml", "checkpoint.json")
    )


# The git history of a session


@pytest.mark.thorough
def test_the_log_has_commits_and_checkpoints(repository: Place) -> None:
    """The commits an agent makes in a turn are the session's; those made between its turns are not."""
    place = repository
    place.play(["run", "git commit -q --allow-empty -m 'the agent was here'"], ["say", "done"])
    place.env |= IDENTITY
    session_id = place.codex("commit").session_id
    made = _git(place, "rev-parse", "HEAD")
    _commit(place, "by hand, in between")
    place.play(["say", "nothing to commit"])
    place.codex("again", "--session", session_id)
    checkpoint = place.run("session", "checkpoint", session_id, "--label", "at last").out.strip()
    found = place.run("session", "log", "-s", session_id, "--json").json
    assert [(entry["kind"], entry["commit"], entry["turn"], entry["subject"]) for entry in found] == [
        ("checkpoint", checkpoint, 2, "at last"),
        ("commit", made, 1, "the agent was here"),
    ]
    printed = place.run("session", "log", session_id).out.splitlines()
    assert len(printed) == 2
    assert made in printed[1]
    assert "turn 1" in printed[1]
    heads = [(event["type"], event["data"]["head"]) for event in place.events(session_id) if "head" in event["data"]]
    assert [kind for kind, _ in heads] == ["run_started", "run_finished"] * 2
    assert heads[1][1] == made != heads[0][1]


@pytest.mark.thorough
def test_the_log_within_one_second(repository: Place) -> None:
    """A turn's automatic checkpoint stands above what was committed in the same second."""
    place = repository
    config = place.tmp / "config.toml"
    config.write_text("checkpoint_every_turns = 1\n")
    place.env |= {**IDENTITY, "CSA_CONFIG": str(config)}
    commit = 'GIT_COMMITTER_DATE="@$((now + i)) +0000" git commit -q --allow-empty -m $i'
    place.play(["run", f"now=$(date +%s); for i in $(seq 0 20); do {commit}; done"], ["say", "done"])
    session_id = place.codex("commit in each of these seconds").session_id
    found = place.run("session", "log", session_id, "--json").json
    kinds = [entry["kind"] for entry in found]
    at = kinds.index("checkpoint")
    assert found[at]["at"] == found[at + 1]["at"]
    assert kinds == ["commit"] * at + ["checkpoint"] + ["commit"] * (21 - at)
    assert [entry["at"] for entry in found] == sorted((entry["at"] for entry in found), reverse=True)


@pytest.mark.thorough
def test_the_log_without_a_repository(place: Place) -> None:
    """There are only checkpoints, and at first nothing."""
    session_id = place.codex("one").session_id
    done = place.run("session", "log", session_id)
    assert (done.code, done.out) == (0, "Nothing in the git history of this session yet\n")
    assert "hint: csa checkpoint" in done.err
    assert place.run("session", "log", session_id, "--json").json == []
    place.run("session", "checkpoint", session_id)
    assert [entry["kind"] for entry in place.run("session", "log", session_id, "--json").json] == ["checkpoint"]


@pytest.mark.thorough
def test_the_log_of_a_head_that_moved_back(repository: Place) -> None:
    """A reset makes no commits; that the head moved is told."""
    place = repository
    first = _git(place, "rev-parse", "HEAD")
    _commit(place, "the second")
    place.play(["run", "git reset -q --hard HEAD~1"])
    session_id = place.codex("go back").session_id
    (entry,) = place.run("session", "log", session_id, "--json").json
    assert (entry["kind"], entry["commit"], entry["turn"]) == ("head", first, 1)


@pytest.mark.thorough
def test_the_log_in_a_worktree(repository: Place) -> None:
    """A worktree has a head of its own, read through its .git file and packed refs."""
    place = repository
    tree = place.tmp / "tree"
    _git(place, "worktree", "add", "-q", "-b", "side", str(tree))
    _git(place, "pack-refs", "--all")
    place.env |= IDENTITY
    place.play(["run", "git commit -q --allow-empty -m 'on the side'"])
    done = place.run("run", "--tool", "codex", "commit", cwd=tree)
    assert done.code == 0, done.err
    found = place.run("session", "log", done.session_id, "--json", cwd=tree).json
    assert [entry["subject"] for entry in found] == ["on the side"]


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_a_log_that_git_refuses(repository: Place) -> None:
    """Of a repository that belongs to another user it says why there are no commits, and what helps does."""
    place = repository
    place.play(["run", "git -c user.name=a -c user.email=a commit -q --allow-empty -m made"], ["say", "done"])
    session_id = place.codex("commit").session_id
    for directory, names, files in os.walk(place.project):
        for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
            os.lchown(path, 12345, 12345)
    done = place.run("session", "log", session_id)
    assert (done.code, "belongs to another user" in done.err, "head" in done.out) == (0, True, True), done.err
    helps = done.err.partition("if you trust it: ")[2].strip()
    assert helps.startswith("git config --global --add safe.directory ")
    assert place.shell(["sh", "-c", helps]).code == 0
    done = place.run("session", "log", session_id)
    assert (" made" in done.out, done.err) == (True, "")


@pytest.mark.thorough
def test_a_log_whose_repository_is_gone(repository: Place) -> None:
    """The recorded heads are told, though nobody can say what was between them."""
    place = repository
    place.env |= IDENTITY
    place.play(["run", "git commit -q --allow-empty -m lost"])
    session_id = place.codex("commit").session_id
    made = _git(place, "rev-parse", "HEAD")
    os.rename(place.project / ".git", place.tmp / "elsewhere")
    (place.project / ".csa").mkdir()
    (entry,) = place.run("session", "log", session_id, "--json").json
    assert (entry["kind"], entry["commit"]) == ("head", made)
