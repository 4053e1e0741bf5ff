"""Reads a tool's own records of a turn, for a decoder that asks for them: adapters touch no files."""

from __future__ import annotations

from collections.abc import Iterator
from glob import iglob

from csa.model.adapter import Decoder, RecordReader, Update
from csa.store.atomic import open_regular


def read_records(decoder: Decoder) -> list[Update]:
    """Feed the decoder the files it names; one that cannot be read is skipped, and does not fail the turn."""
    if not isinstance(decoder, RecordReader):
        return []
    count = 0
    while count < len(decoder.records):
        for line in _lines(decoder.records[count]):
            decoder.feed_record(line)
        count += 1
    return decoder.close_records()


def _lines(pattern: str) -> Iterator[bytes]:
    for name in sorted(iglob(pattern)):
        try:
            with open(open_regular(name), "rb") as file:
                yield from file
        except OSError:
            continue
