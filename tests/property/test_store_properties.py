"""The store against naive models: selectors, records, genealogy, the journal."""

import json
import os
import tempfile
import tomllib
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from csa.errors import AmbiguousError, NotFoundError, UsageError
from csa.ids import is_session_id, unique_prefix_length
from csa.model.genealogy import build_forest, walk
from csa.model.limits import Budget, Limits
from csa.model.redaction import Redactor
from csa.model.state import SessionState, ToolState, parse_state, render_state
from csa.model.usage import Usage
from csa.runner.client import Csa
from csa.runner.current import find_pointer, make_current
from csa.store.journal import Journal
from csa.store.sessions import Store
from csa.store.tomlfile import edit_toml, render_toml
from csa.store.transcript import read_events, read_events_backwards
from csa.structs import replace
from tests.effort import examples

PLAIN = Redactor()
_ID = st.builds(
    lambda head, tail: "01JH4QWERT" + "0" * 10 + head + tail, *[st.text("0123ABZ", min_size=3, max_size=3)] * 2
)
_FAR_ID = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=25, max_size=25).map(lambda tail: "0" + tail)
_CURRENT = "01JH4QWERT1234567890ABCDEF"
_IDS = st.lists(st.one_of(_ID, _FAR_ID), max_size=12, unique=True)


@given(_IDS, st.integers(1, 12))
def test_unique_prefixes_are_unique(ids: list[str], minimum: int) -> None:
    """A shown prefix means its session and no other, and one character less would not, unless the minimum rules."""
    ordered = sorted(ids)
    for session_id in ids:
        length = unique_prefix_length(session_id, ordered, minimum=minimum)
        assert minimum <= length <= max(26, minimum)
        assert [other for other in ids if other.startswith(session_id[:length])] == [session_id]
        if length > minimum:
            assert len([other for other in ids if other.startswith(session_id[: length - 1])]) > 1


def expected_matches(ids: list[str], selector: str) -> list[str]:
    wanted = selector.strip().upper()
    return sorted(session_id for session_id in ids if session_id.startswith(wanted))


@examples(80)
@given(_IDS, st.data())
def test_selectors_against_a_naive_model(ids: list[str], data: st.DataObject) -> None:
    """A selector in any case means the one id that begins so; else it is an error that knows all matches."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place), Path("/p"))
        for session_id in ids:
            store.paths(session_id).root.mkdir(parents=True)
        Path(store.sessions_dir).mkdir(parents=True, exist_ok=True)
        for stray in (".new-" + (ids[0] if ids else "x"), "notes.txt", "01J", ids[0].lower() if ids else "0"):
            (Path(store.sessions_dir) / stray).touch()
        drawn = data.draw(st.sampled_from([*ids, "01JH4QWERT", "0", "7", " ", ""]))
        selector = drawn[: data.draw(st.integers(0, 27))]
        selector = data.draw(st.sampled_from([selector, selector.lower(), f" {selector} ", selector.swapcase()]))
        matches = expected_matches(ids, selector)
        if not selector.strip():
            with pytest.raises(UsageError):
                store.resolve(selector)
        elif len(matches) == 1:
            assert store.resolve(selector) == matches[0]
        elif matches:
            with pytest.raises(AmbiguousError) as caught:
                store.resolve(selector)
            assert sorted(line.split()[0] for line in caught.value.matches) == matches
        else:
            with pytest.raises(NotFoundError):
                store.resolve(selector)


# Records

_WORD = st.text("abcxyz", min_size=1, max_size=5)
_SCALAR = st.one_of(
    st.integers(-100, 100),
    st.booleans(),
    st.text(max_size=8).filter(lambda text: text.isprintable()),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC)),  # noqa: DTZ001
)
_UNKNOWN = st.dictionaries(
    _WORD.map(lambda word: "x_" + word), st.one_of(_SCALAR, st.lists(st.integers(), max_size=3)), max_size=3
)
_NOW = datetime(2024, 2, 6, 12, tzinfo=UTC)
ID = "01JH4QWERT1234567890ABCDEF"


def foreign_text(draw: st.DataObject) -> str:
    """Write a foreign record with unknown keys and comments wherever they may stand."""

    def line(key: str, value: str) -> str:
        return f"{key} = {value}" + draw.draw(st.sampled_from(["", "  # why", " # é"]))

    def unknown() -> list[str]:
        found = draw.draw(_UNKNOWN)
        return [tomlkit.dumps({key: value}).strip() for key, value in found.items()] + draw.draw(
            st.sampled_from([[], ["# a comment"], ["", "# two", "# lines"]])
        )

    quote = draw.draw(st.sampled_from(["", '"']))
    lines = ["# written elsewhere", line("meta_session_id", f'"{ID}"'), line("project_path", '"/p"')]
    lines += [line("created_at", f"{quote}2024-02-06T10:00:00Z{quote}")]
    lines += [line("last_accessed", f"{quote}2024-02-06T11:00:00+02:00{quote}")]
    lines += unknown()
    lines += ["", "[genealogy]", line("depth", "0"), *unknown()]
    lines += ["", "[context_status]", line("is_compacted", "true"), line("last_compacted_at", '"2024-02-06T12:00:00Z"')]
    lines += [*unknown(), ""]
    for tool in draw.draw(st.lists(st.sampled_from(["codex", "claude-code", "other"]), max_size=2, unique=True)):
        lines += [f"[tools.{tool}]  # its own", line("last_exit_code", "0"), *unknown(), ""]
    for table in draw.draw(st.lists(st.sampled_from(["limits", "budget", "usage"]), unique=True)):
        lines += [f"[{table}]", *unknown(), ""]
    lines += draw.draw(st.sampled_from([[], ["[unknown.table]", *unknown()], ["[[unknown]]", "a = 1", "[[unknown]]"]]))
    return "\n".join([*lines, ""])


def dense_text(draw: st.DataObject) -> str:
    """Write a foreign record whose tables are dotted keys or stand in one line, in any order."""
    groups = [
        [f'meta_session_id = "{ID}"', 'project_path = "/p"'],
        ["created_at = 2024-02-06T10:00:00Z", 'last_accessed = "2024-02-06T11:00:00Z"'],
        draw.draw(st.sampled_from([["genealogy.depth = 0", "genealogy.x_twin = 1"], ["genealogy = {x_twin = 1}"]])),
        draw.draw(
            st.sampled_from(
                [
                    ["tools.codex.last_exit_code = 0", 'tools.codex.x_mood = "good"'],
                    ["tools.codex = {last_exit_code = 0, x_mood = [1, 2]}"],
                    ["tools = {codex = {last_exit_code = 0, x_mood = {a = 1}}}"],
                    ["tools.other.last_exit_code = 0", "tools.claude-code = {x_mood = inf}"],
                ]
            )
        ),
        draw.draw(st.sampled_from([["budget.x_note = 1"], ["budget = {x_note = nan}"], ['x_top = "unknown"'], []])),
        draw.draw(st.sampled_from([["x_list = [{a = 1}, {a = 2}]"], ["x.y.z = 1", "x.y.w = 2"], ["# a comment"], []])),
    ]
    behind = draw.draw(st.sampled_from([[], ["[limits]", "x_note = 1"], ["[x_behind]", "a = 1"]]))
    return "\n".join([*chain.from_iterable(draw.draw(st.permutations(groups))), *behind, ""])


def without(values: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return what of `values` is not among the known keys, tables nested."""
    rest: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            if below := without(value, known[key]):
                rest[key] = below
        elif key not in known:
            rest[key] = value
    return rest


@examples(40)
@given(st.data())
def test_writing_keeps_what_it_does_not_know(data: st.DataObject) -> None:
    """Unknown keys and comments survive a change, and what is written reads back as it was meant."""
    text = foreign_text(data)
    before = tomllib.loads(text)
    state = parse_state(before)
    changed = replace(
        state,
        turns=state.turns + 1,
        description="changed",
        last_accessed=_NOW,
        usage=state.usage + Usage(5, 6, 0, 0.5),
        tools={**state.tools, "codex": ToolState(provider_session_id="t", last_exit_code=1, updated_at=_NOW)},
    )
    written = edit_toml(text.encode(), render_state(changed))
    after = tomllib.loads(written.decode())
    assert parse_state(after) == replace(changed, schema=1)
    known = render_state(changed)
    assert without(after, known) == without(before, known)
    for comment in ("# written elsewhere", "# a comment", "# two", "# lines", "# its own"):
        assert written.decode().count(comment) == text.count(comment)
    assert isinstance(after["last_accessed"], type(before["last_accessed"]))


@examples(150)
@given(st.data())
def test_writing_keeps_keys_of_any_style(data: st.DataObject) -> None:
    """Whichever way TOML's tables were written, none of their keys is lost or moved, and none is read as another's."""
    text = dense_text(data)
    before = tomllib.loads(text)
    state = parse_state(before)
    tool = data.draw(st.sampled_from(["codex", "claude-code"]))
    changed = replace(
        state,
        turns=1,
        last_accessed=_NOW,
        parent_session_id=ID[:-1] + "0",
        limits=data.draw(st.sampled_from([Limits(), Limits(max_children=2, tools={"codex": 1})])),
        budget=data.draw(st.sampled_from([Budget(), Budget(tokens=5)])),
        tools={**state.tools, tool: ToolState(provider_session_id="t", updated_at=_NOW, totals={"input_tokens": 1})},
    )
    once = edit_toml(text.encode(), render_state(changed))
    after = tomllib.loads(once.decode())
    assert parse_state(after) == replace(changed, schema=1)
    known = render_state(changed)
    assert json.dumps(without(after, known), sort_keys=True) == json.dumps(without(before, known), sort_keys=True)
    assert edit_toml(once, render_state(changed)) == once


@examples(40)
@given(st.data())
def test_writing_the_same_changes_nothing(data: st.DataObject) -> None:
    """A second save of the same state leaves the file byte for byte, and the first leaves every old line."""
    text = foreign_text(data)
    values = render_state(parse_state(tomllib.loads(text)))
    once = edit_toml(text.encode(), values)
    assert edit_toml(once, values) == once
    assert [line for line in text.splitlines() if line and line not in once.decode().splitlines()] == []


_PATHS = st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text)
_STATES = st.builds(
    SessionState,
    session_id=st.just(ID),
    project_path=_PATHS,
    created_at=st.just(_NOW),
    last_accessed=st.just(_NOW),
    description=st.text(max_size=20),
    name=st.none() | st.text(min_size=1, max_size=8),
    branch=st.none() | st.text(max_size=8),
    turns=st.integers(0, 1 << 40),
    depth=st.integers(0, 9),
    tools=st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.builds(
            ToolState,
            provider_session_id=st.none() | st.text(min_size=1, max_size=6),
            cwd=st.none() | st.text(max_size=8),
            last_action_summary=st.text(max_size=20),
            last_exit_code=st.none() | st.integers(0, 255),
            totals=st.none() | st.dictionaries(st.text(max_size=4), st.floats(0, 1e9), max_size=2),
        ),
        max_size=3,
    ),
    usage=st.builds(Usage, st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.just(0), st.floats(0, 1e6)),
    schema=st.just(1),
)


@given(_STATES, _STATES)
def test_any_state_survives_the_disk(first: SessionState, second: SessionState) -> None:
    """Whatever a state's texts hold, it is read back as written, new or over another."""
    content = render_toml(render_state(first))
    assert parse_state(tomllib.loads(content.decode())) == first
    second = replace(second, tools={**first.tools, **second.tools})
    assert parse_state(tomllib.loads(edit_toml(content, render_state(second)).decode())) == second


# Genealogy

_MEMBERS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.none() | st.sampled_from("abcdefghXY")),
    max_size=8,
    unique_by=lambda item: item[0],
)


@given(_MEMBERS)
def test_the_forest_loses_nobody(members: list[tuple[str, str | None]]) -> None:
    """With cycles and missing parents alike, everyone is shown once, and siblings keep their order."""
    forest = build_forest([(name, parent, name) for name, parent in members])
    shown = [node.session_id for node in walk(forest) if node.item is not None]
    assert sorted(shown) == sorted(name for name, _ in members)
    missing = {parent for _, parent in members if parent and parent not in dict(members)}
    assert sorted(node.session_id for node in walk(forest) if node.item is None) == sorted(missing)
    order = [name for name, _ in members]
    for node in walk(forest):
        children = [child.session_id for child in node.children]
        assert children == sorted(children, key=order.index)
        assert all(dict(members)[child] == node.session_id for child in children)


def test_a_long_line_of_descent_is_no_problem() -> None:
    """A chain of thousands neither recurses nor takes for ever."""
    forest = build_forest([(str(at), str(at - 1) if at else None, at) for at in range(3000)])
    assert sum(1 for _ in walk(forest)) == 3000


# The journal

_KINDS = st.sampled_from(["agent_message", "tool_call", "other"])
_TEXTS = st.text(st.characters(exclude_categories=[]), max_size=20)
_EVENTS = st.lists(st.tuples(_KINDS, _TEXTS, st.sampled_from(["", "flush", "sync"])), max_size=8)


@examples(100)
@given(st.lists(_EVENTS, min_size=1, max_size=4), st.data())
def test_a_crash_at_any_byte_loses_nothing_that_was_acknowledged(
    runs: list[list[tuple[str, str, str]]], data: st.DataObject
) -> None:
    """After a cut anywhere behind the last sync, the numbers go on and every synced event is there."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "transcript.jsonl"
        durable = 0
        acknowledged: list[dict[str, Any]] = []
        for turn, events in enumerate(runs, 1):
            journal = Journal(path, PLAIN, turn=turn)
            taken = [event.to_dict() for event in read_events(path)]
            assert taken[: len(acknowledged)] == acknowledged
            for kind, text, then in events:
                taken += [event.to_dict() for event in journal.append(kind, {"text": text})]
                if then == "flush":
                    journal.flush()
                elif then == "sync":
                    journal.sync()
                    acknowledged, durable = list(taken), path.stat().st_size
            journal.close()
            whole = path.read_bytes()
            cut = data.draw(st.integers(durable, len(whole)))
            tail = data.draw(st.sampled_from([b"", b"\0" * 7, b'{"v":1,"seq":', b"\xff"]))
            os.truncate(path, cut)
            with path.open("ab") as file:
                file.write(tail)
        Journal(path, PLAIN, turn=9).close()
        content = path.read_bytes()
        lines = [json.loads(line) for line in content.splitlines()]
        assert content.endswith(b"\n") or not content
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        assert _legible(lines[: len(acknowledged)]) == _legible(acknowledged)


def _legible(events: list[dict[str, Any]]) -> str:
    return json.dumps(events)


@examples(40)
@given(st.lists(st.integers(0, 200_000), max_size=6))
def test_backwards_is_forwards_reversed(sizes: list[int]) -> None:
    """Whatever the lengths of the lines, both directions read the same events."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "transcript.jsonl"
        journal = Journal(path, PLAIN, turn=1)
        for size in sizes:
            journal.append("other", {"n": size, "fill": "x" * size})
        journal.close()
        with path.open("ab") as file:
            file.write(b'{"partial')
        forwards = list(read_events(path))
        assert [event.data["n"] for event in forwards] == sizes
        assert list(read_events_backwards(path)) == forwards[::-1]


@given(st.text(max_size=30))
def test_only_canonical_ids_are_ids(text: str) -> None:
    """No text but 26 characters of the alphabet is a session id."""
    assert is_session_id(text) == (
        len(text) == 26 and text[0] in "01234567" and all(c in "0123456789ABCDEFGHJKMNPQRSTVWXYZ" for c in text)
    )


@pytest.mark.thorough
@given(st.one_of(st.text(max_size=70), st.text("ab.-_/0", max_size=70), _FAR_ID))
def test_a_terminal_names_only_its_own_pointer(text: str) -> None:
    """Whatever CSA_CURRENT is, it is refused, or one session, or a file right in `current.d` or the store."""
    with tempfile.TemporaryDirectory() as place:
        client = Csa("/p", root=place, environ={"CSA_CURRENT": text})
        try:
            pointer = find_pointer(client.context)
        except UsageError:
            return
        assert make_current(client.context, _CURRENT) is None
        below = sorted(str(path.relative_to(client.store.path)) for path in client.store.path.rglob("*"))
        if is_session_id(text.upper()):
            assert (pointer.read(client.store), below) == (text.upper(), [])
        else:
            assert pointer.read(client.store) == _CURRENT
            assert below == (["current.d", f"current.d/{text}"] if text else ["current"])
