"""The forms of byte strings: input, PINs, room to be filled, and the two-call length protocol.

Knows C memory; knows no function, member or session. Source: PKCS #11 Base Specification 2.40, section 5.2 (functions
that return a variable length).
"""

from typing import Any, ClassVar

from pyha.abi.form import Form, Place
from pyha.abi.memory import LENGTH_LIMIT, OUT_LIMIT, WORD, Malformed, Refused, aligned
from pyha.abi.native import ffi
from pyha.abi.pins import Pin
from pyha.cryptoki.constants import CKR_BUFFER_TOO_SMALL, CKR_HOST_MEMORY, CKR_OK
from pyha.cryptoki.values import Buffer, Out

_buffer, _memmove = ffi.buffer, ffi.memmove
_word_at, _set_word = WORD.unpack_from, WORD.pack_into


class Bytes(Form):
    """Pointer and length. NULL with length 0 is None, and travels as NULL."""

    varies: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> Buffer | None:
        pointer, length = fields[self.at], fields[self.at + 1]
        if pointer:
            if length < LENGTH_LIMIT:
                return _buffer(pointer, length)
        elif not length:
            return None
        raise Refused()

    def span(self, value: Buffer | None) -> int:
        return 0 if value is None else (len(value) + 15) & -16

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Buffer | None) -> int:
        at = self.at
        if value is None:
            words[at] = words[at + 1] = 0
            return offset
        length = len(value)
        memory[offset : offset + length] = value
        words[at] = there + offset
        words[at + 1] = length
        return offset + ((length + 15) & -16)


class PinBytes(Bytes):
    """A PIN or user name: like Bytes, and a kept Pin may be written, whose value Python never sees."""

    def span(self, value: Any) -> int:
        return aligned(value.size) if isinstance(value, Pin) else super().span(value)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        if not isinstance(value, Pin):
            return super().write(memory, there, words, offset, value)
        size = value.size
        if offset + size > len(memory):
            raise ValueError("the arena is too small for the PIN")
        value.copy_to(ffi.from_buffer("uint8_t[]", memory) + offset)
        words[self.at], words[self.at + 1] = there + offset, size
        return offset + aligned(size)


class Fill(Form):
    """Room of a given length, all of which is filled on CKR_OK: bytes, or None where they went to `Out.memory`."""

    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> Out:
        length = fields[self.at + 1]
        if length >= LENGTH_LIMIT:
            raise Refused()
        return Out(length, fields[self.at])

    def span(self, value: Out) -> int:
        return ((value.capacity or 0) + 15) & -16

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Out) -> int:
        capacity = value.capacity or 0
        words[self.at] = there + offset
        words[self.at + 1] = capacity
        return offset + ((capacity + 15) & -16)

    def read(self, memory: Any, here: Any, offset: int, value: Out, rv: int) -> bytes | None:
        if rv != CKR_OK:
            return None
        if value.memory is None:
            return bytes(memory[offset : offset + (value.capacity or 0)])
        _memmove(value.memory, here + offset, value.capacity)
        return None

    def encode(self, struct: Any, value: Out, result: bytes | None, rv: int) -> int:
        if rv == CKR_OK and result is not None:
            _buffer(value.memory, value.capacity)[:] = result
        return rv


class OutBytes(Form):
    """Buffer and pointer to its length: (length, bytes), bytes None where there are none or they went to `Out.memory`.

    A caller may offer more than is believed (OUT_LIMIT and what the call takes in). A result that is truly longer
    than that answers CKR_HOST_MEMORY: CKR_BUFFER_TOO_SMALL with less than was offered would make it try for ever.
    """

    room: ClassVar[int] = 16
    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.inputs = place.inputs

    def decode(self, fields: tuple[Any, ...]) -> Out:
        pointer = fields[self.at]
        if not pointer:
            return Out(None)
        offered = fields[self.at + 1][0]
        if offered <= OUT_LIMIT:
            return Out(offered, pointer)
        believed = OUT_LIMIT + sum(fields[index] for index in self.inputs)
        return Out(offered, pointer) if offered <= believed else Out(believed, pointer, offered)

    def span(self, value: Out) -> int:
        return ((value.capacity or 0) + 15) & -16

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Out) -> int:
        at, capacity = self.at, value.capacity
        words[at + 1] = there + self.head
        if capacity is None:
            _set_word(memory, self.head, 0)
            words[at] = 0
            return offset
        _set_word(memory, self.head, capacity)
        words[at] = there + offset
        return offset + ((capacity + 15) & -16)

    def read(self, memory: Any, here: Any, offset: int, value: Out, rv: int) -> tuple[int, bytes | None] | None:
        if rv != CKR_OK and rv != CKR_BUFFER_TOO_SMALL:
            return None
        length: int = _word_at(memory, self.head)[0]
        capacity = value.capacity
        if capacity is None or rv != CKR_OK:
            if length >= LENGTH_LIMIT:
                raise Malformed(f"{self.label}: a length of {length} bytes is asked for.")
            return length, None
        if length > capacity:
            raise Malformed(f"{self.label}: {length} bytes reported for a buffer of {capacity}.")
        if value.memory is None:
            return length, memory[offset : offset + length]
        _memmove(value.memory, here + offset, length)
        return length, None

    def encode(self, struct: Any, value: Out, result: tuple[int, bytes | None] | None, rv: int) -> int:
        if result is None or (rv != CKR_OK and rv != CKR_BUFFER_TOO_SMALL):
            return rv
        length, content = result
        capacity = value.capacity
        if content is not None and capacity is not None and rv == CKR_OK:
            if length > capacity:
                rv = CKR_BUFFER_TOO_SMALL
            else:
                _memmove(value.memory, content, length)
        if rv == CKR_BUFFER_TOO_SMALL and value.offered is not None and length <= value.offered:
            return CKR_HOST_MEMORY
        self.fields[1](struct)[0] = length
        return rv
