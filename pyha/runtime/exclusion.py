"""Who may make and change token objects, and who has to be alone for it: resync, among all processes of a host.

Inside the process a `Gate`; between processes record locks on the configuration file, which all of them read, whoever
they run as. Only shared locks are taken, because those need no right to write: who makes or changes objects holds the
group's first byte and goes on where nobody holds the second; who wants to be alone holds the second, alone, and waits
until nobody holds the first. So who waits to be alone goes before those who come later.

Nothing here may stop an application for ever, though anybody who can read the file can hold its locks: whoever makes an
object goes on when its time is over, with a line in the log, and does not wait again until the lock was seen free.
Nothing is kept open between two uses. The locks belong to open file descriptions (F_OFD_SETLK): they end with the
process, and closing another descriptor of the file takes none away. Used on LP64 Linux, as all of this.

Source: SEMANTICS.md section 5 (on one host resync excludes creations and changes of all processes).
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from pyha.runtime import log
from pyha.runtime.gate import Gate, GateTimeout

_LOCK = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2)."""

_LONGEST_PAUSE = 0.02
"""Seconds between two looks at a lock that somebody holds."""


class Alone:
    """What whoever is alone learns: `disturbed`, that somebody of this process went in all the same, because its time
    was over."""

    def __init__(self) -> None:
        self.disturbed = False


class Exclusion:
    """One group's in one process. Without `beside` it is for the threads of this process only."""

    def __init__(self, group_id: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = Gate()
        self._clock = clock
        self._alone: Alone | None = None
        self._path: str | None = None
        # Far behind the end of every file, where nobody else looks: two bytes a group.
        self._makers = int.from_bytes(sha256(group_id).digest()[:6]) << 1
        self._loner = self._makers + 1
        self._patient = True
        self._said: set[str] = set()

    def beside(self, path: str) -> None:
        """From now on also between all processes that read this configuration file (absolute path)."""
        self._path = path

    @contextmanager
    def shared(self, deadline: float) -> Iterator[None]:
        """While the block makes or changes token objects; many may. Waits for who is alone until `deadline` (on the
        clock), and then goes on. Raises nothing of its own."""
        entered = self._enter(deadline)
        try:
            file = self._opened() if entered else None
            try:
                if file is not None:
                    with suppress(OSError):  # the application has closed it
                        self._pass(file, deadline)
                yield
            finally:
                if file is not None:
                    file.close()
        finally:
            if entered:
                self._gate.leave()

    @contextmanager
    def alone(self, deadline: float) -> Iterator[Alone]:
        """While nobody else makes, changes or is alone, in any process. Raises GateTimeout at `deadline` (on the
        clock)."""
        self._gate.enter(deadline, alone=True, clock=self._clock)
        try:
            self._alone = Alone()
            file = self._opened()
            try:
                if file is not None:
                    try:
                        self._hold(file, deadline)
                    except OSError:
                        raise GateTimeout from None
                yield self._alone
            finally:
                self._alone = None
                if file is not None:
                    file.close()
        finally:
            self._gate.leave()

    def _enter(self, deadline: float) -> bool:
        try:
            self._gate.enter(deadline, alone=False, clock=self._clock)
        except GateTimeout:
            alone = self._alone
            if alone is not None:
                alone.disturbed = True
            self._say("a resync of this process lasts long: objects are made and changed beside it")
            return False
        return True

    def _pass(self, file: "_File", deadline: float) -> None:
        pauses = _pauses()
        while True:
            file.hold(self._makers)
            if not file.is_held(self._loner):
                self._patient = True
                return
            if not self._patient or self._clock() >= deadline:
                break
            file.drop(self._makers)
            time.sleep(next(pauses))
        # Held all the same: who comes to be alone now waits for this one.
        self._patient = False
        self._say("somebody keeps the lock of a resync: objects are made and changed beside it")

    def _hold(self, file: "_File", deadline: float) -> None:
        pauses = _pauses()
        while True:
            if not file.is_held(self._loner):
                file.hold(self._loner)
                # Two may have come at once: both see that, and try again at different times.
                if not file.is_held(self._loner):
                    break
                file.drop(self._loner)
            self._pause(pauses, deadline)
        while file.is_held(self._makers):
            self._pause(pauses, deadline)

    def _pause(self, pauses: Iterator[float], deadline: float) -> None:
        if self._clock() >= deadline:
            raise GateTimeout
        time.sleep(next(pauses))

    def _opened(self) -> "_File | None":
        """The file to lock; None where there is none for us, and then other processes are not excluded."""
        if self._path is None:
            return None
        try:
            file = _File(self._path)
            try:
                file.is_held(self._loner)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            # A process in a chroot or under another user: it cannot be kept from its work for that.
            self._say(f"the configuration cannot be locked ({error.strerror}): other processes are not excluded")
            return None
        return file

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.log("warning", what)


def _pauses() -> Iterator[float]:
    """Seconds; never the same for two processes, so that they do not meet again and again."""
    longest = 0.001
    while True:
        yield longest * (1 + int.from_bytes(os.urandom(2)) / 65536) / 2
        longest = min(2 * longest, _LONGEST_PAUSE)


_open: dict[int, tuple[int, int]] = {}
"""Descriptors of this process that are ours now, and the file behind each (device, inode)."""


class _File:
    """The open configuration file. Every method but `close` raises OSError, also where the application has closed the
    descriptor."""

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
