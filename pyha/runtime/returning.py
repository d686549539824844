"""Members that are back and were not resynchronised: an application that starts finds out by what the others hold.

When it makes contact every member that answers is in. One that was away while objects were made, changed or deleted is
named by tombstones on the others until a resync has brought it up to date; after the login, before C_Login answers, it
goes out like any lost member, and comes back the way that all of them do. Looked at once for each connection that came
by contact; who came by recovery was compared.

Knows who is behind; what brings a member back is `recovery`'s business.

Source: SEMANTICS.md sections 4 (a returned member serves only after it has been resynchronised) and 5 (tombstones).
"""

from collections.abc import Callable

from pyha.ha.settings import RecoveryMode
from pyha.ha.tombstones import Tombstone, behind
from pyha.runtime import log, tombstones
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.member import Connection, MemberLost, SessionRefused

BEHIND = "it was away while objects were made, changed or deleted, and was not resynchronised since"


def send_back(group: GroupRuntime) -> None:
    """After the application's login as user. Raises NobodyLeft."""
    if group.raw or not group.by_contact:
        return
    members = group.present()
    came = {at: connection for at, connection in members if group.by_contact.get(at) == connection.generation}
    group.by_contact.clear()
    if not came or len(members) < 2:
        return
    told: dict[int, list[Tombstone]] = {}
    for index, connection in members:
        try:
            told[index] = _tombstones(group, connection)
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
        except (SearchFailed, SessionRefused, MemoryError):
            # As far as it goes: the comparison in the background names it, and the next login looks again.
            group.by_contact.update({at: each.generation for at, each in came.items()})
    names = {index: group.settings.members[index].recorded_as for index in told}
    late = behind({names[index]: found for index, found in told.items()})
    out = [index for index in came if index in told and names[index] in late and _can_return(group, index)]
    if out and len(out) == len(told):
        # Nobody holds everything: they serve as they are, and the comparison in the background puts that right.
        who = ", ".join(group.name(index) for index in out)
        log.log("warning", f'group "{group.settings.label}": every member {BEHIND[3:]}: {who} serve as they are')
        return
    manual = group.recovery.mode is RecoveryMode.MANUAL or group.recovery.attempts == 0
    asked = " (nobody does that by itself: pyha group recover)" if manual else ""
    for index in out:
        group.lost(index, came[index].generation, BEHIND + asked)


def _tombstones(group: GroupRuntime, connection: Connection) -> list[Tombstone]:
    """Those that a member holds. Raises MemberLost, SessionRefused (it takes too long, too), SearchFailed."""
    deadline = group.deadline()
    found = tombstones.find_all(connection, group.settings.id, deadline, _in_time(group, deadline))
    return [tombstone for _, tombstone in found]


def _in_time(group: GroupRuntime, deadline: float) -> Callable[[], float]:
    """No member is lost because it holds much: what is not begun half a deadline before the end is not begun."""
    last = deadline - group.settings.deadline / 2

    def in_time() -> float:
        now = group.clock()
        return deadline if now < last else now  # which is over: no call is made

    return in_time


def _can_return(group: GroupRuntime, index: int) -> bool:
    """Whether it can be logged in again: a PIN that was entered at the token is not kept."""
    return group.pin is not None or group.settings.members[index].uri.pin_source is not None
