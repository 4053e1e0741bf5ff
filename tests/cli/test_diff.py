"""`csa diff`: what a session's turns have changed, and what cannot be told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.gits import needs_git
from tests.support import Json, Place, snapshot

NAMES = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.fixture
def repository(place: Place) -> Place:
    """A place whose project is a real repository with one commit; agents commit under a name."""
    (place.project / ".git" / "HEAD").unlink()
    (place.project / ".git").rmdir()
    place.env.update(NAMES)
    for name in ("kept", "edited", "removed", "moved", "dirty", "both"):
        (place.project / name).write_text("".join(f"{name} {number}\n" for number in range(20)))
    sh(place, "git init -q -b main && git add . && git commit -qm first")
    return place


def sh(place: Place, script: str, cwd: Path | None = None) -> str:
    done = place.shell(["sh", "-ec", script], cwd=cwd)
    assert done.code == 0, done.err
    return done.out


def work(place: Place, script: str, *words: str) -> str:
    """Have an agent run a script; return its session."""
    place.play(["run", f"set -e; {script}"], ["say", "Done."])
    return place.codex("work", *words).session_id


def diff_of(place: Place, *words: str) -> Json:
    found: Json = place.run("diff", *words, "--json").json
    return found


@needs_git(2, 45)
def test_where_refs_are_not_in_files(place: Place) -> None:
    """With reftable, HEAD says `.invalid`: the branch and the commits are what git says, in a worktree too."""
    shutil.rmtree(place.project / ".git")
    place.env.update(NAMES)
    sh(place, "git init -q -b trunk --ref-format=reftable && echo one > a && git add . && git commit -qm first")
    session_id = work(place, "echo two >> a; git commit -qam second; echo new > b")
    assert statuses(diff_of(place, session_id)) == {"a": "modified", "b": "added"}
    (listed,) = place.run("ls", "--json").json
    assert listed["branch"] == "trunk"
    own = work(place, "echo three >> a; git commit -qam third", "--worktree")
    assert statuses(diff_of(place, own)) == {"a": "modified"}
    sh(place, "git add . && git commit -qm mine")
    assert place.run("land", own).code == 0
    assert sh(place, "cat a") == "one\ntwo\nthree\n"


def statuses(found: Json) -> dict[str, Any]:
    return {file["path"]: file["status"] for file in found["files"]}


def test_what_a_turn_has_changed(repository: Place) -> None:
    """Committed or not, new or deleted; what was dirty before is not the turn's. The repository stays as it was."""
    place = repository
    (place.project / "dirty").write_text("by hand\n")
    (place.project / "by-hand").write_text("new, by hand\n")
    work(
        place,
        "echo more >> edited; git commit -qam second; echo new > new; rm removed; git mv moved there; echo x >> there",
    )
    before = snapshot(place.project)
    found = diff_of(place, "@last")
    assert snapshot(place.project) == before
    assert statuses(found) == {"edited": "modified", "new": "added", "removed": "deleted", "there": "renamed"}
    assert (found["unclear"], found["also"]) == ([], [])
    assert found["notes"] == ["committed by a turn, but changed before it, so left out: dirty"]
    assert "+more\n" in found["diff"]
    assert "rename from moved" in found["diff"]
    assert "by hand" not in found["diff"]
    assert place.run("diff", "@last").out == found["diff"]
    assert place.run("diff", "@last", "--name-only").out.split() == ["edited", "new", "removed", "there"]
    assert "4 files changed" in place.run("diff", "@last", "--stat").out


@pytest.mark.thorough
def test_each_turn_has_its_own(repository: Place) -> None:
    """The session's is that of all turns; what was committed by hand between two is nobody's."""
    place = repository
    session_id = work(place, "echo one >> edited; git commit -qam one")
    sh(place, "echo hand >> kept; git commit -qam hand")
    work(place, "echo two > two", "--session", session_id)
    assert statuses(diff_of(place, session_id, "--turn", "1")) == {"edited": "modified"}
    assert statuses(diff_of(place, session_id, "--turn", "2")) == {"two": "added"}
    both = diff_of(place, session_id)
    assert (both["turns"], statuses(both)) == ([1, 2], {"edited": "modified", "two": "added"})
    missing = place.run("diff", session_id, "--turn", "3")
    assert (missing.code, "no turn 3" in missing.err) == (3, True)


@pytest.mark.thorough
def test_what_was_edited_again_is_left_out_and_named(repository: Place) -> None:
    """Nobody can tell whose it is, unless the agent has said that it edits this file."""
    place = repository
    place.play(["run", "echo new > new; echo agent >> both"], ["edit", "both"], ["say", "Done."])
    session_id = place.codex("work").session_id
    sh(place, "echo hand >> new; echo hand >> both; echo only by hand > later; git rm -q removed")
    found = diff_of(place, session_id)
    assert found["unclear"] == ["later", "new", "removed"]
    assert statuses(found) == {"both": "modified"}
    told = place.run("diff", session_id)
    assert "later, new, removed" in told.err


@pytest.mark.thorough
def test_binary_large_odd_and_nested(repository: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binary files have no lines, large ones are named, odd names are kept; a repository inside is not looked at."""
    place = repository
    session_id = work(
        place,
        "printf 'a\\000b' > binary; truncate -s 40M large; echo x > 'a b\tö\"'; ln -s /etc/passwd link; chmod +x kept;"
        "mkdir edited.d; git rm -q edited; mkdir edited; echo x > edited/inside; git init -q inner; echo x > inner/x",
    )
    found = diff_of(place, session_id)
    files = {file["path"]: file for file in found["files"]}
    assert statuses(found) == {
        "binary": "added",
        "large": "modified",
        'a b\tö"': "added",
        "link": "added",
        "kept": "modified",
        "edited": "deleted",
        "edited/inside": "added",
    }
    assert [files[name]["added"] for name in ("binary", "large", "link")] == [None, None, 1]
    assert "root:" not in found["diff"]
    assert any("inner/" in note for note in found["notes"])
    assert any("large" in note for note in found["notes"])


@pytest.mark.thorough
def test_a_submodule_is_its_commit(repository: Place) -> None:
    """That it was moved is seen, also when that is not committed; not what is inside."""
    place = repository
    sh(place, "mkdir ../sub && cd ../sub && git init -q && git commit -q --allow-empty -m s")
    sh(place, "git -c protocol.file.allow=always submodule --quiet add ../sub sub && git commit -qam sub")
    session_id = work(place, "cd sub; git commit -q --allow-empty -m more; echo x > inside")
    found = diff_of(place, session_id)
    assert statuses(found) == {"sub": "modified"}
    assert "+Subproject commit" in found["diff"]
    sh(place, "echo y > sub/inside")
    work(place, "echo > new", "--session", session_id)
    assert statuses(diff_of(place, session_id, "--turn", "2")) == {"new": "added"}


@pytest.mark.thorough
def test_other_sessions_in_the_same_checkout_are_named(repository: Place) -> None:
    """Those that ran meanwhile; not sub-agents, whose work is the session's, nor those that may only read."""
    place = repository
    child = "csa run --quiet --tool codex child > /dev/null"
    place.script(
        {"match": "child", "do": [["run", "echo c > by-child"], ["say", "ok"]]},
        {"match": "other", "do": [["run", "echo o > by-other"], ["say", "ok"]]},
        {"match": "slow", "do": [["run", child], *place.hold(), ["say", "ok"]]},
    )
    running = place.start("run", "--tool", "codex", "--permission", "full", "slow")
    place.wait_ready()
    other = place.codex("other").session_id
    place.codex("other", "--permission", "read-only")
    now = diff_of(place, running.session_id)
    assert statuses(now) == {"by-child": "added", "by-other": "added"}
    place.release()
    running.wait()
    later = place.codex("other").session_id
    assert diff_of(place, running.session_id)["also"] == now["also"] == [other]
    assert diff_of(place, later)["also"] == []


@pytest.mark.thorough
def test_repositories_that_cannot_be_compared(repository: Place) -> None:
    """Without commits everything is new; without a repository, or the commit, there is an error with a way on."""
    place = repository
    session_id = work(place, "echo x >> kept; git commit -qam gone; echo x > new")
    sh(
        place,
        "git checkout -q --orphan other; git commit -qm other; git branch -D -q main; rm -rf .git/logs;"
        "git gc -q --prune=now",
    )
    found = place.run("diff", session_id)
    assert (found.code, "no longer in" in found.err) == (3, True)
    sh(place, "rm -rf .git; git init -q")
    assert statuses(diff_of(place, work(place, "echo x > first"))) == {"first": "added"}
    sh(place, "rm -rf .git; mkdir .csa")
    gone = place.run("diff", session_id)
    assert (gone.code, "not in a git repository" in gone.err) == (3, True)
    assert place.run("diff", place.run("new", "--json").json["session_id"]).code == 3


@pytest.mark.thorough
def test_secrets_are_redacted(repository: Place) -> None:
    """As in everything that csa shows of an agent's work."""
    place = repository
    key = "sk-ant-api03-" + "a1B2" * 12
    session_id = work(place, f"echo key={key} > config")
    found = place.run("diff", session_id, "--json")
    assert key not in found.out
    assert "key=" in json.loads(found.out)["diff"]


@pytest.mark.thorough
def test_no_program_of_the_configuration_runs(repository: Place) -> None:
    """Looking at what an agent has done starts nothing that it may have set up: filters, drivers, monitors, hooks."""
    place = repository
    ran = place.tmp / "ran"
    (place.project / ".gitattributes").write_text("* diff=x filter=x\n*.p filter=p.=q\n")
    names = ("filter.x.clean", "filter.p.=q.process", "diff.x.command", "diff.x.textconv", "diff.external")
    sets = "; ".join(f"git config '{name}' 'touch {ran}; cat'" for name in (*names, "core.fsmonitor", "core.pager"))
    sh(place, "git config filter.x.required true")
    session_id = work(place, f"echo new > new; echo new > new.p; echo more >> edited; {sets}")
    assert not ran.exists()
    found = diff_of(place, session_id)
    assert statuses(found) == {"edited": "modified", "new": "added", "new.p": "added"}
    for form in ("--stat", "--name-only"):
        assert place.run("diff", session_id, form).code == 0
    assert not ran.exists()


@pytest.mark.thorough
def test_a_directory_that_became_a_link(repository: Place) -> None:
    """Its files are deleted, wherever it leads now."""
    place = repository
    sh(place, "mkdir old; seq 20 > old/file; git add old; git commit -qm old")
    session_id = work(place, "mv old new; ln -s new old")
    assert statuses(diff_of(place, session_id)) == {"new/file": "renamed", "old": "added"}


@pytest.mark.thorough
def test_a_directory_that_was_renamed(repository: Place) -> None:
    """Its files have not changed since, and are the turn's all the same; others that are older are not."""
    place = repository
    sh(place, "mkdir old; seq 20 > old/a; seq 9 > old/b; git add old; git commit -qm old; seq 7 > by-hand")
    session_id = work(place, "mv old new; echo more >> new/b")
    found = diff_of(place, session_id)
    assert statuses(found) == {"new/a": "renamed", "new/b": "renamed"}
    assert (found["unclear"], found["notes"]) == ([], [])
