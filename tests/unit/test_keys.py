"""The table of key types; and on a real SoftHSM token, that the wrapping it names gives the same key back."""

import pytest

from pyha.cryptoki import constants
from pyha.cryptoki.attributes import ATTRIBUTES, HISTORY, Form, weaker
from pyha.cryptoki.constants import (
    CKA_CLASS,
    CKA_DERIVE_TEMPLATE,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_END_DATE,
    CKA_EXTRACTABLE,
    CKA_KEY_TYPE,
    CKA_MODIFIABLE,
    CKA_MODULUS,
    CKA_MODULUS_BITS,
    CKA_PRIVATE,
    CKA_PUBLIC_EXPONENT,
    CKA_SENSITIVE,
    CKA_START_DATE,
    CKA_TOKEN,
    CKA_UNWRAP,
    CKA_UNWRAP_TEMPLATE,
    CKA_VALUE,
    CKA_VALUE_LEN,
    CKA_WRAP,
    CKA_WRAP_TEMPLATE,
    CKK_AES,
    CKK_DES,
    CKK_DES2,
    CKK_DES3,
    CKK_DSA,
    CKK_EC,
    CKK_EC_EDWARDS,
    CKK_EC_MONTGOMERY,
    CKK_GENERIC_SECRET,
    CKK_RSA,
    CKM_AES_ECB,
    CKM_AES_KEY_WRAP,
    CKM_AES_KEY_WRAP_PAD,
    CKM_EC_EDWARDS_KEY_PAIR_GEN,
    CKM_EC_KEY_PAIR_GEN,
    CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_RSA_PKCS_OAEP,
    CKO_CERTIFICATE,
    CKO_DATA,
    CKO_PRIVATE_KEY,
    CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
)
from pyha.cryptoki.keys import KEY_TYPES, USAGE, settable_in_unwrap, wrapping_for
from tests.application import Answered, Application

P256 = bytes.fromhex("06082a8648ce3d030107")
ED25519 = bytes.fromhex("130c656477617264733235353139")


@pytest.mark.parametrize(
    ("length", "mechanism"),
    [
        (1, CKM_RSA_PKCS_OAEP),
        (8, CKM_RSA_PKCS_OAEP),
        (15, CKM_RSA_PKCS_OAEP),
        (16, CKM_AES_KEY_WRAP),
        (17, CKM_RSA_PKCS_OAEP),
        (20, CKM_RSA_PKCS_OAEP),
        (24, CKM_AES_KEY_WRAP),
        (64, CKM_AES_KEY_WRAP),
        (100, CKM_RSA_PKCS_OAEP),
        (0, None),
        (None, None),
    ],
)
def test_secret_keys_are_wrapped_by_length(length: int | None, mechanism: int | None) -> None:
    assert wrapping_for(CKO_SECRET_KEY, CKK_GENERIC_SECRET, length) == mechanism


def test_a_type_of_one_length_needs_none_given() -> None:
    assert wrapping_for(CKO_SECRET_KEY, CKK_DES3) == CKM_AES_KEY_WRAP
    assert wrapping_for(CKO_SECRET_KEY, CKK_DES2) == CKM_AES_KEY_WRAP
    assert wrapping_for(CKO_SECRET_KEY, CKK_DES) == CKM_RSA_PKCS_OAEP
    assert wrapping_for(CKO_SECRET_KEY, CKK_AES) is None


def test_private_keys_are_wrapped_as_pkcs8_or_not_at_all() -> None:
    assert wrapping_for(CKO_PRIVATE_KEY, CKK_RSA) == CKM_AES_KEY_WRAP_PAD
    assert wrapping_for(CKO_PRIVATE_KEY, CKK_EC) == CKM_AES_KEY_WRAP_PAD
    assert wrapping_for(CKO_PRIVATE_KEY, CKK_EC_EDWARDS) is None
    assert wrapping_for(CKO_PRIVATE_KEY, CKK_EC_MONTGOMERY) is None
    assert wrapping_for(CKO_PRIVATE_KEY, 0x80000001) is None


def test_nothing_else_is_wrapped() -> None:
    for object_class in (CKO_PUBLIC_KEY, CKO_DATA, CKO_CERTIFICATE):
        assert wrapping_for(object_class, CKK_RSA, 32) is None
    assert wrapping_for(CKO_SECRET_KEY, CKK_RSA, 32) is None
    assert wrapping_for(CKO_PRIVATE_KEY, CKK_AES, 32) is None
    assert wrapping_for(CKO_SECRET_KEY, 0x80000001, 32) == CKM_AES_KEY_WRAP


def test_every_pair_has_a_public_part_that_its_private_key_shows_some_of() -> None:
    for row in KEY_TYPES.values():
        if row.key_class == CKO_PRIVATE_KEY:
            assert set() < set(row.on_private) < set(row.public), row.name
            assert not row.lengths
        else:
            assert not row.public
            assert not row.on_private
            assert not row.pkcs8
    assert KEY_TYPES[CKK_RSA].public == (CKA_MODULUS, CKA_PUBLIC_EXPONENT)
    assert KEY_TYPES[CKK_EC].public == (CKA_EC_PARAMS, CKA_EC_POINT)
    assert KEY_TYPES[CKK_DSA].public[-1] == CKA_VALUE


def test_usage_flags_are_all_there() -> None:
    usages = {value for name, value in vars(constants).items() if name.startswith("CKA_") and name[4:] in USAGE_NAMES}
    assert set().union(*USAGE.values()) == usages
    assert {object_class: len(flags) for object_class, flags in USAGE.items()} == {
        CKO_SECRET_KEY: 7,
        CKO_PRIVATE_KEY: 5,
        CKO_PUBLIC_KEY: 5,
    }


USAGE_NAMES = ["ENCRYPT", "DECRYPT", "SIGN", "SIGN_RECOVER", "VERIFY", "VERIFY_RECOVER", "WRAP", "UNWRAP", "DERIVE"]


def test_what_an_unwrap_template_may_name_agrees_with_the_attributes() -> None:
    secret, private = settable_in_unwrap(CKO_SECRET_KEY, CKK_AES), settable_in_unwrap(CKO_PRIVATE_KEY, CKK_RSA)
    assert set(secret) | set(private) | set(USAGE[CKO_PUBLIC_KEY]) == {
        type for type, row in ATTRIBUTES.items() if row.unwrap
    }
    for key_class, settable in ((CKO_SECRET_KEY, secret), (CKO_PRIVATE_KEY, private)):
        assert settable[-1] == CKA_MODIFIABLE
        assert len(set(settable)) == len(settable)
        assert set(USAGE[key_class]) < set(settable)
        assert not set(settable) & (set(HISTORY) | {CKA_VALUE_LEN, CKA_VALUE})
    assert settable_in_unwrap(CKO_SECRET_KEY, CKK_RSA) == ()
    assert settable_in_unwrap(CKO_PUBLIC_KEY, CKK_RSA) == ()


@pytest.fixture(scope="module")
def wrapping_key(token: Application) -> int:
    """A session key that may do nothing but wrap and unwrap."""
    return token.create(
        {
            CKA_CLASS: CKO_SECRET_KEY,
            CKA_KEY_TYPE: CKK_AES,
            CKA_TOKEN: False,
            CKA_WRAP: True,
            CKA_UNWRAP: True,
            CKA_VALUE: bytes(range(32)),
        }
    )


def _strongest(key_class: int, key_type: int) -> dict[int, object]:
    """Every settable attribute that SoftHSM knows, each protection at its stronger value."""
    plain: dict[int, object] = {
        CKA_CLASS: key_class,
        CKA_KEY_TYPE: key_type,
        CKA_TOKEN: False,
        CKA_WRAP_TEMPLATE: {CKA_EXTRACTABLE: True},
        CKA_UNWRAP_TEMPLATE: {CKA_EXTRACTABLE: False},
    }
    values: dict[int, object] = {}
    for type in settable_in_unwrap(key_class, key_type):
        row = ATTRIBUTES[type]
        if type in (CKA_START_DATE, CKA_END_DATE, CKA_DERIVE_TEMPLATE):
            continue  # SoftHSM cannot read the dates back, and does not know the other
        if type in plain:
            values[type] = plain[type]
        elif row.form is Form.MECHANISMS:
            values[type] = CKM_AES_ECB
        else:
            values[type] = row.stronger if row.stronger is not None else b"0\x00"
    return values


def _cloned(token: Application, wrapping_key: int, key: int, key_class: int, key_type: int, length: int | None) -> int:
    mechanism = wrapping_for(key_class, key_type, length)
    assert mechanism is not None
    wrapped = token.wrap(mechanism, wrapping_key, key)
    return token.unwrap(mechanism, wrapping_key, wrapped, _strongest(key_class, key_type))


@pytest.mark.parametrize("kind", ["rsa", "ec", "secret"])
def test_a_clone_takes_every_settable_attribute(token: Application, wrapping_key: int, kind: str) -> None:
    free = {CKA_EXTRACTABLE: True, CKA_SENSITIVE: False, CKA_PRIVATE: False, CKA_TOKEN: False}
    if kind == "rsa":
        key_class, key_type, length = CKO_PRIVATE_KEY, CKK_RSA, None
        _, key = token.pair(CKM_RSA_PKCS_KEY_PAIR_GEN, {CKA_MODULUS_BITS: 1024}, free)
    elif kind == "ec":
        key_class, key_type, length = CKO_PRIVATE_KEY, CKK_EC, None
        _, key = token.pair(CKM_EC_KEY_PAIR_GEN, {CKA_EC_PARAMS: P256}, free)
    else:
        key_class, key_type, length = CKO_SECRET_KEY, CKK_GENERIC_SECRET, 24
        key = token.create({CKA_CLASS: key_class, CKA_KEY_TYPE: key_type, CKA_VALUE: b"v" * 24, **free})
    clone = _cloned(token, wrapping_key, key, key_class, key_type, length)
    for type in KEY_TYPES[key_type].on_private:
        assert token.value(clone, type) == token.value(key, type) is not None
    asked = _strongest(key_class, key_type)
    before = {type: bytes([value]) for type, value in asked.items() if isinstance(value, bool)}
    assert weaker(before, {type: token.value(clone, type) or b"" for type in before}) == ()
    for type, answer in HISTORY.items():
        assert token.value(clone, type) == answer


@pytest.mark.parametrize("length", [16, 24, 40, 64])
def test_a_cloned_secret_is_the_same_secret(token: Application, wrapping_key: int, length: int) -> None:
    value = bytes(range(1, length + 1))
    identity = {CKA_CLASS: CKO_SECRET_KEY, CKA_KEY_TYPE: CKK_GENERIC_SECRET, CKA_TOKEN: False}
    readable = {CKA_EXTRACTABLE: True, CKA_SENSITIVE: False}
    key = token.create({**identity, **readable, CKA_VALUE: value})
    mechanism = wrapping_for(CKO_SECRET_KEY, CKK_GENERIC_SECRET, length)
    assert mechanism is not None
    wrapped = token.wrap(mechanism, wrapping_key, key)
    clone = token.unwrap(mechanism, wrapping_key, wrapped, {**identity, **readable})
    assert token.value(clone, CKA_VALUE) == value


def test_padded_wrapping_would_have_made_another_secret(token: Application, wrapping_key: int) -> None:
    value = b"seventeen bytes!!"
    identity = {CKA_CLASS: CKO_SECRET_KEY, CKA_KEY_TYPE: CKK_GENERIC_SECRET, CKA_TOKEN: False}
    readable = {CKA_EXTRACTABLE: True, CKA_SENSITIVE: False}
    key = token.create({**identity, **readable, CKA_VALUE: value})
    wrapped = token.wrap(CKM_AES_KEY_WRAP_PAD, wrapping_key, key)
    clone = token.unwrap(CKM_AES_KEY_WRAP_PAD, wrapping_key, wrapped, {**identity, **readable})
    assert token.value(clone, CKA_VALUE) == value + bytes(7)
    assert wrapping_for(CKO_SECRET_KEY, CKK_GENERIC_SECRET, len(value)) == CKM_RSA_PKCS_OAEP


def test_softhsm_will_not_wrap_an_edwards_key(token: Application, wrapping_key: int) -> None:
    free = {CKA_EXTRACTABLE: True, CKA_TOKEN: False}
    _, key = token.pair(CKM_EC_EDWARDS_KEY_PAIR_GEN, {CKA_EC_PARAMS: ED25519}, free)
    with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
        token.wrap(CKM_AES_KEY_WRAP_PAD, wrapping_key, key)
