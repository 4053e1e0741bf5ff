"""A file system without flock(2): the kernel refuses the call, as some network file systems do."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from tests.support import CSA, Place

# A seccomp filter for the 64-bit x86 number of flock(2); children inherit it.
REFUSE = f"""
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 73), (0x06, 0, 0, 0x00050000 | {errno.ENOTSUP}), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, ctypes.byref(Filter(len(code), ctypes.addressof(program)))):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")


@pytest.mark.thorough
def test_runs_do_without(place: Place) -> None:
    """A run needs none of it, and leaves none; doctor says what it is that does not work, and that runs do."""
    refused = [sys.executable, "-c", REFUSE]
    tried = place.shell([*refused, sys.executable, "-c", "import fcntl; fcntl.flock(0, 2)"])
    if tried.code == 77:
        pytest.skip("seccomp filters do not work here")
    assert "Operation not supported" in tried.err
    done = place.shell([*refused, CSA, "run", "--tool", "claude-code", "hello"])
    assert done.code == 0, done.err
    assert place.shell([*refused, CSA, "run", "--last", "more"]).code == 0
    found = place.shell([*refused, CSA, "doctor", "--json"])
    check = next(each for each in found.json["checks"] if each["name"] == "locks")
    assert (found.code, check["status"], check["blocks_runs"]) == (0, "warn", False)
    assert "flock(2) does not work there (Operation not supported)" in check["detail"]
    other = next(each for each in place.run("doctor", "--json").json["checks"] if each["name"] == "locks")
    assert other["status"] == "ok"
