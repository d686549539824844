"""Reading what a logged-in member holds: the inventory that a resync is planned from.

Reads attributes only, and never the value of a key. What cannot be read is read again when all else was, and then
counted, so that nobody takes it for absent: it may be a tombstone, without which what was deleted comes back.
The time is that of one search and one or two calls an object, whatever there is.

Source: SEMANTICS.md section 5; REPLICATION.md (cost).
"""

from collections.abc import Mapping
from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import APPLICATION, is_domain_label
from pyha.ha.identity import READ, Identity, flag, identity_of, number, with_twins
from pyha.ha.inventory import COMPARED, Held, HeldRecord, HeldTombstone, Inventory
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import EscrowRecord
from pyha.ha.records import decode as decode_record
from pyha.ha.tombstones import Tombstone, believable, is_tombstone_label
from pyha.ha.tombstones import decode as decode_tombstone
from pyha.runtime import log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, Unread, housekeeping, read_attributes, search
from pyha.runtime.member import Connection

_NO_OBJECTS = (ck.CKO_HW_FEATURE, ck.CKO_MECHANISM)
_VALUED_KEYS = (ck.CKK_DSA, ck.CKK_DH, ck.CKK_X9_42_DH)
"""Types of public keys whose public part is CKA_VALUE."""

TOKEN_OBJECTS: Template = (Attribute(ck.CKA_TOKEN, b"\1"),)


def read_inventory(group: GroupRuntime, connection: Connection) -> tuple[Inventory, frozenset[int]]:
    """What a member holds, and the handles of all of it. Raises MemberLost, SessionRefused, SearchFailed (also where
    its login was lost meanwhile: it may have shown less than it has)."""
    logins = connection.logins
    read = _Read(group, connection)
    unread = 0
    with housekeeping(connection, group.deadline(), reads=True) as session:
        reals = search(connection, session, TOKEN_OBJECTS, group.deadline(), ck.CKU_USER)
        later = [real for real in reals if not read.one(session, real)]
        for real in later:
            if not read.one(session, real):
                unread += 1
                log.log("warning", f"member {connection.name}: an object cannot be read, and may be any")
    if connection.logged_in != ck.CKU_USER or connection.logins != logins:
        raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)
    identities = with_twins([(attributes, hashed) for _, attributes, hashed in read.shown])
    objects = tuple(
        Held(real, identity, tuple((kind, attributes[kind]) for kind in COMPARED if kind in attributes))
        for (real, attributes, _), identity in zip(read.shown, identities, strict=True)
    )
    return Inventory(objects, tuple(read.records), tuple(read.tombstones), unread), frozenset(reals)


class _Read:
    """What has been read of one member so far."""

    def __init__(self, group: GroupRuntime, connection: Connection) -> None:
        self.shown: list[tuple[int, dict[int, bytes], bytes | None]] = []
        self.records: list[HeldRecord] = []
        self.tombstones: list[HeldTombstone] = []
        self._group = group
        self._connection = connection

    def one(self, session: int, real: int) -> bool:
        """Whether this object could be read, or is gone. Raises MemberLost, SearchFailed."""
        try:
            self._read(session, real)
        except Unread:
            return False
        return True

    def _read(self, session: int, real: int) -> None:
        connection, deadline = self._connection, self._group.deadline()
        attributes = read_attributes(connection, session, real, (*READ, *COMPARED), deadline, sure=True)
        if is_record(attributes):
            record = _record(self._group, connection, session, real, attributes, deadline)
            if isinstance(record, Tombstone):
                self.tombstones.append(HeldTombstone(real, record))
            elif record is not None:
                self.records.append(HeldRecord(real, attributes.get(ck.CKA_LABEL, b""), record))
        elif attributes and is_replicated(attributes):
            hashed = hash_of_value(connection, session, real, attributes, deadline)
            self.shown.append((real, attributes, hashed))


def identities(connection: Connection, deadline: float) -> list[Identity]:
    """What every token object of a logged-in member is, but for the group's own. Raises MemberLost, SessionRefused,
    SearchFailed."""
    shown = []
    with housekeeping(connection, deadline, reads=True) as session:
        for real in search(connection, session, TOKEN_OBJECTS, deadline):
            attributes = read_attributes(connection, session, real, READ, deadline)
            if attributes and is_replicated(attributes) and not is_record(attributes):
                shown.append((attributes, hash_of_value(connection, session, real, attributes, deadline)))
    return with_twins(shown)


def is_record(attributes: Mapping[int, bytes]) -> bool:
    """Whether it is one of the group's own data objects."""
    is_data = number(attributes.get(ck.CKA_CLASS)) == ck.CKO_DATA
    return is_data and attributes.get(ck.CKA_APPLICATION) == APPLICATION


def is_replicated(attributes: Mapping[int, bytes]) -> bool:
    """Whether it is an object that every member has to have: neither a domain key nor a part of the token itself."""
    domain = is_domain_label(attributes.get(ck.CKA_LABEL, b""))
    return not domain and number(attributes.get(ck.CKA_CLASS)) not in _NO_OBJECTS


def hash_of_value(
    connection: Connection, session: int, real: int, attributes: Mapping[int, bytes], deadline: float
) -> bytes | None:
    """SHA-256 of CKA_VALUE of what is no secret, None where there is none. Raises MemberLost, SearchFailed."""
    object_class = number(attributes.get(ck.CKA_CLASS))
    valued = object_class in (ck.CKO_DATA, ck.CKO_CERTIFICATE)
    if object_class == ck.CKO_PUBLIC_KEY:
        valued = number(attributes.get(ck.CKA_KEY_TYPE)) in _VALUED_KEYS
    if not valued:
        return None
    value = read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE)
    return sha256(value).digest() if value else None


def identity_at(connection: Connection, session: int, real: int, deadline: float) -> Identity | None:
    """What is at this handle now, but for its twin, which would cost a search; None for nothing. Raises MemberLost,
    SearchFailed."""
    attributes = read_attributes(connection, session, real, READ, deadline, sure=True)
    if not attributes or not is_replicated(attributes):
        return None
    return identity_of(attributes, hash_of_value(connection, session, real, attributes, deadline))


def _record(
    group: GroupRuntime,
    connection: Connection,
    session: int,
    real: int,
    attributes: Mapping[int, bytes],
    deadline: float,
) -> EscrowRecord | Tombstone | None:
    value = read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE, b"")
    record: EscrowRecord | Tombstone
    try:
        if is_tombstone_label(attributes.get(ck.CKA_LABEL, b"")):
            record = decode_tombstone(value)
            if not believable(record, flag(attributes.get(ck.CKA_PRIVATE))):
                log.log("warning", f"member {connection.name}: a public tombstone of a private object is not believed")
                return None
        else:
            record = decode_record(value)
    except RecordDamaged as damage:
        log.log("warning", f"member {connection.name}: {damage}")
        return None
    return record if record.group_id == group.settings.id else None


_SHARE = 4
"""Looking takes at most one part in so many and one of the time."""


class Lookout:
    """What appears on a member while a plan is carried out, made by somebody of another host. It is looked for again
    when some times as long has gone by as looking takes: the more a member holds the longer that is, and each step
    alone must not take longer for it."""

    def __init__(self, group: GroupRuntime, connection: Connection, known: frozenset[int], now: float) -> None:
        self._group = group
        self._connection = connection
        self._known = set(known)
        self._cost = 0.0
        self._last = now
        self.appeared: list[Identity] = []

    def made(self, real: int) -> None:
        """This one is ours."""
        self._known.add(real)

    def look(self, surely: bool = False) -> None:
        """`surely`: though it was done a moment ago. Raises MemberLost, SessionRefused, SearchFailed."""
        start = self._group.clock()
        if not surely and start - self._last < _SHARE * self._cost:
            return
        connection, deadline = self._connection, self._group.deadline()
        with housekeeping(connection, deadline) as session:
            for real in search(connection, session, TOKEN_OBJECTS, deadline, ck.CKU_USER):
                if real not in self._known:
                    self._known.add(real)
                    identity = identity_at(connection, session, real, self._group.deadline())
                    if identity is not None:
                        self.appeared.append(identity)
        self._last = self._group.clock()
        self._cost = self._last - start
