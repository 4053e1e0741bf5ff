"""Mutation testing of the modules whose faults cost most: mutmut changes one thing at a time, and a test has to fail.

    make mutants                                  # all modules, an hour or two
    make mutants MUTANTS="locks verdict"          # some of them
    make mutants MUTANTS="--sample 60 redaction"  # of each so many, always the same

mutmut changes functions: not the patterns and tables beside them, nor what runs when a module is imported, once.
Only tests that need no csa of their own are asked, so that what a longer test would notice may survive.
Prints a line for each module, and a diff of what survived. It works in a copy, and leaves the tree as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
UNIT, STORE, PROPERTY, ADAPTERS = "tests/unit/", "tests/store/", "tests/property/", "tests/unit/adapters/"
DECODING = (ADAPTERS + "test_recordings.py", ADAPTERS + "test_decoder_properties.py")
MODULES = {  # where it is, and the tests that are asked
    "locks": ("csa/store/locks.py", (STORE + "test_locks.py",)),
    "journal": ("csa/store/journal.py", (STORE + "test_journal.py",)),
    "verdict": ("csa/runner/turns/verdict.py", (UNIT + "test_verdict.py",)),
    "collection": (
        "csa/model/collection.py",
        (UNIT + "test_collection.py", PROPERTY + "test_collecting_properties.py"),
    ),
    "admission": (
        "csa/runner/turns/admission.py",
        (STORE + "test_admission.py", STORE + "test_slots.py", STORE + "test_trees.py"),
    ),
    "redaction": (
        "csa/model/redaction.py",
        (UNIT + "test_redaction.py", PROPERTY + "test_redaction_properties.py"),
    ),
    "codex": (
        "csa_adapters/codex_stream.py",
        (ADAPTERS + "test_codex_stream.py", ADAPTERS + "test_codex_rollout.py", *DECODING),
    ),
    "claude": ("csa_adapters/claude_stream.py", (ADAPTERS + "test_claude_stream.py", *DECODING)),
    "gemini": ("csa_adapters/gemini_stream.py", (ADAPTERS + "test_gemini_stream.py", *DECODING)),
    "opencode": ("csa_adapters/opencode_stream.py", (ADAPTERS + "test_opencode_stream.py", *DECODING)),
    "acp": ("csa_adapters/acp_stream.py", (ADAPTERS + "test_acp_stream.py", *DECODING)),
}
OUTCOMES = {0: "survived", 5: "no test", 24: "timeout", 33: "no test", 36: "timeout", None: "not run"}
SEED = 12
NOTHING = "no.such.mutant"  # asked for it, mutmut makes the mutants and measures the tests, and then complains


def prepare(place: Path, module: str, tests: tuple[str, ...]) -> None:
    """Copy what is needed, with both packages side by side, as mutmut names them."""
    skip = shutil.ignore_patterns("__pycache__")
    for source, target in (("csa", "csa"), ("adapters/csa_adapters", "csa_adapters"), ("tests", "tests")):
        shutil.copytree(REPOSITORY / source, place / target, ignore=skip)
    for kept in ("fixtures", "adapters/csa_fakes"):
        shutil.copytree(REPOSITORY / kept, place / kept, ignore=skip)
    settings = {
        "source_paths": ["csa", "csa_adapters"],
        "only_mutate": [module],
        "also_copy": ["fixtures", "adapters"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-seed=0"],
        "pytest_add_cli_args_test_selection": list(tests),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    text = (REPOSITORY / "pyproject.toml").read_text()
    (place / "pyproject.toml").write_text("\n".join([text, "[tool.mutmut]", *lines, ""]))


def mutmut(place: Path, *words: str, limit_s: float | None = None) -> str:
    """Run mutmut there, for so long at most; return what it printed."""
    command = [str(Path(sys.executable).with_name("mutmut")), *words]
    env = {**os.environ, "COLUMNS": "200"}
    try:
        done = subprocess.run(
            command, cwd=place, env=env, check=False, timeout=limit_s, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
    except subprocess.TimeoutExpired:
        return ""  # what was found out until then is kept
    if done.returncode and NOTHING not in words:
        sys.exit(f"mutmut {words[0]} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def results(place: Path, module: str) -> dict[str, int | None]:
    """Return how the tests ended under each mutant."""
    meta = json.loads((place / "mutants" / f"{module}.meta").read_text())
    found: dict[str, int | None] = meta["exit_code_by_key"]
    return found


def attack(name: str, sample: int, limit_s: float, children: int) -> None:
    """Run the mutants of one module, or some of them, and print what became of them."""
    module, tests = MODULES[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="csa-mutants-") as directory:
        place = Path(directory)
        prepare(place, module, tests)
        said = mutmut(place, "run", NOTHING)
        if f"\nFilter: ('{NOTHING}',)" not in said:
            sys.exit(f"mutmut could not begin:\n{said[-3000:]}")
        every = sorted(results(place, module))
        chosen = random.Random(SEED).sample(every, sample) if 0 < sample < len(every) else every
        mutmut(place, "run", "--max-children", str(children), *chosen, limit_s=limit_s)
        found = {key: results(place, module)[key] for key in chosen}
        counts = Counter(OUTCOMES.get(code, "killed") for code in found.values())
        words = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{name}: {len(every)} mutants, {len(chosen)} tried: {words} ({time.monotonic() - began:.0f} s)")
        for key in (key for key, code in found.items() if OUTCOMES.get(code) in {"survived", "no test"}):
            changed = [line for line in mutmut(place, "show", key).splitlines() if line[:1] in "+-" or "@@" in line]
            print(f"\n{name}: {OUTCOMES[found[key]]}: {key.rpartition('.')[2]}", *changed, sep="\n  ")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--sample", type=int, default=0, help="how many mutants of a module; all by default")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long a module may take")
    parser.add_argument("--children", type=int, default=2, help="how many run at once")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.modules if name not in MODULES]:
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    for name in arguments.modules or MODULES:
        attack(name, arguments.sample, arguments.minutes * 60, arguments.children)


if __name__ == "__main__":
    main()
