"""Our constants have the values that the installed headers (2.40 and 3.0) give them."""

from pathlib import Path

from pyha.cryptoki import constants
from tests.unit.headers import NSS, P11_KIT

OURS = {name: value for name, value in vars(constants).items() if name.startswith("CK") and isinstance(value, int)}

P11_KIT_DIFFERS = {
    # p11-kit's header has these five too high; the normative header and NSS have the same.
    "CKR_EXCEEDED_MAX_ITERATIONS",
    "CKR_FIPS_SELF_TEST_FAILED",
    "CKR_LIBRARY_LOAD_FAILED",
    "CKR_PIN_TOO_WEAK",
    "CKR_PUBLIC_KEY_INVALID",
}

# Of 3.0, but not in NSS's header
IN_NO_HEADER = {
    "CKA_UNIQUE_ID",
    "CKM_AES_XTS",
    "CKM_AES_XTS_KEY_GEN",
    "CKR_AEAD_DECRYPT_FAILED",
    "CKR_KEY_EXHAUSTED",
}


def test_every_constant_that_nss_defines_has_its_value(tmp_path: Path) -> None:
    theirs = NSS.constants(tmp_path, OURS)
    assert {name: OURS[name] for name in theirs} == theirs


def test_every_constant_that_p11_kit_defines_has_its_value(tmp_path: Path) -> None:
    theirs = P11_KIT.constants(tmp_path, OURS)
    assert {name for name in theirs if OURS[name] != theirs[name]} == P11_KIT_DIFFERS


def test_constants_in_neither_header_are_known_by_name(tmp_path: Path) -> None:
    defined = {name for header in (P11_KIT, NSS) for name in header.constants(tmp_path, OURS)}
    assert set(OURS) - defined == IN_NO_HEADER
