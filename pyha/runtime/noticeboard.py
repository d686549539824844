"""Where processes publish their status: a directory, one small file a process and group.

Knows directories, names and files; nothing of what is in them (`pyha.ha.status`). Nothing is kept open between two
publications: a descriptor would be closed or inherited by the application, and a mapped file would end it with SIGBUS
when somebody cut it. Every step fails quietly: an application without a status works on.

A file is named after its process, so that whoever looks can tell those of the dead, and remove them, unread.
"""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from pyha.runtime.processes import Incarnation, lives, users

SHARED = "/run/pyha"
"""For services: made by the administrator, or by whoever may make it."""

SHOWN = ".shown"
"""Ends the name of what a reader remembers about a file: goes with it."""

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_CLEANED = 64
"""Files of others that a process looks at, so that an application that crashes again and again fills no directory."""


class Name(NamedTuple):
    """A file's name: of which process, and for which slot."""

    process: Incarnation
    slot: int

    def __str__(self) -> str:
        return ".".join(map(str, (*self.process, self.slot)))

    @classmethod
    def read(cls, text: str) -> "Name | None":
        """None for a file that is none of ours."""
        parts = text.split(".")
        if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
            return None
        pid, start, namespace, slot = map(int, parts)
        return cls(Incarnation(pid, start, namespace), slot)


def runtime_directory(environ: "os._Environ[str] | dict[str, str]", secure: bool) -> str | None:
    """$XDG_RUNTIME_DIR, where it may be believed (not under AT_SECURE: the caller chose it)."""
    directory = environ.get("XDG_RUNTIME_DIR", "")
    return directory if directory.startswith("/") and not secure else None


class Preferred(NamedTuple):
    """Directories that come before those that everybody knows. `configured`: by the operator; `runtime`:
    $XDG_RUNTIME_DIR, where it may be believed."""

    configured: str | None = None
    runtime: str | None = None


def places(preferred: Preferred) -> list[str]:
    """The directories that this user publishes in, the preferred one first. Not kept: users change."""
    own = [preferred.configured] if preferred.configured is not None else []
    own += [f"{preferred.runtime}/pyha"] if preferred.runtime is not None else []
    return [*own, SHARED, f"/tmp/pyha-{os.geteuid()}"]


@contextmanager
def directory(path: str) -> Iterator[int]:
    """A descriptor of a directory that only its owner, root or nobody can turn against us. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        open_to_others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if open_to_others or (found.st_uid not in (0, os.geteuid()) and os.geteuid() != 0):
            raise PermissionError(f"{path} is not to be trusted")
        yield descriptor
    finally:
        os.close(descriptor)


def put(preferred: Preferred, name: Name, content: bytes, first: bool) -> bool:
    """Write a file in the first place that takes it; whether there was one. `first`: nothing was put there before, so
    what the dead have left is cleared."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if 0 <= limit < len(content):
        return False  # the attempt would be answered with SIGXFSZ, which ends the application
    for path in places(preferred):
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            with directory(path) as holder:
                _write(holder, str(name), content)
                if first:
                    _clear(holder)
            return True
        except OSError:
            continue
    return False


def _write(holder: int, name: str, content: bytes) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o644, dir_fd=holder)
    try:
        found = os.fstat(descriptor)
        # In a shared directory somebody may have been there before us, with a file or with a second name of ours.
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise PermissionError(f"{name} is not ours")
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


def take_away(preferred: Preferred, name: Name) -> None:
    """Remove a file wherever it was put, and what readers remember of it."""
    for path in places(preferred):
        with suppress(OSError), directory(path) as holder:
            _remove(holder, name)


def _remove(holder: int, name: Name) -> None:
    for each in (str(name), f"{name}{SHOWN}"):
        with suppress(FileNotFoundError):
            os.unlink(each, dir_fd=holder)


def _clear(holder: int) -> None:
    for text in os.listdir(holder)[:_CLEANED]:
        name = Name.read(text)
        if name is not None and lives(name.process) is False:
            with suppress(OSError):
                _remove(holder, name)


# -- reading ------------------------------------------------------------------------------------------------------


def living(path: str) -> list[Name]:
    """The files of living processes in a directory; those of the dead are removed where that is allowed. Empty where
    there is no such directory, or one that is not to be trusted."""
    found = []
    with suppress(OSError), directory(path) as holder:
        for text in sorted(os.listdir(holder)):
            name = Name.read(text)
            alive = lives(name.process) if name is not None else None
            if name is not None and alive:
                found.append(name)
            elif name is not None and alive is False:
                with suppress(OSError):
                    _remove(holder, name)
    return found


def read(path: str, name: Name, largest: int) -> bytes:
    """A file of a directory, `largest` bytes at most. Raises OSError."""
    with directory(path) as holder:
        descriptor = os.open(str(name), os.O_RDONLY | _FLAGS, dir_fd=holder)
        try:
            found = os.fstat(descriptor)
            # In a shared directory a user could speak for another one's process.
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in {0, *users(name.process.pid)}:
                raise PermissionError(f"{name} is not of its process")
            return os.read(descriptor, largest)
        finally:
            os.close(descriptor)


def remembered(path: str, name: Name) -> list[int]:
    """The numbers that `remember` wrote down; none where there are none."""
    with suppress(OSError, ValueError), directory(path) as holder:
        descriptor = os.open(f"{name}{SHOWN}", os.O_RDONLY | _FLAGS, dir_fd=holder)
        try:
            if os.fstat(descriptor).st_uid in (0, os.geteuid()):
                return [int(number) for number in os.read(descriptor, 65536).split()]
        finally:
            os.close(descriptor)
    return []


def remember(path: str, name: Name, numbers: list[int]) -> None:
    """Write numbers down beside a file, where that is allowed."""
    with suppress(OSError), directory(path) as holder:
        text = " ".join(f"{number:20}" for number in numbers)
        _write(holder, f"{name}{SHOWN}", text.encode())
