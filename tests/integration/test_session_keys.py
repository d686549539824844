"""Session keys that applications generate and then keep: Java's key stores copy them to token objects with
C_CopyObject."""

from collections.abc import Callable

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
FLAGS = (ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE)

P256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"


def aes(app: Application) -> int:
    return app.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_ENCRYPT: True, ck.CKA_SENSITIVE: True})


def test_a_session_key_that_does_not_leave_becomes_a_token_object_on_every_member(group: Group) -> None:
    made = group()
    with made.application() as app:
        key = aes(app)
        before = app.encrypt(ck.CKM_AES_ECB, key, bytes(16))
        copy = app.copy(key, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"kept", ck.CKA_ID: b"\x01"})
        assert app.encrypt(ck.CKM_AES_ECB, copy, bytes(16)) == before
        assert app.read(copy, *FLAGS) == {ck.CKA_EXTRACTABLE: b"\0", ck.CKA_SENSITIVE: b"\1"}
    for index in range(3):
        with made.member(index) as member:
            (found,) = member.find({ck.CKA_LABEL: b"kept"})
            assert member.encrypt(ck.CKM_AES_ECB, found, bytes(16)) == before
            assert member.read(found, *FLAGS) == {ck.CKA_EXTRACTABLE: b"\0", ck.CKA_SENSITIVE: b"\1"}
            assert not member.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_LABEL: b""})


def test_a_session_pair_s_private_key(group: Group) -> None:
    made = group()
    with made.application() as app:
        public, private = app.pair(ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: P256}, {ck.CKA_SIGN: True})
        copy = app.copy(private, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"kept"})
        assert app.verify(ck.CKM_ECDSA, public, bytes(32), app.sign(ck.CKM_ECDSA, copy, bytes(32)))
    for index in range(3):
        with made.member(index) as member:
            assert len(member.find({ck.CKA_LABEL: b"kept", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})) == 1


def test_what_cannot_be_cloned_is_a_session_key_all_the_same(group: Group) -> None:
    made = group()
    with made.application() as app:
        ed25519 = b"\x13\x0cedwards25519"
        _, private = app.pair(ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: ed25519}, {ck.CKA_SIGN: True})
        with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
            app.copy(private, {ck.CKA_TOKEN: True})


def test_a_copy_is_never_extractable_again(group: Group) -> None:
    made = group()
    with made.application() as app:
        key = aes(app)
        with pytest.raises(Answered):
            app.copy(key, {ck.CKA_TOKEN: True, ck.CKA_EXTRACTABLE: True})
