"""`csa land`: the work of sessions comes into the checkout one stands in."""

from __future__ import annotations

import pytest

from tests.cli.worktrees import agent_does, make_repository, sh, tree_of, work
from tests.support import Place


@pytest.fixture
def repository(place: Place) -> Place:
    return make_repository(place)


def test_two_sessions_change_one_line(repository: Place) -> None:
    """The first lands; the second conflicts with it, and nothing changes."""
    place = repository
    first = work(place, "echo one > a", "--name", "first")
    second = work(place, "echo two > a; echo more > b", "--name", "second")
    sh(place, "echo mine > mine")
    done = place.run("land", "first", second)
    head = sh(place, "git rev-parse HEAD")
    assert done.code == 1
    assert done.out == f"{first} (first): landed 1 commit (a) on main, now {head[:7]}\n"
    assert "error: The work of session second conflicts in a." in done.err
    assert "hint: csa run -s second --repair" in done.err
    assert f"csa: changed there by {head[:7]} of session first: work" in done.err
    assert sh(place, "cat a; git status --porcelain; git log --format=%s") == "one\n?? mine\nwork\nfirst"
    assert tree_of(place, second)["refused"] == {"kind": "conflict", "files": ["a"], "onto": head}


@pytest.mark.thorough
def test_several(repository: Place) -> None:
    """At the first that cannot be landed it stops, and says which were not tried; a dry run changes nothing."""
    place = repository
    first, second, third = (work(place, f"echo {number} > {name}") for number, name in enumerate("aac"))
    assert place.run("land", "nobody", "--json", third).code == 3
    done = place.run("land", first, second, third)
    assert (done.code, f"csa: not tried: {third}" in done.err) == (1, True)
    done = place.run("land", "--json", second, third)
    conflict, untried = done.json
    assert (conflict["status"], conflict["error"]["kind"], untried["status"]) == ("refused", "conflict", "not_tried")
    assert place.run("land", third, "--dry-run").out == f"{third}: would land 1 commit (c) on main\n"
    assert place.run("land", second, "--dry-run").code == 1
    assert place.run("land", third, "--squash", "--check", "test -f c").code == 0
    assert sh(place, "git log -1 --format=%B").split("\n") == ["work", "", f"Csa-Session: {third}"]
    assert place.run("land", third).out == f"{third}: nothing to land\n"


@pytest.mark.thorough
def test_a_tree_lands_upwards(repository: Place) -> None:
    """An agent lands what it has started into its own worktree; not elsewhere, and not its own session."""
    place = repository
    inner = 'csa run --quiet --tool codex --worktree --name child "inner"'
    outer = f"{inner} && csa land child && (cd {place.project} && ! csa land child) && ! csa land @self"
    rules = [
        {"match": "inner", "do": [["run", "echo below > below"], ["say", "Done."]]},
        {"match": "outer", "do": [["run", f"set -e; {outer}; echo above > above"], ["say", "Done."]]},
    ]
    place.script(*rules)
    done = place.run("run", "--tool", "codex", "--worktree", "--name", "parent", "--permission", "full", "outer")
    assert done.code == 0, done.err
    assert place.run("land", "parent").code == 0
    assert sh(place, "git log --format=%s; cat above below") == "outer\ninner\nfirst\nabove\nbelow"


@pytest.mark.thorough
def test_a_conflict_is_repaired_by_its_agent(repository: Place) -> None:
    """It finds the target with its work as markers, and what it leaves lands; markers that it leaves do not."""
    place = repository
    first = work(place, "echo one > a", "--name", "first")
    second = work(place, "echo two > a; echo more > b", "--name", "second")
    assert place.run("run", "-s", second, "--repair").err.count("nothing to repair") == 1
    assert place.run("land", first).code == 0
    head = sh(place, "git rev-parse HEAD")
    assert place.run("land", second).code == 1
    agent_does(place, 'cat a > "$CSA_OUTPUT_DIR/seen"; git rev-parse HEAD >> "$CSA_OUTPUT_DIR/seen"')
    assert place.run("run", "-s", "second", "--repair").code == 0
    seen = (place.session(second) / "output/turn-0002/seen").read_text()
    assert seen.startswith("<<<<<<< ")
    assert "one\n" in seen
    assert "two\n" in seen
    assert seen.endswith(f"{head}\n")
    prompt = (place.session(second) / "output/turn-0002/prompt.md").read_text()
    assert "a: both have changed it\n" in prompt
    assert f"{head[:12]} (session {first}) work" in prompt
    done = place.run("land", second, "--json")
    assert done.json[0]["error"]["kind"] == "markers"
    agent_does(place, "echo both > a")
    assert place.run("run", "-s", "second", "--repair", "be careful").code == 0
    prompt = (place.session(second) / "output/turn-0003/prompt.md").read_text()
    assert prompt.startswith("There are conflict markers left in a.")
    assert prompt.endswith("be careful")
    assert place.run("land", second).code == 0
    assert sh(place, "cat a b; git status --porcelain") == "both\nmore"
    assert sh(place, f"git show -s --format=%P refs/csa/{second}/before-repair-2")


@pytest.mark.thorough
def test_a_failed_check_is_repaired_by_its_agent(repository: Place) -> None:
    """It is told the command and what that said, redacted; when the work fits by now, no turn is run."""
    place = repository
    session = work(place, "echo one > new")
    done = place.run("land", session, "--check", "echo no luck sk-ant-REDACTED; false")
    assert (done.code, "no luck" in done.err) == (1, True)
    agent_does(place, "echo two > new")
    assert place.run("run", "-s", session, "--repair").code == 0
    prompt = (place.session(session) / "output/turn-0002/prompt.md").read_text()
    assert "$ echo no luck" in prompt
    assert "AAAAAAA" not in prompt
    done = place.run("land", session, "--check", "kill -9 $$")
    assert (done.code, "error: The check was ended by SIGKILL" in done.err) == (1, True)
    assert "no luck" in tree_of(place, session)["refused"]["message"]
    assert place.run("land", session, "--check", "grep two new").code == 0
    other = work(place, "echo three > a")
    sh(place, "echo mine > a; git commit -qam mine")
    assert place.run("land", other).code == 1
    sh(place, "git revert --no-edit HEAD")
    done = place.run("run", "-s", other, "--repair")
    assert (done.code, "nothing left to repair" in done.err) == (2, True)
    assert place.state(other)["turns"] == 1
    assert place.run("land", other).code == 0


@pytest.mark.thorough
def test_what_a_repair_keeps(repository: Place) -> None:
    """Ignored files that the work has, and markers of its own; longer markers that are left do not land."""
    place = repository
    fixture = "printf '<<<<<<< x\\n=======\\n>>>>>>> y\\n' > a"
    session = work(place, f"{fixture}; echo two >> a; echo kept > kept.log; git add -f kept.log; printf '\\0one' > bin")
    tip = sh(place, f"git rev-parse refs/csa/{session}/1")
    sh(place, "echo '* conflict-marker-size=9' > .gitattributes; echo theirs > a; printf '\\0two' > bin; git add .")
    sh(place, "git commit -qm theirs")
    assert place.run("land", session).code == 1
    agent_does(place, "true")
    assert place.run("run", "-s", session, "--repair").code == 0
    assert f"git show {tip[:12]}:FILE" in (place.session(session) / "output/turn-0002/prompt.md").read_text()
    done = place.run("land", session, "--json")
    assert (done.json[0]["error"]["kind"], done.json[0]["conflicts"]) == ("markers", ["a"])
    agent_does(place, f"{fixture}; git show {tip}:bin > bin")
    assert place.run("run", "-s", session, "--repair").code == 0
    assert place.run("land", session).code == 0
    assert sh(place, "git ls-files; cat kept.log; git status --porcelain").split() == [
        ".gitattributes", ".gitignore", "a", "bin", "kept.log", "sub/b", "kept"
    ]  # fmt: skip
    assert (place.project / "bin").read_bytes() == b"\0one"


@pytest.mark.thorough
def test_what_git_has_begun_to_write_is_named(repository: Place) -> None:
    """Where git cannot write all files, as on a full disk, it leaves those it has written: the error says which."""
    place = repository
    sh(place, "echo 'z filter=g' > .gitattributes; git add .; git commit -qm attributes")
    session = work(place, "echo 1 > new; echo 2 > z")
    sh(place, "git config filter.g.clean cat; git config filter.g.smudge false; git config filter.g.required true")
    done = place.run("land", session)
    assert done.code == 5
    assert "git could not write all of the work" in done.err
    assert "it has begun with new" in done.err
    assert "nothing was changed" not in done.err
    sh(
        place,
        "git config filter.g.smudge cat; rm new",
    )
    assert place.run("land", session).code == 0


@pytest.mark.thorough
def test_the_heartbeat_goes_on_while_a_check_runs(repository: Place) -> None:
    """Otherwise other machines that share the files would take a session for one that nobody works in."""
    session = work(repository, "echo one > one")
    beat = repository.session(session) / "heartbeat"
    check = f"touch begun; until [ {beat} -nt begun ]; do sleep 0.05; done"
    done = repository.run("land", session, "--check", check)
    assert done.code == 0, done.err


@pytest.mark.thorough
def test_commands_that_an_agent_names(repository: Place) -> None:
    """They would run outside of what confines it, so only one that may do everything names any."""
    _, variables = repository.agent("--permission", "edit")
    child = repository.run("run", "--tool", "codex", "--json", "child", env=variables).json["session_id"]
    for words, what in (
        (("land", child, "--check", "touch ran"), "a command as a check"),
        (("run", "--tool", "codex", "--on-finish", "touch ran", "more"), "a command for --on-finish"),
    ):
        refused = repository.run(*words, env=variables)
        assert (refused.code, f"may not name {what}" in refused.err) == (5, True), refused.err
    assert not (repository.project / "ran").exists()
    _, variables = repository.agent("--permission", "full")
    assert repository.run("run", "--tool", "codex", "--on-finish", "touch ran", "more", env=variables).code == 0
    assert (repository.project / "ran").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("how", [(), ("--squash",)])
def test_work_after_a_landing_whose_branch_and_worktree_somebody_has_deleted(
    repository: Place, how: tuple[str, ...]
) -> None:
    """What is kept of it lands; what had landed before does not come again."""
    place = repository
    session = work(place, "echo one > one", "--name", "first")
    sh(place, "echo mine > mine; git add .; git commit -qm mine")
    assert place.run("land", session, "--keep", *how).code == 0
    agent_does(place, "echo two > two")
    assert place.run("run", "-s", session, "more").code == 0
    tree = tree_of(place, session)
    sh(place, f"git worktree remove --force {tree['path']}; git branch -D {tree['branch']}")
    assert place.run("land", session, "--dry-run").out.endswith("would land 1 commit (two) on main\n")
    assert place.run("land", session).code == 0
    assert sh(place, "git ls-files").split() == [".gitignore", "a", "mine", "one", "sub/b", "two"]
    assert place.run("land", session).out == f"{session} (first): nothing to land\n"
