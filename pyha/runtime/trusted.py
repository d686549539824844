"""Reading a file that others could use against the process: the configuration names libraries to load, a PIN file is a
secret.

Knows owners and modes; nothing of what the content means. Everything is checked on descriptors, so what was checked is
what is read.
"""

import errno
import os
import stat

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_OTHERS = stat.S_IRWXO


class FileRefused(Exception):
    """The file cannot be read or must not be believed. `str()` is the predicate of a sentence whose subject is the
    file."""


def read(path: str, limit: int, *, private: bool = False) -> bytearray:
    """The content of the file at the absolute `path`, at most `limit` bytes; the only copy, which the caller may wipe.

    The file and the directory that holds it must belong to root or to the effective user and be writable by nobody
    else; a `private` file must not be open to others in any way (its group may read it). Raises FileRefused.
    """
    holder, name = holding(path)
    try:
        # O_NOFOLLOW: behind a symbolic link lies another directory, which nobody would have checked.
        # O_NONBLOCK: a FIFO in the file's place must not hold up the application.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(name, flags, dir_fd=holder)
        try:
            return _content(path, descriptor, limit, private)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileRefused("is a symbolic link: name the file itself, so that its directory is checked") from None
        raise FileRefused(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(holder)


def holding(path: str) -> tuple[int, str]:
    """A descriptor (O_PATH) of the directory that holds `path`, once it was found to belong to root or the effective
    user and to be writable by nobody else; and the name in it. The caller closes it. Raises FileRefused."""
    if not os.path.isabs(path) or "\0" in path:
        raise FileRefused("is not an absolute path")
    directory, name = os.path.split(path)
    try:
        # O_PATH: a directory that may be searched and not listed will do.
        holder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _judge(directory, os.fstat(holder), _WRITABLE, "lies in a directory that ")
        except FileRefused:
            os.close(holder)
            raise
    except OSError as error:
        raise FileRefused(f"cannot be read: {error.strerror}") from None
    return holder, name


def _content(path: str, descriptor: int, limit: int, private: bool) -> bytearray:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused("is not a regular file")
    _judge(path, status, _WRITABLE | (_OPEN_TO_OTHERS if private else 0))
    scratch = bytearray(min(status.st_size, limit) + 1)
    view = memoryview(scratch)
    try:
        used = 0
        while used < len(scratch) and (got := os.readv(descriptor, [view[used:]])):
            used += got
        if used > limit:
            raise FileRefused(f"is longer than {limit} bytes")
        return bytearray(view[:used])
    finally:
        view[:] = bytes(len(view))


def _judge(path: str, status: os.stat_result, forbidden: int, what: str = "") -> None:
    user = os.geteuid()
    if status.st_uid not in (0, user):
        raise FileRefused(f"{what}belongs to user {status.st_uid}: it must belong to root or to user {user}")
    if status.st_mode & forbidden & _WRITABLE:
        raise FileRefused(f"{what}is writable by others than its owner: chmod go-w {path}")
    if status.st_mode & forbidden:
        raise FileRefused(f"{what}is open to every user: chmod o-rwx {path}")
