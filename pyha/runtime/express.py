"""The express way: what Python tells C so that calls need no Python (shim/express.h), and takes over from it.

Knows which connections serve, what went the straight way, and the sessions that C may have; decides nothing: who is
chosen is `ha.selection`'s rule, what an answer means is the general way's. Whatever C does not know, or that is not
as usual, is Python's as if there were no such way.

Sources: SEMANTICS.md sections 2 and 3; docs/performance.md.
"""

import threading
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from pyha.abi.express import Books, Lent, Seat, parameter_of, seat_of, settled
from pyha.cryptoki.functions import FUNCTIONS
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Mechanism, Parameter
from pyha.ha.journal import Entry, Journal
from pyha.runtime.member import Connection
from pyha.runtime.session import Place, VirtualSession

if TYPE_CHECKING:
    from pyha.runtime.group import GroupRuntime


_identities = count(1)  # of seats, in all groups


@dataclass(slots=True)
class _Seated:
    """A connection that C knows: of which member."""

    index: int
    connection: Connection
    seat: Seat


class Express:
    """One group's express way. `books`: shared with C. `is_open`: calls may begin there."""

    def __init__(self, turn: int) -> None:
        """`turn`: where the choices begin. Raises MemoryError."""
        self.books = Books(turn)
        self.is_open = False
        self.run = 0  # whose sessions they are
        self._lock = threading.Lock()
        self._seated: dict[int, _Seated] = {}
        self._served: dict[int, int] = {}  # member -> by connections that are gone

    def admit(self, index: int, connection: Connection) -> None:
        """The connection is the member's from now on. Raises MemoryError."""
        link = connection.native
        if link is None:
            return
        self._sweep()  # of members that come and go there is one after the other, and none may ever be opened
        with self._lock:
            identity = next(_identities)
            seat = self.books.seat(link, identity)
            self._seated[identity] = _Seated(index, connection, seat)
        connection.take_seat(seat)

    def open(self, connections: Sequence[Connection | None], patience: Sequence[float]) -> None:
        """These serve, in this order; what a call of each function may take (seconds), by its index. The caller holds
        the lock under which they change. Raises MemoryError."""
        seats = [connection.seat for connection in connections if connection is not None]
        open_ones = [seat for seat in seats if seat is not None]
        if not open_ones or len(open_ones) != len(connections):
            return
        self.books.patience(patience)
        for connection in connections:
            assert connection is not None
            connection.tell_user()  # a login that came while the seat was made
        self.books.open(open_ones)
        self.is_open = True
        self._sweep()

    def shut(self) -> None:
        """Who serves is to be asked anew."""
        if self.is_open:
            self.is_open = False
            self.books.open(())

    def _sweep(self) -> None:
        """Forgets connections that are closed, once C has let go of them too."""
        with self._lock:
            for identity, seated in list(self._seated.items()):
                if seated.connection.seat is None and seated.seat.forsaken:
                    self._served[seated.index] = self._served.get(seated.index, 0) + seated.seat.books[2]
                    del self._seated[identity]

    def has(self, identity: int) -> bool:
        """Whether this seat, which C has not let go of, is of this group."""
        return identity in self._seated

    def connection(self, identity: int) -> tuple[int, Connection]:
        """(member index, connection) of a seat that C has not let go of."""
        seated = self._seated[identity]
        return seated.index, seated.connection

    def counts(self, index: int) -> tuple[float, int, int, float]:
        """Of a member: load in seconds, calls in flight, operations completed, when one came back last."""
        load, in_flight, used = 0.0, 0, 0.0
        with self._lock:
            served = self._served.get(index, 0)
            for seated in self._seated.values():
                if seated.index == index:
                    books = seated.seat.books
                    load, in_flight, served = load + books[0] / 1e9, in_flight + books[1], served + books[2]
                    used = max(used, seated.seat.used[0])
        return load, in_flight, served, used


class Lending:
    """One session, lent to C as long as Python has nothing to do with it. The caller holds the session's lock."""

    __slots__ = ("_group", "_lent", "_session", "lent")

    def __init__(self, group: "GroupRuntime", session: VirtualSession, lent: Lent) -> None:
        self._group = group
        self._session = session
        self._lent = lent
        self.lent = False

    def claim(self) -> None:
        """Python has something to do with it."""
        record = self._lent.claim()
        self.lent = False  # not before: whoever is interrupted in between claims it once more
        if record is not None:
            try:
                self._take_over(record)
            finally:
                settled(record)

    def grant(self) -> None:
        """Python is done with it, for now or for good."""
        session = self._session
        if session.closed:
            self._lent.end()
            session.lock.lending = None  # else the two would keep each other until a collection of garbage
        elif not session.journals and session.place is None:
            self.lent = True
            self._lent.grant()

    def _take_over(self, record: Any) -> None:
        """An operation that C has begun goes on here."""
        group, session = self._group, self._session
        index, connection = group.express.connection(seat_of(record))
        function = FUNCTIONS[record.index]
        assert function.operation is not None
        weight = record.weight / 1e9
        group.add_load(index, weight)
        session.place = Place(index, connection, record.real, weight)
        raw = parameter_of(record)
        values: list[Any] = [session.handle, Mechanism(record.mechanism, None if raw is None else Parameter(raw))]
        if len(function.arguments) > len(values):
            values.append(record.key)
        session.journals[function.operation] = Journal(group.settings.journal_limit, [Entry(function, values, None)])


def lend(group: "GroupRuntime", session: VirtualSession) -> None:
    """C may have this session from now on, while its lock is free. The caller holds that."""
    lent = group.express.books.session(session.handle, group.express.run)
    if lent is not None:
        session.lock.lending = Lending(group, session, lent)
