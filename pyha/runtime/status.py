"""What this process tells of one group: counters, and their publication now and then.

Counters are raised on the way of calls, in memory only. A file is written on news (a member comes or goes) and, where
something changed, at most once an interval: by the monitor's thread, or where there is none by the call that finds the
interval over.

Sources: SEMANTICS.md section 4; docs/status.md.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pyha.ha import status
from pyha.ha.group import Group, State
from pyha.ha.settings import RecoveryMode
from pyha.runtime import noticeboard, processes
from pyha.runtime.settings import GroupSettings

INTERVAL = 1.0
"""Seconds between two publications without news."""

NOW, NEVER = float("-inf"), float("inf")

Clock = Callable[[], float]

Elsewhere = Callable[[int], tuple[float, int, int, float]]
"""What C has counted of a member (`Express.counts`)."""


class Publisher:
    """The status of one group in this process.

    `in_flight`, `served`: calls on each member now, operations that it completed; those of the express way are
    `elsewhere`. `errors`: CK_RV -> how many calls it
    answered with that, a dict a member. `settings`: the group's, as they are now. `due`: when (on our clock) a call has
    to look after the publication.
    """

    def __init__(self, settings: GroupSettings, clock: Clock) -> None:
        count = len(settings.members)
        self.in_flight = [0] * count
        self.served = [0] * count
        self.errors: list[dict[int, int]] = [{} for _ in range(count)]
        self.failovers = 0
        self.due = NEVER
        self.elsewhere: Elsewhere = lambda index: (0.0, 0, 0, 0.0)
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._preferred = noticeboard.Preferred()
        self._name: noticeboard.Name | None = None
        self._executable = (0, 0)
        self._program = "?"
        self._last = b""
        self._since: list[tuple[State, float]] = [(State.RECOVERING, 0.0)] * count

    def completed(self) -> list[int]:
        """Operations that each member completed, C's too."""
        return [served + self.elsewhere(index)[2] for index, served in enumerate(self.served)]

    def add_member(self) -> None:
        """One more member, after the others."""
        with self._lock:
            self.in_flight.append(0)
            self.served.append(0)
            self.errors.append({})
            self._since.append((State.RECOVERING, 0.0))

    def begin(self, slot: int, preferred: noticeboard.Preferred) -> None:
        """From now on what is told is written down, for this slot."""
        with suppress(OSError):  # without /proc nobody could tell whether we live
            self._name = noticeboard.Name(processes.ourselves(), slot)
            self._preferred = preferred
            self._program = processes.program(os.getpid())
            self._executable = processes.executable(os.getpid())

    def publish(self, value: Group, mode: RecoveryMode) -> bool:
        """Write down how things are, if they are not as they were written last. Whether they were not."""
        if self._name is None or self._name.process.pid != os.getpid():
            return False  # a forked child has members of its own
        with self._lock:
            content = status.body(self._view(value, mode))
            if self._name is None or content == self._last:
                return False
            first, self._last = not self._last, content
            noticeboard.put(self._preferred, self._name, status.encode(content, time.time()), first)
            return True

    def withdraw(self) -> None:
        """C_Finalize: nothing of us is left."""
        with self._lock:
            name, self._name = self._name, None
            self.due = NEVER
            if name is not None and name.process.pid == os.getpid():
                noticeboard.take_away(self._preferred, name)

    def _view(self, value: Group, mode: RecoveryMode) -> status.View:
        settings = self.settings
        members = tuple(self._member(value, index) for index in range(len(value.members)))
        return status.View(
            os.getpid(),
            self._program,
            *self._executable,
            settings.label,
            settings.serial,
            mode,
            self.failovers,
            members,
        )

    def _member(self, value: Group, index: int) -> status.MemberView:
        member = value.members[index]
        if self._since[index][0] is not member.state or not self._since[index][1]:
            self._since[index] = member.state, time.time()
        errors = list(self.errors[index].items())
        _, in_flight, served, _ = self.elsewhere(index)
        return status.MemberView(
            name=member.name,
            serial=self.settings.members[index].uri.serial or "",
            role=member.role,
            state=member.state,
            cause=member.cause,
            reason=member.reason,
            unsynchronised=member.unsynchronised,
            generation=member.generation,
            losses=member.losses,
            attempts=member.attempts.total,
            failed_attempts=member.attempts.count,
            in_flight=self.in_flight[index] + in_flight,
            served=self.served[index] + served,
            since=self._since[index][1],
            errors=tuple(sorted(errors, key=lambda pair: -pair[1])),
        )


def count_error(counted: dict[int, int], rv: int) -> None:
    """One more call was answered with this CK_RV."""
    # A vendor's own codes are any number: a hostile module must not fill our memory.
    if rv in counted or len(counted) < 4 * status.ERRORS:
        counted[rv] = counted.get(rv, 0) + 1
    else:
        counted[status.OTHERS] = counted.get(status.OTHERS, 0) + 1
