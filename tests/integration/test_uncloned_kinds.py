"""Keys of kinds that cannot be cloned: refused with nothing left, kept on one member, or made of the application's own
value on each (docs/members.md)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application, Template
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, OPEN, STAYS, Scene, dsa_private, scene
from tests.softhsm import MODULE

Group = Callable[..., TestGroup]
CURVES = {"ed25519": bytes.fromhex("130c656477617264733235353139"), "x25519": bytes.fromhex("130a63757276653235353139")}
"""CKA_EC_PARAMS as SoftHSM has them."""

DES: Template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_DES, ck.CKA_VALUE: bytes(range(1, 9))}

_LEGACY = """openssl_conf = init
[init]
providers = both
[both]
default = on
legacy = on
[on]
activate = 1
"""


def imports(value: bytes) -> dict[str, dict[int, Any]]:
    """Templates of keys that an application has itself; `value`: 32 bytes."""
    private: dict[int, Any] = {
        ck.CKA_CLASS: ck.CKO_PRIVATE_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_EC_EDWARDS,
        ck.CKA_VALUE: value,
    }
    secret = {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_DES,
        ck.CKA_VALUE: bytes.fromhex("0123456789abcdef"),
    }
    return {
        **{name: {**private, ck.CKA_EC_PARAMS: curve} for name, curve in CURVES.items()},
        "dsa": {**dsa_private()[1], ck.CKA_SIGN: True},
        "des": secret,
    }


def make_pair(app: Application, curve: str, protection: Template) -> tuple[int, int]:
    named = {ck.CKA_LABEL: curve.encode(), ck.CKA_ID: curve.encode()}
    public = {ck.CKA_TOKEN: protection[ck.CKA_TOKEN], ck.CKA_EC_PARAMS: CURVES[curve], **named}
    return app.pair(ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, public, {**protection, **named})


@pytest.fixture(scope="module")
def refusing(group_of_module: Group) -> TestGroup:
    return group_of_module(members=2)


def test_the_module_itself_wraps_none_of_them(refusing: TestGroup) -> None:
    """That is why; where it does one day, they can be cloned."""
    with refusing.member(0) as member:
        wrapping = member.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32, ck.CKA_WRAP: True})
        for curve in CURVES:
            _, private = make_pair(member, curve, {**OPEN, ck.CKA_TOKEN: False})
            for mechanism in (ck.CKM_AES_KEY_WRAP, ck.CKM_AES_KEY_WRAP_PAD):
                with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
                    member.wrap(mechanism, wrapping, private)


def test_refused_with_nothing_left(refusing: TestGroup) -> None:
    with scene(refusing) as it:
        before = it.inventory()
        for protection in (STAYS, LEAVES, OPEN):
            for curve in CURVES:
                with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
                    make_pair(it.app, curve, protection)
        for name, template in imports(bytes(range(32))).items():
            if name == "des" and _has_des(it):
                continue
            with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
                it.app.create({**template, **STAYS, ck.CKA_LABEL: name.encode()})
        assert it.inventory() == before
    logged = refusing.logged()
    assert (
        "C_GenerateKeyPair refused, the key cannot be on every member: no wrapping gives back exactly such a key"
        in logged
    )
    assert "a copy of such a private key cannot be proved" in logged


def _has_des(it: Scene) -> bool:
    """Whether SoftHSM's OpenSSL has the cipher here."""
    member = it.members[0]
    key = member.create({**DES, ck.CKA_TOKEN: False})
    try:
        return bool(member.value(key, ck.CKA_CHECK_VALUE))
    finally:
        member.destroy(key)


@pytest.mark.parametrize("protection", [LEAVES, OPEN], ids=["sensitive", "readable"])
def test_an_extractable_one_that_is_imported_is_made_on_each(refusing: TestGroup, protection: Template) -> None:
    """Of the value that the application gave: nothing is taken out of a token."""
    key = Ed25519PrivateKey.generate()
    label = b"own %d" % protection[ck.CKA_SENSITIVE]
    with scene(refusing) as it:
        for template in imports(key.private_bytes_raw()).values():
            it.app.create({**template, **protection, ck.CKA_LABEL: label})
        for member in it.members:
            assert len(member.find({ck.CKA_LABEL: label})) == 4
            (found,) = member.find({ck.CKA_LABEL: label, ck.CKA_EC_PARAMS: CURVES["ed25519"]})
            assert member.value(found, ck.CKA_SENSITIVE) == bytes([protection[ck.CKA_SENSITIVE]])
            key.public_key().verify(member.sign(ck.CKM_EDDSA, found, b"message"), b"message")


def test_pinned_each_is_on_one_member_and_works(group: Group) -> None:
    made = group(members=2, unreplicable="pin")
    key = Ed25519PrivateKey.generate()
    with scene(made) as it:
        own = it.app.create({**imports(key.private_bytes_raw())["ed25519"], **STAYS, ck.CKA_SIGN: True})
        key.public_key().verify(it.app.sign(ck.CKM_EDDSA, own, b"message"), b"message")
        it.app.create({**imports(b"")["dsa"], **STAYS, ck.CKA_LABEL: b"dsa"})
        assert [len(member.find({ck.CKA_LABEL: b"dsa"})) for member in it.members] == [1, 0]
    assert f"C_CreateObject: a key is on member {made.tokens[0].label} only" in made.logged()


def test_single_des_is_cloned_where_the_cipher_is_there(group: Group, tmp_path: Path) -> None:
    made = group(members=2)
    settings = tmp_path / "openssl.cnf"
    settings.write_text(_LEGACY)
    for index in range(2):
        made.put_module(index, MODULE, {"OPENSSL_CONF": str(settings)})
    with made.application() as app:
        try:
            key = app.generate(ck.CKM_DES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"des"})
        except Answered:
            pytest.skip("OpenSSL's legacy provider is not installed")
        hidden = app.encrypt(ck.CKM_DES_ECB, key, bytes(8))
    for index in range(2):
        made.only(index)
        with made.application() as app:
            (key,) = app.find({ck.CKA_LABEL: b"des"})
            assert app.encrypt(ck.CKM_DES_ECB, key, bytes(8)) == hidden
            assert app.value(key, ck.CKA_EXTRACTABLE) == b"\0"
