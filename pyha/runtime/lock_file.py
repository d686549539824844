"""Record locks on a file that one may only read: shared ones, asked for without waiting.

Knows descriptors inside other people's programs: the application may close every one of them, and open its own files
under their numbers; a fork copies them. The locks belong to open file descriptions (F_OFD_SETLK): they end with the
process, and closing another descriptor of the file takes none away. Used on LP64 Linux, as all of this.

Source: fcntl(2), "Open file description locks".
"""

import errno
import fcntl
import os
import struct
from contextlib import suppress

_LOCK = struct.Struct("@hhqqi4x")
"""struct flock."""

_open: dict[int, tuple[int, int]] = {}
"""Descriptors of this process that are ours now, and the file behind each (device, inode)."""


class LockFile:
    """An open file (absolute path), bytes of which are locked. Every method but `close` raises OSError, also where the
    application has closed the descriptor."""

    def __init__(self, path: str) -> None:
        while True:
            self._descriptor = _above_standard(os.open(path, _FLAGS))
            try:
                found = os.fstat(self._descriptor)
                self._file = found.st_dev, found.st_ino
                _open[self._descriptor] = self._file
                now = os.stat(path, follow_symlinks=False)
            except OSError:
                os.close(self._descriptor)
                _open.pop(self._descriptor, None)
                raise
            if (now.st_dev, now.st_ino) == self._file:
                return
            self.close()  # it was replaced meanwhile, and who comes later locks the new one

    def hold(self, byte: int) -> None:
        """Lock it, shared."""
        self._set(fcntl.F_RDLCK, byte)

    def drop(self, byte: int) -> None:
        """Unlock it."""
        self._set(fcntl.F_UNLCK, byte)

    def is_held(self, byte: int) -> bool:
        """Whether anybody else has it locked."""
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer: bytes = fcntl.fcntl(self._ours(), fcntl.F_OFD_GETLK, asked)
        return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """All is unlocked, in a child that has a copy of the descriptor too. Raises nothing."""
        with suppress(OSError):
            self._set(fcntl.F_UNLCK, 0, 0)
        _close(self._descriptor, self._file)

    def _set(self, kind: int, byte: int, count: int = 1) -> None:
        fcntl.fcntl(self._ours(), fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, byte, count, 0))

    def _ours(self) -> int:
        if not _is_ours(self._descriptor, self._file):
            raise OSError(errno.EBADF, "closed by the application")
        return self._descriptor


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def _above_standard(descriptor: int) -> int:
    """Another descriptor instead of 0, 1 or 2: who closed those may have somebody else use them."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, file: tuple[int, int]) -> bool:
    """The application may have closed it, and opened another file under its number."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file


def _close(descriptor: int, file: tuple[int, int]) -> None:
    _open.pop(descriptor, None)
    if _is_ours(descriptor, file):
        with suppress(OSError):
            os.close(descriptor)


def _in_child() -> None:
    # A copy keeps the lock when the parent is killed. Unlocking is the parent's business.
    for descriptor, file in list(_open.items()):
        _close(descriptor, file)


os.register_at_fork(after_in_child=_in_child)
