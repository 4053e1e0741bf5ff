"""Runs csa under ptrace and kills it just before its n-th change to the store: every point at which a crash can fall.

x86-64 Linux only. The tracer is a thread of its own for each run, as ptrace wants; children of csa are not traced.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PTRACE_TRACEME, PTRACE_GETREGS, PTRACE_SYSCALL, PTRACE_SETOPTIONS = 0, 12, 24, 0x4200
PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL = 1, 0x100000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ORIG_RAX, _RDI, _RSI, _RDX = 15, 14, 13, 12  # in struct user_regs_struct
_ON_DESCRIPTORS = {1: "write", 18: "pwrite", 20: "writev", 74: "fsync", 75: "fdatasync", 77: "ftruncate"}
_ON_PATHS = {82: "rename", 83: "mkdir", 84: "rmdir", 87: "unlink", 90: "chmod"}
_ON_PATHS_AT = {257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 316: "renameat2"}
_OPENAT = 257
_CREATES = os.O_CREAT | os.O_TRUNC
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Traced:
    """What became of a run: its changes to the store in order, and whether it was killed before the last of them."""

    changes: list[str]
    killed: bool


def can_trace() -> bool:
    """Say whether this machine lets us trace a child."""
    return os.uname().machine == "x86_64" and _run(["/bin/true"], {}, "/", "/nowhere", None) is not None


def run_until_change(argv: list[str], *, env: Mapping[str, str], cwd: Path, root: Path, kill_at: int | None) -> Traced:
    """Run a command; SIGKILL it when it is about to make its `kill_at`-th change below `root` (from 1; None: never)."""
    traced = _run(argv, env, str(cwd), str(root), kill_at)
    assert traced is not None, "ptrace does not work here"
    return traced


def _run(argv: list[str], env: Mapping[str, str], cwd: str, root: str, kill_at: int | None) -> Traced | None:
    pid = os.fork()
    if pid == 0:
        _become_traced(argv, env, cwd)
    changes: list[str] = []
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        return None
    _ptrace(PTRACE_SETOPTIONS, pid, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)
    number, entering = 0, True
    while True:
        _ptrace(PTRACE_SYSCALL, pid, number)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return Traced(changes, killed=os.WIFSIGNALED(status))
        number = 0
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            number = os.WSTOPSIG(status)  # a signal of its own, which is passed on
            continue
        if entering and (change := _change_of(pid, root)):
            changes.append(change)
            if len(changes) == kill_at:
                os.kill(pid, signal.SIGKILL)
        entering = not entering


def _become_traced(argv: list[str], env: Mapping[str, str], cwd: str) -> None:
    try:
        os.chdir(cwd)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        _libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.execve(argv[0], argv, dict(env))
    finally:
        os._exit(127)


def _ptrace(request: int, pid: int, data: int) -> None:
    _libc.ptrace(request, pid, None, data)  # that the child has just died is seen by waitpid


def _change_of(pid: int, root: str) -> str | None:
    """Return what the system call that begins now would change below the root; None for all others."""
    registers = (ctypes.c_ulonglong * 27)()
    if _libc.ptrace(PTRACE_GETREGS, pid, None, ctypes.addressof(registers)) != 0:
        return None
    call = registers[_ORIG_RAX]
    if name := _ON_DESCRIPTORS.get(call):
        place = _target(f"/proc/{pid}/fd/{registers[_RDI]}")
    elif name := _ON_PATHS.get(call):
        place = _text(pid, registers[_RDI])
    elif (name := _ON_PATHS_AT.get(call)) and (call != _OPENAT or registers[_RDX] & _CREATES):
        place = _text(pid, registers[_RSI])
    else:
        return None
    return f"{name} {place.removeprefix(root)}" if place.startswith(root) else None


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(address)
        return memory.read(512).partition(b"\0")[0].decode(errors="replace")
