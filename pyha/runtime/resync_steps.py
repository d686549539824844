"""Carrying out one step of a resync on its member.

The object that a step is about is read again first. Where it is not there any more, or is another one by now, the step
is done or void, and nothing happens; the plan that is made afterwards sees what is left.

Source: SEMANTICS.md section 5 (each step re-reads its object right before it acts, and is idempotent).
"""

from collections.abc import Callable, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import Identity
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import EscrowRecord, record_label, record_template
from pyha.ha.records import decode as decode_record
from pyha.ha.replication import KEY_CLASSES, value_of
from pyha.ha.steps import Change, Clear, Copy, Delete, Step, Write
from pyha.ha.tombstones import Tombstone, tombstone_template
from pyha.ha.tombstones import decode as decode_tombstone
from pyha.runtime.cloning import Place, SourceLost, clone
from pyha.runtime.following import UNCHANGED, otherwise
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import STILL_THERE, create, destroy, housekeeping, is_gone, read_attributes
from pyha.runtime.inventory import Lookout, identity_at
from pyha.runtime.making import make_with
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.outcomes import Refusal
from pyha.runtime.proving import prove_secret
from pyha.runtime.steps import step

_GONE = (ck.CKR_OK, ck.CKR_OBJECT_HANDLE_INVALID)


def carry_out(group: GroupRuntime, members: Sequence[Place], lookouts: Sequence[Lookout], each: Step) -> None:
    """One step. `members`, `lookouts`: by the step's numbers. Raises Refusal, Unreplicable, MemberLost (of the step's
    own member), SourceLost."""
    place = members[each.member]
    if isinstance(each, Delete):
        _delete(group, place, each)
    elif isinstance(each, Change):
        _change(group, members, each)
    elif isinstance(each, Copy):
        _copy(group, members, lookouts[each.member], each)
    elif isinstance(each, Write):
        if each.origin is not None and not _is_still_recorded(group, members, each, each.origin):
            return
        lookouts[each.member].made(_write(group, place, each))
    elif not (each.orphan and _has_come(lookouts, each)):
        _clear(group, place, each)


def _has_come(lookouts: Sequence[Lookout], clear: Clear) -> bool:
    """Whether a key has appeared that the record may be of: somebody was just making it."""
    return any(record_label(identity) == clear.label for lookout in lookouts for identity in lookout.appeared)


def has_appeared(lookout: Lookout, copy: Copy) -> bool:
    """Whether somebody else has made it there meanwhile."""
    return any(copy.identity.same(identity) for identity in lookout.appeared)


def _copy(group: GroupRuntime, members: Sequence[Place], lookout: Lookout, copy: Copy) -> None:
    if has_appeared(lookout, copy):
        return
    source = members[copy.source]
    if copy.identity.object_class in KEY_CLASSES:
        try:
            there = _still(group, source, copy.real, copy.identity)
        except MemberLost as loss:
            raise SourceLost(str(loss)) from None
        if not there:
            return
    made = clone(group, source, copy.real, members[copy.member], copy)
    if made is not None:
        lookout.made(*made)


def _still(group: GroupRuntime, place: Place, real: int, identity: Identity) -> bool:
    """Whether the object at this handle is the one that is meant. Raises MemberLost, Refusal."""
    connection = place[1]

    def attempt(deadline: float) -> tuple[int, bool]:
        with housekeeping(connection, deadline) as session:
            found = identity_at(connection, session, real, deadline)
        return ck.CKR_OK, found is not None and identity.same(found)

    return bool(step(group, *place, "C_GetAttributeValue", attempt)[1])


def _delete(group: GroupRuntime, place: Place, delete: Delete) -> None:
    connection = place[1]
    if not _still(group, place, delete.real, delete.identity):
        return

    def attempt(deadline: float) -> tuple[int, None]:
        with housekeeping(connection, deadline) as session:
            return _destroyed(connection, session, delete.real, deadline), None

    _expect(step(group, *place, "C_DestroyObject", attempt)[0], "C_DestroyObject", _GONE)
    handle = connection.known.get(delete.real)
    if handle is not None:
        group.objects.unbind(connection, handle)


def _change(group: GroupRuntime, members: Sequence[Place], change: Change) -> None:
    place = members[change.member]
    connection = place[1]
    if not _still(group, place, change.real, change.identity):
        return
    check_value = value_of(change.changes, ck.CKA_CHECK_VALUE)
    if check_value:
        _prove(group, place, change.real, check_value)
        return
    template: Template = (*change.changes, *_fetched(group, members, change))
    function = BY_NAME["C_SetAttributeValue"]

    def attempt(deadline: float) -> tuple[int, None]:
        with housekeeping(connection, deadline) as session:
            rv, _ = make_with(connection, function, [session, change.real, template], deadline)
            if rv == ck.CKR_OK and otherwise(connection, session, change.real, template, deadline)[1]:
                raise Refusal(ck.CKR_FUNCTION_FAILED, UNCHANGED)
            return rv, None

    _expect(step(group, *place, function.name, attempt)[0], function.name)
    handle = connection.known.get(change.real)
    if handle is not None and change.identity != change.after:
        group.objects.changed(handle, change.after)


def _prove(group: GroupRuntime, place: Place, real: int, check_value: bytes) -> None:
    """That it is the key with this check value, which it tells from then on. Raises Refusal where it is not,
    MemberLost."""
    connection = place[1]

    def attempt(deadline: float) -> tuple[int, bool]:
        with housekeeping(connection, deadline) as session:
            return ck.CKR_OK, prove_secret(connection, session, real, check_value, deadline)

    if not step(group, *place, "C_SetAttributeValue", attempt)[1]:
        raise Refusal(ck.CKR_ATTRIBUTE_VALUE_INVALID, "it is not proved to be the same key")


def _fetched(group: GroupRuntime, members: Sequence[Place], change: Change) -> Template:
    """What the object gets from the one that was changed already."""
    if change.origin is None:
        return ()
    place, real = members[change.origin[0]], change.origin[1]
    connection = place[1]

    def attempt(deadline: float) -> tuple[int, dict[int, bytes]]:
        with housekeeping(connection, deadline) as session:
            return ck.CKR_OK, read_attributes(connection, session, real, change.fetched, deadline, sure=True)

    try:
        found = step(group, *place, "C_GetAttributeValue", attempt)[1] or {}
    except MemberLost as loss:
        raise SourceLost(str(loss)) from None
    if found.keys() != set(change.fetched):
        raise Refusal(ck.CKR_OBJECT_HANDLE_INVALID, "what it is to become is gone meanwhile")
    return tuple(Attribute(kind, value) for kind, value in found.items())


def _is_still_recorded(group: GroupRuntime, members: Sequence[Place], write: Write, origin: tuple[int, int]) -> bool:
    """Whether the escrow record is still where it was read: else its key was deleted or changed meanwhile. Raises
    SourceLost, Refusal."""
    place, real = members[origin[0]], origin[1]
    connection = place[1]

    def attempt(deadline: float) -> tuple[int, bool]:
        with housekeeping(connection, deadline) as session:
            return ck.CKR_OK, _is_there(connection, session, real, write, deadline)

    try:
        return bool(step(group, *place, "C_GetAttributeValue", attempt)[1])
    except MemberLost as loss:
        raise SourceLost(str(loss)) from None


def _is_there(connection: Connection, session: int, real: int, of: Write | Clear, deadline: float) -> bool:
    """Whether this is (still) the record that a step is about. Raises MemberLost, SearchFailed."""
    decode: Callable[[bytes], EscrowRecord | Tombstone] = (
        decode_tombstone if isinstance(of.record, Tombstone) else decode_record
    )
    shown = read_attributes(connection, session, real, (ck.CKA_LABEL, ck.CKA_VALUE), deadline, sure=True)
    try:
        return decode(shown.get(ck.CKA_VALUE, b"")) == of.record and shown.get(ck.CKA_LABEL) == of.label
    except RecordDamaged:
        return False


def _write(group: GroupRuntime, place: Place, write: Write) -> int:
    """Its handle."""
    connection, record = place[1], write.record
    template = tombstone_template(record) if isinstance(record, Tombstone) else record_template(record, write.label)

    def attempt(deadline: float) -> tuple[int, int]:
        with housekeeping(connection, deadline) as session:
            return create(connection, session, template, deadline)

    rv, real = step(group, *place, "C_CreateObject", attempt)
    _expect(rv, "C_CreateObject")
    return real or 0


def _clear(group: GroupRuntime, place: Place, clear: Clear) -> None:
    connection = place[1]

    def attempt(deadline: float) -> tuple[int, None]:
        with housekeeping(connection, deadline) as session:
            if not _is_there(connection, session, clear.real, clear, deadline):
                return ck.CKR_OK, None
            return _destroyed(connection, session, clear.real, deadline), None

    _expect(step(group, *place, "C_DestroyObject", attempt)[0], "C_DestroyObject", _GONE)


def _destroyed(connection: Connection, session: int, real: int, deadline: float) -> int:
    """The CK_RV of destroying it. Raises Refusal where the module only says so, MemberLost, SearchFailed."""
    rv = destroy(connection, session, real, deadline)
    if rv in _GONE and not is_gone(connection, session, real, deadline):
        raise Refusal(ck.CKR_FUNCTION_FAILED, STILL_THERE)
    return rv


def _expect(rv: int, function: str, well: tuple[int, ...] = (ck.CKR_OK,)) -> None:
    if rv not in well:
        raise Refusal(rv, function)
