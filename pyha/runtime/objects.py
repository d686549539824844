"""Virtual object handles: one number for one object, whatever handles the members give it.

Knows handles and identities; calls no member. A handle of a member never reaches the application, nor the other way.

Source: SEMANTICS.md section 2.
"""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyha.cryptoki.plain import dataclass
from pyha.ha.identity import Identity
from pyha.runtime.member import Connection

if TYPE_CHECKING:
    from pyha.runtime.kept import Kept


@dataclass(slots=True)
class Entry:
    """One object. `session`: the virtual session a session object belongs to, and `home` the (member index,
    generation) where that lives; both None for token objects. `value_length`: bytes of a secret key, where only we
    know it. `kept`: what a session object is brought to another member from, None where it cannot be. `follows`: it
    could, when it was made, and reads as it does on any member."""

    handle: int
    identity: Identity
    session: int | None = None
    home: tuple[int, int] | None = None
    value_length: int | None = None
    kept: "Kept | None" = None
    follows: bool = False


class ObjectTable:
    """All objects that the application was given handles of, over all sessions of one group."""

    def __init__(self, connections: Sequence[Connection | None] = ()) -> None:
        """`connections`: the group's own list, which changes as members come and go."""
        self._connections = connections
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._of_sessions: dict[int, Entry] = {}
        self._by_identity: dict[Identity, int] = {}
        self._alike: set[Identity] = set()  # that two objects have had
        self._next = 1

    def get(self, handle: int) -> Entry | None:
        """The object behind a virtual handle."""
        return self._entries.get(handle)

    def entries(self) -> list[Entry]:
        """All of them, as of now."""
        with self._lock:
            return list(self._entries.values())

    def of_sessions(self) -> list[Entry]:
        """The session objects among them."""
        with self._lock:
            return list(self._of_sessions.values())

    def at_home(self, entry: Entry) -> bool:
        """Whether a session object's home still is the member that it was, and has it."""
        if entry.home is None:
            return False
        connection = self._connections[entry.home[0]]
        return connection is not None and connection.generation == entry.home[1] and entry.handle in connection.bound

    def settle_home(self, entry: Entry) -> bool:
        """Whether a session object has a home; where it lost its own, another member that it was brought to is it."""
        if self.at_home(entry):
            return True
        with self._lock:
            for index, connection in enumerate(self._connections):
                if connection is not None and entry.handle in connection.bound:
                    entry.home = (index, connection.generation)
                    return True
        return False

    def found(self, connection: Connection, real: int, identity: Identity) -> Entry:
        """The entry of a token object that a member showed: the one its handle is bound to, else a known one that is
        the same and that this member has no other handle of, else a new one. Of several that look alike and need not be
        the same no handle is carried over to another member: it could sign with another key there."""
        with self._lock:
            # Another thread's search may have bound it since the caller looked: one object has one handle.
            bound = self._entries.get(connection.known.get(real, 0))
            if bound is not None:
                return bound
            handle = self._by_identity.get(identity)
            doubtful = identity in self._alike and not identity.certain
            if handle is None or doubtful or handle in connection.bound:
                handle = self._add(identity)
            self._bind(connection, handle, real)
            return self._entries[handle]

    def made(
        self,
        identity: Identity,
        bindings: list[tuple[Connection, int]],
        session: int | None = None,
        home: tuple[int, int] | None = None,
        kept: "Kept | None" = None,
    ) -> Entry:
        """The entry of an object that was just made, with its real handle on each member that has it."""
        with self._lock:
            handle = self._add(identity)
            entry = self._entries[handle]
            entry.session, entry.home, entry.kept, entry.follows = session, home, kept, kept is not None
            if session is not None:
                self._of_sessions[handle] = entry
            for connection, real in bindings:
                self._bind(connection, handle, real)
            return entry

    def bind(self, connection: Connection, handle: int, real: int) -> None:
        """Bind a known object to a member's handle."""
        with self._lock:
            self._bind(connection, handle, real)

    def carried(self, index: int, connection: Connection, entry: Entry, real: int) -> bool:
        """A session object was made on one member more, which is its home from now on if it has lost its own. False: it
        is gone meanwhile."""
        with self._lock:
            if self._entries.get(entry.handle) is not entry:
                return False
            self._bind(connection, entry.handle, real)
            if not self.at_home(entry):
                entry.home = (index, connection.generation)
            return True

    def holder_lost(self, session: int, index: int, connection: Connection) -> None:
        """A member has dropped this virtual session's objects: what is nowhere else, and is not kept, is gone."""
        for entry in self.of_sessions():
            if entry.session == session and entry.handle in connection.bound:
                if entry.kept is None:
                    self.remove(entry.handle)
                else:
                    self.unbind(connection, entry.handle)

    def unbind(self, connection: Connection, handle: int) -> None:
        """This member's handle of the object is stale."""
        with self._lock:
            self._unbind(connection, handle)

    def changed(self, handle: int, identity: Identity) -> None:
        """The object's own attributes were changed through the group."""
        with self._lock:
            entry = self._entries.get(handle)
            if entry is not None:
                self._forget_identity(entry)
                entry.identity = identity
                self._name(identity, handle)

    def remove(self, handle: int) -> list[tuple[int, Connection, int]]:
        """The object is gone; its handle is never given again. Where it was bound: (member index, connection, real
        handle)."""
        bound = []
        with self._lock:
            entry = self._entries.pop(handle, None)
            if entry is not None:
                self._of_sessions.pop(handle, None)
                self._forget_identity(entry)
                for index, connection in enumerate(self._connections):
                    real = connection.bound.get(handle) if connection is not None else None
                    if connection is not None and real is not None:
                        bound.append((index, connection, real))
                        self._unbind(connection, handle)
        if entry is not None and entry.kept is not None:
            kept, entry.kept = entry.kept, None
            kept.wipe()
        return bound

    def remove_where(self, session: int | None = None, private: bool = False) -> None:
        """Forget a session's objects, or all private ones (logout voids their handles, section 5.6)."""
        for entry in self.of_sessions() if session is not None else self.entries():
            if (session is not None and entry.session == session) or (private and entry.identity.private):
                self.remove(entry.handle)

    def _add(self, identity: Identity) -> int:
        handle = self._next
        self._next += 1
        self._entries[handle] = Entry(handle, identity)
        self._name(identity, handle)
        return handle

    def _name(self, identity: Identity, handle: int) -> None:
        if self._by_identity.setdefault(identity, handle) != handle:
            self._alike.add(identity)

    def _forget_identity(self, entry: Entry) -> None:
        if self._by_identity.get(entry.identity) == entry.handle:
            del self._by_identity[entry.identity]

    @staticmethod
    def _unbind(connection: Connection, handle: int) -> None:
        connection.unbind(handle)

    @staticmethod
    def _bind(connection: Connection, handle: int, real: int) -> None:
        connection.bind(handle, real)
