"""Tombstones on members: written, found and removed.

Knows one member at a time; which tombstones there are to be is `missed`'s business and the resync's.

Source: SEMANTICS.md section 5; docs/records.md.
"""

from collections.abc import Callable, Iterator, Sequence

from pyha.abi.series import Values
from pyha.cryptoki import constants as ck
from pyha.ha.domain import record_search
from pyha.ha.identity import Identity, flag
from pyha.ha.recording import RecordDamaged
from pyha.ha.tombstones import (
    Tombstone,
    believable,
    decode,
    is_tombstone_label,
    tombstone_label,
    tombstone_template,
)
from pyha.runtime import log
from pyha.runtime.housekeeping import create, destroy, housekeeping, in_series, read_attributes, search
from pyha.runtime.member import Connection

_TOLD = (ck.CKA_LABEL, ck.CKA_PRIVATE)
"""What is read first: among all records most are escrow records, with values of kilobytes."""


def write(connection: Connection, tombstone: Tombstone, deadline: float) -> tuple[int, int]:
    """Put it on this member: (CK_RV, real handle). Raises MemberLost, SessionRefused, SearchFailed."""
    with housekeeping(connection, deadline) as session:
        return create(connection, session, tombstone_template(tombstone), deadline)


def find(
    connection: Connection, group_id: bytes, deadline: float, of: Identity | None = None
) -> list[tuple[int, Tombstone]]:
    """The group's tombstones on this member: (real handle, tombstone). `of`: only those filed under this object's name.
    Of what the login of now shows; those that are damaged or may not be believed are named in the log and left out.
    Raises MemberLost, SessionRefused, SearchFailed."""
    with housekeeping(connection, deadline, reads=True) as session:
        return list(_found(connection, session, group_id, of, deadline, lambda: deadline))


def find_all(
    connection: Connection, group_id: bytes, deadline: float, in_time: Callable[[], float]
) -> list[tuple[int, Tombstone]]:
    """`find` where there may be many, with a deadline of their own for the readings after the search: `in_time`."""
    with housekeeping(connection, deadline, reads=True) as session:
        return list(_found(connection, session, group_id, None, deadline, in_time))


def _found(
    connection: Connection,
    session: int,
    group_id: bytes,
    of: Identity | None,
    deadline: float,
    in_time: Callable[[], float],
) -> Iterator[tuple[int, Tombstone]]:
    wanted = record_search(None if of is None else tombstone_label(of))
    reals = search(connection, session, wanted, deadline)
    for part, seen in in_series(connection, session, reals, _TOLD, in_time):
        for real, told in zip(part, seen, strict=True):
            tombstone = _at(connection, session, real, group_id, in_time(), told)
            if tombstone is not None:
                yield real, tombstone


def _at(
    connection: Connection, session: int, real: int, group_id: bytes, deadline: float, told: Values = None
) -> Tombstone | None:
    """The tombstone at this handle, None where there is none of the group's that may be believed. `told`: what it shows
    of `_TOLD`, where that is known. Raises MemberLost, SearchFailed."""
    told = told or read_attributes(connection, session, real, _TOLD, deadline, sure=True)
    if not is_tombstone_label(told.get(ck.CKA_LABEL, b"")):
        return None
    value = read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline, sure=True).get(ck.CKA_VALUE, b"")
    try:
        tombstone = decode(value)
    except RecordDamaged as damage:
        log.log("warning", f"member {connection.name}: {damage}")
        return None
    if tombstone.group_id != group_id:
        return None
    if not believable(tombstone, flag(told.get(ck.CKA_PRIVATE))):
        log.log("warning", f"member {connection.name}: a public tombstone of a private object is not believed")
        return None
    return tombstone


def remove(
    connection: Connection,
    group_id: bytes,
    of: Identity,
    gone: tuple[Tombstone, ...],
    deadline: float,
    seen: Sequence[int] | None = None,
) -> None:
    """Destroy those that are copies of one of `gone`, whoever is pending in them. `seen`: the handles that those filed
    under `of` have in the login of now, where the caller knows them; else they are searched for. Raises MemberLost,
    SessionRefused, SearchFailed."""
    with housekeeping(connection, deadline) as session:
        if seen is None:
            found = list(_found(connection, session, group_id, of, deadline, lambda: deadline))
        else:
            looked = [(real, _at(connection, session, real, group_id, deadline)) for real in seen]
            found = [(real, tombstone) for real, tombstone in looked if tombstone is not None]
        for real, tombstone in found:
            if any(tombstone.is_copy_of(each) for each in gone):
                destroy(connection, session, real, deadline)
