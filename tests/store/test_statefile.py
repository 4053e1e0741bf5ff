"""state.toml on disk: read strictly, written whole or not at all, and never repaired by a reader."""

import os
import stat
import tomllib
from pathlib import Path

import pytest

from csa.errors import StateError
from csa.model.state import ToolState
from csa.store.atomic import write_atomically
from csa.store.sessions import Store
from csa.store.statefile import load_state, save_state
from csa.structs import replace
from tests.conftest import ForeignWriter
from tests.store.support import IDS, NOON, child, finished_session, make_state

ID = IDS[0]
GOOD = f"""meta_session_id = "{ID}"
project_path = "/p"
created_at = 2024-02-06T10:00:00Z
last_accessed = "2024-02-06T14:30:00Z"
"""


def test_a_foreign_record_is_loaded(write_foreign: ForeignWriter, store: Store) -> None:
    """A minimal record with times as strings is a session like any other."""
    write_foreign(ID, times=('"2024-02-06T10:00:00Z"', '"2024-02-06T14:30:00.5+01:00"'), tools={"codex": {"cwd": "/p"}})
    state = store.load(ID)
    assert (state.session_id, state.last_tool, state.schema) == (ID, "codex", None)
    assert state.last_accessed.isoformat() == "2024-02-06T13:30:00.500000+00:00"


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        (GOOD.encode() + b"phase = \n", 5, "not TOML"),
        (GOOD.encode()[:-10], 4, "not TOML"),
        (GOOD.encode() + b"name = 'a'\nname = 'b'\n", None, "not TOML"),
        (GOOD.encode() + b"# caf\xe9\n", 5, "not UTF-8"),
        (GOOD.replace(ID, "01JH").encode(), 1, "meta_session_id"),
        (GOOD.encode() + b"turns = 'x'\n", 5, "turns"),
        (GOOD.encode() + b"\n[genealogy]\ndepth = -3\n", 7, "depth"),
        (b"", None, "meta_session_id: is missing"),
        (b"\0" * 64, 1, "not TOML"),
        (GOOD.replace(ID, IDS[1]).encode(), None, "not its directory's name"),
        (b"#" * ((1 << 20) + 1), None, "long"),
        (b"x = " + b"[" * 5000, None, "TOML|nested"),
        (GOOD.encode() + b"[usage]\ninput_tokens = 'many'\n", 6, "input_tokens"),
    ],
    ids=["toml", "cut", "twice", "utf8", "id", "type", "depth", "empty", "nul", "other", "huge", "deep", "usage"],
)
def test_damage_is_named_by_file_and_line(
    write_foreign: ForeignWriter, store: Store, content: bytes, line: int | None, part: str
) -> None:
    """What is wrong is said with its place, the session is listed as damaged, and the file stays byte for byte."""
    paths = write_foreign(ID, text="")
    paths.state.write_bytes(content)
    before = (content, paths.state.stat().st_mtime_ns)
    with pytest.raises(StateError, match=part) as caught:
        load_state(paths.state)
    assert caught.value.path == paths.state
    assert str(paths.state) in str(caught.value)
    if line is not None:
        assert caught.value.line == line
        assert f"line {line}" in str(caught.value)
    record = store.record(ID)
    assert (record.state, record.status) == (None, "damaged")
    assert record.fault is not None
    with pytest.raises(StateError):
        save_state(paths.state, make_state(ID, store.project))
    assert (paths.state.read_bytes(), paths.state.stat().st_mtime_ns) == before


def test_a_newer_schema_is_refused_with_a_hint(write_foreign: ForeignWriter) -> None:
    """A record of a newer csa is not read, and the hint says what to do."""
    paths = write_foreign(ID, text="schema = 3\n" + GOOD)
    with pytest.raises(StateError, match="newer csa") as caught:
        load_state(paths.state)
    assert (caught.value.hint, caught.value.exit_code) == ("upgrade csa", 6)


def test_a_missing_or_unreadable_record(write_foreign: ForeignWriter) -> None:
    """A session directory without a record is damaged, not empty."""
    paths = write_foreign(ID)
    paths.state.unlink()
    with pytest.raises(StateError, match="No such file"):
        load_state(paths.state)
    paths.state.mkdir()
    with pytest.raises(StateError, match="directory"):
        load_state(paths.state)


def test_a_foreign_record_keeps_what_it_says(write_foreign: ForeignWriter) -> None:
    """Writing keeps unknown keys, comments and the strings that times are."""
    text = f"""# by another program
meta_session_id = "{ID}"
project_path = "/p"  # here
created_at = "2024-02-06T10:00:00Z"
last_accessed = "2024-02-06T14:30:00Z"
colour = "blue"

[genealogy]
depth = 0
twin = "x"

[tools.codex]
provider_session_id = "t"
mood = [1, 2]

[vendor.nested]
key = 1
"""
    paths = write_foreign(ID, text=text)
    state = load_state(paths.state)
    tools = {"codex": replace(state.tools["codex"], last_exit_code=0), "claude-code": ToolState(cwd="/p")}
    save_state(paths.state, replace(state, turns=1, last_accessed=NOON, tools=tools))
    written = paths.state.read_text()
    record = tomllib.loads(written)
    expected = replace(state, turns=1, last_accessed=NOON, tools=tools, schema=1)
    assert replace(load_state(paths.state), usage=state.usage) == expected
    assert "# by another program" in written
    assert 'project_path = "/p"  # here' in written
    assert (record["colour"], record["genealogy"]["twin"], record["vendor"]) == ("blue", "x", {"nested": {"key": 1}})
    assert record["tools"]["codex"] == {
        "provider_session_id": "t",
        "mood": [1, 2],
        "last_exit_code": 0,
        **_rest(record),
    }
    assert isinstance(record["last_accessed"], str)
    assert 'created_at = "2024-02-06T10:00:00Z"' in written


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("tools.codex.last_exit_code = 0\ntools.codex.mood = 1\n", ""),
        ("", "tools.codex.last_exit_code = 0\ntools.codex.mood = 1\ncolour = 'blue'\n"),
        ("tools = {codex = {last_exit_code = 0, mood = 1}}\n", ""),
        ("", "[tools]\ncodex = {last_exit_code = 0, mood = 1}\n"),
        ("", "tools.codex.mood = 1\n[budget]\nnote = 'mine'\n[limits]\nnote = 'mine'\n"),
    ],
    ids=["dotted", "dotted-last", "inline", "inline-in-table", "unknown-in-known"],
)
def test_tables_of_any_style_are_kept(write_foreign: ForeignWriter, before: str, behind: str) -> None:
    """However another program writes its tables, a save loses none of its keys, and moves none into another table."""
    paths = write_foreign(ID, text=f"{before}{GOOD}{behind}")
    old = tomllib.loads(paths.state.read_text())
    state = load_state(paths.state)
    save_state(paths.state, replace(state, pinned=True, tools={**state.tools, "claude-code": ToolState(cwd="/p")}))
    new = tomllib.loads(paths.state.read_text())
    assert load_state(paths.state).tools["claude-code"].cwd == "/p"
    assert (new["meta_session_id"], new["pinned"], new["tools"]["codex"]["mood"]) == (ID, True, 1)
    assert {key: new.get(key) for key in ("budget", "limits", "colour")} == {
        key: old.get(key) for key in ("budget", "limits", "colour")
    }


def _rest(record: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
    codex = record["tools"]["codex"]
    return {key: codex[key] for key in ("last_action_summary",) if key in codex}


def test_killed_at_any_instant_a_record_is_whole(store: Store) -> None:
    """However often a writer is killed, state.toml is the old record or the new one."""
    finished_session(store, ID)
    path = store.paths(ID).state
    code = """
        from csa.structs import replace
        from csa.store.statefile import load_state, save_state
        path = Path(args[0])
        state = load_state(path)
        say()
        at = state.turns
        while True:
            at += 1
            save_state(path, replace(state, turns=at, description=str(at) * 500))
            if at % int(args[1]) == 0:
                say(at)
    """
    for every in (1, 2, 3, 5, 7):
        with child(code, path, every) as writer:
            assert writer.hear() == "ready"
            acknowledged = int(writer.hear())
            writer.kill()
        state = load_state(path)
        assert state.turns >= acknowledged
        assert state.description == str(state.turns) * 500


def test_readers_during_writes_see_whole_records(store: Store) -> None:
    """Reading while another process writes never meets half a file."""
    finished_session(store, ID)
    path = store.paths(ID).state
    code = """
        from csa.structs import replace
        from csa.store.statefile import load_state, save_state
        path = Path(args[0])
        state = load_state(path)
        say()
        for at in range(60):
            save_state(path, replace(state, turns=at, description=str(at) * 500))
        say("over")
        wait()
    """
    with child(code, path) as writer:
        assert writer.hear() == "ready"
        state = load_state(path)
        while state.turns != 59:
            state = load_state(path)
            assert state.turns == 1 or state.description == str(state.turns) * 500 or state.description == "work"
        assert writer.hear() == "over"


def test_a_full_disk_keeps_the_old_record(store: Store) -> None:
    """A write that fails raises, and leaves the old content and no temporary file."""
    finished_session(store, ID)
    path = store.paths(ID).state
    before = path.read_bytes()
    code = """
        import resource, signal
        from csa.structs import replace
        from csa.store.statefile import load_state, save_state
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path = Path(args[0])
        state = load_state(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            save_state(path, replace(state, description="x" * 5000))
        except OSError as error:
            say(type(error).__name__)
    """
    with child(code, path) as writer:
        assert writer.hear() == "OSError"
    assert path.read_bytes() == before
    assert [name for name in os.listdir(path.parent) if "tmp" in name] == []


def test_a_written_file_is_private_and_replaces_links(tmp_path: Path) -> None:
    """An atomic write makes a new file of mode 0600, and what shared the old one is not touched."""
    path = tmp_path / "file"
    path.write_text("old")
    os.link(path, tmp_path / "other")
    write_atomically(path, b"new")
    assert (path.read_text(), (tmp_path / "other").read_text()) == ("new", "old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
