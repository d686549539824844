"""A new member and the others: what it would bring along, and making it hold what they hold.

Knows resync's plans and outcomes; how a step is carried out is `pyha.runtime`'s.

Source: SEMANTICS.md section 5; docs/administration.md (a token more).
"""

from pyha.ha.settings import Unreplicable
from pyha.ha.steps import Change, Conflict, Copy, Delete, Step
from pyha.ha.telling import told
from pyha.runtime.afresh import Unreadable
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.resync import LostMeanwhile, Outcome, resynchronise
from pyha.runtime.turns import Occupied, alone, resync_member

_TROUBLE = (Occupied, LostMeanwhile, Unreadable, NobodyLeft)


def brought_along(group: GroupRuntime, index: int, new: Candidate) -> tuple[str, ...]:
    """The objects, in words, that would come to the other members or change there because of the new one. Raises
    NotServable."""
    others = group.present()
    try:
        with alone(group):
            apart = resynchronise(group, others, dry=True)
            together = resynchronise(group, [*others, (index, new.connection)], dry=True)
    except _TROUBLE as reason:
        raise NotServable(f"{new.name}: it cannot be compared with the others now: {reason}") from None
    known = _on_others(apart, len(others))
    found = [each for each in _on_others(together, len(others)) if each not in known]
    return tuple(dict.fromkeys(text for _, text in found))


def _on_others(outcome: Outcome, count: int) -> list[tuple[type[Step | Conflict], str]]:
    """What concerns objects of the first `count` members."""
    steps: list[Step | Conflict] = [*outcome.first.steps, *outcome.first.conflicts]
    return [
        (type(each), told(each.identity))
        for each in steps
        if isinstance(each, Copy | Change | Delete | Conflict) and each.member < count
    ]


def introduce(group: GroupRuntime, index: int, new: Candidate) -> Outcome:
    """Resynchronise it with the others. Raises NotServable where it could not serve afterwards."""
    try:
        outcome = resync_member(group, index, new.connection)
    except _TROUBLE as reason:
        raise NotServable(f"{new.name}: its resync did not come to its end: {reason}") from None
    reasons = outcome.bars(group.name(index), group.settings.unreplicable is Unreplicable.PIN)
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise NotServable(f"{new.name}: its objects would differ: {reasons[0]}{more}")
    if not outcome.finished:
        raise NotServable(f"{new.name}: objects are made and changed all the time: try again")
    return outcome
