"""Reaching a group's members from a command, and logging in so that a wrong PIN costs one try on one token.

Source: SEMANTICS.md section 2 (login).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pyha.cli import memory, pin
from pyha.runtime import founding
from pyha.runtime.assembly import codecs_for, connector
from pyha.runtime.domain_keys import Candidate, NotServable
from pyha.runtime.founding import PinRefused
from pyha.runtime.settings import GroupSettings


@contextmanager
def candidate_of(group: GroupSettings, index: int) -> Iterator[Candidate]:
    """A connection of the command's own to one member, not connected yet, closed at the end."""
    candidate = Candidate(connector(group, codecs_for((group,)))(index, 1), group.deadline)
    try:
        yield candidate
    finally:
        candidate.connection.finish(candidate.deadline())


class SharedPin:
    """The PIN of a command's `--pin-source`: read when it is needed first, wiped at the end, and not tried again once a
    token has refused it. Members with a PIN source of their own do not use it."""

    def __init__(self, source: str, question: str) -> None:
        self._source = source
        self._question = question
        self._pin: bytearray | None = None
        self._refused_by: str | None = None

    def __enter__(self) -> "SharedPin":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pin is not None:
            memory.wipe(self._pin)

    def enter(self, candidate: Candidate, own_source: str | None) -> None:
        """Connect a member and log in as user. Raises NotServable, PinRefused, and Mistake where a PIN cannot be
        had."""
        if own_source is not None:
            own = pin.read(own_source, f"User PIN of {candidate.name}: ")
            try:
                founding.enter(candidate, own)
            finally:
                memory.wipe(own)
            return
        if self._refused_by is not None:
            raise NotServable(f"{candidate.name}: the PIN was not tried, because {self._refused_by} did not take it")
        if self._pin is None:
            self._pin = pin.read(self._source, self._question)
        try:
            founding.enter(candidate, self._pin)
        except PinRefused:
            self._refused_by = candidate.name
            raise
