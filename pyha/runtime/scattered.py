"""Session objects that a search of one member does not find by itself: those that live on another one, and those that
went with a session which the member has dropped.

None of them may be left out: an application that does not find its key makes another one. Where the member on which
they live cannot be searched, they are brought to the one that can. Which member is searched is `searching`'s.

Source: SEMANTICS.md sections 2 (idle sessions that a member dropped are invisible) and 5 (session objects).
"""

from collections.abc import Collection

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Template
from pyha.runtime.carrying import gone
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, housekeeping, search
from pyha.runtime.member import Connection, MemberLost, SessionRefused


class Unsearched(Exception):
    """The member of this index cannot say which of its session objects match, or has lost some."""

    def __init__(self, index: int) -> None:
        super().__init__("session objects there may match")
        self.index = index


def forget_dropped(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    template: Template,
    found: Collection[int],
    deadline: float,
) -> bool:
    """Of the session objects that this member has and that were not among what it `found` (virtual handles): forget
    where those were that could have been, and are not there any more. Whether there are such. Raises MemberLost,
    SessionRefused."""
    entries = group.objects.of_sessions()
    if not entries:
        return False
    found = frozenset(found)
    dropped = False
    held: dict[int | None, bool] = {}
    for entry in entries:
        if entry.handle not in connection.bound or entry.handle in found or not entry.identity.may_match(template):
            continue
        if entry.session not in held:
            # Where it lives it lives with all of its session's objects: one call for them.
            held[entry.session] = _holds(group, index, connection, entry.session, deadline)
        if not held[entry.session] and gone(connection, entry, deadline):
            group.objects.unbind(connection, entry.handle)
            dropped = True
    return dropped


def _holds(group: GroupRuntime, index: int, connection: Connection, session: int | None, deadline: float) -> bool:
    """Whether this member still has the real session on which the virtual one's objects live. Raises MemberLost,
    SessionRefused."""
    virtual = group.sessions.get(session or 0)
    generation, real = (virtual.holders.get(index) if virtual is not None else None) or (0, 0)
    if generation != connection.generation:
        return False
    rv, _ = connection.call("C_GetSessionInfo", deadline, real, None)
    return rv == ck.CKR_OK


def elsewhere(group: GroupRuntime, searched: int, template: Template, away: Collection[int]) -> list[int]:
    """Virtual handles of the matching session objects that live on other members than the one that was `searched`.
    `away`: members that could not be searched, whose objects should be there by now. Raises MemberLost where one of the
    members was lost, and is out; Unsearched; SearchFailed where an object that may match is out of reach."""
    found: list[int] = []
    for index in sorted(_homes(group) - {searched}):
        if index in away:
            _expect_brought(group, searched, index, template)
            continue
        connection = group.connections[index]
        if connection is None:
            raise Unsearched(index)
        deadline = group.deadline()
        try:
            with housekeeping(connection, deadline) as real_session:
                reals = search(connection, real_session, template, deadline)
            known = {connection.known[real] for real in reals if real in connection.known}
            if forget_dropped(group, index, connection, template, known, deadline):
                raise Unsearched(index)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            raise
        except (SearchFailed, SessionRefused):
            raise Unsearched(index) from None
        for handle in known:
            entry = group.objects.get(handle)
            if entry is not None and entry.home is not None:
                found.append(handle)
    return sorted(found)


def _homes(group: GroupRuntime) -> set[int]:
    """Where session objects live, or did that can be had again."""
    return {
        entry.home[0]
        for entry in group.objects.of_sessions()
        if entry.home is not None and (entry.kept is not None or group.objects.at_home(entry))
    }


def _expect_brought(group: GroupRuntime, searched: int, home: int, template: Template) -> None:
    """Raises SearchFailed where a session object that may match is at its home only."""
    connection = group.connections[searched]
    for entry in group.objects.of_sessions():
        if entry.home is None or entry.home[0] != home or not group.objects.at_home(entry):
            continue
        if entry.identity.may_match(template) and (connection is None or entry.handle not in connection.bound):
            raise SearchFailed(ck.CKR_DEVICE_ERROR)
