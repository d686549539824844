"""Policies for operations that stay open between calls: C_SignInit to C_SignFinal and their like.

Keeps the journal of each open operation and brings it to another member when its own is lost. Output that the
application already has must come out the same there (a hash is kept), or the operation ends with an honest error.

Source: SEMANTICS.md section 3 (single- and multi-part crypto); PKCS #11 section 5.2 (what ends an operation).
"""

from typing import Any

from pyha.abi.memory import memory_view
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function, Operation, Route
from pyha.cryptoki.kinds import KINDS
from pyha.cryptoki.values import Mechanism, Out, Parameter, Region
from pyha.cryptoki.verdicts import ENDS_NO_OPERATION, Verdict, verdict
from pyha.ha.journal import Entry, Journal, fingerprint
from pyha.runtime.calls import Objects, Unknown, asks_size, choose, kind_of
from pyha.runtime.failover import Abandoned, Tried, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.session import Place, VirtualSession

_START, _FINISH = Route.START, Route.FINISH  # looked up once: Python 3.11 is slow at it


def operate(
    group: GroupRuntime,
    session: VirtualSession,
    function: Function,
    values: list[Any],
    tried: Tried | None = None,
) -> tuple[int, list[Any]]:
    """A START, CONTINUE or FINISH call: (CK_RV, results). `tried`: its first try, where it was made already. Raises
    NobodyLeft, Unknown. The caller holds the session's lock."""
    operation = function.operation
    assert operation is not None
    starting = function.route is _START
    if not starting and operation not in session.journals:
        return ck.CKR_OPERATION_NOT_INITIALIZED, []
    asking = asks_size(values)
    call = OperationCall(group, session, function, values, tried)
    kept = None if starting or asking else _before_output(session, function, values)
    answered = False
    try:
        rv, results = run(group, call, serves=function.route is _FINISH and not asking, tried=tried)
        answered = True
    except Abandoned as refusal:
        rv, results, answered = refusal.rv, [], True
    finally:
        if not answered:
            drop(group, session)
            _wipe(kept or [])
    if rv != ck.CKR_OK:
        _wipe(kept or [])
    if rv == ck.CKR_OK:
        if asking:
            return rv, results
        if function.route is _FINISH:
            _finish(group, session, function, True, call.until)
        else:
            _record(group, session, function, values, results, kept)
    elif not starting and rv not in ENDS_NO_OPERATION:
        _finish(group, session, function, False, call.until)
    elif starting and not session.journals:
        drop(group, session)
    return rv, results


def drop(group: GroupRuntime, session: VirtualSession) -> None:
    """End every open operation of the session and throw its real session away."""
    for operation in list(session.journals):
        session.end(operation)
    _leave_place(group, session, False, group.deadline())


def cancel(group: GroupRuntime, session: VirtualSession, operations: set[Operation]) -> None:
    """End these operations of the session, if they are open; others go on, on a real session of their own."""
    open_ones = operations & session.journals.keys()
    for operation in open_ones:
        session.end(operation)
    if open_ones:
        _leave_place(group, session, False, group.deadline())


class OperationCall:
    """One call of an open (or opening) operation. `until`: the deadline of the member that was tried last."""

    __slots__ = ("_group", "_kind", "_last_rv", "_objects", "_refused", "_session", "function", "until")

    def __init__(
        self,
        group: GroupRuntime,
        session: VirtualSession,
        function: Function,
        values: list[Any],
        tried: Tried | None = None,
    ) -> None:
        self.function = function
        self._group = group
        self._session = session
        self._objects = Objects(group, function, values)
        self._kind = kind_of(function, values)
        self._last_rv = tried.rv if tried is not None else ck.CKR_OK
        self._refused = False
        self.until = tried.start + group.patience(function) if tried is not None else 0.0

    def choose(self, excluded: set[int]) -> int | None:
        place = self._session.place
        if (
            place is not None
            and place.index not in excluded
            and self._group.connections[place.index] is place.connection
        ):
            return place.index
        if not self._movable():
            raise Abandoned(ck.CKR_DEVICE_ERROR)
        return choose(self._group, self._objects, excluded, True, self._kind)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        self.until = deadline
        place = self._session.place
        if place is None or place.connection is not connection:
            try:
                place = self._move(index, connection, deadline)
            except _ReplayRefused as refusal:
                return self._refused_again(refusal.rv), []
        values = self._objects.translate(index, connection, place.real, deadline)
        self._last_rv, results = connection.invoke(self.function, values, deadline)
        return self._last_rv, results

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        if self._session.journals and (self._last_rv == ck.CKR_OPERATION_ACTIVE or not self._movable()):
            return False
        _leave_place(self._group, self._session, False, deadline)
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        found = self._objects.renew(connection, deadline)
        entries = [entry for journal in self._session.journals.values() for entry in journal.entries]
        for entry in entries:
            try:
                found |= Objects(self._group, entry.function, entry.values).renew(connection, deadline)
            except Unknown:  # destroyed meanwhile: the replay will say so
                continue
        if entries and found:
            if not self._movable():
                return False
            _leave_place(self._group, self._session, False, deadline)
        return found

    def _refused_again(self, rv: int) -> int:
        """A replay was refused with `rv`: to be healed the first time, an honest error the second."""
        if self._refused:
            raise Abandoned(ck.CKR_DEVICE_ERROR)
        self._refused = True
        return rv

    def _movable(self) -> bool:
        journals = self._session.journals
        return not journals or all(journal.replayable() for journal in journals.values())

    def _move(self, index: int, connection: Connection, deadline: float) -> Place:
        """Give the session a place on this member, and bring its open operations there."""
        if not self._movable():
            raise Abandoned(ck.CKR_DEVICE_ERROR)
        if self._session.place is not None:
            _leave_place(self._group, self._session, False, deadline)
        journals = list(self._session.journals.values())
        real = connection.open_session(deadline) if journals else connection.acquire(deadline)
        place = Place(index, connection, real, self._group.weight(self.function))
        replayed = False
        try:
            for journal in journals:
                for entry in journal.entries:
                    self._replay(place, entry, deadline)
            replayed = True
        finally:
            if not replayed:
                connection.discard(real, deadline)
        self._group.add_load(index, place.weight)
        self._session.place = place
        return place

    def _replay(self, place: Place, entry: Entry, deadline: float) -> None:
        try:
            objects = Objects(self._group, entry.function, entry.values)
        except Unknown:
            raise Abandoned(ck.CKR_DEVICE_ERROR) from None  # its key was destroyed meanwhile
        values = objects.translate(place.index, place.connection, place.real, deadline)
        rv, results = place.connection.invoke(entry.function, values, deadline)
        if rv != ck.CKR_OK:
            if verdict(entry.function.route, rv) is Verdict.ANSWER:
                raise Abandoned(ck.CKR_DEVICE_ERROR)
            raise _ReplayRefused(rv)
        if entry.output is not None and entry.output != _output_again(results):
            raise Abandoned(ck.CKR_DEVICE_ERROR)


class _ReplayRefused(Exception):
    """A member refused a call that another had accepted, for a reason that may be healed. `rv`: its CK_RV."""

    def __init__(self, rv: int) -> None:
        super().__init__("a replayed call was refused")
        self.rv = rv


def _output_again(results: list[Any]) -> tuple[int, bytes] | None:
    return fingerprint(results[-1][1] or b"") if results and results[-1] is not None else None


def _before_output(session: VirtualSession, function: Function, values: list[Any]) -> list[Any] | None:
    """A part's input, copied before its output may be put in the same place (PKCS #11 sections 5.8 and 5.9 let an
    application do so): what is there afterwards would be said to another member. None where nothing is written down,
    or nothing is put out."""
    assert function.operation is not None
    replayable = session.journals[function.operation].replayable()
    if function.route is _FINISH or type(values[-1]) is not Out or not replayable:
        return None
    kept = values.copy()
    for position in _TO_COPY[function.index]:
        if values[position] is not None and type(values[position]) is not Out:
            kept[position] = bytearray(values[position])
    return kept


def _wipe(kept: list[Any]) -> None:
    for value in kept:
        if type(value) is bytearray:
            value[:] = bytes(len(value))


def _record(
    group: GroupRuntime,
    session: VirtualSession,
    function: Function,
    values: list[Any],
    results: list[Any],
    kept: list[Any] | None,
) -> None:
    """Write a call that succeeded into its operation's journal. `kept`: the values with input that is copied already,
    where it had to be."""
    assert function.operation is not None
    journal = session.journals.get(function.operation)
    if journal is None:
        journal = session.journals[function.operation] = Journal(group.settings.journal_limit)
    if not journal.replayable():
        return
    output = None
    own = values.copy()
    size = 0
    for position in _TO_COPY[function.index]:
        value = values[position]
        if type(value) is Out:
            length, content = results[position]
            output = fingerprint(memory_view(value.memory, length) if value.memory is not None else content or b"")
            own[position] = Out(length + 64)
        elif type(value) is Mechanism:
            if value.parameter is not None:
                own[position] = Mechanism(value.type, _own_parameter(value.parameter))
        elif value is not None:
            own[position] = copy = bytearray(value) if kept is None else kept[position]
            size += len(copy)
    journal.add(function, own, size, output)


_TO_COPY = tuple(
    tuple(position for position, argument in enumerate(function.arguments) if not KINDS[argument.kind].number)
    for function in FUNCTIONS
)
"""For each function, by its index, the positions of values that are the application's memory, which is its own again
after the call; the others are numbers."""


def _own_parameter(parameter: Parameter) -> Parameter:
    regions = []
    for region in parameter.regions:
        content = region.content
        if isinstance(content, Parameter):
            content = _own_parameter(content)
        elif isinstance(content, Out):
            content = Out(content.capacity)
        else:
            content = bytes(content)
        regions.append(Region(region.offset, content))
    return Parameter(bytes(parameter.raw), tuple(regions), parameter.handles, parameter.back)


def _finish(group: GroupRuntime, session: VirtualSession, function: Function, clean: bool, until: float) -> None:
    assert function.operation is not None
    session.end(function.operation)
    if not session.journals:
        _leave_place(group, session, clean, until)


def _leave_place(group: GroupRuntime, session: VirtualSession, clean: bool, until: float) -> None:
    """`until`: when a member that does not let the session be closed has to be left alone with it."""
    place, session.place = session.place, None
    if place is None:
        return
    group.add_load(place.index, -place.weight)
    if group.connections[place.index] is not place.connection:
        return
    if clean:
        place.connection.give_back(place.real)
    else:
        place.connection.discard(place.real, until)
