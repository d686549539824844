"""What the parts of the benchmark found that are about members coming and going, as values. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Self

from conformance.bench.slices import Slice, Spread, ratio


@dataclass(slots=True)
class Scaling:
    """Groups of several sizes whose members take one call at a time, each of a fixed latency.

    `milliseconds`: of a call. `threads`: of the application. `slices`: operation, members to one slice a round."""

    milliseconds: int
    threads: int
    slices: dict[tuple[str, int], list[Slice | None]] = field(default_factory=dict)

    def operations(self) -> list[str]:
        """Their names, in the order in which they were measured."""
        return list(dict.fromkeys(operation for operation, _ in self.slices))

    def sizes(self) -> list[int]:
        """How many members the groups had."""
        return sorted({members for _, members in self.slices})

    def rate(self, operation: str, members: int) -> Spread | None:
        """Operations a second."""
        rates = [one.rate for one in self.slices.get((operation, members), []) if one]
        return Spread.of(rates) if rates else None

    def times(self, operation: str, members: int) -> float | None:
        """The rate as a multiple of one member's, round by round."""
        single = self.slices.get((operation, 1))
        mine = self.slices.get((operation, members))
        return ratio(mine, single) if mine and single else None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "milliseconds": self.milliseconds,
            "threads": self.threads,
            "rates": [
                {
                    "operation": operation,
                    "members": members,
                    "rates": [one and round(one.rate, 1) for one in slices],
                    "times_one_member": self.times(operation, members),
                }
                for (operation, members), slices in self.slices.items()
            ],
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """The operations of one process while a member fails and comes back, in the order of their ends.

    `moments`: (when it began, how long it took), both in seconds, 0 is when the member failed. `repaired`: seconds
    until it could be reached again. `failures`: operations that did not succeed. `back`: it served again in the end."""

    moments: Sequence[tuple[float, float]]
    repaired: float
    failures: int
    back: bool

    @classmethod
    def parse(cls, text: str, failed: float, repaired: float, failures: int, back: bool) -> Self:
        """From the driver's lines of nanoseconds. `failed`, `repaired`: seconds of the same clock. Raises
        ValueError."""
        lines = (line.split() for line in text.splitlines())
        moments = [(int(start) / 1e9 - failed, int(taken) / 1e9) for start, taken in lines]
        return cls(moments, repaired - failed, failures, back)

    def longest_before(self) -> float:
        """Milliseconds of the longest operation that ended before the member failed."""
        return self._longest(float("-inf"), 0.0)

    def longest_at_loss(self) -> float:
        """Milliseconds of the longest operation that was under way, or begun, while the member was gone."""
        return self._longest(0.0, self.repaired)

    def longest_at_return(self) -> float:
        """Milliseconds of the longest operation that ended after the member could be reached again."""
        return self._longest(self.repaired, float("inf"))

    def _longest(self, since: float, until: float) -> float:
        """Of those that ended in this time."""
        ended = (taken for start, taken in self.moments if since < start + taken <= until)
        return 1000 * max(ended, default=0.0)


@dataclass(slots=True)
class Pause:
    """How long an application waits when a member fails in one way. `aim`: milliseconds. One trace a round."""

    title: str
    aim: float
    traces: list[Trace] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For JSON: without the operations."""
        return {
            "failure": self.title,
            "aim_milliseconds": self.aim,
            "rounds": [
                {
                    "operations": len(trace.moments),
                    "failures": trace.failures,
                    "back": trace.back,
                    "longest_before": trace.longest_before(),
                    "longest_at_loss": trace.longest_at_loss(),
                    "longest_at_return": trace.longest_at_return(),
                }
                for trace in self.traces
            ],
        }


@dataclass(frozen=True, slots=True)
class Idle:
    """What a process costs that does nothing, for `seconds`: CPU time in milliseconds a minute, and how often a second
    it woke up; the same of all its helpers together."""

    title: str
    seconds: float
    milliseconds: float
    wakeups: float
    helper_milliseconds: float
    helper_wakeups: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that something took: by the clock, and of processors."""

    wall: float
    processor: float


@dataclass(slots=True)
class Filling:
    """So many objects onto a member that holds none, in each round: created by a plain program; copied by one that
    makes the same calls as a resync; by `pyha group sync`; and by the member's recovery in an application."""

    objects: int
    created: list[Spent] = field(default_factory=list)
    copied: list[Spent] = field(default_factory=list)
    sync: list[Spent] = field(default_factory=list)
    recovery: list[Spent] = field(default_factory=list)

    def times(self, mine: Sequence[Spent]) -> tuple[float, float]:
        """How many times as long as the same calls take, round by round: by the clock, and of processors."""
        pairs = list(zip(mine, self.copied, strict=True))
        return (
            middle([own.wall / plain.wall for own, plain in pairs]),
            middle([own.processor / plain.processor for own, plain in pairs]),
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def middle(values: Sequence[float]) -> float:
    """The median, 0 of nothing."""
    return median(values) if values else 0.0
