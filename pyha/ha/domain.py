"""The group's own objects on its members' tokens: domain keys and records. How they are named, found and kept out of
sight.

Pure. Knows names and templates only; the values of domain keys exist on the tokens, and for a moment in the command
that makes a group.

Source: SEMANTICS.md section 5; REPLICATION.md (domain keys).
"""

from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from pyha.cryptoki import constants as ck
from pyha.cryptoki.keys import USAGE
from pyha.cryptoki.values import Attribute, Mechanism, Parameter, Template
from pyha.ha.identity import number, ulong

APPLICATION = b"pyha"
"""CKA_APPLICATION of every record."""

_DOMAIN_LABEL = b"pyha domain key"


class DomainKey(StrEnum):
    """Which domain key. The sealed ones give back only keys that are sensitive and never leave again (their unwrap
    template says so), the open ones those that the application made extractable or readable. AES keys carry all keys
    whose length AES key wrapping keeps; RSA pairs carry secret keys of every other length."""

    SEALED = "sealed"
    OPEN = "open"
    SEALED_RSA = "sealed-rsa"
    OPEN_RSA = "open-rsa"


AES_KEYS = (DomainKey.SEALED, DomainKey.OPEN)
RSA_KEYS = (DomainKey.SEALED_RSA, DomainKey.OPEN_RSA)
_SEALED = (DomainKey.SEALED, DomainKey.SEALED_RSA)
RSA_BITS = 3072
RSA_EXPONENT = b"\1\0\1"


class DomainHandles(NamedTuple):
    """A domain key's real handles on one member: two objects for an RSA pair, one and the same for an AES key."""

    wrapping: int
    unwrapping: int


def rsa_of(key: DomainKey) -> DomainKey:
    """The RSA pair that guards as this AES key does."""
    return DomainKey.SEALED_RSA if key is DomainKey.SEALED else DomainKey.OPEN_RSA


def domain_id(group_id: bytes, key: DomainKey) -> bytes:
    """CKA_ID of a domain key (20 bytes)."""
    return b"pyha" + sha256(group_id + key.value.encode()).digest()[:16]


def domain_search(group_id: bytes, key: DomainKey | None = None, object_class: int | None = None) -> Template:
    """Finds the group's domain keys on a token: all of them, or one; of an RSA pair the half of that CKO_ class."""
    template: Template = (Attribute(ck.CKA_LABEL, domain_label(group_id)),)
    if key is None:
        return template
    wanted = ulong(ck.CKO_SECRET_KEY if object_class is None else object_class)
    return (*template, Attribute(ck.CKA_CLASS, wanted), Attribute(ck.CKA_ID, domain_id(group_id, key)))


def is_domain_label(label: bytes) -> bool:
    """Whether an object of this CKA_LABEL is a domain key, of this group or another."""
    return label.startswith(_DOMAIN_LABEL)


def is_domain_id(value: bytes) -> bool:
    """Whether a key of this CKA_ID is a domain key, of this group or another."""
    return value.startswith(b"pyha") and len(value) == 20


def domain_label(group_id: bytes) -> bytes:
    """CKA_LABEL of the group's domain keys."""
    return _DOMAIN_LABEL + b" " + group_id.hex().encode()


_YES, _NO = b"\1", b"\0"


def aes_template(group_id: bytes, key: DomainKey) -> Template:
    """What an AES domain key is, but for its value: it wraps and unwraps, by AES key wrapping only, and nothing can
    make it do more. Every usage flag is named, because modules default them to true; not modifiable and not copyable,
    because else a holder of the PIN adds CKA_DECRYPT and undoes the wrapping by hand."""
    return (
        *_named(group_id, key, ck.CKO_SECRET_KEY, ck.CKK_AES),
        *_usage(ck.CKO_SECRET_KEY, (ck.CKA_WRAP, ck.CKA_UNWRAP)),
        _allowed(ck.CKM_AES_KEY_WRAP, ck.CKM_AES_KEY_WRAP_PAD),
        *_guard(key),
        Attribute(ck.CKA_SENSITIVE, _YES),
        Attribute(ck.CKA_EXTRACTABLE, _NO),
        *_FIXED,
    )


def rsa_private_template(group_id: bytes, key: DomainKey) -> Template:
    """What the private half of an RSA domain key is unwrapped as: it unwraps, by OAEP only, and nothing else."""
    return (
        *_named(group_id, key, ck.CKO_PRIVATE_KEY, ck.CKK_RSA),
        *_usage(ck.CKO_PRIVATE_KEY, (ck.CKA_UNWRAP,)),
        _allowed(ck.CKM_RSA_PKCS_OAEP),
        *_guard(key),
        Attribute(ck.CKA_SENSITIVE, _YES),
        Attribute(ck.CKA_EXTRACTABLE, _NO),
        *_FIXED,
    )


def rsa_public_template(group_id: bytes, key: DomainKey, modulus: bytes, exponent: bytes) -> Template:
    """The public half of an RSA domain key: it wraps, by OAEP only. Private, so that nobody sees it without login."""
    return (
        *_named(group_id, key, ck.CKO_PUBLIC_KEY, ck.CKK_RSA),
        Attribute(ck.CKA_MODULUS, modulus),
        Attribute(ck.CKA_PUBLIC_EXPONENT, exponent),
        *_usage(ck.CKO_PUBLIC_KEY, (ck.CKA_WRAP,)),
        _allowed(ck.CKM_RSA_PKCS_OAEP),
        *_FIXED,
    )


_FIXED: Template = (Attribute(ck.CKA_COPYABLE, _NO), Attribute(ck.CKA_MODIFIABLE, _NO))


def _named(group_id: bytes, key: DomainKey, object_class: int, key_type: int) -> Template:
    return (
        Attribute(ck.CKA_CLASS, ulong(object_class)),
        Attribute(ck.CKA_KEY_TYPE, ulong(key_type)),
        Attribute(ck.CKA_TOKEN, _YES),
        Attribute(ck.CKA_PRIVATE, _YES),
        Attribute(ck.CKA_ID, domain_id(group_id, key)),
        Attribute(ck.CKA_LABEL, domain_label(group_id)),
    )


def _usage(object_class: int, allowed: tuple[int, ...]) -> Template:
    return tuple(Attribute(usage, _YES if usage in allowed else _NO) for usage in USAGE[object_class])


def _allowed(*mechanisms: int) -> Attribute:
    return Attribute(ck.CKA_ALLOWED_MECHANISMS, b"".join(ulong(each) for each in mechanisms))


def _guard(key: DomainKey) -> Template:
    if key not in _SEALED:
        return ()
    inner: Template = (Attribute(ck.CKA_SENSITIVE, _YES), Attribute(ck.CKA_EXTRACTABLE, _NO))
    return (Attribute(ck.CKA_UNWRAP_TEMPLATE, inner),)


OAEP = Mechanism(
    ck.CKM_RSA_PKCS_OAEP,
    Parameter(ulong(ck.CKM_SHA_1) + ulong(ck.CKG_MGF1_SHA1) + ulong(ck.CKZ_DATA_SPECIFIED) + ulong(0) + ulong(0)),
)
"""How RSA domain keys wrap: OAEP with SHA-1, which every module that has OAEP at all has."""


def wrapping_mechanism(mechanism: int) -> Mechanism:
    """The mechanism with its parameter for C_WrapKey and C_UnwrapKey under a domain key; `mechanism`: CKM_."""
    return OAEP if mechanism == ck.CKM_RSA_PKCS_OAEP else Mechanism(mechanism)


def record_search(label: bytes | None = None) -> Template:
    """Finds records: all, or those of one label."""
    template: Template = (
        Attribute(ck.CKA_APPLICATION, APPLICATION),
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
    )
    # First what tells most: a module may look no further at an object that differs in it, and there may be thousands.
    return template if label is None else (Attribute(ck.CKA_LABEL, label), *template)


def could_match_record(template: Template) -> bool:
    """Whether a search may find records."""
    return _could_be(template, (ck.CKO_DATA,))


def could_match_domain(template: Template) -> bool:
    """Whether a search may find domain keys."""
    return _could_be(template, (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY))


def _could_be(template: Template, classes: tuple[int, ...]) -> bool:
    for attribute in template:
        if attribute.type == ck.CKA_CLASS:
            wanted = number(bytes(attribute.value or b""))
            # What a module makes of one that is no CK_ULONG is not known.
            if wanted is not None and wanted not in classes:
                return False
    return True


def impersonates(template: Template) -> bool:
    """Whether an application's template would make an object that passes for one of the group's own."""
    for attribute in template:
        if isinstance(attribute.value, tuple):
            # What an unwrap or derive template says, the module puts on what is made by such a key.
            if impersonates(attribute.value):
                return True
            continue
        value = bytes(attribute.value or b"")
        if attribute.type == ck.CKA_APPLICATION and value == APPLICATION:
            return True
        if attribute.type == ck.CKA_LABEL and is_domain_label(value):
            return True
        if attribute.type == ck.CKA_ID and is_domain_id(value):
            return True
    return False
