"""The entry point: finds the command, runs it, and turns failures into messages and exit codes."""

from __future__ import annotations

import codecs
import errno
import gc
import io
import os
import sys

from csa import __version__
from csa.errors import CsaError, DeniedError, MirroredError, StateError

EXIT_INTERRUPTED = 128 + 2  # SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # SIGPIPE
# Errors of write(2) on a stream; a directory in place of a file is different.
_ERRORS_OF_OUTPUT = {
    getattr(errno, name) for name in ("EPIPE", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "EBADF", "EAGAIN", "EINVAL")
}
_COLLECT_AFTER = 20_000  # objects; python's default of 700 would collect garbage thirty times during imports


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    if argv is not None:
        return _run(argv)
    gc.set_threshold(_COLLECT_AFTER)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()  # the process ends here: another garbage collection would take longer than a listing


def _run(words: list[str]) -> int:
    _open_standard_streams()
    try:
        code = _execute_words(words)
        sys.stdout.flush()
    except CsaError as error:
        from csa.cli.output import lossy, print_error  # noqa: PLC0415  # hot paths need none of it

        as_json = _wants_json(words)
        stream = sys.stdout if as_json else sys.stderr
        with lossy(stream):
            print_error(error, as_json=as_json)
            stream.flush()
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        return _fail_on_system(error, as_json=_wants_json(words))
    return code


def _wants_json(words: list[str]) -> bool:
    return "--json" in words[: words.index("--") if "--" in words else None]


def _execute_words(words: list[str]) -> int:
    """Import only what the command needs: scripts and shells call the first three repeatedly."""
    if words[:1] in (["--version"], ["-V"]):
        print(f"csa {__version__}")
        return 0
    if words[:1] == ["__complete"]:
        from csa.cli.candidates import print_candidates  # noqa: PLC0415  # these paths are hot ones

        return print_candidates(words[1:])
    asked = words[1:] if words[:1] == ["session"] else words
    if asked[:1] == ["is-alive"]:
        from csa.cli.is_alive import answer  # noqa: PLC0415  # as above

        if (code := answer(asked[1:], os.environ)) is not None:
            return code
    from csa.cli.commands import dispatch  # noqa: PLC0415  # as above

    try:
        return dispatch(words)
    except MirroredError as error:
        from csa.cli.acting_there import act_there  # noqa: PLC0415  # few act on other hosts

        return act_there(words, error)


def _open_standard_streams() -> None:
    """Open /dev/null for closed standard streams, or the next opened file would take their place."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor: this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  # for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in {"strict", "surrogateescape"}:
        codecs.register_error("csa", _escape_unencodable)
        sys.stdout.reconfigure(errors="csa")


def _escape_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Escape characters that stdout's encoding lacks; write undecodable bytes unchanged."""
    assert isinstance(error, UnicodeEncodeError)
    first = error.object[error.start]
    how = "surrogateescape" if "\udc80" <= first <= "\udcff" else "backslashreplace"
    return first.encode("ascii", how), error.start + 1


def _fail_on_system(error: OSError, *, as_json: bool) -> int:
    """Say what cannot be read or written; nothing if the reader is gone (`csa ls | head`)."""
    from csa.cli.output import lossy, print_error, silence  # noqa: PLC0415  # as above

    is_of_output = error.filename is None and error.errno in _ERRORS_OF_OUTPUT
    where = error.filename or ("the output cannot be written" if is_of_output else "a file cannot be read or written")
    failure = CsaError(f"{where}: {error.strerror or error}.")
    if isinstance(error, PermissionError) and error.filename is not None:
        denied = StateError.denied(os.fsdecode(error.filename), "cannot be used", error)
        failure = denied if isinstance(denied, DeniedError) else failure
    if as_json and not is_of_output:
        with lossy(sys.stdout):
            print_error(failure, as_json=True)
            sys.stdout.flush()
        return failure.exit_code
    silence(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    with lossy(sys.stderr):
        print_error(failure, as_json=False)
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
