"""A progress line on a terminal: one line that is written over and over, on stderr.

Off a terminal nothing is written: what was done is for stdout to say.
"""

import shutil
import sys
import time

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

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` steps; the last one was `what`."""
        now = time.monotonic()
        if not self._shown or now - self._last < _INTERVAL:
            return
        self._last = now
        print(f"\r{bar(done, total, what, shutil.get_terminal_size().columns - 1)}\033[K", end="", file=sys.stderr)
        sys.stderr.flush()


def bar(done: int, total: int, what: str, width: int) -> str:
    """The line, `width` characters at most."""
    full = _BAR * done // max(total, 1)
    return f"[{'#' * full}{' ' * (_BAR - full)}] {done}/{total} {what}"[:width]
