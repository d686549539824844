"""Copies, changes and destruction through the slot; and that no protection gets weaker on the way."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS, weaker
from pyha.ha.records import EscrowRecord, decode
from pyha.ha.replication import value_of
from tests.application import Answered, Application
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, OPEN, P256, STAYS, Scene, ec_private, scene, value_length

Group = Callable[..., TestGroup]
BLOCK = bytes(range(16))


@pytest.fixture(scope="module")
def it(group_of_module: Group) -> Iterator[Scene]:
    with scene(group_of_module()) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _clean(it: Scene) -> Iterator[None]:
    """Whatever a test makes, and is gone through the slot, is gone from every member, records included."""
    before = it.inventory()
    yield
    for handle in it.app.find({}):
        it.app.destroy(handle)
    assert it.inventory() == before


def aes(it: Scene, label: bytes, kind: Mapping[int, Any]) -> int:
    """A generated key of 32 bytes."""
    return it.app.generate(ck.CKM_AES_KEY_GEN, {**kind, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})


def records(it: Scene) -> list[list[EscrowRecord]]:
    """The records on each member."""
    found = []
    for member in it.members:
        values = [member.read(real, ck.CKA_VALUE)[ck.CKA_VALUE] for real in member.find({ck.CKA_APPLICATION: b"pyha"})]
        found.append(sorted((decode(value or b"") for value in values), key=lambda record: record.fingerprint))
    return found


def only_record(it: Scene) -> EscrowRecord:
    """The one record, the same on every member."""
    found = records(it)
    assert [len(each) for each in found] == [1] * len(found)
    assert len({each[0] for each in found}) == 1
    return found[0][0]


# -- copies -------------------------------------------------------------------------------------------------------


def test_an_extractable_key_copied_as_one_that_stays(it: Scene) -> None:
    key = aes(it, b"source", LEAVES)
    copy = it.app.copy(key, {ck.CKA_EXTRACTABLE: False, ck.CKA_LABEL: b"copy", ck.CKA_DECRYPT: False})
    assert it.alike(b"copy", ck.CKA_EXTRACTABLE, ck.CKA_DECRYPT) == [b"\0", b"\0"]
    assert it.alike(b"source", ck.CKA_EXTRACTABLE) == [b"\1"]
    record = only_record(it)
    assert value_of(record.template, ck.CKA_EXTRACTABLE) == b"\0"
    assert value_of(record.template, ck.CKA_DECRYPT) == b"\0"
    assert value_of(record.template, ck.CKA_LABEL) == b"copy"
    assert it.app.encrypt(ck.CKM_AES_ECB, copy, BLOCK) == it.app.encrypt(ck.CKM_AES_ECB, key, BLOCK)
    assert value_length(it.app, copy) == 32


def test_a_key_that_stays_is_copied_with_its_record(it: Scene) -> None:
    key = aes(it, b"source", STAYS)
    more = {ck.CKA_ENCRYPT: False, ck.CKA_MODIFIABLE: False}  # SoftHSM takes nothing after the latter
    it.app.copy(key, {ck.CKA_LABEL: b"copy", **more})
    assert it.records() == [2] * 3
    assert it.alike(b"copy", *more, ck.CKA_EXTRACTABLE) == [b"\0"] * 3
    (copied,) = [each for each in records(it)[0] if value_of(each.template, ck.CKA_LABEL) == b"copy"]
    assert [value_of(copied.template, each) for each in more] == [b"\0"] * 2
    it.app.destroy(key)
    assert it.records() == [1] * 3


def test_copies_of_the_same_name_keep_a_record_each(it: Scene) -> None:
    key = aes(it, b"twins", STAYS)
    copy = it.app.copy(key, {ck.CKA_ENCRYPT: False})
    assert it.records() == [2] * 3
    it.app.destroy(key)
    assert value_of(only_record(it).template, ck.CKA_ENCRYPT) == b"\0"
    it.app.destroy(copy)
    assert it.records() == [0] * 3


@pytest.mark.parametrize("kind", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_a_session_key_copied_to_the_token(it: Scene, kind: Mapping[int, bool]) -> None:
    key = it.app.generate(ck.CKM_AES_KEY_GEN, {**LEAVES, ck.CKA_TOKEN: False, ck.CKA_VALUE_LEN: 16})
    extractable = kind[ck.CKA_EXTRACTABLE]
    it.app.copy(key, {ck.CKA_TOKEN: True, ck.CKA_EXTRACTABLE: extractable, ck.CKA_LABEL: b"copy"})
    assert it.alike(b"copy", ck.CKA_EXTRACTABLE) == [bytes([extractable])]
    ciphers = {member.encrypt(ck.CKM_AES_ECB, real, BLOCK) for member, real in it.everywhere(b"copy")}
    assert ciphers == {it.app.encrypt(ck.CKM_AES_ECB, key, BLOCK)}


def test_an_imported_session_key_that_may_not_leave_becomes_a_token_object(it: Scene) -> None:
    """Nobody could wrap it any more; its wrapped form was kept when it was made."""
    imported = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(range(16))}
    key = it.app.create({**STAYS, **imported, ck.CKA_TOKEN: False})
    it.app.copy(key, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"copy"})
    assert it.alike(b"copy", ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE) == [b"\0", b"\1"]
    ciphers = {member.encrypt(ck.CKM_AES_ECB, real, BLOCK) for member, real in it.everywhere(b"copy")}
    assert ciphers == {it.app.encrypt(ck.CKM_AES_ECB, key, BLOCK)}


def test_a_session_key_that_may_not_leave_and_cannot_be_proved_does_not_become_a_token_object(it: Scene) -> None:
    """A derived one: SoftHSM tells the check value of another key."""
    usage = {ck.CKA_DERIVE: True, ck.CKA_VALUE: bytes(range(16))}
    base = it.app.create({**STAYS, **usage, ck.CKA_CLASS: 4, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_TOKEN: False})
    derived = {ck.CKA_CLASS: 4, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE_LEN: 16, ck.CKA_TOKEN: False}
    how = (ck.CKM_AES_ECB_ENCRYPT_DATA, [("pointer", bytes(16))])
    key = it.app.derive(how, base, {**STAYS, **derived})
    before = it.inventory()
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        it.app.copy(key, {ck.CKA_TOKEN: True})
    assert it.inventory() == before


def test_session_objects_that_are_no_secret_copied_to_the_token(it: Scene) -> None:
    certificate = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: 0, ck.CKA_SUBJECT: b"\x30\0"}
    session = it.app.create({**certificate, ck.CKA_VALUE: b"\x30\1\0", ck.CKA_ID: b"\7"})
    it.app.copy(session, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"cert"})
    assert it.alike(b"cert", ck.CKA_VALUE, ck.CKA_SUBJECT, ck.CKA_ID) == [b"\x30\1\0", b"\x30\0", b"\7"]
    data = it.app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: bytes(5000), ck.CKA_APPLICATION: b"app"})
    it.app.copy(data, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"data"})
    assert it.alike(b"data", ck.CKA_VALUE, ck.CKA_APPLICATION) == [bytes(5000), b"app"]


def test_a_token_object_copied_into_the_session(it: Scene) -> None:
    key = aes(it, b"source", STAYS)
    before = it.inventory()
    copy = it.app.copy(key, {ck.CKA_TOKEN: False})
    assert it.app.encrypt(ck.CKM_AES_ECB, copy, BLOCK) == it.app.encrypt(ck.CKM_AES_ECB, key, BLOCK)
    assert it.inventory() == before


# -- changes ------------------------------------------------------------------------------------------------------


def test_the_record_follows_the_name(it: Scene) -> None:
    key = aes(it, b"old", STAYS)
    old = only_record(it)
    it.app.set(key, {ck.CKA_LABEL: b"new", ck.CKA_ID: b"\1\2"})
    it.everywhere(b"new")
    it.everywhere(b"old", 0)
    new = only_record(it)
    assert value_of(new.template, ck.CKA_LABEL) == b"new"
    assert value_of(new.template, ck.CKA_ID) == b"\1\2"
    assert new.blob == old.blob
    with it.group.application() as again:
        (found,) = again.find({ck.CKA_LABEL: b"new"})
        again.destroy(found)
    assert it.records() == [0] * 3
    with pytest.raises(Answered, match="CKR_OBJECT_HANDLE_INVALID"):
        it.app.destroy(key)


def test_a_key_becomes_unextractable_and_is_escrowed(it: Scene) -> None:
    template = {**LEAVES, ck.CKA_ALLOWED_MECHANISMS: ck.CKM_AES_ECB.to_bytes(8, "little"), ck.CKA_COPYABLE: False}
    key = it.app.generate(
        ck.CKM_AES_KEY_GEN,
        {**template, ck.CKA_LABEL: b"flip", ck.CKA_VALUE_LEN: 24, ck.CKA_WRAP_TEMPLATE: {ck.CKA_SENSITIVE: True}},
    )
    assert it.records() == [0] * 3
    it.app.set(key, {ck.CKA_EXTRACTABLE: False})
    assert it.alike(b"flip", ck.CKA_EXTRACTABLE) == [b"\0"]
    record = only_record(it)
    said = {each.type: each.value for each in record.template}
    assert said[ck.CKA_EXTRACTABLE] == b"\0"
    assert said[ck.CKA_COPYABLE] == b"\0"
    assert said[ck.CKA_ALLOWED_MECHANISMS] == ck.CKM_AES_ECB.to_bytes(8, "little")
    assert [(each.type, each.value) for each in said[ck.CKA_WRAP_TEMPLATE]] == [(ck.CKA_SENSITIVE, b"\1")]
    assert record.value_length == 24
    assert record.domain.value == "sealed"


def test_a_key_becomes_sensitive_and_unextractable_at_once(it: Scene) -> None:
    key = aes(it, b"flip", OPEN)
    it.app.set(key, {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False})
    assert it.alike(b"flip", ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE) == [b"\1", b"\0"]
    record = only_record(it)
    assert value_of(record.template, ck.CKA_SENSITIVE) == b"\1"
    assert record.domain.value == "sealed"


def test_an_imported_ec_key_becomes_unextractable(it: Scene) -> None:
    _, template = ec_private()
    key = it.app.create({**template, **LEAVES, ck.CKA_DERIVE: True, ck.CKA_LABEL: b"ec"})
    it.app.set(key, {ck.CKA_EXTRACTABLE: False})
    only_record(it)
    assert it.alike(b"ec", ck.CKA_EXTRACTABLE) == [b"\0"]


def test_a_refused_change_leaves_the_record_as_it_was(it: Scene) -> None:
    key = it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 16, ck.CKA_MODIFIABLE: False})
    before = records(it)
    for change in ({ck.CKA_LABEL: b"other"}, {ck.CKA_ENCRYPT: True}):
        with pytest.raises(Answered, match="CKR_ACTION_PROHIBITED"):
            it.app.set(key, change)
    assert records(it) == before


def test_extractable_again_is_refused_everywhere(it: Scene) -> None:
    key = aes(it, b"stays", STAYS)
    before = records(it)
    with pytest.raises(Answered, match="CKR_ATTRIBUTE_READ_ONLY"):
        it.app.set(key, {ck.CKA_EXTRACTABLE: True})
    assert it.alike(b"stays", ck.CKA_EXTRACTABLE) == [b"\0"]
    assert records(it) == before


def test_usage_changes_go_into_the_record(it: Scene) -> None:
    key = aes(it, b"usage", STAYS)
    it.app.set(key, {ck.CKA_WRAP: False, ck.CKA_UNWRAP: False})
    assert it.alike(b"usage", ck.CKA_WRAP, ck.CKA_UNWRAP) == [b"\0", b"\0"]
    record = only_record(it)
    assert [value_of(record.template, each) for each in (ck.CKA_WRAP, ck.CKA_UNWRAP)] == [b"\0", b"\0"]


def test_destruction_is_everywhere(it: Scene) -> None:
    key = aes(it, b"gone", STAYS)
    it.app.destroy(key)
    it.everywhere(b"gone", 0)
    assert it.records() == [0] * 3
    with pytest.raises(Answered, match="CKR_OBJECT_HANDLE_INVALID"):
        it.app.read(key, ck.CKA_LABEL)


def test_a_pair_is_destroyed_after_its_public_half(it: Scene) -> None:
    it.app.pair(
        ck.CKM_EC_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_ID: b"\5"},
        {**STAYS, ck.CKA_ID: b"\5"},
    )
    with it.group.application() as again:
        again.destroy(again.find({ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})[0])
    with it.group.application() as again:
        again.destroy(again.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})[0])
    assert it.records() == [0] * 3


# -- protections --------------------------------------------------------------------------------------------------

_PROTECTED: dict[str, dict[int, Any]] = {
    "copyable": {ck.CKA_COPYABLE: False},
    "modifiable": {ck.CKA_MODIFIABLE: False},
    "usage": {ck.CKA_ENCRYPT: False, ck.CKA_DECRYPT: False, ck.CKA_WRAP: False, ck.CKA_UNWRAP: False},
    "mechanisms": {ck.CKA_ALLOWED_MECHANISMS: (ck.CKM_AES_ECB.to_bytes(8, "little"))},
    "templates": {
        ck.CKA_WRAP_TEMPLATE: {ck.CKA_EXTRACTABLE: True},
        ck.CKA_UNWRAP_TEMPLATE: {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False},
    },
    "dates": {ck.CKA_START_DATE: b"20200101", ck.CKA_END_DATE: b"20400101"},
    "empty": {ck.CKA_LABEL: b"", ck.CKA_ID: b""},
    "bytes": {ck.CKA_LABEL: b"\xff\0\xfe \xc3", ck.CKA_ID: bytes(range(256))},
}


@pytest.mark.parametrize("which", list(_PROTECTED))
@pytest.mark.parametrize("kind", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_what_a_key_was_made_with_is_so_on_every_member(it: Scene, kind: Mapping[int, bool], which: str) -> None:
    asked = {**kind, ck.CKA_LABEL: b"protected", **_PROTECTED[which]}
    key = it.app.generate(ck.CKM_AES_KEY_GEN, {**asked, ck.CKA_VALUE_LEN: 16})
    shown = [each for each in asked if each not in (ck.CKA_START_DATE, ck.CKA_END_DATE)]
    wanted = {each: bytes([value]) if isinstance(value, bool) else value for each, value in asked.items()}
    for member, real in [*it.everywhere(asked[ck.CKA_LABEL]), (it.app, key)]:
        found = member.read(real, *shown)
        for each in shown:
            if isinstance(asked[each], dict):
                assert len(found[each] or b"") == 24 * len(asked[each])
            else:
                assert found[each] == wanted[each]


def test_no_protection_is_weaker_than_on_a_plain_token(it: Scene, group: Group) -> None:
    """The same calls on the slot and on a token without any of ours: every protection that one has the other has."""
    plain = group(members=1, label="plain")
    with plain.member(0) as token:
        for kind in (STAYS, LEAVES, OPEN, {ck.CKA_TOKEN: True}, {ck.CKA_TOKEN: True, ck.CKA_PRIVATE: False}):
            for make in (_aes, _private, _public):
                expected = token.read(make(token, kind), *PROTECTIONS)
                handle = make(it.app, kind)
                label = it.app.read(handle, ck.CKA_LABEL)[ck.CKA_LABEL] or b""
                for member, real in [*it.everywhere(label), (it.app, handle)]:
                    found = member.read(real, *PROTECTIONS)
                    assert weaker(_known(expected), _known(found)) == (), (kind, make)
                it.app.destroy(handle)


def _known(values: dict[int, bytes | None]) -> dict[int, bytes]:
    return {kind: value for kind, value in values.items() if value is not None}


def _aes(application: Application, kind: Mapping[int, Any]) -> int:
    return application.generate(ck.CKM_AES_KEY_GEN, {**kind, ck.CKA_VALUE_LEN: 16, ck.CKA_LABEL: b"compared"})


def _pair(application: Application, kind: Mapping[int, Any]) -> tuple[int, int]:
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"compared public"}
    return application.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**kind, ck.CKA_LABEL: b"compared"})


def _private(application: Application, kind: Mapping[int, Any]) -> int:
    public, private = _pair(application, kind)
    application.destroy(public)
    return private


def _public(application: Application, kind: Mapping[int, Any]) -> int:
    public, private = _pair(application, kind)
    application.destroy(private)
    return public


def test_always_authenticate_is_kept(it: Scene) -> None:
    it.app.pair(
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_MODULUS_BITS: 1024, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1"},
        {**STAYS, ck.CKA_ALWAYS_AUTHENTICATE: True, ck.CKA_LABEL: b"always"},
    )
    assert it.alike(b"always", ck.CKA_ALWAYS_AUTHENTICATE) == [b"\1"]


def test_a_key_that_cannot_be_destroyed_is_made_all_the_same(group: Group) -> None:
    with scene(group(members=2)) as it:
        key = it.app.generate(
            ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 16, ck.CKA_DESTROYABLE: False, ck.CKA_LABEL: b"for ever"}
        )
        assert it.alike(b"for ever", ck.CKA_DESTROYABLE) == [b"\0"]
        with pytest.raises(Answered, match="CKR_ACTION_PROHIBITED"):
            it.app.destroy(key)
        assert it.records() == [1, 1]


def test_trusted_wrapping_only_is_unreplicable(it: Scene) -> None:
    before = it.inventory()
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        it.app.generate(ck.CKM_AES_KEY_GEN, {**LEAVES, ck.CKA_VALUE_LEN: 16, ck.CKA_WRAP_WITH_TRUSTED: True})
    assert it.inventory() == before


def test_records_are_what_the_documents_say(it: Scene) -> None:
    aes(it, b"written", STAYS)
    (real,) = it.members[0].find({ck.CKA_APPLICATION: b"pyha"})
    value = it.members[0].read(real, ck.CKA_VALUE)[ck.CKA_VALUE] or b""
    fields = json.loads(value[64:])
    assert fields["length"] == 32
    assert fields["domain"] == "sealed"
    assert it.members[0].read(real, ck.CKA_PRIVATE)[ck.CKA_PRIVATE] == b"\1"
