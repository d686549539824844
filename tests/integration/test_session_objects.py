"""Session objects follow an application to another member when theirs is lost, and when another object of a call is
there."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import PROTECTIONS
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.application import Answered, Application
from tests.client import helpers
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, ec_private, point_of, rsa_private

Group = Callable[..., TestGroup]
Work = Callable[[], Any]
Made = tuple[Work, tuple[int, ...]]
"""What can be done with objects of one kind, the same each time, and their handles."""
Kind = Callable[[Application, dict[int, Any]], Made]

LABEL = f"carried-{os.getpid()}"
BLOCK = bytes(range(16))
AES = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES}
SECRET = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET}
SEALED = {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False}
LEAVES = {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: True}
CLEAR = {ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True}
USED = {ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: False, ck.CKA_SIGN: True, ck.CKA_DERIVE: True}
PROTECTED: dict[str, dict[int, Any]] = {
    "sealed": SEALED,
    "leaves": LEAVES,
    "clear": CLEAR,
    "readable": {ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: False},
    "says nothing": {},
    "not modifiable": {**SEALED, ck.CKA_MODIFIABLE: False, ck.CKA_COPYABLE: False},
    "not destroyable": {**SEALED, ck.CKA_DESTROYABLE: False},
    "public": {**SEALED, ck.CKA_PRIVATE: False},
}
READ = (*PROTECTIONS, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_CHECK_VALUE, ck.CKA_VALUE_LEN, ck.CKA_LOCAL)
READ = (*READ, ck.CKA_NEVER_EXTRACTABLE, ck.CKA_ALWAYS_SENSITIVE, ck.CKA_TOKEN, ck.CKA_CLASS)
STRING_DATA = (ck.CKM_AES_ECB_ENCRYPT_DATA, [("pointer", bytes(range(32)))])


def kill(made: TestGroup, index: int) -> None:
    os.kill(helpers(made.label)[made.tokens[index].label], signal.SIGKILL)


def ciphers(app: Application, key: int) -> Made:
    return lambda: app.encrypt(ck.CKM_AES_ECB, key, BLOCK), (key,)


def signs(app: Application, key: int, mechanism: int = ck.CKM_SHA256_HMAC) -> Made:
    return lambda: app.sign(mechanism, key, BLOCK), (key,)


def imported(app: Application, asked: dict[int, Any]) -> Made:
    return ciphers(app, app.create({**AES, **USED, **asked, ck.CKA_ID: b"\1", ck.CKA_VALUE: bytes(range(32))}))


def generated(app: Application, asked: dict[int, Any]) -> Made:
    return ciphers(app, app.generate(ck.CKM_AES_KEY_GEN, {**USED, **asked, ck.CKA_VALUE_LEN: 24}))


def secret_of(length: int, mechanism: int = ck.CKM_SHA256_HMAC) -> Kind:
    def make(app: Application, asked: dict[int, Any]) -> Made:
        return signs(app, app.create({**SECRET, **USED, **asked, ck.CKA_VALUE: bytes(range(length))}), mechanism)

    return make


def unwrapped(kind: dict[int, int]) -> Kind:
    def make(app: Application, asked: dict[int, Any]) -> Made:
        wrapping = app.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 16, ck.CKA_WRAP: True, ck.CKA_UNWRAP: True})
        known = app.create({**kind, **CLEAR, **USED, ck.CKA_VALUE: bytes(range(32))})
        blob = app.wrap(ck.CKM_AES_KEY_WRAP, wrapping, known)
        key = app.unwrap(ck.CKM_AES_KEY_WRAP, wrapping, blob, {**kind, **USED, **asked})
        work, _ = ciphers(app, key) if kind is AES else signs(app, key)
        return work, (key, known, wrapping)

    return make


def derived(kind: dict[int, int]) -> Kind:
    def make(app: Application, asked: dict[int, Any]) -> Made:
        base = app.create({**AES, **SEALED, **USED, ck.CKA_VALUE: bytes(range(32))})
        key = app.derive(STRING_DATA, base, {**kind, **USED, ck.CKA_VALUE_LEN: 32, **asked})
        return ciphers(app, key) if kind is AES else signs(app, key)

    return make


def copied(app: Application, asked: dict[int, Any]) -> Made:
    source = app.create({**AES, **USED, **asked, ck.CKA_VALUE: bytes(range(32))})
    return ciphers(app, app.copy(source, {ck.CKA_LABEL: b"copy", ck.CKA_DERIVE: False}))


def copied_from_token(app: Application, asked: dict[int, Any]) -> Made:
    source = app.generate(ck.CKM_AES_KEY_GEN, {**USED, **asked, ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32})
    copy = app.copy(source, {ck.CKA_TOKEN: False, ck.CKA_LABEL: b"copy"})
    app.destroy(source)
    return ciphers(app, copy)


def pair(mechanism: int, signing: int, public: dict[int, Any]) -> Kind:
    def make(app: Application, asked: dict[int, Any]) -> Made:
        ours, theirs = app.pair(mechanism, {**public, ck.CKA_VERIFY: True}, {ck.CKA_SIGN: True, **asked})
        before = app.sign(signing, theirs, bytes(32))

        def work() -> bool:
            again = app.sign(signing, theirs, bytes(32))
            return all(app.verify(signing, ours, bytes(32), each) for each in (before, again))

        return work, (ours, theirs)

    return make


def imported_ec(app: Application, asked: dict[int, Any]) -> Made:
    key, template = ec_private()
    private = app.create({**template, ck.CKA_SIGN: True, **asked})
    known = {ck.CKA_EC_PARAMS: P256, ck.CKA_EC_POINT: point_of(key.public_key()), ck.CKA_KEY_TYPE: ck.CKK_EC}
    public = app.create({**known, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_VERIFY: True})
    signature = app.sign(ck.CKM_ECDSA, private, bytes(32))

    def work() -> bool:
        again = app.sign(ck.CKM_ECDSA, private, bytes(32))
        return all(app.verify(ck.CKM_ECDSA, public, bytes(32), each) for each in (signature, again))

    return work, (private, public)


def imported_rsa(app: Application, asked: dict[int, Any]) -> Made:
    _, template = rsa_private(1024)
    return signs(app, app.create({**template, ck.CKA_SIGN: True, **asked}), ck.CKM_RSA_PKCS)


KINDS: dict[str, Kind] = {
    "imported": imported,
    "generated": generated,
    "secret of 20 bytes": secret_of(20, ck.CKM_SHA_1_HMAC),
    "secret of 33 bytes": secret_of(33),
    "secret of 64 bytes": secret_of(64),
    "unwrapped": unwrapped(AES),
    "unwrapped secret": unwrapped(SECRET),
    "derived": derived(AES),
    "derived secret": derived(SECRET),
    "copied": copied,
    "copied from the token": copied_from_token,
    "EC pair": pair(ck.CKM_EC_KEY_PAIR_GEN, ck.CKM_ECDSA, {ck.CKA_EC_PARAMS: P256}),
    "RSA pair": pair(ck.CKM_RSA_PKCS_KEY_PAIR_GEN, ck.CKM_RSA_PKCS, {ck.CKA_MODULUS_BITS: 1024}),
    "imported EC key": imported_ec,
    "imported RSA key": imported_rsa,
}


EVERY_KIND = ("sealed", "leaves", "says nothing")
FEW_KINDS = ("imported", "generated", "unwrapped", "derived", "EC pair")


@pytest.fixture(scope="module")
def made(group_of_module: Group) -> TestGroup:
    return group_of_module(label=LABEL)


@pytest.mark.parametrize("protection", PROTECTED)
def test_a_key_works_and_reads_the_same_on_another_member(made: TestGroup, protection: str) -> None:
    asked = PROTECTED[protection]
    named = {kind: bytes([value]) for kind, value in asked.items()}
    with made.application() as app:
        kinds: dict[str, Made] = {}
        for name, make in KINDS.items():
            if protection in EVERY_KIND or name in FEW_KINDS:
                kinds[name] = make(app, asked)
        expected = {name: work() for name, (work, _) in kinds.items()}
        read = {name: [app.read(each, *READ) for each in handles] for name, (_, handles) in kinds.items()}
        kill(made, 0)
        for name, (work, handles) in kinds.items():
            assert work() == expected[name], name
            before, after = read[name], [app.read(each, *READ) for each in handles]
            if "derived" in name:
                # SoftHSM shows another key's check value after C_DeriveKey, and takes that for no other key.
                for shown in (*before, *after):
                    shown.pop(ck.CKA_CHECK_VALUE)
            assert after == before, name
            subject = handles[-1] if name.endswith("pair") else handles[0]
            assert app.read(subject, *named) == named, name
        found = app.find({ck.CKA_TOKEN: False})
        for name, (_, handles) in kinds.items():
            assert [found.count(each) for each in handles] == [1] * len(handles), name
        assert len(set(found)) == len(found)


def test_a_key_that_no_token_would_make_extractable(made: TestGroup) -> None:
    """It is made as it was asked for, and dies with its member."""
    with made.application() as app:
        usage = {ck.CKA_WRAP: True, ck.CKA_UNWRAP: True, ck.CKA_VALUE_LEN: 16}
        wrapping = app.generate(
            ck.CKM_AES_KEY_GEN, {**usage, ck.CKA_UNWRAP_TEMPLATE: {ck.CKA_EXTRACTABLE: False, ck.CKA_SENSITIVE: True}}
        )
        known = app.create({**AES, **CLEAR, ck.CKA_VALUE: bytes(range(32))})
        blob = app.wrap(ck.CKM_AES_KEY_WRAP, wrapping, known)
        for _ in range(2):
            key = app.unwrap(ck.CKM_AES_KEY_WRAP, wrapping, blob, {**AES, **USED, **SEALED})
            assert app.read(key, *SEALED) == {ck.CKA_SENSITIVE: b"\1", ck.CKA_EXTRACTABLE: b"\0"}
            assert app.encrypt(ck.CKM_AES_ECB, key, BLOCK)
        kill(made, 0)
        app.read(known, ck.CKA_LABEL)
        with pytest.raises(Answered, match="CKR_KEY_HANDLE_INVALID"):
            app.encrypt(ck.CKM_AES_ECB, key, BLOCK)


def test_what_is_no_key(made: TestGroup) -> None:
    with made.application() as app:
        data = app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: bytes(5000), ck.CKA_APPLICATION: b"app"})
        private = app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: b"x", ck.CKA_PRIVATE: True})
        certificate = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: 0, ck.CKA_SUBJECT: b"\x30\0"}
        of = app.create({**certificate, ck.CKA_VALUE: b"\x30\1\0", ck.CKA_ID: b"\7"})
        copy = app.copy(data, {ck.CKA_LABEL: b"copy"})
        kill(made, 0)
        found = app.find({ck.CKA_TOKEN: False})
        assert sorted(found) == sorted([data, private, of, copy])
        for each in (data, copy):
            shown = app.read(each, ck.CKA_VALUE, ck.CKA_APPLICATION)
            assert shown == {ck.CKA_VALUE: bytes(5000), ck.CKA_APPLICATION: b"app"}
        assert app.read(private, ck.CKA_VALUE, ck.CKA_PRIVATE) == {ck.CKA_VALUE: b"x", ck.CKA_PRIVATE: b"\1"}
        assert app.read(of, ck.CKA_ID, ck.CKA_SUBJECT) == {ck.CKA_ID: b"\7", ck.CKA_SUBJECT: b"\x30\0"}


def test_without_login_what_is_no_key_survives_and_a_key_does_not(made: TestGroup) -> None:
    with made.application(pin=None) as app:
        data = app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: b"x", ck.CKA_PRIVATE: False})
        key = app.create({**AES, **USED, ck.CKA_PRIVATE: False, ck.CKA_VALUE: bytes(16)})
        kill(made, 0)
        app.generate_random(8)
        app.generate_random(8)
        app.generate_random(8)
        assert app.find({}) == [data]
        assert app.read(data, ck.CKA_VALUE) == {ck.CKA_VALUE: b"x"}
        with pytest.raises(Answered, match="CKR_KEY_HANDLE_INVALID"):
            app.encrypt(ck.CKM_AES_ECB, key, BLOCK)


def test_what_cannot_be_wrapped_is_made_all_the_same_and_the_log_says_so_once(group: Group) -> None:
    made = group(label="uncarried")
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    with made.application() as app:
        ed25519 = {ck.CKA_EC_PARAMS: b"\x13\x0cedwards25519", ck.CKA_VERIFY: True}
        _, private = app.pair(ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, ed25519, {ck.CKA_SIGN: True, **SEALED})
        app.pair(ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, ed25519, {ck.CKA_SIGN: True, **SEALED})
        trusted = app.create({**AES, **USED, **LEAVES, ck.CKA_WRAP_WITH_TRUSTED: True, ck.CKA_VALUE: bytes(16)})
        assert app.sign(ck.CKM_EDDSA, private, b"text")
        assert app.read(private, *SEALED) == {ck.CKA_SENSITIVE: b"\1", ck.CKA_EXTRACTABLE: b"\0"}
        kill(made, 0)
        for use, mechanism, key in ((app.sign, ck.CKM_EDDSA, private), (app.encrypt, ck.CKM_AES_ECB, trusted)):
            with pytest.raises(Answered, match=r"CKR_(KEY_HANDLE_INVALID|DEVICE_ERROR)"):
                use(mechanism, key, BLOCK)
            with pytest.raises(Answered, match="CKR_KEY_HANDLE_INVALID"):
                use(mechanism, key, BLOCK)
    assert made.logged().count("dies with its member: no wrapping gives back exactly such a key") == 1
