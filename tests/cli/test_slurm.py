"""Turns on a cluster: `csa run --on lab`, over a real Slurm."""

from __future__ import annotations

import random
import signal

import pytest

from csa.model.placement import Placement
from csa.store.mirrors import mirror_for
from csa.store.placements import list_placements
from tests.cli.hosts import make_old
from tests.realhosts import Host
from tests.realslurm import Cluster
from tests.support import CSA, Json, Running, wait_for

pytestmark = pytest.mark.thorough
RUN = f"{CSA} run --quiet --tool codex --on lab"
HELD: Json = {"match": "long", "do": [["run", "touch /run/ready; until [ -e /run/go ]; do sleep 0.05; done"]]}
SAID: Json = {"match": "", "do": [["say", "done"]]}


def wait_ready(host: Host) -> None:
    """Wait until the tool of a long turn is at work there."""
    wait_for(
        lambda: host.shell(["test", "-e", "/run/ready"]).code == 0, f"a turn is at work on {host.name}", within_s=60
    )


def unsettled(host: Host) -> list[Placement]:
    """Return what a host has placed elsewhere, and has not settled."""
    return list_placements(host.state_root)


def waiting(cluster: Cluster, *words: str) -> Running:
    """Begin a turn that waits in the queue: the only node that it may have takes none."""
    cluster.slurm("scontrol", "update", "nodename=n2", "state=drain", "reason=full")
    running = cluster.a.start("run", "--on", "lab:n2", "--tool", "codex", *words)
    wait_for(lambda: "waiting in the queue of lab" in running.err, "it says what it waits for")
    return running


@pytest.mark.long
def test_a_tree_over_a_cluster(cluster: Cluster) -> None:
    """20 turns on 3 nodes, 6 of them below others, are one tree here, with the usage of all."""
    a = cluster.a
    cluster.configure('code = "none"')
    prompts = [*(f"leaf {number}" for number in range(8)), *(f"nest {number}" for number in range(6))]
    cluster.play(
        {"match": "the root", "do": [["run", "".join(f"{RUN} '{prompt}' & " for prompt in prompts) + "wait"]]},
        {"match": "nest", "do": [["run", f"{RUN} 'leaf below'"], ["say", "done"]]},
        SAID,
    )
    running = a.start("run", "--tool", "codex", "the root")
    wait_for(lambda: running.process.poll() is not None, "all have ended", within_s=90)
    root = running.session_id
    assert a.run("sync", "n1", "n2", "n3").code == 0
    rows = a.run("ls", "--tree", "--json", root[:12]).json
    assert len(rows) == 21, a.run("show", root).out
    assert {row["mirror"] for row in rows} == {None, "n1", "n2", "n3"}
    assert [row["depth"] for row in rows].count(2) == 6
    assert {row["status"] for row in rows} == {"succeeded"}
    assert rows[0]["subtree"]["usage"]["output_tokens"] == sum(row["usage"]["output_tokens"] for row in rows)
    assert {a.run("result", row["id"][:20]).out for row in rows[1:]} == {"done\n"}
    assert unsettled(a) == []
    wait_for(lambda: not cluster.jobs(), "the jobs have ended")


@pytest.mark.long
def test_what_waits_and_what_runs_is_ended(cluster: Cluster) -> None:
    """TERM takes a job back, and ends a turn; nothing is left of either. What nobody waits for does not begin."""
    a, n1, n2, _ = (cluster[name] for name in ("a", "n1", "n2", "n3"))
    cluster.configure('code = "none"', "leash_s = 5")
    cluster.play(HELD, SAID)
    queued = waiting(cluster, "hello")
    queued.signal(signal.SIGTERM)
    assert queued.wait().code == 143
    assert cluster.jobs() == []
    assert unsettled(a) == []
    waiting(cluster, "hello").kill()
    cluster.slurm("scontrol", "update", "nodename=n2", "state=resume")
    wait_for(lambda: not cluster.jobs(), "the job of what was killed has ended")
    assert n2.ids(n2.home) == []

    running = a.start("run", "--on", "lab:n1", "--tool", "codex", "long")
    wait_ready(n1)
    (job,) = cluster.jobs()
    assert (job["state"], job["node"]) == ("RUNNING", "n1")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    a.run("sync", "n1")
    assert [row["status"] for row in a.run("ls", "--all-hosts", "--json").json] == ["cancelled"]
    wait_for(lambda: not cluster.jobs(), "the jobs have ended")


@pytest.mark.long
def test_code_goes_to_a_node_and_back(cluster: Cluster) -> None:
    """In the job's script; its commits come back before the job ends. What is too large for one is refused."""
    a, n1 = cluster.a, cluster["n1"]
    cluster.configure()
    cluster.play({"match": "", "do": [["run", "cat f > seen"], ["say", "done"]]})
    a.git("init", "-q")
    (a.project / "f").write_text("one\n")
    a.git("add", "f")
    a.git("commit", "-qm", "first")
    (a.project / "f").write_text("two\n")
    done = a.run("run", "--on", "lab:n1", "--tool", "codex", "--name", "w", "look")
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert a.git("show", f"refs/csa/{done.session_id}/1:seen") == "two"
    wait_for(lambda: not cluster.jobs(), "the job has ended")
    again = a.run("run", "--on", "lab", "-s", "n1:w", "--json", "again")
    assert (again.code, again.json["turn"]) == (0, 2), again.err
    (a.project / "large").write_bytes(random.randbytes(4_000_000))
    refused = a.run("run", "--on", "lab", "--tool", "codex", "look")
    assert (refused.code, "takes 4.2 MB" in refused.err) == (2, True), refused.err
    assert unsettled(a) == []
    assert len(list((n1.state_root / ".orders").iterdir())) == 2


def test_a_tree_on_a_cluster_is_killed(cluster: Cluster) -> None:
    """`kill --tree` ends all of it, and nothing is left on a node, or in the queue."""
    a, n1, n2, n3 = (cluster[name] for name in ("a", "n1", "n2", "n3"))
    cluster.configure('code = "none"', "leash_s = 20")
    cluster.play(
        {"match": "the root", "do": [["run", f"{RUN}:n1 'nest' & {RUN}:n3 'queued' & wait"]]},
        {"match": "nest", "do": [["run", f"{RUN}:n2 'long'"]]},
        HELD,
    )
    cluster.slurm("scontrol", "update", "nodename=n3", "state=drain", "reason=full")
    running = a.start("run", "--tool", "codex", "--name", "root", "the root")
    wait_ready(n2)
    wait_for(lambda: "PENDING" in [job["state"] for job in cluster.jobs()], "one waits")
    killed = a.run("kill", "--tree", "root")
    assert killed.code == 0, killed.err
    assert running.wait().code != 0
    wait_for(lambda: not cluster.jobs(), "no job is left")
    assert n3.ids(n3.home) == []
    for node in (n1, n2):
        node.wait_until_empty(within_s=10)


def test_slurm_begins_nothing_twice(cluster: Cluster) -> None:
    """A job that is put into the queue again, against what csa has asked for, does nothing the second time."""
    a = cluster.a
    cluster.configure('code = "none"', "leash_s = 20")
    cluster.play(HELD, SAID)
    running = a.start("run", "--on", "lab", "--tool", "codex", "long")
    wait_for(lambda: "RUNNING" in [job["state"] for job in cluster.jobs()], "it runs")
    (job,) = cluster.jobs()
    node = cluster[job["node"]]
    wait_ready(node)
    assert a.shell(["scontrol", "requeue", job["id"]]).code != 0
    cluster.slurm("scontrol", "update", f"jobid={job['id']}", "requeue=1")
    cluster.slurm("scontrol", "requeue", job["id"])
    wait_for(lambda: cluster.state(job["id"]) == "PENDING", "it is in the queue again")
    cluster.slurm("scontrol", "update", f"jobid={job['id']}", "starttime=now")
    wait_for(lambda: cluster.state(job["id"]) not in {"PENDING", "RUNNING"}, "it has run again", within_s=60)
    running.wait()  # as whatever Slurm's signal came to first has it: the tool's command, the tool, or csa
    (session_id,) = node.ids(node.home)
    assert node.state(session_id, node.home)["turns"] == 1
    orders = list((node.state_root / ".orders").iterdir())
    assert len(orders) == 1


def test_a_job_that_is_begun_again_on_another_node_begins_nothing(cluster: Cluster) -> None:
    """Nobody waits for it, and the other node has never heard of its order: it is Slurm that says so."""
    a, n1, n2 = (cluster[name] for name in ("a", "n1", "n2"))
    cluster.configure('code = "none"')
    cluster.play(HELD, SAID)
    assert a.run("run", "--on", "lab:n1", "--detach", "--tool", "codex", "long").code == 0
    wait_ready(n1)
    (job,) = cluster.jobs()
    cluster.slurm("scontrol", "update", f"jobid={job['id']}", "requeue=1")
    cluster.slurm("scontrol", "requeue", job["id"])
    wait_for(lambda: cluster.state(job["id"]) == "PENDING", "it is in the queue again")
    cluster.slurm("scontrol", "update", f"jobid={job['id']}", "reqnodelist=n2", "starttime=now")
    wait_for(lambda: cluster.state(job["id"]) not in {"PENDING", "RUNNING"}, "it has run again", within_s=60)
    assert cluster.slurm("squeue", "--noheader", "--states=all", f"--jobs={job['id']}", "--format=%B") == "n2"
    assert n2.ids(n2.home) == []


def fill(cluster: Cluster) -> None:
    """Let no node take what comes."""
    cluster.slurm("scontrol", "update", "nodename=n1,n2,n3", "state=drain", "reason=full")


def test_what_nobody_waits_for_is_found_by_its_name(cluster: Cluster) -> None:
    """Slurm says on which node it has begun: there it is settled. What still waits is taken back, and never begins."""
    a, n2 = cluster.a, cluster["n2"]
    cluster.configure('code = "none"')
    cluster.play(HELD, SAID)

    def killed_in_the_queue() -> Placement:
        fill(cluster)
        running = a.start("run", "--on", "lab", "--detach", "--tool", "codex", "long")
        wait_for(lambda: "waiting in the queue of lab" in running.err, "it waits")
        running.kill()
        (placement,) = unsettled(a)
        assert (placement.host, placement.state) == ("lab", "sent")
        return placement

    released = a.run("hosts", "--release", killed_in_the_queue().id)
    assert released.code == 0, released.err
    assert (cluster.jobs(), unsettled(a)) == ([], [])

    placement = killed_in_the_queue()
    cluster.slurm("scontrol", "update", "nodename=n2", "state=resume")
    wait_ready(n2)
    busy = a.run("hosts", "--release", placement.id)
    assert (busy.code, f"Session {placement.session_id} runs on n2" in busy.err) == (4, True), busy.err
    assert [each.host for each in unsettled(a)] == ["n2"]
    n2.shell(["touch", "/run/go"])
    wait_for(lambda: not cluster.jobs(), "its job has ended")
    assert a.run("hosts", "--release", placement.id).code == 0
    assert unsettled(a) == []
    assert a.run("status", "--json", placement.session_id).json["status"] == "succeeded"


def test_a_tree_is_killed_whose_job_nobody_waits_for(cluster: Cluster) -> None:
    """Its job is found by its name, and ended; the node that it is on is known then, and what was used is settled."""
    a, n2 = cluster.a, cluster["n2"]
    cluster.configure('code = "none"')
    placing = f"{RUN} --detach --allow-tokens 1000 'long'"
    cluster.play({"match": "the root", "do": [["run", f"{placing} & echo $! > /run/placing; wait"]]}, HELD, SAID)
    fill(cluster)
    running = a.start("run", "--tool", "codex", "--name", "root", "--budget-tokens", "100000", "the root")
    wait_for(lambda: "PENDING" in [job["state"] for job in cluster.jobs()], "it waits")
    a.shell(["sh", "-c", "kill -9 $(cat /run/placing)"])
    assert running.wait().code == 0
    cluster.slurm("scontrol", "update", "nodename=n2", "state=resume")
    wait_ready(n2)
    assert [each.host for each in unsettled(a)] == ["lab"]
    killed = a.run("kill", "--tree", "root")
    assert killed.code == 0, killed.err
    wait_for(lambda: not cluster.jobs(), "no job is left")
    assert [each.host for each in unsettled(a)] == ["n2"]
    assert a.run("sync", "n2").code == 0
    assert unsettled(a) == []


def test_a_ring_in_the_queue_is_opened(cluster: Cluster) -> None:
    """Two parents have both slots, and wait for sub-agents that need one: those run where their parents are."""
    a, n1, n2, _ = (cluster[name] for name in ("a", "n1", "n2", "n3"))
    cluster.configure('code = "none"', "queue_s = 1", slots=1)
    cluster.slurm("scontrol", "update", "nodename=n3", "state=drain", "reason=broken")
    cluster.play(
        {**HELD, "match": "nest", "do": [*HELD["do"], ["run", f"{RUN} 'leaf below'"], ["say", "done"]]},
        SAID,
    )
    parents = [a.start("run", "--on", "lab", "--tool", "codex", f"nest {number}") for number in range(2)]
    for node in (n1, n2):
        wait_ready(node)
        node.shell(["touch", "/run/go"])
    assert [parent.wait().code for parent in parents] == [0, 0]
    for node in (n1, n2):
        records = [node.state(session_id, node.home) for session_id in node.ids(node.home)]
        assert sorted(record["genealogy"].get("depth", 0) for record in records) == [0, 1]
        assert unsettled(node) == []
    wait_for(lambda: not cluster.jobs(), "the jobs have ended")


@pytest.mark.long
def test_nobody_says_lost_of_a_node_that_is_gone(cluster: Cluster) -> None:
    """What Slurm says has failed is `away`, until its node is there again, and says so itself."""
    a, n2 = cluster.a, cluster["n2"]
    cluster.configure('code = "none"', "leash_s = 5")
    cluster.play(HELD, SAID)
    running = a.start("run", "--on", "lab:n2", "--tool", "codex", "long")
    wait_ready(n2)
    (job,) = cluster.jobs()
    mirror = mirror_for(str(a.state_root), "n2")
    wait_for(mirror.heard_at, "it is seen here")
    n2.kill()
    wait_for(lambda: "connection to n2 is lost" in running.err, "it is noticed here", within_s=60)
    assert cluster.state(job["id"]) == "NODE_FAIL"
    make_old(mirror)
    assert a.run("ls", "--all-hosts", "--json").json[0]["status"] == "away"
    running.signal(signal.SIGTERM)
    wait_for(lambda: "n2 will be told" in running.err, "it is heeded")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    n2.start_again()
    assert a.run("sync", "n2").code == 0
    assert a.run("ls", "--all-hosts", "--json").json[0]["status"] == "lost"
