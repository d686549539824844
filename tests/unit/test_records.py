"""Escrow records: what is written is what is read, and nothing else is believed."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.domain import DomainKey, impersonates
from pyha.ha.identity import identity_of, ulong
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import EscrowRecord, decode, encode, fingerprint_of, record_label, record_template
from pyha.ha.replication import value_of

RECORD = EscrowRecord(
    bytes(range(16)),
    DomainKey.SEALED_RSA,
    ck.CKM_RSA_PKCS_OAEP,
    b"blob",
    (
        Attribute(ck.CKA_LABEL, b"\xff\0"),
        Attribute(ck.CKA_UNWRAP_TEMPLATE, (Attribute(ck.CKA_SENSITIVE, b"\1"),)),
        Attribute(ck.CKA_MODIFIABLE, b"\0"),
    ),
    b"print",
    b"abc",
    33,
)


def _signed(body: bytes) -> bytes:
    return sha256(body).hexdigest().encode() + body


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, value_length=None, template=(), check_value=b"")])
def test_there_and_back(record: EscrowRecord) -> None:
    assert decode(encode(record)) == record


@pytest.mark.parametrize("at", [0, 63, 64, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    data = bytearray(encode(RECORD))
    data[at] ^= 1
    with pytest.raises(RecordDamaged):
        decode(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        {"pyha": 2},
        {"mechanism": "9"},
        {"mechanism": -1},
        {"mechanism": 1 << 64},
        {"domain": "mine"},
        {"blob": "xyz"},
        {"template": [[1]]},
        {"template": [[True, "00"]]},
        {"template": [[1, 2]]},
        {"template": None},
        {"length": 1.5},
        {"group": None},
    ],
)
def test_a_forged_field_is_damage_and_no_fault(change: dict[str, object]) -> None:
    fields = json.loads(encode(RECORD)[64:])
    with pytest.raises(RecordDamaged):
        decode(_signed(json.dumps({**fields, **change}).encode()))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100000])
def test_what_is_no_record_is_damage(body: bytes) -> None:
    with pytest.raises(RecordDamaged):
        decode(_signed(body))


def test_a_record_is_filed_under_its_keys_name() -> None:
    named = {ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY), ck.CKA_KEY_TYPE: ulong(ck.CKK_AES), ck.CKA_LABEL: b"ab"}
    labels = {
        record_label(identity_of(named)),
        record_label(identity_of({**named, ck.CKA_ID: b"b", ck.CKA_LABEL: b"a"})),
        record_label(identity_of({**named, ck.CKA_ID: b"ab", ck.CKA_LABEL: b""})),
        record_label(identity_of({**named, ck.CKA_KEY_TYPE: ulong(ck.CKK_DES3)})),
    }
    assert len(labels) == 4
    assert record_label(identity_of({**named, ck.CKA_CHECK_VALUE: b"abc"})) in labels


def test_keys_of_one_name_are_told_apart() -> None:
    by_check = fingerprint_of(identity_of({ck.CKA_CHECK_VALUE: b"abc"}))
    assert by_check == fingerprint_of(identity_of({ck.CKA_CHECK_VALUE: b"abc", ck.CKA_LABEL: b"x"})) != b""
    assert by_check != fingerprint_of(identity_of({ck.CKA_CHECK_VALUE: b"abd"}))
    assert fingerprint_of(identity_of({})) == b""
    assert fingerprint_of(identity_of({}, twin=b"point")) != b""


def test_nor_a_key_that_makes_one_of_what_it_unwraps() -> None:
    inner = (Attribute(ck.CKA_SENSITIVE, b"\1"), Attribute(ck.CKA_LABEL, b"pyha domain key 1"))
    assert impersonates((Attribute(ck.CKA_UNWRAP_TEMPLATE, inner),))
    assert not impersonates((Attribute(ck.CKA_UNWRAP_TEMPLATE, inner[:1]), Attribute(ck.CKA_LABEL, b"mine")))


def test_an_application_cannot_make_one() -> None:
    template = record_template(RECORD, b"escrow")
    assert impersonates(template)
    assert value_of(template, ck.CKA_PRIVATE) == b"\1"
