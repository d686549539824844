"""Who may make and change token objects, and who has to be alone for it, among all processes of a host: resync with all
objects of the group, and a change with those that could be the one it changes.

Inside the process a `Gate`; between processes record locks on the configuration file, which all of them read, whoever
they run as. Only shared locks are taken, because those need no right to write: who makes or changes objects holds the
group's first byte and goes on where nobody holds the second; who wants to be alone holds the second, alone, and waits
until nobody holds the first. So who waits to be alone goes before those who come later. A resync lets them in now and
then and must not lose its place to another one meanwhile: it holds a third byte, which nobody else asks for. Who waits
for it to end holds a fifth, so that it lets nobody in where nobody waits.

Nothing here may stop an application for ever, though anybody who can read the file can hold its locks: whoever makes an
object goes on when its time is over, with a line in the log, and does not wait again until the lock was seen free. It
holds a fourth byte then, so that who is alone can see that he is not, and when it is done until that was seen: who is
alone holds a sixth byte from then on. Nothing is kept open between two uses.

Two changes of one object that met on their way over the members would leave it different on them, and a deletion would
not find it under its new name: a change is alone with the objects of its kind, by two bytes more that are used as the
group's first and second, and who deletes or copies one shares them.

Source: SEMANTICS.md section 5 (on one host resync excludes creations and changes of all processes).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from pyha.runtime import log
from pyha.runtime.gate import Gate, GateTimeout
from pyha.runtime.lock_file import LockFile

_APART = 1 << 50
"""From a group's first byte to its third, and on to each further one: beyond the first two of all groups."""
_OF_KINDS = 1 << 53
"""Where the bytes of kinds of objects begin: beyond those of all groups."""
_LONGEST_PAUSE = 0.02
"""Seconds between two looks at a lock that somebody holds."""


class Alone:
    """What whoever is alone learns: `disturbed`, that somebody went in all the same, because its time was over.
    `others`: whether somebody of another process is in now. `awaited()`: whether somebody, of whatever process, waits
    for its end, or nobody can say."""

    def __init__(self, others: Callable[[], bool] = lambda: False, awaited: Callable[[], bool] = lambda: False) -> None:
        self.disturbed = False
        self.awaited = awaited
        self._others = others

    def look(self) -> bool:
        """Whether it was disturbed until now. By another process only as far as that was seen: to be asked between any
        two things that must not be seen half of."""
        self.disturbed = self.disturbed or self._others()
        return self.disturbed


class Exclusion:
    """One group's in one process. Without `beside` it is for the threads of this process only."""

    def __init__(self, group_id: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._id = group_id
        self._gate = Gate()
        self._clock = clock
        self._alone: Alone | None = None
        self._path: str | None = None
        # Far behind the end of every file, where nobody else looks: two bytes a group.
        self._makers = _hashed(group_id)
        self._loner = self._makers + 1
        self._resync = self._makers + _APART
        self._impatient = self._resync + _APART
        self._waiting = self._impatient + _APART
        self._noticed = self._waiting + _APART
        self._patient = True
        self._unseen = False  # somebody who is alone did not look for long
        self._said: set[str] = set()

    def beside(self, path: str) -> None:
        """From now on also between all processes that read this configuration file (absolute path)."""
        self._path = path

    @contextmanager
    def shared(self, deadline: float) -> Iterator[None]:
        """While the block makes or changes token objects; many may. Waits for who is alone until `deadline` (on the
        clock), and then goes on. Raises nothing of its own."""
        patience = deadline - self._clock()
        entered = self._enter(deadline)
        try:
            file = self._opened()
            passed = False
            try:
                if file is not None:
                    with suppress(OSError):  # the application has closed it
                        if entered:
                            passed = not self._pass(file, deadline)
                        else:
                            self._pass_by(file)
                yield
            finally:
                if file is not None:
                    if passed:
                        with suppress(OSError):
                            self._be_seen(file, patience)
                    file.close()
        finally:
            if entered:
                self._gate.leave()

    @contextmanager
    def steady(self, kind: bytes, alone: bool, deadline: float) -> Iterator[None]:
        """While the block, which makes or changes token objects, wants no object of this kind changed meanwhile;
        `alone`: and changes one itself. Waits until `deadline` (on the clock) and then goes on. Raises nothing of its
        own."""
        file = self._opened()
        try:
            if file is not None:
                shared = _OF_KINDS + _hashed(self._id + kind)
                with suppress(OSError):  # the application has closed it
                    if not self._enter_kind(file, shared, alone, deadline):
                        self._say("somebody changes an object for long: others like it are changed beside it")
            yield
        finally:
            if file is not None:
                file.close()

    @contextmanager
    def alone(self, deadline: float) -> Iterator[Alone]:
        """While nobody else makes, changes or is alone, in any process. Raises GateTimeout at `deadline` (on the
        clock)."""
        self._gate.enter(deadline, alone=True, clock=self._clock)
        try:
            file = self._opened()
            self._alone = Alone(lambda: self._is_passed(file), lambda: self._is_awaited(file))
            try:
                if file is not None:
                    try:
                        file.hold(self._waiting)
                        self._hold(file, self._loner, self._makers, deadline)
                        file.drop(self._waiting)
                    except OSError:
                        raise GateTimeout from None
                yield self._alone
            finally:
                self._alone = None
                if file is not None:
                    file.close()
        finally:
            self._gate.leave()

    @contextmanager
    def resync(self, deadline: float) -> Iterator[None]:
        """The whole of one resync, in which it is `alone` again and again: another one comes after it. Raises
        GateTimeout at `deadline` (on the clock)."""
        file = self._opened()
        try:
            if file is not None:
                try:
                    self._win(file, self._resync, deadline)
                except OSError:
                    raise GateTimeout from None
            yield
        finally:
            if file is not None:
                file.close()

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

    def _pass(self, file: LockFile, deadline: float) -> bool:
        """Whether nobody was alone any more."""
        file.hold(self._waiting)
        entered = self._share(file, self._makers, self._loner, deadline if self._patient else None)
        file.drop(self._waiting)
        if entered:
            self._patient, self._unseen = True, False
            return True
        self._pass_by(file)
        self._patient = False
        self._say("somebody keeps the lock of a resync: objects are made and changed beside it")
        return False

    def _be_seen(self, file: LockFile, patience: float) -> None:
        """Whoever is alone has seen that somebody went by, or is not alone any more: it would go on with what it read
        before, if all was over between two of its looks. Not awaited for longer than `patience` (seconds), and then not
        again until the lock was seen free."""
        pauses, end = _pauses(), self._clock() + patience
        file.drop(self._makers)  # who comes to be alone now has nothing to wait for
        while not self._unseen and file.is_held(self._loner) and not file.is_held(self._noticed):
            self._unseen = self._clock() >= end
            time.sleep(next(pauses))

    def _share(self, file: LockFile, byte: int, against: int, deadline: float | None) -> bool:
        """Hold `byte`; whether nobody holds `against`. None: without waiting."""
        pauses = _pauses()
        while True:
            file.hold(byte)
            if not file.is_held(against):
                return True
            if deadline is None or self._clock() >= deadline:
                return False
            file.drop(byte)
            time.sleep(next(pauses))

    def _enter_kind(self, file: LockFile, shared: int, alone: bool, deadline: float) -> bool:
        if not alone:
            return self._share(file, shared, shared + 1, deadline)
        try:
            self._hold(file, shared + 1, shared, deadline)
        except GateTimeout:
            # Held all the same, against those that come later.
            file.hold(shared + 1)
            return False
        return True

    def _pass_by(self, file: LockFile) -> None:
        # Who comes to be alone now waits for this one, and who is alone sees it.
        file.hold(self._makers)
        file.hold(self._impatient)

    def _is_passed(self, file: LockFile | None) -> bool:
        if file is None:
            return False
        try:
            passed = file.is_held(self._impatient)
            if passed:
                file.hold(self._noticed)
            return passed
        except OSError:  # the application has closed it, and with it went all locks
            return True

    def _is_awaited(self, file: LockFile | None) -> bool:
        if self._gate.awaited:
            return True
        if file is None:
            return self._path is not None  # nobody can say
        try:
            return file.is_held(self._waiting)
        except OSError:  # the application has closed it, and with it went all locks
            return True

    def _hold(self, file: LockFile, byte: int, against: int, deadline: float) -> None:
        """Hold `byte` alone, while nobody holds `against`."""
        self._win(file, byte, deadline)
        pauses = _pauses()
        while file.is_held(against):
            self._pause(pauses, deadline)

    def _win(self, file: LockFile, byte: int, deadline: float) -> None:
        pauses = _pauses()
        while True:
            if not file.is_held(byte):
                file.hold(byte)
                # Two may have come at once: both see that, and try again at different times.
                if not file.is_held(byte):
                    return
                file.drop(byte)
            self._pause(pauses, deadline)

    def _pause(self, pauses: Iterator[float], deadline: float) -> None:
        if self._clock() >= deadline:
            raise GateTimeout
        time.sleep(next(pauses))

    def _opened(self) -> LockFile | None:
        """The file to lock; None where there is none for us, and then other processes are not excluded."""
        if self._path is None:
            return None
        try:
            file = LockFile(self._path)
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


def _hashed(what: bytes) -> int:
    """The first of two bytes."""
    return int.from_bytes(sha256(what).digest()[:6]) << 1


def _pauses() -> Iterator[float]:
    """Seconds; never the same for two processes, so that they do not meet again and again."""
    longest = 0.001
    while True:
        yield longest * (1 + int.from_bytes(os.urandom(2)) / 65536) / 2
        longest = min(2 * longest, _LONGEST_PAUSE)
