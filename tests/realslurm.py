"""A cluster of its own for tests: a real Slurm over hosts of realhosts.py; its controller is `a`, its nodes n1 to n3.

    def test_x(cluster: Cluster) -> None:
        a, (n1, n2, n3) = cluster.a, cluster.nodes
        cluster.configure("queue_s = 2")  # of csa on each host: [engines.lab]
        cluster.play({"match": "", "do": [["say", "hi"]]})
        a.run("run", "--on", "lab", "hello")
        cluster.wait_for_state("n3", "DOWN")

Jobs begin as their login shell does: `~/.profile` of each host sets its `env`.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.realhosts import Host, Hosts
from tests.support import CSA, Json, wait_for

FETCHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-slurm"
NODES = ("n1", "n2", "n3")
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
SLOTS, MEMORY_A_TURN = 8, 100  # turns at once on a node, unless a test says otherwise
_DAEMONS = ("slurmctld-wlm", "slurmd-wlm")
_NEEDED_S = 30.0
_CONF = """ClusterName=tests
SlurmctldHost=a({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
StateSaveLocation={state}
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={state}/controller.log
SlurmdLogFile={state}/node.log
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2,sched_min_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=6
MessageTimeout=3
MailProg=/bin/true
KillWait=2
InactiveLimit=0
JobRequeue=1
Licenses=codex:20
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
_NODE = "NodeName={name} NodeAddr={address} CPUs=64 RealMemory={memory} State=UNKNOWN"
_CALL = """#!/bin/sh
export SLURM_CONF={conf} LD_LIBRARY_PATH={libraries}
exec {program} "$@"
"""


class Cluster:
    """A controller and its nodes, all up."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.a, *self.nodes = hosts.up("a", *NODES)
        (libraries,) = FETCHED.glob("usr/lib/*-linux-gnu")
        plugins = libraries / "slurm-wlm"
        self._words = {"libraries": f"{libraries}:{plugins}", "conf": hosts.same / "slurm.conf"}
        memory = SLOTS * MEMORY_A_TURN
        nodes = [_NODE.format(name=node.name, address=node.address, memory=memory) for node in self.nodes]
        words = {"controller": self.a.address, "plugins": plugins, "state": hosts.same, "nodes": "\n".join(nodes)}
        for host in (self.a, *self.nodes):
            self._furnish(host, _CONF.format(**words))
        self._begin(self.a, "slurmctld")
        for node in self.nodes:
            self._begin(node, "slurmd")
        self.wait_for_state("n1", "IDLE")
        self.wait_for_state("n2", "IDLE")
        self.wait_for_state("n3", "IDLE")

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def configure(self, *lines: str, slots: int = SLOTS) -> None:
        """Write the configuration of csa on all hosts: the engine `lab`, with so many slots a node, and these lines."""
        memory = SLOTS * MEMORY_A_TURN // slots
        mine = ["[engines.lab]", 'kind = "slurm"', f'options = ["--mem={memory}"]', f'csa = ["{CSA}"]']
        for host in (self.a, *self.nodes):
            path = host.home / ".config" / "csa" / "config.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*mine, *lines, ""]))

    def play(self, *rules: Json) -> None:
        """Tell the fakes of all hosts what to do, wherever a turn begins."""
        for host in (self.a, *self.nodes):
            host.script(*rules)
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in host.env.items()]
            (host.home / ".profile").write_text("".join(lines))

    def slurm(self, *words: str) -> str:
        """Run a command of Slurm on `a`, which must succeed."""
        done = self.a.shell([*words])
        assert done.code == 0, done.err
        return done.out.strip()

    def jobs(self) -> list[Json]:
        """Return the jobs that wait or run: `id`, `name`, `state`, `node`."""
        lines = self.slurm("squeue", "--noheader", "--format=%i|%j|%T|%B").splitlines()
        return [dict(zip(("id", "name", "state", "node"), line.split("|"), strict=True)) for line in lines]

    def state(self, job: str) -> str:
        """Return the state of a job, which may have ended."""
        return self.slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def wait_for_state(self, node: str, state: str) -> None:
        wait_for(lambda: self._state(node).startswith(state), f"{node} is {state}", within_s=_NEEDED_S)

    def _state(self, node: str) -> str:
        done = self.a.shell(["sinfo", "--noheader", f"--nodes={node}", "--format=%T"])
        return done.out.strip().upper()

    def _furnish(self, host: Host, conf: str) -> None:
        (host.tmp / "same" / "slurm.conf").write_text(conf)
        (host.tmp / "bin").mkdir(exist_ok=True)
        for name in (*COMMANDS, *_DAEMONS):
            program = FETCHED / "usr" / ("bin" if name in COMMANDS else "sbin") / name
            call = host.tmp / "bin" / name
            call.write_text(_CALL.format(program=program, **self._words))
            call.chmod(0o755)
        if not host.env["PATH"].startswith(f"{host.tmp}/bin:"):
            host.env["PATH"] = f"{host.tmp}/bin:{host.env['PATH']}"

    def _begin(self, host: Host, what: str) -> None:
        """Start one of the daemons, which is nobody's: without our environment."""
        own = ["-d", str(FETCHED / "usr/sbin/slurmstepd-wlm")] if what == "slurmd" else []
        argv = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", str(host.tmp / "bin" / f"{what}-wlm"), *own]
        done = host.shell(argv)
        assert done.code == 0, done.err


@pytest.fixture
def cluster(hosts: Hosts) -> Cluster:
    """A cluster with `SLOTS` slots on each of three nodes; skips where Slurm was not fetched."""
    if not (FETCHED / "usr/sbin/slurmctld-wlm").exists():
        reason = FETCHED / "reason"
        pytest.skip(reason.read_text().strip() if reason.exists() else "make slurm fetches Slurm")
    return Cluster(hosts)
