"""What a group says of itself: lines of the log, the status that it publishes, what the monitor should look at.

Knows members by their index and name, and is told what happened to them; calls none, and decides nothing about them.
Its own lock guards its counts, and is never held together with the group's.

Sources: SEMANTICS.md section 4; docs/status.md.
"""

import threading
from collections.abc import Callable

from pyha.ha.group import Group
from pyha.ha.recovery import UNTRIED, due_at
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import log
from pyha.runtime.failovers import Failovers
from pyha.runtime.settings import GroupSettings
from pyha.runtime.status import INTERVAL, NOW, Clock, Publisher, count_error

Look = Callable[[], tuple[Group, RecoveryMode]]
"""How the group is now, and how its members recover."""


class News:
    """The news of one group. `settings`: the group's, as they are now. `on_news`: wakes the monitor. `watched`: there
    is one, and it looks after the status. `suspect`: the members may hold different objects, the monitor compares
    them."""

    def __init__(self, settings: GroupSettings, clock: Clock, look: Look) -> None:
        self.settings = settings
        self.status = Publisher(settings, clock)
        self.on_news: Callable[[], None] = lambda: None
        self.watched = False
        self.suspect = False
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._promoted = False
        self._deserted = False
        self._audited: dict[int, set[int]] = {}  # members, and the virtual handles of what was missing there
        self._unreadable: set[int] = set()  # members of which it was said that objects cannot be read
        self._nonsense: set[int] = set()  # members whose answers were not to be believed
        self._failovers = Failovers()
        self._comparisons = UNTRIED

    # -- the log ------------------------------------------------------------------------------------------------

    def say(self, level: log.Level, index: int, what: str) -> None:
        """A line about one member."""
        self._say(level, f"member {self._name(index)} {what}")

    def _say(self, level: log.Level, what: str) -> None:
        log.log(level, f'group "{self.settings.label}": {what}')

    def _name(self, index: int) -> str:
        return self.settings.members[index].name

    def audit(self, index: int, what: str, handle: int = 0) -> None:
        """Something is missing on a member, the object of this virtual handle if it is one: said once for each member;
        resync puts it right, not we. Where a comparison finds nothing amiss, because the member's module overlooks what
        its token has, the mark stays, and the same object is no reason for another comparison."""
        with self._lock:
            marks = self._audited.setdefault(index, set())
            first, known = not marks, handle in marks
            marks.add(handle)
        if first:
            self.say("warning", index, f"needs a resync: {what}")
        if not known:
            self.compare_soon()

    def compare_soon(self) -> None:
        """There is reason to compare the members, or nobody has yet; the monitor does, where there is one."""
        self._comparisons = UNTRIED
        self.suspect = True
        self.on_news()

    def comparison_due(self, recovery: RecoverySettings) -> float | None:
        """When the members are to be compared (our clock): at once, or where that has failed by the rule of lost
        members, ever more rarely. None: there is no reason to, or no attempt left."""
        if not self.suspect:
            return None
        return due_at(recovery, self._comparisons) if self._comparisons.count else self._comparisons.last

    def comparing(self) -> None:
        """They are compared now, whatever comes of it; what is seen from now on is another reason."""
        self.suspect = False

    def compared(self) -> None:
        """They have been."""
        self._comparisons = UNTRIED

    def comparison_failed(self) -> None:
        """They could not be, or not to the end."""
        self._comparisons = self._comparisons.failed(self._clock(), differs=True)
        self.suspect = True

    def forget_audits(self) -> None:
        """The members have been made to hold the same: what is missing next is said again."""
        self._audited.clear()

    def unreadable(self, index: int) -> None:
        """A member shows an object whose attributes it does not tell, and which therefore nobody sees: said once for
        each."""
        if index not in self._unreadable:
            self._unreadable.add(index)
            self.say("warning", index, "has objects that cannot be read; they are left out of searches")

    def nonsense(self, index: int, call: str) -> None:
        """A member's answer cannot be: said once for each."""
        if index not in self._nonsense:
            self._nonsense.add(index)
            self.say(
                "warning", index, f"answered {call} with what cannot be: more than there was room for, or a handle of 0"
            )

    def returned(self, index: int) -> None:
        """A member is back: what is missing there, or cannot be read, is said again."""
        self._audited.pop(index, None)
        for told in (self._unreadable, self._nonsense):
            told.discard(index)

    # -- counts -------------------------------------------------------------------------------------------------

    def count_error(self, index: int, rv: int) -> None:
        """The member answered a call with this CK_RV, which is not CKR_OK."""
        with self._lock:
            count_error(self.status.errors[index], rv)

    def count_failover(self, call: str, lost: int, why: str, seconds: float, to: int | None) -> None:
        """A call goes on though member `lost` failed under it after `seconds`: on member `to`, or (None) on all that
        are left. `why`: the reason of the loss, as the call met it. Of a loss the first call is logged, the rest with
        the next status by their number."""
        losses = self._look()[0].members[lost].losses
        with self._lock:
            self.status.failovers += 1
            first = self._failovers.count(lost, losses)
        if first:
            where = f"to member {self._name(to)}" if to is not None else "on with the members that are left"
            when = f"{seconds:.3f} s after it was given to member {self._name(lost)}"
            self._say("warning", f"failover: {call} went {where}, {when}: {why}")

    def _tell_failovers(self) -> None:
        with self._lock:
            more = self._failovers.untold()
        for index, count in more:
            calls = "call was" if count == 1 else "calls were"
            self._say("warning", f"{count} more {calls} moved away from member {self._name(index)}")

    # -- status -------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """A member came or went: it is published, and the monitor may have something to do."""
        with self._lock:
            value, _ = self._look()
            before, self._promoted = self._promoted, value.promoted()
            promoted = self._promoted
            known, self._deserted = self._deserted, value.deserted()
            deserted = self._deserted
        if deserted and not known:
            self._say("error", "no member is left: calls that need one are refused until one is back")
        if promoted and not before:
            self._say("warning", "no active member is left, standby members serve")
        elif before and not promoted and value.serving():
            self._say("warning", "an active member is back, standby members stand by")
        self._publish()
        self.on_news()

    def refresh(self) -> bool:
        """The monitor's look: publish what has changed. False: nothing did, and the next call will say so."""
        if self._publish():
            self.status.due = self._clock() + 3 * INTERVAL
            return True
        self.status.due = NOW
        # Once more: what came between found nobody to tell.
        return self._publish()

    def due(self, now: float) -> None:
        """A call has found the status due at `now` (our clock)."""
        if self.watched and self.status.due == NOW:
            # It wakes up the monitor once; one that is held up elsewhere is not waited for.
            self.status.due = now + 3 * INTERVAL
            self.on_news()
        else:
            self.status.due = now + INTERVAL
            self._publish()

    def end(self) -> None:
        """C_Finalize: the status is withdrawn, and what every member served is said."""
        self.status.withdraw()
        self._tell_failovers()
        served = self.status.completed()
        if any(served):
            counts = " ".join(f"{self._name(index)}={number}" for index, number in enumerate(served))
            self._say("notice", f"served {counts}")

    def _publish(self) -> bool:
        self._tell_failovers()
        value, mode = self._look()
        return self.status.publish(value, mode)
