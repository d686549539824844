"""Reading what a logged-in member holds: the inventory that a resync is planned from.

Reads attributes only, and never the value of a key. What cannot be read is read again when all else was, and then
counted, so that nobody takes it for absent: it may be a tombstone, without which what was deleted comes back.
The time is that of one search and one or two calls an object, whatever there is.

Source: SEMANTICS.md section 5; REPLICATION.md (cost).
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from pyha.abi.series import Values
from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import APPLICATION, is_domain_label
from pyha.ha.identity import READ, Identity, flag, identity_of, number, ulong, with_twins
from pyha.ha.inventory import COMPARED, Held, HeldRecord, HeldTombstone, Inventory
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import EscrowRecord
from pyha.ha.records import decode as decode_record
from pyha.ha.tombstones import Tombstone, believable, is_tombstone_label
from pyha.ha.tombstones import decode as decode_tombstone
from pyha.runtime import log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import (
    SearchFailed,
    Unread,
    housekeeping,
    in_series,
    read_attributes,
    read_many,
    search,
)
from pyha.runtime.member import Connection
from pyha.runtime.showing import shown as shown_now
from pyha.runtime.showing import shown_in_series, still_shown
from pyha.runtime.twins import twin_among

_NO_OBJECTS = (ck.CKO_HW_FEATURE, ck.CKO_MECHANISM)
_VALUED_KEYS = (ck.CKK_DSA, ck.CKK_DH, ck.CKK_X9_42_DH)
"""Types of public keys whose public part is CKA_VALUE."""

TOKEN_OBJECTS: Template = (Attribute(ck.CKA_TOKEN, b"\1"),)

_ALL = (*READ, *COMPARED)
_OF_CLASS = {
    # Most of what a token with thousands of objects holds, and what a module takes for an attribute that is not there
    # is no less than for one that is. CKA_ID is not in the standard's table, and some modules take it.
    ck.CKO_DATA: (
        ck.CKA_CLASS,
        ck.CKA_TOKEN,
        ck.CKA_ID,
        ck.CKA_LABEL,
        ck.CKA_APPLICATION,
        ck.CKA_PRIVATE,
        ck.CKA_OBJECT_ID,
        ck.CKA_MODIFIABLE,
        ck.CKA_COPYABLE,
        ck.CKA_DESTROYABLE,
        ck.CKA_VALUE,
    ),
    ck.CKO_CERTIFICATE: (*_ALL, ck.CKA_VALUE),
}
"""CKO_ -> all that an inventory has to know of such an object, in one call: of those whose value is no secret. Which
they are the member says itself, by a search."""


_FEW = 10
"""One object of so many is not worth a search among all."""


def shown_by(object_class: int) -> tuple[int, ...]:
    """The attributes from which an object of this class is told."""
    return _OF_CLASS.get(object_class, READ)


@dataclass(slots=True)
class Shown:
    """What one object shows. `record`: where it is one of the group's that can be believed."""

    attributes: dict[int, bytes]
    hashed: bytes | None = None
    record: HeldRecord | HeldTombstone | None = None
    counts: bool = False  # as an object that every member has to have


def read_back(
    connection: Connection, session: int, real: int, object_class: int, more: tuple[int, ...], deadline: float
) -> tuple[dict[int, bytes], Shown]:
    """All that an inventory has to know of an object that was just made and is no secret: its attributes, `more` among
    them, and as an inventory has it. Raises MemberLost, SearchFailed, Unread."""
    wanted = tuple(dict.fromkeys((*_OF_CLASS.get(object_class, _ALL), *more)))
    attributes = still_shown(connection, session, real, wanted, deadline)
    hashed = hash_of_value(connection, session, real, attributes, deadline)
    attributes.pop(ck.CKA_VALUE, None)
    return attributes, Shown(attributes, hashed, counts=is_replicated(attributes) and not is_record(attributes))


class Memory:
    """What was read of a connection's objects, by handle, for one resync: it is not read again where nobody of us has
    touched it. What is deleted or made meanwhile is seen, and by a new tombstone that more may have been changed."""

    def __init__(self) -> None:
        self.logins = -1
        self.shown: dict[int, Shown] = {}

    def forget(self, real: int) -> None:
        """It was changed, or is another one now: a module may give the handle of what is gone once more."""
        self.shown.pop(real, None)

    def keep(self, real: int, seen: Shown | None) -> None:
        """It was made by us, and read back, or has to be read."""
        self.forget(real)
        if seen is not None:
            self.shown[real] = seen

    def tombstones(self) -> set[int]:
        """Those that there are."""
        return {real for real, each in self.shown.items() if isinstance(each.record, HeldTombstone)}


def read_inventory(
    group: GroupRuntime,
    connection: Connection,
    memory: Memory | None = None,
    reads: Callable[[], None] = lambda: None,
) -> tuple[Inventory, frozenset[int]]:
    """What a member holds, and the handles of all of it; what is in `memory` is taken from there. `reads`: told of each
    object that was read. Raises MemberLost,
    SessionRefused, SearchFailed (also where its login was lost meanwhile: it may have shown less than it has)."""
    logins = connection.logins
    memory = Memory() if memory is None else memory
    if memory.logins != logins:
        memory.shown.clear()  # with a login go the handles
    memory.logins = logins
    shown = {}
    unread = 0
    with housekeeping(connection, group.deadline(), reads=True) as session:
        reals = search(connection, session, TOKEN_OBJECTS, group.deadline(), ck.CKU_USER)
        new = [real for real in reals if real not in memory.shown]
        read = _Read(group, connection, session, reads)
        if len(new) > len(_OF_CLASS):
            read.know_classes(len(new))
        for real in read.all(new):
            if not read.one(real):
                unread += 1
                log.log("warning", f"member {connection.name}: an object cannot be read, and may be any")
    shown = {**memory.shown, **read.shown}
    memory.shown = {real: shown[real] for real in reals if real in shown}
    inventory = _inventory(group, connection, memory.shown, unread)
    if connection.logged_in != ck.CKU_USER or connection.logins != logins:
        raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)
    return inventory, frozenset(reals)


def _inventory(group: GroupRuntime, connection: Connection, shown: Mapping[int, Shown], unread: int) -> Inventory:
    replicated = [(real, each) for real, each in shown.items() if each.counts]

    def tell(position: int, points: set[bytes]) -> bytes | None:
        real, each = replicated[position]
        return twin_among(connection, real, each.attributes, points, group.deadline())

    identities = with_twins([(each.attributes, each.hashed) for _, each in replicated], tell)
    objects = tuple(
        Held(real, identity, tuple([(kind, each.attributes[kind]) for kind in COMPARED if kind in each.attributes]))
        for (real, each), identity in zip(replicated, identities, strict=True)
    )
    records = [each.record for each in shown.values()]
    return Inventory(
        objects,
        tuple(each for each in records if isinstance(each, HeldRecord)),
        tuple(each for each in records if isinstance(each, HeldTombstone)),
        unread,
    )


class _Read:
    """What has been read of one member's objects, on one session: `shown`, by handle."""

    def __init__(self, group: GroupRuntime, connection: Connection, session: int, reads: Callable[[], None]) -> None:
        self.shown: dict[int, Shown] = {}
        self._group = group
        self._connection = connection
        self._session = session
        self._reads = reads
        self._wanted: dict[int, tuple[int, ...]] = {}

    def know_classes(self, count: int) -> None:
        """Of which of so many objects everything can be read at once. Raises MemberLost, SearchFailed."""
        for object_class, wanted in _OF_CLASS.items():
            if (count - len(self._wanted)) * _FEW < count:
                return  # a search among all takes longer than they do
            template = (*TOKEN_OBJECTS, Attribute(ck.CKA_CLASS, ulong(object_class)))
            found = search(self._connection, self._session, template, self._group.deadline(), ck.CKU_USER)
            self._wanted.update(dict.fromkeys(found, wanted))

    def all(self, reals: Sequence[int]) -> list[int]:
        """Read these; those that could not be read, and may be there. Raises MemberLost, SearchFailed."""
        asked: dict[tuple[int, ...], list[int]] = {}
        for real in reals:
            asked.setdefault(self._wanted.get(real, _ALL), []).append(real)
        unread: list[int] = []
        for wanted, those in asked.items():
            for part, seen in shown_in_series(self._connection, self._session, those, wanted, self._group.deadline):
                unread += [real for real, values in zip(part, seen, strict=True) if not self.one(real, values)]
        return unread

    def one(self, real: int, seen: Values = None) -> bool:
        """Whether this object could be read, or is gone. `seen`: what it shows, where that is known. Raises MemberLost,
        SearchFailed."""
        try:
            self._read(real, seen)
        except Unread:
            return False
        self._reads()
        return True

    def _read(self, real: int, seen: Values) -> None:
        connection, session, deadline = self._connection, self._session, self._group.deadline()
        attributes = seen or shown_now(connection, session, real, self._wanted.get(real, _ALL), deadline)
        shown = Shown(attributes)
        if is_record(attributes):
            record = _record(self._group, connection, session, real, attributes, deadline)
            if isinstance(record, Tombstone):
                shown.record = HeldTombstone(real, record)
            elif record is not None:
                shown.record = HeldRecord(real, attributes.get(ck.CKA_LABEL, b""), record)
        elif attributes and is_replicated(attributes):
            shown.hashed = hash_of_value(connection, session, real, attributes, deadline)
            shown.counts = True
        attributes.pop(ck.CKA_VALUE, None)  # it may be of megabytes, and is not looked at any more
        if attributes:
            self.shown[real] = shown


def count(group: GroupRuntime, connection: Connection) -> int:
    """How many token objects a member holds, of whatever kind. Raises MemberLost, SessionRefused, SearchFailed."""
    with housekeeping(connection, group.deadline()) as session:
        return len(search(connection, session, TOKEN_OBJECTS, group.deadline(), ck.CKU_USER))


def identities(connection: Connection, deadline: float) -> list[Identity]:
    """What every token object of a logged-in member is, but for the group's own. Raises MemberLost, SessionRefused,
    SearchFailed."""
    with housekeeping(connection, deadline, reads=True) as session:
        reals = search(connection, session, TOKEN_OBJECTS, deadline)
        read = read_many(connection, session, reals, READ, lambda: deadline)
        those = {real: each for real, each in read if each and is_replicated(each) and not is_record(each)}
        valued = [real for real, each in those.items() if _is_valued(each)]
        for part, seen in in_series(connection, session, valued, (ck.CKA_VALUE,), lambda: deadline):
            for real, values in zip(part, seen, strict=True):
                those[real].update(values or {})
        shown = [(each, hash_of_value(connection, session, real, each, deadline)) for real, each in those.items()]
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
    if not _is_valued(attributes):
        return None
    value = _value(connection, session, real, attributes, deadline)
    return sha256(value).digest() if value else None


def _is_valued(attributes: Mapping[int, bytes]) -> bool:
    """Whether its CKA_VALUE is no secret."""
    object_class = number(attributes.get(ck.CKA_CLASS))
    if object_class == ck.CKO_PUBLIC_KEY:
        return number(attributes.get(ck.CKA_KEY_TYPE)) in _VALUED_KEYS
    return object_class in (ck.CKO_DATA, ck.CKO_CERTIFICATE)


def _value(connection: Connection, session: int, real: int, attributes: Mapping[int, bytes], deadline: float) -> bytes:
    """CKA_VALUE, read now where it was not read with the attributes."""
    if ck.CKA_VALUE in attributes:
        return attributes[ck.CKA_VALUE]
    return read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE, b"")


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
    value = _value(connection, session, real, attributes, deadline)
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


_SHARE = 19
"""Looking at a member takes at most one part in so many and one of the time; a copy has two members to look at."""


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
        self.ours: dict[int, Shown | None] = {}

    def made(self, real: int, seen: Shown | None = None) -> None:
        """This one is ours. `seen`: as it was read back."""
        self._known.add(real)
        self.ours[real] = seen

    def look(self, surely: bool = False) -> None:
        """At the first time in any case. `surely`: though it was done a moment ago. Raises MemberLost, SessionRefused,
        SearchFailed."""
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
