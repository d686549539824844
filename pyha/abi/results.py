"""The forms of numbers that a call returns: one handle or size, the objects found, the lists of slots and mechanisms.

Knows C memory; knows no function, member or session. Source: PKCS #11 Base Specification 2.40, sections 5.2 to 5.7.
"""

from struct import pack_into, unpack_from
from typing import Any, ClassVar

from pyha.abi.form import Form
from pyha.abi.memory import COUNT_LIMIT, WORD, Malformed, aligned
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKR_BUFFER_TOO_SMALL, CKR_OK

_word_at, _set_word = WORD.unpack_from, WORD.pack_into


class OutNumber(Form):
    """A pointer to one CK_ULONG: int on CKR_OK."""

    room: ClassVar[int] = 16
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> None:
        return None

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        _set_word(memory, self.head, 0)
        words[self.at] = there + self.head
        return offset

    def read(self, memory: Any, here: Any, offset: int, value: Any, rv: int) -> int | None:
        return _word_at(memory, self.head)[0] if rv == CKR_OK else None

    def encode(self, struct: Any, value: Any, result: int | None, rv: int) -> int:
        if rv == CKR_OK and result is not None:
            self.fields[0](struct)[0] = result
        return rv


class OutHandle(OutNumber):
    """A new handle. A member that reports success and no handle has answered nonsense."""

    def read(self, memory: Any, here: Any, offset: int, value: Any, rv: int) -> int | None:
        handle = super().read(memory, here, offset, value, rv)
        if handle == 0:
            raise Malformed(f"{self.label}: success without a handle.")
        return handle


class OutObjects(Form):
    """Room for so many object handles and a pointer to their count: a tuple of handles on CKR_OK.

    More room than COUNT_LIMIT is believed to be that: a search may always return fewer objects than there are.
    """

    room: ClassVar[int] = 16
    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> int:
        room: int = fields[self.at + 1]
        return min(room, COUNT_LIMIT)

    def span(self, value: int) -> int:
        return aligned(value * WORD.size)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: int) -> int:
        at = self.at
        _set_word(memory, self.head, 0)
        words[at], words[at + 1], words[at + 2] = there + offset, value, there + self.head
        return offset + aligned(value * WORD.size)

    def read(self, memory: Any, here: Any, offset: int, value: int, rv: int) -> tuple[int, ...] | None:
        if rv != CKR_OK:
            return None
        (count,) = _word_at(memory, self.head)
        if count > value:
            raise Malformed(f"{self.label}: {count} objects reported, {value} asked for.")
        handles: tuple[int, ...] = unpack_from(f"@{count}Q", memory, offset)
        if 0 in handles:
            raise Malformed(f"{self.label}: an object without a handle.")
        return handles

    def encode(self, struct: Any, value: int, result: tuple[int, ...] | None, rv: int) -> int:
        if rv == CKR_OK and result is not None:
            # No more than `value` were asked for, so a longer tuple is our own mistake and must not reach the caller.
            pack_into(f"@{len(result)}Q", ffi.buffer(self.fields[0](struct), value * WORD.size), 0, *result)
            self.fields[2](struct)[0] = len(result)
        return rv


class OutList(Form):
    """An array of CK_ULONG with a pointer to its count: (count, tuple), the tuple None where only the count is there.

    `encode` carries out the protocol: given the whole list it answers a count, the entries or CKR_BUFFER_TOO_SMALL.
    """

    room: ClassVar[int] = 16
    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> int | None:
        return min(fields[self.at + 1][0], COUNT_LIMIT) if fields[self.at] else None

    def span(self, value: int | None) -> int:
        return aligned((value or 0) * WORD.size)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: int | None) -> int:
        _set_word(memory, self.head, value or 0)
        words[self.at] = 0 if value is None else there + offset
        words[self.at + 1] = there + self.head
        return offset + aligned((value or 0) * WORD.size)

    def read(
        self, memory: Any, here: Any, offset: int, value: int | None, rv: int
    ) -> tuple[int, tuple[int, ...] | None] | None:
        if rv != CKR_OK and rv != CKR_BUFFER_TOO_SMALL:
            return None
        (count,) = _word_at(memory, self.head)
        if value is None or rv != CKR_OK:
            if count > COUNT_LIMIT:
                raise Malformed(f"{self.label}: a list of {count} entries is reported.")
            return count, None
        if count > value:
            raise Malformed(f"{self.label}: {count} entries reported for room of {value}.")
        return count, unpack_from(f"@{count}Q", memory, offset)

    def encode(self, struct: Any, value: int | None, result: tuple[int, tuple[int, ...] | None] | None, rv: int) -> int:
        if result is None or (rv != CKR_OK and rv != CKR_BUFFER_TOO_SMALL):
            return rv
        count, entries = result
        if value is not None and entries is not None and rv == CKR_OK:
            if count > value:
                rv = CKR_BUFFER_TOO_SMALL
            else:
                pack_into(f"@{count}Q", ffi.buffer(self.fields[0](struct), count * WORD.size), 0, *entries)
        self.fields[1](struct)[0] = count
        return rv
