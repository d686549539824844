"""Resync in turns with creations and changes: they wait for it, and it must not keep them past their deadline.

A resync that takes long is carried out in pieces. What happens in between is seen by the plan that it makes at its end,
and each step looks at its own object first.

Source: SEMANTICS.md section 5 (resync excludes creations and changes).
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyha.cryptoki.plain import replace
from pyha.runtime.exclusion import Alone
from pyha.runtime.gate import GateTimeout
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.resync import Beside, Outcome, Reads, Watch, resynchronise

_PAUSE = 0.05
"""Seconds between two turns, in which those that waited get in."""
_DISTURBED = 4
"""How often a resync is carried out, at most, where each time somebody did not wait for its end."""

_OCCUPIED = "objects are being made or changed, or another process resynchronises"


class Occupied(Exception):
    """Creations and changes could not be excluded in time: one phrase."""


@contextmanager
def alone(group: GroupRuntime) -> Iterator[Alone]:
    """No token object of the group is made or changed meanwhile, by no process of this host. Raises Occupied."""
    try:
        with group.changes.alone(group.deadline()) as here:
            yield here
    except GateTimeout:
        raise Occupied(_OCCUPIED) from None


@contextmanager
def _resyncing(group: GroupRuntime) -> Iterator[None]:
    try:
        with group.changes.resync(group.deadline()):
            yield
    except GateTimeout:
        raise Occupied(_OCCUPIED) from None


class _Turns(Beside):
    """The time in which one resync is alone, in pieces where somebody waits for it to end: who is let in may change
    what was read, and then it is read again. A context; Occupied where it does not get in (again)."""

    def __init__(self, group: GroupRuntime, until: float | None) -> None:
        self._group = group
        self._until = until
        self._inside = ExitStack()
        self._over = 0.0
        self._taken = 0
        self.here = Alone()

    def __enter__(self) -> "_Turns":
        self.here = self._inside.enter_context(alone(self._group))
        # Who has come to wait now has as much time left.
        self._over = self._group.clock() + self._group.settings.deadline / 2
        return self

    def __exit__(self, *_: object) -> None:
        self._inside.close()

    def taken(self) -> int:
        """How often others were let in so far."""
        return self._taken

    def look(self) -> bool:
        """Sees who did not wait: whether there was somebody."""
        return self.here.look()

    def goes_on(self, at: int) -> bool:
        """Whether nobody has come who did not wait, and there is time for one more step; at the end of a turn those
        that wait get in first. Raises Occupied."""
        if self.here.look():
            return False
        if not at:
            return True
        now = self._group.clock()
        if self._until is not None and now >= self._until:
            return False
        if now >= self._over and self.here.awaited():
            self._inside.close()
            self._taken += 1
            time.sleep(_PAUSE)
            self.__enter__()
        return True


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
    `until`: begin no step after this (monotonic seconds). Raises Occupied, LostMeanwhile, Unreadable, NobodyLeft, and
    what `then` raises."""

    def work(turns: _Turns) -> Outcome:
        members = [place for place in group.present() if place[0] != index]
        return resynchronise(group, [*members, (index, connection)], beside=turns, watch=watch)

    return _undisturbed(group, work, until, then)


def resync_group(
    group: GroupRuntime,
    only: int | None = None,
    dry: bool = False,
    watch: Watch = lambda done, total, step: None,
    reads: Reads = lambda count: None,
) -> Outcome:
    """Make all members that are in hold the same. `only`: index of the one that is to be changed. `dry`: plan, and do
    nothing. Raises Occupied, LostMeanwhile, Unreadable, NobodyLeft."""

    def work(turns: _Turns) -> Outcome:
        members = group.present()
        position = next((at for at, (index, _) in enumerate(members) if index == only), None)
        return resynchronise(group, members, position, dry, turns, watch, reads)

    return _undisturbed(group, work, None, lambda outcome: None)


def _undisturbed(
    group: GroupRuntime, work: Callable[[_Turns], Outcome], until: float | None, then: Callable[[Outcome], None]
) -> Outcome:
    """What `work` comes to, beside no other resync: between two turns that would take the place of this one, which
    could begin again from the start, and so the two for ever."""
    with _resyncing(group):
        return _repeated(group, work, until, then)


def _repeated(
    group: GroupRuntime, work: Callable[[_Turns], Outcome], until: float | None, then: Callable[[Outcome], None]
) -> Outcome:
    """Where somebody could not wait for it any longer, and made or changed what its last plan did not know of, once
    more: they are waited for first."""
    first: Outcome | None = None
    for times in itertools.count(1):
        with _Turns(group, until) as turns:
            outcome = work(turns)
            if first is not None:
                outcome = replace(outcome, first=first.first, done=first.done + outcome.done)
            if not turns.here.look():
                if outcome.finished:
                    then(outcome)
                if turns.here.look():
                    # Come just now, and perhaps nothing of it is on the member that serves from now on.
                    group.news.compare_soon()
                return outcome
        first = outcome
        if times == _DISTURBED or (until is not None and group.clock() >= until):
            break
        time.sleep(_PAUSE)
    return replace(outcome, finished=False)
