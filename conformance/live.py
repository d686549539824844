"""What `make demo-failover` shows while it runs: members, rates and events, redrawn in place in a terminal; otherwise a
line an event.

Knows terminals; what is shown comes as values.
"""

import os
import sys
from collections import deque
from dataclasses import dataclass

_EVENTS = 14
_BAR = 24
_WIDTH = 100
_COLOURS = {"CKR_OK": "32", "CKR_DEVICE_ERROR": "1;31", "CKR_TOKEN_NOT_PRESENT": "33"}


@dataclass(frozen=True, slots=True)
class Row:
    """One member. `rate`: signatures a second of late."""

    name: str
    role: str
    code: str
    state: str
    rate: float
    served: int
    losses: int


class Screen:
    """The picture, or the log where there is no terminal."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self.live and "NO_COLOR" not in os.environ
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._codes: dict[str, str] = {}
        self._drawn = 0

    def event(self, second: float, text: str, strong: bool = False) -> None:
        """Something was done, or the module or the status told of something."""
        line = f"{second:6.2f} s  {text}"
        if self.live:
            self._events.append(self._in("1", line[:_WIDTH]) if strong else line[:_WIDTH])
        else:
            print(line, flush=True)

    def members(self, second: float, rows: list[Row], summary: str) -> None:
        """How things are now."""
        for row in rows:
            before, self._codes[row.name] = self._codes.get(row.name, ""), row.code
            if before != row.code:
                self.event(second, f"status of {row.name}: {row.code}")
        if not self.live:
            return
        most = max([row.rate for row in rows] + [1.0])
        lines = [f"{'MEMBER':<8}{'ROLE':<9}{'STATUS':<23}{'STATE':<12}{'LOST':>4}{'SERVED':>9}{'A SECOND':>10}"]
        for row in rows:
            bar = "█" * round(row.rate / most * _BAR)
            code = self._in(_COLOURS.get(row.code, "0"), f"{row.code:<23}")
            numbers = f"{row.losses:>4}{row.served:>9}{row.rate:>10.0f}"
            lines.append(f"{row.name:<8}{row.role:<9}{code}{row.state:<12}{numbers} {self._in('36', bar)}")
        blank = [""] * (_EVENTS - len(self._events))
        self._draw([*lines, "", self._in("1", f"{second:5.1f} s  {summary}"), "", *self._events, *blank])

    def _draw(self, lines: list[str]) -> None:
        back = f"\033[{self._drawn}F" if self._drawn else ""
        print(back + "".join(f"{line}\033[K\n" for line in lines), end="", flush=True)
        self._drawn = len(lines)

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text
