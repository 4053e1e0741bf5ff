"""Turns on a cluster: `csa run --on lab`, over a real Slurm."""

from __future__ import annotations

import pytest

from tests.realslurm import Cluster

pytestmark = pytest.mark.thorough


def test_slurm_finds_a_node(cluster: Cluster) -> None:
    a = cluster.a
    cluster.configure('code = "none"')
    cluster.play(
        {"match": "", "do": [["run", "hostname > /run/where; env > /run/env; pwd >> /run/where"], ["say", "hi"]]}
    )
    import time

    t = time.time()
    done = a.run("run", "--on", "lab", "--tool", "codex", "hello")
    print(done.code, done.out, done.err, time.time() - t)
    for n in cluster.nodes:
        print(
            n.name,
            n.shell(["cat", "/run/where"]).out,
            [l for l in n.shell(["cat", "/run/env"]).out.splitlines() if "CSA" in l or "HOME" in l],
        )
    print(a.run("ls", "--all-hosts").out)
    print(a.run("hosts").out)
    t = time.time()
    while cluster.jobs():
        time.sleep(0.1)
    print("job gone", time.time() - t)
    print(a.run("hosts", "--placed").out)
    assert done.code == 0
