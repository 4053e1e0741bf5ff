"""`csa fetch`: the work of a session on another host comes here, and can be compared and landed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.hosts import name_parent, place_below, sync
from tests.cli.plans import prompts
from tests.cli.worktrees import agent_does, make_repository, sh, work
from tests.support import Place


@pytest.mark.thorough
def test_fetching_comparing_landing(place: Place, remote: Place) -> None:
    """The commits come as refs, each turn's can be compared, and they land like any; then the host may clean up."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    sh(remote, f"git clone -q {place.project} {remote.project}", cwd=remote.tmp)
    session = work(remote, "echo one > new; git add new; git commit -qm 'add new'; echo left > left", "--name", "auth")
    sync(place)
    done = place.run("diff", "-s", "n1:auth")
    assert (done.code, f"csa fetch -s n1:{session}" in done.err) == (3, True)
    refused = place.run("fetch", session, cwd=place.tmp)
    assert (refused.code, "in no git repository" in refused.err) == (5, True)
    assert place.run("land", "n1:auth").code == 3
    done = place.run("fetch", "n1:auth")
    ref = f"refs/csa/{session}/1"
    tip = sh(place, f"git rev-parse {ref}")
    assert done.out.splitlines()[0] == f"{session} (n1:auth): 1 new ref"
    assert f"hint: take it: csa land n1:{session}, or git merge {tip[:10]}\n" in done.err
    assert place.run("fetch", "n1:auth", "--json").json["refs"] == [{"ref": ref, "commit": tip, "status": "same"}]
    found = place.run("diff", "n1:auth", "--json").json
    assert {file["path"]: file["status"] for file in found["files"]} == {"left": "added", "new": "added"}
    assert place.run("diff", "n1:auth", "--turn", "2").code == 3
    sh(place, "echo mine > mine")
    assert (
        place.run("land", "n1:auth", "--dry-run").out
        == f"{session} (n1:auth): would land 2 commits (left, new) on main\n"
    )
    done = place.run("land", "n1:auth")
    assert done.out.startswith(f"{session} (n1:auth): landed 2 commits (left, new) on main, now "), done.err
    assert (
        sh(place, "cat new left mine; git status --porcelain; git worktree list | wc -l")
        == "one\nleft\nmine\n?? mine\n1"
    )
    assert place.run("land", "n1:auth").out == f"{session} (n1:auth): is in main already\n"
    sh(place, "git reset -q --hard HEAD~2")
    head = sh(place, "git rev-parse HEAD")
    done = place.run("land", "n1:auth", "--check", "cat new; test -e two")
    assert (done.code, "one" in done.err, sh(place, "git rev-parse HEAD")) == (1, True, head)
    agent_does(place, "cat > two")
    repaired = place.run("run", "-s", "n1:auth", "--repair")
    assert repaired.code == 0, repaired.err
    assert "test -e two" in prompts(place, "n1:auth")[-1]
    sh(place, "echo two > new; git add new; git commit -qm other")
    done = place.run("land", "n1:auth", "--check", "test -e two")
    assert (done.code, "--repair" in done.err) == (1, True)
    agent_does(place, "cat new; grep -q '<<<<' new; printf 'one\ntwo\n' > new")
    repaired = place.run("run", "-s", "n1:auth", "--repair")
    assert repaired.code == 0, repaired.err
    assert place.run("land", "n1:auth", "--check", "test -e two").code == 0
    assert sh(place, "cat new; git worktree list | wc -l") == "one\ntwo\n1"
    assert place.run("run", "-s", "n1:auth", "--repair").code == 2
    done = place.run("fetch", "nobody")
    assert done.code == 3


@pytest.mark.thorough
def test_a_project_that_was_sent_is_called_as_here(place: Place, remote: Place) -> None:
    """Whatever its directory is called there; on a host that has only got it, it is called by a part of its key."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    agent_does(place, "echo one > new")
    done = place.run("run", "--on", "n1", "--tool", "codex", "work")
    assert done.code == 0, done.err
    root = sh(place, "git rev-list --max-parents=0 HEAD")
    assert f" n1:{place.project} " in place.run("ls", "--all-hosts").out
    assert f" .code/{root[:10]} " in remote.run("ls", "--all-projects").out
    assert root in place.run("ls", "--all-hosts", "--json").json[0]["project"]
    (place.state_root / ".placed" / "code.json").write_text("[")
    assert f" n1:.code/{root[:10]} " in place.run("ls", "--all-hosts").out


@pytest.mark.thorough
def test_an_agent_lands_only_what_was_placed_for_it(place: Place, remote: Place) -> None:
    """Whatever a host says of its sessions: what the list of its tree here has, and what is below that there."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    sh(remote, f"git clone -q {place.project} {remote.project}", cwd=remote.tmp)
    agent, env = place.agent("--permission", "edit")
    forged, placed = (work(remote, f"echo {word} > {word}", "--name", word) for word in ("forged", "placed"))
    below = work(remote, "echo below > below", "--name", "below")
    name_parent(remote, placed, below)
    name_parent(remote, agent, forged)
    place_below(place, remote, agent, placed)
    sync(place)
    assert place.run("fetch", "n1:forged").code == 0
    refused = place.run("land", "n1:forged", env=env)
    assert (refused.code, "was not started by the calling session" in refused.err) == (5, True), refused.err
    for name in ("placed", "below"):
        assert place.run("fetch", f"n1:{name}").code == 0
        done = place.run("land", f"n1:{name}", env=env)
        assert done.code == 0, done.err
    assert place.run("land", "n1:forged").code == 0


@pytest.mark.thorough
def test_an_agent_lands_into_no_repository_that_it_may_have_made(place: Place, remote: Place) -> None:
    """Whose configuration names programs for git to run: where csa is called by MCP, outside of the agent's sandbox."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    sh(remote, f"git clone -q {place.project} {remote.project}", cwd=remote.tmp)
    agent, env = place.agent("--permission", "edit", "--worktree")
    placed = work(remote, "echo placed > placed", "--name", "placed")
    place_below(place, remote, agent, placed)
    sync(place)
    top = Path(place.run("status", agent, "--json").json["worktree"]["path"])
    its, made = (top / ".git").read_text(), place.tmp / "made"
    assert place.run("fetch", "n1:placed").code == 0
    sh(place, f"cp -a .git {made}; echo '* filter=x' > {made}/info/attributes")
    sh(place, f"git --git-dir={made} config filter.x.smudge 'touch {made}/run; cat'")
    (top / ".git").write_text(f"gitdir: {made}\n")
    refused = place.run("land", "n1:placed", env=env, cwd=top)
    assert (refused.code, "may not use" in refused.err, (made / "run").exists()) == (5, True, False), refused.err
    (top / ".git").write_text(its)
    done = place.run("land", "n1:placed", env=env, cwd=top)
    assert (done.code, (top / "placed").exists()) == (0, True), done.err


@pytest.mark.thorough
def test_a_dirty_work_tree_there_and_back(place: Place, remote: Place) -> None:
    """An agent there sees all of it, from the same directory; its work comes by itself, and the host may clean up."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    sh(place, "echo mine > a; echo staged > staged; git add staged; echo new > sub/new; echo secret > x.log")
    look = "git --no-optional-locks status --porcelain; git stash list; git reflog; stat -c %y.%i .git/index; ls .git"
    before = sh(place, look)
    remote.script(
        {"do": [["run", "set -e; cat new ../a ../staged; ls ..; pwd; echo theirs > theirs"], ["say", "Done."]]}
    )
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    done = place.run("run", "--on", "n1", "--tool", "codex", "look", cwd=place.project / "sub")
    assert done.code == 0, done.err
    session = done.session_id
    assert sh(place, look) == before
    ref = f"refs/csa/{session}/1"
    assert sh(place, f"git diff --name-only {ref}~ {ref}") == "sub/theirs"
    assert "git diff --binary" in done.err
    tree = remote.run("status", session, "--json").json["worktree"]
    assert (tree["target"], "x.log" in sh(remote, f"ls {tree['path']}")) == ("main", False)
    more = place.run("run", "-s", f"n1:{session}", "look again")
    assert more.code == 0, more.err
    assert sh(place, f"git for-each-ref refs/csa/{session} | wc -l") == "2"
    assert place.run("land", f"n1:{session}").code == 0
    assert sh(place, "cat sub/theirs a; git log --format=%s") == "theirs\nmine\nlook\nfirst"
    assert os.listdir(place.state_root / ".placed") == ["code.json"]  # it is settled, and its code is here
    assert remote.run("rm", session).code == 0


@pytest.mark.thorough
def test_a_host_that_lies_about_whose_work_it_has(place: Place, remote: Place) -> None:
    """Turns that were not fetched are named when others land. Work under the id of a session here is not taken."""
    make_repository(place)
    remote.env |= {name: value for name, value in place.env.items() if name.startswith("GIT_")}
    sh(remote, f"git clone -q {place.project} {remote.project}", cwd=remote.tmp)
    session = work(remote, "echo one > new", "--name", "auth")
    sync(place)
    place.run("fetch", "n1:auth")
    work(remote, "echo two > new", "-s", session)
    sync(place)
    for outcome in ("landed 1 commit", "is in main already"):
        done = place.run("land", "n1:auth")
        assert (done.code, outcome in done.out) == (0, True)
        assert "turn 2 of session n1:auth was not fetched" in done.err
    place.run("fetch", "n1:auth")
    done = place.run("land", "n1:auth")
    assert ("landed 1 commit" in done.out, "not fetched" in done.err) == (True, False), done.err
    mine = work(place, "echo mine > mine")
    (there,) = remote.state_root.glob(f"**/sessions/{session}")
    there.rename(there.with_name(mine))
    state = there.with_name(mine) / "state.toml"
    state.write_text(state.read_text().replace(session, mine))
    sh(remote, f"git update-ref refs/csa/{mine}/99 refs/csa/{session}/2")
    sync(place)
    done = place.run("fetch", "n1:auth")
    assert (done.code, "its work is not fetched" in done.err) == (5, True), done.out + done.err
    assert sh(place, f"git for-each-ref refs/csa/{mine} | wc -l") == "1"
