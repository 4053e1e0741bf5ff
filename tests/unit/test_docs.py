"""The documentation is true to the code."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.acp_agents import AGENTS

from csa.cli.commands import COMMANDS, HIDDEN, command_names, find_command
from csa.model.config import Layer, combine_layers
from csa.model.configkeys import COPY_KEYS, ENGINE_KEYS, KEYS, STORE_KEYS, TOOL_KEYS
from csa.model.plan import parse_plan
from csa.model.schemas.table import OUTPUTS
from tests.schemas import check_events, check_output

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"


@pytest.fixture(scope="module")
def generate() -> Any:
    """The module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words its help differently in each version")
def test_the_command_reference_is_up_to_date(generate: Any) -> None:
    """docs/commands.md and docs/man are what `make docs` would write."""
    assert (DOCS / "commands.md").read_text() == generate.render()
    assert {path: path.read_text() for path in (DOCS / "man").iterdir()} == generate.render_manuals()


def test_the_keys_of_the_configuration_are_up_to_date(generate: Any) -> None:
    """docs/configuration.md ends with what `make docs` would write: every key, and what a project may do with it."""
    text = (DOCS / "configuration.md").read_text()
    assert text == generate.render_configuration()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (sets|tightens|no) \|", text, re.MULTILINE))
    assert rows.keys() == {*KEYS, *TOOL_KEYS, *ENGINE_KEYS, *COPY_KEYS, *STORE_KEYS}
    assert (rows["tool"], rows["max_depth"], rows["command"]) == ("sets", "tightens", "no")


def test_the_page_on_the_api_is_up_to_date(generate: Any) -> None:
    """`make docs` would change nothing."""
    assert (DOCS / "http-api.md").read_text() == generate.render_api()


def test_the_page_on_plans_is_up_to_date(generate: Any) -> None:
    """docs/plans.md ends with what `make docs` would write, and its plans are such; one is that of the playground."""
    text = (DOCS / "plans.md").read_text()
    assert text == generate.render_plans()
    plans = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    whole = [plan for plan in plans if "[task.docs]" in plan]
    for plan in whole:
        parse_plan(tomllib.loads(plan), place="plans.md", read=str)
    assert (DOCS.parent / "adapters/csa_fakes/demo/plan.toml").read_text() in whole


def test_the_page_on_json_is_up_to_date(generate: Any) -> None:
    """docs/json.md ends with what `make docs` would write, and its examples are what the schemas say."""
    assert (DOCS / "json.md").read_text() == generate.render_json()
    examples = json.loads((DOCS / "examples.json").read_text())
    assert examples.keys() == OUTPUTS.keys()
    for words, value in examples.values():
        if isinstance(value, list) and words[0] == "logs":
            check_events(value)
        else:
            check_output(words, value)


def test_the_table_of_agents_is_the_one_in_the_code() -> None:
    """docs/acp-transport.md names each agent that is known by name, its command line, and where that was read."""
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \| (.+) \|$", (DOCS / "acp-transport.md").read_text(), re.MULTILINE)
    known = {name: agent for name, agent in AGENTS.items() if agent.program}
    assert {row[0]: row[1:] for row in rows if row[0] in known} == {
        name: (" ".join((agent.program, *agent.words)), agent.source) for name, agent in known.items()
    }


def _config_files() -> list[str]:
    texts = "".join((DOCS / name).read_text() for name in ("configuration.md", "limits.md", "acp-transport.md"))
    return re.findall(r"^```toml\n(.*?)^```", texts, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", _config_files(), ids=lambda text: text.partition("\n")[0])
def test_every_example_of_a_config_file_is_accepted(text: str) -> None:
    """It loads, in a project's place where it is a project's, and every value that it sets is then in force."""
    layer = Layer("example", tomllib.loads(text), is_project=text.startswith("# <project>"))
    in_force = combine_layers([layer]).values
    assert set(layer.values) - {"tools"} <= {key for key, (_, origin) in in_force.items() if origin == "example"}


@pytest.fixture(scope="module")
def manuals() -> dict[str, str]:
    """What man makes of the pages in docs/man, each without a complaint."""
    if not shutil.which("man"):
        pytest.skip("there is no man")
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPATH": ""}
    made = {}
    for page in sorted((DOCS / "man").iterdir()):
        if page.read_text().startswith(".so "):
            continue
        command = ["man", "--warnings", "-l", str(page)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=True)
        assert done.stderr == "", page.name
        made[page.stem] = done.stdout
    return made


@pytest.mark.thorough
def test_the_man_pages_render_without_warnings(manuals: dict[str, str]) -> None:
    """There is one for each command, and csa(1) names them all; nothing is wider than the terminal."""
    for command in COMMANDS:
        title = f"csa-{command.name.replace(' ', '-')}"
        assert f"{title}(1)" in manuals["csa"]
        assert command.summary in " ".join(manuals[title].split())
    assert "EXIT STATUS" in manuals["csa"]
    assert max(len(line) for text in manuals.values() for line in text.splitlines()) <= 80


@pytest.mark.thorough
def test_the_man_pages_tell_what_is_easily_missed(manuals: dict[str, str]) -> None:
    """An optional value has its equals sign, commands their other names, and csa its own options."""
    assert "\n       --wait[=S]\n" in manuals["csa-run"]
    assert "--wait S" not in manuals["csa-run"]
    assert "csa --version" in manuals["csa"]
    for name, command in command_names().items():
        if command in HIDDEN:
            continue
        page = " ".join(manuals[f"csa-{command.name.replace(' ', '-')}"].split())
        assert name == command.name or re.search(rf"Other names:.*\bcsa {name}[,.]", page)


def _examples() -> list[list[str]]:
    text = "".join(document.read_text() for document in (README, *sorted(DOCS.rglob("*.md")))).replace("\\\n", " ")
    scripts = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^\$ (.*)$", text, re.MULTILINE) + scripts.splitlines()
    return [words for line in lines if "csa " in line for words in _calls_in(line)]


def _calls_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_between, found in groupby(lexer, lambda word: set(word) <= set("|;&<>()")):
        words = list(dropwhile(lambda word: word in {"do", "then"}, found))
        if not is_between and words[:1] == ["csa"]:
            yield words[1:]


@pytest.mark.parametrize("words", _examples(), ids=" ".join)
def test_every_example_of_the_documents_parses(words: list[str]) -> None:
    """Each `csa ...` of a document names a command that exists, with options that it takes."""
    command, rest = find_command(words)
    assert command, words
    command.parser().parse_args(rest)


@pytest.mark.parametrize("document", [README, *DOCS.rglob("*.md")], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """A relative link names a file that exists, and a heading of it."""
    for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", document.read_text()):
        file = document.parent / target
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file.read_text()), f"{target}#{anchor}"


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_readme_names_the_versions_that_are_tested() -> None:
    """They are those of the Makefile."""
    versions = re.findall(r"^\w+_VERSION := (.*)$", (DOCS.parent / "Makefile").read_text(), re.MULTILINE)
    (line,) = re.findall(r"^- \*\*Tested with\*\* (.*)", README.read_text(), re.MULTILINE)
    assert re.findall(r"[\d.]+\d", line) == versions


def _triples(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + 3]) for place in range(len(words) - 2)}


def _strings(module: Path) -> Iterator[str]:
    nodes = ast.walk(ast.parse(module.read_text()))
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.thorough
def test_the_messages_that_are_explained_are_those_of_csa() -> None:
    """In docs/troubleshooting.md each message of csa's own has words in a row that stand so in the code."""
    modules = [*(DOCS.parent / "csa").rglob("*.py"), *(DOCS.parent / "adapters/csa_adapters").rglob("*.py")]
    known = set().union(*(_triples(text) for module in modules for text in _strings(module)))
    text = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^(?:error|warning): (?!\S+ failed \()(.*)", text, re.MULTILINE)  # those are the provider's
    assert len(messages) > 10
    texts = [re.sub(r"(?<= )'[^']*'\.?", "'", message) for message in messages]
    assert [text for text in texts if not _triples(text) & known] == []


@pytest.mark.thorough
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs what make site installs")
def test_the_site_is_built_from_these_files_alone(tmp_path: Path) -> None:
    """Every page has its place, every link and anchor leads somewhere, and no page fetches anything from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=DOCS.parent, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.glob("*.html"):
        assert re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.https?:[^>]*", page.read_text()) == []


def test_the_pins_are_versions_and_cover_the_build() -> None:
    """constraints.txt, as CONTRIBUTING.md says, pins all that is needed, building csa included, and names no place."""
    lines = (DOCS.parent / "constraints.txt").read_text().splitlines()[1:]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    needed = project["build-system"]["requires"] + project["project"]["dependencies"]
    needed += project["project"]["optional-dependencies"]["dev"]
    needed += project["project"]["optional-dependencies"]["docs"]
    names = {re.split(r"[^\w.-]", name)[0] for name in needed} - {"csa"}  # with an extra
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in names} <= pinned


def test_the_files_that_are_named_exist() -> None:
    """docs/architecture.md names files from the checkout, its packages, or beside the one named before."""
    repository = DOCS.parent
    named = set(re.findall(r"`([\w/]+\.py)`", (DOCS / "architecture.md").read_text()))
    layers = ("runner", "runner/turns", "runner/sessions", "runner/copies", "store", "cli", "cli/views")
    places = ["", "csa", "adapters", "adapters/csa_adapters", *(f"csa/{layer}" for layer in layers)]
    missing = [name for name in named if not any((repository / place / name).is_file() for place in places)]
    assert len(named) > 80
    assert missing == []
