"""The books of the express way (shim/express.h), as Python keeps them: what it tells C, and what C has counted.

Knows C memory and numbers; what they mean is `pyha.runtime.express`'s. C's lock is held for moments, and no call of a
member is made under it.
"""

from collections.abc import Sequence
from typing import Any

from pyha.abi.native import ffi, lib

TURNS: int = lib.PYHA_TURNS
"""Kinds of calls that go round by themselves, by the remainder of their number."""

NOBODY = -1
"""Instead of a CK_USER_TYPE."""


def begin_run() -> int:
    """From now on sessions belong to a new run of the module: its number. Raises MemoryError."""
    run: int = lib.pyha_express_begin()
    if not run:
        raise MemoryError
    return run


def end_run(run: int) -> None:
    """C_Finalize: no session of this run is found any more. Another thread may have begun the next already."""
    lib.pyha_express_end(run)


def _made(cdata: Any) -> Any:
    if not cdata:
        raise MemoryError
    return cdata


class Books:
    """One group's. `means`: seconds that calls of each function take of late, by its index, 0.0 where none has come
    back; `turns`: counts of choices, by the remainder of their kind; both are C's too."""

    def __init__(self, turn: int) -> None:
        """`turn`: where the choices begin, 0 to 2**32 - 1. Raises MemoryError."""
        self._group = ffi.gc(_made(lib.pyha_group_make(turn)), lib.pyha_group_drop)
        functions = lib.PYHA_FUNCTIONS
        self.means = memoryview(ffi.buffer(lib.pyha_group_means(self._group), 8 * functions)).cast("d")
        self.turns = memoryview(ffi.buffer(lib.pyha_group_turns(self._group), 4 * TURNS)).cast("I")

    def patience(self, seconds: Sequence[float]) -> None:
        """What a call of each function may take, by its index."""
        lib.pyha_group_patience(self._group, ffi.new("double[]", list(seconds)))

    def user(self, user: int | None) -> None:
        """Who the application is logged in as."""
        lib.pyha_group_user(self._group, NOBODY if user is None else user)

    def open(self, seats: Sequence["Seat"]) -> None:
        """These serve, in this order. None: what begins is Python's. Raises MemoryError."""
        if lib.pyha_group_open(self._group, ffi.new("pyha_seat *[]", [seat.native for seat in seats]), len(seats)):
            raise MemoryError

    def allow(self, mechanism: int, parameter_length: int) -> None:
        """A mechanism that the group offers, and whose parameter of this length (bytes) is plain bytes."""
        lib.pyha_group_allow(self._group, mechanism, parameter_length)

    def forbid(self) -> None:
        """No mechanism is known to be one of those any more."""
        lib.pyha_group_forbid(self._group)

    def seat(self, link: Any, identity: int) -> "Seat":
        """A seat for a connection, which has this number. `link`: cdata `pyha_link *`. Raises MemoryError."""
        return Seat(_made(lib.pyha_seat_make(self._group, link, identity)))

    def session(self, handle: int, run: int) -> "Lent | None":
        """A session of the application, Python's until it is granted. None: that run is over."""
        made = lib.pyha_session_make(self._group, handle, run)
        return Lent(made) if made else None


class Seat:
    """One connection of a member. `native`: cdata `pyha_seat *`. `elsewhere`: [seconds of the load that it has by calls
    of Python's]. `books`, of C's calls alone: [nanoseconds of load, calls in flight, operations completed]. `used`:
    [when one came back last, seconds of time.monotonic()]."""

    __slots__ = ("books", "elsewhere", "native", "used")

    def __init__(self, seat: Any) -> None:
        self.native = ffi.gc(seat, lib.pyha_seat_drop)
        self.elsewhere = memoryview(ffi.buffer(lib.pyha_seat_elsewhere(seat), 8)).cast("d")
        self.books = memoryview(ffi.buffer(lib.pyha_seat_books(seat), 8 * 3)).cast("q")
        self.used = memoryview(ffi.buffer(lib.pyha_seat_used(seat), 8)).cast("d")

    def close(self) -> None:
        """The member is lost."""
        lib.pyha_seat_close(self.native)

    @property
    def forsaken(self) -> bool:
        """Whether no call and no operation of C's is there."""
        return bool(lib.pyha_seat_users(self.native) == 1)

    def user(self, user: int | None, logins: int) -> None:
        """Who is logged in there; the count of logins."""
        lib.pyha_seat_user(self.native, NOBODY if user is None else user, logins)

    def bind(self, handle: int, real: int) -> None:
        """A virtual object handle has this real one there."""
        lib.pyha_seat_bind(self.native, handle, real)

    def unbind(self, handle: int) -> None:
        """It has none, or another."""
        lib.pyha_seat_unbind(self.native, handle)

    def unbind_all(self) -> None:
        """None has one."""
        lib.pyha_seat_unbind_all(self.native)

    def put(self, real: int) -> bool:
        """A real session that has no operation. False: it stays the caller's."""
        return bool(lib.pyha_seat_put(self.native, real))

    def take(self) -> int:
        """One of those; 0: there is none."""
        real: int = lib.pyha_seat_take(self.native)
        return real


class Lent:
    """A session of the application that C may have."""

    __slots__ = ("_session",)

    def __init__(self, session: Any) -> None:
        self._session = ffi.gc(session, lib.pyha_session_drop)

    def grant(self) -> None:
        """It is C's, with no operation open."""
        lib.pyha_session_grant(self._session)

    def claim(self) -> Any:
        """It is Python's again, once the call that is out has come back: cdata `pyha_record` of the operation that is
        open, to be given to `settled` afterwards; None: there is none."""
        record = ffi.new("pyha_record *")
        return record if lib.pyha_session_claim(self._session, record) else None

    def end(self) -> None:
        """Its handle is void."""
        lib.pyha_session_end(self._session)


def settled(record: Any) -> None:
    """Python has taken over what `Lent.claim` told."""
    lib.pyha_seat_drop(record.seat)


def parameter_of(record: Any) -> bytes | None:
    """The mechanism's parameter, None where it has none."""
    length = record.parameter_length
    return ffi.buffer(record.parameter, length)[:] if length else None


def seat_of(thing: Any) -> int:
    """The number of the connection that a record or a call (cdata) is of."""
    identity: int = lib.pyha_seat_identity(thing.seat)
    return identity
