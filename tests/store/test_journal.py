"""The transcript: numbered without a gap through crashes, full disks and damage."""

import errno
import json
import os
import re
import time
from pathlib import Path

import pytest

from csa.model.redaction import MARK, Redactor
from csa.store.journal import Journal
from csa.store.transcript import parse_line, read_events, read_events_backwards
from tests.store.support import PLAIN, child
from tests.support import read_transcript


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transcript.jsonl"


def test_the_wire_form(path: Path) -> None:
    """A line is the object the format promises, and what append returns is what is on disk."""
    journal = Journal(path, PLAIN, turn=2)
    (event,) = journal.append("agent_message", {"text": "grüße \u2028 \ud800"})
    journal.close()
    (line,) = path.read_bytes().split(b"\n")[:-1]
    assert json.loads(line) == {
        "v": 1,
        "seq": 1,
        "ts": event.ts,
        "type": "agent_message",
        "turn": 2,
        "data": {"text": "grüße \u2028 \ud800"},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.ts)
    assert list(json.loads(line)) == ["v", "seq", "ts", "type", "turn", "data"]
    assert list(read_events(path)) == [event]


def test_what_is_returned_is_redacted(path: Path) -> None:
    """Redaction happens before the event is shown, and what is written is the same."""
    journal = Journal(path, Redactor({"A_KEY": "correct horse"}), turn=1)
    returned = journal.append("other", {"raw": {"password": "abcdef", "x": "correct horse", "n": 5}})
    journal.close()
    assert [event.data for event in returned] == [{"raw": {"password": MARK, "x": MARK, "n": 5}}]
    assert list(read_events(path)) == returned
    assert "horse" not in path.read_text()


def test_events_taken_together_are_as_those_taken_one_by_one(tmp_path: Path) -> None:
    """What comes in one batch is recorded, redacted and numbered as if each event had come alone."""
    entries: list[tuple[str, dict[str, object]]] = [("tool_call_update", {"at": at, "ok": True}) for at in range(70)]
    for at in (0, 15, 16, 40, 69):
        entries[at] = ("other", {"at": at, "raw": ["correct horse", {"password": "abcdef"}]})
    entries[20:20] = [("agent_message", {"text": text, "chunk": True}) for text in ("a\ncorrect", " horse\n", "b")]
    returned, written = [], []
    for name, batches in (("single", [[entry] for entry in entries]), ("batch", [entries])):
        journal = Journal(tmp_path / name, Redactor({"A_KEY": "correct horse"}), turn=1, clock_ns=lambda: 10**18)
        returned.append([event for batch in batches for event in journal.extend(batch)])
        journal.close()
        written.append((tmp_path / name).read_bytes())
    assert returned[0] == returned[1] == list(read_events(tmp_path / "batch"))
    assert written[0] == written[1]
    assert written[1].count(MARK.encode()) == 11
    assert b"horse" not in written[1]


def test_nothing_is_written_before_a_flush(path: Path) -> None:
    """Events are buffered; a flush shows them to readers; closing twice is harmless."""
    journal = Journal(path, PLAIN, turn=1)
    journal.append("other", {})
    assert path.read_bytes() == b""
    journal.flush()
    assert len(list(read_events(path))) == 1
    journal.append("other", {})
    journal.close()
    journal.close()
    assert len(read_transcript(path, is_made_up=True)) == 2


def test_the_next_writer_goes_on(path: Path) -> None:
    """Numbers go on over turns, and a partial last line is dropped."""
    Journal(path, PLAIN, turn=1).close()
    for turn in (1, 2, 3):
        journal = Journal(path, PLAIN, turn=turn)
        journal.append("other", {"turn": turn})
        journal.close()
        with path.open("ab") as file:
            file.write(b'{"v":1,"seq":99,"ts')
    assert [event.seq for event in read_events(path)] == [1, 2, 3]
    Journal(path, PLAIN, turn=4).close()
    assert [event["turn"] for event in read_transcript(path, is_made_up=True)] == [1, 2, 3]


def test_damage_in_the_middle_stays_and_is_passed_over(path: Path) -> None:
    """A reader shows what it can read, and neither reader nor writer touches a damaged line."""
    journal = Journal(path, PLAIN, turn=1)
    for at in range(3):
        journal.append("other", {"at": at})
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    damage = (
        b'\xff\x00garbage\n[]\n"text"\n\n{"seq":1e999,"ts":"","type":"","turn":1,"data":{}}\n' + b"[" * 5000 + b"\n"
    )
    path.write_bytes(lines[0] + damage + lines[1] + lines[2] + damage)
    assert [event.data["at"] for event in read_events(path)] == [0, 1, 2]
    assert [event.data["at"] for event in read_events_backwards(path)] == [2, 1, 0]
    before = path.read_bytes()
    journal = Journal(path, PLAIN, turn=2)
    (event,) = journal.append("other", {"at": 3})
    journal.close()
    assert event.seq == 4
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b"\xff",
        b"{",
        b"[" * 5000,
        b'{"seq":1e999,"ts":"","type":"","turn":1,"data":{}}',
    ],
)
def test_what_is_no_event(line: bytes) -> None:
    """No line of a transcript can make a reader fail."""
    assert parse_line(line) is None


def test_no_transcript_is_an_empty_one(path: Path) -> None:
    """A session without a transcript has no events."""
    assert list(read_events(path)) == []
    assert list(read_events_backwards(path)) == []


def test_a_writer_that_is_killed_leaves_what_it_synced(path: Path) -> None:
    """After SIGKILL every event that was acknowledged is there, and the next writer goes on."""
    code = """
        from csa.store.journal import Journal
        from tests.store.support import PLAIN
        journal = Journal(Path(args[0]), PLAIN, turn=1)
        at = 0
        while True:
            at += 1
            journal.append("other", {"at": at, "fill": "x" * (at % 5000)})
            if at % 7 == 0:
                journal.sync()
                say(at)
    """
    for _ in range(3):
        before = len(list(read_events(path)))
        with child(code, path) as writer:
            acknowledged = [writer.hear() for _ in range(5)][-1]
            writer.kill()
        events = list(read_events(path))
        assert len(events) >= before + int(acknowledged)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
    Journal(path, PLAIN, turn=2).close()
    assert len(read_transcript(path, is_made_up=True)) == len(events)


def test_a_full_disk_costs_events_and_not_the_run(path: Path) -> None:
    """What cannot be written is counted; the file stays whole, and later events follow without a gap."""
    code = """
        import resource, signal
        from csa.store.journal import Journal
        from tests.store.support import PLAIN
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal(Path(args[0]), PLAIN, turn=1)
        for at in range(3):
            journal.append("other", {"at": at})
        journal.sync()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for at in range(3, 7):
            journal.append("other", {"at": at, "fill": "x" * 500})
        journal.sync()
        say(journal.lost)
        say(journal.fault)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        journal.append("run_finished", {"at": 7})
        journal.sync()
        journal.close()
        say(journal.lost)
    """
    with child(code, path) as writer:
        assert writer.hear() == "4"
        assert "File too large" in writer.hear()
        assert writer.hear() == "4"
    assert [event["data"]["at"] for event in read_transcript(path, is_made_up=True)] == [0, 1, 2, 7]


def test_a_transcript_that_is_a_device_that_is_full(tmp_path: Path) -> None:
    """A disk that takes nothing at all loses every event and raises nothing."""
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    journal = Journal(path, PLAIN, turn=1)
    journal.append("other", {})
    journal.sync()
    journal.append("other", {})
    journal.close()
    assert journal.lost == 2
    assert journal.fault is not None


def test_the_file_is_private(path: Path) -> None:
    """A transcript is for its owner's eyes."""
    Journal(path, PLAIN, turn=1).close()
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"


def test_a_writer_that_may_not_write_any_more_writes_nothing(path: Path) -> None:
    """Who has lost the session hears of his events all the same; the first no is final, and touches no byte."""
    answers = [True]
    journal = Journal(path, PLAIN, turn=1, may_write=answers.pop)
    journal.append("other", {"at": 1})
    journal.sync()
    before, answers[:] = path.read_bytes(), [True, False]
    mark = journal.mark()
    (event,) = journal.append("other", {"at": 2})
    journal.sync()
    assert (event.seq, event.data, journal.is_sealed) == (2, {"at": 2}, True)
    journal.append("other", {"at": 3})
    journal.return_to(mark)
    journal.append("other", {"at": 4})
    journal.close()
    assert (path.read_bytes(), journal.fault, answers) == (before, None, [True])


def test_what_was_written_before_the_session_was_lost_stays(path: Path) -> None:
    """Nothing is taken back from a transcript that may be another's by now."""
    answers = [False, True]
    journal = Journal(path, PLAIN, turn=1, may_write=answers.pop)
    mark = journal.mark()
    for _ in range(2):
        journal.append("other", {})
        journal.flush()
    before = path.read_bytes()
    journal.return_to(mark)
    journal.close()
    assert path.read_bytes() == before != b""


def test_what_is_refused_is_taken_back(path: Path) -> None:
    """Back at a mark the journal is as it was there, whether what came since is in the file or not."""
    journal = Journal(path, PLAIN, turn=1)
    journal.append("other", {"at": 1})
    journal.sync()
    before, mark = path.read_bytes(), journal.mark()
    for is_written in (False, True):
        journal.append("other", {"at": 2})
        journal.append("agent_message", {"text": "held back", "chunk": True})
        if is_written:
            journal.flush()
        journal.return_to(mark)
        journal.flush()
        assert (path.read_bytes(), journal.mark()) == (before, mark)
    (event,) = journal.append("other", {"at": 3})
    journal.close()
    assert event.seq == 2
    assert [event["data"]["at"] for event in read_transcript(path, is_made_up=True)] == [1, 3]


def test_the_end_of_a_chunk_is_held_back_until_it_can_be_judged(path: Path) -> None:
    """A secret that comes in pieces is redacted; what was held back comes before whatever is not its continuation."""
    journal = Journal(path, Redactor({"A_KEY": "correct horse"}), turn=1)

    def chunk(text: str, **more: object) -> list[tuple[str, object]]:
        return [
            (event.type, event.data) for event in journal.append("agent_message", {"text": text, "chunk": True, **more})
        ]

    assert chunk("one\nsay correct") == [("agent_message", {"text": "one\n", "chunk": True})]
    assert chunk(" horse\nand") == [("agent_message", {"text": f"say {MARK}\n", "chunk": True})]
    assert chunk("other", id=2) == [("agent_message", {"text": "and", "chunk": True})]
    assert chunk("\n", id=2) == [("agent_message", {"text": "other\n", "chunk": True, "id": 2})]
    assert chunk("cor", id=2) == []
    assert [event.data for event in journal.append("usage", {"n": 1})] == [
        {"text": "cor", "chunk": True, "id": 2},
        {"n": 1},
    ]
    assert chunk("rest") == []
    journal.close()
    events = read_transcript(path, is_made_up=True)
    assert [event["seq"] for event in events] == list(range(1, 8))
    assert events[-1]["data"] == {"text": "rest", "chunk": True}
    assert "horse" not in path.read_text()


def test_what_is_no_chunk_is_not_held_back(path: Path) -> None:
    """Only a text that says of itself that more will come is."""
    journal = Journal(path, PLAIN, turn=1)
    for data in ({"text": "a"}, {"text": "a", "chunk": False}, {"text": 5, "chunk": True}, {"chunk": True}):
        assert [event.data for event in journal.append("agent_message", data)] == [data]
    journal.close()


def test_times_are_of_the_clock_to_the_millisecond(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event says when it was recorded, in UTC wherever that is."""
    monkeypatch.setenv("TZ", "XXX-9")
    time.tzset()
    times = [1_700_000_000_123_456_789, 1_700_000_000_123_999_999, 1_700_000_000_124_000_000]
    journal = Journal(path, PLAIN, turn=1, clock_ns=iter(times).__next__)
    stamps = [journal.append("other", {})[0].ts for _ in times]
    journal.close()
    assert stamps == [f"2023-11-14T22:13:20.{ms}Z" for ms in (123, 123, 124)]


def test_losses_add_up_and_the_fault_is_told(path: Path) -> None:
    """Each event that could not be written counts once, however they were taken, and none is numbered."""
    full = path.with_name("full")
    full.symlink_to("/dev/full")
    journal = Journal(full, PLAIN, turn=1)
    for count in (2, 3):
        seqs = [event.seq for event in journal.extend([("other", {})] * count)]
        assert seqs == list(range(1, count + 1))
        journal.flush()
    journal.close()
    assert (journal.lost, journal.fault and journal.fault.errno) == (5, errno.ENOSPC)
