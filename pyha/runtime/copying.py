"""What C_CopyObject and C_SetAttributeValue need beside the call itself: what the source is, and the escrow record of a
copy, or of a key that becomes unextractable.

Source: SEMANTICS.md section 5.
"""

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.keys import settable_in_unwrap
from pyha.cryptoki.plain import dataclass, replace
from pyha.cryptoki.values import Attribute, Query, Template
from pyha.ha.arrays import attribute_of, is_dated
from pyha.ha.identity import Identity, flag, number, ulong
from pyha.ha.records import EscrowRecord, fingerprint_of
from pyha.ha.replication import KEY_CLASSES, guards, restated_template, stays_extractable, value_of, wants_token
from pyha.runtime import escrow
from pyha.runtime.bench import Bench
from pyha.runtime.binding import bind
from pyha.runtime.calls import SingleCall
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import housekeeping, read_attributes
from pyha.runtime.lengths import key_length
from pyha.runtime.member import Connection
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Unreplicable
from pyha.runtime.proving import (
    Proof,
    agreement,
    can_agree,
    check_value_proof,
    computed_check_value,
    encrypts_for_check_value,
    gives_back,
    public_proof,
)
from pyha.runtime.publishing import write_records
from pyha.runtime.showing import shown
from pyha.runtime.steps import Placed, on_first, step
from pyha.runtime.strategy import carry, make_provable

_SOURCE = (
    ck.CKA_CLASS,
    ck.CKA_KEY_TYPE,
    ck.CKA_TOKEN,
    ck.CKA_PRIVATE,
    ck.CKA_SENSITIVE,
    ck.CKA_EXTRACTABLE,
    ck.CKA_ID,
    ck.CKA_LABEL,
)


def source_attributes(group: GroupRuntime, handle: int) -> Template:
    """What a copy has unless its template says otherwise. Raises NobodyLeft, Unknown."""
    query = tuple(Query(attribute, 512) for attribute in _SOURCE)
    _, results = run(group, SingleCall(group, BY_NAME["C_GetAttributeValue"], [0, handle, query]))
    if not results or results[2] is None:
        return ()
    return tuple(Attribute(found.type, found.value) for found in results[2] if found.value is not None)


@dataclass(frozen=True, slots=True)
class CopiedRecord:
    """The record of a copy, to be written once the copy's own identity is known."""

    made: EscrowRecord

    def write(self, group: GroupRuntime, identity: Identity, placed: Placed) -> None:
        """Write it on every member that is in. Raises Refusal, NobodyLeft."""
        write_records(group, replace(self.made, fingerprint=fingerprint_of(identity)), identity, placed)


@dataclass(frozen=True, slots=True)
class Copy:
    """A C_CopyObject of a token object. `asked`: what the copy will have of `_SOURCE`, and the application's template,
    which is `changes` alone."""

    entry: Entry
    asked: Template
    changes: Template

    def record(self, group: GroupRuntime) -> CopiedRecord | None:
        """The record for the copy; None where it needs none. Raises Unreplicable, Refusal, NobodyLeft."""
        if number(value_of(self.asked, ck.CKA_CLASS)) not in KEY_CLASSES or not wants_token(self.asked):
            return None
        if stays_extractable(self.asked):
            existing = existing_record(group, self.entry)
            if existing is None and is_dated(self.changes):
                existing = dated_record_for(group, self.entry, self.changes)
            return CopiedRecord(_restated(existing, self.changes)) if existing is not None else None
        made = record_for(group, self.entry, self.changes)
        if made is None:
            raise Unreplicable("its source has no escrow record and cannot be wrapped")
        return CopiedRecord(made)


def _restated(record: EscrowRecord, changes: Template) -> EscrowRecord:
    object_class = number(value_of(record.template, ck.CKA_CLASS)) or 0
    key_type = number(value_of(record.template, ck.CKA_KEY_TYPE)) or 0
    return replace(record, template=restated_template(record.template, changes, object_class, key_type))


def existing_record(group: GroupRuntime, entry: Entry) -> EscrowRecord | None:
    """The record of this key, None where it has none. Raises Refusal, NobodyLeft."""

    def work(index: int, connection: Connection) -> EscrowRecord | None:
        found = [record for _, record in records_on(group, index, connection, entry.identity)]
        if len(set(found)) > 1:
            return _nearest(found, _present_on(group, index, connection, entry))
        return found[0] if found else None

    return on_first(group, work)


def _nearest(records: list[EscrowRecord], present: Template) -> EscrowRecord:
    """Of the records of copies of one key, that of the copy which has these attributes."""
    has = {each.type: each.value for each in present}
    return max(records, key=lambda record: sum(has.get(each.type) == each.value for each in record.template))


def _present_on(group: GroupRuntime, index: int, connection: Connection, entry: Entry) -> Template:
    wanted = settable_in_unwrap(entry.identity.object_class or 0, entry.identity.key_type or 0)

    def attempt(deadline: float) -> tuple[int, Template]:
        real = bind(group, index, connection, entry, deadline)
        if real is None:
            return ck.CKR_OK, ()
        with housekeeping(connection, deadline) as session:
            return ck.CKR_OK, present_attributes(connection, session, real, wanted, deadline)

    return step(group, index, connection, "C_GetAttributeValue", attempt)[1] or ()


def records_on(
    group: GroupRuntime, index: int, connection: Connection, identity: Identity
) -> list[tuple[int, EscrowRecord]]:
    """The records of a key on this member: (real handle, record). Raises MemberLost, Refusal."""

    def attempt(deadline: float) -> tuple[int, list[tuple[int, EscrowRecord]]]:
        return ck.CKR_OK, escrow.find(connection, group.settings.id, identity, deadline)

    return step(group, index, connection, "C_GetAttributeValue", attempt)[1] or []


def record_for(group: GroupRuntime, entry: Entry, changes: Template) -> EscrowRecord | None:
    """A record of this key with `changes` over what it has: from the record it has, else by wrapping it now. Raises
    Unreplicable, Refusal, NobodyLeft."""
    existing = existing_record(group, entry)
    if existing is not None:
        restated = _restated(existing, changes)
        if guards(restated.domain, restated.template):
            return restated
        # It becomes a key that must not leave, and its record is under a domain key that would let it: wrapped anew.
    return on_first(group, lambda index, connection: _wrapped_now(group, index, connection, entry, changes))


def dated_record_for(group: GroupRuntime, entry: Entry, changes: Template) -> EscrowRecord | None:
    """`record_for` a key that may leave, whose dates only a record tells; None where none can be made. Raises Refusal,
    NobodyLeft."""
    try:
        return record_for(group, entry, changes)
    except Unreplicable:
        return None


def _wrapped_now(
    group: GroupRuntime, index: int, connection: Connection, entry: Entry, changes: Template
) -> EscrowRecord | None:
    def attempt(deadline: float) -> tuple[int, EscrowRecord | None]:
        real = bind(group, index, connection, entry, deadline)
        if real is None:
            return ck.CKR_OK, None
        object_class, key_type = entry.identity.object_class or 0, entry.identity.key_type or 0
        with housekeeping(connection, deadline) as session:
            told = (ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_CHECK_VALUE)
            known = read_attributes(connection, session, real, told, deadline, sure=True)
            length = key_length(group, connection, session, real, entry, deadline)
            if length is not None:
                known[ck.CKA_VALUE_LEN] = ulong(length)
            present = present_attributes(
                connection, session, real, settable_in_unwrap(object_class, key_type), deadline
            )
            template = restated_template(present, changes, object_class, key_type)
        # On a session of its own, because the proof leaves session objects.
        session = connection.open_session(deadline)
        try:
            proof = _proof(connection, session, real, known, value_of(present, ck.CKA_ENCRYPT), entry, deadline)
            bench = Bench(group, connection, session, deadline)
            carried = carry(bench, real, known, template, proof)
            made = make_provable(bench, carried, proof.needs)
            if not gives_back(made, proof, connection, session, deadline):
                raise Unreplicable("what wrapping it gives back is not proved to be the same key")
        finally:
            connection.discard(session, deadline)
        return ck.CKR_OK, carried.record(group.settings.id, entry.identity)

    def unbind(connection: Connection) -> None:
        group.objects.unbind(connection, entry.handle)

    return step(group, index, connection, "C_WrapKey", attempt, unbind)[1]


def _proof(
    connection: Connection,
    session: int,
    real: int,
    told: dict[int, bytes],
    encrypts: bytes | None,
    entry: Entry,
    deadline: float,
) -> Proof:
    """How a copy of a key that is there already is proved. Raises Unreplicable, MemberLost, SearchFailed."""
    key_type = entry.identity.key_type or 0
    if entry.identity.object_class == ck.CKO_SECRET_KEY:
        check_value = b""
        if flag(encrypts) or not encrypts_for_check_value(key_type):
            check_value = computed_check_value(connection, session, real, key_type, deadline)
        proof = check_value_proof(check_value or told.get(ck.CKA_CHECK_VALUE))
        told[ck.CKA_CHECK_VALUE] = proof.check_value
        return proof
    known = dict(entry.identity.attributes)
    if entry.identity.twin:
        known[ck.CKA_EC_POINT] = entry.identity.twin
    found: Proof | None = public_proof(key_type, known)
    if found is None and can_agree(key_type):
        found = agreement(connection, session, real, key_type, known, deadline)
    if found is None:
        raise Unreplicable("a copy of such a private key cannot be proved")
    return found


def present_attributes(
    connection: Connection, session: int, real: int, wanted: tuple[int, ...], deadline: float
) -> Template:
    """What the object has of these attributes. Without its protections a copy would be weaker: that they were not shown
    says nothing of them. Raises MemberLost, SearchFailed, Unread."""
    found = shown(connection, session, real, wanted, deadline)
    named = (ck.CKA_ID, ck.CKA_LABEL)
    return tuple(attribute_of(kind, value) for kind, value in found.items() if value or kind in named)
