"""Creation through the slot: what was asked for is on every member, alike, and nothing else is."""

from collections.abc import Callable

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application, number
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]


def test_an_aes_key_is_on_every_member(group: Group) -> None:
    made = group()
    with made.application() as app:
        key = app.generate(
            ck.CKM_AES_KEY_GEN,
            {
                ck.CKA_TOKEN: True,
                ck.CKA_VALUE_LEN: 32,
                ck.CKA_LABEL: b"aes",
                ck.CKA_ENCRYPT: True,
                ck.CKA_DECRYPT: True,
                ck.CKA_SENSITIVE: True,
                ck.CKA_EXTRACTABLE: False,
            },
        )
        cipher = app.encrypt(ck.CKM_AES_ECB, key, bytes(16))
    for index in range(3):
        with made.member(index) as member:
            (copy,) = member.find({ck.CKA_LABEL: b"aes"})
            assert member.encrypt(ck.CKM_AES_ECB, copy, bytes(16)) == cipher
            assert member.read(copy, ck.CKA_EXTRACTABLE)[ck.CKA_EXTRACTABLE] == b"\0"
