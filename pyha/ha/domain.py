"""The group's own objects on its members' tokens: domain keys and records. How they are named, found and kept out of
sight.

Pure. Knows names and templates only; the values of domain keys exist on the tokens, and for a moment in the command
that makes a group.

Source: SEMANTICS.md section 5; REPLICATION.md (domain keys).
"""

from enum import StrEnum
from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import number, ulong

APPLICATION = b"pyha"
"""CKA_APPLICATION of every record."""

_DOMAIN_LABEL = b"pyha domain key"


class DomainKey(StrEnum):
    """Which domain key. `SEALED` gives back only keys that are sensitive and never leave again (its unwrap template
    says so), `OPEN` those that the application made extractable or readable."""

    SEALED = "sealed"
    OPEN = "open"


def domain_id(group_id: bytes, key: DomainKey) -> bytes:
    """CKA_ID of a domain key (20 bytes)."""
    return b"pyha" + sha256(group_id + key.value.encode()).digest()[:16]


def domain_search(group_id: bytes, key: DomainKey | None = None) -> Template:
    """Finds the group's domain keys on a token: one, or all of them."""
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_LABEL, domain_label(group_id)),
    )
    return template if key is None else (*template, Attribute(ck.CKA_ID, domain_id(group_id, key)))


def domain_label(group_id: bytes) -> bytes:
    """CKA_LABEL of the group's domain keys."""
    return _DOMAIN_LABEL + b" " + group_id.hex().encode()


def domain_template(group_id: bytes, key: DomainKey) -> Template:
    """What a domain key is, but for its value: it wraps and unwraps, by AES key wrapping only, and nothing can make it
    do more. Every usage flag is named, because modules default them to true; not modifiable and not copyable, because
    else a holder of the PIN adds CKA_DECRYPT and undoes the wrapping by hand."""
    yes, no = b"\1", b"\0"
    mechanisms = ulong(ck.CKM_AES_KEY_WRAP) + ulong(ck.CKM_AES_KEY_WRAP_PAD)
    sealed: Template = (
        (Attribute(ck.CKA_UNWRAP_TEMPLATE, (Attribute(ck.CKA_SENSITIVE, yes), Attribute(ck.CKA_EXTRACTABLE, no))),)
        if key is DomainKey.SEALED
        else ()
    )
    return (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)),
        Attribute(ck.CKA_KEY_TYPE, ulong(ck.CKK_AES)),
        Attribute(ck.CKA_TOKEN, yes),
        Attribute(ck.CKA_PRIVATE, yes),
        Attribute(ck.CKA_ID, domain_id(group_id, key)),
        Attribute(ck.CKA_LABEL, domain_label(group_id)),
        Attribute(ck.CKA_SENSITIVE, yes),
        Attribute(ck.CKA_EXTRACTABLE, no),
        *(
            Attribute(usage, no)
            for usage in (ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_DERIVE)
        ),
        Attribute(ck.CKA_WRAP, yes),
        Attribute(ck.CKA_UNWRAP, yes),
        Attribute(ck.CKA_ALLOWED_MECHANISMS, mechanisms),
        *sealed,
        Attribute(ck.CKA_COPYABLE, no),
        Attribute(ck.CKA_MODIFIABLE, no),
    )


def record_search(label: bytes | None = None) -> Template:
    """Finds records: all, or those of one label."""
    template: Template = (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
        Attribute(ck.CKA_APPLICATION, APPLICATION),
    )
    return template if label is None else (*template, Attribute(ck.CKA_LABEL, label))


def could_match_record(template: Template) -> bool:
    """Whether a search may find records."""
    return _could_be(template, ck.CKO_DATA)


def could_match_domain(template: Template) -> bool:
    """Whether a search may find domain keys."""
    return _could_be(template, ck.CKO_SECRET_KEY)


def _could_be(template: Template, object_class: int) -> bool:
    for attribute in template:
        if attribute.type == ck.CKA_CLASS and number(bytes(attribute.value or b"")) != object_class:
            return False
    return True


def impersonates(template: Template) -> bool:
    """Whether an application's template would make an object that passes for one of the group's own."""
    for attribute in template:
        if attribute.type == ck.CKA_APPLICATION and bytes(attribute.value or b"") == APPLICATION:
            return True
        if attribute.type == ck.CKA_LABEL and bytes(attribute.value or b"").startswith(_DOMAIN_LABEL):
            return True
        if (
            attribute.type == ck.CKA_ID
            and bytes(attribute.value or b"").startswith(b"pyha")
            and len(attribute.value) == 20
        ):
            return True
    return False
