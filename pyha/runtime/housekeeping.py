"""Calls of our own on one member: searching, reading attributes, on real sessions that no application operation uses.

Source: SEMANTICS.md section 2 ("housekeeping uses real sessions of its own"); REPLICATION.md (one operation a session).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

from pyha.abi.creations import Creations
from pyha.abi.info import unpack_session_info
from pyha.abi.queries import Laid
from pyha.abi.series import Series, Values
from pyha.abi.templates import is_array
from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import Form, form_of
from pyha.cryptoki.functions import Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.values import Attribute, Found, Query, Template
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.identity import number
from pyha.runtime.member import Connection, MemberLost

_PUBLIC_STATES = (ck.CKS_RO_PUBLIC_SESSION, ck.CKS_RW_PUBLIC_SESSION)
_BATCH = 256
_ROOM = 512
_ROOMS = {Form.BOOL: 16, Form.ULONG: 16, Form.DATE: 16}
"""Bytes of room for what has a fixed length, in a series; what is longer all the same is read by itself."""
_LONGER = {ck.CKA_VALUE: 2048}
"""The same for what is often longer than other attributes: nearly every certificate."""
_KEY = (ck.CKA_LABEL, ck.CKA_ID)
_HAS = {
    ck.CKO_DATA: (ck.CKA_LABEL, ck.CKA_APPLICATION, ck.CKA_OBJECT_ID, ck.CKA_VALUE),
    ck.CKO_CERTIFICATE: (*_KEY, ck.CKA_SUBJECT, ck.CKA_ISSUER, ck.CKA_SERIAL_NUMBER, ck.CKA_VALUE),
    ck.CKO_PUBLIC_KEY: (*_KEY, ck.CKA_SUBJECT),
    ck.CKO_PRIVATE_KEY: (*_KEY, ck.CKA_SUBJECT),
    ck.CKO_SECRET_KEY: _KEY,
}
"""CKO_ -> attributes of any length that such an object has, be they empty (sections 4.5 to 4.10)."""

_DOMAIN = (ck.CKA_PRIME, ck.CKA_BASE)
_PARTS = {
    ck.CKK_RSA: (ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT),
    ck.CKK_DSA: (*_DOMAIN, ck.CKA_SUBPRIME),
    ck.CKK_DH: _DOMAIN,
    ck.CKK_X9_42_DH: (*_DOMAIN, ck.CKA_SUBPRIME),
}
"""CKK_ -> the same for what is public of such a key and its domain parameters; of a public key CKA_VALUE besides."""

SHOWN = (ck.CKR_OK, ck.CKR_ATTRIBUTE_SENSITIVE, ck.CKR_ATTRIBUTE_TYPE_INVALID)
"""Answers of C_GetAttributeValue that came with values."""


@contextmanager
def housekeeping(connection: Connection, deadline: float, reads: bool = False) -> Iterator[int]:
    """A real session for a few calls of our own, known to be there. `reads`: they only read, and are worth nothing if
    the login was lost and healed meanwhile: what was found before it has no handle after it. Raises MemberLost,
    SessionRefused, SearchFailed."""
    session = sure_session(connection, deadline)
    logins = connection.logins
    try:
        yield session
        if reads and connection.logins != logins:
            raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)
    except BaseException:
        connection.discard(session, deadline)
        raise
    connection.give_back(session)


class at_hand:
    """A real session for one call that says itself where the session or the login is gone. Raises MemberLost,
    SessionRefused."""

    # No generator, which takes longer than all that this does.

    __slots__ = ("_connection", "_deadline", "_session")

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def __enter__(self) -> int:
        self._session = self._connection.acquire(self._deadline)
        return self._session

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._connection.give_back(self._session)
        else:
            self._connection.discard(self._session, self._deadline)


def so_is_logged_in(connection: Connection, deadline: float) -> bool:
    """Whether the member itself says that the SO is: what it then refuses as CKR_USER_NOT_LOGGED_IN is nothing that an
    SO may do, and no lost login. Raises MemberLost, SessionRefused."""
    rv, results = connection.call("C_GetSessionInfo", deadline, connection.anchor(deadline), None)
    return rv == ck.CKR_OK and unpack_session_info(results[1]).state == ck.CKS_RW_SO_FUNCTIONS


def sure_session(connection: Connection, deadline: float) -> int:
    """A real session that the member still has, in the login state that we believe in: a search on another one would
    find nothing and call it an answer. Raises MemberLost, SessionRefused, SearchFailed."""
    while True:
        session = connection.acquire(deadline)
        rv, results = connection.call("C_GetSessionInfo", deadline, session, None)
        if rv == ck.CKR_OK:
            break
        judgement = verdict(Route.READ, rv)
        if judgement is Verdict.MEMBER_LOST:
            raise MemberLost(f"C_GetSessionInfo answered {rv_name(rv)}")
        if judgement is not Verdict.SESSION_LOST:
            connection.discard(session, deadline)
            raise SearchFailed(rv)
        if connection.clock() >= deadline:
            raise MemberLost("its sessions are gone as soon as they are opened")
    try:
        _expect_login(connection, (rv, results))
    except SearchFailed:
        connection.discard(session, deadline)
        raise
    return session


def expect_login(connection: Connection, session: int, deadline: float) -> None:
    """That the login which we believe in is there. Raises SearchFailed, MemberLost."""
    _expect_login(connection, connection.call("C_GetSessionInfo", deadline, session, None))


def _expect_login(connection: Connection, session_info: tuple[int, list[Any]]) -> None:
    """`session_info`: the answer to C_GetSessionInfo. Raises SearchFailed where the login that we believe in is not
    there."""
    rv, results = session_info
    _expect(rv)
    if connection.logged_in is not None and unpack_session_info(results[1]).state in _PUBLIC_STATES:
        raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)


class SearchFailed(Exception):
    """A member refused a search. `rv`: its CK_RV."""

    def __init__(self, rv: int) -> None:
        super().__init__(rv_name(rv))
        self.rv = rv


def search(
    connection: Connection, session: int, template: Template, deadline: float, user: int | None = None
) -> list[int]:
    """All real handles that match, the search drained at once. `user`: who must be logged in all the time, where the
    caller knows it; else who is now. Raises MemberLost, SearchFailed."""
    found: list[int] = []
    logins = connection.logins
    user = connection.logged_in if user is None else user
    _expect_same_login(connection, user, logins)
    connection.enter_catalogue(deadline, alone=False)
    try:
        _expect(connection.call("C_FindObjectsInit", deadline, session, template)[0])
        while True:
            rv, results = connection.call("C_FindObjects", deadline, session, _BATCH)
            if rv == ck.CKR_OK:
                found += results[1]
            if rv != ck.CKR_OK or len(results[1]) < _BATCH:
                break
        connection.call("C_FindObjectsFinal", deadline, session)
        _expect(rv)
    finally:
        connection.catalogue.leave()
    # Afterwards: a member that lost its login on the way found less, and said CKR_OK.
    expect_login(connection, session, deadline)
    # Nor would one be noticed that another thread has healed since, or is healing.
    _expect_same_login(connection, user, logins)
    return found


def _expect_same_login(connection: Connection, user: int | None, logins: int) -> None:
    if user is not None and (connection.logged_in != user or connection.logins != logins):
        raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)


def _expect(rv: int) -> None:
    if rv == ck.CKR_OK:
        return
    if verdict(Route.READ, rv) is Verdict.MEMBER_LOST:
        raise MemberLost(f"a search answered {rv_name(rv)}")
    raise SearchFailed(rv)


class Unread(SearchFailed):
    """A member did not show an object, and did not say either that it has none under this handle."""


def read_attributes(
    connection: Connection, session: int, real: int, wanted: Iterable[int], deadline: float, sure: bool = False
) -> dict[int, bytes]:
    """The attributes that the object has and shows, of those wanted; values of any length, none where the object cannot
    be read. `sure`: none only where it is not there. Raises MemberLost, SearchFailed where it is the session or the
    login that is missing, Unread (`sure` only)."""
    query = room_for(wanted)
    logins = connection.logins
    rv, found = ask(connection, session, real, query, deadline)
    if rv not in SHOWN:
        judgement = why_unread(connection, session, rv, logins, deadline)
        if sure and judgement is not Verdict.HANDLE_STALE:
            raise Unread(rv)
        return {}
    return with_the_long(
        {
            each.type: bytes(each.value or b"")
            for each in found
            if each.length is not None and not isinstance(each.value, tuple)
        },
        rv,
        connection,
        session,
        real,
        query,
        deadline,
    )


def with_the_long(
    shown: dict[int, bytes],
    rv: int,
    connection: Connection,
    session: int,
    real: int,
    query: tuple[Query, ...],
    deadline: float,
) -> dict[int, bytes]:
    """What an object has shown to this query, with the CK_RV, and what else it has. Raises MemberLost, SearchFailed."""
    if rv != ck.CKR_OK:
        # Where one attribute is not there and another one is too long for its room, a module may say the former alone.
        asked = {each.type for each in query}
        for kind in _has(number(shown.get(ck.CKA_CLASS)), number(shown.get(ck.CKA_KEY_TYPE))):
            if kind in asked and kind not in shown:
                shown.update(_long(connection, session, real, kind, deadline))
    return shown


def _has(object_class: int | None, key_type: int | None) -> tuple[int, ...]:
    """The attributes of any length that an object of this class and type has. CKK_RSA is 0, and no type is none."""
    parts = () if key_type is None else _PARTS.get(key_type, ())
    if object_class == ck.CKO_PUBLIC_KEY and parts and key_type != ck.CKK_RSA:
        parts = (*parts, ck.CKA_VALUE)
    return (*(() if object_class is None else _HAS.get(object_class, ())), *parts)


def _long(connection: Connection, session: int, real: int, kind: int, deadline: float) -> dict[int, bytes]:
    """One attribute by itself, its length first; nothing where there is none. Raises MemberLost, SearchFailed."""
    rv, results = connection.call("C_GetAttributeValue", deadline, session, real, (Query(kind, None),))
    length = results[2][0].length if rv == ck.CKR_OK and results[2] else None
    return read_attributes(connection, session, real, (kind,), deadline) if length and length > _ROOM else {}


def in_series(
    connection: Connection,
    session: int,
    reals: Sequence[int],
    wanted: Iterable[int],
    deadline: Callable[[], float],
    arrays: tuple[int, ...] = (),
) -> Iterator[tuple[Sequence[int], list[Values]]]:
    """What many objects show, some in each hand-over: (handles, what `read_attributes` says of each, or None where that
    has to be asked). `deadline`: for each of these readings. `arrays`: attribute arrays, of which only that there is
    none can be told so. Raises MemberLost, MemberBusy."""
    wanted = tuple(wanted)
    layout = _series(wanted, arrays)
    asked = frozenset(wanted)
    must: dict[tuple[bytes | None, bytes | None], frozenset[int]] = {}
    at = 0
    while at < len(reals):
        part = reals[at : at + layout.most]
        seen: list[Values] = [None]
        if len(part) > 1:
            # What there is no memory for in one piece is read one by one.
            with suppress(MemoryError):
                seen = connection.series(layout, session, part, deadline())
        if ck.CKA_CLASS in asked:
            seen = [each if each is not None and _is_whole(each, asked, must) else None for each in seen]
        yield part[: len(seen)], seen
        at += len(seen)


def read_many(
    connection: Connection, session: int, reals: Sequence[int], wanted: Iterable[int], deadline: Callable[[], float]
) -> Iterator[tuple[int, dict[int, bytes]]]:
    """`read_attributes` of many objects: each handle, and what it shows. `deadline`: for each call or series of them.
    Raises MemberLost, SearchFailed."""
    wanted = tuple(wanted)
    for part, seen in in_series(connection, session, reals, wanted, deadline):
        for real, values in zip(part, seen, strict=True):
            if values is None:
                values = read_attributes(connection, session, real, wanted, deadline())
            yield real, values


@lru_cache(64)
def _series(wanted: tuple[int, ...], arrays: tuple[int, ...]) -> Series:
    rooms = (Query(each, _LONGER.get(each) or _ROOMS.get(form_of(each), _ROOM)) for each in wanted)
    return Series((*(Query(each, None) for each in arrays), *rooms))


def _is_whole(
    values: dict[int, bytes], asked: frozenset[int], must: dict[tuple[bytes | None, bytes | None], frozenset[int]]
) -> bool:
    """Whether all is among them that was asked, is of any length, and that the object has (`with_the_long`). `must`:
    what that is, for each class and type."""
    told = values.get(ck.CKA_CLASS), values.get(ck.CKA_KEY_TYPE)
    needed = must.get(told)
    if needed is None:
        needed = must[told] = asked.intersection(_has(*map(number, told)))
    return needed <= values.keys()


@lru_cache(64)
def _queries(wanted: tuple[int, ...]) -> tuple[Query, ...]:
    queries = tuple(Query(attribute, _ROOM) for attribute in wanted)
    return queries if any(map(is_array, wanted)) else Laid(queries)


def room_for(wanted: Iterable[int]) -> tuple[Query, ...]:
    """Queries with room for a value of usual length."""
    return _queries(tuple(wanted))


def ask(
    connection: Connection, session: int, real: int, query: tuple[Query, ...], deadline: float
) -> tuple[int, tuple[Found, ...]]:
    """C_GetAttributeValue, asked again with more room where a value is longer: (CK_RV, the answers). Raises
    MemberLost."""
    rv, results = connection.call("C_GetAttributeValue", deadline, session, real, query)
    if rv == ck.CKR_BUFFER_TOO_SMALL:
        sizes = tuple(Query(each.type, None) for each in query)
        rv, results = connection.call("C_GetAttributeValue", deadline, session, real, sizes)
        if rv in SHOWN:
            query = tuple(
                each if each.capacity is None else Query(each.type, max(found.length or 0, 1), each.nested)
                for each, found in zip(query, results[2], strict=True)
            )
            rv, results = connection.call("C_GetAttributeValue", deadline, session, real, query)
    return rv, results[2] if rv in SHOWN else ()


def why_unread(connection: Connection, session: int, rv: int, logins: int, deadline: float) -> Verdict:
    """What it means for the object that a member showed nothing of it. `logins`: the connection's count of them before
    the call. Raises MemberLost, SearchFailed where it is the session or the login that is missing."""
    judgement = verdict(Route.READ, rv)
    if judgement is Verdict.MEMBER_LOST:
        raise MemberLost(f"C_GetAttributeValue answered {rv_name(rv)}")
    if judgement in (Verdict.SESSION_LOST, Verdict.LOGIN_LOST):
        raise SearchFailed(rv)
    # A private object whose login was lost is not there either, even where another thread has healed that.
    expect_login(connection, session, deadline)
    if connection.logins != logins:
        raise SearchFailed(ck.CKR_USER_NOT_LOGGED_IN)
    return judgement


def destroy(connection: Connection, session: int, real: int, deadline: float) -> int:
    """C_DestroyObject beside no search. The CK_RV."""
    connection.enter_catalogue(deadline, alone=True)
    try:
        return connection.call("C_DestroyObject", deadline, session, real)[0]
    finally:
        connection.catalogue.leave()


STILL_THERE = "C_DestroyObject (answered CKR_OK, and the object is still there)"


def is_gone(connection: Connection, session: int, real: int, deadline: float) -> bool:
    """Whether there is no object under this handle: a module may only say to have destroyed it. Raises MemberLost,
    SearchFailed (where it cannot be told, too)."""
    wanted = (ck.CKA_CLASS,)
    try:
        return not read_attributes(connection, session, real, wanted, deadline, sure=True)
    except Unread:
        return not read_attributes(connection, session, real, wanted, deadline, sure=True)


def create(connection: Connection, session: int, template: Template, deadline: float) -> tuple[int, int]:
    """C_CreateObject beside no search: (CK_RV, real handle)."""
    return make(connection, "C_CreateObject", deadline, session, template, None)


def create_many(
    connection: Connection, session: int, templates: Sequence[Template], deadline: float
) -> list[tuple[int, int]]:
    """`create` with the first of these templates, in one hand-over: (CK_RV, real handle) each. CKR_DEVICE_ERROR for
    every one where it cannot be told what was made. Raises MemberLost, MemberBusy."""
    connection.enter_catalogue(deadline, alone=True)
    try:
        told = connection.series(Creations(templates), session, templates, deadline)
    finally:
        connection.catalogue.leave()
    made = [each for each in told if each is not None]
    return made if len(made) == len(told) else [(ck.CKR_DEVICE_ERROR, 0)] * len(templates)


def make(connection: Connection, name: str, deadline: float, *values: object) -> tuple[int, int]:
    """A function whose last result is the handle of one new object, beside no search: (CK_RV, real handle)."""
    connection.enter_catalogue(deadline, alone=True)
    try:
        rv, results = connection.call(name, deadline, *values)
    finally:
        connection.catalogue.leave()
    return rv, int(results[-1]) if rv == ck.CKR_OK else 0


def boolean(attribute: int, value: bool) -> Attribute:
    """A CK_BBOOL attribute."""
    return Attribute(attribute, b"\1" if value else b"\0")
