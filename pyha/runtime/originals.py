"""From the application's creating call to published keys: the originals, what they show, and their proof.

The originals are extractable session objects on a real session of their own on one member; whatever happens, closing
that session destroys them. If that member is lost before anything was published, the next one makes new originals.

Source: SEMANTICS.md section 5.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.keys import KEY_TYPES
from pyha.cryptoki.values import Template
from pyha.ha.identity import READ, Identity, identity_of, number
from pyha.ha.replication import KEY_CLASSES, attributes_to_read, original_template, public_template, wants_token
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import create, housekeeping, read_attributes
from pyha.runtime.making import MakeCall
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.publishing import Placed, Refusal, Unreplicable, Wrapped, publish, unwrap, wrap
from pyha.runtime.session import VirtualSession

if TYPE_CHECKING:
    from pyha.runtime.creating import Part

Shown = Mapping[int, bytes]


def publish_originals(
    group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any], parts: "list[Part]"
) -> tuple[int, list[Any]]:
    """Make, wrap, publish: (CK_RV, results with virtual handles). Raises Refusal, Unreplicable, NobodyLeft, Unknown."""
    if group.user != ck.CKU_USER:
        # Nothing is cloned in a public or SO session; the member says what it thinks of the call itself.
        rv = _as_asked(group, function, values, parts)
        return (ck.CKR_USER_NOT_LOGGED_IN if rv == ck.CKR_OK else rv), []
    while True:
        call = MakeCall(group, function, _original_values(values, parts), None)
        rv, results = run(group, call)
        if rv != ck.CKR_OK or call.connection is None:
            return _refused(group, function, values, parts, rv), []
        connection = call.connection
        try:
            prepared = _prepare(group, call, parts, results)
        except MemberLost as loss:
            group.lost(call.index, connection.generation, str(loss))
            continue
        except BaseException:
            connection.discard(call.real_session, group.deadline())
            raise
        try:
            return ck.CKR_OK, _publish_all(group, session, call, values, parts, prepared)
        finally:
            connection.discard(call.real_session, group.deadline())


def _original_values(values: list[Any], parts: "list[Part]") -> list[Any]:
    changed = list(values)
    for part in parts:
        changed[part.template] = original_template(values[part.template], part.object_class in KEY_CLASSES)
    return changed


def _refused(group: GroupRuntime, function: Function, values: list[Any], parts: "list[Part]", rv: int) -> int:
    """The member refused the original. If it refuses the application's own call too, that is the answer."""
    own = _as_asked(group, function, values, parts)
    if own == ck.CKR_OK:
        raise Unreplicable(f"no extractable original of it can be made ({rv:#x})")
    return own


def _as_asked(group: GroupRuntime, function: Function, values: list[Any], parts: "list[Part]") -> int:
    """What a member answers to the application's own call, tried with session objects that are thrown away at once."""
    trial = list(values)
    for part in parts:
        template: Template = values[part.template]
        kept = tuple(each for each in template if each.type != ck.CKA_TOKEN)
        trial[part.template] = kept
    call = MakeCall(group, function, trial, None)
    rv, _ = run(group, call)
    if rv == ck.CKR_OK and call.connection is not None:
        call.connection.discard(call.real_session, group.deadline())
    return rv


class _Prepared:
    """The originals of one call: what each shows, and the wrapped form of the key."""

    def __init__(self) -> None:
        self.shown: dict[int, Shown] = {}  # result position -> attributes
        self.identity: dict[int, Identity] = {}
        self.wrapped: Wrapped | None = None


def _prepare(group: GroupRuntime, call: MakeCall, parts: "list[Part]", results: list[Any]) -> _Prepared:
    """Read and wrap. Raises Unreplicable, MemberLost."""
    connection, session = call.connection, call.real_session
    assert connection is not None
    deadline = group.deadline(slow=True)
    prepared = _Prepared()
    public: Shown = {}
    for part in parts:
        real = results[part.result]
        key_type_row = _public_attributes(connection, session, real, deadline)
        wanted = {*READ, *attributes_to_read(part.object_class or 0), *key_type_row}
        shown = read_attributes(connection, session, real, sorted(wanted), deadline)
        if ck.CKA_CLASS not in shown or ck.CKA_KEY_TYPE not in shown:
            raise Unreplicable("the original cannot be read")
        prepared.shown[part.result] = shown
        if part.object_class == ck.CKO_PUBLIC_KEY:
            public = shown
            continue
        if not public and ck.CKA_MODULUS in shown and ck.CKA_PUBLIC_EXPONENT in shown:
            public = shown
        prepared.wrapped = wrap(group, connection, session, real, shown, part.asked, public, deadline)
    for part in parts:
        prepared.identity[part.result] = _identity(prepared.shown[part.result], part, public)
    return prepared


def _public_attributes(connection: Connection, session: int, real: int, deadline: float) -> tuple[int, ...]:
    shown = read_attributes(connection, session, real, (ck.CKA_CLASS, ck.CKA_KEY_TYPE), deadline)
    row = KEY_TYPES.get(number(shown.get(ck.CKA_KEY_TYPE)) or 0)
    if row is None or number(shown.get(ck.CKA_CLASS)) == ck.CKO_SECRET_KEY:
        return ()
    # CKA_VALUE is a public key's public part and a private key's secret.
    secret = number(shown.get(ck.CKA_CLASS)) != ck.CKO_PUBLIC_KEY
    return tuple(kind for kind in row.public if not (secret and kind == ck.CKA_VALUE))


def _identity(shown: Shown, part: "Part", public: Shown) -> Identity:
    """The identity of the object to be: the original's, as a token object."""
    attributes = {kind: value for kind, value in shown.items() if kind in READ}
    attributes[ck.CKA_TOKEN] = b"\1" if wants_token(part.asked) else b"\0"
    twin = public.get(ck.CKA_EC_POINT) if part.object_class == ck.CKO_PRIVATE_KEY else None
    return identity_of(attributes, None, twin)


def _publish_all(
    group: GroupRuntime,
    session: VirtualSession,
    call: MakeCall,
    values: list[Any],
    parts: "list[Part]",
    prepared: _Prepared,
) -> list[Any]:
    """Every object of the call onto its members: the results. Takes everything back where one of them fails."""
    placed = Placed()
    answer: list[Any] = [None] * len(values)
    try:
        for part in parts:
            if not wants_token(part.asked):
                answer[part.result] = _for_session(group, session, call, part, prepared)
                continue
            if part.object_class == ck.CKO_PUBLIC_KEY:
                made = _create_everywhere(group, part, prepared.shown[part.result], placed)
            else:
                assert prepared.wrapped is not None
                made = publish(group, prepared.wrapped, prepared.identity[part.result], placed)
            identity = prepared.identity[part.result]
            entry = group.objects.made(identity, made)
            if part.object_class == ck.CKO_SECRET_KEY:
                entry.value_length = number(prepared.shown[part.result].get(ck.CKA_VALUE_LEN))
            answer[part.result] = entry.handle
    except BaseException:
        placed.take_back(group)
        for handle in answer:
            if handle is not None:
                group.objects.remove(handle)
        raise
    return answer


def _create_everywhere(group: GroupRuntime, part: "Part", shown: Shown, placed: Placed) -> list[tuple[Connection, int]]:
    """A public key on every member that is in. Raises Refusal, NobodyLeft."""
    key_type = number(shown[ck.CKA_KEY_TYPE]) or 0
    template = public_template(part.asked, shown, key_type, token=True)
    made = []
    for index, connection in group.present():
        deadline = group.deadline()
        try:
            with housekeeping(connection, deadline) as real_session:
                rv, real = create(connection, real_session, template, deadline)
            if rv != ck.CKR_OK and not connection.alive(deadline):
                raise MemberLost(f"C_CreateObject answered {rv:#x} and the probe failed")
        except SessionRefused as refused:
            raise Refusal(refused.rv, f"member {group.name(index)} refused a session") from None
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        if rv != ck.CKR_OK:
            raise Refusal(rv, f"member {group.name(index)} refused the public key")
        placed.objects.append((index, connection, real))
        made.append((connection, real))
    if not made:
        raise group.nobody_left()
    return made


def _for_session(
    group: GroupRuntime, session: VirtualSession, call: MakeCall, part: "Part", prepared: _Prepared
) -> int:
    """The half of a pair that is to be a session object: on the originals' member, where the application's session
    holds it."""
    connection = call.connection
    assert connection is not None
    deadline = group.deadline(slow=True)
    shown = prepared.shown[part.result]
    try:
        holder = session.holder(call.index, connection, deadline)
        if part.object_class == ck.CKO_PUBLIC_KEY:
            key_type = number(shown[ck.CKA_KEY_TYPE]) or 0
            rv, real = create(connection, holder, public_template(part.asked, shown, key_type, token=False), deadline)
            if rv != ck.CKR_OK:
                raise Refusal(rv, f"member {group.name(call.index)} refused the public key")
        else:
            assert prepared.wrapped is not None
            template = tuple(each for each in prepared.wrapped.template if each.type != ck.CKA_TOKEN)
            real = unwrap(group, call.index, connection, holder, prepared.wrapped, template, deadline)
    except SessionRefused as refused:
        raise Refusal(refused.rv, f"member {group.name(call.index)} refused a session") from None
    except MemberLost as loss:
        group.lost(call.index, connection.generation, str(loss))
        raise Refusal(ck.CKR_DEVICE_ERROR, "the member that holds the session object was lost") from None
    identity = prepared.identity[part.result]
    home = (call.index, connection.generation)
    return group.objects.made(identity, [(connection, real)], session.handle, home).handle
