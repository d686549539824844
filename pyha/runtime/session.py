"""A virtual session: what the application sees as one session, over real ones on several members.

Plain state, guarded by the session's own lock; calls no member. At most one member holds the open operations of a
session; a second operation follows the first (SEMANTICS.md section 3).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Operation
from pyha.cryptoki.plain import dataclass, field
from pyha.ha.journal import Journal
from pyha.runtime.member import Clock, Connection, MemberBusy


@dataclass(slots=True)
class Place:
    """Where a session's open operations are: a member's real session, kept until the last of them ends.

    `weight`: seconds of expected work by which the member's load was raised.
    """

    index: int
    connection: Connection
    real: int
    weight: float


class Lending(Protocol):
    """A session that C has while Python has nothing to do with it (`runtime.express`). `lent`: it has it now."""

    lent: bool

    def claim(self) -> None: ...

    def grant(self) -> None: ...


class SessionLock:
    """A session's lock, which its thread may take again. `lending`: set once C may have the session, which is claimed
    for as long as the lock is held."""

    __slots__ = ("_depth", "_lock", "lending")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self.lending: Lending | None = None

    def acquire(self) -> None:
        """Waits for whoever has it, and for a call of C's that is out. Raises MemoryError."""
        self._lock.acquire()
        depth = self._depth
        try:
            self._depth = depth + 1
            lending = self.lending
            if lending is not None and lending.lent:
                lending.claim()
        except BaseException:
            # A Python program's handler of a signal may raise between any two steps.
            self._depth = depth
            self._lock.release()
            raise

    def release(self) -> None:
        """Once for each `acquire`."""
        try:
            self._depth -= 1
            lending = self.lending
            if lending is not None and not self._depth:
                lending.grant()
        finally:
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.release()


@dataclass(slots=True, eq=False)
class VirtualSession:
    """`writable`: opened with CKF_RW_SESSION. `journals`: of each open operation. `found`: object handles of the open
    search that were not fetched yet, None where none is open. `holders`: member index -> (generation, real session) on
    which the session's own objects live, never one that runs operations. `holding`: guards those against calls on other
    sessions, which may use this one's objects; taken after a session's lock, never before."""

    handle: int
    slot: int
    writable: bool
    lock: SessionLock = field(default_factory=SessionLock)
    place: Place | None = None
    journals: dict[Operation, Journal] = field(default_factory=dict)
    found: list[int] | None = None
    holders: dict[int, tuple[int, int]] = field(default_factory=dict)
    holding: threading.RLock = field(default_factory=threading.RLock)
    closed: bool = False

    def holder(self, index: int, connection: Connection, deadline: float) -> int:
        """The real session on that member that session objects are made on; opened when first needed."""
        with self.hold(deadline, connection.clock):
            held = self.holders.get(index)
            if held is None or held[0] != connection.generation:
                held = (connection.generation, connection.open_session(deadline))
                self.holders[index] = held
            return held[1]

    @contextmanager
    def hold(self, deadline: float, clock: Clock) -> Iterator[None]:
        """Nobody else makes, brings or changes an object of this session meanwhile. Raises MemberBusy at the
        deadline."""
        if not self.holding.acquire(timeout=min(max(deadline - clock(), 0), threading.TIMEOUT_MAX)):
            raise MemberBusy(ck.CKR_DEVICE_ERROR)
        try:
            yield
        finally:
            self.holding.release()

    def end(self, operation: Operation) -> None:
        """The operation is over, its journal wiped."""
        journal = self.journals.pop(operation, None)
        if journal is not None:
            journal.wipe()
