"""The form of one argument: how it is read from the application, laid into an arena, read back and written back.

`Form` is what the codec composes; each Kind has a class (in the modules beside this one). Here are the base and the
forms that are a word, a fixed block, or nothing at all. Knows C memory; knows no function, member or session.
"""

from operator import attrgetter
from struct import Struct
from typing import Any, ClassVar, NamedTuple

from pyha.abi.memory import Refused, address_of, aligned
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKF_OS_LOCKING_OK, CKR_FUNCTION_NOT_SUPPORTED, CKR_OK
from pyha.cryptoki.values import InitializeArgs, MemberInitialize


class Place(NamedTuple):
    """Where an argument is. `label`: for messages. `fields`: names of its C parameters in the packed struct.
    `at`: index of the first one among the function's C parameters, so also of its first word. `inputs`: indices of
    the function's input lengths. `mechanisms`: number to MechanismRow."""

    label: str
    fields: tuple[str, ...]
    at: int
    inputs: tuple[int, ...]
    mechanisms: Any


class Form:
    """One argument. Every form has `decode` and `write`; those with a result `read` and `encode`.

    An argument's place in the arena has two parts: `room` bytes at `head`, the same in every call, and, where `varies`,
    `span(value)` bytes more at an offset that depends on the other arguments' values.
    """

    room: ClassVar[int] = 0
    varies: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    def __init__(self, place: Place) -> None:
        self.label, self.at = place.label, place.at
        self.fields = tuple(attrgetter(name) for name in place.fields)
        self.head = 0

    def decode(self, fields: tuple[Any, ...]) -> Any:
        """The application's C parameters as a value. Raises Refused."""
        return fields[self.at]

    def span(self, value: Any) -> int:
        """Bytes that `write` takes beyond `room`; a multiple of 16."""
        return 0

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        """Lays the value into the arena (`memory`: a writable buffer over it) and fills its words. Returns the offset
        behind what it took at `offset`."""
        words[self.at] = value
        return offset

    def read(self, memory: Any, here: Any, offset: int, value: Any, rv: int) -> Any:
        """The result, each length read once. None where `rv` says that there is none. Raises Malformed."""

    def encode(self, struct: Any, value: Any, result: Any, rv: int) -> int:
        """Writes the result into the application's memory. Returns the CK_RV to answer."""
        return rv


class Word(Form):
    """A number or a handle, passed by value. The codec moves these itself."""


class Reserved(Form):
    """A pointer that must be NULL."""

    def decode(self, fields: tuple[Any, ...]) -> int:
        if fields[self.at]:
            raise Refused()
        return 0


class Notify(Form):
    """A callback and its data. No member may ever call into the application, so both travel as NULL."""

    def decode(self, fields: tuple[Any, ...]) -> None:
        return None

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        words[self.at] = words[self.at + 1] = 0
        return offset


class Unread(Form):
    """A parameter of a message function: (address, length). What it points to is not known, so it never travels."""

    def decode(self, fields: tuple[Any, ...]) -> tuple[int, int]:
        return address_of(fields[self.at]), fields[self.at + 1]

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        raise Refused(CKR_FUNCTION_NOT_SUPPORTED)


class Label(Form):
    """A token's label: 32 bytes, blank padded."""

    size: ClassVar[int] = 32
    room: ClassVar[int] = 32

    def decode(self, fields: tuple[Any, ...]) -> bytes:
        return bytes(ffi.buffer(fields[self.at], self.size))

    def write(self, memory: Any, there: int, words: Any, offset: int, value: bytes) -> int:
        memory[self.head : self.head + self.size] = value
        words[self.at] = there + self.head
        return offset


class Initialize(Form):
    """CK_C_INITIALIZE_ARGS: four callbacks, flags, pReserved (PKCS #11 2.40 section 3.7)."""

    layout: ClassVar[Struct] = Struct("@6Q")
    room: ClassVar[int] = aligned(layout.size)
    varies: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> InitializeArgs | None:
        pointer = fields[self.at]
        if not pointer:
            return None
        *callbacks, flags, reserved = self.layout.unpack(ffi.buffer(pointer, self.layout.size))
        return InitializeArgs(flags, sum(callback != 0 for callback in callbacks), reserved)

    def span(self, value: MemberInitialize | None) -> int:
        return 0 if value is None or value.reserved is None else aligned(len(value.reserved) + 1)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: MemberInitialize | None) -> int:
        if value is None:
            words[self.at] = 0
            return offset
        string, address = value.reserved, 0
        if string is not None:
            terminated = string + b"\0"
            memory[offset : offset + len(terminated)] = terminated
            address = there + offset
            offset += aligned(len(terminated))
        self.layout.pack_into(memory, self.head, 0, 0, 0, 0, CKF_OS_LOCKING_OK, address)
        words[self.at] = there + self.head
        return offset


class Block(Form):
    """A structure of fixed size that is filled on CKR_OK: its bytes."""

    size: ClassVar[int]
    returns: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> None:
        return None

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Any) -> int:
        words[self.at] = there + self.head
        return offset

    def read(self, memory: Any, here: Any, offset: int, value: Any, rv: int) -> bytes | None:
        return memory[self.head : self.head + self.size] if rv == CKR_OK else None

    def encode(self, struct: Any, value: Any, result: bytes | None, rv: int) -> int:
        if rv == CKR_OK and result is not None:
            ffi.buffer(self.fields[0](struct), self.size)[:] = result
        return rv


def block(size: int) -> type[Block]:
    """The form of a structure of `size` bytes."""
    return type("Block", (Block,), {"size": size, "room": aligned(size)})
