"""Schedulers as engines: the arguments of their commands, and what their output means."""

from __future__ import annotations

import base64

import pytest

from csa.model.config import SLURM, Engine
from csa.runner.hosts import slurm
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look

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
    script = slurm.script(LAB, order).decode()
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
        (1, "", "slurm_load_jobs error: Invalid job id specified\n", Look(GONE)),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", None),
    ],
)
def test_what_slurm_says_of_a_job(code: int, said: str, complaint: str, found: Look | None) -> None:
    """It waits, runs, or is gone; without an answer that is not known."""
    assert slurm.read_look(code, said, complaint) == found


def test_what_slurm_calls_a_job() -> None:
    """A number, which may be followed by a cluster, and come after a plugin's words; anything else is no job."""
    assert [slurm.handle(said) for said in ("12\n", "12;lab\n", "lua: fine\n12\n", "", "no\n")] == [
        "12",
        "12",
        "12",
        "",
        "",
    ]


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
