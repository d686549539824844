"""Every kind of object, with every attribute that a token lets one set, comes whole onto a member that has none of it,
or has it as it was before (SEMANTICS.md section 5)."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.records import decode
from pyha.ha.replication import value_of
from tests.application import Answered, Application, Template
from tests.integration import replication_tools
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import (
    CURVES,
    LEAVES,
    OPEN,
    STAYS,
    big,
    dh_private,
    dsa_private,
    ec_private,
    point_of,
    rsa_private,
)
from tests.integration.test_resync import BIG, CERTIFICATE, DATA

Group = Callable[..., TestGroup]
LABEL = f"kinds-{os.getpid()}"
LENGTHS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 20, 24, 33, 63, 64, 100, 128)
"""Bytes of generic secrets."""

DATED: Template = {ck.CKA_START_DATE: b"20200101", ck.CKA_END_DATE: b"20991231"}
ALLOWED: Template = {ck.CKA_ALLOWED_MECHANISMS: ck.CKM_AES_ECB.to_bytes(8, "little")}
ARRAYS: Template = {
    ck.CKA_WRAP_TEMPLATE: {ck.CKA_EXTRACTABLE: True, ck.CKA_KEY_TYPE: ck.CKK_AES},
    ck.CKA_UNWRAP_TEMPLATE: {ck.CKA_SENSITIVE: True, ck.CKA_LABEL: b"\xff\0", ck.CKA_EXTRACTABLE: False},
}
NAMES: tuple[Template, ...] = (
    {ck.CKA_LABEL: b"", ck.CKA_ID: b""},
    {ck.CKA_LABEL: b"", ck.CKA_ID: b"an id"},
    {ck.CKA_LABEL: b"\xff\0\xfe \xc3", ck.CKA_ID: bytes(range(256))},
    {ck.CKA_LABEL: "schlüssel 鍵".encode(), ck.CKA_ID: b"\0"},
    {ck.CKA_LABEL: "sch\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode("utf-16"), ck.CKA_ID: b"\n"},
)
_COMPARED = (
    *(ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_CERTIFICATE_TYPE, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_SUBJECT, ck.CKA_TRUSTED),
    *(ck.CKA_PRIVATE, ck.CKA_MODIFIABLE, ck.CKA_COPYABLE, ck.CKA_DESTROYABLE, ck.CKA_ALLOWED_MECHANISMS),
    *(ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_WRAP_WITH_TRUSTED, ck.CKA_ALWAYS_AUTHENTICATE),
    *(ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_WRAP, ck.CKA_UNWRAP, ck.CKA_DERIVE),
    *(ck.CKA_SIGN_RECOVER, ck.CKA_VERIFY_RECOVER, ck.CKA_START_DATE, ck.CKA_END_DATE),
    *(ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT, ck.CKA_EC_PARAMS, ck.CKA_EC_POINT, ck.CKA_PRIME, ck.CKA_BASE),
    *(ck.CKA_SUBPRIME, ck.CKA_ISSUER, ck.CKA_SERIAL_NUMBER, ck.CKA_APPLICATION, ck.CKA_OBJECT_ID, ck.CKA_URL),
    *(ck.CKA_HASH_OF_SUBJECT_PUBLIC_KEY, ck.CKA_HASH_OF_ISSUER_PUBLIC_KEY, ck.CKA_CERTIFICATE_CATEGORY),
    *(ck.CKA_NAME_HASH_ALGORITHM, ck.CKA_PUBLIC_KEY_INFO, ck.CKA_JAVA_MIDP_SECURITY_DOMAIN),
)
INFO = b"what a token need not work out by itself"
DSA = dsa_private()[1]
_SECRET = ck.CKO_SECRET_KEY.to_bytes(8, "little")


def shown(member: Application, real: int, kind: int) -> bytes | str | None:
    try:
        return member.value(real, kind)
    except Answered as answered:
        return str(answered)  # SoftHSM's for the date of a private object


def everything(member: Application) -> list[Any]:
    """All that a member shows of every object; of a key's value what can be seen of it."""
    found = []
    for real in member.find({}):
        each = {kind: shown(member, real, kind) for kind in _COMPARED}
        label = each[ck.CKA_LABEL]
        assert isinstance(label, bytes)
        if label.startswith(b"pyha domain key"):
            continue
        if each[ck.CKA_CLASS] in (bytes(8), b"\1" + bytes(7)):
            each[ck.CKA_VALUE] = member.value(real, ck.CKA_VALUE)
        if each[ck.CKA_CLASS] == _SECRET:
            each[ck.CKA_VALUE] = member.value(real, ck.CKA_VALUE)  # of those that are not sensitive
            each[ck.CKA_CHECK_VALUE] = member.value(real, ck.CKA_CHECK_VALUE)
        arrays = [member.array(real, kind) for kind in (ck.CKA_WRAP_TEMPLATE, ck.CKA_UNWRAP_TEMPLATE)]
        found.append((sorted(each.items()), arrays))
    return sorted(found, key=repr)


def alike(made: TestGroup) -> list[Any]:
    """What both members hold, which is the same."""
    with made.member(0) as first, made.member(1) as second:
        mine, theirs = everything(first), everything(second)
    assert [each for each in mine if each not in theirs] == []
    assert mine == theirs
    return mine


@pytest.fixture
def made(group: Group, monkeypatch: pytest.MonkeyPatch) -> TestGroup:
    made = group(members=2, label=LABEL)
    monkeypatch.setenv("TEST_PIN", made.pin)
    return made


def synchronise(made: TestGroup) -> None:
    made.only(0, 1)
    assert main(["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]) == 0


def make_keys(app: Application, protection: Template) -> None:
    """Keys of every type; the public halves with a label and id of their own."""
    for size in (16, 24, 32):
        app.generate(ck.CKM_AES_KEY_GEN, {**protection, ck.CKA_VALUE_LEN: size, ck.CKA_LABEL: b"aes %d" % size})
    # Not single DES: nothing could prove a copy, because OpenSSL 3 does not have the cipher.
    app.generate(ck.CKM_DES3_KEY_GEN, {**protection, ck.CKA_LABEL: b"des3"})
    app.generate(ck.CKM_DES2_KEY_GEN, {**protection, ck.CKA_LABEL: b"des2"})
    for name in CURVES:
        key, private = ec_private(name)
        named = {ck.CKA_LABEL: name.encode(), ck.CKA_ID: name.encode()}
        app.create({**private, **protection, **named, ck.CKA_SIGN: True})
        public = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_TOKEN: True, **named}
        app.create({**public, ck.CKA_EC_PARAMS: CURVES[name][0], ck.CKA_EC_POINT: point_of(key.public_key())})
    more: dict[int, Any] = {ck.CKA_LABEL: b"rsa", ck.CKA_SUBJECT: b"\x30\0", ck.CKA_PUBLIC_KEY_INFO: INFO}
    app.create({**rsa_private(1024)[1], **protection, **more, ck.CKA_SIGN: True})
    app.create({**dh_private()[1], **protection, ck.CKA_LABEL: b"dh", ck.CKA_DERIVE: True})
    # Of an imported one nobody knows the public key, by which a copy is proved, unless that is there before.
    dsa: dict[int, Any] = {
        ck.CKA_LABEL: b"dsa",
        ck.CKA_ID: b"dsa %d" % protection[ck.CKA_EXTRACTABLE],
        ck.CKA_TOKEN: True,
    }
    parameters = {kind: DSA[kind] for kind in (ck.CKA_PRIME, ck.CKA_SUBPRIME, ck.CKA_BASE)}
    app.pair(ck.CKM_DSA_KEY_PAIR_GEN, {**dsa, **parameters}, {**protection, **dsa, ck.CKA_SIGN: True})


def make_objects(app: Application) -> None:
    """What is no secret."""
    app.create({**DATA, ck.CKA_LABEL: b"large", ck.CKA_VALUE: BIG})
    for names in NAMES:
        app.create({**DATA, ck.CKA_LABEL: names[ck.CKA_LABEL], ck.CKA_VALUE: b"", ck.CKA_APPLICATION: b"\xff"})
        app.create({**CERTIFICATE, **names, ck.CKA_VALUE: b"\x30\1" + names[ck.CKA_ID][:1]})
    dated = {**CERTIFICATE, **DATED, ck.CKA_LABEL: b"dated", ck.CKA_COPYABLE: False, ck.CKA_MODIFIABLE: False}
    told: Template = {ck.CKA_NAME_HASH_ALGORITHM: ck.CKM_SHA256, ck.CKA_PUBLIC_KEY_INFO: INFO}
    app.create({**dated, **told, ck.CKA_CERTIFICATE_CATEGORY: 2, ck.CKA_JAVA_MIDP_SECURITY_DOMAIN: 2})
    numbers = rsa_private(1024)[0].public_key().public_numbers()
    public: dict[int, Any] = {
        ck.CKA_CLASS: ck.CKO_PUBLIC_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_RSA,
        ck.CKA_TOKEN: True,
        ck.CKA_PRIVATE: False,
    }
    public |= {ck.CKA_MODULUS: big(numbers.n), ck.CKA_PUBLIC_EXPONENT: big(numbers.e), ck.CKA_ENCRYPT: False}
    wraps = {ck.CKA_WRAP_TEMPLATE: ARRAYS[ck.CKA_WRAP_TEMPLATE]}
    told = {ck.CKA_LABEL: b"public", ck.CKA_PUBLIC_KEY_INFO: INFO, ck.CKA_MODIFIABLE: False}
    app.create({**public, **DATED, **wraps, **told})
    app.create({**public, ck.CKA_LABEL: b"empty", ck.CKA_START_DATE: b"", ck.CKA_SUBJECT: b"", ck.CKA_ID: b""})


def make_secrets(app: Application) -> None:
    """Generic secrets of every length, names of every sort, and every attribute."""
    for length in LENGTHS:
        protection = (STAYS, LEAVES, OPEN)[length % 3]
        named = {ck.CKA_LABEL: b"length %d" % length, ck.CKA_VALUE_LEN: length, ck.CKA_SIGN: True}
        app.generate(ck.CKM_GENERIC_SECRET_KEY_GEN, {**protection, **named})
    for names in NAMES:
        for protection in (STAYS, OPEN):
            app.generate(ck.CKM_AES_KEY_GEN, {**protection, **names, ck.CKA_VALUE_LEN: 16})
    for number, protection in enumerate((STAYS, LEAVES, OPEN)):
        for private in (True, False):
            named = {ck.CKA_LABEL: b"all %d %d" % (number, private), ck.CKA_PRIVATE: private, ck.CKA_VALUE_LEN: 32}
            more = {ck.CKA_COPYABLE: False, ck.CKA_MODIFIABLE: False, ck.CKA_DERIVE: False}
            app.generate(ck.CKM_AES_KEY_GEN, {**protection, **named, **DATED, **ALLOWED, **ARRAYS, **more})
    value = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(range(16))}
    app.create({**value, **OPEN, **DATED, ck.CKA_PRIVATE: False, ck.CKA_LABEL: b"imported"})


def test_onto_an_empty_member(made: TestGroup) -> None:
    made.only(0)
    with made.application() as app:
        make_objects(app)
        for protection in (STAYS, LEAVES):
            make_keys(app, protection)
        make_secrets(app)
    synchronise(made)
    found = alike(made)
    assert len(found) > 100
    assert informed(found) == [*2 * [b"rsa"], b"dated", b"public"]
    assert dates_of(made, b"all 1 1") == DATED, "a private object does not show them: its record has to"
    made.only(1)
    with made.application() as app:
        for name, (_, curve) in CURVES.items():
            size = (curve.key_size + 7) // 8
            for private in app.find({ck.CKA_LABEL: name.encode(), ck.CKA_CLASS: ck.CKO_PRIVATE_KEY}):
                assert len(app.sign(ck.CKM_ECDSA, private, bytes(20))) == 2 * size
        for length in LENGTHS:
            (secret,) = app.find({ck.CKA_LABEL: b"length %d" % length})
            assert replication_tools.value_length(app, secret) == length


def informed(found: list[Any]) -> list[bytes]:
    """The labels of what has its CKA_PUBLIC_KEY_INFO still: private keys, then certificates, then public keys."""
    several = (dict(each) for each, _ in found)
    given = [(each[ck.CKA_CLASS], each[ck.CKA_LABEL]) for each in several if each[ck.CKA_PUBLIC_KEY_INFO] == INFO]
    order = [each.to_bytes(8, "little") for each in (ck.CKO_PRIVATE_KEY, ck.CKO_CERTIFICATE, ck.CKO_PUBLIC_KEY)]
    return [label for _, label in sorted(given, key=lambda each: order.index(each[0]))]


def dates_of(made: TestGroup, label: bytes) -> Template:
    """The dates in the second member's record of the only key of this label."""
    with made.member(1) as member:
        found = [decode(member.value(each, ck.CKA_VALUE) or b"") for each in member.find({ck.CKA_APPLICATION: b"pyha"})]
    (template,) = [each.template for each in found if value_of(each.template, ck.CKA_LABEL) == label]
    return {each.type: each.value for each in template if each.type in DATED}


def test_an_imported_dsa_key_is_proved_by_its_public_key(made: TestGroup) -> None:
    """Which is the one with its CKA_ID, and was there before."""
    named = {ck.CKA_ID: b"dsa", ck.CKA_LABEL: b"dsa"}
    key, private = dsa_private()
    y = key.public_key().public_numbers().y
    parameters = {kind: private[kind] for kind in (ck.CKA_PRIME, ck.CKA_SUBPRIME, ck.CKA_BASE)}
    public = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_KEY_TYPE: ck.CKK_DSA, ck.CKA_TOKEN: True, **parameters, **named}
    made.only(0)
    with made.application() as app:
        other = app.create({**public, ck.CKA_VALUE: big(y * y % int.from_bytes(private[ck.CKA_PRIME], "big"))})
        with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
            app.create({**private, **STAYS, **named, ck.CKA_SIGN: True})
        app.destroy(other)
        app.create({**public, ck.CKA_VALUE: big(y)})
        app.create({**private, **STAYS, **named, ck.CKA_SIGN: True})
    synchronise(made)
    assert len(alike(made)) == 3, "the two keys and a record"
    made.only(1)
    with made.application() as app:
        (mine,) = app.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
        signature = app.sign(ck.CKM_DSA, mine, bytes(20))
    numbers = (int.from_bytes(part, "big") for part in (signature[:20], signature[20:]))
    key.public_key().verify(encode_dss_signature(*numbers), bytes(20), Prehashed(SHA1()))


def test_onto_one_that_has_it_as_it_was(made: TestGroup) -> None:
    names = (b"aes 16", b"P-256", b"rsa", b"large", b"public", b"certificate")
    with made.application() as app:
        make_keys(app, STAYS)
        app.create({**CERTIFICATE, ck.CKA_LABEL: b"certificate"})
        app.create({**DATA, ck.CKA_LABEL: b"large", ck.CKA_VALUE: BIG})
        public: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_TOKEN: True}
        numbers = rsa_private(1024)[0].public_key().public_numbers()
        public |= {ck.CKA_MODULUS: big(numbers.n), ck.CKA_PUBLIC_EXPONENT: big(numbers.e), ck.CKA_PRIVATE: False}
        app.create({**public, ck.CKA_LABEL: b"public"})
    made.only(0)
    with made.application() as app:
        for name in names:
            for handle in app.find({ck.CKA_LABEL: name}):
                app.set(handle, {ck.CKA_LABEL: name + b"\xff\0"})
                if name == b"P-256" and app.value(handle, ck.CKA_CLASS) == ck.CKO_PRIVATE_KEY.to_bytes(8, "little"):
                    app.set(handle, {ck.CKA_PUBLIC_KEY_INFO: INFO})
                if name == b"public":
                    app.set(handle, {ck.CKA_START_DATE: b"20200101", ck.CKA_ID: b"\0"})
    synchronise(made)
    both = alike(made)
    assert informed(both) == [b"P-256\xff\0", b"rsa\xff\0"]
    found = [dict(each) for each, _ in both]
    assert {name + b"\xff\0" for name in names} <= {each[ck.CKA_LABEL] for each in found}
    assert [each[ck.CKA_START_DATE] for each in found].count(b"20200101") == 1


def test_dates_and_arrays_are_compared(made: TestGroup, capsys: pytest.CaptureFixture[str]) -> None:
    """By the vendor's tools: the first member's date is taken, and an array of restrictions cannot be set."""
    named = {**OPEN, ck.CKA_PRIVATE: False, ck.CKA_VALUE_LEN: 16}
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**named, ck.CKA_LABEL: b"dated", ck.CKA_START_DATE: b"20200101"})
        app.generate(ck.CKM_AES_KEY_GEN, {**named, ck.CKA_LABEL: b"strict", **ARRAYS})
    with made.member(1) as member:
        (key,) = member.find({ck.CKA_LABEL: b"dated"})
        member.set(key, {ck.CKA_START_DATE: b"20210101"})
        (key,) = member.find({ck.CKA_LABEL: b"strict"})
        value = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, **OPEN, ck.CKA_PRIVATE: False}
        value |= {ck.CKA_VALUE: member.value(key, ck.CKA_VALUE), ck.CKA_LABEL: b"strict"}
        member.destroy(key)
        member.create({**value, ck.CKA_WRAP_TEMPLATE: {ck.CKA_EXTRACTABLE: True}})
    words = ["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]
    assert main([*words, "--dry-run"]) == 1
    told = capsys.readouterr().out
    assert f'change secret key "dated" on {LABEL}-1: CKA_START_DATE' in told
    assert "CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE differ and cannot be set" in told
    assert main(words) == 1
    with made.member(1) as member:
        (key,) = member.find({ck.CKA_LABEL: b"dated"})
        assert member.value(key, ck.CKA_START_DATE) == b"20200101"
        (key,) = member.find({ck.CKA_LABEL: b"strict"})
        member.destroy(key)
    assert main(words) == 0
    alike(made)
    with made.member(1) as member:
        (key,) = member.find({ck.CKA_LABEL: b"strict"})
        assert len(member.array(key, ck.CKA_UNWRAP_TEMPLATE) or {}) == 3
