"""The table of attributes, and what counts as weaker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyha.cryptoki import constants
from pyha.cryptoki.attributes import (
    ATTRIBUTES,
    HISTORY,
    PROTECTIONS,
    Form,
    form_of,
    is_attribute_array,
    is_secret,
    weaker,
)
from pyha.cryptoki.constants import (
    CKA_ALLOWED_MECHANISMS,
    CKA_ALWAYS_SENSITIVE,
    CKA_CHECK_VALUE,
    CKA_COEFFICIENT,
    CKA_COPYABLE,
    CKA_DECRYPT,
    CKA_DERIVE_TEMPLATE,
    CKA_EC_POINT,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_EXTRACTABLE,
    CKA_ID,
    CKA_KEY_GEN_MECHANISM,
    CKA_LABEL,
    CKA_LOCAL,
    CKA_MODIFIABLE,
    CKA_MODULUS,
    CKA_NEVER_EXTRACTABLE,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_PRIVATE_EXPONENT,
    CKA_SENSITIVE,
    CKA_START_DATE,
    CKA_TRUSTED,
    CKA_UNWRAP_TEMPLATE,
    CKA_VALUE,
    CKA_WRAP_TEMPLATE,
    CKA_WRAP_WITH_TRUSTED,
    CKM_AES_ECB,
    CKM_AES_GCM,
    CKO_CERTIFICATE,
    CKO_DATA,
    CKO_PRIVATE_KEY,
    CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
)

YES, NO = b"\x01", b"\x00"
VENDOR, VENDOR_ARRAY = 0x80000123, 0xC0000123


def _mechanisms(*types: int) -> bytes:
    return b"".join(mechanism.to_bytes(8, "little") for mechanism in types)


def test_every_attribute_of_the_specification_has_a_row() -> None:
    values = {value for name, value in vars(constants).items() if name.startswith("CKA_")}
    assert values == set(ATTRIBUTES)


def test_forms() -> None:
    assert form_of(CKA_LABEL) is Form.TEXT
    assert form_of(CKA_START_DATE) is Form.DATE
    assert form_of(CKA_MODULUS) is Form.BIGINT
    assert form_of(CKA_ALLOWED_MECHANISMS) is Form.MECHANISMS
    assert form_of(VENDOR) is Form.BYTES
    assert form_of(VENDOR_ARRAY) is Form.TEMPLATE


def test_attribute_arrays_are_those_of_the_array_bit_but_one() -> None:
    arrays = {type for type in ATTRIBUTES if is_attribute_array(type)}
    assert arrays == {CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE}
    assert arrays == {type for type, row in ATTRIBUTES.items() if row.form is Form.TEMPLATE}
    assert is_attribute_array(VENDOR_ARRAY)
    assert not is_attribute_array(VENDOR)


@pytest.mark.parametrize(
    "type",
    [CKA_VALUE, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT],
)
def test_key_material_is_secret(type: int) -> None:
    for object_class in (None, CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKO_DATA):
        assert is_secret(type, object_class)


def test_public_values_are_not_secret() -> None:
    assert not is_secret(CKA_VALUE, CKO_CERTIFICATE)
    assert not is_secret(CKA_VALUE, CKO_PUBLIC_KEY)
    assert not any(map(is_secret, (CKA_MODULUS, CKA_EC_POINT, CKA_ID, CKA_CHECK_VALUE)))


def test_what_is_not_known_is_secret() -> None:
    assert is_secret(VENDOR)
    assert is_secret(VENDOR, CKO_CERTIFICATE)


def test_history_answers() -> None:
    assert HISTORY == {
        CKA_LOCAL: NO,
        CKA_ALWAYS_SENSITIVE: NO,
        CKA_NEVER_EXTRACTABLE: NO,
        CKA_KEY_GEN_MECHANISM: b"\xff" * 8,
    }
    assert not any(ATTRIBUTES[type].unwrap for type in HISTORY)


@pytest.mark.parametrize(
    ("type", "strong", "weak"),
    [
        (CKA_SENSITIVE, YES, NO),
        (CKA_EXTRACTABLE, NO, YES),
        (CKA_WRAP_WITH_TRUSTED, YES, NO),
        (constants.CKA_ALWAYS_AUTHENTICATE, YES, NO),
        (constants.CKA_PRIVATE, YES, NO),
        (CKA_COPYABLE, NO, YES),
        (CKA_MODIFIABLE, NO, YES),
        (CKA_TRUSTED, NO, YES),
        (CKA_DECRYPT, NO, YES),
    ],
)
def test_each_protection_has_one_direction(type: int, strong: bytes, weak: bytes) -> None:
    assert weaker({type: strong}, {type: weak}) == (type,)
    assert weaker({type: strong}, {}) == (type,)
    assert weaker({type: strong}, {type: b""}) == (type,)
    assert weaker({type: strong}, {type: strong}) == ()
    assert weaker({type: weak}, {type: strong}) == ()
    assert weaker({}, {type: weak}) == ()


def test_any_true_value_is_true() -> None:
    assert weaker({CKA_SENSITIVE: YES}, {CKA_SENSITIVE: b"\xff"}) == ()


def test_all_losses_are_named_in_order() -> None:
    before = {CKA_COPYABLE: NO, CKA_SENSITIVE: YES, CKA_DECRYPT: NO, CKA_LABEL: b"a"}
    after = {CKA_COPYABLE: YES, CKA_SENSITIVE: NO, CKA_DECRYPT: NO, CKA_LABEL: b"b"}
    assert weaker(before, after) == (CKA_SENSITIVE, CKA_COPYABLE)


def test_allowed_mechanisms_may_become_fewer_but_not_more_nor_unlimited() -> None:
    one, two = _mechanisms(CKM_AES_GCM), _mechanisms(CKM_AES_ECB, CKM_AES_GCM)
    lost = (CKA_ALLOWED_MECHANISMS,)
    assert weaker({CKA_ALLOWED_MECHANISMS: one}, {CKA_ALLOWED_MECHANISMS: two}) == lost
    assert weaker({CKA_ALLOWED_MECHANISMS: one}, {CKA_ALLOWED_MECHANISMS: b""}) == lost
    assert weaker({CKA_ALLOWED_MECHANISMS: one}, {}) == lost
    assert weaker({CKA_ALLOWED_MECHANISMS: two}, {CKA_ALLOWED_MECHANISMS: one}) == ()
    reordered = _mechanisms(CKM_AES_GCM, CKM_AES_ECB)
    assert weaker({CKA_ALLOWED_MECHANISMS: two}, {CKA_ALLOWED_MECHANISMS: reordered}) == ()
    assert weaker({CKA_ALLOWED_MECHANISMS: b""}, {CKA_ALLOWED_MECHANISMS: two}) == ()


_states = st.dictionaries(st.sampled_from(sorted(PROTECTIONS)), st.sampled_from([YES, NO, b""]))


@given(_states, _states, _states)
def test_not_weaker_is_an_order(first: dict[int, bytes], second: dict[int, bytes], third: dict[int, bytes]) -> None:
    assert weaker(first, first) == ()
    if not weaker(first, second) and not weaker(second, third):
        assert weaker(first, third) == ()
