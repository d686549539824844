"""Ending a command: Ctrl-C, SIGTERM, and the SIGHUP of a terminal that is gone (a lost ssh connection) come as one
exception, so that what was begun is taken back; and a few steps that are not cut in two.

Knows signals, and nothing of what a command does. An application never sees this.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class Ended(KeyboardInterrupt):
    """Somebody wants the command to end. `number`: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def number(ended: KeyboardInterrupt) -> int:
    """The signal that ended the command."""
    return ended.number if isinstance(ended, Ended) else signal.SIGINT


@contextmanager
def ending() -> Iterator[None]:
    """While the block lasts each of the signals raises Ended in it."""

    def end(received: int, _: FrameType | None) -> None:
        raise Ended(received)

    with _handled(end):
        yield


@contextmanager
def unbroken() -> Iterator[Callable[[], None]]:
    """The first signal waits for the end of the block, which then raises Ended, though the block raise something else;
    the second one does not wait. For steps on a token whose half nobody would find again. What is given raises Ended
    where a signal waits: for places at which the block can end as well."""
    first: list[int] = []

    def end(received: int, _: FrameType | None) -> None:
        if first:
            raise Ended(received)
        first.append(received)
        # Not by Python's own stream, which may be in the middle of a line.
        os.write(2, b"pyha: ending after this step; once more ends it at once\n")

    def check() -> None:
        if first:
            raise Ended(first[0])

    try:
        with _handled(end):
            yield check
    finally:
        check()


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    """In the main thread alone, where Python lets handlers be set. What is ignored (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        for each, old in before.items():
            if old is not signal.SIG_IGN:
                signal.signal(each, handler)
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)
