"""A shared/exclusive gate whose waiting ends at a deadline.

Not a lock over vendor calls that could wait for ever: who waits gives up in time, and who is inside a hung call is
ended with its member.
"""

import threading
from collections.abc import Callable


class GateTimeout(Exception):
    """The gate did not open before the deadline."""


class Gate:
    """Many may be inside together, or one alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0
        self._waiting = 0

    @property
    def awaited(self) -> bool:
        """Whether somebody waits to go in."""
        return self._waiting > 0

    def enter(self, deadline: float, alone: bool, clock: Callable[[], float]) -> None:
        """Go in; `deadline` is on `clock` (seconds). Raises GateTimeout. Somebody who waits to be alone goes first."""
        with self._condition:
            self._waiting_alone += alone
            self._waiting += 1
            try:
                while self._alone or (self._inside if alone else self._waiting_alone):
                    left = deadline - clock()
                    if left <= 0 or not self._condition.wait(left):
                        raise GateTimeout
            finally:
                self._waiting_alone -= alone
                self._waiting -= 1
                if alone:
                    self._condition.notify_all()
            self._inside += 1
            self._alone = alone

    def leave(self) -> None:
        """Come out again."""
        with self._condition:
            self._inside -= 1
            self._alone = False
            self._condition.notify_all()
