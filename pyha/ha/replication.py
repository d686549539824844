"""How a new object comes onto every member: decided from what the application asked for.

Pure. A key that is random, or that must not leave its token, or whose dates only a record would tell, is made once as
an extractable *session* object, wrapped under a domain key, and published: unwrapped, as the token object that was
asked for, onto every member. What is random and public is made once as a session object too, read, and created
everywhere. Other creations are repeated with the same arguments.

Source: SEMANTICS.md section 5; REPLICATION.md (attributes of a copy).
"""

from collections.abc import Mapping
from enum import Enum, auto

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import KEY_TYPES, USAGE, settable_in_unwrap
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import is_dated
from pyha.ha.domain import DomainKey, rsa_of
from pyha.ha.identity import flag

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
    PUBLISH = auto()  # made once, then wrapped and unwrapped, or read and created, everywhere


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


def misstates_token(template: Template) -> bool:
    """Whether CKA_TOKEN is there and no CK_BBOOL. Modules differ in what they make of it, and a token object that we
    took for one of the session would be on one member only."""
    return any(each.type == ck.CKA_TOKEN and _odd(each) for each in template)


def stays_extractable(template: Template) -> bool:
    """CKA_EXTRACTABLE of the new key. Where it is not named the token's default is not known: the stronger is taken."""
    return flag(value_of(template, ck.CKA_EXTRACTABLE))


def way_of(template: Template, object_class: int | None, random: bool) -> Way:
    """The way of a creation that this template asks for. `object_class`: CKA_CLASS of the result."""
    if not wants_token(template):
        return Way.SESSION
    if random or (object_class in KEY_CLASSES and (not stays_extractable(template) or is_dated(template))):
        return Way.PUBLISH
    return Way.REPEAT


_PARAMETER_GENERATION = frozenset(
    {
        ck.CKM_DSA_PARAMETER_GEN,
        ck.CKM_DH_PKCS_PARAMETER_GEN,
        ck.CKM_X9_42_DH_PARAMETER_GEN,
        ck.CKM_DSA_PROBABILISTIC_PARAMETER_GEN,
        ck.CKM_DSA_SHAWE_TAYLOR_PARAMETER_GEN,
    }
)


def generated_class(mechanism: int) -> int:
    """CKA_CLASS of what C_GenerateKey makes with this CKM_."""
    return ck.CKO_DOMAIN_PARAMETERS if mechanism in _PARAMETER_GENERATION else ck.CKO_SECRET_KEY


def original_template(template: Template, object_class: int | None) -> Template:
    """The template of the session object that an object of this CKA_CLASS is made as first; of a key, extractable.

    What the published object will not be told either stays in it, for the token to refuse: attributes that no object
    of the class has, and a CKA_EXTRACTABLE of a wrong length, as we state our own."""
    is_key = object_class in KEY_CLASSES
    told = settable_in_unwrap(object_class, _NO_KEY_TYPE) if object_class is not None and is_key else _FROM_ASKED
    later = _LEFT_OUT_OF_ORIGINAL.intersection((*told, ck.CKA_TOKEN))
    kept = tuple(
        each for each in template if each.type not in later or (each.type == ck.CKA_EXTRACTABLE and _odd(each))
    )
    extractable = (Attribute(ck.CKA_EXTRACTABLE, b"\1"),) if is_key else ()
    return (*kept, Attribute(ck.CKA_TOKEN, b"\0"), *extractable)


_NO_KEY_TYPE = -1


def _odd(attribute: Attribute) -> bool:
    return isinstance(attribute.value, tuple) or len(attribute.value or b"") != 1


def attributes_to_read(object_class: int) -> tuple[int, ...]:
    """What has to be read from an original, so that the published object has what the token gave it."""
    return (*_ORIGINAL_SAYS, *USAGE[object_class], ck.CKA_CHECK_VALUE, ck.CKA_VALUE_LEN)


def published_template(asked: Template, original: Mapping[int, bytes], token: bool = True) -> Template:
    """The C_UnwrapKey template of the object that was asked for, every usage flag named, MODIFIABLE last.

    `original`: attributes read from the original (`attributes_to_read`). `token`: a token object, or one of a session.
    """
    object_class = int.from_bytes(original[ck.CKA_CLASS], "little")
    key_type = int.from_bytes(original[ck.CKA_KEY_TYPE], "little")
    said = {each.type: each for each in asked}
    for attribute in (*USAGE[object_class], *_ORIGINAL_SAYS):
        said.pop(attribute, None)
        if attribute in original:
            said[attribute] = Attribute(attribute, original[attribute])
    said[ck.CKA_TOKEN] = Attribute(ck.CKA_TOKEN, b"\1" if token else b"\0")
    said[ck.CKA_EXTRACTABLE] = Attribute(ck.CKA_EXTRACTABLE, b"\1" if stays_extractable(asked) else b"\0")
    return _owned_template(said, settable_in_unwrap(object_class, key_type))


def restated_template(present: Template, changes: Template, object_class: int, key_type: int) -> Template:
    """The C_UnwrapKey template of a key that has the attributes `present` and then those of `changes`."""
    said = {each.type: each for each in (*present, *changes)}
    return _owned_template(said, settable_in_unwrap(object_class, key_type))


def _owned_template(said: Mapping[int, Attribute], wanted: tuple[int, ...]) -> Template:
    """Copies of what is wanted, and of nothing else: an application's template may hold a key's value."""
    return tuple(_owned(said[attribute]) for attribute in wanted if attribute in said)


def _owned(attribute: Attribute) -> Attribute:
    """The attribute with its own copy of the value: the application's memory is its own after the call."""
    if isinstance(attribute.value, tuple):
        return Attribute(attribute.type, tuple(_owned(each) for each in attribute.value))
    return Attribute(attribute.type, bytes(attribute.value or b""))


_CREATED: dict[int, tuple[int, ...]] = {
    ck.CKO_DATA: (ck.CKA_APPLICATION, ck.CKA_OBJECT_ID, ck.CKA_VALUE),
    ck.CKO_CERTIFICATE: (
        ck.CKA_CERTIFICATE_TYPE,
        ck.CKA_CERTIFICATE_CATEGORY,
        ck.CKA_SUBJECT,
        ck.CKA_ID,
        ck.CKA_ISSUER,
        ck.CKA_SERIAL_NUMBER,
        ck.CKA_VALUE,
        ck.CKA_URL,
        ck.CKA_HASH_OF_SUBJECT_PUBLIC_KEY,
        ck.CKA_HASH_OF_ISSUER_PUBLIC_KEY,
        ck.CKA_NAME_HASH_ALGORITHM,
        ck.CKA_PUBLIC_KEY_INFO,
        ck.CKA_JAVA_MIDP_SECURITY_DOMAIN,
    ),
    ck.CKO_PUBLIC_KEY: (
        ck.CKA_KEY_TYPE,
        ck.CKA_ID,
        ck.CKA_SUBJECT,
        ck.CKA_PUBLIC_KEY_INFO,
        *USAGE[ck.CKO_PUBLIC_KEY],
    ),
    ck.CKO_DOMAIN_PARAMETERS: (ck.CKA_KEY_TYPE, ck.CKA_PRIME, ck.CKA_SUBPRIME, ck.CKA_BASE),
}
"""CKO_ -> what an object that is no secret is created from, beside what every object has and its public part."""

_FROM_ASKED = (
    ck.CKA_START_DATE,
    ck.CKA_END_DATE,
    ck.CKA_ALLOWED_MECHANISMS,
    ck.CKA_TRUSTED,
    ck.CKA_WRAP_TEMPLATE,
    ck.CKA_COPYABLE,
    ck.CKA_DESTROYABLE,
    ck.CKA_MODIFIABLE,
)
"""What the original was not told (see `original_template`): from the application's own template, MODIFIABLE last."""


def attributes_to_create(object_class: int, key_type: int | None) -> tuple[int, ...]:
    """What has to be read from an object that is no secret, to create it elsewhere; empty for an unknown class."""
    if object_class not in _CREATED:
        return ()
    row = KEY_TYPES.get(key_type) if key_type is not None and object_class == ck.CKO_PUBLIC_KEY else None
    public = row.public if row is not None else ()
    return (ck.CKA_CLASS, ck.CKA_PRIVATE, ck.CKA_LABEL, *_CREATED[object_class], *public)


def created_template(asked: Template, original: Mapping[int, bytes], token: bool) -> Template:
    """The C_CreateObject template, on any member, of an object that is no secret. `original`: attributes read from the
    original (`attributes_to_create`). An empty value is the default of its attribute, and not every module takes it."""
    said = {each.type: each for each in asked}
    return (
        Attribute(ck.CKA_TOKEN, b"\1" if token else b"\0"),
        *(Attribute(kind, value) for kind, value in original.items() if value and kind != ck.CKA_TOKEN),
        *_owned_template(said, _FROM_ASKED),
    )


def guards(key: DomainKey, template: Template) -> bool:
    """Whether this domain key gives a key with this template back no weaker than it has to be."""
    needed = domain_for(template)
    return key in (needed, rsa_of(needed)) or needed is DomainKey.OPEN


def domain_for(template: Template) -> DomainKey:
    """The domain key for a published key: the sealed one, whose unwrap template keeps it sensitive and unextractable,
    for every key that is to be so."""
    sealed = flag(value_of(template, ck.CKA_SENSITIVE)) and not flag(value_of(template, ck.CKA_EXTRACTABLE))
    return DomainKey.SEALED if sealed else DomainKey.OPEN
