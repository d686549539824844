"""C_DestroyObject and C_SetAttributeValue on a session object: wherever it was brought to, and in what is kept of it.

What is kept says what the object is now, or is dropped: an object is rather lost with its member than made again with
other attributes.

Source: SEMANTICS.md section 5 (session objects); `pyha.runtime.changing` for token objects.
"""

from contextlib import suppress
from typing import Protocol

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import is_attribute_array, is_secret
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import ulong
from pyha.ha.replication import restated_template, value_of
from pyha.runtime import log
from pyha.runtime.bench import Bench
from pyha.runtime.failover import Policy, run
from pyha.runtime.following import UNCHANGED, Following
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, destroy, housekeeping, read_attributes
from pyha.runtime.kept import Kept, KeptKey
from pyha.runtime.making import identify_again, make_with
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Refusal, Unreplicable
from pyha.runtime.strategy import carry


class Change(Policy, Protocol):
    """The change itself, on one member. `index`: the one that was tried last. `following`: what the object showed
    then."""

    index: int
    following: Following


def alter(group: GroupRuntime, call: Change, entry: Entry, template: Template | None) -> int:
    """Destroy a session object, or, with a template, set its attributes; the CK_RV. Raises NobodyLeft, Unknown,
    SessionRefused."""
    session = group.sessions.get(entry.session or 0)
    if session is None:
        return ck.CKR_OBJECT_HANDLE_INVALID
    with session.hold(group.deadline(), group.clock):
        return _destroy(group, call, entry) if template is None else _set(group, call, entry, template)


def _destroy(group: GroupRuntime, call: Change, entry: Entry) -> int:
    rv, _ = run(group, call)
    if rv == ck.CKR_OK:
        for index, connection, real in group.objects.remove(entry.handle):
            if index != call.index:
                _destroy_on(group, index, connection, real)
    return rv


def _destroy_on(group: GroupRuntime, index: int, connection: Connection, real: int) -> None:
    """A member that does not do it keeps what nobody can name, until the session ends."""
    deadline = group.deadline()
    try:
        with suppress(SearchFailed, SessionRefused), housekeeping(connection, deadline) as session:
            destroy(connection, session, real, deadline)
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))


def _set(group: GroupRuntime, call: Change, entry: Entry, template: Template) -> int:
    after = _kept_after(group, entry, template)
    rv, _ = run(group, call)
    if rv == ck.CKR_OK and call.following.is_nowhere():
        log.log("warning", f'group "{group.settings.label}": {UNCHANGED}')
        rv = ck.CKR_FUNCTION_FAILED
    if rv == ck.CKR_OK:
        _set_on_the_others(group, call, entry, template)
        identify_again(group, entry, call.index)
        _keep(entry, after)
    elif len(template) > 1 and entry.kept is not None:
        # Of several attributes some may have been set before the one that was refused.
        present = _read_again(group, call.index, entry, template)
        _leave_only(group, entry, call.index)
        identify_again(group, entry, call.index)
        _keep(entry, None if present is None else entry.kept.changed(present))
    return rv


def _keep(entry: Entry, after: Kept | None) -> None:
    before, entry.kept = entry.kept, after
    if before is not None and before is not after:
        before.wipe()


def _kept_after(group: GroupRuntime, entry: Entry, template: Template) -> Kept | None:
    """What is kept once the attributes are set: a key that becomes unextractable is wrapped anew while it can be, under
    the domain key that lets it leave no more."""
    kept = entry.kept
    after = None if kept is None else kept.changed(template)
    if after is not None or not isinstance(kept, KeptKey) or not group.objects.settle_home(entry):
        return after
    before = kept.carried
    if value_of(before.template, ck.CKA_EXTRACTABLE) != b"\1":
        return None
    assert entry.home is not None
    connection = group.connections[entry.home[0]]
    real = connection.bound.get(entry.handle) if connection is not None else None
    if connection is None or real is None:
        return None
    object_class, key_type = entry.identity.object_class or 0, entry.identity.key_type or 0
    wanted = restated_template(before.template, template, object_class, key_type)
    shown = {**before.shown, ck.CKA_VALUE_LEN: ulong(before.length or 0)}
    deadline = group.deadline()
    try:
        with housekeeping(connection, deadline) as session:
            carried = carry(Bench(group, connection, session, deadline), real, shown, wanted, None)
    except (Unreplicable, Refusal, SearchFailed, SessionRefused, MemberLost):
        return None  # a lost member is met by the change itself
    return KeptKey(carried, kept.proof).changed(template)


def _set_on_the_others(group: GroupRuntime, call: Change, entry: Entry, template: Template) -> None:
    for index, connection in group.present():
        real = connection.bound.get(entry.handle)
        if index == call.index or real is None:
            continue
        deadline = group.deadline()
        rv = ck.CKR_FUNCTION_FAILED
        try:
            with suppress(SearchFailed, SessionRefused), housekeeping(connection, deadline) as session:
                rv, _ = make_with(connection, call.function, [session, real, template], deadline)
                if rv == ck.CKR_OK:
                    call.following.look(index, connection, session, real, deadline)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        if rv != ck.CKR_OK or (index, connection) in call.following.behind():
            # Brought again when it is needed there.
            group.objects.unbind(connection, entry.handle)
            _destroy_on(group, index, connection, real)


def _leave_only(group: GroupRuntime, entry: Entry, where: int) -> None:
    """Destroy the object's copies on all members but one."""
    for index, connection in group.present():
        real = connection.bound.get(entry.handle)
        if index != where and real is not None:
            group.objects.unbind(connection, entry.handle)
            _destroy_on(group, index, connection, real)


def _read_again(group: GroupRuntime, index: int, entry: Entry, template: Template) -> Template | None:
    """What the object has of these attributes; None where that cannot be told."""
    connection = group.connections[index]
    real = connection.bound.get(entry.handle) if connection is not None else None
    wanted = {each.type for each in template}
    told = not any(is_attribute_array(kind) for kind in wanted)
    if connection is None or real is None or not told:
        return None
    wanted = {kind for kind in wanted if not is_secret(kind, entry.identity.object_class)}
    deadline = group.deadline()
    try:
        with housekeeping(connection, deadline) as session:
            shown = read_attributes(connection, session, real, sorted(wanted), deadline, sure=True)
    except (SearchFailed, SessionRefused):
        return None
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        return None
    return tuple(Attribute(kind, value) for kind, value in shown.items())
