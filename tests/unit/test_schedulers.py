"""Schedulers as engines: the arguments of their commands, and what their output means."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from csa.errors import ConfigError, UsageError
from csa.model.config import Engine, Layer, combine_layers
from csa.model.configkeys import ENGINE_KEYS, HYPERQUEUE, KUBERNETES, SLURM
from csa.runner.hosts import hyperqueue, kubernetes, slurm
from csa.runner.hosts.engines import reach_of
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look, is_scheduler
from csa.structs import replace
from tests.support import Json

FIXTURES = Path(__file__).parents[2] / "fixtures"
LAB = Engine("lab", kind=SLURM, csa=("/opt/my csa/csa",), options=("--mem=2G", "--requeue", "--export=ALL"))


def line(state: str, host: str, status: int, reason: str) -> str:
    """Return what squeue says of a job."""
    return f"{state:32}{host:256}{status:<16}{reason:200}\n"


def test_no_option_has_a_job_begin_twice_or_take_secrets_along() -> None:
    """What the user says comes before, and Slurm takes what comes last; a node that is named is the only one."""
    argv = slurm.place(LAB, "csa-1", "n2")
    assert argv[:2] == ("sbatch", "--parsable")
    assert argv[-3:] == ("--nodelist=n2", "--no-requeue", "--export=NIL")
    assert argv.index("--mem=2G") < argv.index("--requeue") < argv.index("--export=ALL") < len(argv) - 3
    assert not [word for word in slurm.place(LAB, "csa-1", None) if "nodelist" in word]


def test_the_order_travels_in_the_script() -> None:
    """Whatever is in it: it is text there, and csa's name a word of the shell."""
    order = b'{"order": "\'EOF\\n\\u0000"}\nEND\n' + bytes(range(256)) * 100
    script = slurm.script(LAB, "csa-1", order).decode()
    head, _, rest = script.partition("<< 'END' | exec '/opt/my csa/csa' supervise --job\n")
    assert head.startswith("#!/bin/sh -l\n")
    assert base64.b64decode(rest.removesuffix("END\n")) == order


@pytest.mark.parametrize(
    ("code", "said", "complaint", "found"),
    [
        (
            0,
            line("PENDING", "n/a", 0, "(Nodes required for job are DOWN)"),
            "",
            Look(PENDING, "", "(Nodes required for job are DOWN)"),
        ),
        (0, line("CONFIGURING", "n1", 0, "None"), "", Look(PENDING, "", "Configuring")),
        (0, line("RUNNING", "n1", 0, "None"), "", Look(RUNNING, "n1")),
        (0, line("COMPLETED", "n1", 0, "None"), "", Look(GONE, "n1", "COMPLETED", 0)),
        (0, line("FAILED", "n1", 127 << 8, "NonZeroExitCode"), "", Look(GONE, "n1", "FAILED", 127)),
        (0, line("CANCELLED", "n/a", 0, "None"), "", Look(GONE, "", "CANCELLED", 0)),
        (0, line("CANCELLED", "n2", 9, "None"), "", Look(GONE, "n2", "CANCELLED", None)),
        (0, line("NODE_FAIL", "n2", 0, "NodeDown"), "", Look(GONE, "n2", "NODE_FAIL", 0)),
        (0, "", "", Look(GONE)),
        (0, "CLUSTER: west\n" + line("RUNNING", "n1", 0, "None"), "", Look(RUNNING, "n1")),
        (0, "CLUSTER: west\n", "", Look(GONE)),
        (0, "Loading modules\n" + line("PENDING", "n/a", 0, "Priority"), "", Look(PENDING, "", "Priority")),
        (0, "Loading modules\n", "", None),
        (0, line("OF A LATER VERSION", "n1", 0, "None"), "", None),
        (0, "COMPLETED|n1|0:0\n", "", Look(GONE, "n1", "COMPLETED", 0)),
        (0, "FAILED|n1|127:0\n", "", Look(GONE, "n1", "FAILED", 127)),
        (0, "CANCELLED by 1000|None assigned|0:0\n", "", Look(GONE, "", "CANCELLED", 0)),
        (0, "CANCELLED by 0|n1|0:15\n", "", Look(GONE, "n1", "CANCELLED")),
        (0, "REVOKED|None assigned|0:0\n", "", Look(GONE)),  # it may run on another cluster
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", None),
    ],
)
def test_what_slurm_says_of_a_job(code: int, said: str, complaint: str, found: Look | None) -> None:
    """It waits, runs, or is gone; without an answer that is not known."""
    assert slurm.read_look(code, said, complaint) == found


def test_what_slurm_calls_a_job() -> None:
    """A number, which may be followed by a cluster, and come after a plugin's words; anything else is no job."""
    said = ("12\n", "12;lab\n", "lua: fine\n12\n", "", "no\n", "12;a,b\n", "12;--all\n")
    assert [slurm.handle(each) for each in said] == ["12", "12;lab", "12", "", "", "", ""]


def test_a_job_of_another_cluster_is_asked_for_there() -> None:
    """Here its number is another job's, or none."""
    job = "12;west"
    for argv in (slurm.look(LAB, job), slurm.keep(LAB, job), slurm.cancel(LAB, job), slurm.reach(LAB, job)):
        assert "--clusters=west" in argv
        assert not [word for word in argv if "12;" in word]
    assert "--clusters=west" in slurm.find(replace(LAB, options=("--clusters=west", "--mem=2G")), "csa-1")


def test_no_option_makes_many_of_one_job_or_hides_it() -> None:
    """A job array would begin a turn on each node; a job of another name would not be found again."""
    for options in (("--array=1-9",), ("-a", "1-9"), ("-a1-9",)):
        with pytest.raises(ConfigError, match="one job"):
            slurm.place(replace(LAB, options=options), "csa-1", None)
    argv = slurm.place(replace(LAB, options=("--job-name=mine", "--account=a")), "csa-1", None)
    assert argv.index("--job-name=mine") < argv.index("--job-name=csa-1")


def test_a_job_that_is_begun_again_does_nothing() -> None:
    """Whoever has put it into the queue again: it may have begun on another node, which alone knows that."""
    script = slurm.script(replace(LAB, csa=("echo",)), "csa-1", b"").replace(b"cd || exit", b"cd / || exit")
    ran = [
        subprocess.run(
            ["sh"], input=script, env={"SLURM_RESTART_COUNT": count}, capture_output=True, check=False
        ).stdout
        for count in ("", "0", "1")
    ]
    assert ran == [b"supervise --job\n", b"supervise --job\n", b""]


def commands(tmp_path: Path, **scripts: str) -> dict[str, str]:
    """Return an environment whose commands are these."""
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.mark.parametrize(
    ("squeue", "sacct", "found"),
    [
        (FORGOTTEN, "echo 'COMPLETED|n2|0:0'", Look(GONE, "n2", "COMPLETED", 0)),
        ("", "echo 'COMPLETED|n2|0:0'", Look(GONE, "n2", "COMPLETED", 0)),
        (FORGOTTEN, "echo 'Slurm accounting storage is disabled' >&2; exit 1", Look(GONE)),
        ("echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1", "echo 'PENDING|None assigned|0:0'", None),
        (f"echo 'squeue: warning: old' >&2; echo '{line('RUNNING', 'n1', 0, 'None')}'", "", Look(RUNNING, "n1")),
    ],
)
def test_what_the_controller_has_forgotten(tmp_path: Path, squeue: str, sacct: str, found: Look | None) -> None:
    """Accounting has it, where there is one; it is not asked as long as the controller only does not answer."""
    env = commands(tmp_path, squeue=squeue, sacct=sacct)
    done = subprocess.run(slurm.look(LAB, "12"), capture_output=True, text=True, env=env, check=False)
    assert slurm.read_look(done.returncode, done.stdout, done.stderr) == found


@pytest.mark.parametrize(
    ("squeue", "sacct", "options", "job"),
    [
        ("echo 12", "", (), "12"),
        ("echo 'CLUSTER: west'; echo 12", "", ("--clusters=west",), "12;west"),
        ("", "echo 12", (), "12"),
        ("", "exit 1", (), ""),
    ],
)
def test_a_job_of_slurm_is_found_by_its_name(
    tmp_path: Path, squeue: str, sacct: str, options: tuple[str, ...], job: str
) -> None:
    """In the queue, or else in the accounting; without an answer it is not known."""
    env = commands(tmp_path, squeue=squeue, sacct=sacct)
    argv = slurm.find(replace(LAB, options=options), "csa-1")
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, slurm.handle(done.stdout)) == (0, job)
    commands(tmp_path, squeue="exit 1")
    assert subprocess.run(argv, capture_output=True, env=env, check=False).returncode == 1


def test_its_commands_know_nothing_of_the_job_that_we_are_in() -> None:
    """Or a step would be given that job's nodes and memory; which cluster it is they must know."""
    given = {
        "SLURM_CONF": "/c",
        "SLURM_NODELIST": "n9",
        "SBATCH_EXPORT": "ALL",
        "SLURM_MEM_PER_NODE": "1",
        "PATH": "/bin",
    }
    assert slurm.environment(given) == {"SLURM_CONF": "/c", "PATH": "/bin"}


QUEUE = Engine("lab", kind=HYPERQUEUE, options=("--cpus=2", "--server-dir=/srv/hq"))
PODS = Engine("k8s", kind=KUBERNETES, template="job.yaml", options=("--namespace=agents",))
JOB = "k8s-01m8pc0z94j0fmr849va4xbeph"


def test_hyperqueue_begins_nothing_again() -> None:
    """Where the server is, all commands are told; the rest are options of the task, and none is given twice."""
    argv = hyperqueue.place(QUEUE, "csa-1", "n2")
    assert argv[:2] == ("hq", "--server-dir=/srv/hq")
    options = argv[argv.index("submit") : argv.index("--")]
    assert {"--crash-limit=never-restart", "--cpus=2", "--resource=node/n2=1", "--stdin"} <= {*options}
    assert "--server-dir=/srv/hq" in hyperqueue.look(QUEUE, "7")
    assert hyperqueue.script(QUEUE, "csa-1", b"\0order") == b"\0order"
    said = ("Reading data from stdin. In the interactive mode press Ctrl-D to submit.\n7\n", "7\n", "", "no\n")
    assert [hyperqueue.handle(each) for each in said] == ["7", "7", "", ""]


RECORDED = json.loads((FIXTURES / "recordings/hyperqueue/hq-0.26.2.json").read_text())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("waiting", Look(PENDING, reason="no worker is free")),
        ("running", Look(RUNNING, "n1")),
        ("finished", Look(GONE, "n1", "finished")),
        ("failed", Look(GONE, "n1", "Program terminated with exit code 127.", 127)),
        ("killed", Look(GONE, "n1", "Program terminated with exit code -1. Received signal 9 (SIGKILL).")),
        ("cancelled while it waited", Look(GONE, "", "canceled")),
        ("cancelled while it ran", Look(GONE, "", "canceled")),
        (
            "its worker was lost",
            Look(GONE, "", "Task was running on a lost worker while never restart flag was set."),
        ),
        ("unknown", Look(GONE)),
        ("no server", None),
        ("no server directory", None),
    ],
)
def test_what_hyperqueue_says_of_a_job(name: str, found: Look | None) -> None:
    """As recorded: the task's worker is told by number, and its host in the list of workers."""
    recorded = RECORDED[name]
    assert hyperqueue.read_look(recorded["code"], recorded["out"], recorded["err"]) == found


def test_words_between_what_hyperqueue_says() -> None:
    """Warnings, and lines of a log that begin as JSON does, are passed over."""
    said = RECORDED["running"]["out"]
    for words in ("[2026-12-01T00:00:00Z WARN] old\n", "{module} loaded\n", "note\n"):
        assert hyperqueue.read_look(0, words + said + words, "") == Look(RUNNING, "n1")


def test_a_worker_that_has_come_since() -> None:
    """A host that is not in the list yet is asked for again."""
    said = RECORDED["running"]["out"].replace('"hostname": "n1"', '"hostname": ""')
    assert hyperqueue.read_look(0, said, "") is None
    assert hyperqueue.handle(RECORDED["submitted"]["out"]).isdecimal()
    assert hyperqueue.handle(RECORDED["given twice"]["out"]) == ""


def test_an_order_travels_in_pieces_that_the_kernel_takes() -> None:
    """Each is an argument of the pod's container; what its shell has put together is what was sent."""
    order = bytes(range(256)) * 1500
    job = json.loads(kubernetes.script(PODS, "csa-01M8PC0Z94J0FMR849VA4XBEPH", order))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert max(map(len, container["args"])) < 128 * 1024
    assert base64.b64decode("".join(container["args"][1:])) == order
    command = [word.replace("'csa' 'supervise' '--job'", "cat") for word in container["command"]]
    done = subprocess.run([*command, *container["args"]], capture_output=True, check=True)
    assert done.stdout == order
    must = json.loads(kubernetes.place(PODS, "csa-01M8PC0Z94J0FMR849VA4XBEPH", None)[5])
    once = {"parallelism": 1, "completions": 1, "backoffLimit": 0, "podReplacementPolicy": "Failed"}
    assert {name: must["spec"][name] for name in once} == once
    assert must["spec"]["podFailurePolicy"] is None  # with it a failed pod could have a successor
    assert must["metadata"]["name"] == JOB


CLUSTER: Json = json.loads((FIXTURES / "recordings/kubernetes/v1.34.4.json").read_text())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("unschedulable", Look(PENDING, reason="Unschedulable: 0/1 nodes are available: 1 Insufficient memory.")),
        ("no image", Look(PENDING, reason="ErrImageNeverPull: Container image")),
        ("creating", Look(PENDING, reason="ContainerCreating")),
        ("running", Look(RUNNING, "POD")),
        ("being deleted", Look(RUNNING, "POD")),
        ("its pod was deleted", Look(GONE, reason="BackoffLimitExceeded: Job has reached the specified backoff limit")),
        ("finished", Look(GONE, "POD", "Completed", 0)),
        ("failed", Look(GONE, "POD", "Error", 127)),
        ("killed", Look(GONE, "POD", "Error", 137)),
        ("suspended", Look(PENDING, reason="suspended")),
        ("deadline", Look(GONE, reason="DeadlineExceeded: Job was active longer than specified deadline")),
        ("no pod within the quota", Look(PENDING, reason="no pod yet")),
    ],
)
def test_what_kubernetes_says_of_a_job(name: str, found: Look) -> None:
    """As recorded, of a real cluster: it waits, runs, or is gone; without a host if it has no pod, or none any more."""
    items = CLUSTER["looks"][name]
    look = kubernetes.read_look(0, json.dumps({"items": items}), "")
    assert look
    pods = [each["metadata"]["name"] for each in items if each["kind"] == "Pod"]
    wanted = replace(found, host=pods[0]) if found.host else found
    assert look.reason.startswith(wanted.reason)
    assert replace(look, reason=wanted.reason) == wanted


def test_pods_that_never_ran() -> None:
    """A node has refused it; beside others its container has not been started."""
    waiting = {"phase": "Pending", "containerStatuses": [{"name": "istio", "state": {}}, {"name": "csa", "state": {}}]}
    refused = {"phase": "Failed", "reason": "OutOfcpu", "message": "no"}
    looks = [
        kubernetes.read_look(
            0, json.dumps({"items": [{"kind": "Pod", "metadata": {"name": "p"}, "status": status}]}), ""
        )
        for status in (waiting, refused)
    ]
    assert looks == [Look(PENDING), Look(GONE, "", "OutOfcpu: no")]


def test_a_job_of_kubernetes_without_a_pod() -> None:
    """It is suspended, or has none yet, or has failed; it is unknown; or nobody answers."""
    failed = {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}
    jobs: list[tuple[Json, Json]] = [({"suspend": True}, {}), ({}, {}), ({}, failed)]
    looks = [
        kubernetes.read_look(0, json.dumps({"items": [{"kind": "Job", "spec": spec, "status": status}]}), "")
        for spec, status in jobs
    ]
    assert looks == [
        Look(PENDING, reason="suspended"),
        Look(PENDING, reason="no pod yet"),
        Look(GONE, reason="DeadlineExceeded"),
    ]
    assert kubernetes.read_look(0, '{"items": []}', "") == Look(GONE)
    assert kubernetes.read_look(1, "", "The connection to the server localhost:8080 was refused") is None
    assert [kubernetes.handle(each) for each in ("job.batch/x\n", "", "error")] == ["x", "", ""]


def test_a_pod_is_reached_by_its_name() -> None:
    """Which begins as its engine is called; of a volume that outlives pods there is only one host."""
    table = {"kind": "kubernetes", "template": "job.yaml", "options": ["--namespace=agents"]}
    config = combine_layers([Layer("own", {"engines": {"k8s": table, "vol": {**table, "host": "volume"}}})])
    pod = config.engine(f"{JOB}-x7k2p")
    assert (pod.name, pod.job, is_scheduler(pod)) == (f"{JOB}-x7k2p", JOB, False)
    assert reach_of(pod)[:3] == ("kubectl", "--namespace=agents", "exec")
    assert [config.engine(name).job for name in ("k8s", "n1", "k8s-n1", JOB)] == ["", "", "", ""]
    assert (kubernetes.lasts(config.engine("k8s")), kubernetes.lasts(config.engine("vol"))) == (False, True)
    with pytest.raises(UsageError, match="gone with its turn"):
        kubernetes.place(config.engine("k8s"), "csa-1", pod.name)
    assert kubernetes.place(config.engine("vol"), "csa-1", "volume")
    with pytest.raises(ConfigError, match="template"):
        kubernetes.place(Engine("k8s", kind=KUBERNETES), "csa-1", None)
    with pytest.raises(ConfigError, match="is not what a job"):
        kubernetes.place(Engine("K8S", kind=KUBERNETES, template="x"), "csa-1", None)


def test_an_engine_is_what_the_keys_say() -> None:
    """The defaults are told in two places, which say the same."""
    plain = Engine("n1")
    assert {name: getattr(plain, name) for name in ENGINE_KEYS} == {
        name: key.default for name, key in ENGINE_KEYS.items()
    }
