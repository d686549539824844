"""How a new object comes onto every member: decided from what the application asked for.

Pure. A key that is random, or that must not leave its token, is made once as an extractable *session* object, wrapped
under a domain key, and published: unwrapped, as the token object that was asked for, onto every member. Other
creations are repeated with the same arguments.

Source: SEMANTICS.md section 5; REPLICATION.md (attributes of a copy).
"""

from collections.abc import Mapping
from enum import Enum, auto

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import is_attribute_array
from pyha.cryptoki.keys import KEY_TYPES, USAGE, settable_in_unwrap
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import DomainKey
from pyha.ha.identity import flag, ulong

KEY_CLASSES = frozenset({ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY})

_LEFT_OUT_OF_ORIGINAL = frozenset(
    {
        ck.CKA_TOKEN,
        ck.CKA_EXTRACTABLE,
        ck.CKA_WRAP_WITH_TRUSTED,
        ck.CKA_ALWAYS_AUTHENTICATE,
        ck.CKA_ALLOWED_MECHANISMS,
        ck.CKA_COPYABLE,
        ck.CKA_DESTROYABLE,
        ck.CKA_MODIFIABLE,
        ck.CKA_START_DATE,
        ck.CKA_END_DATE,
        ck.CKA_WRAP_TEMPLATE,
        ck.CKA_UNWRAP_TEMPLATE,
        ck.CKA_DERIVE_TEMPLATE,
    }
)
"""What is said of the published object only: it would hinder the original's wrapping, or means nothing for its
moment."""

_ORIGINAL_SAYS = frozenset(
    {ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_PRIVATE, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_SUBJECT, ck.CKA_SENSITIVE}
)
"""Beside the usage flags: what the token may have given a default for, read from the original."""


class Way(Enum):
    """How a creation reaches every member."""

    SESSION = auto()  # a session object: one member
    REPEAT = auto()  # the same call on every member
    PUBLISH = auto()  # made once, wrapped, unwrapped everywhere


def value_of(template: Template, attribute: int) -> bytes | None:
    """An attribute's value in a template (the last one given), None where it is not named."""
    found = None
    for each in template:
        if each.type == attribute and not isinstance(each.value, tuple):
            found = bytes(each.value or b"")
    return found


def wants_token(template: Template) -> bool:
    """CKA_TOKEN of the new object; false by default (section 4.4)."""
    return flag(value_of(template, ck.CKA_TOKEN))


def stays_extractable(template: Template) -> bool:
    """CKA_EXTRACTABLE of the new key. Where it is not named the token's default is not known: the stronger is taken."""
    return flag(value_of(template, ck.CKA_EXTRACTABLE))


def way_of(template: Template, object_class: int | None, random: bool) -> Way:
    """The way of a creation that this template asks for. `object_class`: CKA_CLASS of the result."""
    if not wants_token(template):
        return Way.SESSION
    if object_class in KEY_CLASSES and (random or not stays_extractable(template)):
        return Way.PUBLISH
    return Way.REPEAT


def original_template(template: Template, is_key: bool) -> Template:
    """The template of the extractable session object that a key is made as first."""
    kept = tuple(each for each in template if each.type not in _LEFT_OUT_OF_ORIGINAL)
    extractable = (Attribute(ck.CKA_EXTRACTABLE, b"\1"),) if is_key else ()
    return (*kept, Attribute(ck.CKA_TOKEN, b"\0"), *extractable)


def attributes_to_read(object_class: int) -> tuple[int, ...]:
    """What has to be read from an original, so that the published object has what the token gave it."""
    return (*_ORIGINAL_SAYS, *USAGE[object_class], ck.CKA_CHECK_VALUE, ck.CKA_VALUE_LEN)


def published_template(asked: Template, original: Mapping[int, bytes], token: bool = True) -> Template:
    """The C_UnwrapKey template of the object that was asked for, every usage flag named, MODIFIABLE last.

    `original`: attributes read from the original (`attributes_to_read`). `token`: a token object, or one of a session.
    """
    object_class = int.from_bytes(original[ck.CKA_CLASS], "little")
    key_type = int.from_bytes(original[ck.CKA_KEY_TYPE], "little")
    usage = USAGE[object_class]
    found = []
    for attribute in settable_in_unwrap(object_class, key_type):
        if attribute == ck.CKA_TOKEN:
            found.append(Attribute(attribute, b"\1" if token else b"\0"))
        elif attribute == ck.CKA_EXTRACTABLE:
            found.append(Attribute(attribute, b"\1" if stays_extractable(asked) else b"\0"))
        elif attribute in usage or attribute in _ORIGINAL_SAYS:
            if attribute in original:
                found.append(Attribute(attribute, original[attribute]))
        else:
            found += [own for own in (_owned(each) for each in asked) if own.type == attribute][-1:]
    return tuple(found)


def _owned(attribute: Attribute) -> Attribute:
    """The attribute with its own copy of the value: the application's memory is its own after the call."""
    if isinstance(attribute.value, tuple):
        return Attribute(attribute.type, tuple(_owned(each) for each in attribute.value))
    return Attribute(attribute.type, bytes(attribute.value or b""))


def public_template(asked: Template, original: Mapping[int, bytes], key_type: int, token: bool) -> Template:
    """The C_CreateObject template of a pair's public key on any member, from what the original shows."""
    last = (ck.CKA_COPYABLE, ck.CKA_DESTROYABLE, ck.CKA_MODIFIABLE)
    shown = (ck.CKA_PRIVATE, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_SUBJECT, *USAGE[ck.CKO_PUBLIC_KEY])
    from_asked = [
        _owned(each)
        for each in asked
        if is_attribute_array(each.type)
        or each.type in (ck.CKA_START_DATE, ck.CKA_END_DATE, ck.CKA_ALLOWED_MECHANISMS, ck.CKA_TRUSTED)
    ]
    at_the_end = [_owned(each) for kind in last for each in asked if each.type == kind]
    return (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_PUBLIC_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(key_type)),
        Attribute(ck.CKA_TOKEN, b"\1" if token else b"\0"),
        *(Attribute(kind, original[kind]) for kind in KEY_TYPES[key_type].public if kind in original),
        *(Attribute(kind, original[kind]) for kind in shown if kind in original),
        *from_asked,
        *at_the_end,
    )


def domain_for(template: Template) -> DomainKey:
    """The domain key for a published key: the sealed one, whose unwrap template keeps it sensitive and unextractable,
    for every key that is to be so."""
    sealed = flag(value_of(template, ck.CKA_SENSITIVE)) and not flag(value_of(template, ck.CKA_EXTRACTABLE))
    return DomainKey.SEALED if sealed else DomainKey.OPEN
