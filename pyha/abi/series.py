"""The same query put to many objects in one hand-over: C_GetAttributeValue as a series of calls (shim/protocol.h).

Knows C memory; knows no member and no session. It reads what is as usual and nothing else: an object whose answer is
anything that needs a second look is left to the codec, one by one. A length is read once, checked against its room, and
only the checked copy is used; a pointer of the member's is never followed.

In the arena: the turns, then the arrays of CK_ATTRIBUTE of all objects, then the rooms for their values.

Source: PKCS #11 Base Specification 2.40, section 5.7 (C_GetAttributeValue).
"""

from array import array
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from pyha.abi.link import TURN
from pyha.abi.memory import UNAVAILABLE, WORD, aligned
from pyha.abi.queries import ANSWERED
from pyha.abi.templates import ENTRY
from pyha.cryptoki.constants import CKR_BUFFER_TOO_SMALL
from pyha.cryptoki.functions import BY_NAME
from pyha.cryptoki.kinds import KINDS
from pyha.cryptoki.values import Query

FUNCTION = BY_NAME["C_GetAttributeValue"]

_SIZE = (1 << 20) - 256
"""Bytes of arena, without its head: a part of it is one hand-over less for the other objects."""
_MOST = 256
"""Objects of one hand-over."""
_KEPT = 256
"""Different answers of which the layout is kept."""
_BLOCKS = 4
"""Arenas with so many objects each, of which it is kept what is written there."""
_STEP = TURN // WORD.size
_SESSION, _OBJECT, _QUERY = (
    sum(len(KINDS[each.kind].c) for each in FUNCTION.arguments[:position]) for position in range(3)
)
_RV = _STEP - 1
_SHOWN = ANSWERED - {CKR_BUFFER_TOO_SMALL}

Values = dict[int, bytes] | None
"""What one object shows, by type; None where that has to be asked of it alone."""

_Layout = tuple[tuple[int, ...], Callable[[Any, int], tuple[bytes, ...]]] | None


class Series:
    """One query for any number of objects: attributes with room, and (a capacity of None) arrays that are taken to be
    empty. Any number of threads may use it at once. `function`: C_GetAttributeValue."""

    function = FUNCTION

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = tuple(queries)
        self._entries = len(queries) * ENTRY.size
        self._lengths = Struct("@" + "16xQ" * len(queries))
        self._row = b"".join(ENTRY.pack(each.type, 0, each.capacity or 0) for each in queries)
        places = []
        at = 0
        for each in queries:
            places.append(at)
            at += aligned(each.capacity or 0)
        self._places, self._room = tuple(places), at
        self.most = max(1, min(_MOST, (_SIZE - 2 * WORD.size) // (TURN + self._entries + self._room)))
        """Objects of one hand-over, at most."""
        self._written: dict[tuple[int, int], bytes] = {}
        self._layouts: dict[tuple[int, ...], _Layout] = {}

    def _values_at(self, count: int) -> int:
        return aligned(count * (TURN + self._entries))

    def size(self, count: int) -> int:
        """Bytes of arena that so many objects take."""
        return self._values_at(count) + count * self._room

    def write(self, arena: Any, session: int, objects: Sequence[int]) -> int:
        """Lays the calls out (`arena`: as `codec.Memory` has it). `session`, `objects`: the member's own handles.
        Returns the bytes used."""
        count = len(objects)
        key = (arena.there, count)
        # Of few members, so many objects at a time, one series after the other.
        block = self._written.get(key)
        if block is None:
            if len(self._written) >= _BLOCKS:
                self._written.clear()
            block = self._written[key] = self._block(*key)
        arena.buffer[: len(block)] = block
        turns = memoryview(arena.buffer)[: count * TURN].cast("Q")
        turns[_SESSION::_STEP] = _words([session]) * count
        turns[_OBJECT::_STEP] = _words(objects)
        return self.size(count)

    def _block(self, there: int, count: int) -> bytes:
        """Turns and arrays, but for the session and the objects."""
        entries, values = there + count * TURN, there + self._values_at(count)
        block = bytearray(count * TURN) + self._row * count
        words = memoryview(block).cast("Q")
        turns, rest = words[: count * _STEP], words[count * _STEP :]
        turns[_QUERY::_STEP] = _words(range(entries, entries + count * self._entries, self._entries))
        turns[_QUERY + 1 :: _STEP] = _words([len(self._queries)]) * count
        for position, (query, at) in enumerate(zip(self._queries, self._places, strict=True)):
            if query.capacity is not None:
                first = values + at
                addresses = range(first, first + count * self._room, self._room) if self._room else [first] * count
                rest[3 * position + 1 :: 3 * len(self._queries)] = _words(addresses)
        return bytes(block)

    def read(self, arena: Any, count: int, made: int) -> list[Values]:
        """What the first `made` of `count` objects show."""
        memory = arena.buffer
        at = count * TURN
        results = memoryview(memory)[:at].cast("Q")[_RV::_STEP].tolist()
        answers = self._lengths.iter_unpack(memory[at : at + made * self._entries])
        at = self._values_at(count)
        layouts = self._layouts
        found: list[Values] = []
        for rv, lengths in zip(results, answers, strict=False):
            try:
                layout = layouts[lengths]
            except KeyError:
                layout = self._layout(lengths)
            if layout is None or rv not in _SHOWN:
                found.append(None)
            else:
                kinds, unpack = layout
                found.append(dict(zip(kinds, unpack(memory, at), strict=True)))
            at += self._room
        return found

    def _layout(self, lengths: tuple[int, ...]) -> _Layout:
        """Where the values are in an object's room, for these lengths; None where one is not as usual."""
        layout = self._find(lengths)
        if len(self._layouts) >= _KEPT:
            self._layouts.clear()
        self._layouts[lengths] = layout
        return layout

    def _find(self, lengths: tuple[int, ...]) -> _Layout:
        kinds = []
        form = "@"
        end = 0
        for query, at, length in zip(self._queries, self._places, lengths, strict=True):
            if length == UNAVAILABLE:
                continue
            if length > (query.capacity or 0):
                return None
            kinds.append(query.type)
            form += f"{at - end}x{length}s"
            end = at + length
        return tuple(kinds), Struct(form).unpack_from


def _words(numbers: Any) -> "array[int]":
    return array("Q", numbers)
