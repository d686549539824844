"""What an object shows, dates and attribute arrays among it: attributes that modules answer in ways of their own.

SoftHSM answers CKR_GENERAL_ERROR for the date of a private object, and then shows nothing else of it either: a date
that cannot be read is taken for one that is not shown. An array takes a call for its length, one for the types in it
and one for their values; p11-kit's server (0.24) dies of being asked for one, so a member that cannot wrap, where an
array means nothing, is not asked. What cannot be read of an array is never taken for none: the copy would be weaker.

Source: PKCS #11 Base Specification 2.40, section 5.7 (C_GetAttributeValue); REPLICATION.md (attributes of a copy).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from pyha.abi.info import unpack_mechanism_info
from pyha.abi.series import Values
from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS, is_attribute_array
from pyha.cryptoki.values import Attribute, Found, Query, Template
from pyha.cryptoki.verdicts import Verdict
from pyha.ha.arrays import ARRAYS, DATES, lost, packed
from pyha.runtime.housekeeping import (
    SHOWN,
    SearchFailed,
    Unread,
    ask,
    in_series,
    read_attributes,
    room_for,
    why_unread,
    with_the_long,
)
from pyha.runtime.member import Connection

Look = Callable[[Connection, int, int, Mapping[int, bytes], float], tuple[int, ...]]
"""What tells the protections that an object lacks, as `weaknesses` does."""

_ENTRY = 24
"""Bytes of a CK_ATTRIBUTE."""


def shown(connection: Connection, session: int, real: int, wanted: Iterable[int], deadline: float) -> dict[int, bytes]:
    """The attributes that the object has and shows, of those wanted, arrays packed; none only where it is not there.
    Raises MemberLost, SearchFailed, Unread."""
    plain, dates, arrays = _sorted(tuple(wanted))
    if arrays and not wraps(connection, deadline):
        arrays = ()
    query = room_for((*dates, *plain))
    if arrays:
        query = (*(Query(each, None) for each in arrays), *query)
    logins = connection.logins
    rv, answers = ask(connection, session, real, query, deadline)
    if rv not in SHOWN:
        if why_unread(connection, session, rv, logins, deadline) is Verdict.HANDLE_STALE:
            return {}
        if not dates:
            raise Unread(rv)
        # A module that cannot read its own dates fails the whole call.
        found = shown(connection, session, real, (*plain, *arrays), deadline)
        for date in dates if found else ():
            found.update(read_attributes(connection, session, real, (date,), deadline))
        return found
    found = {}
    for answer in answers:
        if answer.length is None:
            continue
        if is_attribute_array(answer.type):
            found[answer.type] = packed(_array(connection, session, real, answer.type, answer.length, deadline))
        else:
            found[answer.type] = bytes(answer.value or b"")
    return with_the_long(found, rv, connection, session, real, query, deadline)


def shown_in_series(
    connection: Connection, session: int, reals: Sequence[int], wanted: Iterable[int], deadline: Callable[[], float]
) -> Iterator[tuple[Sequence[int], list[Values]]]:
    """What many objects show, some in each hand-over: (handles, what `shown` says of each, or None where that has to be
    asked). `deadline`: for each of these readings. Raises MemberLost, MemberBusy."""
    plain, dates, arrays = _sorted(tuple(wanted))
    try:
        arrays = arrays if arrays and wraps(connection, deadline()) else ()
    except Unread:
        yield reals, [None] * len(reals)
        return
    yield from in_series(connection, session, reals, (*dates, *plain), deadline, arrays)


@lru_cache(64)
def _sorted(wanted: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What is asked for as it is; dates; arrays."""
    return (
        tuple(each for each in wanted if not is_attribute_array(each) and each not in DATES),
        tuple(each for each in wanted if each in DATES),
        tuple(each for each in wanted if is_attribute_array(each)),
    )


def weaknesses(
    connection: Connection, session: int, real: int, promised: Mapping[int, bytes], deadline: float
) -> tuple[int, ...]:
    """The protections of those `promised` (CKA_ -> value, arrays packed) that the object does not show. Raises
    MemberLost, SearchFailed, Unread."""
    kinds = protections_of(promised)
    return lost(promised, still_shown(connection, session, real, kinds, deadline)) if kinds else ()


def protections_of(promised: Mapping[int, bytes]) -> tuple[int, ...]:
    """Which of these attributes protect."""
    return tuple(kind for kind in promised if kind in _PROTECT and (promised[kind] or kind in PROTECTIONS))


def still_shown(
    connection: Connection, session: int, real: int, wanted: Iterable[int], deadline: float
) -> dict[int, bytes]:
    """As `shown`, of an object that was just made. Raises MemberLost, SearchFailed, Unread."""
    found = shown(connection, session, real, wanted, deadline)
    if not found:  # not there under this handle any more, which says nothing of the object
        raise SearchFailed(ck.CKR_OBJECT_HANDLE_INVALID)
    return found


_PROTECT = frozenset({*PROTECTIONS, *ARRAYS, ck.CKA_ALLOWED_MECHANISMS})


def _array(connection: Connection, session: int, real: int, kind: int, length: int, deadline: float) -> Template:
    """An attribute array of plain attributes. `length`: bytes, as the member has told. Raises MemberLost, SearchFailed,
    Unread."""
    if not length:
        return ()
    count = length // _ENTRY
    inner = tuple(Query(0, None) for _ in range(count))
    answer: tuple[Found, ...] = ()
    for _ in range(2):  # the types and lengths, then the values
        logins = connection.logins
        rv, answers = ask(connection, session, real, (Query(kind, count * _ENTRY, inner),), deadline)
        if rv != ck.CKR_OK:
            why_unread(connection, session, rv, logins, deadline)
            raise Unread(rv)
        answer = answers[0].value if isinstance(answers[0].value, tuple) else ()
        if len(answer) != count or any(is_attribute_array(each.type) or each.length is None for each in answer):
            raise Unread(ck.CKR_ATTRIBUTE_TYPE_INVALID)  # arrays in arrays, or another one by now
        inner = tuple(Query(each.type, each.length) for each in answer)
    return tuple(Attribute(each.type, bytes(each.value or b"")) for each in answer)


def wraps(connection: Connection, deadline: float) -> bool:
    """Whether a member can wrap keys at all; asked once. Raises MemberLost, Unread."""
    if connection.wraps is None:
        mechanism = ck.CKM_AES_KEY_WRAP
        rv, answer = connection.call("C_GetMechanismInfo", deadline, connection.slot, mechanism, None)
        if rv not in (ck.CKR_OK, ck.CKR_MECHANISM_INVALID):
            raise Unread(rv)
        connection.wraps = rv == ck.CKR_OK and bool(unpack_mechanism_info(answer[2]).flags & ck.CKF_WRAP)
    return connection.wraps
