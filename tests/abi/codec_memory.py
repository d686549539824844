"""An application's memory and a member's, for tests of the codec without a link.

The arena pretends to be elsewhere in the member: `there` is no address of this process. So a pointer that is not one
into the arena is found as soon as the callee follows it, and a write past the arena in the guard behind it.
"""

from struct import pack, unpack
from typing import Any

from pyha.abi.codec import Codec, Codecs
from pyha.abi.native import ffi
from pyha.cryptoki.functions import BY_NAME

NULL = ffi.NULL
THERE = 0x5000_0000_0000
GUARD = 256

CODECS = Codecs()


def codec_of(name: str) -> Codec:
    """The codec of one function."""
    return CODECS.of(BY_NAME[name])


FRESH = b"\xee"
"""What is in an arena before anything is written: the codec may not count on zeros."""


class Arena:
    """As the link leases one, with a guard behind it."""

    def __init__(self, capacity: int) -> None:
        self._memory = ffi.new("unsigned char[]", capacity + GUARD)
        self.here = ffi.cast("uint8_t *", self._memory)
        self.there = THERE
        self.capacity = capacity
        self.words = ffi.new("uint64_t[10]", [0xDEAD] * 10)
        self.buffer = ffi.buffer(self.here, capacity)
        self.buffer[:] = FRESH * capacity
        ffi.buffer(self.here + capacity, GUARD)[:] = b"\xa5" * GUARD

    def intact(self) -> bool:
        """Nothing was written behind the arena."""
        return bytes(ffi.buffer(self.here + self.capacity, GUARD)) == b"\xa5" * GUARD

    def offset(self, address: int, size: int) -> int:
        """Where an address of the callee is in the arena; fails where it is not."""
        offset = address - self.there
        assert 0 <= offset <= self.capacity, f"{address:#x} is not in the arena"
        assert size == 0 or offset + size <= self.capacity, f"{size} bytes at {address:#x} leave the arena"
        return offset

    def get(self, address: int, size: int) -> bytes:
        """What the callee sees at an address."""
        offset = self.offset(address, size)
        return bytes(ffi.buffer(self.here + offset, size)) if size else b""

    def put(self, address: int, content: bytes) -> None:
        """The callee writes."""
        if content:
            ffi.buffer(self.here + self.offset(address, len(content)), len(content))[:] = content

    def ulong(self, address: int) -> int:
        """The CK_ULONG that the callee sees at an address."""
        number: int = unpack("@Q", self.get(address, 8))[0]
        return number

    def put_ulong(self, address: int, *numbers: int) -> None:
        """The callee writes CK_ULONGs."""
        self.put(address, pack(f"@{len(numbers)}Q", *numbers))

    def attributes(self, address: int, count: int) -> list[tuple[int, int, int]]:
        """The CK_ATTRIBUTE array that the callee sees: (type, pValue, ulValueLen)."""
        raw = self.get(address, 24 * count)
        return [unpack("@3Q", raw[24 * index : 24 * index + 24]) for index in range(count)]


class Application:
    """Allocates C memory that lives as long as this object."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def new(self, ctype: str, *initial: Any) -> Any:
        """`ffi.new`, kept alive."""
        made = ffi.new(ctype, *initial)
        self._kept.append(made)
        return made

    def bytes(self, content: bytes) -> Any:
        """A CK_BYTE array with this content (at least one byte long, so that it has an address)."""
        made = self.new("unsigned char[]", max(len(content), 1))
        ffi.buffer(made, len(content))[:] = content
        return made

    def attributes(self, *entries: tuple[int, Any, int]) -> Any:
        """A CK_ATTRIBUTE array."""
        return self.new("CK_ATTRIBUTE[]", list(entries) or 1)

    def struct(self, name: str, **fields: Any) -> Any:
        """The packed arguments of a function, as the shim hands them over."""
        return ffi.cast("void *", self.new(f"struct pyha_args_{name} *", fields))


def address(pointer: Any) -> int:
    """A cdata pointer as a number."""
    return int(ffi.cast("uintptr_t", pointer))


def written(codec: Codec, values: list[Any]) -> Arena:
    """The values in an arena of exactly the size that the codec asked for."""
    arena = Arena(codec.size(values))
    used = codec.write(arena, values)
    assert used <= arena.capacity
    assert arena.intact()
    return arena
