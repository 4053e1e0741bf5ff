"""The search index of a state root: which transcripts cannot have a word. Disposable; the only importer of sqlite3.

An FTS5 table has the texts of each transcript, in lower case, by trigrams, so that it can rule one out for any part of
a word; what is left is read. No answer comes from it, and it is only believed

- of a transcript that has not changed since (its inode, size and times),
- as its last writer has left it: the seal has the file's own inode, size and times. While somebody writes, and when the
  file was damaged or replaced by an older copy, or a writer was killed, everything is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from csa.errors import CsaError
from csa.ownership import open_private
from csa.paths import INDEX, MIRRORS
from csa.store.atomic import make_private_directory, read_regular, replace_private, stamp_of
from csa.store.locks import acquire_lock
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import sqlite3

    from csa.store.sessions import Store

VERSION = 1
_FILE, _SEAL, _LOCK = "search.db", "seal.json", "lock"
_GRAM = 3
_MOST_GRAMS = 64  # of a word that are asked for; the others would rule out little more
_BUSY_S = 0.2
_AGAIN_S = 0.05
_MERGED_PAGES = 1000  # at a time
_TABLES = (
    "CREATE TABLE transcript (id INTEGER PRIMARY KEY, name TEXT UNIQUE, stamp TEXT)",
    "CREATE VIRTUAL TABLE words USING fts5(text, tokenize='trigram case_sensitive 1', detail=none)",
)
_MATCH = "SELECT name, stamp, id IN (SELECT rowid FROM words WHERE words MATCH ?) FROM transcript"
_STAMPS = "SELECT name, stamp FROM transcript"


class SearchIndexError(CsaError):
    """The index cannot be written."""

    code = "index"


class Facts(Struct, kw_only=True):
    """What is known of an index without searching in it. `why` says why it is not used; None if it is."""

    path: str
    size_bytes: int
    stamps: dict[str, str]  # of its transcripts
    why: str | None


def index_name(store: Store, session_id: str) -> str:
    """Return what the search index calls a session: it keeps the name when it is deleted and restored."""
    within = f"{MIRRORS}/{store.host}/" if store.host else ""
    return f"{within}{store.pathname[len(store.root_pathname) + 1 :]}/{session_id}"


def index_root(store: Store) -> Path:
    """Return the state root whose index has the sessions of a store: for a mirror, that which it is in."""
    return store.home


class Sieve:
    """Which transcripts may have all words of a query."""

    def __init__(self, known: dict[str, tuple[str, bool]], on_unknown: Callable[[str], None]) -> None:
        self._known = known
        self._on_unknown = on_unknown  # is told of those that are not in the index as they are now

    def may_fit(self, name: str, stamp: str) -> bool:
        """Say whether a transcript has to be read."""
        found = self._known.get(name)
        if found is None or found[0] != stamp:
            self._on_unknown(name)
            return True
        return found[1]

    def leaves(self, name: str) -> None:
        """Note that a session is encrypted: if the index still has it, that is as unknown as what it lacks."""
        if name in self._known:
            self._on_unknown(name)


def open_sieve(root: Path, words: Iterable[str], on_unknown: Callable[[str], None] = lambda _: None) -> Sieve | None:
    """Return what the index of a state root says of some words in lower case; None if it says nothing."""
    place = root / INDEX
    if not has_index(root):
        return None
    if (asked := _expression(words)) is None or not _is_sealed(place):
        return None
    try:
        import sqlite3  # noqa: PLC0415  # most commands never search
    except ImportError:
        return None
    try:
        with closing(_connect(place, "ro")) as database:
            rows = database.execute(_MATCH, (asked,)).fetchall()
    except (sqlite3.Error, UnicodeError):  # damaged, or somebody has begun to write
        return None
    return Sieve({name: (stamp, bool(may_fit)) for name, stamp, may_fit in rows}, on_unknown)


def _expression(words: Iterable[str]) -> str | None:
    """Return what FTS5 is asked for; None if the words are too short to rule anything out."""
    grams: dict[str, None] = {}
    for word in words:
        if word == _clean(word):
            grams |= dict.fromkeys(list(_grams(word))[:_MOST_GRAMS])
    return " AND ".join('"' + gram.replace('"', '""') + '"' for gram in grams) or None


def _grams(word: str) -> Iterator[str]:
    return (word[at : at + _GRAM] for at in range(len(word) - _GRAM + 1))


def _clean(text: str) -> str:
    """Return a text without what SQLite does not take; a word that has such a character is not asked for."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _connect(place: Path, mode: str) -> sqlite3.Connection:
    import sqlite3  # noqa: PLC0415  # as above

    uri = f"file:{quote(str(place / _FILE))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, cached_statements=8)


class Writer:
    """Changes an index under its lock."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.stamps: dict[str, str] = dict(database.execute(_STAMPS))

    def put(self, name: str, stamp: str, text: str) -> None:
        """Add a transcript, or replace what is there."""
        self.remove([name])
        cursor = self._database.execute("INSERT INTO transcript (name, stamp) VALUES (?, ?)", (name, stamp))
        self._database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (cursor.lastrowid, _clean(text)))
        self.stamps[name] = stamp

    def remove(self, names: Iterable[str]) -> None:
        """Remove transcripts."""
        for name in names:
            if self.stamps.pop(name, None):
                of_it = "(SELECT id FROM transcript WHERE name = ?)"
                self._database.execute(f"DELETE FROM words WHERE rowid = {of_it}", (name,))  # noqa: S608  # a constant
                self._database.execute("DELETE FROM transcript WHERE name = ?", (name,))

    def save(self) -> None:
        """Make durable what was changed so far."""
        self._database.execute("COMMIT")
        self._database.execute("BEGIN IMMEDIATE")

    def merge(self, until: float) -> None:
        """Have the trigrams of what was removed leave the file, too, as far as that is done in time."""
        self.save()  # what is not saved is not merged
        is_over = False
        while not is_over and time.monotonic() < until:
            before = self._database.total_changes
            self._database.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (-_MERGED_PAGES,))
            is_over = self._database.total_changes - before < 2  # noqa: PLR2004  # as FTS5 says it


@contextmanager
def writing(root: Path, *, anew: bool = False, creates: bool = False) -> Iterator[Writer]:
    """Change the index of a state root in a block; with `anew` it is empty at first.

    Without `creates`, one that is not there, or cannot be believed, is left alone.

    Raises:
        BlockingIOError: somebody else does.
        SearchIndexError: it cannot be written: the disk is full, say, or this Python has no SQLite with FTS5.
        FileNotFoundError: there is none to be changed.
    """
    place = root / INDEX
    if creates:
        make_private_directory(place)
    with closing(acquire_lock(place / _LOCK)):
        is_usable = not anew and _is_sealed(place)
        if not is_usable:  # nor is it kept: it may have what was purged meanwhile
            _remove_content(place)
            if not creates:
                raise FileNotFoundError(str(place / _FILE))
        replace_private(place / _SEAL, json.dumps({"version": VERSION, "writing": True}).encode())
        try:
            import sqlite3  # noqa: PLC0415  # as above
        except ImportError:
            _remove_files(place)
            raise SearchIndexError("This Python has no SQLite.", hint="csa search works without an index") from None
        try:
            with closing(_open_to_write(place, is_new=not is_usable)) as database:
                database.execute("BEGIN IMMEDIATE")
                yield Writer(database)
                database.execute("COMMIT")
        except (sqlite3.DatabaseError, UnicodeError) as error:
            is_full = "full" in str(error)
            if not is_full:
                _remove_files(place)
            hint = "free space on its disk" if is_full else "csa search works without it; csa index build"
            raise SearchIndexError(f"The search index cannot be written: {error}.", hint=hint) from error
        except BaseException:  # what was not saved is rolled back
            _seal(place)
            raise
        _seal(place)


def _open_to_write(place: Path, *, is_new: bool) -> sqlite3.Connection:
    if is_new:
        os.close(open_private(place / _FILE, os.O_RDWR | os.O_CREAT))
    database = _connect(place, "rw")
    try:
        database.execute("PRAGMA secure_delete = ON")
        if is_new:
            for words in _TABLES:
                database.execute(words)
    except BaseException:
        database.close()
        raise
    return database


def _seal(place: Path) -> None:
    stamp = stamp_of(os.stat(place / _FILE))
    replace_private(place / _SEAL, json.dumps({"version": VERSION, "file": stamp}).encode())


def _read_seal(place: Path) -> dict[str, object]:
    try:
        found = json.loads(read_regular(place / _SEAL))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("version") == VERSION else {}


def _is_sealed(place: Path) -> bool:
    """Say whether the file is as its last writer has left it."""
    try:
        return _read_seal(place).get("file") == stamp_of(os.stat(place / _FILE))
    except OSError:
        return False


def _remove_files(place: Path) -> None:
    (place / _SEAL).unlink(missing_ok=True)
    _remove_content(place)


def _remove_content(place: Path) -> None:
    for name in (_FILE, f"{_FILE}-journal"):
        (place / name).unlink(missing_ok=True)


def remove_index(root: Path) -> bool:
    """Delete the index; say whether there was one. BlockingIOError while somebody writes."""
    place = root / INDEX
    if not place.is_dir():
        return False
    with closing(acquire_lock(place / _LOCK)):
        was_there = os.path.exists(place / _FILE)
        _remove_files(place)
        (place / _LOCK).unlink()
    with suppress(OSError):
        place.rmdir()
    return was_there


def has_index(root: Path) -> bool:
    """Say whether there is an index, of whatever worth."""
    return os.path.exists(root / INDEX / _SEAL)


def forget(root: Path, names: Iterable[str], *, within_s: float = 0.0) -> None:
    """Remove sessions from the index, if there is one: that were purged, or are encrypted.

    If somebody writes it for longer, or the disk is full, the next `csa gc` or `csa index update` does.
    """
    until = time.monotonic() + within_s
    while has_index(root):
        try:
            with suppress(SearchIndexError), writing(root) as writer:
                writer.remove(names)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_AGAIN_S)
                continue
        except OSError:
            pass
        return


def look_at(root: Path) -> Facts | None:
    """Return what is known of the index; None if there is none."""
    place = root / INDEX
    try:
        size = os.stat(place / _FILE).st_size
    except OSError:
        return None
    stamps: dict[str, str] = {}
    why: str | None = "it is being written, or was changed by something else than csa"
    if _is_sealed(place):
        stamps, why = _read_stamps(place)
    return Facts(path=str(place / _FILE), size_bytes=size, stamps=stamps, why=why)


def _read_stamps(place: Path) -> tuple[dict[str, str], str | None]:
    """Return what the index has, or why it cannot be read."""
    try:
        import sqlite3  # noqa: PLC0415  # as above
    except ImportError:
        return {}, "this Python has no SQLite"
    try:
        with closing(_connect(place, "ro")) as database:
            return dict(database.execute(_STAMPS)), None
    except (sqlite3.Error, UnicodeError) as error:
        return {}, str(error)
