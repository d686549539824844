"""The journal of an open operation: what has to be said again to another member to bring it to the same point.

Pure bookkeeping over values; holds copies of the application's data, up to a limit, in bytearrays that `wipe` clears.

Source: SEMANTICS.md section 3 (multi-part crypto).
"""

from hashlib import sha256
from typing import Any

from pyha.cryptoki.functions import Function
from pyha.cryptoki.plain import dataclass, field


@dataclass(slots=True)
class Entry:
    """One call that succeeded: its function, its own copy of the argument values, and the length (bytes) and SHA-256
    of what it put out, None where it put out nothing."""

    function: Function
    values: list[Any]
    output: tuple[int, bytes] | None


@dataclass(slots=True)
class Journal:
    """The calls of one operation since and including its start. `limit`: bytes of data that are kept at most."""

    limit: int
    entries: list[Entry] = field(default_factory=list)
    kept: int = 0
    overflown: bool = False

    def replayable(self) -> bool:
        """Whether the operation can be brought to another member."""
        return not self.overflown

    def add(self, function: Function, values: list[Any], size: int, output: tuple[int, bytes] | None = None) -> None:
        """Append a call whose own copy of the data takes `size` bytes; past the limit the journal gives up."""
        if self.overflown:
            return
        self.kept += size
        if self.kept > self.limit:
            self.give_up()
            return
        self.entries.append(Entry(function, values, output))

    def give_up(self) -> None:
        """The operation can no longer move (too long, or authenticated on its member)."""
        self.wipe()
        self.overflown = True

    def wipe(self) -> None:
        """Clear and forget all kept data."""
        for entry in self.entries if self.kept else ():
            for value in entry.values:
                if isinstance(value, bytearray):
                    value[:] = bytes(len(value))
        self.entries.clear()


def fingerprint(output: Any) -> tuple[int, bytes]:
    """Length and SHA-256 of an output (Buffer)."""
    return len(output), sha256(output).digest()
