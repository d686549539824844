"""How many calls a lost member's failure moved elsewhere, so that one loss under 64 threads is not 64 lines of the log.

A tally, no lock and no clock: whoever shares it guards it. What is said, and when, is `pyha.runtime.news`'s.
"""


class Failovers:
    """Counts failovers by the loss that caused them: the first of a loss is told at once, the rest by their number."""

    def __init__(self) -> None:
        self._loss: dict[int, int] = {}  # member -> the latest of its losses that a call has met
        self._more: dict[int, int] = {}  # member -> calls after the first that nobody was told of

    def count(self, member: int, loss: int) -> bool:
        """One call more goes on without this member (index), which is at its `loss`-th loss. Whether it is the first of
        that loss."""
        if self._loss.get(member) != loss:
            self._loss[member] = loss
            return True
        self._more[member] = self._more.get(member, 0) + 1
        return False

    def untold(self) -> list[tuple[int, int]]:
        """(member, calls) since this was asked last, beside those that `count` called the first."""
        more, self._more = list(self._more.items()), {}
        return more
