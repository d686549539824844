"""The first step of every creation: objects made by one call on one member.

A policy for the failover loop: the primary, or the member where a session object of the call lives. Session objects
are made on the virtual session's holder; the originals of keys to be published on a real session of their own, so that
closing it destroys them whatever happened.

Source: SEMANTICS.md sections 2 (holder sessions) and 3 (creation).
"""

from collections.abc import Mapping
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.plain import replace
from pyha.ha.identity import Identity
from pyha.ha.telling import type_names
from pyha.runtime.binding import read_identity
from pyha.runtime.calls import Objects, choose
from pyha.runtime.carrying import forget_holder
from pyha.runtime.failover import NotThere
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import at_hand, housekeeping
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Refusal
from pyha.runtime.session import VirtualSession
from pyha.runtime.showing import Look, weaknesses
from pyha.runtime.steps import step


class MakeCall:
    """One creating call on one member. After CKR_OK `index`, `connection` and `real_session` say where; the results
    are the call's. `last`: where it was tried last.

    `holder`: make it on the holder session of this virtual session; None: on a real session of its own (`workbench`),
    which the caller discards.
    """

    def __init__(
        self, group: GroupRuntime, function: Function, values: list[Any], holder: VirtualSession | None
    ) -> None:
        self.function = function
        self.index = -1
        self.connection: Connection | None = None
        self.real_session = 0
        self.last: tuple[int, Connection] | None = None
        self._group = group
        self._holder = holder
        self._objects = Objects(group, function, values)

    def again(self, values: list[Any], deadline: float) -> tuple[int, list[Any]]:
        """The same call with other templates, on the member and the session where it was carried out. Raises
        MemberLost, SearchFailed, SessionRefused."""
        assert self.connection is not None
        objects = Objects(self._group, self.function, values)
        try:
            own = objects.translate(self.index, self.connection, self.real_session, deadline)
        except NotThere as absence:
            return absence.rv, []
        return make_with(self.connection, self.function, own, deadline)

    def choose(self, excluded: set[int]) -> int | None:
        return choose(self._group, self._objects, excluded, spread=False)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        if self._holder is not None:
            session = self._holder.holder(index, connection, deadline)
        else:
            session = connection.open_session(deadline)
        done = False
        self.last = index, connection
        try:
            values = self._objects.translate(index, connection, session, deadline)
            rv, results = make_with(connection, self.function, values, deadline)
            done = rv == ck.CKR_OK
        finally:
            if not done and self._holder is None:
                connection.discard(session, deadline)
        if done:
            self.index, self.connection, self.real_session = index, connection, session
        return rv, results

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        if self._holder is not None:
            # The holder is gone, and the objects with it that were there.
            forget_holder(self._group, self._holder, index, connection)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        return self._objects.renew(connection, deadline)


def make_with(connection: Connection, function: Function, values: list[Any], deadline: float) -> tuple[int, list[Any]]:
    """One creating call beside no search of the same member. Raises MemberLost."""
    connection.enter_catalogue(deadline, alone=True)
    try:
        return connection.invoke(function, values, deadline)
    finally:
        connection.catalogue.leave()


def identity_on(group: GroupRuntime, index: int, connection: Connection, real: int) -> Identity | None:
    """The identity of an object that was just made on this member, None where it cannot be read. Raises MemberLost,
    Refusal."""

    def attempt(deadline: float) -> tuple[int, Identity | None]:
        with housekeeping(connection, deadline, reads=True) as session:
            return ck.CKR_OK, read_identity(connection, session, real, deadline)

    return step(group, index, connection, "C_GetAttributeValue", attempt)[1]


def lacking_on(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    real: int,
    promised: Mapping[int, bytes],
    look: Look = weaknesses,
) -> str:
    """The names of the protections of those `promised` that an object that was just made on this member lacks, as
    `look` tells. Raises MemberLost, Refusal."""

    def attempt(deadline: float) -> tuple[int, tuple[int, ...]]:
        with at_hand(connection, deadline) as session:
            return ck.CKR_OK, look(connection, session, real, promised, deadline)

    return type_names(step(group, index, connection, "C_GetAttributeValue", attempt)[1] or ())


def identify_again(group: GroupRuntime, entry: Entry, index: int) -> None:
    """Read the identity anew on a member where the object is bound: another process may have changed it, or we."""
    connection = group.connections[index]
    real = connection.bound.get(entry.handle) if connection is not None else None
    if connection is None or real is None:
        return
    try:
        identity = identity_on(group, index, connection, real)
    except MemberLost as loss:
        group.lost(index, connection.generation, str(loss))
        return
    except Refusal:
        return
    if identity is None:
        return
    if identity.twin is None and entry.identity.twin is not None:
        # Its public key is gone, or has another id now; it is the same key still.
        identity = replace(identity, twin=entry.identity.twin)
    group.objects.changed(entry.handle, identity)
