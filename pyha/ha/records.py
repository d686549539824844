"""Escrow records: the wrapped form of a key, as a data object beside it on every member.

A key that must not leave its tokens has one, and a secret key of a length that only RSA wrapping keeps: modules do not
tell the length of a copy, and nothing else would.

Pure: values to bytes and back. A record says which group and version it is of, carries the blob, the template that the
key was unwrapped with, and a hash against accidents. Whoever holds the PIN could forge one; the threat model says so.

Source: SEMANTICS.md section 5.
"""

from hashlib import sha256

from pyha.cryptoki import constants as ck
from pyha.cryptoki.plain import dataclass
from pyha.cryptoki.values import Template
from pyha.ha.domain import DomainKey
from pyha.ha.identity import Identity
from pyha.ha.recording import (
    data_object,
    fields_of,
    name_digest,
    number_from,
    plain_template,
    sealed,
    template_from,
    text_from,
)

VERSION = 1

WRAPPING = "wrapping"
"""The strategy of cloning (`pyha.ha.cloning`) of a record that names none."""


@dataclass(frozen=True, slots=True)
class EscrowRecord:
    """`domain`: the key that `blob` is wrapped under, by `mechanism` (CKM_). `template`: for C_UnwrapKey, in order.
    `fingerprint`: tells apart keys that share class, type, id and label. `value_length`: bytes of a secret key, else
    None. `strategy`: that made the blob, and can make a key of it."""

    group_id: bytes
    domain: DomainKey
    mechanism: int
    blob: bytes
    template: Template
    fingerprint: bytes
    check_value: bytes = b""
    value_length: int | None = None
    strategy: str = WRAPPING


def record_label(identity: Identity) -> bytes:
    """CKA_LABEL of the record of a key: found by one search, without reading any record."""
    return b"escrow " + name_digest(identity)


def fingerprint_of(identity: Identity) -> bytes:
    """What tells a key from others of the same name: a hash of its public part or its check value; empty where it has
    none."""
    part = identity.get(ck.CKA_MODULUS) or identity.twin or identity.get(ck.CKA_CHECK_VALUE)
    return sha256(part).digest()[:16] if part else b""


def encode(record: EscrowRecord) -> bytes:
    """The record as CKA_VALUE."""
    return sealed(
        {
            "pyha": VERSION,
            "group": record.group_id.hex(),
            "domain": record.domain.value,
            "mechanism": record.mechanism,
            "blob": record.blob.hex(),
            "template": plain_template(record.template),
            "fingerprint": record.fingerprint.hex(),
            "check": record.check_value.hex(),
            "length": record.value_length,
            **({"strategy": record.strategy} if record.strategy != WRAPPING else {}),
        }
    )


def decode(data: bytes) -> EscrowRecord:
    """The record in a CKA_VALUE. Raises RecordDamaged."""
    with fields_of(data, VERSION) as fields:
        return EscrowRecord(
            bytes.fromhex(fields["group"]),
            DomainKey(fields["domain"]),
            number_from(fields["mechanism"]),
            bytes.fromhex(fields["blob"]),
            template_from(fields["template"]),
            bytes.fromhex(fields["fingerprint"]),
            bytes.fromhex(fields["check"]),
            None if fields["length"] is None else number_from(fields["length"]),
            text_from(fields.get("strategy", WRAPPING)),
        )


def record_template(record: EscrowRecord, label: bytes) -> Template:
    """The data object that holds the record."""
    return data_object(label, encode(record), private=True)
