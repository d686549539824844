"""A session object comes to a member that has none of it: its home is lost, or another object of the call lives there.

It is made from what was kept of it, on its own virtual session's holder there, put to the proof, and bound. Knows one
object and one member; who may need which is `binding`'s and the policies'.

Source: SEMANTICS.md sections 2 (holder sessions) and 5 (session objects).
"""

from collections.abc import Collection
from contextlib import suppress

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.ha.identity import READ, identity_of
from pyha.runtime import log
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed, destroy, housekeeping, read_attributes
from pyha.runtime.kept import Kept
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.objects import Entry
from pyha.runtime.outcomes import Refusal
from pyha.runtime.session import VirtualSession
from pyha.runtime.showing import weaknesses


def bring(group: GroupRuntime, index: int, connection: Connection, entry: Entry, deadline: float) -> int | None:
    """The real handle of a session object on this member, made there now; None where it cannot be. Raises MemberLost,
    SessionRefused, SearchFailed."""
    session = group.sessions.get(entry.session or 0)
    if session is None or entry.kept is None:
        return None
    with session.hold(deadline, connection.clock):
        real = connection.bound.get(entry.handle)
        if real is not None:  # another thread was first
            return real
        kept = entry.kept
        if kept is None or session.closed or group.objects.get(entry.handle) is not entry:
            return None
        try:
            real = _make(group, index, connection, session, kept, deadline)
            if real is None or not _settled(group, index, connection, session, entry, real, deadline):
                return None
        except Refusal:  # nobody is logged in any more, and no domain key is seen
            return None
        return real


def _make(
    group: GroupRuntime, index: int, connection: Connection, session: VirtualSession, kept: Kept, deadline: float
) -> int | None:
    for last in (False, True):
        rv, real = kept.make(group, connection, session.holder(index, connection, deadline), deadline)
        if rv == ck.CKR_OK:
            return real
        judgement = verdict(Route.CREATE, rv)
        if judgement is Verdict.MEMBER_LOST:
            raise MemberLost(f"a session object that was brought there got {rv_name(rv)}")
        if last or judgement not in (Verdict.SESSION_LOST, Verdict.HANDLE_STALE):
            break
        if judgement is Verdict.SESSION_LOST:
            forget_holder(group, session, index, connection)
        else:
            connection.domain.clear()
    if judgement is not Verdict.ANSWER:
        raise SearchFailed(rv)
    _say(group, index, f"does not take it: {rv_name(rv)}")
    return None


def _settled(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    session: VirtualSession,
    entry: Entry,
    real: int,
    deadline: float,
) -> bool:
    """Prove what was made, and bind it; whatever fails, it is destroyed again."""
    kept, holder = entry.kept, session.holder(index, connection, deadline)
    done = False
    try:
        assert kept is not None
        if not _alike(connection, holder, entry, kept, real, deadline) or not kept.holds(
            group, index, connection, holder, real, deadline
        ):
            _say(group, index, "made another one of it")
            return False
        done = group.objects.carried(index, connection, entry, real)
        return done
    finally:
        if not done and connection.clock() < deadline:
            with suppress(MemberLost, SessionRefused):
                destroy(connection, holder, real, deadline)


def _alike(connection: Connection, holder: int, entry: Entry, kept: Kept, real: int, deadline: float) -> bool:
    """Whether it is what it should be by what it shows, and protected no less."""
    seen = read_attributes(connection, holder, real, READ, deadline)
    known = {kind for kind, _ in entry.identity.attributes}  # not every attribute was asked for
    identity = identity_of({kind: value for kind, value in seen.items() if kind in known})
    return entry.identity.same(identity) and not weaknesses(connection, holder, real, kept.protections, deadline)


def _say(group: GroupRuntime, index: int, what: str) -> None:
    log.log(
        "warning",
        f'group "{group.settings.label}": a session object could not be brought to member {group.name(index)}, which '
        f"{what}",
    )


def forget_holder(group: GroupRuntime, session: VirtualSession, index: int, connection: Connection) -> None:
    """A member has dropped the holder of this virtual session, and the objects on it."""
    session.holders.pop(index, None)
    group.objects.holder_lost(session.handle, index, connection)


def gone(connection: Connection, entry: Entry, deadline: float) -> bool:
    """Whether a member that answered that a handle is not valid has lost this session object. Raises MemberLost,
    SessionRefused."""
    real = connection.bound.get(entry.handle)
    if real is None or entry.kept is None:
        return False
    try:
        with housekeeping(connection, deadline) as session:
            return not read_attributes(connection, session, real, (ck.CKA_CLASS,), deadline)
    except SearchFailed:
        return True  # its sessions or its login are gone, and what lived there


def fetch_homeless(
    group: GroupRuntime, index: int, connection: Connection, deadline: float, away: Collection[int] = ()
) -> None:
    """Bring the session objects whose home is lost to this member, that is about to be searched, and those that live on
    members that are `away`. Raises as `bring`."""
    for entry in group.objects.of_sessions():
        if entry.kept is None:
            continue
        if not group.objects.settle_home(entry) or (entry.home is not None and entry.home[0] in away):
            bring(group, index, connection, entry, deadline)
