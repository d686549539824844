"""How the group's records are written: JSON without spaces behind a hash of it, as the CKA_VALUE of a data object.

Pure: values to bytes and back; knows nothing of what a record means (`records`, `tombstones`). The hash is against
accidents: whoever holds the PIN could forge a record, and the threat model says so.

Source: SEMANTICS.md section 5.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import APPLICATION
from pyha.ha.identity import Identity, ulong

_DIGEST = 64
"""Hexadecimal digits of the hash in front."""


class RecordDamaged(Exception):
    """The bytes are no record of ours, or not whole: one sentence."""


def sealed(fields: Mapping[str, object]) -> bytes:
    """The fields as CKA_VALUE."""
    import json  # not at start-up: most applications never make a key

    body = json.dumps(fields, separators=(",", ":")).encode()
    return sha256(body).hexdigest().encode() + body


@contextmanager
def fields_of(data: bytes, version: int) -> Iterator[dict[str, Any]]:
    """The fields in a CKA_VALUE, for a block that takes the record out of them. Raises RecordDamaged, also for what the
    block finds missing or garbled."""
    import json

    digest, body = data[:_DIGEST], data[_DIGEST:]
    if sha256(body).hexdigest().encode() != digest:
        raise RecordDamaged("a record's hash does not fit its content")
    try:
        fields = json.loads(body)
        if fields["pyha"] != version:
            raise RecordDamaged(f"a record of version {fields['pyha']}, which this pyha does not know")
        yield fields
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordDamaged(f"a record lacks or garbles a field: {type(error).__name__}") from None


def name_digest(identity: Identity) -> bytes:
    """32 hexadecimal digits for the name of an object (class, key type, id, label): records are filed under it, and
    found by one search."""
    digest = sha256()
    for attribute in (ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_ID, ck.CKA_LABEL):
        value = identity.get(attribute) or b""
        digest.update(len(value).to_bytes(8, "big") + value)
    return digest.hexdigest()[:32].encode()


def data_object(label: bytes, value: bytes, private: bool) -> Template:
    """The data object that holds a record."""
    return (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
        Attribute(ck.CKA_TOKEN, b"\1"),
        Attribute(ck.CKA_PRIVATE, b"\1" if private else b"\0"),
        Attribute(ck.CKA_APPLICATION, APPLICATION),
        Attribute(ck.CKA_LABEL, label),
        Attribute(ck.CKA_VALUE, value),
    )


def plain_template(template: Template) -> list[list[object]]:
    """A template as JSON has it."""
    return [
        [each.type, plain_template(each.value) if isinstance(each.value, tuple) else bytes(each.value or b"").hex()]
        for each in template
    ]


def template_from(plain: list[list[object]]) -> Template:
    """The template that `plain_template` wrote. Raises ValueError, TypeError."""
    found = []
    for kind, value in plain:
        if isinstance(value, list):
            found.append(Attribute(number_from(kind), template_from(value)))
        elif isinstance(value, str):
            found.append(Attribute(number_from(kind), bytes.fromhex(value)))
        else:
            raise TypeError("an attribute value is neither bytes nor a template")
    return tuple(found)


def number_from(value: object) -> int:
    """A CK_ULONG. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("not a CK_ULONG")
    return value


def text_from(value: object) -> str:
    """A text. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value
