"""What a session object is made from again on another member: decided from what the application asked for and from what
the object shows.

Pure. A key goes as its wrapped form, with the C_UnwrapKey template that is made here; what is no secret as the
C_CreateObject template that is made here. Where something was said of an object that could not be said again, there is
no template: an object with other attributes than it was given is worse than one that dies with its member.

Source: SEMANTICS.md section 5 (session objects).
"""

from collections.abc import Mapping

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import ATTRIBUTES, HISTORY, PROTECTIONS, is_secret
from pyha.cryptoki.keys import KEY_TYPES, USAGE, settable_in_unwrap
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import DomainKey
from pyha.ha.identity import number
from pyha.ha.replication import (
    attributes_to_create,
    created_template,
    guards,
    published_template,
    restated_template,
)

LIMIT = 1024 * 1024
"""Bytes of an object that is no key which are kept at most."""

_NO = b"\0"
_OF_THE_VALUE = frozenset({ck.CKA_VALUE_LEN, ck.CKA_MODULUS_BITS, ck.CKA_CHECK_VALUE, ck.CKA_PRIME_BITS})
"""What a template may say that goes with the value itself."""

_ADDED = (*sorted(set(PROTECTIONS) - {ck.CKA_TRUSTED}), ck.CKA_ALLOWED_MECHANISMS)
"""What a token may add by itself to a key that is made by means of another one (CKA_UNWRAP_TEMPLATE ...)."""


def leaves(template: Template) -> bool | None:
    """Whether the new key is asked to be extractable; None where the template does not say, and the token's default
    counts. What is not said properly is for the token to refuse, and counts as said."""
    named = [each.value for each in template if each.type == ck.CKA_EXTRACTABLE]
    if not named:
        return None
    return not (len(named) == 1 and not isinstance(named[0], tuple) and named[0] is not None and bytes(named[0]) == _NO)


def named_false(template: Template, attribute: int) -> bool:
    """Whether a CK_BBOOL is said to be false."""
    return any(each.type == attribute and not isinstance(each.value, tuple) and each.value == _NO for each in template)


def extractable_template(template: Template) -> Template:
    """The template of the same key, extractable for the moment in which it is wrapped. One that could not be changed
    afterwards can be destroyed, for another to take its place."""
    left_out = {ck.CKA_EXTRACTABLE}
    if named_false(template, ck.CKA_MODIFIABLE):
        left_out |= {ck.CKA_MODIFIABLE, ck.CKA_COPYABLE, ck.CKA_DESTROYABLE}
    return (*(each for each in template if each.type not in left_out), Attribute(ck.CKA_EXTRACTABLE, b"\1"))


_OF_EVERY_KEY = (
    *(ck.CKA_CLASS, ck.CKA_TOKEN, ck.CKA_KEY_TYPE, ck.CKA_PRIVATE, ck.CKA_LABEL, ck.CKA_ID),
    *(ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE),
)
_OF_KEYS: dict[int, tuple[int, ...]] = {
    ck.CKO_SECRET_KEY: (*_OF_EVERY_KEY, *USAGE[ck.CKO_SECRET_KEY], ck.CKA_VALUE_LEN, ck.CKA_CHECK_VALUE),
    ck.CKO_PRIVATE_KEY: (*_OF_EVERY_KEY, *USAGE[ck.CKO_PRIVATE_KEY], ck.CKA_SUBJECT),
}
_OF_PAIRS = (ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT, ck.CKA_EC_PARAMS, ck.CKA_PRIME)


def to_read_of_key(object_class: int, key_type: int | None, from_another: bool) -> tuple[int, ...]:
    """The attributes of a new session key that have to be known. `key_type`: where it is known. `from_another`: it was
    unwrapped, derived or copied, and may have got attributes that nobody named."""
    wanted = _OF_KEYS[object_class]
    if object_class == ck.CKO_PRIVATE_KEY:
        row = KEY_TYPES.get(key_type) if key_type is not None else None
        wanted += _OF_PAIRS if row is None else tuple(each for each in row.public if each != ck.CKA_VALUE)
    return (*wanted, *(each for each in _ADDED if each not in wanted)) if from_another else wanted


def to_read_of_object(object_class: int, key_type: int | None) -> tuple[int, ...]:
    """The attributes of a new session object that is no secret, beside its CKA_VALUE; empty for one of an unknown
    class."""
    wanted = attributes_to_create(object_class, key_type)
    return (ck.CKA_TOKEN, *(each for each in wanted if each != ck.CKA_VALUE)) if wanted else ()


def key_template(asked: Template, shown: Mapping[int, bytes], extractable: bool, added: bool) -> Template | None:
    """The C_UnwrapKey template of a session key; None where it could not have all that was asked for. `shown`:
    attributes read from it (`to_read_of_key`). `extractable`: what it is to be in the end. `added`: it may have more
    than was asked for."""
    object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE)) or 0
    settable = settable_in_unwrap(object_class, key_type)
    row = KEY_TYPES.get(key_type)
    public = row.public if row is not None else ()
    for each in asked:
        material = each.type in public or each.type in _OF_THE_VALUE or is_secret(each.type, object_class)
        if each.type not in ATTRIBUTES or not (material or each.type in settable):
            return None
    named = {each.type for each in asked}
    more = tuple(Attribute(kind, shown[kind]) for kind in _ADDED if added and kind not in named and shown.get(kind))
    mine = Attribute(ck.CKA_EXTRACTABLE, b"\1" if extractable else _NO)
    return published_template((*asked, *more, mine), shown, token=False)


def object_template(asked: Template, shown: Mapping[int, bytes], created: bool) -> Template | None:
    """The C_CreateObject template of a session object that is no secret; None where it is too large to be kept.
    `shown`: attributes read from it (`to_read_of_object`). `created`: `asked` is itself such a template, which is only
    completed by what the token added."""
    object_class, key_type = number(shown.get(ck.CKA_CLASS)) or 0, number(shown.get(ck.CKA_KEY_TYPE))
    wanted = attributes_to_create(object_class, key_type)
    known = {kind: value for kind, value in shown.items() if kind in wanted}
    if not created:
        return _kept({each.type: each.value for each in created_template(asked, known, token=False)})
    said = {each.type: each.value for each in asked}
    # An empty value is the default of its attribute, and not every module takes it.
    return _kept({**{kind: value for kind, value in known.items() if value}, **said})


def _kept(said: dict[int, object]) -> Template | None:
    said[ck.CKA_TOKEN] = _NO
    # Modules that read a template in order take nothing after MODIFIABLE=false.
    modifiable = said.pop(ck.CKA_MODIFIABLE, None)
    if modifiable is not None:
        said[ck.CKA_MODIFIABLE] = modifiable
    template = tuple(Attribute(kind, _owned(value)) for kind, value in said.items())
    return template if _size(template) <= LIMIT else None


def _owned(value: object) -> object:
    """A copy that can be wiped; the application's memory is its own after the call."""
    if isinstance(value, tuple):
        return tuple(Attribute(each.type, _owned(each.value)) for each in value)
    return bytearray(value or b"")  # type: ignore[call-overload]


def _size(template: Template) -> int:
    return sum(_size(each.value) if isinstance(each.value, tuple) else len(each.value) for each in template)


def changed_key(present: Template, changes: Template, domain: DomainKey) -> Template | None:
    """The C_UnwrapKey template after C_SetAttributeValue with `changes`; None where it could not have those, or where
    `domain`, under which the key is wrapped, would give it back weaker than it has become."""
    said = {each.type: each.value for each in present}
    object_class, key_type = _number_in(said, ck.CKA_CLASS), _number_in(said, ck.CKA_KEY_TYPE)
    settable = settable_in_unwrap(object_class, key_type)
    if any(each.type not in settable and each.type not in HISTORY for each in changes):
        return None
    template = restated_template(present, changes, object_class, key_type)
    return template if guards(domain, template) else None


def changed_object(present: Template, changes: Template) -> Template | None:
    """The C_CreateObject template after C_SetAttributeValue with `changes`; None where it is too large now."""
    return _kept({each.type: each.value for each in (*present, *changes)})


def _number_in(said: Mapping[int, object], attribute: int) -> int:
    value = said.get(attribute)
    return (number(bytes(value)) or 0) if isinstance(value, bytes | bytearray) else 0
