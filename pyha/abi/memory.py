"""What every reader and writer of C memory here shares: the two exceptions, the limits, and how words are read.

Knows C memory and nothing of Cryptoki's functions. Only LP64 is served: CK_ULONG and pointers are eight bytes, which is
what the formats below say.
"""

from struct import Struct
from typing import Any

from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKR_ARGUMENTS_BAD

LENGTH_LIMIT = 1 << 32
"""Bytes. No length or sum of lengths of this or more is meant; it is refused before anything is allocated for it."""

COUNT_LIMIT = 1 << 16
"""Entries. The most attributes of one call, nested ones included, and of one list of slots, mechanisms or objects."""

OUT_LIMIT = 1 << 26
"""Bytes. Callers offer more room than they have (an uninitialised length); this much is believed, beside the input."""

UNAVAILABLE = 0xFFFF_FFFF_FFFF_FFFF
"""CK_UNAVAILABLE_INFORMATION (PKCS #11 2.40 section 3.1), (CK_ULONG)-1."""

WORD = Struct("@Q")
"""A CK_ULONG, a handle or a pointer."""

_BYTES = ffi.typeof("uint8_t *")
_NUMBER = ffi.typeof("uintptr_t")
_buffer, _cast = ffi.buffer, ffi.cast
_NULL, _SIGNED = _cast(_BYTES, 0), 1 << 63


class Refused(Exception):
    """Arguments that the specification refuses. `rv`: the CK_RV to answer."""

    def __init__(self, rv: int = CKR_ARGUMENTS_BAD) -> None:
        super().__init__(f"refused with {rv:#x}")
        self.rv = rv


class Malformed(Exception):
    """A member answered what cannot be, such as a length beyond its buffer. The text is a sentence without contents."""


def aligned(size: int) -> int:
    """`size` bytes rounded up to 16, the strictest alignment that a C object of ours or of a module needs."""
    return (size + 15) & -16


def pointer_to(address: int) -> Any:
    """The address as a cdata `uint8_t *`."""
    # A sum takes a third of the time of a cast, but no number that would be negative were it signed.
    return _NULL + address if address < _SIGNED else _cast(_BYTES, address)


def view(address: int, size: int) -> Any:
    """A Buffer over `size` bytes at an address of this process, valid as long as that memory is."""
    return _buffer(pointer_to(address), size)


def memory_view(pointer: Any, size: int) -> Any:
    """The `size` bytes behind a cdata pointer, such as what a call put into `Out.memory`, without a copy."""
    return _buffer(pointer, size)


def memory_bytes(pointer: Any, size: int) -> bytes:
    """A copy of `size` bytes behind a cdata pointer. Not for what may be secret: the copy is not wiped."""
    copied: bytes = _buffer(pointer, size)[:]
    return copied


def address_of(pointer: Any) -> int:
    """A cdata pointer as a number."""
    return int(_cast(_NUMBER, pointer))
