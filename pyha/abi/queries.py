"""The form of C_GetAttributeValue's template: queries in, what was found out.

Knows C memory; knows no member and no session. The member's array is copied once, its lengths are checked against the
room that was given and its pointers are never followed: where a value lies is known from the queries alone.

Source: PKCS #11 Base Specification 2.40, section 5.7 (C_GetAttributeValue).
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar

from pyha.abi.form import Form
from pyha.abi.memory import (
    LENGTH_LIMIT,
    OUT_LIMIT,
    UNAVAILABLE,
    WORD,
    Malformed,
    aligned,
    pointer_to,
)
from pyha.abi.native import ffi
from pyha.abi.templates import ARRAY, ENTRY, Budget, array_count, entries_of, is_array
from pyha.cryptoki.attributes import is_secret
from pyha.cryptoki.constants import (
    CKR_ARGUMENTS_BAD,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_BUFFER_TOO_SMALL,
    CKR_OK,
)
from pyha.cryptoki.values import Found, Query

ANSWERED = frozenset((CKR_OK, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL))
"""The CK_RVs after which the lengths, and the values that there are, have been filled in."""

_LENGTH, _ENTRY = 2 * WORD.size, ENTRY.size
_BASES = 64
_memmove = ffi.memmove
_entries, _set_entry, _set_word = ENTRY.iter_unpack, ENTRY.pack_into, WORD.pack_into
Queries = tuple[Query, ...]


class Laid(tuple[Query, ...]):
    """Queries that are put to thousands of objects, each with room, and none of them for an array: how they lie in an
    arena is worked out once."""

    def __init__(self, queries: Queries) -> None:
        self.span = at = aligned(len(queries) * _ENTRY)
        places = []
        for query in queries:
            assert query.capacity is not None
            assert not is_array(query.type)
            places.append((query.type, query.capacity, at))
            at += _area(query)
        self.span = at
        self._places = tuple(places)
        self._lengths = Struct("@" + f"{_LENGTH}xQ" * len(places)).unpack
        self._written: dict[int, bytes] = {}

    def entries(self, base: int) -> bytes:
        """The array of CK_ATTRIBUTE, for room that begins at this address of the callee's."""
        found = self._written.get(base)
        if found is None:
            if len(self._written) >= _BASES:
                self._written.clear()
            found = b"".join(ENTRY.pack(kind, base + at, capacity) for kind, capacity, at in self._places)
            self._written[base] = found
        return found

    def read(self, memory: Any, offset: int, complete: bool, label: str) -> tuple[Found, ...]:
        """What was answered (`_read`)."""
        lengths = self._lengths(memory[offset : offset + len(self) * _ENTRY])
        found = []
        for (kind, capacity, at), length in zip(self._places, lengths, strict=True):
            if length <= capacity:
                at += offset
                found.append(Found(kind, length, memory[at : at + length]))
            elif complete and length != UNAVAILABLE:
                raise Malformed(f"{label}: {length} bytes reported for {capacity} of attribute {kind:#x}.")
            else:
                found.append(Found(kind, length if length < LENGTH_LIMIT else None))
        return tuple(found)


class QueryForm(Form):
    """Pointer and count: a tuple of Query; the result is a tuple of Found, one each."""

    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> Queries:
        pointer, count = fields[self.at], fields[self.at + 1]
        budget = Budget(LENGTH_LIMIT)
        budget.take(count, 0)
        return _queries(entries_of(pointer, count), budget, 1)

    def span(self, value: Queries) -> int:
        return value.span if type(value) is Laid else _span(value)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Queries) -> int:
        words[self.at] = there + offset
        words[self.at + 1] = len(value)
        if type(value) is Laid:
            entries = value.entries(there + offset)
            memory[offset : offset + len(entries)] = entries
            return offset + value.span
        return _write(memory, there, offset, value)

    def read(self, memory: Any, here: Any, offset: int, value: Queries, rv: int) -> tuple[Found, ...] | None:
        if rv not in ANSWERED:
            return None
        if type(value) is Laid:
            return value.read(memory, offset, rv == CKR_OK, self.label)
        types = [query.type for query in value]
        return _read(memory, offset, value, types, rv == CKR_OK, self.label)

    def encode(self, struct: Any, value: Queries, result: tuple[Found, ...] | None, rv: int) -> int:
        """The values may have been changed since `read`: one that no longer fits answers CKR_BUFFER_TOO_SMALL."""
        if result is None or rv not in ANSWERED:
            return rv
        return rv if _encode(self.fields[0](struct), value, result) else CKR_BUFFER_TOO_SMALL


def _queries(entries: bytes, budget: Budget, depth: int) -> Queries:
    queries = []
    size = 0
    for kind, address, length in _entries(entries):
        if not address:
            queries.append(Query(kind, None))
            continue
        memory = pointer_to(address)
        nested = None
        if kind & ARRAY and is_array(kind):
            count = array_count(length, depth, CKR_ARGUMENTS_BAD)
            budget.take(count, 0)
            nested = _queries(entries_of(memory, count), budget, depth + 1)
        elif length > OUT_LIMIT:
            length = OUT_LIMIT
        size += length
        queries.append(Query(kind, length, nested, memory))
    budget.take(0, size)
    return tuple(queries)


def _area(query: Query) -> int:
    return ((query.capacity or 0) + 15) & -16


def _span(queries: Queries) -> int:
    total = (len(queries) * _ENTRY + 15) & -16
    for query in queries:
        if query.nested is not None:
            total += _span(query.nested)
        elif query.capacity:
            total += (query.capacity + 15) & -16
    return total


def _write(memory: Any, there: int, offset: int, queries: Queries) -> int:
    at = offset + ((len(queries) * _ENTRY + 15) & -16)
    for query in queries:
        capacity = query.capacity
        if capacity is None:
            _set_entry(memory, offset, query.type, 0, 0)
        elif query.nested is None:
            _set_entry(memory, offset, query.type, there + at, capacity)
            at += (capacity + 15) & -16
        else:
            _set_entry(memory, offset, query.type, there + at, len(query.nested) * _ENTRY)
            at = _write(memory, there, at, query.nested)
        offset += _ENTRY
    return at


def _read(
    memory: Any, offset: int, queries: Queries, types: Sequence[int], complete: bool, label: str
) -> tuple[Found, ...]:
    """`types`: the attributes' types; in a nested array the member says what they are. `complete`: the member
    claims that every value is there, so that a length beyond its room is nonsense."""
    at = offset + aligned(len(queries) * _ENTRY)
    found = []
    answers = _entries(memory[offset : offset + len(queries) * _ENTRY])
    for query, kind, (_, _, length) in zip(queries, types, answers, strict=False):
        capacity, nested = query.capacity, query.nested
        value: Any = None
        if capacity is not None and length <= capacity and nested is None and not kind & ARRAY:
            # Nearly every attribute: there, and neither too long nor an array.
            found.append(Found(kind, length, _value(memory, at, length, query, kind)))
            at += (capacity + 15) & -16
            continue
        if length >= LENGTH_LIMIT:
            if length != UNAVAILABLE and complete:
                raise Malformed(f"{label}: attribute {kind:#x} is said to have {length} bytes.")
            length = None
        elif capacity is None:
            pass
        elif length > capacity:
            if complete:
                raise Malformed(f"{label}: {length} bytes reported for {capacity} of attribute {kind:#x}.")
        elif (nested is not None) != is_array(kind):
            # An inner type that the application did not foresee: what is there was not laid out for it.
            length = None
        elif nested is not None:
            inner = [entry[0] for entry in _entries(memory[at : at + length // _ENTRY * _ENTRY])]
            value = _read(memory, at, nested, inner, complete, label)
        else:
            value = _value(memory, at, length, query, kind)
        at += _area(query) if nested is None else _span(nested)
        found.append(Found(kind, length, value))
    return tuple(found)


def _value(memory: Any, at: int, length: int, query: Query, kind: int) -> Any:
    """The bytes of a value. One that may be a key's goes to the application at once, and is None: what Python made of
    it would stay in its free memory."""
    if query.memory is None or not is_secret(kind):
        return memory[at : at + length]
    _memmove(query.memory, ffi.from_buffer("uint8_t[]", memory) + at, length)
    return None


def _encode(pointer: Any, queries: Queries, found: Sequence[Found]) -> bool:
    """Fills the application's array at `pointer`. False where a value does not fit."""
    fits = True
    lengths = ffi.buffer(pointer, len(queries) * _ENTRY)
    at = _LENGTH - _ENTRY
    for query, answer in zip(queries, found, strict=True):
        value, capacity, length = answer.value, query.capacity, answer.length
        at += _ENTRY
        if length is None:
            length = UNAVAILABLE
        elif type(value) is tuple:
            length = len(value) * _ENTRY
            if query.nested is not None:
                if len(value) > len(query.nested):
                    fits, length = False, UNAVAILABLE
                else:
                    fits &= _encode_nested(query, value)
        elif value is not None:
            length = len(value)
            if capacity is not None:
                if length > capacity:
                    fits, length = False, UNAVAILABLE
                else:
                    _memmove(query.memory, value, length)
        _set_word(lengths, at, length)
    return fits


def _encode_nested(query: Query, found: tuple[Found, ...]) -> bool:
    entries = ffi.buffer(query.memory, len(found) * _ENTRY)
    for index, answer in enumerate(found):
        _set_word(entries, index * _ENTRY, answer.type)
    return _encode(query.memory, query.nested[: len(found)] if query.nested else (), found)
