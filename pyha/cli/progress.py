"""A progress line on a terminal: one line that is written over and over, on stderr.

Off a terminal nothing is written: what was done is for stdout to say.
"""

import shutil
import sys
import time
from collections.abc import Callable

_BAR = 24
_INTERVAL = 0.1
"""Seconds between two looks of it; a terminal is slower than a resync."""


class Progress:
    """How far it is. Use as a context; the line is gone at the end."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int, what: Callable[[], str]) -> None:
        """`done` of `total` steps; the last one was `what()`."""
        if self._is_time():
            self._show(bar(done, total, what(), _width()))

    def reads(self, count: int) -> None:
        """So many objects of all members were read."""
        if self._is_time():
            self._show(f"reading members ... {count:,} objects"[: _width()])

    def _is_time(self) -> bool:
        now = time.monotonic()
        if not self._shown or now - self._last < _INTERVAL:
            return False
        self._last = now
        return True

    def _show(self, text: str) -> None:
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _width() -> int:
    return shutil.get_terminal_size().columns - 1


def bar(done: int, total: int, what: str, width: int) -> str:
    """The line, `width` characters at most."""
    full = _BAR * done // max(total, 1)
    return f"[{'#' * full}{' ' * (_BAR - full)}] {done}/{total} {what}"[:width]
