"""What a changed configuration asks of a running group.

Pure: from the members as they run and as they are configured now, to a list of changes. Knows nothing of files, URIs
and connections. A member keeps its index for the process's life, whatever becomes of the configured order: calls in
flight name members by it. So a member that went keeps its index too, and gets it back when it is added again.

Source: SEMANTICS.md section 4 (what only the operator decides).
"""

from collections.abc import Collection, Sequence
from enum import Enum

from pyha.cryptoki.plain import dataclass
from pyha.ha.group import Group, State
from pyha.ha.settings import Role


@dataclass(frozen=True, slots=True)
class Configured:
    """One member as the operator has it. `key`: what tells its token from all others (a serial, where the
    configuration states it). `recover`: raised at each command to try it now."""

    key: str
    name: str
    role: Role = Role.ACTIVE
    enabled: bool = True
    recover: int = 0


DISABLED = "disabled by the operator"
"""Why a disabled member is out."""


class Kind(Enum):
    """What happens to a member. The value is how a log line says it."""

    ADDED = "added"
    REMOVED = "removed"
    ENABLED = "enabled"
    DISABLED = "disabled"
    STANDBY = "a standby member now"
    ACTIVE = "an active member now"
    RENAMED = "renamed"
    RECOVER = "to be tried now"


@dataclass(frozen=True, slots=True)
class Change:
    """One member's change. `index`: where it is, or will be."""

    index: int
    kind: Kind


WANTED = (Kind.ADDED, Kind.ENABLED)
TAKEN_OUT = (Kind.REMOVED, Kind.DISABLED)


def arrange(
    running: Sequence[Configured], removed: Collection[int], wanted: Sequence[Configured]
) -> tuple[tuple[int, ...], tuple[Change, ...]]:
    """(index of each wanted member in configured order, changes in the order of the indexes).

    `running`: the members as they were configured last, by index; `removed`: those of them (indexes) that are not
    configured any more. New members get the next indexes. No two members of either have one key.
    """
    at = {member.key: index for index, member in enumerate(running)}
    changes: list[Change] = []
    order = []
    for member in wanted:
        index = at.setdefault(member.key, len(at))
        order.append(index)
        known = index < len(running)
        if known and index not in removed:
            kinds = _kinds(running[index], member)
        else:
            kinds = [Kind.ADDED if member.enabled else Kind.DISABLED]
        changes += [Change(index, kind) for kind in kinds]
    gone = (index for index in range(len(running)) if index not in removed and index not in order)
    changes += [Change(index, Kind.REMOVED) for index in gone]
    return tuple(order), tuple(sorted(changes, key=lambda change: change.index))


def _kinds(before: Configured, after: Configured) -> list[Kind]:
    kinds = []
    if after.name != before.name:
        kinds.append(Kind.RENAMED)
    if after.role is not before.role:
        kinds.append(Kind.STANDBY if after.role is Role.STANDBY else Kind.ACTIVE)
    if after.enabled is not before.enabled:
        kinds.append(Kind.ENABLED if after.enabled else Kind.DISABLED)
    # A lower one is a file from before the last command: nobody asks for anything with that.
    if after.recover > before.recover and after.enabled:
        kinds.append(Kind.RECOVER)
    return kinds


def applied(
    group: Group, order: Sequence[int], wanted: Sequence[Configured], changes: Sequence[Change], contacted: bool
) -> Group:
    """The group after `arrange`'s changes. `contacted`: its members have been asked already, so that one that comes is
    out and due for recovery; else it is asked with the others."""
    for place, index in sorted(enumerate(order), key=lambda pair: pair[1]):
        member = wanted[place]
        group = group.described(index, member.name, member.role, place)
    for change in changes:
        if change.kind in WANTED:
            group = group.wanted(change.index, contacted)
        elif change.kind is Kind.DISABLED:
            group = group.taken_out(change.index, State.DISABLED, DISABLED)
        elif change.kind is Kind.REMOVED:
            group = group.taken_out(change.index, State.REMOVED, "removed by the operator")
    return group
