"""What becomes of a session's worktree: retries, crashes, other tools, forks, sub-agents, and when it is gone."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.cli.worktrees import agent_does, left_of, make_repository, sh, tree_of, work
from tests.gits import needs_git
from tests.rpc.test_mcp import connected
from tests.serving import serving
from tests.support import CSA, Place, wait_for

pytestmark = pytest.mark.thorough


@pytest.fixture
def repository(place: Place) -> Place:
    return make_repository(place)


def subjects(place: Place, branch: str) -> list[str]:
    return sh(place, f"git log --format=%s {branch}").split("\n")


def warnings_of(place: Place, session_id: str) -> list[str]:
    return [event["data"]["message"] for event in place.events(session_id) if event["type"] == "warning"]


def test_a_lost_turn_is_committed_by_the_next(repository: Place) -> None:
    """csa is killed in the middle: the next turn commits what that one has left, under its own number."""
    place = repository
    place.play(["run", "echo half > done"], *place.hold(), ["say", "never"])
    running = place.start("run", "--tool", "codex", "--worktree=x", "work")
    place.wait_ready()
    running.kill()
    (session_id,) = place.published()
    wait_for(lambda: not place.processes(), "the guardian has ended the tool")
    agent_does(place, "echo whole > done")
    assert place.run("run", "-s", session_id, "go on").code == 0
    assert subjects(place, "csa/x") == ["go on", "what a turn has left that was lost", "first"]
    assert sh(place, "git log -1 --format='%(trailers:key=Csa-Turn,valueonly)' csa/x~1").strip() == "1"
    assert sh(place, f"git rev-parse refs/csa/{session_id}/1") == sh(place, "git rev-parse csa/x~1")


def test_the_heart_beats_while_git_keeps_the_work(repository: Place) -> None:
    """git takes its time in a large repository: other machines still see the session live."""
    place = repository
    git, gate = place.tmp / "slow" / "git", place.tmp / "gate"
    git.parent.mkdir()
    os.mkfifo(gate)
    there = shutil.which("git")
    git.write_text(f"""#!/bin/sh
case "$*" in *commit-tree*) : > {place.tmp}/waits; read _ < {gate};; esac
exec {there} "$@"
""")
    git.chmod(0o755)
    agent_does(place, "echo x > x")
    words = ("run", "--tool", "codex", "--worktree=x", "work")
    running = place.start(*words, env={"PATH": f"{git.parent}:{place.env['PATH']}"})
    wait_for((place.tmp / "waits").exists, "git is keeping the work")
    heart = place.session(running.session_id) / "heartbeat"
    before = heart.stat().st_mtime_ns
    wait_for(lambda: heart.stat().st_mtime_ns > before, "the heart beats")
    assert place.status(running.session_id) == "running"
    gate.write_text("go\n")
    assert running.wait().code == 0
    assert subjects(place, "csa/x") == ["work", "first"]


def test_a_fallback_goes_on_in_the_worktree(repository: Place) -> None:
    """What the first tool has left is a commit of its turn, and the next tool works in the same worktree."""
    place = repository
    place.script(
        {"match": "", "tool": "codex", "do": [["run", "echo one > one"], ["fail", "quota"]]},
        {"match": "", "do": [["run", "cat one; echo two > two; pwd > place.log"], ["say", "Done."]]},
    )
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--worktree=x", "work")
    assert done.code == 0, done.err
    tree = tree_of(place, done.session_id)
    assert Path(tree["path"], "place.log").read_text().strip() == tree["path"]
    log = sh(place, "git log --format='%s %(trailers:key=Csa-Turn,valueonly)' csa/x").split("\n")
    assert [line for line in log if line] == ["work 2", "work 1", "first "]


def test_a_worktree_that_is_gone_is_made_again(repository: Place) -> None:
    """From its branch, or from the last tip; never in the checkout. Without the repository there is no turn."""
    place = repository
    session_id = work(place, "echo one > one")
    tree = tree_of(place, session_id)
    branch = tree["branch"]
    for gone in ("", f"git worktree prune; git branch -q -D {branch}"):
        shutil.rmtree(tree["path"])
        sh(place, gone or "true")
        agent_does(place, "cat one; pwd > place.log; test ! -e a.log")
        again = place.run("run", "-s", session_id, "go on")
        assert again.code == 0, again.err
        assert "the worktree was gone; it was made again from" in again.err
        assert Path(tree["path"], "place.log").read_text().strip() == tree["path"]
    assert subjects(place, branch) == ["work", "first"]
    sub = Path(tree["path"], "sub")
    shutil.rmtree(tree["path"])
    os.rename(place.project, place.project.with_name("away"))
    place.project.mkdir()
    lost = place.run("run", "-s", session_id, "go on")
    assert (lost.code, "so is its repository" in lost.err or "is gone" in lost.err) != (0, False), lost.err
    assert not sub.exists()


def test_setup_can_be_ended(repository: Place) -> None:
    """Ctrl-C and time limits end the command with all that it has started; the agent is not started."""
    place = repository
    setup = f"touch {place.ready}; sleep 600 & sleep 600"
    running = place.start("run", "--tool", "codex", "--worktree", "--setup", setup, "work")
    place.wait_ready()
    running.signal(signal.SIGINT)
    assert running.wait().code == 130
    session_id = running.session_id
    assert place.last_event(session_id)["status"] == "cancelled"
    timed = place.run("run", "-s", session_id, "--timeout", "0.3", "work")
    assert timed.code == 124
    place.wait_until_empty(within_s=5)
    place.ready.unlink()
    detached = place.run("run", "--detach", "-s", session_id, "work")
    assert detached.code == 0, detached.err
    place.wait_ready()
    assert place.run("kill", session_id).code == 0
    assert place.last_event(session_id)["status"] == "cancelled"
    assert not [event for event in place.events(session_id) if event["type"] == "session_bound"]


def test_sub_agents_in_worktrees(repository: Place) -> None:
    """A child works where its parent does, or in a worktree from its parent's commit; each has its number."""
    place = repository
    nested = f"echo two > two; {CSA} run --worktree=inner --with-changes inner; echo three > three"
    place.script(
        {"match": "shared", "do": [["run", 'echo "$CSA_WORKTREE" > shared.log; pwd >> shared.log'], ["say", "."]]},
        {"match": "inner", "do": [["run", 'cat one two; echo "$CSA_WORKTREE" > inner'], ["say", "."]]},
        {"match": "", "do": [["run", "echo one > one"], ["run", f"{CSA} run shared"], ["run", nested], ["say", "."]]},
    )
    done = place.run("run", "--tool", "codex", "--worktree=outer", "--permission", "full", "outer")
    assert done.code == 0, done.err
    tree = tree_of(place, done.session_id)
    assert Path(tree["path"], "shared.log").read_text() == f"1\n{tree['path']}\n"
    assert subjects(place, "csa/outer") == ["outer", "first"]
    assert sh(place, "git show --name-only --format= csa/inner") == "inner"
    assert sh(place, "git show csa/inner:inner") == "2"
    (inner,) = [found for found in place.published() if "inner" in place.state(found).get("branch", "")]
    assert tree_of(place, inner)["checkout"] == tree["path"]
    assert tree_of(place, inner)["target"] == "csa/outer"
    alone = place.agent(env={"CSA_WORKTREE": "7"})[1]
    assert "CSA_WORKTREE" not in alone


def test_an_agent_that_may_not_do_everything_names_no_setup(repository: Place) -> None:
    """A setup command is not confined, so only an agent with the permission `full` may name one."""
    place = repository
    for permission, code in (("edit", 5), ("full", 0)):
        command = f"{CSA} run --worktree=of-{permission} --setup true x; echo $? > {place.tmp}/code"
        place.script({"match": "x", "do": [["say", "."]]}, {"match": "", "do": [["run", command], ["say", "."]]})
        place.codex("outer", "--permission", permission)
        assert (place.tmp / "code").read_text().strip() == str(code)


def test_an_agent_gets_no_worktree_of_a_repository_that_it_may_have_made(repository: Place) -> None:
    """Its configuration names programs, which csa's git would run outside of the agent's sandbox."""
    place = repository
    code = f"echo $? >> {place.tmp}/codes"
    own = "git init -q own; cd own; git commit -q --allow-empty -m x"
    moved = "git init -q ../moved; echo gitdir: $(realpath ../moved/.git) > .git; git commit -q --allow-empty -m x"
    script = "; ".join(f"({before}; {CSA} run --worktree x; {code})" for before in ("true", own, moved))
    place.script({"match": "x", "do": [["say", "."]]}, {"match": "", "do": [["run", script], ["say", "."]]})
    done = place.run("run", "--tool", "codex", "--worktree", "--permission", "edit", "outer")
    assert done.code == 0, done.err
    assert (place.tmp / "codes").read_text().split() == ["0", "5", "5"]
    place.codex("in the checkout", "--permission", "edit")
    assert (place.tmp / "codes").read_text().split()[3:5] == ["0", "5"]


def test_forks_into_a_worktree_get_a_summary(repository: Place) -> None:
    """A fork works in its own worktree, with a summary: a copied conversation belongs to another directory."""
    place = repository
    for tool in ("claude-code", "codex"):
        source = place.run("run", "--tool", tool, "remember").session_id
        agent_does(place, "pwd > place.log")
        done = place.run("run", "--fork-from", source, f"--worktree=fork-{tool}", "--json", "go on")
        assert done.code == 0, done.err
        tree = tree_of(place, done.json["session_id"])
        assert Path(tree["path"], "place.log").read_text().strip() == tree["path"]
        (fork,) = [event for event in place.events(done.json["session_id"]) if event["type"] == "fork"]
        assert fork["data"]["how"] == "handoff"
        place.env.pop("FAKE_TOOL_SCRIPT", None)
        moved = place.run("run", "-s", source, "--worktree", "go on")
        assert (moved.code, "has no worktree, so --worktree has no effect" in moved.err) == (2, True)
        other = place.run("run", "-s", done.json["session_id"], "--worktree=other", "go on")
        assert (other.code, f"already, on the branch csa/fork-{tool}" in other.err) == (2, True)


def test_included_files(repository: Place) -> None:
    """`.worktreeinclude`: what matches and is ignored here and there is copied, with modes, links as links."""
    place = repository
    (place.project / ".worktreeinclude").write_text("*.log\nprivate/\n!no.log\nnew.txt\nlater.tmp\n")
    (place.project / "private").mkdir()
    (place.project / "private/key").write_text("k")
    (place.project / "private/key").chmod(0o600)
    (place.project / "private/link.log").symlink_to("/etc/hostname")
    (place.project / "no.log").write_text("n")
    (place.project / "run.log").write_text("#!/bin/sh\n")
    (place.project / "run.log").chmod(0o755)
    os.mkfifo(place.project / "pipe.log")
    (place.project / "new.txt").write_text("not ignored")
    (place.project / "later.tmp").write_text("ignored here only")
    sh(place, "echo private/ >> .gitignore; git commit -qam ignores; echo '*.tmp' >> .gitignore")
    agent_does(place, "true")
    done = place.run("run", "--tool", "codex", "--worktree=x", "work")
    assert done.code == 0, done.err
    tree = Path(tree_of(place, done.session_id)["path"])
    assert (tree / "private/key").read_text() == "k"
    assert (tree / "private/key").stat().st_mode & 0o777 == 0o600
    assert os.readlink(tree / "private/link.log") == "/etc/hostname"
    assert (tree / "run.log").stat().st_mode & 0o777 == 0o755
    assert not [name for name in ("no.log", "new.txt", "later.tmp", "pipe.log") if os.path.lexists(tree / name)]
    assert "not copied, as git does not ignore it in the worktree: later.tmp" in done.err
    assert subjects(place, "csa/x") == ["ignores", "first"]


def test_a_worktree_with_changes(repository: Place) -> None:
    """It begins with a snapshot of the checkout, whose index, branch and stash stay; the agent's work comes after."""
    place = repository
    sh(place, "echo staged > staged; git add staged; echo edited >> a; echo new > new; rm sub/b")
    before = sh(place, "git status --porcelain; git rev-parse HEAD; git stash list; sha1sum .git/index")
    session_id = work(place, "cat staged new; grep edited a; test ! -e sub/b; echo mine > mine", "--with-changes")
    assert sh(place, "git status --porcelain; git rev-parse HEAD; git stash list; sha1sum .git/index") == before
    tree = tree_of(place, session_id)
    assert sh(place, f"git show --name-only --format= {tree['base']}..{tree['branch']}") == "mine"
    assert sh(place, f"git rev-parse {tree['base']}^") == sh(place, "git rev-parse main")


@needs_git(2, 36)
def test_hooks_run_only_if_wanted(repository: Place) -> None:
    """`worktree_hooks` runs the pre-commit hook. If it refuses, a warning says so, and the work stays, with a ref."""
    place = repository
    hook = place.project / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho not this way >&2\nexit 1\n")
    hook.chmod(0o755)
    plain = work(place, "echo one > one", "--name", "plain")
    assert subjects(place, "csa/plain") == ["work", "first"]
    place.env["CSA_CONF_WORKTREE_HOOKS"] = "true"
    hooked = work(place, "echo one > one", "--name", "hooked")
    assert subjects(place, "csa/hooked") == ["first"]
    assert any(
        "not this way" in words and f"refs/csa/{hooked}/1-refused" in words for words in warnings_of(place, hooked)
    )
    shown = place.run("info", hooked, "--json").json["worktree"]
    assert (shown["refused"]["kind"], shown["refused"]["message"]) == ("hook", "not this way")
    assert sh(place, f"git show --name-only --format= refs/csa/{hooked}/1-refused") == "one"
    hook.write_text("#!/bin/sh\nexit 0\n")
    assert place.run("run", "-s", hooked, "again").code == 0
    assert subjects(place, "csa/hooked") == ["again", "first"]
    assert "refused" not in tree_of(place, hooked)
    assert plain != hooked


def test_submodules_are_named_and_filters_are_gits(repository: Place) -> None:
    """Empty submodules are named, with the way to fill them; a required filter that is missing makes nothing begin."""
    place = repository
    sh(place, "mkdir ../part; git init -q ../part; git -C ../part commit -q --allow-empty -m p")
    sh(place, "git -c protocol.file.allow=always submodule --quiet add ../part part; git commit -qm part")
    agent_does(place, "ls part | wc -l > count.log")
    done = place.run("run", "--tool", "codex", "--worktree", "work")
    assert "submodules are empty in the worktree: part (--setup 'git submodule update --init' fills them)" in done.err
    filled = "git -c protocol.file.allow=always submodule --quiet update --init"
    done = place.run("run", "--tool", "codex", "--worktree", "--setup", filled, "work")
    assert (done.code, "submodules" in done.err) == (0, False), done.err
    assert place.last_event(done.session_id)["status"] == "succeeded"
    sh(place, "echo '*.bin filter=lfs' > .gitattributes; echo x > x.bin; git add .; git commit -qm large")
    smudge = "git config filter.lfs.smudge 'git-lfs-that-is-missing smudge'"
    sh(place, f"git config filter.lfs.clean cat; {smudge}; git config filter.lfs.required true")
    before = left_of(place)
    refused = place.run("run", "--tool", "codex", "--worktree", "work")
    assert refused.code == 1
    assert "cannot be made" in refused.err
    assert "x.bin" in refused.err
    assert left_of(place) == before


def test_what_a_session_has_changed_in_its_worktree(repository: Place) -> None:
    """Committed by csa or not, from any directory; whether the worktree is there, or is gone."""
    place = repository
    session_id = work(place, "echo one > one; echo more >> a", "--name", "x")
    agent_does(place, "echo two > two; git rm -q sub/b; git commit -qm own; echo three > three")
    assert place.run("run", "-s", session_id, "go on").code == 0
    sh(place, "echo other > other; git add other; git commit -qm other")
    whole = {"a": "modified", "one": "added", "sub/b": "deleted", "three": "added", "two": "added"}

    def statuses(*words: str) -> dict[str, str]:
        done = place.run("diff", session_id, *words, "--json", cwd=Path("/"))
        assert done.code == 0, done.out
        found = done.json
        assert (found["unclear"], found["notes"]) == ([], [])
        return {file["path"]: file["status"] for file in found["files"]}

    assert statuses() == whole
    assert statuses("--turn", "1") == {"a": "modified", "one": "added"}
    tree = Path(tree_of(place, session_id)["path"])
    sh(place, "git rebase -q main", cwd=tree)
    assert statuses() == whole
    shutil.rmtree(tree)
    sh(place, "git worktree prune; git branch -qD csa/x")
    assert statuses() == whole
    assert statuses("--turn", "2") == {"sub/b": "deleted", "three": "added", "two": "added"}


def test_other_programs_ask_for_one(repository: Place) -> None:
    """Over HTTP and MCP, and in the library's requests, an empty name is that of the session."""
    place = repository
    agent_does(place, "test -e dirty && echo x > x")
    (place.project / "dirty").write_text("d")
    with serving(place) as server:
        session_id = server.start(tool="codex", worktree="http", with_changes=True)
        assert place.run("wait", session_id).code == 0
        shown = server.get(f"/sessions/{session_id}")["worktree"]
        assert (shown["branch"], shown["number"], shown["is_ready"]) == ("csa/http", 1, True)
    with connected(place) as client:
        client.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})
        agent_does(place, "echo y > y")
        made = client.call("run", prompt="go", tool="codex", worktree="")
        assert made["status"] == "succeeded"
        branch = tree_of(place, made["session_id"])["branch"]
        assert branch == f"csa/{made['session_id'][-8:].lower()}"
    assert subjects(place, branch) == ["go", "first"]


def test_without_a_turn_the_worktree_is_there_too(repository: Place) -> None:
    """A compaction finds the worktree that was gone, made again; a secret does not get into its record."""
    place = repository
    session_id = work(place, "echo one > one")
    tree = Path(tree_of(place, session_id)["path"])
    shutil.rmtree(tree)
    place.play(["compact"])
    assert place.run("compress", session_id).code == 0
    assert (tree / "one").exists()
    secret = "ghp_" + "a" * 36
    kept = place.run("run", "--tool", "codex", "--worktree", "--setup", f"login {secret}", "work")
    assert (kept.code, "has a secret in it" in kept.err) == (2, True)


def test_one_of_many_that_begin_at_once_gets_the_name(repository: Place) -> None:
    """Of several with the same name exactly one begins, with its branch; numbers differ.

    The others find the branch (exit 1) or who is making it (exit 4, as for all that is busy).
    """
    place = repository
    agent_does(place, "echo x > x")
    same = [place.start("run", "--tool", "codex", "--worktree=same", "work") for _ in range(4)]
    others = [place.start("run", "--tool", "codex", "--worktree", "work") for _ in range(3)]
    ended, numbered = ([one.wait() for one in many] for many in (same, others))
    began, *refused = sorted(ended, key=lambda one: one.code)
    assert began.code == 0, began.err
    assert all((one.code, "is making" in one.err) in {(1, False), (4, True)} for one in refused), refused
    assert [one.code for one in numbered] == [0, 0, 0]
    assert subjects(place, "csa/same") == ["work", "first"]
    assert len({tree_of(place, found)["number"] for found in place.published()}) == 4
    assert len(left_of(place)[2]) == 4


def test_numbers_are_the_smallest_free_ones(repository: Place) -> None:
    """`CSA_WORKTREE` counts the worktrees of the project that there are."""
    place = repository
    first, second = (work(place, "true", f"--worktree={name}") for name in ("a", "b"))
    assert [tree_of(place, found)["number"] for found in (first, second)] == [1, 2]
    shutil.rmtree(tree_of(place, first)["path"])
    third = work(place, "true", "--worktree=c")
    assert tree_of(place, third)["number"] == 1
    assert place.run("run", "-s", first, "again").code == 0
    assert tree_of(place, first)["number"] == 3


def test_ways_to_ask_for_one(repository: Place) -> None:
    """In the background, by a template, and only looking; the prompt is not taken for the name."""
    place = repository
    agent_does(place, "echo x > x")
    looked = place.run("run", "--tool", "codex", "--worktree", "--dry-run", "--json", "the prompt").json
    assert looked["worktree"]["branch"].startswith("csa/")
    assert looked["cwd"] == looked["worktree"]["path"]
    assert "worktree    csa/x from main" in place.run("run", "--worktree=x", "--tool", "codex", "--dry-run", "p").out
    assert not (place.store / "worktrees").exists()
    detached = place.run("run", "--tool", "codex", "--detach", "--worktree=back", "work")
    assert "worktree: csa/back from main" in detached.err
    assert place.run("wait", detached.out.strip()).code == 0
    assert subjects(place, "csa/back") == ["work", "first"]
    assert place.run("template", "save", "tree", "--tool", "codex", "--worktree", "--json").json["worktree"] is True
    named = place.run("template", "save", "named", "--tool", "codex", "--worktree={{issue}}", "--json").json
    assert (named["worktree"], named["variables"]) == ("{{issue}}", ["issue"])
    done = place.run("run", "--as", "named", "--var", "issue=42", "--json", "work")
    assert sh(place, "git show --name-only --format= csa/42") == "x"
    again = place.run("run", "--as", "tree", "-s", done.json["session_id"], "go on")
    assert again.code == 0, again.err
    shown = place.run("ls", "--format", "{branch} {worktree} {landed}").out
    assert f"csa/42 {tree_of(place, done.json['session_id'])['path']} " in shown
    assert "worktree" in place.run("status", done.json["session_id"]).out
