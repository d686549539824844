"""One object from one member to another: the only way in which resync makes an object.

What is no secret is read and created. A key goes wrapped under a domain key, by C_WrapKey on its source or from its
escrow record, and is proved on the member that it comes to as a new key is; what is not proved is taken back.

Source: SEMANTICS.md section 5; REPLICATION.md (attributes of a copy).
"""

from collections.abc import Mapping
from functools import lru_cache

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import KEY_TYPES, settable_in_unwrap
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import ARRAYS, DATES, attribute_of, lost, values_of
from pyha.ha.cloning import Carried, from_record
from pyha.ha.identity import Identity, flag, identity_of, ulong
from pyha.ha.records import EscrowRecord
from pyha.ha.replication import (
    KEY_CLASSES,
    attributes_to_create,
    created_template,
    guards,
    restated_template,
    value_of,
)
from pyha.ha.settling import template_of
from pyha.ha.steps import Copy
from pyha.runtime.bench import Bench
from pyha.runtime.copying import present_attributes
from pyha.runtime.failover import Tried
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import at_hand, read_attributes
from pyha.runtime.inventory import Shown, hash_of_value, read_back, shown_by
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.originals import create_on
from pyha.runtime.outcomes import Unreplicable, is_without_reason
from pyha.runtime.proving import (
    Proof,
    agreement,
    can_agree,
    check_value_proof,
    computed_check_value,
    encrypts_for_check_value,
    public_proof,
)
from pyha.runtime.publishing import publish_on
from pyha.runtime.showing import protections_of, shown
from pyha.runtime.steps import Placed, step
from pyha.runtime.strategy import carry, make_provable, strategy_of
from pyha.runtime.twins import whole_public_part

Place = tuple[int, Connection]
"""A member: its index in the group, and its connection."""

Copied = tuple[int, Shown | None]
"""The handle of a copy, and all that an inventory has to know of it where that was read already."""

_EMPTY_BY_DEFAULT = (*DATES, *ARRAYS, ck.CKA_ALLOWED_MECHANISMS)
_LAST = (ck.CKA_COPYABLE, ck.CKA_DESTROYABLE, ck.CKA_MODIFIABLE)
_FROM_SOURCE: dict[int, tuple[int, ...]] = {
    ck.CKO_CERTIFICATE: DATES,
    ck.CKO_PUBLIC_KEY: (*DATES, ck.CKA_ALLOWED_MECHANISMS, ck.CKA_WRAP_TEMPLATE),
}
"""CKO_ -> what an object that is no secret has, beside what it is created from and `_LAST`. Not CKA_TRUSTED, which
only the SO gives: a copy is not trusted until he says so."""


class SourceLost(Exception):
    """The member that the object was to come from is gone."""


def clone(group: GroupRuntime, source: Place, real: int, target: Place, copy: Copy) -> Copied | None:
    """Bring the object with this handle on `source` to `target`. None where it is no key, and by now another object or
    none (whether a key is still there the caller looks). Raises Unreplicable, Refusal, MemberLost (of the target),
    SourceLost."""
    if copy.identity.object_class not in KEY_CLASSES:
        return _create(group, source, real, target, copy)
    placed = Placed("a resync")
    try:
        carried, proof = _wrapped(group, source, real, copy)
        promised = {**values_of(carried.template), **dict(copy.settings)}
        return publish_on(group, *target, carried, proof, placed, promised), None
    except BaseException:
        placed.take_back(group)
        raise


def _create(group: GroupRuntime, source: Place, real: int, target: Place, copy: Copy) -> Copied | None:
    object_class = copy.identity.object_class or 0
    others = _FROM_SOURCE.get(object_class, ())

    def read(deadline: float) -> tuple[int, Template | None]:
        # In one call: what it is, to see that it is the one that is meant, and what it is made from.
        with at_hand(source[1], deadline) as session:
            seen = read_attributes(source[1], session, real, told_of(copy.identity), deadline, sure=True)
            hashed = hash_of_value(source[1], session, real, seen, deadline)
            if not copy.identity.same(identity_of(seen, hashed)):
                return ck.CKR_OK, None
            more = shown(source[1], session, real, others, deadline) if others else {}
        return ck.CKR_OK, template_from(copy, seen, more)

    try:
        _, template = step(group, *source, "C_GetAttributeValue", read)
    except MemberLost as loss:
        raise SourceLost(str(loss)) from None
    return None if template is None else create_copy(group, target, copy, template)


def told_of(identity: Identity) -> tuple[int, ...]:
    """What an object that is no secret is asked for before it is copied, in one call."""
    return _of_kind(identity.object_class or 0, identity.key_type)[1]


@lru_cache(64)
def _of_kind(object_class: int, key_type: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What it is created from; and that with all else that it is asked for."""
    wanted = attributes_to_create(object_class, key_type)
    return wanted, tuple(dict.fromkeys((*shown_by(object_class), *wanted, *_LAST)))


def template_from(copy: Copy, seen: Mapping[int, bytes], more: Mapping[int, bytes]) -> Template:
    """What the copy is created with. `seen`: what the source shows of `told_of`; `more`: and of what only some classes
    have."""
    object_class = copy.identity.object_class or 0
    wanted, _ = _of_kind(object_class, copy.identity.key_type)
    others = (*_FROM_SOURCE.get(object_class, ()), *_LAST)
    present = {**more, **{kind: seen[kind] for kind in _LAST if seen.get(kind)}}
    original = {kind: seen[kind] for kind in wanted if kind in seen}
    return created_template(_settled(present, others, copy), original, token=True)


def promised_by(copy: Copy, template: Template) -> dict[int, bytes]:
    """What the copy has to show."""
    return {**values_of(template), **dict(copy.settings)}


def create_copy(
    group: GroupRuntime, target: Place, copy: Copy, template: Template, tried: Tried | None = None
) -> Copied:
    """An object that is no secret onto its member, and read back. `tried`: its C_CreateObject, where it was made
    already. Raises Refusal, MemberLost."""
    seen: list[Shown] = []

    def look(
        connection: Connection, session: int, made: int, promised: Mapping[int, bytes], deadline: float
    ) -> tuple[int, ...]:
        # In one call: what the next plan has to know of it, so that it is not read once more for that.
        protections = protections_of(promised)
        object_class = copy.identity.object_class or 0
        found, whole = read_back(connection, session, made, object_class, protections, deadline)
        seen[:] = [whole]
        return lost(promised, found)

    placed = Placed("a resync")
    try:
        return create_on(group, *target, template, promised_by(copy, template), placed, look, tried=tried), seen[0]
    except BaseException:
        placed.take_back(group)
        raise


def _settled(present: Mapping[int, bytes], wanted: tuple[int, ...], copy: Copy) -> Template:
    """What the source has, with the settings that every member is to have."""
    said = {**present, **dict(copy.settings)}
    return tuple(attribute_of(kind, said[kind]) for kind in wanted if said.get(kind))


def _wrapped(group: GroupRuntime, source: Place, real: int, copy: Copy) -> tuple[Carried, Proof]:
    """The key in wrapped form, and how its copy is proved. Raises Unreplicable, Refusal, SourceLost."""
    index, connection = source

    def attempt(deadline: float) -> tuple[int, tuple[Carried, Proof]]:
        # On a session of its own, because proofs leave session objects.
        session = connection.open_session(deadline)
        try:
            if copy.record is not None:
                carried = _from_record(group, copy, copy.record)
                return ck.CKR_OK, (carried, _proof(group, connection, session, real, copy.identity, carried, deadline))
            return ck.CKR_OK, _wrap(group, connection, session, real, copy, deadline)
        finally:
            connection.discard(session, deadline)

    try:
        rv, made = step(group, index, connection, "C_WrapKey", attempt)
    except MemberLost as loss:
        raise SourceLost(str(loss)) from None
    if made is None:
        raise Unreplicable(f"it cannot be wrapped: {rv_name(rv)}", is_without_reason(rv))
    return made


def _from_record(group: GroupRuntime, copy: Copy, record: EscrowRecord) -> Carried:
    identity = copy.identity
    object_class, key_type = identity.object_class or 0, identity.key_type or 0
    said = {each.type for each in record.template}
    more = tuple(each for each in template_of(identity, copy.settings) if each.type in said or _is_told(each))
    template = _without_empty(restated_template(record.template, more, object_class, key_type))
    if not guards(record.domain, template):
        raise Unreplicable("its escrow record is under a domain key that would let it leave")
    known = {ck.CKA_CLASS: ulong(object_class), ck.CKA_KEY_TYPE: ulong(key_type)}
    if record.check_value:
        known[ck.CKA_CHECK_VALUE] = record.check_value
    carried = from_record(record, template, known)
    strategy_of(group, carried)
    return carried


def _is_told(attribute: Attribute) -> bool:
    """Whether it says something else than an object has that is told nothing."""
    if attribute.type in _LAST:  # true by default
        return not flag(attribute.value)
    return any(attribute.value)


def _without_empty(template: Template) -> Template:
    """An empty list, array or date is what a key has that is told nothing, and not every module takes it."""
    return tuple(each for each in template if each.value or each.type not in _EMPTY_BY_DEFAULT)


def _wrap(
    group: GroupRuntime, connection: Connection, session: int, real: int, copy: Copy, deadline: float
) -> tuple[Carried, Proof]:
    identity = copy.identity
    object_class, key_type = identity.object_class or 0, identity.key_type or 0
    told = (ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_CHECK_VALUE, ck.CKA_VALUE_LEN)
    known = read_attributes(connection, session, real, told, deadline, sure=True)
    present = present_attributes(connection, session, real, settable_in_unwrap(object_class, key_type), deadline)
    said = {each.type for each in present}
    # Another member may have a protection that the source has not.
    changes = tuple(each for each in template_of(identity, copy.settings) if each.type in said or _is_told(each))
    template = _without_empty(restated_template(present, changes, object_class, key_type))
    proof: Proof | None = None
    if object_class == ck.CKO_SECRET_KEY:
        # First: which wrapping keeps its length is found out by it.
        proof = _secret_proof(connection, session, real, key_type, known, present, deadline)
    carried = carry(Bench(group, connection, session, deadline), real, known, template, proof)
    return carried, proof or _proof(group, connection, session, real, identity, carried, deadline)


def _secret_proof(
    connection: Connection,
    session: int,
    real: int,
    key_type: int,
    known: Mapping[int, bytes],
    present: Template,
    deadline: float,
) -> Proof:
    check_value = b""
    if flag(value_of(present, ck.CKA_ENCRYPT)) or not encrypts_for_check_value(key_type):
        check_value = computed_check_value(connection, session, real, key_type, deadline)
    return check_value_proof(check_value or known.get(ck.CKA_CHECK_VALUE))


def _proof(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    real: int,
    identity: Identity,
    carried: Carried,
    deadline: float,
) -> Proof:
    """How a copy made from this wrapped form is proved. Raises Unreplicable, MemberLost, SearchFailed."""
    key_type = identity.key_type or 0
    if identity.object_class == ck.CKO_SECRET_KEY:
        return check_value_proof(carried.shown.get(ck.CKA_CHECK_VALUE) or identity.get(ck.CKA_CHECK_VALUE))
    proof: Proof | None = public_proof(key_type, _public(connection, session, identity, deadline))
    if proof is None and can_agree(key_type):
        # Nobody knows its public key: what the source unwraps and what the target unwraps have to be one key.
        known = read_attributes(connection, session, real, KEY_TYPES[key_type].on_private, deadline)
        rv, copy = make_provable(Bench(group, connection, session, deadline), carried, ck.CKA_DERIVE)
        if rv == ck.CKR_OK:
            proof = agreement(connection, session, copy, key_type, known, deadline)
    if proof is None:
        raise Unreplicable("a copy of such a private key cannot be proved")
    return proof


def _public(connection: Connection, session: int, identity: Identity, deadline: float) -> dict[int, bytes]:
    """What is known of the public key of a private one: from itself, its twin, or an object with its CKA_ID."""
    known = dict(identity.attributes)
    if identity.twin:
        known[ck.CKA_EC_POINT] = identity.twin
    return whole_public_part(connection, session, identity.key_type or 0, known, deadline)
