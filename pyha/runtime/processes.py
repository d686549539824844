"""Which process this is, and whether another one that wrote something down still lives.

Knows /proc. A process number alone proves nothing, because it is given again: the start time goes with it, and the
process number namespace, because another container counts for itself.
"""

import os
from typing import NamedTuple


class Incarnation(NamedTuple):
    """One process for good. `start`: clock ticks after the machine's start; `namespace`: inode of its process number
    namespace."""

    pid: int
    start: int
    namespace: int


def ourselves() -> Incarnation:
    """This process. Raises OSError where there is no /proc."""
    pid = os.getpid()
    return Incarnation(pid, _start(pid), os.stat("/proc/self/ns/pid").st_ino)


def executable(pid: int) -> tuple[int, int]:
    """Device and inode of what a process runs. Raises OSError where that is not for us to know."""
    found = os.stat(f"/proc/{pid}/exe")
    return found.st_dev, found.st_ino


def program(pid: int) -> str:
    """The name of what a process runs; "?" where that is not for us to know."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return "?"


def lives(process: Incarnation) -> bool | None:
    """Whether this process lives; None where it cannot be known from here."""
    try:
        if os.stat("/proc/self/ns/pid").st_ino != process.namespace:
            return None
        return _start(process.pid) == process.start
    except (FileNotFoundError, ProcessLookupError):
        # With hidepid other users' processes are not shown at all.
        return False if os.geteuid() == 0 or _shows(1) else None
    except OSError:
        return None


def users(pid: int) -> frozenset[int]:
    """The user ids that a process has. Raises OSError."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"Uid:"):
            return frozenset(map(int, line.split()[1:]))
    return frozenset()


def _shows(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/stat")


def _start(pid: int) -> int:
    # The name of the program, in parentheses, may hold anything.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if fields[0] == b"Z":
        raise ProcessLookupError
    return int(fields[19])


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()
