"""What a decoded argument is, for kinds that are more than a number or bytes.

Plain frozen values, shared by the decisions and by the code that touches memory. A *Buffer* is anything with the
buffer protocol: `bytes`, or a view of the application's memory that is valid until its call returns. Contents never
show in a repr: they may be keys.
"""

from typing import Any, TypeVar, dataclass_transform

from pyha.cryptoki.plain import dataclass, field

Buffer = Any
"""bytes-like: `bytes`, `bytearray`, `memoryview` or cffi's buffer."""

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _value(kind: type[_T]) -> type[_T]:
    """A dataclass that is frozen for the type checker. A truly frozen one sets each field through a function call, and
    several values are made in every call of the application."""
    return dataclass(slots=True, unsafe_hash=True)(kind)


@_value
class Attribute:
    """One CK_ATTRIBUTE of a template. `value`: Buffer, or a Template for attribute arrays (CKA_WRAP_TEMPLATE ...)."""

    type: int
    value: Any = field(repr=False)


Template = tuple[Attribute, ...]


@_value
class Query:
    """One CK_ATTRIBUTE that is asked for.

    `capacity`: bytes of room, None where the application gave a NULL pValue and asks for the length only.
    `nested`: for attribute arrays with room, the inner queries; else None.
    `memory`: the application's buffer (cdata), into which the answer is written; None where the call is our own.
    """

    type: int
    capacity: int | None
    nested: tuple["Query", ...] | None = None
    memory: Any = field(default=None, repr=False, compare=False)


@_value
class Found:
    """The answer to one Query. `length`: bytes, or None for CK_UNAVAILABLE_INFORMATION. `value`: bytes read,
    a tuple of Found for attribute arrays, or None where only the length was asked for, nothing is there, or it may be a
    key's and went to `Query.memory`."""

    type: int
    length: int | None
    value: Any = field(default=None, repr=False)


@_value
class Region:
    """Memory that a mechanism parameter points to. `offset`: of the pointer in its parent, bytes. `content`: a Buffer
    that is copied in, an Out that is copied back, or a Parameter (a structure with pointers of its own)."""

    offset: int
    content: Any = field(repr=False)


@_value
class Parameter:
    """A mechanism's parameter. `raw`: the structure as the application gave it. `regions`: what its pointers point
    to (a NULL pointer has none). `handles`: offsets of object handles in `raw`. `back`: (offset, size) of plain
    fields of `raw` that the module may write and that are copied back to `memory` after CKR_OK. `memory`: the
    application's structure (cdata), None where the call is our own."""

    raw: Buffer = field(repr=False)
    regions: tuple[Region, ...] = ()
    handles: tuple[int, ...] = ()
    back: tuple[tuple[int, int], ...] = ()
    memory: Any = None


@_value
class Mechanism:
    """CK_MECHANISM. `parameter`: None where it is absent."""

    type: int
    parameter: Parameter | None = None


@_value
class Out:
    """Room for a result. `capacity`: bytes, None for a size query. `memory`: the application's buffer (cdata), into
    which the result is copied on CKR_OK; None where the call is our own and the result is wanted as bytes. `offered`:
    what the application said it has, where that is more than `capacity` allows, else None."""

    capacity: int | None
    memory: Any = None
    offered: int | None = None


@_value
class InitializeArgs:
    """CK_C_INITIALIZE_ARGS as C_Initialize got it. `mutexes`: how many of the four callbacks are given."""

    flags: int
    mutexes: int
    reserved: int


@_value
class MemberInitialize:
    """CK_C_INITIALIZE_ARGS as a member gets it: CKF_OS_LOCKING_OK, no callbacks. `reserved`: the string that pReserved
    points to (UTF-8, without the final NUL, which is added), None for NULL."""

    reserved: bytes | None = field(default=None, repr=False)
