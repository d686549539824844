"""Attribute arrays (CKA_WRAP_TEMPLATE ...) as values that can be compared: what a key demands of those it handles.

Pure. A packed array is bytes, the same for the same demands in whatever order they were given; empty for none. An array
protects: what demands all that another one does, and more, is the stronger. No module lets one be changed.

Sources: PKCS #11 Base Specification 2.40, section 4.9 and 4.10 (CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE); 3.0
(CKA_DERIVE_TEMPLATE).
"""

from collections.abc import Mapping, Sequence

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import is_attribute_array, weaker
from pyha.cryptoki.values import Attribute, Template

ARRAYS = (ck.CKA_WRAP_TEMPLATE, ck.CKA_UNWRAP_TEMPLATE, ck.CKA_DERIVE_TEMPLATE)
DATES = (ck.CKA_START_DATE, ck.CKA_END_DATE)
"""What modules answer in ways of their own, when they are asked for it (`pyha.runtime.showing`)."""

_WORD = 8


def packed(template: Template) -> bytes:
    """An attribute array as bytes."""
    return b"".join(sorted(_entry(each) for each in template))


def _entry(attribute: Attribute) -> bytes:
    inner = isinstance(attribute.value, tuple)
    value = packed(attribute.value) if inner else bytes(attribute.value or b"")
    return attribute.type.to_bytes(_WORD, "big") + len(value).to_bytes(_WORD, "big") + value


def unpacked(value: bytes) -> Template:
    """The array that `packed` made these bytes of, in ascending order of the types."""
    return tuple(
        Attribute(kind, unpacked(inner) if is_attribute_array(kind) else inner) for kind, inner in _entries(value)
    )


def _entries(value: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(value):
        kind, length = (int.from_bytes(value[start : start + _WORD], "big") for start in (at, at + _WORD))
        at += 2 * _WORD
        found.append((kind, value[at : at + length]))
        at += length
    return found


def demands(value: bytes, other: bytes) -> bool:
    """Whether a packed array demands all that the other one does."""
    return set(_entries(value)) >= set(_entries(other))


def strongest(values: Sequence[bytes]) -> bytes:
    """Of packed arrays the one that demands most, the first of several. Of two that each demand what the other does not
    one is taken: on the other member it is a conflict."""
    return max(values, key=lambda each: len(_entries(each)))


def attribute_of(kind: int, value: bytes) -> Attribute:
    """The attribute whose value was read or written down as `value`."""
    return Attribute(kind, unpacked(value) if is_attribute_array(kind) else value)


def values_of(template: Template) -> dict[int, bytes]:
    """What a template says of each attribute, arrays packed."""
    return {
        each.type: packed(each.value) if isinstance(each.value, tuple) else bytes(each.value or b"")
        for each in template
    }


def is_dated(template: Template) -> bool:
    """Whether it sets a date. Modules need not show it again, so that only what is written down of it tells it."""
    return any(each.type in DATES and each.value for each in template)


def lost(before: Mapping[int, bytes], after: Mapping[int, bytes]) -> tuple[int, ...]:
    """The protections that `before` has and `after` has not, arrays among them (packed); else as `weaker` has it."""
    arrays = [kind for kind in ARRAYS if before.get(kind) and not demands(after.get(kind) or b"", before[kind])]
    return (*weaker(before, after), *arrays)
