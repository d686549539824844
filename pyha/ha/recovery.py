"""When a lost member is tried again.

Pure: told the time, never asks for it. One rule for every mode; who applies it - a thread, the application's next call,
the operator - is `pyha.ha.group`'s. The seed's pseudo-code lost its `else`; the rule meant is: on failure count the
attempt, else clear the count and the member is back.

Source: SEMANTICS.md section 4 (recovery).
"""

from pyha.cryptoki.plain import dataclass, replace
from pyha.ha.settings import RecoverySettings

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has been tried for one member. `count`: failed attempts since it was last in. `last`: monotonic seconds of
    the latest. `total`: all attempts ever."""

    count: int = 0
    last: float = NEVER
    total: int = 0

    def failed(self, now: float) -> "Attempts":
        """One more attempt failed."""
        return replace(self, count=self.count + 1, last=now, total=self.total + 1)

    def returned(self, now: float) -> "Attempts":
        """The member is back: the count starts again. The time stays, so that a member that comes and goes is tried no
        more often than one that stays away."""
        return Attempts(0, now, self.total + 1)


UNTRIED = Attempts()


def due_at(settings: RecoverySettings, attempts: Attempts) -> float | None:
    """When the next attempt is due (monotonic seconds), None where there is none: off, or as many as allowed have
    failed."""
    if settings.attempts == 0 or (settings.attempts > 0 and attempts.count >= settings.attempts):
        return None
    return attempts.last + settings.interval
