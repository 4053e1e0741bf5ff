"""Turns that a scheduler finds a host for: over stand-ins for `hq` and for a cluster, which begin real processes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count, takewhile
from pathlib import Path

import pytest

from csa.model.config import Engine
from csa.model.configkeys import HYPERQUEUE
from csa.runner.hosts import hyperqueue, kubernetes
from csa.runner.hosts.schedulers import GONE, Look
from csa.store.mirrors import mirror_for
from csa.store.placements import list_placements
from tests.cluster import Cluster, Pod
from tests.support import CSA, Done, Json, Place, Running, wait_for

pytestmark = pytest.mark.thorough
REAL_HQ = os.environ.get("CSA_REAL_HQ")
REPOSITORY = Path(__file__).parents[2]
REFUSED: Json = json.loads((REPOSITORY / "fixtures/recordings/kubernetes/v1.34.4.json").read_text())["refused"]


class Queue:
    """A HyperQueue that has a worker on n1, unless it is full; a real one if CSA_REAL_HQ names its `hq`."""

    def __init__(self, place: Place, remote: Place) -> None:
        self.place, self.remote = place, remote
        self.directory = place.tmp / "hq"
        self.directory.mkdir()
        hq = place.tmp / "bin" / "hq"
        fake = f"{sys.executable} -I -S {REPOSITORY}/fixtures/fake_hq.py"
        hq.write_text(f'#!/bin/sh\nexec {REAL_HQ or fake} "$@"\n')
        hq.chmod(0o755)
        place.env["HQ_SERVER_DIR"] = str(self.directory)
        self.servers: list[subprocess.Popen[bytes]] = []
        self.configure()
        self.play({"match": "", "do": [["say", "done"]]})
        if REAL_HQ:
            self._serve("server", "start", env=place.environment(None))
            wait_for(lambda: self.hq("server", "info").code == 0, "the server is there")
        self.empty()

    def hq(self, *words: str) -> Done:
        return self.place.shell(["hq", *words])

    def _serve(self, *words: str, env: dict[str, str]) -> None:
        argv = [str(REAL_HQ), *words]
        quiet = subprocess.DEVNULL
        self.servers.append(subprocess.Popen(argv, env=env, stdout=quiet, stderr=quiet, cwd=self.directory))

    def end(self) -> None:
        for each in reversed(self.servers):
            each.terminate()
            each.wait()

    def fill(self) -> None:
        """Let no worker be free for what comes."""
        if REAL_HQ and len(self.servers) > 1:
            worker = self.servers.pop()
            worker.terminate()
            worker.wait()
        (self.directory / "full").touch()

    def empty(self) -> None:
        (self.directory / "full").unlink(missing_ok=True)
        if REAL_HQ:
            environ = {**json.loads((self.directory / "worker").read_text()), "HQ_SERVER_DIR": str(self.directory)}
            self._serve("worker", "start", "--hostname=n1", "--cpus=4", env=environ)

    def configure(self, *lines: str) -> None:
        config = self.place.tmp / "own.toml"
        mine = ["[engines.lab]", 'kind = "hyperqueue"', 'code = "none"', f'csa = ["{CSA}"]']
        config.write_text("\n".join([*mine, *lines, ""]))
        self.place.env["CSA_CONFIG"] = str(config)

    def play(self, *rules: Json) -> None:
        """Tell the tools of n1 what to do."""
        self.remote.script(*rules)
        environ = self.remote.environment(None)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()]
        (Path(environ["HOME"]) / ".profile").write_text("".join(lines))
        (self.directory / "worker").write_text(json.dumps(environ))

    def job(self, number: int) -> Json | None:
        found: list[Json] = json.loads(self.hq("--output-mode=json", "job", "info", str(number)).out)
        return found[0] if found else None

    def states(self) -> list[str]:
        jobs = takewhile(bool, map(self.job, count(1)))
        return [job["tasks"][0]["state"] for job in jobs if job]

    def start(self, *words: str) -> Running:
        return self.place.start("run", "--on", "lab", "--tool", "codex", *words)


def waits(running: Running) -> bool:
    return "waiting in the queue" in running.err


@pytest.fixture
def queue(place: Place, remote: Place) -> Iterator[Queue]:
    queue = Queue(place, remote)
    yield queue
    queue.end()


def test_hyperqueue_finds_a_host(queue: Queue) -> None:
    """The turn is a task there, which is never begun again; its end is here, and nothing is held any more."""
    place, remote = queue.place, queue.remote
    done = place.run("run", "--on", "lab", "--tool", "codex", "--name", "auth", "hello")
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert "job 1 of lab has the turn" in done.err
    assert "codex on n1" in done.err
    assert len(remote.ids(remote.tmp / "home")) == 1
    assert place.run("result", "n1:auth").out == "done\n"
    wait_for(lambda: queue.states() == ["finished"], "the job has ended")
    job = queue.job(1)
    assert job
    assert job["submits"][0]["array"]["crash_limit"] == "never-restart"
    assert list_placements(place.state_root) == []


def test_what_waits_for_a_worker_is_taken_back(queue: Queue) -> None:
    """TERM cancels a job that waits; what was killed meanwhile does not begin, also with --detach."""
    remote = queue.remote
    queue.configure("leash_s = 5")
    queue.fill()
    first = queue.start("hello")
    wait_for(lambda: "waiting in the queue of lab (no worker is free, job 1)" in first.err, "it says what it waits for")
    first.signal(signal.SIGTERM)
    assert first.wait().code == 143
    assert queue.states() == ["canceled"]
    for words in (["hello"], ["--detach", "hello"]):
        queue.fill()
        running = queue.start(*words)
        wait_for(partial(waits, running), "it waits")
        running.kill()
        queue.empty()
        wait_for(lambda: queue.states()[-1] == "failed", "its job has ended")
    assert remote.ids(remote.tmp / "home") == []


def test_an_agent_does_not_wait_for_long(queue: Queue) -> None:
    """What an agent places, and no worker takes, runs where the agent is; the job is cancelled, and never began."""
    queue.configure("queue_s = 0.5")
    queue.fill()
    place = queue.place
    place.script(
        {"match": "parent", "do": [["run", f"{CSA} run --on lab --tool codex child"]]},
        {"match": "", "do": [["say", "x"]]},
    )
    done = place.codex("parent")
    assert done.code == 0, done.err
    assert len(place.ids()) == 2
    assert queue.states() == ["canceled"]
    assert queue.remote.ids(queue.remote.tmp / "home") == []


def test_a_server_that_is_not_there(queue: Queue) -> None:
    """Nothing has begun, and nothing is held; `csa hosts --check` says so, too."""
    place = queue.place
    place.env["HQ_SERVER_DIR"] = str(place.tmp / "none")
    done = place.run("run", "--on", "lab", "--tool", "codex", "hello")
    assert (done.code, "lab takes no order: " in done.err) == (7, True), done.err
    assert list_placements(place.state_root) == []
    assert place.run("hosts", "--check", "lab").code == 7
    queue.configure()
    place.env["CSA_CONFIG"] = str(place.tmp / "own.toml")
    (place.tmp / "own.toml").write_text('[engines.lab]\nkind = "nomad"\n')
    unknown = place.run("run", "--on", "lab", "hello")
    assert "the kinds are ssh, hyperqueue, kubernetes, slurm" in unknown.err


def test_a_worker_that_is_called_as_no_host_can_be(queue: Queue) -> None:
    """Its name would be part of a path here: nothing begins there, and nothing is written or held."""
    (queue.directory / "hostname").write_text("../../evil")
    place, remote = queue.place, queue.remote
    done = queue.start("--detach", "hello").wait()
    assert (done.code, "cannot name a host here" in done.err) == (7, True), done.err
    assert queue.states() == ["canceled"]
    assert (remote.ids(remote.tmp / "home"), list_placements(place.state_root)) == ([], [])
    assert not [*place.tmp.rglob("evil")]


def test_a_server_that_hangs_holds_up_nobody_who_wants_to_end(queue: Queue) -> None:
    """Its job begins nothing, as nobody holds it; no command that asked for it is left."""
    queue.configure("leash_s = 5")
    queue.fill()
    running = queue.start("hello")
    wait_for(partial(waits, running), "it waits")
    hq, asked = queue.place.tmp / "bin" / "hq", queue.directory / "asked"
    works = hq.read_text()
    hq.unlink()
    hq.write_text(f"#!/bin/sh\ntouch {asked}; sleep 600\n")
    hq.chmod(0o755)
    wait_for(asked.exists, "it is asked")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    assert list_placements(queue.place.state_root) == []
    hq.write_text(works)
    queue.empty()
    wait_for(lambda: queue.states()[-1] == "failed", "its job has ended")
    assert queue.remote.ids(queue.remote.tmp / "home") == []


@pytest.mark.parametrize("hangs", ["host", "both"])
def test_a_host_that_hangs_as_a_job_begins(queue: Queue, hangs: str) -> None:
    """TERM ends its job, and then the command; what may have begun stays booked, as nobody says that it has not."""
    place, asked = queue.place, queue.directory / "asked"
    queue.configure("[engines.n1]", f'reach = ["sh", "-c", "touch {asked}; exec sleep 600", "sh"]')
    running = queue.start("hello")
    wait_for(asked.exists, "the host is asked")
    hq = place.tmp / "bin" / "hq"
    works = hq.read_text()
    if hangs == "both":
        hq.write_text("#!/bin/sh\nexec sleep 600\n")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    hq.write_text(works)
    (placement,) = list_placements(place.state_root)
    assert (placement.host, placement.state) == ("n1", "sent")
    if hangs == "both":
        queue.hq("job", "cancel", "1")
    assert queue.states() == ["canceled"]


def test_what_was_killed_in_a_queue_is_given_back(queue: Queue) -> None:
    """`csa hosts --release` asks the scheduler for it: its job is cancelled, and never began."""
    queue.fill()
    running = queue.start("hello")
    wait_for(partial(waits, running), "it waits")
    running.kill()
    (placement,) = list_placements(queue.place.state_root)
    done = queue.place.run("hosts", "--release", placement.id)
    assert done.code == 0, done.err
    assert queue.states() == ["canceled"]
    assert list_placements(queue.place.state_root) == []


@pytest.mark.parametrize("words", [[], ["--detach"]])
def test_a_signal_while_an_order_is_submitted(queue: Queue, words: list[str]) -> None:
    """It is heeded at once, though the server says nothing; of what nobody holds nothing is booked, or begins."""
    hq, asked = queue.place.tmp / "bin" / "hq", queue.directory / "asked"
    works = hq.read_text()
    hq.write_text(f"#!/bin/sh\ntouch {asked}; sleep 600\n")
    running = queue.start(*words, "hello")
    wait_for(asked.exists, "it is asked")
    running.signal(signal.SIGTERM)
    hq.write_text(works)
    assert running.wait().code == 143
    assert list_placements(queue.place.state_root) == []
    assert queue.states() == []


class Pods:
    """A Kubernetes that has one node; its pods have the home and the state root of n1."""

    def __init__(self, place: Place, remote: Place) -> None:
        self.place, self.remote = place, remote
        self.cluster = Cluster(remote.env["HOME"], {})
        (place.tmp / "kubeconfig").write_text(json.dumps(self.cluster.kubeconfig()))
        place.env["KUBECONFIG"] = str(place.tmp / "kubeconfig")
        (place.tmp / "job.yaml").write_text(
            "spec:\n  backoffLimit: 6\n  template:\n    metadata: {labels: {team: a}}\n"
            "    spec:\n      containers: [{name: csa, image: agents}]\n"
        )
        self.configure('code = "none"')
        self.play({"match": "", "do": [["say", "done"]]})

    def configure(self, *lines: str) -> None:
        template = f'template = "{self.place.tmp}/job.yaml"'
        mine = ["[engines.k8s]", 'kind = "kubernetes"', template, f'csa = ["{CSA}"]', *lines, ""]
        (self.place.tmp / "own.toml").write_text("\n".join(mine))
        self.place.env["CSA_CONFIG"] = str(self.place.tmp / "own.toml")

    def play(self, *rules: Json) -> None:
        self.remote.script(*rules)
        environ = self.cluster.environ = self.remote.environment(None)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()]
        (Path(environ["HOME"]) / ".profile").write_text("".join(lines))

    def hold(self) -> None:
        self.play({"match": "", "do": [*self.remote.hold(), ["say", "done"]]})

    def start(self, *words: str) -> Running:
        return self.place.start("run", "--on", "k8s", "--tool", "codex", *words)

    def begin(self) -> tuple[Running, Pod]:
        """Begin a turn that goes on until `remote.release`."""
        self.hold()
        running = self.start("--name", "s", "long")
        self.remote.wait_ready()
        (pod,) = self.cluster.pods.values()
        return running, pod

    def wait_until_over(self) -> None:
        wait_for(lambda: all("terminated" in pod.state() for pod in self.cluster.pods.values()), "no pod runs")


@pytest.fixture
def pods(place: Place, remote: Place) -> Iterator[Pods]:
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl")
    pods = Pods(place, remote)
    yield pods
    pods.cluster.stop()


def test_a_turn_in_a_pod_is_left_here(pods: Pods) -> None:
    """It is begun once, whatever the template says; with its pod gone, its transcript and its commits are here."""
    place = pods.place
    pods.configure()
    pods.play({"match": "", "do": [["run", "cat f > seen"], ["say", "done"]]})
    for words in (["init", "-q"], ["add", "f"], ["commit", "-qm", "first"]):
        (place.project / "f").write_text("one\n")
        assert place.shell(["git", "-c", "user.name=a", "-c", "user.email=a@a", *words]).code == 0
    (place.project / "f").write_text("two\n")
    done = place.run("run", "--on", "k8s", "--tool", "codex", "--name", "auth", "hello")
    assert (done.code, done.out) == (0, "done\n"), done.err
    ((name, job),) = pods.cluster.jobs.items()
    (pod,) = pods.cluster.pods.values()
    assert name.startswith("k8s-01")
    assert (job["spec"]["backoffLimit"], job["spec"]["podReplacementPolicy"]) == (0, "Failed")
    assert pod.labels == {"team": "a", "csa-order": name}
    assert f"codex on {pod.name}" in done.err
    pods.wait_until_over()
    assert place.shell(["git", "show", f"refs/csa/{done.session_id}/1:seen"]).out == "two\n"
    assert place.run("result", f"{pod.name}:auth").out == "done\n"
    assert list_placements(place.state_root) == []
    assert [place.run(*words).code for words in (["sync"], ["hosts"], ["sync", pod.name])] == [2, 0, 7]
    gone = place.run("run", "-s", f"{pod.name}:auth", "and on")
    assert (gone.code, "a pod is gone with its turn" in gone.err) == (7, True), gone.err


def test_a_pod_that_waits_is_taken_back(pods: Pods) -> None:
    """TERM deletes the job; one that nobody waits for does not begin, also with --detach."""
    pods.configure('code = "none"', "leash_s = 5")
    pods.cluster.is_full = True
    first = pods.start("hello")
    why = "waiting in the queue of k8s (Unschedulable: 0/1 nodes are available: 1 Insufficient memory., job k8s-01"
    wait_for(lambda: why in first.err, "it says what it waits for")
    first.signal(signal.SIGTERM)
    assert first.wait().code == 143
    assert pods.cluster.jobs == {}
    for words in (["hello"], ["--detach", "hello"]):
        pods.cluster.is_full = True
        running = pods.start(*words)
        wait_for(partial(waits, running), "it waits")
        running.kill()
        pods.cluster.is_full = False
        pods.cluster.schedule()
        pods.wait_until_over()
    assert pods.remote.ids(pods.remote.tmp / "home") == []


@pytest.mark.parametrize("by", ["csa", "kubernetes"])
def test_a_turn_in_a_pod_is_cancelled(pods: Pods, by: str) -> None:
    """By TERM here, or by Kubernetes, which ends the pod: what came of it is here, and no pod runs."""
    place = pods.place
    running, pod = pods.begin()
    assert pod.process
    pod.process.send_signal(signal.SIGTERM) if by == "kubernetes" else running.signal(signal.SIGTERM)
    assert running.wait().code in {130, 143}
    pods.wait_until_over()
    assert place.run("status", "--json", f"{pod.name}:s").json["status"] == "cancelled"
    assert list_placements(place.state_root) == []


def test_a_pod_that_is_killed(pods: Pods) -> None:
    """What became of its turn is not known, and csa does not wait for it: what was seen is here, and it is away."""
    place = pods.place
    running, pod = pods.begin()
    wait_for(mirror_for(str(place.state_root), pod.name).heard_at, "it is seen here")
    pods.remote.release()
    pod.end(signal.SIGKILL)
    done = running.wait()
    assert done.code == 4, done.err
    assert f"k8s has ended job {pod.name.removesuffix('-x7k2p')} on {pod.name}" in done.err
    assert len(list_placements(place.state_root)) == 1
    assert place.run("hosts", "--release", done.session_id, "--force").code == 0


def test_a_pod_that_takes_the_place_of_another_begins_nothing(pods: Pods) -> None:
    """It has an own state root, which knows nothing of the order: csa never gives it what it gave to the first one."""
    place, remote = pods.place, pods.remote
    running, first = pods.begin()
    wait_for(mirror_for(str(place.state_root), first.name).heard_at, "it is seen here")
    remote.release()
    pods.cluster.replace(first, lambda: shutil.rmtree(remote.state_root))
    done = running.wait()
    assert (done.code, "it was begun again on" in done.err) == (4, True), done.err
    assert (pods.cluster.jobs, remote.ids(remote.tmp / "home")) == ({}, [])
    assert [each.host for each in list_placements(place.state_root)] == [first.name]


def test_a_pod_that_is_deleted_is_not_begun_again(pods: Pods) -> None:
    """Its turn ends as cancelled, and is here; a job that had one pod makes no other."""
    place = pods.place
    running, pod = pods.begin()
    pods.cluster.remove(pod)
    assert running.wait().code == 130
    assert place.run("status", "--json", f"{pod.name}:s").json["status"] == "cancelled"
    assert list_placements(place.state_root) == []
    assert pods.cluster.pods == {}
    look = kubernetes.read_look(0, json.dumps({"items": [*pods.cluster.jobs.values()]}), "")
    assert look == Look(GONE, reason="BackoffLimitExceeded: Job has reached the specified backoff limit")


def test_what_kubernetes_refuses(pods: Pods) -> None:
    """A name that is taken, a quota, a right that is missing: nothing has begun, nothing is held, and it says why."""
    place, cluster = pods.place, pods.cluster
    for reason, status in REFUSED.items():
        cluster.refusal = status
        done = pods.start("hello").wait()
        assert (done.code, "k8s takes no order: " in done.err) == (7, True), (reason, done.err)
        assert list_placements(place.state_root) == []
    cluster.refusal = None
    cluster.denied = {(b"create", b"exec")}
    checked = place.run("hosts", "--check", "k8s")
    assert (checked.code, "you may not create pods --subresource=exec" in checked.err) == (7, True), checked.err
    cluster.denied = set()
    assert place.run("hosts", "--check", "k8s").code == 0


def test_a_turn_that_nobody_waits_for_stays_for_a_while(pods: Pods) -> None:
    """A pod is there after its turn for `linger_s`, or until it was brought by somebody who held it."""
    place = pods.place
    pods.configure('code = "none"', "linger_s = 600")
    done = place.run("run", "--on", "k8s", "--detach", "--tool", "codex", "--name", "s", "hello")
    assert done.code == 0, done.err
    (pod,) = pods.cluster.pods.values()
    wait_for(
        lambda: (place.run("sync", pod.name).code, place.run("result", f"{pod.name}:s").out) == (0, "done\n"),
        "it ended",
    )
    assert "running" in pod.state()
    pods.configure('code = "none"', "linger_s = 5")
    place.run("run", "--on", "k8s", "--detach", "--tool", "codex", "hello")
    wait_for(lambda: "terminated" in [*pods.cluster.pods.values()][1].state(), "its pod has ended")


def test_a_volume_is_a_host(pods: Pods) -> None:
    """Sessions on a volume go on in another pod, by the name of the volume; a pod is no host then."""
    place = pods.place
    pods.configure('code = "none"', 'host = "vol"')
    first = place.run("run", "--on", "k8s", "--tool", "codex", "--name", "auth", "hello")
    assert (first.code, "codex on vol" in first.err) == (0, True), first.err
    again = place.run("run", "--on", "k8s", "-s", "vol:auth", "--json", "and on")
    assert (again.code, again.json["turn"], again.json["session_id"]) == (0, 2, first.session_id), again.err
    assert place.run("run", "--on", "k8s:n2", "--tool", "codex", "x").code == 2


def test_a_job_is_found_by_its_name(queue: Queue) -> None:
    """As when the scheduler's answer was lost; one that is not there is no failure, a server that is not there is."""
    queue.fill()
    lab = Engine("lab", kind=HYPERQUEUE, csa=("true",))
    for number in (1, 2):
        assert queue.place.shell([*hyperqueue.place(lab, f"csa-{number}", None)]).code == 0
    found = [queue.place.shell([*hyperqueue.find(lab, name)]) for name in ("csa-2", "csa-3")]
    assert [(each.code, hyperqueue.handle(each.out)) for each in found] == [(0, "2"), (0, "")]
    for job in ("2", "1"):
        assert queue.place.shell([*hyperqueue.cancel(lab, job)]).code == 0
    assert queue.states() == ["canceled", "canceled"]
    queue.place.env["HQ_SERVER_DIR"] = "/nowhere"
    assert queue.place.shell([*hyperqueue.find(lab, "csa-1")]).code == 1
