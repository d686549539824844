"""Numbers from many short slices. Pure.

A slice is one target's share of one round. Slices of one round lie next to each other in time, so a disturbance of the
machine meets most of them alike: targets are compared within each round, and the median is taken of the comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Self


@dataclass(frozen=True, slots=True)
class Slice:
    """`operations` done in `seconds` by all threads; `typical`: microseconds that the median operation took."""

    operations: int
    seconds: float
    typical: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """From the driver's three numbers: operations, nanoseconds, nanoseconds. Raises ValueError."""
        operations, elapsed, typical = (int(word) for word in words)
        return cls(operations, elapsed / 1e9, typical / 1e3)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several values and their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """At least one value. Of one the quartiles are itself."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)

    @property
    def relative(self) -> float:
        """Distance of the quartiles as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def ratio(slices: Sequence[Slice | None], direct: Sequence[Slice | None]) -> float | None:
    """The rate as a part of the direct one's, round by round; None where no round has both."""
    pairs = [mine.rate / other.rate for mine, other in zip(slices, direct, strict=True) if mine and other]
    return median(pairs) if pairs else None


def added(slices: Sequence[Slice | None], direct: Sequence[Slice | None], calls: int) -> float | None:
    """Microseconds that each of the operation's `calls` takes more than direct, round by round, by the median
    operation; None where no round has both."""
    pairs = [
        (mine.typical - other.typical) / calls for mine, other in zip(slices, direct, strict=True) if mine and other
    ]
    return median(pairs) if pairs else None
