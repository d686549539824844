"""What C_CopyObject needs beside the call itself: what the source is, and the escrow record of a copy that must not
leave.

Source: SEMANTICS.md section 5.
"""

from dataclasses import dataclass, replace

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.values import Attribute, Query, Template
from pyha.ha.identity import Identity, number
from pyha.ha.records import EscrowRecord, fingerprint_of
from pyha.ha.replication import KEY_CLASSES, attributes_to_read, stays_extractable, value_of, wants_token
from pyha.runtime import escrow
from pyha.runtime.calls import SingleCall, Unknown
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, read_attributes
from pyha.runtime.member import MemberLost, SessionRefused
from pyha.runtime.objects import Entry
from pyha.runtime.publishing import Placed, Unreplicable, record_of, wrap, write_record

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


@dataclass(slots=True)
class CopiedRecord:
    """The record of a copy, to be written once the copy's own identity is known."""

    record: EscrowRecord

    def write(self, group: GroupRuntime, identity: Identity, placed: Placed) -> None:
        """Write it on every member that is in. Raises Refusal."""
        record = replace(self.record, fingerprint=fingerprint_of(identity))
        for index, connection in group.present():
            write_record(group, index, connection, record, identity, placed)


def copied_record(group: GroupRuntime, source: int, asked: Template, placed: Placed) -> CopiedRecord | None:
    """The record for a copy of `source` (virtual handle) as `asked`; None where it needs none. Raises Unreplicable."""
    object_class = number(value_of(asked, ck.CKA_CLASS))
    if object_class not in KEY_CLASSES or not wants_token(asked) or stays_extractable(asked):
        return None
    entry = group.objects.get(source)
    if entry is None:
        raise Unknown(ck.CKR_OBJECT_HANDLE_INVALID)
    record = record_for(group, entry, asked)
    if record is None:
        raise Unreplicable("its source has no escrow record and cannot be wrapped")
    return CopiedRecord(record)


def record_for(group: GroupRuntime, entry: Entry, asked: Template) -> EscrowRecord | None:
    """A record of this key under new attributes: from the record it has, else by wrapping it now. Raises
    Unreplicable."""
    for index, connection in group.present():
        real = connection.bound.get(entry.handle)
        if real is None:
            continue
        deadline = group.deadline()
        try:
            for _, record in escrow.find(connection, group.settings.id, entry.identity, deadline):
                return replace(record, template=overlaid(record.template, asked))
            with housekeeping(connection, deadline) as session:
                object_class = entry.identity.object_class or 0
                wanted = (*attributes_to_read(object_class), ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT)
                shown = read_attributes(connection, session, real, wanted, deadline)
                public = dict(shown)
                if entry.identity.twin:
                    public[ck.CKA_EC_POINT] = entry.identity.twin
                wrapped = wrap(group, connection, session, real, shown, asked, public, deadline)
            return record_of(group, wrapped, entry.identity)
        except (MemberLost, SessionRefused, SearchFailed) as loss:
            group.lost(index, connection.generation, str(loss))
    return None


def overlaid(template: Template, changes: Template) -> Template:
    """A record's template with the attributes of `changes` that it names, in its own order."""
    new = {each.type: each for each in changes}
    known = {each.type for each in template}
    added = tuple(
        each for each in changes if each.type not in known and each.type in (ck.CKA_ID, ck.CKA_LABEL, ck.CKA_SUBJECT)
    )
    kept = tuple(
        Attribute(
            each.type, new[each.type].value if isinstance(new[each.type].value, tuple) else bytes(new[each.type].value)
        )
        if each.type in new
        else each
        for each in template
    )
    return (*added, *kept)
