"""What is wrong with one engine, its adapter, or what its scheduler says, is a matter of that one only."""

from __future__ import annotations

import json
import random
import shlex
import time
from contextlib import closing
from pathlib import Path

import pytest

from csa.errors import CsaError
from csa.model.config import Engine, combine_layers
from csa.model.placement import SENT, Placement
from csa.runner.hosts import fencing, jobs
from csa.runner.hosts import slurm as slurm_adapter
from csa.runner.hosts.acting import Answer
from csa.runner.hosts.answers import begun_in
from csa.runner.hosts.ending_there import kill_there
from csa.runner.hosts.engines import HostError, Link
from csa.runner.hosts.jobs import Job, UnclearError, submit
from csa.runner.hosts.scheduled import QueuedTether
from csa.store.mirrors import mirror_for
from csa.store.placements import list_placements, save_placement
from csa.store.sessions import Store, Target
from csa.structs import replace
from tests.cli.hosts import sync
from tests.cli.test_escrow import AWAY, Family
from tests.store.support import IDS
from tests.support import CSA, Place, wait_for
from tests.unit.test_schedulers import line

BROKEN = """
[csa.engines]
boom = csa_boom
hollow = json
"""
ENGINES = """
[engines.typo]
kind = "slrum"
[engines.odd]
kind = "boom"
[engines.empty]
kind = "hollow"
[engines.K8s]
kind = "kubernetes"
[engines.n1]
code = "none"
"""


@pytest.fixture
def family(place: Place) -> Family:
    return Family(place)


def test_one_that_is_wrong_is_a_failure_of_its_own(place: Place, remote: Place) -> None:
    """A kind that is misspelt, adapters that are broken or hollow, a job that may not be called so: n1 goes on."""
    packages = place.tmp / "packages"
    info = packages / "boom-1.dist-info"
    info.mkdir(parents=True)
    (packages / "csa_boom.py").write_text("raise RuntimeError('boom')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boom\nVersion: 1\n")
    (info / "entry_points.txt").write_text(BROKEN)
    (place.tmp / "own.toml").write_text(ENGINES)
    place.env |= {"CSA_CONFIG": str(place.tmp / "own.toml"), "PYTHONPATH": str(packages)}
    listed = place.run("hosts", "--json")
    assert listed.code == 0, listed
    errors = {each["host"]: each["error"] for each in listed.json}
    assert errors.pop("n1") is None
    assert [*errors] == ["typo", "odd", "empty", "K8s"]
    assert all(errors.values()), errors
    brought = place.run("sync")
    assert (brought.code, brought.out) == (6, "n1: nothing new\n"), brought
    assert brought.err.count("error: ") == 3
    for name in ("typo", "odd", "empty"):
        asked = place.run("run", "--on", name, "--tool", "codex", "hello")
        assert (asked.code, f"error: [engines.{name}]" in asked.err) == (6, True), asked
    assert place.run("run", "--tool", "codex", "hello").code == 0


def _asked(root: Path, *engines: Engine) -> dict[str, tuple[str, CsaError | None]]:
    """Have hosts kill a session each; return what is said of it."""
    targets: list[Target] = [(Store(mirror_for(str(root), each.name).pathname, "/app"), AWAY) for each in engines]
    by_name = {each.name: each for each in engines}
    done = kill_there(by_name.__getitem__, targets, ["kill", "--json"], grace_s=0.1)
    return {str(each.host): (each.outcome, each.error) for each in done}


@pytest.mark.thorough
def test_a_host_that_is_wrong_does_not_keep_others_alive(tmp_path: Path, family: Family) -> None:
    """`csa kill --tree` ends what is on the others: one is of no kind that there is, one says nonsense of an order."""
    root = family.place.state_root
    with family.reserve(10) as escrowed:
        escrowed.sent()
    mark = tmp_path / "killed"
    said = f'[{{"session_id": "{AWAY}", "project": "/app", "outcome": "killed", "status": "cancelled"}}]'
    lies = """case "$*" in *supervise*) echo '{"csa": "supervise", "protocol": 1}'; echo nonsense;; *) echo x;; esac"""
    hosts = _asked(
        root,
        Engine("n0", kind="slrum"),
        Engine("n1", reach=("sh", "-c", lies, "sh")),
        Engine("n2", reach=("sh", "-c", f"touch {mark}; echo '{said}'", "sh")),
    )
    assert (hosts["n0"][0], "no kind" in str(hosts["n0"][1])) == ("failed", True)
    assert (hosts["n1"][0], "makes no sense" in str(hosts["n1"][1])) == ("failed", True)
    assert hosts["n2"] == ("killed", None)
    assert mark.exists()
    (placement,) = list_placements(root)
    assert not placement.is_settled  # n1 has not said that it will never begin


@pytest.mark.thorough
def test_a_host_that_says_nothing_holds_up_no_other(tmp_path: Path, family: Family) -> None:
    """All are asked at once, also where something is on its way that has to be called off before."""
    with family.reserve(10) as escrowed:
        escrowed.sent()
    mark = tmp_path / "killed"
    silent = Engine("n1", reach=("sh", "-c", f"until [ -e {mark} ]; do sleep 0.05; done", "sh"))
    hosts = _asked(family.place.state_root, silent, Engine("n2", reach=("sh", "-c", f"touch {mark}", "sh")))
    assert (hosts["n1"][0], mark.exists()) == ("failed", True)


@pytest.mark.thorough
def test_what_is_on_its_way_to_a_silent_host_is_called_off_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of it within one time, however much it is; none of it is called ended."""
    monkeypatch.setattr(fencing, "_SAYS_WITHIN_S", 1.0)
    sessions = [AWAY[:-1] + str(number) for number in range(3, 9)]
    for number, session_id in enumerate(sessions):
        placement = Placement(id=AWAY[:-2] + f"A{number}", session_id=session_id, host="n1", project="/app", at="")
        save_placement(tmp_path, replace(placement, state=SENT))
    asked = tmp_path / "asked"
    silent = Engine("n1", reach=("sh", "-c", f"echo >> {asked}; exec sleep 600", "sh"))
    doubts = fencing.call_off(tmp_path, silent, sessions)
    assert (set(doubts), len(asked.read_text())) == (set(sessions), len(sessions))
    assert len(list_placements(tmp_path)) == len(sessions)


def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **scripts: str) -> Engine:
    """Return a Slurm whose commands are these."""
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Engine("lab", kind="slurm")


def test_an_order_that_cannot_be_taken_back_may_have_been_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether sbatch has failed is not known if its answer was lost; only what the queue says then makes it certain."""
    queue, state = tmp_path / "queue", tmp_path / "state"
    asked = f"""case "$*" in *--name=csa-1*) cat {queue};; *) cat {state};; esac"""
    lab = slurm(monkeypatch, tmp_path, sbatch="cat > /dev/null; exit 1", squeue="exit 1", scontrol="", scancel="")

    def refusal() -> HostError:
        with pytest.raises(HostError) as refused:
            submit(lab, b"{}", "csa-1")
        return refused.value

    assert isinstance(refusal(), UnclearError)
    slurm(monkeypatch, tmp_path, squeue=asked, scancel=f"echo '{line('CANCELLED', 'n/a', 0, 'None')}' > {state}")
    queue.touch()
    assert not isinstance(refusal(), UnclearError)
    queue.write_text("7\n")
    for job, is_certain in ((line("PENDING", "n/a", 0, "Priority"), True), (line("RUNNING", "n1", 0, "None"), False)):
        state.write_text(job)
        assert isinstance(refusal(), UnclearError) is not is_certain
        assert state.read_text().startswith("CANCELLED")


@pytest.mark.thorough
def test_a_scheduler_that_does_not_answer_may_take_an_order_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty queue says nothing then; one that has it, and gives it back, does."""
    monkeypatch.setattr(jobs, "_COMMAND_S", 2.0)
    lab = slurm(monkeypatch, tmp_path, sbatch="exec sleep 600", squeue="", scontrol="")
    with pytest.raises(UnclearError):
        submit(lab, b"{}", "csa-1")
    pending, gone = line("PENDING", "n/a", 0, "None"), line("CANCELLED", "n/a", 0, "None")
    asked = f"""case "$*" in *--name=csa-1*) echo 7;; *) cat {tmp_path}/state;; esac"""
    (tmp_path / "state").write_text(pending)
    slurm(monkeypatch, tmp_path, squeue=asked, scancel=f"echo '{gone}' > {tmp_path}/state")
    with pytest.raises(HostError) as refused:
        submit(lab, b"{}", "csa-1")
    assert not isinstance(refused.value, UnclearError)


@pytest.mark.thorough
def test_a_job_that_slurm_has_forgotten(family: Family, place: Place, remote: Place) -> None:
    """Without accounting nobody knows where it was: until one of the nodes is looked at, and has its session."""
    with family.reserve(10) as escrowed:
        escrowed.sent()
        save_placement(place.state_root, replace(escrowed.placement, host="lab"))
    (place.tmp / "own.toml").write_text('[engines.lab]\nkind = "slurm"\n')
    commands = place.tmp / "slurm"
    commands.mkdir()
    for name, script in (("squeue", ""), ("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    place.env |= {"CSA_CONFIG": str(place.tmp / "own.toml"), "PATH": f"{commands}:{place.env['PATH']}"}
    unknown = place.run("hosts", "--release", AWAY)
    assert (unknown.code, "lab knows nothing of the job" in unknown.err) == (4, True), unknown
    used = family.run_there(remote)
    sync(place)
    assert place.run("hosts", "--release", AWAY).code == 0
    assert list_placements(place.state_root) == []
    assert family.budget()["used"]["tokens"] == family.used + used


def test_an_order_is_given_to_a_command_that_is_slow_to_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is larger than a pipe holds, and the command does something else first."""
    lab = slurm(monkeypatch, tmp_path, sbatch=f"sleep 0.3; cat > {tmp_path}/script; echo 7")
    order = random.randbytes(1_000_000)
    assert submit(lab, order, "csa-1").handle == "7"
    assert (tmp_path / "script").read_bytes() == slurm_adapter.script(lab, "csa-1", order)


@pytest.mark.thorough
def test_what_slurm_may_have_taken_stays_booked(place: Place) -> None:
    """With `--detach` its turn may begin later, so that its allowance is not given back; else nobody holds it."""
    (place.tmp / "own.toml").write_text('[engines.lab]\nkind = "slurm"\ncode = "none"\n')
    commands = place.tmp / "slurm"
    commands.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (commands / name).write_text("#!/bin/sh\necho 'error: Socket timed out' >&2; exit 1\n")
        (commands / name).chmod(0o755)
    place.env |= {"CSA_CONFIG": str(place.tmp / "own.toml"), "PATH": f"{commands}:{place.env['PATH']}"}
    assert place.run("run", "--on", "lab", "--tool", "codex", "hello").code == 7
    assert list_placements(place.state_root) == []
    assert place.run("run", "--on", "lab", "--tool", "codex", "--detach", "hello").code == 7
    (placement,) = list_placements(place.state_root)
    assert (placement.host, placement.state) == ("lab", "sent")


def test_a_node_that_knows_nothing_of_an_order_may_have_lost_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The job of a detached turn could begin all the same: it is ended, and what it holds is not given back."""
    ended = tmp_path / "ended"
    error = {"code": "not_placed", "message": "It has not come.", "hint": None, "exit_code": 3}
    said = [json.dumps(each) for each in ({"csa": "supervise", "protocol": 1}, {"error": error})]
    lab = slurm(
        monkeypatch,
        tmp_path,
        sbatch="cat > /dev/null; echo 7",
        squeue=f"echo '{line('RUNNING', 'n1', 0, 'None')}'",
        scancel=f"touch {ended}",
        srun=f"printf '%s\\n' {shlex.join(said)}",
    )
    moved: list[str] = []

    def begin(*, is_detached: bool) -> QueuedTether:
        tether = QueuedTether(
            combine_layers([]),
            lab,
            AWAY,
            node=None,
            queue_s=None,
            is_detached=is_detached,
            noted=str,
            moved=moved.append,
            tell=lambda _: None,
        )
        with pytest.raises(CsaError, match="has begun on n1"):
            tether.begin({"session_id": AWAY}, passport=None, code=None, before_sending=lambda: None)
        tether.close()
        return tether

    assert (begin(is_detached=False).is_sent, ended.exists()) == (False, False)  # its job waits for who holds it
    assert (begin(is_detached=True).is_sent, ended.exists()) == (True, True)
    assert moved == ["n1", "n1"]


@pytest.mark.parametrize("kind", ["hyperqueue", "kubernetes"])
def test_a_scheduler_that_says_nonsense_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """What is not as in the versions that are known is no end of a job, and no fault."""
    slurm(monkeypatch, tmp_path, hq="""echo '[{"id": 1}] [{}]'""", kubectl="""echo '{"items": [{"kind": "Pod"}]}'""")
    with pytest.raises(HostError, match="does not answer"):
        Job(Engine("lab", kind=kind), "1").look(tries=1)


def test_of_a_command_that_takes_too_long_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What its shell has started ends, too."""
    note = tmp_path / "pid"
    lab = replace(slurm(monkeypatch, tmp_path, hq=f"sleep 60 & echo $! > {note}; wait"), kind="hyperqueue")
    with pytest.raises(HostError, match="no answer"):
        jobs.find_job(lab, "csa-1", limit_s=0.3)
    wait_for(lambda: not Path(f"/proc/{note.read_text().strip()}/fd").exists() or _is_dead(note), "it has ended")


def _is_dead(note: Path) -> bool:
    try:
        return " Z " in Path(f"/proc/{note.read_text().strip()}/stat").read_text()
    except OSError:
        return True


@pytest.mark.thorough
def test_agents_there_call_the_csa_that_was_called_there(place: Place, remote: Place) -> None:
    """It need not be on their PATH: its place is in the configuration here, and not in theirs."""
    opt = place.tmp / "opt"
    opt.mkdir()
    (opt / "csa").symlink_to(CSA)
    config = place.tmp / "own.toml"
    config.write_text(f'[engines.n1]\ncode = "none"\ncsa = ["{opt}/csa"]\n')
    place.env["CSA_CONFIG"] = str(config)
    argv = place.tmp / "argv"
    remote.play(["write-argv", str(argv)], ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    done = place.run("run", "--on", "n1", "--tool", "codex", "x")
    assert done.code == 0, done.err
    assert f"{opt}/csa run" in argv.read_text()


def test_a_host_that_does_not_greet_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is to be done there: who waits for it is told, and nothing of it is left here."""
    monkeypatch.setattr("csa.runner.hosts.engines.GREETS_WITHIN_S", 0.1)
    link = Link(Engine(name="n1", reach=("sh", "-c", "echo Welcome; exec sleep 60")), "outlet")
    with closing(link), pytest.raises(HostError, match=r"csa outlet on n1 has said nothing for 0.1 s") as failure:
        link.greeting()
    assert failure.value.hint == "csa hosts --check n1"


@pytest.mark.parametrize("project", ["/../../home/me", "/srv/app/../../x", "srv", "/a\0b", "/\ud800", 7])
def test_what_a_host_calls_a_project_leads_nowhere_else(project: object) -> None:
    """It becomes a part of a path in its mirror."""
    said = {"session_id": IDS[0], "turn": 1, "tool": "codex", "pid": 1, "project": "/srv/app"}
    assert begun_in("n1", IDS[0], said)["project"] == "/srv/app"
    with pytest.raises(HostError, match="makes no sense"):
        begun_in("n1", IDS[0], {**said, "project": project})


def test_an_answer_that_makes_no_sense_keeps_nobody_busy() -> None:
    """Each line of it could be where the answer begins."""
    began = time.process_time()
    for each in ("[]\n", "[\n", "{\n"):
        assert Answer(0, each * 1_000_000 + "x", "").json is None
    assert time.process_time() - began < 60  # it was hours
    assert Answer(0, '[motd]\n{"a": 1}\n \n', "").json == {"a": 1}
