"""Processes of another user, or of the same without root's powers: what they can get at of a process. Root only."""

import ctypes
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

STRANGER = 65533
_PR_CAPBSET_DROP = 24  # linux/prctl.h
_CAPABILITIES_3 = 0x20080522  # linux/capability.h
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17  # linux/ptrace.h

_NEEDED = 1 << 6 | 1 << 7 | 1 << 8  # CAP_SETGID, CAP_SETUID, CAP_SETPCAP


def _capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or _capabilities() & _NEEDED != _NEEDED, reason="only root can be several users"
)


def only_root_by_name() -> None:
    """In a child that goes on to another program: user 0, which may do there what any user may with its own."""
    prctl = ctypes.CDLL(None).prctl
    capability = 0
    while prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    assert capability > 30


def as_the_same() -> None:
    """In a child: the same as `only_root_by_name`, at once."""
    nothing = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), nothing) == 0


def as_stranger() -> None:
    """In a child: another user."""
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)


def seen(become: Callable[[], None], pid: int) -> set[str]:
    """What a process that became somebody can get at of this one."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            become()
            os.write(writer, json.dumps(_reached(pid)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return set(json.loads(told))


def _reached(pid: int) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    # The shared memory and the control sockets have no name but those of their descriptors.
    for name in ("mem", "maps", "environ", "auxv", *(f"fd/{each}" for each in range(64))):
        with suppress(OSError):
            os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_NONBLOCK))
            found.append(name.split("/")[0])
    if libc.ptrace(_PTRACE_SEIZE, pid, None, None) == 0:
        libc.ptrace(_PTRACE_DETACH, pid, None, None)
        found.append("ptrace")
    return found
