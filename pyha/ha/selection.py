"""Which member takes the next call.

Pure. A member's load is the work that is in flight there, each call weighed with the recent mean time of its function
over the whole group, so that long operations count as long and idle members are exactly equal: ties go round. A member
that has just returned is the least busy of all: it is a candidate for a growing part of the choices only (slow start).

Source: SEMANTICS.md section 3 ("least busy").
"""

from collections.abc import Mapping, Sequence

MEAN_WEIGHT = 0.125
"""Weight of the newest duration in a function's running mean."""

WARM_UP = 10.0
"""Seconds after its return in which a member comes to its full part of the choices."""

FIRST_PART = 0.05
"""The part that it begins with: enough to show soon whether it works."""

_STEP = 0.6180339887498949
"""The golden ratio: the fractions of its multiples are spread evenly, however few of them there are."""


def warmed(candidates: Sequence[int], returned: Mapping[int, float], now: float, turn: int) -> Sequence[int]:
    """The candidates (member indices, at least one given) that the choice number `turn` at `now` is between.

    `returned`: when members came back (monotonic seconds); who is not there was never away. The one that has been back
    longest is always a candidate: slow start is relief by others, and nobody waits for it.
    """
    parts = [part_of(now - returned[index]) if index in returned else 1.0 for index in candidates]
    most = max(parts)
    at = turn * _STEP % 1.0
    return [index for index, part in zip(candidates, parts, strict=True) if at < part / most]


def part_of(seconds: float) -> float:
    """The part of the choices that a member is a candidate for, so many seconds after its return."""
    return min(1.0, max(FIRST_PART, seconds / WARM_UP))


def least_busy(candidates: Sequence[int], loads: Sequence[float], turn: int) -> int:
    """The candidate (member index, at least one given) with the least load (seconds of expected work in flight).

    `turn` counts choices: among equals the choice goes round with it.
    """
    count = len(candidates)
    best = candidates[turn % count]
    if not loads[best]:
        return best
    for step in range(1, count):
        other = candidates[(turn + step) % count]
        if loads[other] < loads[best]:
            best = other
    return best


def mean_after(mean: float | None, seconds: float) -> float:
    """The running mean of a function's duration after one more call of `seconds`."""
    return seconds if mean is None else mean + (seconds - mean) * MEAN_WEIGHT
