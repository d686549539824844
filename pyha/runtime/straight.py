"""The straight way of the frequent calls: what a call costs where nothing is unusual.

Says which member takes the call, with which handles, and keeps the books as the general way does; C moves the bytes
(`shim/straight.c`). It decides nothing of its own: what is not plain - an object that is not bound yet, a login that is
to be repeated, a place or a session that is not free at once - goes the general way from the start; and a member that
answers anything but CKR_OK, or nothing, was the general way's first try (`failover.Tried`).

Sources: SEMANTICS.md sections 2 and 3; docs/performance.md (what a step costs).
"""

from collections.abc import Callable, Mapping
from typing import Any

from pyha.abi.express import seat_of
from pyha.abi.link import Arena
from pyha.abi.memory import LENGTH_LIMIT, memory_bytes
from pyha.abi.native import lib
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function, Route
from pyha.cryptoki.mechanisms import MechanismRow
from pyha.cryptoki.straight import PARTS, Part
from pyha.cryptoki.values import Mechanism, Parameter
from pyha.ha.journal import Entry, Journal
from pyha.ha.settings import RecoveryMode
from pyha.runtime.express import lend
from pyha.runtime.failover import Tried
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.operations import drop
from pyha.runtime.session import Place, VirtualSession

Way = Callable[[Any, int, int, int, int], int | None]
"""(cdata `pyha_straight *`, session, key, CK_MECHANISM_TYPE, bytes of its parameter) -> CK_RV; None: nothing was done,
the call is for the general way."""

General = Callable[[int, Any, Tried], int]
"""(index of the function, cdata `pyha_straight *`, what was met) -> the CK_RV to answer."""

Before = Callable[[GroupRuntime], None]
"""What is to be done before a call of a group that no monitor looks after."""

Sessions = Mapping[int, VirtualSession]
Groups = Mapping[int, GroupRuntime]

_BACKGROUND = RecoveryMode.BACKGROUND  # looked up once: Python 3.11 is slow at it
_OK = ck.CKR_OK
_ANSWERED, _MALFORMED = lib.PYHA_ANSWERED, lib.PYHA_MALFORMED
_NOBODY: set[int] = set()


Met = Callable[[Any], int | None]
"""(cdata `pyha_straight *`, of a call whose first try C has made) -> CK_RV; None: it is to be made anew."""


_Plain = Callable[[GroupRuntime, VirtualSession, Any, int, int, int], int | None]
"""A way's own part, with the session's lock: (group, session, call, and the rest as `Way`)."""


def ways(
    sessions: Sessions, groups: Groups, before: Before, mechanisms: Mapping[int, MechanismRow], general: General
) -> list[Way | None]:
    """The straight way of each function, by its index; None where it has none. `sessions`, `groups`: the provider's
    own, by handle and by slot. `mechanisms`: those whose parameters may travel."""
    made: list[Way | None] = []
    plain = {number: Mechanism(number) for number, row in mechanisms.items() if row.absent}
    for function in FUNCTIONS:
        if not PARTS[function.index]:
            made.append(None)
            continue
        if function.route is Route.START:
            own = _start(function, mechanisms, plain, general)
        elif function.route is Route.FINISH:
            own = _finish(function, general)
        else:
            own = _single(function, general)
        made.append(_locked(sessions, groups, before, own))
    return made


def _locked(sessions: Sessions, groups: Groups, before: Before, own: _Plain) -> Way:
    def way(call: Any, handle: int, key: int, mechanism: int, parameter_length: int) -> int | None:
        session = sessions.get(handle)
        if session is None:
            return None
        group = groups[session.slot]
        if group.recovery.mode is not _BACKGROUND:
            before(group)
        lock = session.lock
        lock.acquire()
        try:
            if session.closed:
                return None
            rv = own(group, session, call, key, mechanism, parameter_length)
            if rv == _OK and lock.lending is None and group.express.is_open:
                lend(group, session)
            return rv
        finally:
            lock.release()

    return way


def _tried(
    function: Function,
    call: Any,
    index: int,
    connection: Connection,
    start: float,
    logins: int,
    outcome: int,
    loss: MemberLost | None,
) -> Tried:
    """What one try met, as `Connection.invoke` would have said it."""
    results: list[Any] = [None] * len(function.arguments)
    nonsense = connection.nonsense
    rv: int = call.rv
    if outcome != _ANSWERED:
        rv = ck.CKR_DEVICE_ERROR
        connection.nonsense += loss is None
    if rv == ck.CKR_BUFFER_TOO_SMALL and PARTS[function.index][-1] is Part.RESULT:
        # The answer cannot be believed; whether the member can is for a probe to say.
        if call.length >= LENGTH_LIMIT:
            rv = ck.CKR_DEVICE_ERROR
            connection.nonsense += 1
        else:
            results[-1] = (call.length, None)
    return Tried(index, connection, start, logins, nonsense, rv, results, loss)


def _single(function: Function, general: General) -> _Plain:
    """A call that is complete in itself, and names no object."""
    kind = function.index

    def own(
        group: GroupRuntime, session: VirtualSession, call: Any, key: int, mechanism: int, parameter_length: int
    ) -> int | None:
        index = group.choose(_NOBODY, True, kind)
        if index is None:
            return None
        connection = group.connections[index]
        lease = _lease(group, connection)
        if connection is None or lease is None:
            group.choose_again(kind)
            return None
        real, arena = lease
        loss, outcome, logins = None, -1, connection.logins
        weight = group.burden(index, function)
        start = group.clock()
        try:
            outcome = connection.straight(function, arena, call, real, 0, start + group.patience(function))
        except MemberLost as met:
            loss = met
        finally:
            connection.give_back(real, straight=not outcome)
            group.leave(index, function, weight, start, not outcome)
        if not outcome:
            return _OK
        return general(kind, call, _tried(function, call, index, connection, start, logins, outcome, loss))

    return own


def _lease(group: GroupRuntime, connection: Connection | None) -> tuple[int, Arena] | None:
    """A real session and a place on a member that has the application's login; None where that takes more than to
    reach for them."""
    if connection is None or (group.user is not None and connection.logged_in != group.user):
        return None
    real = connection.spare_session()
    if real is None:
        return None
    arena = connection.spare()
    if arena is None:
        connection.give_back(real)
        return None
    return real, arena


def _start(
    function: Function, mechanisms: Mapping[int, MechanismRow], plain: Mapping[int, Mechanism], general: General
) -> _Plain:
    """The first operation of a session that has none. `plain`: the mechanisms that need no parameter."""
    operation = function.operation
    assert operation is not None
    position = function.index
    named = Part.KEY in PARTS[position]

    def own(
        group: GroupRuntime, session: VirtualSession, call: Any, key: int, mechanism: int, parameter_length: int
    ) -> int | None:
        if session.journals or session.place is not None:
            return None
        offered = group.mechanisms
        if offered is not None and mechanism not in offered:
            return None
        kept = _flat(mechanisms, mechanism, parameter_length, call) if parameter_length else plain.get(mechanism)
        if kept is None:
            return None
        home = None
        if named:
            entry = group.objects.get(key)
            if entry is None:
                return None
            home = entry.home
            if home is not None and not group.objects.at_home(entry):
                return None
        kind = position + (mechanism << 8)
        index = group.choose(_NOBODY, True, kind) if home is None else home[0]
        if index is None:
            return None
        connection = group.connections[index]
        real_key = connection.bound.get(key) if named and connection is not None else 0
        lease = _lease(group, connection) if real_key is not None else None
        if connection is None or real_key is None or lease is None:
            if home is None:
                group.choose_again(kind)
            return None
        real, arena = lease
        loss, outcome, logins = None, -1, connection.logins
        weight = group.burden(index, function)
        start = group.clock()
        session.place = Place(index, connection, real, weight)
        try:
            try:
                outcome = connection.straight(function, arena, call, real, real_key, start + group.patience(function))
            except MemberLost as met:
                loss = met
            finally:
                # The load stays with the member until the operation ends.
                group.leave(index, function, 0.0, start, False)
            if not outcome:
                began = Entry(function, [session.handle, kept, key] if named else [session.handle, kept], None)
                session.journals[operation] = Journal(group.settings.journal_limit, [began])
                if home is None:
                    _remember(group, connection, key if named else 0, real_key, mechanism, parameter_length)
                return _OK
            return general(position, call, _tried(function, call, index, connection, start, logins, outcome, loss))
        finally:
            if not session.journals and session.place is not None:
                drop(group, session)

    return own


def _remember(
    group: GroupRuntime, connection: Connection, key: int, real_key: int | None, mechanism: int, parameter_length: int
) -> None:
    """An operation has begun here: the next like it may go without Python."""
    seat = connection.seat
    if seat is None or not group.express.is_open:
        return
    group.express.books.allow(mechanism, parameter_length)
    offered = group.mechanisms
    if offered is not None and mechanism not in offered:
        group.express.books.forbid()  # a member that offers less came meanwhile
    if key and real_key:
        seat.bind(key, real_key)
        if connection.bound.get(key) != real_key:
            seat.unbind(key)  # it was destroyed meanwhile


def _flat(mechanisms: Mapping[int, MechanismRow], number: int, length: int, call: Any) -> Mechanism | None:
    """A mechanism with a copy of its parameter, where that is plain bytes to us: no pointers, no handles, nothing that
    comes back; else None."""
    row = mechanisms.get(number)
    layout = row.layout_for(length) if row is not None else None
    if layout is None or layout.pointers or layout.handles or layout.back:
        return None
    return Mechanism(number, Parameter(memory_bytes(call.parameter, length)))


def _finish(function: Function, general: General) -> _Plain:
    """The end of the only operation that its session has."""
    operation = function.operation
    assert operation is not None
    position = function.index

    def own(
        group: GroupRuntime, session: VirtualSession, call: Any, key: int, mechanism: int, parameter_length: int
    ) -> int | None:
        journals, place = session.journals, session.place
        if place is None or operation not in journals or len(journals) != 1:
            return None
        index, connection = place.index, place.connection
        if group.connections[index] is not connection:
            return None
        if group.user is not None and connection.logged_in != group.user:
            return None
        arena = connection.spare()
        if arena is None:
            return None
        loss, outcome, logins = None, -1, connection.logins
        load = group.burden(index, function)
        start = group.clock()
        try:
            outcome = connection.straight(function, arena, call, place.real, 0, start + group.patience(function))
            if not outcome:
                session.place = None
                load += place.weight
                session.end(operation)
                connection.give_back(place.real, straight=True)
                return _OK
        except MemberLost as met:
            loss = met
        finally:
            group.leave(index, function, load, start, not outcome)
            if outcome <= 0 and loss is None and session.place is place:
                drop(group, session)  # nobody knows how it ended: an exception of the application's own came between
        return general(position, call, _tried(function, call, index, connection, start, logins, outcome, loss))

    return own


def mets(sessions: Sessions, groups: Groups, general: General) -> list[Met | None]:
    """How Python goes on with what the express way of each function has met, by its index; as `ways`."""
    return [_met(function, sessions, groups, general) if PARTS[function.index] else None for function in FUNCTIONS]


def _met(function: Function, sessions: Sessions, groups: Groups, general: General) -> Met:
    position, operation, route = function.index, function.operation, function.route

    def met(call: Any) -> int | None:
        identity = seat_of(call)
        group = next(group for group in groups.values() if group.express.has(identity))
        index, connection = group.express.connection(identity)
        loss, outcome = None, call.outcome
        if outcome != _ANSWERED and outcome != _MALFORMED:
            loss = connection.lost_express(function, outcome, call.place)
        tried = _tried(function, call, index, connection, call.start, call.logins, outcome, loss)
        session = sessions.get(call.session)
        if session is None:
            return came_to_nothing(group, call, tried, ck.CKR_SESSION_HANDLE_INVALID)  # closed by another thread
        with session.lock:
            if session.closed:
                return came_to_nothing(group, call, tried, ck.CKR_SESSION_HANDLE_INVALID)
            if route is Route.START:
                return begun(group, session, call, tried)
            place = session.place
            if route is Route.FINISH and (place is None or operation not in session.journals):
                # ended by another thread
                return came_to_nothing(group, call, tried, ck.CKR_OPERATION_NOT_INITIALIZED)
            if route is Route.FINISH and place is not None and place.connection is not connection:
                return None  # another thread has brought it to another member
            return general(position, call, tried)

    def came_to_nothing(group: GroupRuntime, call: Any, tried: Tried, rv: int) -> int:
        """Nobody goes on with the call; what it met is to be known all the same."""
        if tried.loss is not None:
            seconds = group.clock() - tried.start
            group.lost(tried.index, tried.connection.generation, str(tried.loss), seconds=seconds)
        elif route is Route.START:
            tried.connection.discard(call.real, group.deadline())
        return rv

    def begun(group: GroupRuntime, session: VirtualSession, call: Any, tried: Tried) -> int:
        if session.journals or session.place is not None:
            # by another thread, which was faster
            return came_to_nothing(group, call, tried, ck.CKR_OPERATION_ACTIVE)
        session.place = Place(tried.index, tried.connection, call.real, call.weight)
        group.add_load(tried.index, call.weight)
        try:
            return general(position, call, tried)
        finally:
            if not session.journals and session.place is not None:
                drop(group, session)

    return met
