"""C_DestroyObject and C_SetAttributeValue: the primary first, then every other member, records included.

A member that refuses what the primary accepted differs from it and is out until it is resynchronised.

Source: SEMANTICS.md sections 3 (change) and 5 (an escrow record lives exactly as long as its key).
"""

from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import impersonates
from pyha.ha.identity import Identity, ulong
from pyha.ha.records import EscrowRecord
from pyha.ha.replication import KEY_CLASSES, value_of
from pyha.runtime import escrow
from pyha.runtime.binding import bind, read_identity
from pyha.runtime.calls import Objects, Unknown, choose
from pyha.runtime.copying import overlaid, record_for
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, destroy, housekeeping
from pyha.runtime.making import make_with
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.objects import Entry
from pyha.runtime.publishing import Placed, Unreplicable, write_record
from pyha.runtime.session import VirtualSession


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
    replicated = entry.session is None and not group.raw
    try:
        record = _record_before(group, entry, template) if replicated and template is not None else None
    except Unreplicable:
        return ck.CKR_KEY_NOT_WRAPPABLE
    call = ChangeCall(group, function, values)
    rv, _ = run(group, call)
    if rv != ck.CKR_OK:
        return rv
    if replicated:
        _on_the_others(group, function, values, entry, call.index)
    if template is None:
        if replicated and entry.identity.object_class in KEY_CLASSES:
            _everywhere(
                group, lambda connection: escrow.remove(connection, group.settings.id, entry.identity, group.deadline())
            )
        group.objects.remove(entry.handle)
        return rv
    _identify_again(group, entry, call.index)
    if record is not None:
        _replace_record(group, record[0], record[1], entry.identity)
    return rv


class ChangeCall:
    """The change on one member, beside no search of it."""

    def __init__(self, group: GroupRuntime, function: Function, values: list[Any]) -> None:
        self.function = function
        self.index = -1
        self._group = group
        self._objects = Objects(group, function, values)

    def choose(self, excluded: set[int]) -> int | None:
        return choose(self._group, self._objects, excluded, spread=False)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        self.index = index
        with housekeeping(connection, deadline) as session:
            values = self._objects.translate(index, connection, session, deadline)
            return make_with(connection, self.function, values, deadline)

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        return self._objects.unbind(connection)


def _on_the_others(group: GroupRuntime, function: Function, values: list[Any], entry: Entry, primary: int) -> None:
    for index, connection in group.present():
        if index == primary:
            continue
        deadline = group.deadline()
        try:
            real = bind(group, index, connection, entry, deadline)
            if real is None:
                if len(values) > 2:
                    group.lost(index, connection.generation, "it lacks an object that was changed; it needs a resync")
                continue
            with housekeeping(connection, deadline) as session:
                rv, _ = make_with(connection, function, [session, real, *values[2:]], deadline)
            if rv not in (ck.CKR_OK, ck.CKR_OBJECT_HANDLE_INVALID):
                raise MemberLost(f"{function.name} answered {rv_name(rv)}, unlike the primary; it needs a resync")
        except (MemberLost, SessionRefused, SearchFailed) as loss:
            group.lost(index, connection.generation, str(loss))


def _everywhere(group: GroupRuntime, step: Any) -> None:
    for index, connection in group.present():
        try:
            step(connection)
        except (MemberLost, SessionRefused, SearchFailed) as loss:
            group.lost(index, connection.generation, str(loss))


def _identify_again(group: GroupRuntime, entry: Entry, index: int) -> None:
    """Read the identity anew where the change was made."""
    connection = group.connections[index]
    real = connection.bound.get(entry.handle) if connection is not None else None
    if connection is None or real is None:
        return
    deadline = group.deadline()
    try:
        with housekeeping(connection, deadline) as session:
            identity = read_identity(connection, session, real, deadline)
    except (MemberLost, SessionRefused, SearchFailed) as loss:
        group.lost(index, connection.generation, str(loss))
        return
    if identity is not None:
        group.objects.changed(entry.handle, identity)


def _record_before(group: GroupRuntime, entry: Entry, template: Template) -> tuple[Identity, EscrowRecord] | None:
    """The identity that a key's record is filed under now, and the record as it will be after the change; None where
    it has and needs none. Raises Unreplicable: a key is not made unextractable while it cannot be escrowed."""
    if entry.identity.object_class not in KEY_CLASSES or group.user != ck.CKU_USER:
        return None
    for index, connection in group.present():
        try:
            for _, record in escrow.find(connection, group.settings.id, entry.identity, group.deadline()):
                changed = EscrowRecord(
                    record.group_id,
                    record.domain,
                    record.mechanism,
                    record.blob,
                    overlaid(record.template, template),
                    record.fingerprint,
                    record.check_value,
                    record.value_length,
                )
                return entry.identity, changed
            break
        except (MemberLost, SessionRefused, SearchFailed) as loss:
            group.lost(index, connection.generation, str(loss))
    if value_of(template, ck.CKA_EXTRACTABLE) != b"\0":
        return None
    made = record_for(group, entry, (Attribute(ck.CKA_CLASS, ulong(entry.identity.object_class)), *template))
    return (entry.identity, made) if made is not None else None


def _replace_record(group: GroupRuntime, old: Identity, record: EscrowRecord, new: Identity) -> None:
    """The new record first, then the old ones away: after a crash between there is one too many, never none."""
    before = {}
    for index, connection in group.present():
        try:
            before[index] = escrow.find(connection, group.settings.id, old, group.deadline())
        except (MemberLost, SessionRefused, SearchFailed) as loss:
            group.lost(index, connection.generation, str(loss))
    for index, connection in group.present():
        write_record(group, index, connection, record, new, Placed())
        try:
            for real, _ in before.get(index, ()):
                with housekeeping(connection, group.deadline()) as session:
                    destroy(connection, session, real, group.deadline())
        except (MemberLost, SessionRefused) as loss:
            group.lost(index, connection.generation, str(loss))
