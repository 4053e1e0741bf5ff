"""The documentation is true to the code."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from csa.cli.commands import ALIASES, COMMANDS, find_command

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words its help differently in each version")
def test_the_command_reference_is_up_to_date() -> None:
    """docs/commands.md and docs/csa.1 are what `make docs` would write."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (DOCS / "commands.md").read_text() == generate.render()
    assert (DOCS / "csa.1").read_text() == generate.render_manual()


@pytest.fixture(scope="module")
def manual() -> str:
    """What man makes of docs/csa.1, without a complaint."""
    command = ["man", "--warnings", "-l", str(DOCS / "csa.1")]
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(not shutil.which("man"), reason="there is no man")
def test_the_man_page_renders_without_warnings(manual: str) -> None:
    """`man --warnings -l docs/csa.1` shows every command and has nothing to complain of."""
    assert "EXIT STATUS" in manual
    for command in COMMANDS:
        assert f"\n   csa {' '.join(command.words)}\n" in manual
    assert max(map(len, manual.splitlines())) <= 80


@pytest.mark.skipif(not shutil.which("man"), reason="there is no man")
def test_the_man_page_tells_what_is_easily_missed(manual: str) -> None:
    """An optional value has its equals sign, commands their other names, and csa its own options."""
    assert "\n       --wait[=S]\n" in manual
    assert "--wait S" not in manual
    assert "csa --version" in manual
    for alias, words in ALIASES.items():
        section = manual.partition(f"\n   csa {' '.join(words)}\n")[2].partition("\n   csa ")[0]
        assert re.search(rf"Other names:.*\bcsa {' '.join(alias)}[,.]", " ".join(section.split()))


def _examples() -> list[str]:
    text = "".join(document.read_text() for document in (README, *sorted(DOCS.glob("*.md"))))
    return re.findall(r"^\$ (?:.*\| )?(csa [^|>\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("line", _examples())
def test_every_example_of_the_documents_parses(line: str) -> None:
    """Each `$ csa ...` line names a command that exists, with options that it takes."""
    words = shlex.split(line, comments=True)[1:]
    command, rest = find_command(words)
    assert command, line
    command.parser().parse_args(rest)


@pytest.mark.parametrize("document", [README, *DOCS.glob("*.md")], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """A relative link names a file that exists."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target
