"""Members that are in, compared in the background: after a login, because nobody has compared them yet in this process,
and when one was seen to lack an object.

Cheap first: as many token objects on each, and no tombstone that one of them has not applied. Only where that differs a
plan is made, beside creations and changes; only where it has something to do they are excluded, and it is carried out.
The members serve meanwhile: a call for an object that its member lacks goes to one that has it. A comparison that fails
is made again later.

Source: SEMANTICS.md sections 2 (marked for audit) and 5 (only resync writes objects).
"""

from contextlib import suppress

from pyha.cryptoki import constants as ck
from pyha.ha.group import Cause
from pyha.ha.steps import Conflict
from pyha.ha.telling import conflict_line, conflicts_for_log
from pyha.runtime import log, tombstones
from pyha.runtime.afresh import Unreadable
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.housekeeping import SearchFailed, housekeeping, search
from pyha.runtime.inventory import TOKEN_OBJECTS
from pyha.runtime.member import Connection, MemberLost, SessionRefused
from pyha.runtime.resync import LostMeanwhile, Outcome, resynchronise
from pyha.runtime.turns import Occupied, resync_group


def compare_if_asked(group: GroupRuntime) -> None:
    """What the monitor does when somebody has reason to ask. Raises nothing."""
    at = comparison_due(group)
    if at is None or at > group.clock():
        return
    group.news.comparing()
    if _compare(group):
        group.news.compared()
    else:
        group.news.comparison_failed()


def comparison_due(group: GroupRuntime) -> float | None:
    """When the members are to be compared (our clock); None: not as things are now."""
    return None if group.raw or group.user != ck.CKU_USER else group.news.comparison_due(group.recovery)


def _compare(group: GroupRuntime) -> bool:
    """Whether it came to its end, or there is nothing to compare."""
    try:
        if len(group.present()) < 2 or _seem_alike(group):
            return True
        planned = resynchronise(group, group.present(), dry=True)
        outcome = resync_group(group) if planned.first.steps else planned
    except LostMeanwhile as loss:
        group.lost(loss.index, loss.connection.generation, str(loss))
        return False
    except (Occupied, Unreadable) as reason:
        log.log("warning", f'group "{group.settings.label}": members may differ, and were not compared: {reason}')
        return False
    except MemoryError:
        # No descriptor, say, for an object that is larger than most; the monitor goes on, and so does the application.
        log.log("warning", f'group "{group.settings.label}": members may differ, and were not compared: no memory')
        return False
    except NobodyLeft:
        return True
    _tell(group, outcome, planned.first.conflicts)
    return outcome.finished


def _tell(group: GroupRuntime, outcome: Outcome, planned: tuple[Conflict, ...]) -> None:
    label = f'group "{group.settings.label}"'
    if outcome.done:
        log.log("notice", f"{label}: members held different objects: resync carried out {outcome.done} steps")
    for conflict in outcome.refused:
        _expel(group, outcome.names[conflict.member], conflict_line(conflict, outcome.names))
    left = outcome.left or planned
    for line in conflicts_for_log(left, outcome.names):
        log.log("warning", f"{label}: resync: {line}")
    if outcome.done and outcome.finished and not left:
        group.news.forget_audits()


def _expel(group: GroupRuntime, name: str, reason: str) -> None:
    """A member that does not take what a tombstone says would serve what was deleted: it is out, but for the last."""
    with suppress(NobodyLeft):
        members = group.present()
        for index, connection in members if len(members) > 1 else ():
            if group.name(index) == name:
                group.lost(index, connection.generation, f"its objects differ: {reason}", Cause.DIFFERS)


def _seem_alike(group: GroupRuntime) -> bool:
    """Whether there is no sign that they differ. Raises Unreadable where a member cannot say, NobodyLeft."""
    members = group.present()
    names = {group.settings.members[index].recorded_as for index, _ in members}
    counts: set[int] = set()
    behind = False
    unsure = ""
    for index, connection in members:
        try:
            counts.add(_count(group, connection))
            found = tombstones.find(connection, group.settings.id, group.deadline())
        except MemberLost as loss:
            group.lost(index, connection.generation, str(loss))
            continue
        except (SearchFailed, SessionRefused) as failure:
            unsure = f"member {group.name(index)} cannot be asked what it holds: {failure}"
            continue
        behind |= any(tombstone.pending & names for _, tombstone in found)
    if len(counts) > 1 or behind:
        return False
    if unsure:
        raise Unreadable(unsure)
    return True


def _count(group: GroupRuntime, connection: Connection) -> int:
    """Token objects but the domain keys, of which not every token has all."""
    deadline = group.deadline()
    with housekeeping(connection, deadline, reads=True) as session:
        reals = search(connection, session, TOKEN_OBJECTS, deadline, ck.CKU_USER)
    own = {real for handles in connection.domain.values() for real in handles}
    return len(set(reals) - own)
