"""Policies for calls that are complete in themselves: one member, chosen by load or the primary.

Knows how one call is tried on one member; which members there are and what an answer means is `failover`'s.

Source: SEMANTICS.md sections 2 and 3 (single-part crypto, retrieval).
"""

from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function, Route
from pyha.cryptoki.values import Out
from pyha.runtime.binding import MECHANISMS_AT, NAMES_OBJECTS, bind, handles_of, translated
from pyha.runtime.carrying import gone
from pyha.runtime.failover import NotThere, Tried, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.objects import Entry

_ANY = Route.ANY  # looked up once: Python 3.11 takes as long for it as for four calls of a function


class Unknown(Exception):
    """A virtual handle that nobody knows. `rv`: what the specification answers for this argument."""

    def __init__(self, rv: int) -> None:
        super().__init__("unknown object handle")
        self.rv = rv


class Objects:
    """The objects that one call names, and their real handles on a member."""

    __slots__ = ("_function", "_group", "_values", "entries")

    def __init__(self, group: GroupRuntime, function: Function, values: list[Any]) -> None:
        """Raises Unknown."""
        self._group = group
        self._function = function
        self._values = values
        self.entries: list[tuple[Entry, int]] = []
        if not NAMES_OBJECTS[function.index]:
            return
        for handle, rv in handles_of(function, values):
            entry = group.objects.get(handle)
            if entry is None:
                raise Unknown(rv)
            self.entries.append((entry, rv))

    def home(self, excluded: set[int]) -> int | None:
        """The member (index) that the call should go to, because a session object of it lives there; None where it may
        go to any. Raises Unknown where a session object is lost."""
        preferred = None
        for entry, rv in self.entries:
            if entry.home is None:
                continue
            there = self._group.objects.settle_home(entry)
            if entry.kept is None:
                if not there:
                    raise Unknown(rv)
                if entry.home[0] in excluded:
                    raise Unknown(ck.CKR_DEVICE_ERROR)
                return entry.home[0]
            if preferred is None and there and entry.home[0] not in excluded:
                preferred = entry.home[0]
        return preferred

    def translate(self, index: int, connection: Connection, real_session: int, deadline: float) -> list[Any]:
        """The call's values with this member's handles. Raises NotThere, MemberLost, SessionRefused, SearchFailed."""
        real: dict[int, int] = {}
        for entry, rv in self.entries:
            handle = connection.bound.get(entry.handle)
            if handle is None:
                handle = bind(self._group, index, connection, entry, deadline)
            if handle is None:
                raise NotThere(rv)
            real[entry.handle] = handle
        return translated(self._function, self._values, real_session, real)

    def renew(self, connection: Connection, deadline: float) -> bool:
        """As `unbind`; session objects that this member has lost are to be brought again. Raises MemberLost,
        SessionRefused, SearchFailed."""
        found = self.unbind(connection)
        for entry, _ in self.entries:
            if entry.session is not None and gone(connection, entry, deadline):
                self._group.objects.unbind(connection, entry.handle)
                found = True
        return found

    def unbind(self, connection: Connection) -> bool:
        """Forget this member's handles of token objects, so that they are looked for again. False: there are none."""
        found = False
        for entry, _ in self.entries:
            if entry.session is None:
                self._group.objects.unbind(connection, entry.handle)
                found = True
        return found


def single(
    group: GroupRuntime, function: Function, values: list[Any], tried: Tried | None = None
) -> tuple[int, list[Any]]:
    """An ANY call: (CK_RV, results). `tried`: its first try, where it was made already. Raises NobodyLeft, Unknown."""
    return run(group, SingleCall(group, function, values), serves=not asks_size(values), tried=tried)


def asks_size(values: list[Any]) -> bool:
    """Whether a call only asks how long its result will be."""
    last = values[-1]
    return type(last) is Out and last.capacity is None


class SingleCall:
    """One complete call on one member: the least busy one, or for retrieval the primary. `index`: the one tried
    last."""

    __slots__ = ("_group", "_kind", "_objects", "function", "index")

    def __init__(self, group: GroupRuntime, function: Function, values: list[Any]) -> None:
        self.function = function
        self.index = -1
        self._group = group
        self._objects = Objects(group, function, values)
        self._kind = kind_of(function, values)

    def choose(self, excluded: set[int]) -> int | None:
        return choose(self._group, self._objects, excluded, self.function.route is _ANY, self._kind)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        self.index = index
        session = connection.acquire(deadline)
        try:
            values = self._objects.translate(index, connection, session, deadline)
            return connection.invoke(self.function, values, deadline)
        finally:
            connection.give_back(session)

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        return self._objects.renew(connection, deadline)


def kind_of(function: Function, values: list[Any]) -> int:
    """Which calls are of one kind, for the load to go round among them: same function, same mechanism."""
    kind = function.index
    for position in MECHANISMS_AT[kind]:
        kind += values[position].type << 8
    return kind


def choose(group: GroupRuntime, objects: Objects, excluded: set[int], spread: bool, kind: int = 0) -> int | None:
    """The next member for a call with these objects: the home of session objects while they have it. Raises Unknown
    where a session object is lost."""
    home = objects.home(excluded) if objects.entries else None
    return group.choose(excluded, spread, kind) if home is None else home
