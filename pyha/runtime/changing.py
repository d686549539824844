"""C_DestroyObject and C_SetAttributeValue: the primary first, then every other member, records included.

What a member misses is written down before it happens on the others. A key's new record is written before the change,
and its old one removed after it: after a crash in between there is one too many, never none. A member that refuses what
the primary accepted differs from it and is out until it is resynchronised.

Source: SEMANTICS.md sections 3 (change) and 5 (tombstones; an escrow record lives exactly as long as its key).
"""

from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Template
from pyha.ha.arrays import is_dated
from pyha.ha.domain import impersonates
from pyha.ha.identity import Identity
from pyha.ha.records import EscrowRecord
from pyha.ha.replication import KEY_CLASSES, value_of
from pyha.ha.settings import Unreplicable as WhenUnreplicable
from pyha.runtime import log
from pyha.runtime.altering import alter
from pyha.runtime.binding import bind, tells_apart
from pyha.runtime.calls import Objects, Unknown, choose
from pyha.runtime.copying import dated_record_for, existing_record, record_for, records_on
from pyha.runtime.failover import POISON_LIMIT, run
from pyha.runtime.following import UNCHANGED, Following
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import housekeeping
from pyha.runtime.making import identify_again, make_with
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.missed import Missed
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Refusal, Unreplicable, begun_anew
from pyha.runtime.publishing import write_records
from pyha.runtime.refinding import record_like
from pyha.runtime.session import VirtualSession
from pyha.runtime.steps import Placed, expect_gone, expect_tokens, on_each, step


def change(group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]) -> int:
    """A CHANGE call; the CK_RV. Raises NobodyLeft, Unknown."""
    entry = group.objects.get(values[1])
    if entry is None:
        raise Unknown(ck.CKR_OBJECT_HANDLE_INVALID)
    if entry.identity.token and not session.writable:
        return ck.CKR_SESSION_READ_ONLY
    template: Template | None = values[2] if len(values) > 2 else None
    if template is not None and impersonates(template) and not group.raw:
        return ck.CKR_ATTRIBUTE_VALUE_INVALID
    label = group.settings.label
    if group.raw:
        return _changed_there(group, function, values, entry, template)
    if entry.session is not None:
        return alter(group, ChangeCall(group, function, values, None), entry, template)
    try:
        kind, alone = entry.identity.kind, template is not None
        with group.changes.shared(group.deadline()), group.changes.steady(kind, alone, group.deadline()):
            expect_tokens(group, function.name)
            # Disturbed is only what comes before the change itself.
            return begun_anew(lambda: _change(group, function, values, entry, template))
    except Refusal as refusal:
        log.log("warning", f'group "{label}": {function.name}: {refusal}')
        return refusal.rv
    except Unreplicable as reason:
        log.log("error", f'group "{label}": {function.name} refused, the key could not be on every member: {reason}')
        return ck.CKR_KEY_NOT_WRAPPABLE


def _change(group: GroupRuntime, function: Function, values: list[Any], entry: Entry, template: Template | None) -> int:
    identify_again(group, entry, group.present()[0][0])
    _tell_apart(group, function.name, entry)
    escrowed = entry.identity.object_class in KEY_CLASSES and group.user == ck.CKU_USER
    old = existing_record(group, entry) if escrowed else None
    new = _record_after(group, entry, old, template) if escrowed and template is not None else None
    before, after = entry.identity, entry.identity.after(template or ())
    passed_over: set[str] = set()
    lacking: set[str] = set()
    missed = Missed(
        group,
        function.name,
        before,
        None if template is None else after,
        template or (),
        lambda: group.missing() | passed_over | lacking,
    )
    placed = Placed(function.name)
    rv = ck.CKR_GENERAL_ERROR
    try:
        if new is not None:
            write_records(group, new, after, placed)
        call = ChangeCall(group, function, values, missed)
        rv, _ = run(group, call)
    finally:
        if rv != ck.CKR_OK:
            placed.take_back(group)
            missed.take_back()
    if rv != ck.CKR_OK:
        return rv
    rv = _on_the_others(group, call, values, entry, missed, passed_over, lacking)
    if call.following.is_nowhere():
        placed.take_back(group)
        missed.take_back()
        raise Refusal(ck.CKR_FUNCTION_FAILED, UNCHANGED)
    for index, connection in call.following.behind():
        group.lost(index, connection.generation, f"{UNCHANGED}; it needs a resync")
    missed.cover_at_last()
    missed.settle()
    if rv != ck.CKR_OK:
        return rv
    if old is not None and (new is not None or template is None):
        _remove_record(group, old, before, placed)
    if template is None:
        group.objects.remove(entry.handle)
    else:
        group.objects.changed(entry.handle, after)
        identify_again(group, entry, call.index)
    return rv


def _changed_there(
    group: GroupRuntime, function: Function, values: list[Any], entry: Entry, template: Template | None
) -> int:
    """An object of a member's own slot."""
    call = ChangeCall(group, function, values, None, follows=False)
    rv, _ = run(group, call)
    if rv == ck.CKR_OK and template is None:
        group.objects.remove(entry.handle)
    elif rv == ck.CKR_OK:
        identify_again(group, entry, call.index)
    return rv


def _tell_apart(group: GroupRuntime, what: str, entry: Entry) -> None:
    """Nothing is changed on one member that could not be changed on another. Raises Refusal, NobodyLeft."""

    def work(index: int, connection: Connection) -> None:
        _, apart = step(
            group,
            index,
            connection,
            "C_FindObjectsInit",
            lambda deadline: (ck.CKR_OK, tells_apart(group, connection, entry, deadline)),
        )
        if not apart:
            raise Refusal(ck.CKR_DEVICE_ERROR, f"member {group.name(index)} has several objects like it")

    on_each(group, what, work)


def _record_after(
    group: GroupRuntime, entry: Entry, old: EscrowRecord | None, template: Template
) -> EscrowRecord | None:
    """The key's record as it has to be after the change; None where the one it has, or none, is right. Raises
    Unreplicable (a key is not made unextractable while it cannot be escrowed), Refusal, NobodyLeft."""
    if old is None and value_of(template, ck.CKA_EXTRACTABLE) != b"\0":
        return dated_record_for(group, entry, template) if is_dated(template) else None
    new = record_for(group, entry, template)
    if old is None or new != old or entry.identity.after(template) != entry.identity:
        return new
    return None


class ChangeCall:
    """The change on one member, beside no search of it. `missed`: told before each try who misses it. `follows`:
    whether it is looked at what the object shows then."""

    def __init__(
        self,
        group: GroupRuntime,
        function: Function,
        values: list[Any],
        missed: Missed | None,
        follows: bool = True,
    ) -> None:
        self.function = function
        self.index = -1
        self.poisoned = 0  # helpers that it has ended
        self._group = group
        self._missed = missed
        self.following = Following(values[2] if follows and len(values) > 2 else None)
        self._deletion = _Deletion()
        self._objects = Objects(group, function, values)

    def choose(self, excluded: set[int]) -> int | None:
        if self._missed is not None:
            self._missed.cover()
        return choose(self._group, self._objects, excluded, spread=False)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        self.index = index
        try:
            with housekeeping(connection, deadline) as session:
                if self._deletion.is_answered(connection):
                    self._deletion.look(session, deadline)
                    return ck.CKR_OK, []
                values = self._objects.translate(index, connection, session, deadline)
                rv, results = make_with(connection, self.function, values, deadline)
                if self._missed is not None and _deletes(values) and rv == ck.CKR_OK:
                    self._deletion.answered(connection, values[1])
                    self._deletion.look(session, deadline)
                elif rv == ck.CKR_OK:
                    self.following.look(index, connection, session, values[1], deadline)
                return rv, results
        except MemberLost as loss:
            self.poisoned += loss.culprit
            raise

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        return self._objects.renew(connection, deadline)


def _deletes(values: list[Any]) -> bool:
    """Whether a CHANGE call with these values leaves nothing: it has no template."""
    return len(values) <= 2


class _Deletion:
    """A deletion that its member has answered with CKR_OK is not repeated where the look for what it left is disturbed:
    the object would not be found any more, and the member would be written down as one that lacked it."""

    def __init__(self) -> None:
        self._answered: tuple[Connection, int] | None = None

    def is_answered(self, connection: Connection) -> bool:
        """Whether this member has answered it with CKR_OK."""
        return self._answered is not None and self._answered[0] is connection

    def answered(self, connection: Connection, real: int) -> None:
        """This member has answered it with CKR_OK, for the object of this handle."""
        self._answered = connection, real

    def look(self, session: int, deadline: float) -> None:
        """Raises MemberLost where who has answered it still has the object, SearchFailed."""
        assert self._answered is not None
        connection, real = self._answered
        expect_gone(connection, session, real, ck.CKR_OK, deadline)


def _on_the_others(
    group: GroupRuntime,
    call: ChangeCall,
    values: list[Any],
    entry: Entry,
    missed: Missed,
    passed_over: set[str],
    lacking: set[str],
) -> int:
    """What the primary accepted, on every other member; CKR_DEVICE_ERROR where it ends their helpers. `passed_over`:
    gets the members that it is not given to any more; `lacking`: those that have no such object, or do not show it
    (SoftHSM may overlook what another process has made): from them it would come back."""
    function, poisoned = call.function, call.poisoned
    is_key = entry.identity.object_class in KEY_CLASSES
    may_be_pinned = is_key and group.settings.unreplicable is WhenUnreplicable.PIN

    def unbind(connection: Connection) -> None:
        group.objects.unbind(connection, entry.handle)

    for index, connection in group.present():
        if index == call.index:
            continue
        if poisoned >= POISON_LIMIT:
            passed_over.add(group.settings.members[index].recorded_as)
            group.news.audit(index, f"{function.name} was not given to it, because it had ended {poisoned} helpers")
            continue

        deletion = _Deletion()

        def attempt(
            deadline: float,
            index: int = index,
            connection: Connection = connection,
            deletion: _Deletion = deletion,
        ) -> tuple[int, bool]:
            if deletion.is_answered(connection):
                with housekeeping(connection, deadline) as session:
                    deletion.look(session, deadline)
                return ck.CKR_OK, True
            real = bind(group, index, connection, entry, deadline, sure=True)
            if real is None:
                return ck.CKR_OK, False
            with housekeeping(connection, deadline) as session:
                rv, _ = make_with(connection, function, [session, real, *values[2:]], deadline)
                if rv == ck.CKR_OK and _deletes(values):
                    deletion.answered(connection, real)
                    deletion.look(session, deadline)
                elif rv == ck.CKR_OK:
                    call.following.look(index, connection, session, real, deadline)
            return rv, True

        missed.cover_at_last()
        start = group.clock()
        try:
            rv, there = step(group, index, connection, function.name, attempt, unbind)
            if not there and not may_be_pinned:
                lacking.add(group.settings.members[index].recorded_as)
            if rv != ck.CKR_OK:
                raise MemberLost(f"{function.name} answered {rv_name(rv)}, unlike the primary; it needs a resync")
        except (MemberLost, Refusal) as loss:
            seconds = group.clock() - start
            group.lost(index, connection.generation, str(loss), seconds=seconds)
            group.news.count_failover(function.name, index, str(loss), seconds, None)
            poisoned += isinstance(loss, MemberLost) and loss.culprit
    return ck.CKR_DEVICE_ERROR if passed_over else ck.CKR_OK


def _remove_record(group: GroupRuntime, record: EscrowRecord, identity: Identity, kept: Placed) -> None:
    """Take a record that is superseded off every member, once each: copies of a key have equal ones. Where there are
    more, a resync sees whether they have keys."""

    def work(index: int, connection: Connection) -> None:
        equal = [
            real
            for real, found in records_on(group, index, connection, identity)
            if found == record and not kept.has(connection, real)
        ]
        if equal:
            gone = Placed(kept.what)
            gone.add(index, connection, equal[0], record_like(record, identity), equal=True)
            gone.take_back(group)
        if len(equal) > 1:
            group.news.compare_soon()

    try:
        on_each(group, kept.what, work)
    except Refusal as refusal:
        log.log("warning", f'group "{group.settings.label}": a superseded record stays: {refusal}')
