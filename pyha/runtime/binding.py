"""Binding: the real handle of a virtual object on one member, found when that member first needs it.

Searches and reads attributes on members through their own housekeeping sessions; never writes a token object: a repair
in passing would bring back what another process is just deleting. Session objects, which nobody else has, are brought.

Sources: SEMANTICS.md section 2; REPLICATION.md (identity and finding).
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import FUNCTIONS, Function
from pyha.cryptoki.handles import parameter_handles, with_handles
from pyha.cryptoki.kinds import Kind
from pyha.cryptoki.values import Attribute, Mechanism, Template
from pyha.ha.identity import READ, WITH_VALUE, Identity, identity_of, number, ulong
from pyha.runtime.carrying import bring
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import housekeeping, in_series, read_attributes, read_many, search
from pyha.runtime.member import Connection
from pyha.runtime.objects import Entry
from pyha.runtime.twins import proof_of, proves, twin_among

INVALID_HANDLE: dict[Kind, int] = {
    Kind.OBJECT: ck.CKR_OBJECT_HANDLE_INVALID,
    Kind.KEY: ck.CKR_KEY_HANDLE_INVALID,
    Kind.OPTIONAL_KEY: ck.CKR_KEY_HANDLE_INVALID,
    Kind.WRAPPING_KEY: ck.CKR_WRAPPING_KEY_HANDLE_INVALID,
    Kind.UNWRAPPING_KEY: ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID,
}
"""Which arguments are object handles, and the CK_RV for one that nobody knows."""


def read_identity(
    connection: Connection, session: int, real: int, deadline: float, sure: bool = False
) -> Identity | None:
    """The identity of a real object, None where it cannot be read (half-built, or just deleted; `sure`: only where it
    is not there). Raises MemberLost, SearchFailed, Unread (`sure` only)."""
    attributes = read_attributes(connection, session, real, READ, deadline, sure)
    if not attributes:
        return None
    hashed = value_hash(connection, session, real, attributes, deadline)
    return identity_of(attributes, hashed, _twin(connection, session, real, attributes, deadline))


def read_identities(
    connection: Connection, session: int, reals: Sequence[int], deadline: Callable[[], float], sure: bool = False
) -> Iterator[Identity | None]:
    """`read_identity` of many objects, in their order. `deadline`: for each call or series of them. Raises MemberLost,
    SearchFailed, Unread (`sure` only)."""
    for part, seen in in_series(connection, session, reals, READ, deadline):
        valued = [
            real
            for real, attributes in zip(part, seen, strict=True)
            if attributes and number(attributes.get(ck.CKA_CLASS)) in WITH_VALUE
        ]
        values = dict(read_many(connection, session, valued, (ck.CKA_VALUE,), deadline))
        for real, attributes in zip(part, seen, strict=True):
            if not attributes:
                yield read_identity(connection, session, real, deadline(), sure)
                continue
            value = values.get(real, {}).get(ck.CKA_VALUE)
            twin = None
            if ck.CKA_EC_PARAMS in attributes:
                twin = _twin(connection, session, real, attributes, deadline())
            yield identity_of(attributes, sha256(value).digest() if value else None, twin)


def value_hash(
    connection: Connection, session: int, real: int, attributes: Mapping[int, bytes], deadline: float
) -> bytes | None:
    """SHA-256 of CKA_VALUE where that is no secret key, else None. Raises MemberLost."""
    if number(attributes.get(ck.CKA_CLASS)) not in WITH_VALUE:
        return None
    value = read_attributes(connection, session, real, (ck.CKA_VALUE,), deadline).get(ck.CKA_VALUE)
    return sha256(value).digest() if value else None


def _twin(
    connection: Connection, session: int, real: int, attributes: dict[int, bytes], deadline: float
) -> bytes | None:
    """CKA_EC_POINT of the public key that belongs to a private EC key, which shows no public part of its own."""
    if number(attributes.get(ck.CKA_CLASS)) != ck.CKO_PRIVATE_KEY or ck.CKA_EC_PARAMS not in attributes:
        return None
    if not attributes.get(ck.CKA_ID):
        return None
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_PUBLIC_KEY)),
        Attribute(ck.CKA_EC_PARAMS, attributes[ck.CKA_EC_PARAMS]),
        Attribute(ck.CKA_ID, attributes[ck.CKA_ID]),
    )
    points: dict[bytes, set[bytes]] = {}  # with the labels of each
    for public in search(connection, session, template, deadline):
        shown = read_attributes(connection, session, public, (ck.CKA_EC_POINT, ck.CKA_LABEL), deadline)
        if shown.get(ck.CKA_EC_POINT):
            points.setdefault(shown[ck.CKA_EC_POINT], set()).add(shown.get(ck.CKA_LABEL, b""))
    label = attributes.get(ck.CKA_LABEL, b"")
    if len(points) == 1 and all(label in labels for labels in points.values()):
        return min(points)
    return twin_among(connection, real, attributes, points, deadline) if points else None


def bind(
    group: GroupRuntime, index: int, connection: Connection, entry: Entry, deadline: float, sure: bool = False
) -> int | None:
    """The real handle of an object on this member, found and compared if need be; None where it is not there, or where
    several objects are like it and need not be the same. `sure`: what could not be read may be the one. Raises
    MemberLost, SessionRefused, SearchFailed, Unread (`sure` only)."""
    real = connection.bound.get(entry.handle)
    if real is not None:
        return real
    if entry.session is not None:
        return bring(group, index, connection, entry, deadline)
    # Without the application's login a member shows less than it has, and nothing is missing there.
    same = _same(connection, entry, deadline, group.user, sure)
    if len(same) != 1:
        what = "objects that cannot be told apart" if same else "an object is missing"
        group.news.audit(index, what, entry.handle)
        return None
    group.objects.bind(connection, entry.handle, same[0])
    return same[0]


def tells_apart(group: GroupRuntime, connection: Connection, entry: Entry, deadline: float) -> bool:
    """Whether this member has at most one object that could be this one, which is bound then. Raises as `bind` does,
    and Unread: what could not be read may be the one that is to be deleted."""
    if entry.session is not None or entry.handle in connection.bound:
        return True
    same = _same(connection, entry, deadline, sure=True)
    if len(same) == 1:
        group.objects.bind(connection, entry.handle, same[0])
    return len(same) <= 1


def _same(
    connection: Connection, entry: Entry, deadline: float, user: int | None = None, sure: bool = False
) -> list[int]:
    """Real handles of what this object can be on this member: one at most, unless they cannot be told apart."""
    like = _like(connection, entry, deadline, user, sure)
    certain = [real for real, found in like if entry.identity.surely(found)]
    if certain:
        return certain[:1]  # of several that hold the very same key or value it makes no difference which
    reals = [real for real, _ in like]
    proof = proof_of(entry.identity)
    if proof is None or not reals:
        return reals
    proved = {real: proves(connection, real, proof, deadline) for real in reals}
    return [real for real in reals if proved[real]][:1] or [real for real in reals if proved[real] is None]


def _like(
    connection: Connection, entry: Entry, deadline: float, user: int | None, sure: bool
) -> list[tuple[int, Identity]]:
    with housekeeping(connection, deadline, reads=True) as session:
        reals = [
            candidate
            for candidate in search(connection, session, entry.identity.search(), deadline, user)
            if connection.known.get(candidate, entry.handle) == entry.handle
        ]
        identities = list(read_identities(connection, session, reals, lambda: deadline, sure))
    return [
        (real, found)
        for real, found in zip(reals, identities, strict=True)
        if found is not None and entry.identity.same(found)
    ]


def _positions(kinds: Container[Kind]) -> tuple[tuple[int, ...], ...]:
    """For each function, by its index, the positions of its arguments of these kinds."""
    return tuple(
        tuple(position for position, argument in enumerate(function.arguments) if argument.kind in kinds)
        for function in FUNCTIONS
    )


# Looked up once: this is on every call's way.
_SESSIONS = _positions({Kind.SESSION})
_HANDLES = tuple(
    tuple(
        (position, argument.kind is Kind.OPTIONAL_KEY, INVALID_HANDLE[argument.kind])
        for position, argument in enumerate(function.arguments)
        if argument.kind in INVALID_HANDLE
    )
    for function in FUNCTIONS
)
MECHANISMS_AT = _positions({Kind.MECHANISM})
"""For each function, by its index, the positions of its mechanisms."""
NAMES_OBJECTS = tuple(bool(_HANDLES[function.index] or MECHANISMS_AT[function.index]) for function in FUNCTIONS)
"""For each function, by its index, whether it may name objects at all: a mechanism's parameter can, too."""


def handles_of(function: Function, values: Sequence[Any]) -> list[tuple[int, int]]:
    """Every virtual object handle in a call's values: (handle, the CK_RV if it is unknown)."""
    found = []
    for position, optional, rv in _HANDLES[function.index]:
        if values[position] or not optional:
            found.append((values[position], rv))
    for position in MECHANISMS_AT[function.index]:
        mechanism: Mechanism = values[position]
        if mechanism.parameter is not None:
            found += [(handle, ck.CKR_KEY_HANDLE_INVALID) for handle in parameter_handles(mechanism)]
    return found


def translated(function: Function, values: Sequence[Any], real_session: int, real: dict[int, int]) -> list[Any]:
    """The values of a call with a member's own handles: its session and, by `real`, its objects."""
    result = list(values)
    for position in _SESSIONS[function.index]:
        result[position] = real_session
    if real:
        for position, _, _ in _HANDLES[function.index]:
            result[position] = real.get(values[position], 0)
        for position in MECHANISMS_AT[function.index]:
            if values[position].parameter is not None:
                result[position] = with_handles(values[position], lambda handle: real.get(handle, 0))
    return result
