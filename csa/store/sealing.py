"""Files that only the holder of a key can read, in the format of age: the extra `csa[encrypt]`.

The only importer of pyrage. What is written or read is never as a whole in memory, and goes in its plain form through a
pipe, never into a file.
"""

from __future__ import annotations

import io
import os
import select
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

from csa.errors import ArchiveError, NotFoundError, ToolUnavailableError, UsageError
from csa.store.archive import SPOOL_BYTES

_T = TypeVar("_T")
_MARK = b"age-encryption.org/v1\n"
_OF_SSH = "-----BEGIN OPENSSH PRIVATE KEY-----"
_SECRET = "AGE-SECRET-KEY-1"  # noqa: S105  # what such a key begins with
_MOST_BYTES = 1 << 16  # of a file with keys


def seal(recipients: Sequence[str], stream: IO[bytes], write: Callable[[IO[bytes]], _T]) -> _T:
    """Encrypt what `write` writes into a stream, so that the holder of the key of any recipient can read it.

    A recipient is `age1...`, a public key of SSH, or a file with some of these, one a line.

    Raises:
        UsageError: one is neither.
        ToolUnavailableError: the package for it is missing.
        OSError: of the stream; and whatever `write` raises. What is in the stream then is of no use.
    """
    pyrage = _library()
    return _seal(pyrage, [_recipient(pyrage, line) for each in recipients for line in _lines_of(each)], stream, write)


class Sealer:
    """Encrypts short texts, each by itself, for the recipients of `seal`; raises as that."""

    def __init__(self, recipients: Sequence[str]) -> None:
        self._library = _library()
        lines = sorted({line for each in recipients for line in _lines_of(each)})
        self._known = [_recipient(self._library, line) for line in lines]
        self.label = sha256("\n".join(lines).encode()).hexdigest()[:16]  # of what it encrypts for

    def seal(self, text: str) -> str:
        """Return a text encrypted, in base64."""
        sealed: bytes = self._library.encrypt(text.encode("utf-8", "surrogatepass"), self._known)
        return b64encode(sealed).decode()


@contextmanager
def spooled(blocks: Iterable[bytes]) -> Iterator[tuple[int, IO[bytes]]]:
    """Yield the size of some blocks, and then these, as `csa.store.archive.spooled` does.

    What is long is encrypted meanwhile, for a key that only this process has.
    """
    rest, begin = iter(blocks), b""
    while len(begin) <= SPOOL_BYTES and (block := next(rest, None)) is not None:
        begin += block
    if len(begin) <= SPOOL_BYTES:
        yield len(begin), io.BytesIO(begin)
        return
    pyrage = _library()
    key = pyrage.x25519.Identity.generate()
    with tempfile.TemporaryFile() as file:
        size = _seal(pyrage, [key.to_public()], file, lambda into: _copy(chain([begin], rest), into))
        file.seek(0)
        with _opened(pyrage, [key], file) as plain:
            yield size, plain


def _copy(blocks: Iterable[bytes], into: IO[bytes]) -> int:
    size = 0
    for block in blocks:
        size += into.write(block)
    return size


def _seal(pyrage: Any, known: list[Any], stream: IO[bytes], write: Callable[[IO[bytes]], _T]) -> _T:
    out, into = os.pipe()
    sink = _Sink(stream)
    with open(out, "rb") as plain, open(into, "wb") as file:
        thread = _Work(lambda: pyrage.encrypt_io(plain, sink, known), plain)
        thread.start()
        try:
            with file:
                result = write(file)
        except BrokenPipeError:
            thread.join()
            raise sink.fault or thread.fault or BrokenPipeError from None
        finally:
            thread.join()
        if fault := sink.fault or thread.fault:
            raise fault
    return result


def is_sealed(stream: IO[bytes]) -> bool:
    """Say whether what comes next from a buffered stream is encrypted; nothing is taken from it."""
    peek = getattr(stream, "peek", None)
    return bool(peek and peek(len(_MARK)).startswith(_MARK))


@contextmanager
def opened(identities: Sequence[str], stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield what is in an encrypted stream.

    Raises:
        UsageError: no key is named, or a file has none.
        ArchiveError: none of the keys fits, or what is encrypted was changed or cut off; when it is read.
        ToolUnavailableError: the package for it is missing.
    """
    if not identities:
        raise UsageError("The archive is encrypted.", hint="csa import --identity KEYFILE")
    with opened_with([key for each in identities for key in read_key(_read(each), each)], stream) as reader:
        yield reader


@contextmanager
def opened_with(keys: Sequence[Any], stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield what is in an encrypted stream, with keys of `read_key`; raises as `opened`, and WrongKeyError."""
    with _opened(_library(), list(keys), stream) as reader:
        yield reader


@contextmanager
def _opened(pyrage: Any, known: list[Any], stream: IO[bytes]) -> Iterator[IO[bytes]]:
    out, into = os.pipe()
    with open(out, "rb") as plain, open(into, "wb") as file:
        source = _Source(stream)
        thread = _Work(lambda: pyrage.decrypt_io(source, file, known), file)
        thread.start()
        reader = _Reader(plain, thread)
        try:
            yield reader  # type: ignore[misc]  # all that is used of it
        finally:
            plain.close()
            source.end()
            thread.join()
            source.close()


class _Source:
    """A buffered stream whose reader, in another thread, does not wait for a pipe after `end`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._is_file = stream.seekable()
        self._head = b"" if self._is_file else stream.read1(len(stream.peek()))  # type: ignore[attr-defined]
        self._ended, self._end = os.pipe()

    def read(self, size: int = -1) -> bytes:
        if self._is_file or size < 0:
            return self._stream.read(size)
        if found := self._head[:size]:
            self._head = self._head[size:]
            return found
        waiting = select.poll()
        for fd in (self._stream.fileno(), self._ended):
            waiting.register(fd, select.POLLIN)
        if any(fd == self._ended for fd, _ in waiting.poll()):
            return b""
        return os.read(self._stream.fileno(), size)

    def end(self) -> None:
        os.write(self._end, b".")

    def close(self) -> None:
        os.close(self._ended)
        os.close(self._end)


class WrongKeyError(ArchiveError):
    """None of the keys is one for which it was encrypted."""


class _Work(threading.Thread):
    """Does something, closes its end of the pipe, and keeps what went wrong."""

    def __init__(self, work: Callable[[], object], end: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._work, self._end = work, end
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            self._work()
        except Exception as fault:  # noqa: BLE001  # of any kind; the other thread raises it
            self.fault = fault
        try:
            self._end.close()
        except OSError as fault:  # nobody reads any more
            self.fault = self.fault or fault


class _Sink:
    """A stream that keeps what went wrong with it, which pyrage would pass on as words."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, block: bytes) -> int:
        try:
            return self._stream.write(block)
        except OSError as fault:
            self.fault = fault
            raise

    def flush(self) -> None:
        self._stream.flush()


class _Reader:
    """What comes out of the pipe; its end is one only if everything could be decrypted."""

    def __init__(self, plain: IO[bytes], thread: _Work) -> None:
        self._plain, self._thread = plain, thread

    def read(self, size: int = -1) -> bytes:
        found = self._plain.read(size)
        if not found and size:
            self._thread.join()
            if fault := self._thread.fault:
                raise _explain(fault)
        return found


def _explain(fault: Exception) -> Exception:
    if isinstance(fault, OSError) and fault.errno is not None:  # else it is of age
        return fault
    if "no matching keys" in str(fault).lower():
        return WrongKeyError("None of the keys opens the archive.", hint="--identity with the key it was encrypted for")
    return ArchiveError(f"The encrypted archive is damaged ({fault}).", hint="export it again")


def _library() -> Any:
    try:
        import pyrage  # noqa: PLC0415  # an extra
    except ImportError:
        raise ToolUnavailableError(
            "Encryption needs a package that is not there (pyrage).", hint="pip install 'csa[encrypt]'"
        ) from None
    return pyrage


def _lines_of(recipient: str) -> Iterable[str]:
    if recipient.startswith(("age1", "ssh-")):
        return [recipient]
    lines = [line.strip() for line in _read(recipient).splitlines()]
    if not (found := [line for line in lines if line and not line.startswith("#")]):
        raise UsageError(f"There is no key in {recipient}.")
    return found


def _recipient(pyrage: Any, line: str) -> Any:
    if line.startswith(_SECRET) or "PRIVATE KEY" in line:
        raise UsageError(
            "A secret key is not for whom something is encrypted.", hint="its public key is: age1..., .pub"
        )
    kind = pyrage.ssh if line.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(line)
    except pyrage.RecipientError as error:
        hint = "age1... (age-keygen), or a file such as ~/.ssh/id_ed25519.pub"
        raise UsageError(f"'{line[:60]}' is no public key ({error}).", hint=hint) from error


def read_key(text: str, source: str) -> list[Any]:
    """Return the secret keys in a text, as age-keygen writes it, or one of SSH; `source` is what it comes from.

    UsageError if there is none that can be used.
    """
    pyrage = _library()
    lines = [line.strip() for line in text.splitlines()]
    try:
        if text.lstrip().startswith(_OF_SSH):
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_SECRET)]
    except (pyrage.IdentityError, ValueError):
        raise UsageError(f"The key in {source} cannot be used.", hint="one of SSH must have no passphrase") from None
    if not found:
        raise UsageError(f"There is no secret key in {source}.", hint="as age-keygen writes it, or one of SSH")
    return found


def _read(pathname: str) -> str:
    try:
        with Path(pathname).expanduser().open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {pathname}, and it is no public key.") from error
