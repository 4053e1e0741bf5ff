"""The entry point: finds the command, runs it, and turns failures into words and exit codes."""

from __future__ import annotations

import codecs
import gc
import io
import os
import sys

from csa.errors import CsaError, DeniedError, StateError, UsageError

EXIT_INTERRUPTED = 128 + 2  # SIGINT
EXIT_BROKEN_PIPE = 128 + 13  # SIGPIPE
_COLLECT_AFTER = 20_000  # objects; python's 700 look for garbage thirty times while there are only imports


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    if argv is not None:
        return _run(argv)
    gc.set_threshold(_COLLECT_AFTER)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()  # the process ends here: looking for garbage once more would take longer than a listing


def _run(words: list[str]) -> int:
    _open_standard_streams()
    try:
        if words[:1] in (["--version"], ["-V"]):
            from csa import __version__  # noqa: PLC0415  # this path is a hot one

            print(f"csa {__version__}")
            code = 0
        elif words[:1] == ["__complete"]:
            from csa.cli.candidates import print_candidates  # noqa: PLC0415  # as above

            code = print_candidates(words[1:])
        else:
            answer = _answer_quickly(words)
            code = _dispatch(words) if answer is None else answer
        sys.stdout.flush()
    except CsaError as error:
        from csa.cli.output import lossy, print_error  # noqa: PLC0415  # as above

        as_json = "--json" in words
        stream = sys.stdout if as_json else sys.stderr
        with lossy(stream):
            print_error(error, as_json=as_json)
            stream.flush()
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        return _fail_on_system(error, as_json="--json" in words)
    return code


def _answer_quickly(words: list[str]) -> int | None:
    if words[:2] != ["session", "is-alive"]:
        return None
    from csa.cli.quick import is_alive  # noqa: PLC0415  # this path is a hot one

    return is_alive(words[2:], os.environ)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream was closed, or the next file opened would take its place."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor: this one
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  # for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in {"strict", "surrogateescape"}:
        codecs.register_error("csa", _spell)
        sys.stdout.reconfigure(errors="csa")


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what the encoding of stdout lacks as an escape; bytes that were no text, as what they were."""
    assert isinstance(error, UnicodeEncodeError)
    first = error.object[error.start]
    how = "surrogateescape" if "\udc80" <= first <= "\udcff" else "backslashreplace"
    return first.encode("ascii", how), error.start + 1


def _fail_on_system(error: OSError, *, as_json: bool) -> int:
    """Say what cannot be read or written; nothing when it is that the reader has gone (`csa session list | head`)."""
    from csa.cli.output import lossy, print_error, silence  # noqa: PLC0415  # as above

    is_of_output = error.filename is None and error.errno in _errors_of_output()
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


def _errors_of_output() -> set[int]:
    """Return what write(2) on a stream fails with; a directory in the place of a file is another matter."""
    import errno  # noqa: PLC0415  # only a failure needs it

    return {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN, errno.EINVAL}


def _dispatch(words: list[str]) -> int:
    from csa.cli.commands import (  # noqa: PLC0415  # as above
        GROUPS,
        find_command,
        group_overview,
        overview,
        print_help,
    )
    from csa.cli.output import Style  # noqa: PLC0415  # as above
    from csa.cli.plainwords import UsageFault  # noqa: PLC0415  # as above

    ahead, words = _split_ahead(words)
    command, rest = find_command(words)
    if command is None:
        if not words:
            return print_help(overview())
        if words[0] == "help" and len(words) > 1:
            return _dispatch([*words[1:], "--help"])
        if words[0] in {"-h", "--help", "help"}:
            return print_help(overview())
        if words[0] in GROUPS and (len(words) == 1 or words[1] in {"-h", "--help"}):
            return print_help(group_overview(words[0]))
        from csa.cli.suggesting import unknown_command  # noqa: PLC0415  # only a typo pays for it

        raise unknown_command(words)
    try:
        rest = ahead + rest
        arguments = command.parse(rest)
    except UsageFault as fault:
        from csa.cli.suggesting import usage_error  # noqa: PLC0415  # only a typo pays for it

        raise usage_error(command, rest, fault) from fault
    Style.when = arguments.color
    if arguments.cd is not None:
        _change_directory(arguments.cd)
    return command.execute(arguments)


def _split_ahead(words: list[str]) -> tuple[list[str], list[str]]:
    """Split off the options of every command that stand before the command's name."""
    count = 0
    while count < len(words) and words[count].partition("=")[0] in {"--cd", "--color"}:
        length = 1 if "=" in words[count] else 2
        if count + length > len(words):
            break  # it lacks its value
        count += length
    return words[:count], words[count:]


def _change_directory(directory: str) -> None:
    """Go on as if csa had been started there, and not by a hook of another repository."""
    from csa.runner.inherited import is_same_work_tree, without_repository  # noqa: PLC0415  # few commands go elsewhere

    try:
        before = os.getcwd()
    except FileNotFoundError:
        before = "/"
    sys.argv[0] = os.path.abspath(sys.argv[0]) if "/" in sys.argv[0] else sys.argv[0]
    try:
        os.chdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--cd: there is no directory {directory}.") from None
    except OSError as error:
        raise UsageError(f"--cd: {directory}: {error.strerror}.") from error
    os.environ["PWD"] = os.getcwd()
    if not is_same_work_tree(before, "."):
        kept = without_repository(os.environ)
        for name in set(os.environ) - set(kept):
            del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
