"""When a lost member is tried again.

Pure: told the time, never asks for it. One rule for every mode; who applies it - a thread, the application's next call,
the operator - is `pyha.ha.group`'s. The seed's pseudo-code lost its `else`; the rule meant is: on failure count the
attempt, else clear the count and the member is back.

Source: SEMANTICS.md section 4 (recovery).
"""

from pyha.cryptoki.plain import dataclass, replace
from pyha.ha.settings import RecoverySettings

NEVER = float("-inf")

_DOUBLINGS = 4
"""How often the pause between two looks at a member is doubled whose objects differ in what no resync has mended."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has been tried for one member. `count`: failed attempts since it was last in. `last`: monotonic seconds of
    the latest. `total`: all attempts ever. `differed`: so many of the latest ended because objects differ, in a row."""

    count: int = 0
    last: float = NEVER
    total: int = 0
    differed: int = 0

    def failed(self, now: float, differs: bool = False) -> "Attempts":
        """One more attempt failed. `differs`: the member can be reached, and its objects cannot be made alike."""
        differed = self.differed + 1 if differs else 0
        return Attempts(self.count + 1, now, self.total + 1, differed)

    def returned(self, now: float) -> "Attempts":
        """The member is back: the count starts again. The time stays, so that a member that comes and goes is tried no
        more often than one that stays away."""
        return Attempts(0, now, self.total + 1)

    def worth_a_look(self) -> "Attempts":
        """Something else has changed: what differed may not differ any more."""
        return replace(self, differed=0) if self.differed else self


UNTRIED = Attempts()


def due_at(settings: RecoverySettings, attempts: Attempts) -> float | None:
    """When the next attempt is due (monotonic seconds), None where there is none: off, or as many as allowed have
    failed. Where objects differ time mends nothing, and a look costs a helper for each member and a reading of all that
    they hold: it is taken ever more rarely."""
    if settings.attempts == 0 or (settings.attempts > 0 and attempts.count >= settings.attempts):
        return None
    return attempts.last + settings.interval * (1 << min(max(attempts.differed - 1, 0), _DOUBLINGS))
