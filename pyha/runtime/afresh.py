"""A second look at members that have been in for a while, before a resync believes that they lack something.

A module need not see what other processes have made on its token: SoftHSM may miss the object that another process
made last until a further one comes, and then whatever is decided from its absence is wrong: a second copy, a record
cleared, a tombstone that counts as applied. A process that has just begun sees all there is.

Source: SEMANTICS.md section 5; REPLICATION.md (quirks).
"""

from collections.abc import Sequence
from contextlib import ExitStack

from pyha.ha.settings import Isolation
from pyha.runtime.admission import NotAdmitted, locate
from pyha.runtime.cloning import Place
from pyha.runtime.expecting import STRANGER
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import Connection, LoginRefused, MemberLost, SessionRefused
from pyha.runtime.pinsource import PinUnavailable


class Unreadable(Exception):
    """What a member holds cannot be told now: one phrase that names it."""


def afresh(group: GroupRuntime, members: Sequence[Place], until: ExitStack) -> tuple[Place, ...]:
    """The same members by connections of their own, which `until` closes. As they are: one that is on its way back,
    which is new anyway; one whose PIN is not kept; and where modules run inside the application there is no second
    view. Raises Unreadable."""
    if group.settings.isolation is Isolation.NONE:
        return tuple(members)
    return tuple(
        (index, _look(group, index, connection, until) if group.connections[index] is connection else connection)
        for index, connection in members
    )


def _look(group: GroupRuntime, index: int, old: Connection, until: ExitStack) -> Connection:
    pin = group.pin
    if pin is not None and old.refused is pin:
        return old  # each resync would cost the token a try, until it is locked
    fresh = group.new_connection(index, old.generation)
    deadline = group.deadline()
    try:
        until.callback(fresh.close)
        until.enter_context(group.arriving(fresh))
        fresh.connect(deadline)
        if not group.knows(index, fresh):
            raise MemberLost(STRANGER)
        fresh.anchor(deadline)
        group.log_in_returning(index, fresh, deadline)
        locate(group, fresh, deadline)
    except LoginRefused as refusal:
        if refusal.tried:
            old.refused = pin
        return old
    except PinUnavailable:
        return old
    except (MemberLost, SessionRefused, SearchFailed, NotAdmitted) as failure:
        raise Unreadable(f"member {group.name(index)} cannot be looked at afresh: {failure}") from None
    return fresh
