"""Creation through the slot: what was asked for is on every member, alike, and nothing else is."""

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha1

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import (
    CURVES,
    LEAVES,
    OAEP,
    OPEN,
    P256,
    STAYS,
    Scene,
    big,
    dh_agreed,
    dh_private,
    dsa_private,
    ec_private,
    point_of,
    rsa_private,
    scene,
    value_length,
)

Group = Callable[..., TestGroup]
DIGEST = bytes(range(32))


@pytest.fixture(scope="module")
def it(group_of_module: Group) -> Iterator[Scene]:
    with scene(group_of_module()) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _clean(it: Scene) -> Iterator[None]:
    """Whatever a test makes, and is gone through the slot, is gone from every member, records included."""
    before = it.inventory()
    yield
    for handle in it.app.find({ck.CKA_TOKEN: True}):
        it.app.destroy(handle)
    assert it.inventory() == before


# -- secret keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [STAYS, LEAVES, OPEN], ids=["stays", "leaves", "open"])
@pytest.mark.parametrize(
    ("mechanism", "more"),
    [
        (ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 16}),
        (ck.CKM_AES_KEY_GEN, {ck.CKA_VALUE_LEN: 32}),
        (ck.CKM_DES3_KEY_GEN, {}),
        (ck.CKM_GENERIC_SECRET_KEY_GEN, {ck.CKA_VALUE_LEN: 64}),
        (ck.CKM_GENERIC_SECRET_KEY_GEN, {ck.CKA_VALUE_LEN: 33}),
        (ck.CKM_GENERIC_SECRET_KEY_GEN, {ck.CKA_VALUE_LEN: 1}),
    ],
    ids=["aes16", "aes32", "des3", "generic64", "generic33", "generic1"],
)
def test_a_generated_secret_key(it: Scene, kind: Mapping[int, bool], mechanism: int, more: Mapping[int, int]) -> None:
    key = it.app.generate(mechanism, {**kind, **more, ck.CKA_LABEL: b"secret", ck.CKA_SIGN: True})
    copies = it.alike(b"secret", ck.CKA_CHECK_VALUE, ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_PRIVATE, ck.CKA_VALUE)
    assert copies[0] == it.app.read(key, ck.CKA_CHECK_VALUE)[ck.CKA_CHECK_VALUE] != b""
    assert copies[1:4] == [bytes([kind[each]]) for each in (ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_PRIVATE)]
    if more.get(ck.CKA_VALUE_LEN) == 64:
        macs = {member.sign(ck.CKM_SHA256_HMAC, real, b"data") for member, real in it.everywhere(b"secret")}
        assert macs == {it.app.sign(ck.CKM_SHA256_HMAC, key, b"data")}
    odd = more.get(ck.CKA_VALUE_LEN, 24) % 8 != 0
    assert it.records() == [int(not kind[ck.CKA_EXTRACTABLE] or odd)] * 3


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 9, 15, 16, 17, 20, 24, 33, 63, 100, 255, 256, 299, 300, 342, 344])
def test_an_imported_secret_of_any_length_is_exact(it: Scene, length: int) -> None:
    value = bytes(each % 251 for each in range(length))
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE: value}
    key = it.app.create({**template, **STAYS, ck.CKA_LABEL: b"imported"})
    check_value = sha1(value).digest()[:3]
    for member, real in it.everywhere(b"imported"):
        shown = member.read(real, ck.CKA_EXTRACTABLE, ck.CKA_CHECK_VALUE)
        assert shown == {ck.CKA_EXTRACTABLE: b"\0", ck.CKA_CHECK_VALUE: check_value}
        with pytest.raises(Answered, match="CKR_ATTRIBUTE_VALUE_INVALID"):
            member.set(real, {ck.CKA_CHECK_VALUE: b"no!"})  # the token compares it with the value that it has
    assert value_length(it.app, key) == length


def test_a_secret_too_long_for_every_wrapping_is_refused(it: Scene) -> None:
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE: bytes(343)}
    before = it.inventory()
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        it.app.create({**template, **STAYS})
    assert it.inventory() == before
    assert "the key cannot be on every member" in it.group.logged()


def test_the_length_of_a_copy_is_known_after_a_restart(it: Scene) -> None:
    lengths = {b"len-stays": (STAYS, 32), b"len-leaves": (LEAVES, 24), b"len-open": (OPEN, 16)}
    for label, (kind, length) in lengths.items():
        it.app.generate(ck.CKM_AES_KEY_GEN, {**kind, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: length})
    odd = {b"odd-stays": STAYS, b"odd-leaves": LEAVES, b"odd-open": OPEN}
    for label, kind in odd.items():
        it.app.generate(ck.CKM_GENERIC_SECRET_KEY_GEN, {**kind, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 21})
    with it.group.application() as again:
        for label, (_, length) in lengths.items():
            (key,) = again.find({ck.CKA_LABEL: label})
            assert value_length(again, key) == length
        for label in odd:
            (key,) = again.find({ck.CKA_LABEL: label})
            assert value_length(again, key) == 21


# -- pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", list(CURVES))
@pytest.mark.parametrize("kind", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_a_generated_ec_pair(it: Scene, curve: str, kind: Mapping[int, bool]) -> None:
    named = {ck.CKA_ID: b"\1", ck.CKA_SIGN: True}
    public, _ = it.app.pair(
        ck.CKM_EC_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: CURVES[curve][0], ck.CKA_LABEL: b"pub", ck.CKA_ID: b"\1"},
        {**kind, ck.CKA_LABEL: b"priv", **named},
    )
    it.alike(b"pub", ck.CKA_EC_POINT, ck.CKA_EC_PARAMS, ck.CKA_ID, ck.CKA_VERIFY)
    it.alike(b"priv", ck.CKA_ID, ck.CKA_SIGN, ck.CKA_DERIVE, ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE)
    for member, real in it.everywhere(b"priv"):
        assert it.app.verify(ck.CKM_ECDSA, public, DIGEST, member.sign(ck.CKM_ECDSA, real, DIGEST))
    assert it.records() == [int(not kind[ck.CKA_EXTRACTABLE])] * 3


@pytest.mark.parametrize("usage", [ck.CKA_SIGN, ck.CKA_DECRYPT, ck.CKA_UNWRAP])
def test_a_generated_rsa_pair_keeps_its_usage(it: Scene, usage: int) -> None:
    flags = {each: each == usage for each in (ck.CKA_SIGN, ck.CKA_DECRYPT, ck.CKA_UNWRAP, ck.CKA_SIGN_RECOVER)}
    it.app.pair(
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_MODULUS_BITS: 1024, ck.CKA_LABEL: b"pub", ck.CKA_PUBLIC_EXPONENT: b"\1\0\1"},
        {**STAYS, **flags, ck.CKA_LABEL: b"priv"},
    )
    assert it.alike(b"priv", *flags) == [bytes([each]) for each in flags.values()]
    it.alike(b"priv", ck.CKA_MODULUS)


def test_generated_dsa_and_dh_pairs(it: Scene) -> None:
    _, dsa = dsa_private()
    domain = {each: dsa[each] for each in (ck.CKA_PRIME, ck.CKA_SUBPRIME, ck.CKA_BASE)}
    public, _ = it.app.pair(
        ck.CKM_DSA_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, **domain, ck.CKA_LABEL: b"dsa-pub"},
        {**STAYS, ck.CKA_LABEL: b"dsa", ck.CKA_SIGN: True},
    )
    for member, real in it.everywhere(b"dsa"):
        assert it.app.verify(ck.CKM_DSA, public, DIGEST[:20], member.sign(ck.CKM_DSA, real, DIGEST[:20]))
    _, dh = dh_private()
    it.app.pair(
        ck.CKM_DH_PKCS_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_PRIME: dh[ck.CKA_PRIME], ck.CKA_BASE: dh[ck.CKA_BASE], ck.CKA_LABEL: b"dh-pub"},
        {**STAYS, ck.CKA_LABEL: b"dh", ck.CKA_DERIVE: True},
    )
    it.alike(b"dh-pub", ck.CKA_VALUE, ck.CKA_PRIME)
    secrets = set()
    for member, real in it.everywhere(b"dh"):
        secrets.add(_agreed(member, (ck.CKM_DH_PKCS_DERIVE, big(123456789)), real))
    assert len(secrets) == 1


def _agreed(member: Application, mechanism: object, key: int) -> bytes:
    session = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_TOKEN: False}
    shown = {**session, ck.CKA_SENSITIVE: False, ck.CKA_EXTRACTABLE: True, ck.CKA_VALUE_LEN: 32}
    secret = member.derive(mechanism, key, shown)
    value = member.read(secret, ck.CKA_VALUE)[ck.CKA_VALUE]
    member.destroy(secret)
    assert value is not None
    return value


def test_domain_parameters_are_the_same_everywhere(it: Scene) -> None:
    it.app.generate(ck.CKM_DH_PKCS_PARAMETER_GEN, {ck.CKA_TOKEN: True, ck.CKA_PRIME_BITS: 512, ck.CKA_LABEL: b"params"})
    it.alike(b"params", ck.CKA_CLASS, ck.CKA_KEY_TYPE, ck.CKA_PRIME, ck.CKA_BASE, ck.CKA_PRIVATE)


@pytest.mark.parametrize("half", ["public", "private"])
def test_a_pair_with_one_half_in_the_session(it: Scene, half: str) -> None:
    public, private = it.app.pair(
        ck.CKM_EC_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: half == "public", ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"half"},
        {**STAYS, ck.CKA_TOKEN: half == "private", ck.CKA_LABEL: b"half", ck.CKA_SIGN: True},
    )
    it.everywhere(b"half")
    signature = it.app.sign(ck.CKM_ECDSA, private, DIGEST)
    assert it.app.verify(ck.CKM_ECDSA, public, DIGEST, signature)
    session = private if half == "public" else public
    assert it.app.read(session, ck.CKA_TOKEN)[ck.CKA_TOKEN] == b"\0"
    if half == "public":
        kept = it.app.read(private, ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE)
        assert kept == {ck.CKA_EXTRACTABLE: b"\0", ck.CKA_SENSITIVE: b"\1"}
    it.app.destroy(session)


def test_a_session_pair_stays_in_the_session(it: Scene) -> None:
    before = it.inventory()
    public, private = it.app.pair(
        ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_TOKEN: False, ck.CKA_EC_PARAMS: P256}, {ck.CKA_TOKEN: False}
    )
    assert it.app.verify(ck.CKM_ECDSA, public, DIGEST, it.app.sign(ck.CKM_ECDSA, private, DIGEST))
    assert it.inventory() == before


def test_ed25519_is_refused_by_name_and_nothing_is_left(it: Scene) -> None:
    before = it.inventory()
    if ck.CKM_EC_EDWARDS_KEY_PAIR_GEN not in it.app.mechanisms():
        pytest.skip("this SoftHSM has no Ed25519")
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        it.app.pair(
            ck.CKM_EC_EDWARDS_KEY_PAIR_GEN,
            {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: bytes.fromhex("130c656477617264733235353139")},
            {**STAYS, ck.CKA_LABEL: b"ed"},
        )
    assert it.inventory() == before
    assert "no wrapping gives back exactly such a key" in it.group.logged()


# -- imports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [ck.CKA_SIGN, ck.CKA_DERIVE])
@pytest.mark.parametrize("curve", list(CURVES))
def test_an_imported_ec_key_whose_public_part_nobody_knows(it: Scene, curve: str, usage: int) -> None:
    key, template = ec_private(curve)
    flags = {each: each == usage for each in (ck.CKA_SIGN, ck.CKA_DERIVE)}
    handle = it.app.create({**template, **STAYS, **flags, ck.CKA_LABEL: b"imported"})
    assert it.alike(b"imported", *flags, ck.CKA_EXTRACTABLE)[2] == b"\0"
    peer = ec.generate_private_key(CURVES[curve][1])
    for member, real in [*it.everywhere(b"imported"), (it.app, handle)]:
        if usage == ck.CKA_SIGN:
            raw = member.sign(ck.CKM_ECDSA, real, DIGEST)
            half = len(raw) // 2
            signature = utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
            key.public_key().verify(signature, DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        else:
            agreed = _agreed(member, (ck.CKM_ECDH1_DERIVE, [1, b"", point_of(peer.public_key())]), real)
            assert agreed in key.exchange(ec.ECDH(), peer.public_key())


def test_an_imported_dh_key(it: Scene) -> None:
    value, template = dh_private()
    it.app.create({**template, **STAYS, ck.CKA_DERIVE: True, ck.CKA_LABEL: b"dh"})
    for member, real in it.everywhere(b"dh"):
        agreed = _agreed(member, (ck.CKM_DH_PKCS_DERIVE, big(987654321)), real)
        assert agreed in dh_agreed(value, 987654321)


def test_an_imported_rsa_key(it: Scene) -> None:
    key, template = rsa_private()
    it.app.create({**template, **STAYS, ck.CKA_SIGN: True, ck.CKA_LABEL: b"rsa"})
    for member, real in it.everywhere(b"rsa"):
        signature = member.sign(ck.CKM_SHA256_RSA_PKCS, real, b"message")
        key.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
        assert member.read(real, ck.CKA_EXTRACTABLE)[ck.CKA_EXTRACTABLE] == b"\0"


def test_an_imported_dsa_key_cannot_be_proved(it: Scene) -> None:
    _, template = dsa_private()
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        it.app.create({**template, **STAYS, ck.CKA_LABEL: b"dsa"})
    assert "a copy of such a private key cannot be proved" in it.group.logged()
    it.app.create({**template, **LEAVES, ck.CKA_LABEL: b"dsa"})
    it.everywhere(b"dsa")


def test_public_objects_are_on_every_member(it: Scene) -> None:
    value = bytes(range(256)) * 4096
    data = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_VALUE: value, ck.CKA_APPLICATION: b"mine"}
    it.app.create({**data, ck.CKA_LABEL: b"data", ck.CKA_PRIVATE: True, ck.CKA_OBJECT_ID: b"\x06\1\1"})
    assert it.alike(b"data", ck.CKA_VALUE, ck.CKA_APPLICATION, ck.CKA_OBJECT_ID)[0] == value
    certificate = {
        ck.CKA_CLASS: ck.CKO_CERTIFICATE,
        ck.CKA_CERTIFICATE_TYPE: 0,
        ck.CKA_TOKEN: True,
        ck.CKA_SUBJECT: b"\x30\0",
        ck.CKA_VALUE: b"\x30\1\0",
        ck.CKA_LABEL: b"certificate",
    }
    it.app.create(certificate)
    it.alike(b"certificate", ck.CKA_VALUE, ck.CKA_SUBJECT, ck.CKA_PRIVATE)
    key, _ = ec_private()
    public = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: P256, ck.CKA_TOKEN: True}
    it.app.create({**public, ck.CKA_EC_POINT: point_of(key.public_key()), ck.CKA_LABEL: b"public"})
    it.alike(b"public", ck.CKA_EC_POINT, ck.CKA_VERIFY)


# -- unwrapping and deriving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("token_base", [True, False], ids=["token-base", "session-base"])
@pytest.mark.parametrize("kind", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_an_unwrapped_key(it: Scene, kind: Mapping[int, bool], token_base: bool) -> None:
    base = it.app.create(
        {
            ck.CKA_CLASS: ck.CKO_SECRET_KEY,
            ck.CKA_KEY_TYPE: ck.CKK_AES,
            ck.CKA_VALUE: bytes(32),
            ck.CKA_TOKEN: token_base,
            ck.CKA_WRAP: True,
            ck.CKA_UNWRAP: True,
            ck.CKA_LABEL: b"base",
        }
    )
    session = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_TOKEN: False}
    given = it.app.create({**session, ck.CKA_VALUE: bytes(range(16)), ck.CKA_EXTRACTABLE: True})
    blob = it.app.wrap(ck.CKM_AES_KEY_WRAP, base, given)
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, **kind, ck.CKA_LABEL: b"unwrapped"}
    key = it.app.unwrap(ck.CKM_AES_KEY_WRAP, base, blob, template)
    expected = it.app.encrypt(ck.CKM_AES_ECB, given, DIGEST)
    assert it.app.encrypt(ck.CKM_AES_ECB, key, DIGEST) == expected
    for member, real in it.everywhere(b"unwrapped"):
        assert member.encrypt(ck.CKM_AES_ECB, real, DIGEST) == expected
        assert member.read(real, ck.CKA_EXTRACTABLE)[ck.CKA_EXTRACTABLE] == bytes([kind[ck.CKA_EXTRACTABLE]])
    it.app.destroy(given)
    if not token_base:
        it.app.destroy(base)


def test_an_unwrapped_private_key(it: Scene) -> None:
    key, template = ec_private()
    wrapping = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32)}
    base = it.app.create({**wrapping, ck.CKA_TOKEN: True, ck.CKA_WRAP: True, ck.CKA_UNWRAP: True})
    given = it.app.create({**template, ck.CKA_TOKEN: False, ck.CKA_EXTRACTABLE: True})
    blob = it.app.wrap(ck.CKM_AES_KEY_WRAP_PAD, base, given)
    asked = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_SIGN: True, **STAYS}
    it.app.unwrap(ck.CKM_AES_KEY_WRAP_PAD, base, blob, {**asked, ck.CKA_LABEL: b"unwrapped"})
    for member, real in it.everywhere(b"unwrapped"):
        raw = member.sign(ck.CKM_ECDSA, real, DIGEST)
        signature = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.public_key().verify(signature, DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


@pytest.mark.parametrize("token_base", [True, False], ids=["token-base", "session-base"])
@pytest.mark.parametrize("kind", [STAYS, LEAVES], ids=["stays", "leaves"])
def test_a_derived_key(it: Scene, kind: Mapping[int, bool], token_base: bool) -> None:
    _, base = it.app.pair(
        ck.CKM_EC_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: False, ck.CKA_EC_PARAMS: P256},
        {**STAYS, ck.CKA_TOKEN: token_base, ck.CKA_DERIVE: True, ck.CKA_LABEL: b"base"},
    )
    peer, _ = ec_private()
    mechanism = (ck.CKM_ECDH1_DERIVE, [1, b"", point_of(peer.public_key())])
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE_LEN: 32, **kind}
    key = it.app.derive(mechanism, base, {**template, ck.CKA_LABEL: b"derived"})
    ciphers = {member.encrypt(ck.CKM_AES_ECB, real, DIGEST) for member, real in it.everywhere(b"derived")}
    assert ciphers == {it.app.encrypt(ck.CKM_AES_ECB, key, DIGEST)}
    assert it.alike(b"derived", ck.CKA_EXTRACTABLE) == [bytes([kind[ck.CKA_EXTRACTABLE]])]
    assert value_length(it.app, key) == 32


def test_an_oaep_unwrapped_secret_of_odd_length(it: Scene) -> None:
    public, private = it.app.pair(
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_MODULUS_BITS: 1024, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1", ck.CKA_WRAP: True},
        {**STAYS, ck.CKA_UNWRAP: True},
    )
    secret = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET}
    given = it.app.create({**secret, ck.CKA_TOKEN: False, ck.CKA_VALUE: b"odd" * 7, ck.CKA_EXTRACTABLE: True})
    blob = it.app.wrap(OAEP, public, given)
    it.app.unwrap(OAEP, private, blob, {**secret, **STAYS, ck.CKA_SIGN: True, ck.CKA_LABEL: b"odd"})
    assert it.alike(b"odd", ck.CKA_CHECK_VALUE) == [sha1(b"odd" * 7).digest()[:3]]
    it.app.destroy(given)
