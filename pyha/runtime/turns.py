"""Resync in turns with creations and changes: they wait for it, and it must not keep them past their deadline.

A resync that takes long is carried out in pieces, each planned anew; what it leaves in between is a state like any
other.

Source: SEMANTICS.md section 5 (resync excludes creations and changes).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyha.cryptoki.plain import replace
from pyha.runtime.exclusion import Alone
from pyha.runtime.gate import GateTimeout
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.resync import Outcome, Watch, resynchronise

_PAUSE = 0.05
"""Seconds between two turns, in which those that waited get in."""


class Occupied(Exception):
    """Creations and changes could not be excluded in time: one phrase."""


@contextmanager
def alone(group: GroupRuntime) -> Iterator[Alone]:
    """No token object of the group is made or changed meanwhile, by no process of this host. Raises Occupied."""
    try:
        with group.changes.alone(group.deadline()) as here:
            yield here
    except GateTimeout:
        raise Occupied("objects are being made or changed, or another process resynchronises") from None


def resync_member(
    group: GroupRuntime,
    index: int,
    connection: Connection,
    until: float | None = None,
    then: Callable[[Outcome], None] = lambda outcome: None,
    watch: Watch = lambda done, total, step: None,
) -> Outcome:
    """Make a member that is connected and logged in, but need not be in yet, hold what those that are in hold, and them
    what only it has. `then` is called with the finished outcome while creations and changes are still excluded.
    `until`: begin no turn after this (monotonic seconds). Raises Occupied, LostMeanwhile, Unreadable, NobodyLeft, and
    what `then` raises."""

    def turn() -> Outcome:
        members = [place for place in group.present() if place[0] != index]
        return resynchronise(group, [*members, (index, connection)], turn=_length(group), watch=watch)

    return _in_turns(group, turn, until, then)


def resync_group(
    group: GroupRuntime,
    only: int | None = None,
    dry: bool = False,
    watch: Watch = lambda done, total, step: None,
) -> Outcome:
    """Make all members that are in hold the same. `only`: index of the one that is to be changed. `dry`: plan, and do
    nothing. Raises Occupied, LostMeanwhile, Unreadable, NobodyLeft."""

    def turn() -> Outcome:
        members = group.present()
        position = next((at for at, (index, _) in enumerate(members) if index == only), None)
        return resynchronise(group, members, position, dry, _length(group), watch)

    return _in_turns(group, turn, None, lambda outcome: None)


def _length(group: GroupRuntime) -> float:
    """Seconds of a turn: who waits for it has time left."""
    return group.settings.deadline / 2


def _in_turns(
    group: GroupRuntime, turn: Callable[[], Outcome], until: float | None, then: Callable[[Outcome], None]
) -> Outcome:
    while True:
        with alone(group) as here:
            outcome = turn()
            # Who could not wait any longer has made or changed something that no plan knew of.
            again = here.disturbed or (outcome.cut and outcome.done)
            if outcome.finished and not again:
                then(outcome)
        if here.disturbed:
            outcome = replace(outcome, finished=False)
        if not again or (until is not None and group.clock() >= until):
            return outcome
        time.sleep(_PAUSE)
