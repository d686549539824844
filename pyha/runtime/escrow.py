"""Escrow records on members: written, found, replaced and removed.

Knows one member at a time; the order over members is the caller's.

Source: SEMANTICS.md section 5.
"""

from pyha.cryptoki import constants as ck
from pyha.ha.domain import record_search
from pyha.ha.identity import Identity
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import EscrowRecord, decode, fingerprint_of, record_label, record_template
from pyha.runtime import log
from pyha.runtime.housekeeping import create, housekeeping, read_attributes, search
from pyha.runtime.member import Connection


def write(connection: Connection, record: EscrowRecord, identity: Identity, deadline: float) -> tuple[int, int]:
    """Write a record beside its key: (CK_RV, real handle). Raises MemberLost, SessionRefused."""
    with housekeeping(connection, deadline) as session:
        return create(connection, session, record_template(record, record_label(identity)), deadline)


def find(
    connection: Connection, group_id: bytes, identity: Identity, deadline: float
) -> list[tuple[int, EscrowRecord]]:
    """The records of a key on this member: (real handle, record). Empty where keys of the same name have records and it
    cannot be told which is this one's. Raises MemberLost, SearchFailed, SessionRefused."""
    fingerprint = fingerprint_of(identity)
    found = []
    with housekeeping(connection, deadline, reads=True) as session:
        for real in search(connection, session, record_search(record_label(identity)), deadline):
            value = read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE)
            if not value:
                continue
            try:
                record = decode(value)
            except RecordDamaged as damage:
                log.log("warning", f"member {connection.name}: {damage}")
                continue
            same = not fingerprint or not record.fingerprint or record.fingerprint == fingerprint
            if record.group_id == group_id and same:
                found.append((real, record))
    if not fingerprint and len({record.fingerprint for _, record in found}) > 1:
        log.log("warning", f"member {connection.name}: records of keys that cannot be told apart are left alone")
        return []
    return found
