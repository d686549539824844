"""Which member takes the next call.

Pure. A member's load is the work that is in flight there, each call weighed with the recent mean time of its function
over the whole group, so that long operations count as long and idle members are exactly equal: ties go round.

Source: SEMANTICS.md section 3 ("least busy").
"""

from collections.abc import Sequence

MEAN_WEIGHT = 0.125
"""Weight of the newest duration in a function's running mean."""


def least_busy(candidates: Sequence[int], loads: Sequence[float], turn: int) -> int:
    """The candidate (member index, at least one given) with the least load (seconds of expected work in flight).

    `turn` counts choices: among equals the choice goes round with it.
    """
    count = len(candidates)
    best = candidates[turn % count]
    for step in range(1, count):
        other = candidates[(turn + step) % count]
        if loads[other] < loads[best]:
            best = other
    return best


def mean_after(mean: float | None, seconds: float) -> float:
    """The running mean of a function's duration after one more call of `seconds`."""
    return seconds if mean is None else mean + (seconds - mean) * MEAN_WEIGHT
