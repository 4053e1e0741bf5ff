"""Session ids: what is one, how they sort, and how few characters tell them apart."""

import re

import pytest
from ulid import ULID

from csa.ids import is_session_id, new_session_id, renew_session_id, session_ids_in, unique_prefix_length
from csa.procfs import random_uuid

KNOWN = "01JH4QWERT1234567890ABCDEF"


def test_a_canonical_ulid_is_a_session_id() -> None:
    """Twenty-six characters of Crockford's alphabet, the first at most 7."""
    assert is_session_id(KNOWN)
    assert is_session_id("7ZZZZZZZZZZZZZZZZZZZZZZZZZ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        KNOWN[:-1],
        KNOWN + "0",
        KNOWN.lower(),
        "8" + KNOWN[1:],
        *(KNOWN[:-1] + letter for letter in "ILOU-. \n/"),
        "\N{ARABIC-INDIC DIGIT ONE}" + KNOWN[1:],
        ".new-" + KNOWN,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """Other lengths, cases, letters and scripts are no session ids."""
    assert not is_session_id(text)


def test_many_names_are_told_as_one_by_one() -> None:
    """Whatever is among them."""
    others = [KNOWN[:13], KNOWN + "0", KNOWN.lower(), "8" + KNOWN[1:], ".new-" + KNOWN]
    fitting = [KNOWN[:-1] + letter for letter in "ILOU-. \n/?\N{ARABIC-INDIC DIGIT ONE}\udcff"]
    assert session_ids_in([KNOWN, *others, KNOWN]) == [KNOWN, KNOWN]
    for name in fitting:
        assert session_ids_in(iter([KNOWN, name, *others])) == [KNOWN]


def test_new_ids_are_canonical_and_sort_by_time() -> None:
    """An id begins with its time, so that ids sort as they were made."""
    early = new_session_id(1_700_000_000_000, b"\xff" * 10)
    late = new_session_id(1_700_000_000_001, bytes(10))
    assert is_session_id(early)
    assert is_session_id(late)
    assert early < late
    assert new_session_id(0, bytes(10)) == "0" * 26
    assert is_session_id(new_session_id((1 << 48) - 1, b"\xff" * 10))


@pytest.mark.parametrize("entropy", [bytes(10), b"\xff" * 10, bytes(range(7, 17)), bytes(range(250, 240, -1))])
@pytest.mark.parametrize("now_ms", [0, 1, 31, 1_700_000_000_123, (1 << 48) - 1])
def test_new_ids_are_those_of_the_library(now_ms: int, entropy: bytes) -> None:
    """An id is what python-ulid makes of the same time and the same random bytes."""
    made = str(ULID(now_ms.to_bytes(6, "big") + entropy))
    assert new_session_id(now_ms, entropy) == made
    assert renew_session_id(new_session_id(now_ms, bytes(10)), entropy) == made


def test_random_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider's id is a UUIDv4 and never the same, also where /proc is hidden."""
    made = [random_uuid(), random_uuid()]
    monkeypatch.setattr("csa.procfs._first_text", lambda _: "")
    made.append(random_uuid())
    assert all(
        re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in made
    )
    assert len(set(made)) == 3


def test_the_unique_prefix_has_at_least_the_minimum() -> None:
    """A lone id shows ten characters, and near neighbours show one more than they share."""
    other = KNOWN[:-1] + "G"
    assert unique_prefix_length(KNOWN, [KNOWN]) == 10
    assert unique_prefix_length(KNOWN, []) == 10
    assert unique_prefix_length(KNOWN, [KNOWN, other]) == 26
    assert unique_prefix_length(KNOWN, sorted([KNOWN, "02" + KNOWN[2:]]), minimum=1) == 2
