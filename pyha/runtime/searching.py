"""C_FindObjectsInit: the primary's matching objects, drained at once, as virtual handles.

Leaves out what is the group's own: domain keys, records, and the session objects that replication makes in passing.

Source: SEMANTICS.md sections 2, 3 (retrieval) and 5 (records are never seen).
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Function
from pyha.cryptoki.values import Query, Template
from pyha.ha.domain import (
    could_match_domain,
    could_match_record,
    domain_search,
    is_domain_id,
    is_domain_label,
    record_search,
)
from pyha.ha.identity import Identity
from pyha.runtime.binding import read_identities
from pyha.runtime.carrying import fetch_homeless
from pyha.runtime.failover import POISON_LIMIT, run
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, search
from pyha.runtime.member import Connection, MemberLost
from pyha.runtime.scattered import Unsearched, elsewhere, forget_dropped
from pyha.runtime.session import VirtualSession


def find(group: GroupRuntime, session: VirtualSession, function: Function, values: list[Any]) -> int:
    """Open the session's search; the CK_RV. Raises NobodyLeft. The caller holds the session's lock."""
    if session.found is not None:
        return ck.CKR_OPERATION_ACTIVE
    template: Template = values[1]
    poisoned = 0
    away: set[int] = set()
    while True:
        call = SearchCall(group, session, function, template, away)
        rv, results = run(group, call)
        if rv != ck.CKR_OK:
            return rv
        poisoned += call.poisoned
        try:
            others = elsewhere(group, call.index, template, away)
            break
        except MemberLost as loss:  # its objects are to be found elsewhere
            poisoned += loss.culprit
        except Unsearched as failure:
            away.add(failure.index)
        if poisoned >= POISON_LIMIT:
            return ck.CKR_DEVICE_ERROR
    # One that was brought to the searched member too is found there and at home.
    session.found = list(dict.fromkeys(results + others))
    return rv


class SearchCall:
    """One whole search on one member. `away`: the members whose session objects have to be brought to it."""

    def __init__(
        self,
        group: GroupRuntime,
        session: VirtualSession,
        function: Function,
        template: Template,
        away: Collection[int],
    ) -> None:
        self.function = function
        self.index = -1
        self.poisoned = 0  # helpers that it has ended
        self._last_rv = ck.CKR_OK
        self._apart = False  # the open operation's session is gone; search on another
        self._group = group
        self._session = session
        self._template = template
        self._away = away

    def choose(self, excluded: set[int]) -> int | None:
        place = self._session.place
        if place is not None and place.index not in excluded:
            return place.index
        return self._group.choose(excluded, spread=False)

    def attempt(self, index: int, connection: Connection, deadline: float) -> tuple[int, list[Any]]:
        self.index = index
        try:
            handles = self._all(index, connection, deadline)
            if forget_dropped(self._group, index, connection, self._template, handles, deadline):
                handles = self._all(index, connection, deadline)
            return ck.CKR_OK, handles
        except SearchFailed as failure:
            self._last_rv = failure.rv
            return failure.rv, []
        except MemberLost as loss:
            self.poisoned += loss.culprit
            raise

    def _all(self, index: int, connection: Connection, deadline: float) -> list[int]:
        fetch_homeless(self._group, index, connection, deadline, self._away)
        place = self._session.place
        # A search beside an open operation is asked of the same real session: the member's own rule decides.
        if place is not None and place.connection is connection and not self._apart:
            return self._search(connection, place.real, deadline)
        with housekeeping(connection, deadline) as real_session:
            return self._search(connection, real_session, deadline)

    def _search(self, connection: Connection, real_session: int, deadline: float) -> list[int]:
        reals = search(connection, real_session, self._template, deadline, self._group.user)
        own = {real for handles in connection.domain.values() for real in handles}
        if any(real not in connection.known and real not in own for real in reals):
            own |= _hidden(self._group, connection, real_session, self._template, deadline)
        reals = [real for real in reals if real not in own]
        new = [real for real in reals if self._known(connection, real) is None]
        made = dict(zip(new, self._made(connection, real_session, new, deadline), strict=True))
        handles = [made[real] if real in made else self._known(connection, real) for real in reals]
        return [handle for handle in handles if handle is not None]

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        if self._session.place is not None and self._last_rv == ck.CKR_OPERATION_ACTIVE:
            return False
        self._apart = True
        connection.drop_idle(deadline)
        return True

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        return False

    def _known(self, connection: Connection, real: int) -> int | None:
        known = connection.known.get(real)
        if known is not None and self._group.objects.get(known) is None:
            self._group.objects.unbind(connection, known)
            return None
        return known

    def _made(self, connection: Connection, session: int, reals: list[int], deadline: float) -> Iterator[int | None]:
        """The handles of objects that are not known yet."""
        group = self._group
        in_time = _anew(group, deadline)
        for real, identity in zip(reals, read_identities(connection, session, reals, in_time), strict=True):
            if identity is None:
                if not group.raw and _is_there(connection, session, real, in_time()):
                    group.news.unreadable(self.index)
                yield None
            elif not group.raw and (not identity.token or _is_domain_key(identity)):
                yield None
            else:
                yield group.objects.found(connection, real, identity).handle


def _anew(group: GroupRuntime, deadline: float) -> Callable[[], float]:
    """The deadlines of readings one after the other, the first of a search whose own is `deadline`: a member that shows
    one object after the other is not lost for the last. For as long as a slow call may take; then it is busy."""
    half = group.settings.deadline / 2
    end = group.clock() + group.settings.slow_deadline

    def in_time() -> float:
        now = group.clock()
        if now + half < deadline:
            return deadline
        return group.deadline() if now < end else now  # which is over: no call is made

    return in_time


def _is_there(connection: Connection, session: int, real: int, deadline: float) -> bool:
    """Whether an object that cannot be read is more than one that was deleted since it was found."""
    query = (Query(ck.CKA_CLASS, 8),)
    rv, _ = connection.call("C_GetAttributeValue", deadline, session, real, query)
    return rv not in (ck.CKR_OK, ck.CKR_OBJECT_HANDLE_INVALID)


def _is_domain_key(identity: Identity) -> bool:
    """Of any group: a token may be a member of two, and no search tells the keys of one that is not ours."""
    return is_domain_label(identity.get(ck.CKA_LABEL) or b"") and is_domain_id(identity.get(ck.CKA_ID) or b"")


def _hidden(group: GroupRuntime, connection: Connection, session: int, template: Template, deadline: float) -> set[int]:
    """Real handles among the matches that the application must not see."""
    # Whoever is logged in: while another thread is inside C_Login or C_Logout the member may show more than we know.
    if group.raw:
        return set()
    hidden: set[int] = set()
    if could_match_domain(template):
        hidden.update(search(connection, session, domain_search(group.settings.id), deadline))
    if could_match_record(template):
        hidden.update(search(connection, session, record_search(), deadline))
    return hidden
