"""Escrow records: the wrapped form of a key, as a data object beside it on every member.

A key that must not leave its tokens has one, and a secret key of a length that only RSA wrapping keeps: modules do not
tell the length of a copy, and nothing else would.

Pure: values to bytes and back. A record says which group and version it is of, carries the blob, the template that the
key was unwrapped with, and a hash against accidents. Whoever holds the PIN could forge one; the threat model says so.

Source: SEMANTICS.md section 5.
"""

from dataclasses import dataclass
from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import APPLICATION, DomainKey
from pyha.ha.identity import Identity, ulong

VERSION = 1


class RecordDamaged(Exception):
    """The bytes are no record of ours, or not whole: one sentence."""


@dataclass(frozen=True, slots=True)
class EscrowRecord:
    """`domain`: the key that `blob` is wrapped under, by `mechanism` (CKM_). `template`: for C_UnwrapKey, in order.
    `fingerprint`: tells apart keys that share class, type, id and label. `value_length`: bytes of a secret key, else
    None."""

    group_id: bytes
    domain: DomainKey
    mechanism: int
    blob: bytes
    template: Template
    fingerprint: bytes
    check_value: bytes = b""
    value_length: int | None = None


def record_label(identity: Identity) -> bytes:
    """CKA_LABEL of the record of a key: found by one search, without reading any record."""
    digest = sha256()
    for attribute in (ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_ID, ck.CKA_LABEL):
        value = identity.get(attribute) or b""
        digest.update(len(value).to_bytes(8, "big") + value)
    return b"escrow " + digest.hexdigest()[:32].encode()


def fingerprint_of(identity: Identity) -> bytes:
    """What tells a key from others of the same name: a hash of its public part or its check value; empty where it has
    none."""
    part = identity.get(ck.CKA_MODULUS) or identity.twin or identity.get(ck.CKA_CHECK_VALUE)
    return sha256(part).digest()[:16] if part else b""


def encode(record: EscrowRecord) -> bytes:
    """The record as CKA_VALUE."""
    import json  # not at start-up: most applications never make a key

    body = json.dumps(
        {
            "pyha": VERSION,
            "group": record.group_id.hex(),
            "domain": record.domain.value,
            "mechanism": record.mechanism,
            "blob": record.blob.hex(),
            "template": _plain(record.template),
            "fingerprint": record.fingerprint.hex(),
            "check": record.check_value.hex(),
            "length": record.value_length,
        },
        separators=(",", ":"),
    ).encode()
    return sha256(body).hexdigest().encode() + body


def decode(data: bytes) -> EscrowRecord:
    """The record in a CKA_VALUE. Raises RecordDamaged."""
    import json

    digest, body = data[:64], data[64:]
    if sha256(body).hexdigest().encode() != digest:
        raise RecordDamaged("a record's hash does not fit its content")
    try:
        fields = json.loads(body)
        if fields["pyha"] != VERSION:
            raise RecordDamaged(f"a record of version {fields['pyha']}, which this pyha does not know")
        return EscrowRecord(
            bytes.fromhex(fields["group"]),
            DomainKey(fields["domain"]),
            _number(fields["mechanism"]),
            bytes.fromhex(fields["blob"]),
            _template(fields["template"]),
            bytes.fromhex(fields["fingerprint"]),
            bytes.fromhex(fields["check"]),
            None if fields["length"] is None else _number(fields["length"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordDamaged(f"a record lacks or garbles a field: {type(error).__name__}") from None


def record_template(record: EscrowRecord, label: bytes) -> Template:
    """The data object that holds the record."""
    return (
        Attribute(ck.CKA_CLASS, ulong(ck.CKO_DATA)),
        Attribute(ck.CKA_TOKEN, b"\1"),
        Attribute(ck.CKA_PRIVATE, b"\1"),
        Attribute(ck.CKA_APPLICATION, APPLICATION),
        Attribute(ck.CKA_LABEL, label),
        Attribute(ck.CKA_VALUE, encode(record)),
    )


def _plain(template: Template) -> list[list[object]]:
    return [
        [each.type, _plain(each.value) if isinstance(each.value, tuple) else bytes(each.value or b"").hex()]
        for each in template
    ]


def _template(plain: list[list[object]]) -> Template:
    found = []
    for kind, value in plain:
        if isinstance(value, list):
            found.append(Attribute(_number(kind), _template(value)))
        elif isinstance(value, str):
            found.append(Attribute(_number(kind), bytes.fromhex(value)))
        else:
            raise TypeError("an attribute value is neither bytes nor a template")
    return tuple(found)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("not a CK_ULONG")
    return value
