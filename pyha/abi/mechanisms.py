"""The form of CK_MECHANISM: a mechanism and its parameter, with everything that the parameter points to.

Knows C memory; what a parameter looks like it is told by the table of mechanisms. A structure is copied once and its
pointers are taken from the copy. In the arena each pointer leads to a region of ours, or is NULL: an address of the
application never travels.

Sources: PKCS #11 Base Specification 2.40 section 3.5 (CK_MECHANISM); the parameters' own are named in the table.
"""

from struct import Struct
from typing import Any, ClassVar

from pyha.abi.form import Form, Place
from pyha.abi.memory import LENGTH_LIMIT, WORD, Refused, aligned, pointer_to, view
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_OK
from pyha.cryptoki.parameters import LOWEST_ADDRESS, Layout, Pointer
from pyha.cryptoki.values import Mechanism, Out, Parameter, Region

PARAMETER_LIMIT = 1 << 20
"""Bytes. Structures are copied, so their size is bounded; the longest known is some hundred bytes."""

_MECHANISM = Struct("@3Q")
_word_at, _set_word = WORD.unpack_from, WORD.pack_into


class MechanismForm(Form):
    """A pointer to CK_MECHANISM: a values.Mechanism. What the module returns in the parameter is copied back to the
    application on CKR_OK; there is no other result."""

    room: ClassVar[int] = aligned(_MECHANISM.size)
    varies: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.mechanisms = place.mechanisms

    def decode(self, fields: tuple[Any, ...]) -> Mechanism:
        kind, address, length = _MECHANISM.unpack(ffi.buffer(fields[self.at], _MECHANISM.size))
        row = self.mechanisms.get(kind)
        if row is None:
            raise Refused(CKR_MECHANISM_INVALID)
        if not length:
            if row.absent:
                return Mechanism(kind)
        elif address and length <= PARAMETER_LIMIT:
            layout = row.layout_for(length)
            if layout is not None:
                return Mechanism(kind, _parameter(address, length, layout))
        raise Refused(CKR_MECHANISM_PARAM_INVALID)

    def span(self, value: Mechanism) -> int:
        return 0 if value.parameter is None else _span(value.parameter)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Mechanism) -> int:
        words[self.at] = there + self.head
        parameter = value.parameter
        if parameter is None:
            _MECHANISM.pack_into(memory, self.head, value.type, 0, 0)
            return offset
        _MECHANISM.pack_into(memory, self.head, value.type, there + offset, len(parameter.raw))
        return _write(memory, there, offset, parameter)

    def read(self, memory: Any, here: Any, offset: int, value: Mechanism, rv: int) -> None:
        if rv == CKR_OK and value.parameter is not None:
            _read(memory, here, offset, value.parameter)


def _parameter(address: int, length: int, layout: Layout) -> Parameter:
    raw = bytes(view(address, length))
    regions: list[Region] = []
    for pointer in layout.pointers:
        regions += _regions(raw, pointer)
    return Parameter(raw, tuple(regions), layout.handles, layout.back, memory=pointer_to(address))


def _regions(raw: bytes, pointer: Pointer) -> list[Region]:
    """What one pointer leads to; its length too where that is behind a pointer itself."""
    (target,) = _word_at(raw, pointer.at)
    regions = []
    if pointer.length_at is None:
        size = pointer.length or 0 if target else 0
    else:
        (count,) = _word_at(raw, pointer.length_at)
        if pointer.length_is_pointer and count >= LOWEST_ADDRESS:
            copy = bytes(view(count, WORD.size))
            regions.append(Region(pointer.length_at, copy))
            (count,) = _word_at(copy)
        size = pointer.bytes_for(count)
    if size >= LENGTH_LIMIT or (size and not target and not pointer.out):
        # NULL with a length: modules have been seen to crash on it.
        raise Refused(CKR_MECHANISM_PARAM_INVALID)
    content: Any
    if not target:
        return regions
    if pointer.nested is not None:
        content = _parameter(target, size, pointer.nested)
    elif pointer.out:
        content = Out(size, pointer_to(target))
    else:
        content = view(target, size)
    return [*regions, Region(pointer.at, content)]


def _area(content: Any) -> int:
    """Bytes of arena for a region. An empty one has room too: its address must be a place that may be looked at."""
    if isinstance(content, Parameter):
        return _span(content)
    size = content.capacity if isinstance(content, Out) else len(content)
    return aligned(size or 1)


def _span(parameter: Parameter) -> int:
    return aligned(len(parameter.raw)) + sum(_area(region.content) for region in parameter.regions)


def _write(memory: Any, there: int, offset: int, parameter: Parameter) -> int:
    length = len(parameter.raw)
    memory[offset : offset + length] = parameter.raw
    at = offset + aligned(length)
    for region in parameter.regions:
        content = region.content
        _set_word(memory, offset + region.offset, there + at)
        if isinstance(content, Parameter):
            at = _write(memory, there, at, content)
            continue
        # All of an output is copied back, whatever the module writes of it.
        filling = bytes(content.capacity or 0) if isinstance(content, Out) else content
        memory[at : at + len(filling)] = filling
        at += _area(content)
    return at


def _read(memory: Any, here: Any, offset: int, parameter: Parameter) -> None:
    """Copies what the module returns to the application's memory."""
    if parameter.memory is not None:
        for field, size in parameter.back:
            ffi.memmove(parameter.memory + field, here + offset + field, size)
    at = offset + aligned(len(parameter.raw))
    for region in parameter.regions:
        content = region.content
        if isinstance(content, Parameter):
            _read(memory, here, at, content)
        elif isinstance(content, Out) and content.memory is not None:
            ffi.memmove(content.memory, here + at, content.capacity)
        at += _area(content)
