"""Links: how a function of a vendor's module is run - in a helper process, or in this one.

Knows arenas (memory that both sides see), who may use one when, and the three ways a call can end without an answer.
Knows nothing of what a call means; the C side (shim/link.h, shim/arena.c) knows the process and the shared memory.
Python's lock is never held while a call is out: cffi releases it around every function of `lib`.
"""

import os
import threading
import time
from _weakref import ref  # `weakref` has what takes a millisecond to import
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from pyha.abi.native import ffi, lib

TURN = 8 * (lib.PYHA_WORDS + 1)
"""Bytes of one call of a series (shim/protocol.h): its words, its CK_RV."""

_HEAD = 256  # bytes of every arena that are the link's own (shim/protocol.h)
_ORDINARY = (64 << 10) - _HEAD  # bytes; nearly every call fits
_SPARE = 2  # larger memories that are kept for the next large call
_SPARE_CAPACITY = 16 << 20  # bytes; anything larger is given back at once
_REASON = 512
_ZEROS = bytes(4096)
_UNLIMITED = 1 << 30  # places of a link without threads of its own
_HELPER = b"pyha-host"
_AT_ONCE = 0.5  # seconds; a helper that has not mapped an arena by then is stopped
_straight_run, _ANSWERED, _MALFORMED = lib.pyha_straight_run, lib.PYHA_ANSWERED, lib.PYHA_MALFORMED


class LinkDead(Exception):
    """The helper is gone, or the link was closed. `culprit`: the helper named this very call as the one it died in."""

    def __init__(self, culprit: bool = False) -> None:
        super().__init__("the helper died in this call" if culprit else "the helper is gone")
        self.culprit = culprit


class LinkLate(Exception):
    """The deadline passed. Whatever the call still does is not seen any more; the link has to be closed."""


class LinkBusy(LinkLate):
    """The deadline passed before there was an arena, and that says nothing of the helper: no call was made."""


class LinkFailed(Exception):
    """The link could not be started; the text is one sentence without secrets."""


class Arena:
    """Memory for one call at a time, leased from a link.

    `here`: cdata 'uint8_t *', our address; `there`: int, the callee's address of the same byte; `capacity`: bytes;
    `buffer`: cffi's writable buffer over all of it; `words`: ten numbers of 64 bits, the call's arguments, to be
    filled before `Link.invoke`.
    """

    __slots__ = ("_memory", "_place", "_server", "_spoiled", "buffer", "capacity", "here", "there", "words")

    def __init__(self, memory: Any, place: "Arena | None" = None) -> None:
        """`memory`: C's arena. `place`: the arena whose thread serves this one, where it has none of its own."""
        self._memory = memory
        self._place = place or self
        self._server = self._place._memory
        self._spoiled = False  # a call that did not end may still write here
        self.here = memory.here
        self.there: int = memory.there
        self.capacity: int = memory.capacity
        self.buffer = ffi.buffer(self.here, self.capacity)
        # A memoryview takes a number in a quarter of the time that cdata takes.
        self.words = memoryview(ffi.buffer(self._server.words, 8 * lib.PYHA_WORDS)).cast("Q")


class Link(Protocol):
    """One module, and the way to call it. Threads may share it. Deadlines: seconds of time.monotonic()."""

    @property
    def native(self) -> Any:
        """cdata `pyha_link *`; None where C has none."""

    @property
    def alive(self) -> bool:
        """Whether calls can still be made. Looks at the helper; once False, always False."""

    def arena(self, capacity: int, deadline: float) -> Arena:
        """Leases an arena of at least `capacity` bytes, waiting for a place if `max_in_flight` are out.

        Raises LinkDead; LinkBusy where the time was too short; LinkLate where the helper had time to give one and is
        stopped; MemoryError where this process or the helper has nothing left to make one of.
        """

    def spare(self) -> Arena | None:
        """Leases an ordinary arena that is there and that nobody waits for."""

    def straight(self, arena: Arena, call: Any, session: int, key: int, deadline: float) -> int:
        """Runs a straight call (cdata `pyha_straight *`, shim/straight.h) with a member's handles, and gives the arena
        back: 0 where it answered CKR_OK, else PYHA_ANSWERED or PYHA_MALFORMED. Raises LinkDead, LinkLate."""

    def release(self, arena: Arena, used: int) -> None:
        """Wipes the first `used` bytes and gives the arena back. Once for each lease; never raises. Where its call has
        not returned, and may yet, nothing is wiped: the memory is gone when both sides have let go of it."""

    def invoke(self, arena: Arena, index: int, deadline: float) -> int:
        """Runs the function at `index` of the table with `arena.words`; its CK_RV.

        CKR_FUNCTION_NOT_SUPPORTED where the module has none. Raises LinkDead, LinkLate.
        """

    def series(self, arena: Arena, index: int, times: int, budget: float, deadline: float) -> int:
        """Runs the function at `index` so many times in one hand-over, with the turns (`TURN` bytes each: ten words,
        and room for the CK_RV) that the arena's memory begins with; how many were made. None is begun after `budget`
        seconds, so that `deadline` is that of one call. 0: it cannot be told. Raises ValueError where the turns are
        more than the memory, LinkDead, LinkLate."""

    def lost_express(self, place: int, outcome: int) -> Exception:
        """A call of C's through the arena of this number did not return, with this outcome: LinkDead, LinkLate or
        MemoryError. The arena is done with."""

    def offers(self, index: int) -> bool:
        """Whether the module has a function at `index` of the table."""

    def dismiss(self, deadline: float) -> None:
        """Calls in flight raise LinkDead, and the helper ends as after `close`, not at once. Returns when it is gone,
        or at the deadline. To be closed afterwards."""

    def alone(self, deadline: float) -> Arena | None:
        """Takes every place, so that nobody calls any more, and waits for the calls that are out: an arena for what
        nobody else may be inside of. None where some have not returned by the deadline, or the link has ended.
        `share` ends it, or `close`."""

    def share(self) -> None:
        """Calls may be made again."""

    def close(self, at_once: bool = True) -> bool:
        """Calls in flight raise LinkDead, and the helper is killed; or (not `at_once`) it ends when its module has
        returned from them, and at the latest at their deadlines, or some seconds from now. Never waits; may be called
        again. Whether a module in this process may still be inside of one."""


def lost_with(outcome: int) -> LinkDead | LinkLate | MemoryError:
    """What an outcome of a call is that did not return (shim/link.h)."""
    if outcome == lib.PYHA_LATE:
        return LinkLate()
    if outcome == lib.PYHA_FULL:
        return MemoryError("no memory, descriptor or thread is left for another arena")
    return LinkDead(outcome == lib.PYHA_CULPRIT)


class _Waiter:
    """A thread that waits for a place. `arena` is None when it is woken because the link has ended."""

    __slots__ = ("arena", "woken")

    def __init__(self) -> None:
        self.arena: Arena | None = None
        self.woken = threading.Lock()
        self.woken.acquire()


def _address(handle: Any) -> int:
    return int(ffi.cast("uintptr_t", handle))


class _Link:
    """Both links: they differ in C, and here in how they are opened."""

    def __init__(self, handle: Any, max_in_flight: int) -> None:
        # Memory is unmapped when the last who uses it lets go: our arenas hold C's, and those hold C's link.
        self._handle = ffi.gc(handle, lib.pyha_link_drop)
        self._offered = tuple(bool(lib.pyha_link_offers(handle, index)) for index in range(lib.PYHA_FUNCTIONS))
        self._closed = False
        self._let_go = False  # the helper lives on, for the calls that are out
        self._idle: list[Arena] = []
        self._arenas: list[Arena] = []  # the ordinary ones, by number: C has others that are idle (shim/places.h)
        self._lock = threading.Lock()  # for what follows; not needed while an arena is idle
        self._waiting: deque[_Waiter] = deque()
        self._places = self._most = max_in_flight
        self._made = 0
        self._taken: list[Arena] = []
        self._spare: list[Any] = []
        _links[_address(handle)] = ref(self)

    @property
    def native(self) -> Any:
        return self._handle

    @property
    def alive(self) -> bool:
        return bool(lib.pyha_link_alive(self._handle))

    def offers(self, index: int) -> bool:
        return self._offered[index]

    def arena(self, capacity: int, deadline: float) -> Arena:
        try:
            place = self._idle.pop() if not self._waiting else self._lease(deadline)
        except IndexError:
            place = self._lease(deadline)
        if capacity <= place.capacity:
            return place
        try:
            return Arena(self._large(capacity, deadline), place)
        except BaseException:
            self._give_back(place)
            raise

    def spare(self) -> Arena | None:
        return self._take() if not self._waiting else None

    def _take(self) -> Arena | None:
        try:
            return self._idle.pop()
        except IndexError:
            return self._numbered(lib.pyha_place_take(self._handle))

    def _numbered(self, number: int) -> Arena | None:
        try:
            return self._arenas[number] if number >= 0 else None
        except IndexError:  # the link was closed meanwhile
            return None

    def straight(self, arena: Arena, call: Any, session: int, key: int, deadline: float) -> int:
        try:
            outcome: int = _straight_run(call, arena._memory, session, key, deadline)
        except BaseException:
            # A Python program's handler of a signal has raised between two steps of ours.
            self._straight_end(arena, call.outcome)
            raise
        return self._straight_end(arena, outcome)

    def _straight_end(self, arena: Arena, outcome: int) -> int:
        if outcome and outcome != _ANSWERED and outcome != _MALFORMED:
            arena._spoiled = True
            self.release(arena, arena.capacity)
            raise self._ended(outcome)
        if not self._closed:
            if outcome or not lib.pyha_place_put(arena._memory):
                self._idle.append(arena)
            if self._waiting:
                self._serve()
        return outcome

    def release(self, arena: Arena, used: int) -> None:
        if arena._spoiled and self._let_go:
            # The module may be inside of the call yet, and have its time: a PIN that is wiped under it would be a wrong
            # one. The memory goes with its last user.
            return
        if used <= len(_ZEROS):
            ffi.memmove(arena.here, _ZEROS, used)
        else:
            lib.pyha_arena_wipe(arena._memory, used)
        if arena._spoiled or self._closed:
            return
        place = arena._place
        if place is not arena:
            self._put_aside(arena._memory)
        self._give_back(place)

    def invoke(self, arena: Arena, index: int, deadline: float) -> int:
        server = arena._server
        outcome = lib.pyha_arena_call(server, index, deadline)
        if outcome:
            arena._spoiled = True
            raise self._ended(outcome)
        rv: int = server.rv
        return rv

    def series(self, arena: Arena, index: int, times: int, budget: float, deadline: float) -> int:
        if times * TURN > arena.capacity:
            raise ValueError("a series of more turns than there is room for")
        server = arena._server
        outcome = lib.pyha_arena_series(server, index, arena.there, times, budget, deadline)
        if outcome:
            arena._spoiled = True
            raise self._ended(outcome)
        made: int = server.made
        return made

    def lost_express(self, place: int, outcome: int) -> Exception:
        arena = self._numbered(place)
        if arena is not None:
            arena._spoiled = True
            self.release(arena, arena.capacity)
        return self._ended(outcome)

    def dismiss(self, deadline: float) -> None:
        self._let_go = self._let_go or self.alive
        lib.pyha_link_dismiss(self._handle, deadline)

    def alone(self, deadline: float) -> Arena | None:
        with self._lock:
            self._places = 0
            self._tell_who_waits()
        try:
            # Whoever came before us goes before us.
            while len(self._taken) < self._made:
                self._taken.append(self._lease(deadline))
        except (LinkDead, LinkLate):
            return None
        return self._taken[0] if self._taken else None

    def share(self) -> None:
        with self._lock:
            self._places = self._most
            self._idle += self._taken
            self._taken.clear()
        self._serve()

    def close(self, at_once: bool = True) -> bool:
        again, self._closed = self._closed, True
        self._let_go = self._let_go or (not at_once and self.alive)
        if not lib.pyha_link_close(self._handle, at_once):
            return False  # a forked child, where nobody would ever release our lock
        # Who takes an arena from now on finds that the link has ended.
        idle = len(self._idle) + lib.pyha_places_idle(self._handle)
        out = not again and self._made > idle + len(self._taken)
        self._serve()
        self._idle.clear()
        lib.pyha_places_shut(self._handle)
        self._arenas.clear()
        _links.pop(_address(self._handle), None)
        self._taken.clear()
        self._spare.clear()
        return out

    def _ended(self, outcome: int) -> LinkDead | LinkLate | MemoryError:
        loss = lost_with(outcome)
        if isinstance(loss, LinkDead):
            self._serve()
        return loss

    def _make(self, capacity: int, serves: bool, deadline: float) -> Any:
        made = ffi.new("pyha_arena **")
        begun = time.monotonic()
        outcome = lib.pyha_arena_make(self._handle, capacity, serves, deadline, made)
        if outcome == lib.PYHA_LATE and deadline - begun < _AT_ONCE:
            raise LinkBusy
        if outcome:
            raise self._ended(outcome)
        return ffi.gc(made[0], lib.pyha_arena_drop)

    # Places: an ordinary arena is a place. First come, first served.

    def _lease(self, deadline: float) -> Arena:
        place = self.spare()
        if place is not None:
            return place
        with self._lock:
            grow = self._made < self._places and not self._waiting
            self._made += grow
        if grow:
            try:
                return self._number(Arena(self._make(_ORDINARY, True, deadline)))
            except BaseException as error:
                with self._lock:
                    self._made -= 1
                if not isinstance(error, MemoryError) or not self._made:
                    raise
        return self._wait(deadline)

    def _number(self, arena: Arena) -> Arena:
        with self._lock:
            arena._memory.place = len(self._arenas)
            self._arenas.append(arena)
        return arena

    def _wait(self, deadline: float) -> Arena:
        waiter = _Waiter()
        with self._lock:
            self._waiting.append(waiter)
            self._tell_who_waits()
        self._serve()  # whoever gave an arena back a moment ago saw nobody waiting
        if not waiter.woken.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)):
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    self._tell_who_waits()
                    raise LinkBusy
        if waiter.arena is None:
            raise LinkDead
        return waiter.arena

    def _serve(self) -> None:
        """Hands idle arenas to those who wait; wakes them all once the link has ended."""
        ended = not self.alive
        with self._lock:
            while self._waiting:
                arena = None if ended else self._take()
                if arena is None and not ended:
                    return
                waiter = self._waiting.popleft()
                waiter.arena = arena
                waiter.woken.release()
            self._tell_who_waits()

    def _tell_who_waits(self) -> None:
        """C takes no arena while somebody waits for one, or for all of them. With the lock."""
        lib.pyha_places_await(self._handle, bool(self._waiting) or not self._places)

    def _give_back(self, place: Arena) -> None:
        self._idle.append(place)
        if self._waiting:
            self._serve()

    # Large memories: each serves one call beside a place, then is kept or unmapped.

    def _large(self, capacity: int, deadline: float) -> Any:
        with self._lock:
            for position, memory in enumerate(self._spare):
                if memory.capacity >= capacity:
                    return self._spare.pop(position)
        return self._make((1 << (capacity + _HEAD - 1).bit_length()) - _HEAD, False, deadline)

    def _put_aside(self, memory: Any) -> None:
        with self._lock:
            if memory.capacity <= _SPARE_CAPACITY and len(self._spare) < _SPARE:
                self._spare.append(memory)
                return
        lib.pyha_arena_forget(memory)


_links: dict[int, ref[_Link]] = {}


@ffi.def_extern()
def pyha_dispatch_place(link: int) -> None:
    """An arena that C had borrowed is free again, and somebody waits for one."""
    found = _links.get(link)
    waited_for = found() if found is not None else None
    if waited_for is not None:
        waited_for._serve()


def _open(handle: Any, reason: Any, max_in_flight: int) -> Link:
    if not handle:
        raise LinkFailed(ffi.string(reason).decode(errors="replace"))
    return _Link(handle, max_in_flight)


def keep_environment() -> None:
    """From now on helpers inherit the environment as it is at this moment. For C_Initialize, on the application's
    thread. Raises MemoryError."""
    if lib.pyha_link_keep_environment():
        raise MemoryError


def open_process(
    module: str, environment: Mapping[str, str], deadline: float, max_in_flight: int = 64, title: str = ""
) -> Link:
    """Starts a helper process that loads `module` (absolute path) and waits until it has.

    `environment`: settings over those of this process; `title`: shown to whoever lists processes. Raises LinkFailed.
    """
    program = os.path.join(os.path.dirname(ffi.string(lib.pyha_own_path())), _HELPER)
    settings = [ffi.new("char[]", os.fsencode(f"{name}={value}")) for name, value in environment.items()]
    reason = ffi.new("char[]", _REASON)
    handle = lib.pyha_link_start(
        program,
        os.fsencode(module),
        os.fsencode(title),
        ffi.new("char *[]", [*settings, ffi.NULL]),
        deadline,
        reason,
        _REASON,
    )
    return _open(handle, reason, max_in_flight)


def open_local(module: str) -> Link:
    """Loads `module` (absolute path) into this process: calls run on the caller's thread, without deadline or
    protection, and `there` is `here`. Raises LinkFailed."""
    reason = ffi.new("char[]", _REASON)
    return _open(lib.pyha_link_load(os.fsencode(module), reason, _REASON), reason, _UNLIMITED)
