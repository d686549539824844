"""The forms of CK_ATTRIBUTE arrays: templates that go in, and queries that are answered in place.

Knows C memory, and of attributes only which ones are arrays of attributes themselves, because there pointers are
nested. Every array is copied once and then read; values stay where they are. Sources: PKCS #11 Base Specification 2.40
section 4.1 (templates) and 5.7 (C_GetAttributeValue, nested arrays and the lengths of what cannot be had).

A length of CK_UNAVAILABLE_INFORMATION in a template, or a NULL value with a length, is CKR_ATTRIBUTE_VALUE_INVALID: the
code that the specification has for it and that SoftHSM answers.
"""

from struct import Struct
from typing import Any, ClassVar

from pyha.abi.form import Form
from pyha.abi.memory import COUNT_LIMIT, LENGTH_LIMIT, UNAVAILABLE, Refused, aligned, memory_bytes, pointer_to, view
from pyha.cryptoki.constants import CKA_ALLOWED_MECHANISMS, CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID
from pyha.cryptoki.values import Attribute, Template

ENTRY = Struct("@3Q")
"""CK_ATTRIBUTE: type, pValue, ulValueLen."""

DEPTH_LIMIT = 4
"""Levels of attribute arrays. The specification's own go one deep."""

ARRAY, _VENDOR = 0x4000_0000, 0x8000_0000
_entries, _set_entry = ENTRY.iter_unpack, ENTRY.pack_into


def is_array(attribute: int) -> bool:
    """Is the attribute's value an array of CK_ATTRIBUTE.

    CKA_ALLOWED_MECHANISMS has the bit and is an array of mechanisms. Vendors' types are not asked: NSS numbers all of
    its own so that the bit is set.
    """
    return attribute & (ARRAY | _VENDOR) == ARRAY and attribute != CKA_ALLOWED_MECHANISMS


def entries_of(pointer: Any, count: int) -> bytes:
    """One copy of an array of CK_ATTRIBUTE, so that what is checked is what is used."""
    return memory_bytes(pointer, count * ENTRY.size)


class Budget:
    """What one call may still ask for: attributes, and bytes in all of them."""

    __slots__ = ("attributes", "size")

    def __init__(self, size: int) -> None:
        self.attributes, self.size = COUNT_LIMIT, size

    def take(self, attributes: int, size: int) -> None:
        """Raises Refused(CKR_ARGUMENTS_BAD) where it is more than there is."""
        self.attributes -= attributes
        self.size -= size
        if self.attributes < 0 or self.size < 0:
            raise Refused()


class _Null(tuple[Attribute, ...]):
    """The template of a NULL pointer and count 0: empty like any other, but it travels as NULL. Modules tell the two
    apart: SoftHSM takes an empty array in C_CopyObject and C_SetAttributeValue, and refuses NULL."""

    __slots__ = ()


class TemplateForm(Form):
    """Pointer and count: a values.Template. Nested templates are Templates."""

    varies: ClassVar[bool] = True

    def decode(self, fields: tuple[Any, ...]) -> Template:
        pointer, count = fields[self.at], fields[self.at + 1]
        if not count:
            return () if pointer else _Null()
        if not pointer:
            raise Refused()
        budget = Budget(LENGTH_LIMIT)
        budget.take(count, 0)
        return _template(entries_of(pointer, count), budget, 1)

    def span(self, value: Template) -> int:
        return span(value)

    def write(self, memory: Any, there: int, words: Any, offset: int, value: Template) -> int:
        words[self.at] = 0 if type(value) is _Null else there + offset
        words[self.at + 1] = len(value)
        return write(memory, there, offset, value)


def _template(entries: bytes, budget: Budget, depth: int) -> Template:
    template = []
    for kind, address, length in _entries(entries):
        if length >= LENGTH_LIMIT or (length and not address):
            raise Refused(CKR_ARGUMENTS_BAD if LENGTH_LIMIT <= length < UNAVAILABLE else CKR_ATTRIBUTE_VALUE_INVALID)
        value: Any
        if is_array(kind):
            count = array_count(length, depth, CKR_ATTRIBUTE_VALUE_INVALID)
            budget.take(count, 0)
            value = _template(entries_of(pointer_to(address), count), budget, depth + 1) if count else ()
        elif length:
            budget.take(0, length)
            value = view(address, length)
        else:
            value = b""
        template.append(Attribute(kind, value))
    return tuple(template)


def array_count(length: int, depth: int, broken: int) -> int:
    """How many attributes a nested array of `length` bytes has. Raises Refused, `broken` where it is not whole."""
    count, rest = divmod(length, ENTRY.size)
    if rest:
        raise Refused(broken)
    if depth >= DEPTH_LIMIT:
        raise Refused()
    return count


def span(template: Template) -> int:
    """Bytes of arena that `write` takes."""
    total = aligned(len(template) * ENTRY.size)
    for attribute in template:
        value = attribute.value
        total += span(value) if type(value) is tuple else (len(value) + 15) & -16
    return total


def write(memory: Any, there: int, offset: int, template: Template) -> int:
    """Lays a template into the arena at `offset`: its entries, then their values. Returns the offset behind it."""
    at = offset + aligned(len(template) * ENTRY.size)
    for attribute in template:
        value = attribute.value
        if type(value) is tuple:
            _set_entry(memory, offset, attribute.type, there + at, len(value) * ENTRY.size)
            at = write(memory, there, at, value)
        else:
            length = len(value)
            _set_entry(memory, offset, attribute.type, there + at, length)
            memory[at : at + length] = value
            at += (length + 15) & -16
        offset += ENTRY.size
    return at
