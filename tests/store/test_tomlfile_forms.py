"""The forms in which records are written: those that other readers, and older ones of csa, have always found there."""

from __future__ import annotations

from csa.store.tomlfile import edit_toml, render_toml


def test_a_list_of_tables_is_one() -> None:
    """Each link of a chain has a table of its own, behind all else."""
    values = {
        "chain": [{"turn": 1, "tool": "codex", "kind": None}, {"turn": 2}],
        "status": "failed",
        "usage": {"in": 1},
    }
    expected = b'status = "failed"\n\n[usage]\nin = 1\n\n[[chain]]\nturn = 1\ntool = "codex"\n\n[[chain]]\nturn = 2\n'
    assert render_toml(values) == expected


def test_a_table_of_nothing_is_not_made() -> None:
    """Neither in a new document nor by an edit; one without keys is."""
    values = {"limits": {"max_depth": None}, "tools": {}, "deep": {"er": {"none": None}}}
    assert render_toml(values) == edit_toml(b"", values) == b"[tools]\n"
