"""Objects with known values, so that both sides can hold the same ones, and the mechanisms that are tried with them.

The RSA key is of 1024 bits, which is enough for tests and quick; nothing here is a secret.
"""

from cryptography.hazmat.primitives.asymmetric import ec

from pyha.cryptoki import constants as ck
from tests.client import EC

_P = int(
    "fe628bb655f6445f6448ee3020913a813b9651fd9736ec31d8a249d99036c0f5"
    "035d71646b6281d0e3e0f7918bc8f233ca9783f1a7b4082fa74c4562bec30a83",
    16,
)
_Q = int(
    "f658a0e16aca4a3f64289d783bd4c3d7ac370c4b0bc13360090b622a32604b4d"
    "be82b767d44a8677cbae42a753159fcc00284393326d60446540c2698d2a3289",
    16,
)
_E = 65537
_N, _D = _P * _Q, pow(_E, -1, (_P - 1) * (_Q - 1))
_SCALAR = 0x1234567890ABCDEF1234567890ABCDEF1234567890ABCDEF1234567890ABCDEF


def _bytes(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _point() -> bytes:
    numbers = ec.derive_private_key(_SCALAR, ec.SECP256R1()).public_key().public_numbers()
    return b"\x04\x41\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


Pairs = tuple[tuple[int, bool | int | bytes], ...]
"""A template."""

_SECRET: Pairs = (
    (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
    (ck.CKA_SENSITIVE, False),
    (ck.CKA_EXTRACTABLE, True),
)
_CIPHER: Pairs = tuple(
    (usage, True) for usage in (ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_WRAP, ck.CKA_UNWRAP, ck.CKA_DERIVE)
)
_SIGNER: Pairs = ((ck.CKA_SIGN, True), (ck.CKA_VERIFY, True))

OBJECTS: dict[str, Pairs] = {
    "aes": (
        *_SECRET,
        (ck.CKA_KEY_TYPE, ck.CKK_AES),
        (ck.CKA_VALUE, bytes(range(32))),
        *_CIPHER,
        *_SIGNER,
    ),
    "des3": (
        *_SECRET,
        (ck.CKA_KEY_TYPE, ck.CKK_DES3),
        (ck.CKA_VALUE, bytes.fromhex("0123456789abcdeffedcba9876543210") + bytes.fromhex("1032547698badcfe")),
        *_CIPHER,
        *_SIGNER,
    ),
    "generic": (
        *_SECRET,
        (ck.CKA_KEY_TYPE, ck.CKK_GENERIC_SECRET),
        (ck.CKA_VALUE, bytes(range(64))),
        (ck.CKA_DERIVE, True),
        *_SIGNER,
    ),
    "rsa-private": (
        (ck.CKA_CLASS, ck.CKO_PRIVATE_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_RSA),
        (ck.CKA_SENSITIVE, False),
        (ck.CKA_EXTRACTABLE, True),
        (ck.CKA_MODULUS, _bytes(_N)),
        (ck.CKA_PUBLIC_EXPONENT, _bytes(_E)),
        (ck.CKA_PRIVATE_EXPONENT, _bytes(_D)),
        (ck.CKA_PRIME_1, _bytes(_P)),
        (ck.CKA_PRIME_2, _bytes(_Q)),
        (ck.CKA_EXPONENT_1, _bytes(_D % (_P - 1))),
        (ck.CKA_EXPONENT_2, _bytes(_D % (_Q - 1))),
        (ck.CKA_COEFFICIENT, _bytes(pow(_Q, -1, _P))),
        (ck.CKA_SIGN, True),
        (ck.CKA_DECRYPT, True),
        (ck.CKA_UNWRAP, True),
    ),
    "rsa-public": (
        (ck.CKA_CLASS, ck.CKO_PUBLIC_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_RSA),
        (ck.CKA_MODULUS, _bytes(_N)),
        (ck.CKA_PUBLIC_EXPONENT, _bytes(_E)),
        (ck.CKA_VERIFY, True),
        (ck.CKA_ENCRYPT, True),
        (ck.CKA_WRAP, True),
    ),
    "ec-private": (
        (ck.CKA_CLASS, ck.CKO_PRIVATE_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_EC),
        (ck.CKA_SENSITIVE, False),
        (ck.CKA_EXTRACTABLE, True),
        (ck.CKA_EC_PARAMS, EC),
        (ck.CKA_VALUE, _SCALAR.to_bytes(32, "big")),
        (ck.CKA_SIGN, True),
        (ck.CKA_DERIVE, True),
    ),
    "ec-public": (
        (ck.CKA_CLASS, ck.CKO_PUBLIC_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_EC),
        (ck.CKA_EC_PARAMS, EC),
        (ck.CKA_EC_POINT, _point()),
        (ck.CKA_VERIFY, True),
    ),
    "data": (
        (ck.CKA_CLASS, ck.CKO_DATA),
        (ck.CKA_APPLICATION, b"differential"),
        (ck.CKA_VALUE, b"some data"),
    ),
    "certificate": (
        (ck.CKA_CLASS, ck.CKO_CERTIFICATE),
        (ck.CKA_CERTIFICATE_TYPE, ck.CKC_X_509),
        (ck.CKA_SUBJECT, b"0\x00"),
        (ck.CKA_VALUE, b"not really a certificate"),
    ),
}
"""What C_CreateObject makes of each kind of object."""

GENERATED: dict[str, tuple[int, Pairs]] = {
    "made-aes": (
        ck.CKM_AES_KEY_GEN,
        ((ck.CKA_VALUE_LEN, 32), (ck.CKA_SENSITIVE, True), *_CIPHER, *_SIGNER),
    ),
    "made-des3": (ck.CKM_DES3_KEY_GEN, ((ck.CKA_SENSITIVE, True), *_CIPHER, *_SIGNER)),
    "made-generic": (ck.CKM_GENERIC_SECRET_KEY_GEN, ((ck.CKA_VALUE_LEN, 64), (ck.CKA_SENSITIVE, True), *_SIGNER)),
}
"""What C_GenerateKey makes; the value is another on each side."""

PAIRS: dict[str, tuple[int, Pairs, Pairs]] = {
    "made-ec": (
        ck.CKM_EC_KEY_PAIR_GEN,
        ((ck.CKA_EC_PARAMS, EC), (ck.CKA_VERIFY, True)),
        ((ck.CKA_SIGN, True), (ck.CKA_SENSITIVE, True)),
    ),
    "made-rsa": (
        ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
        ((ck.CKA_MODULUS_BITS, 1024), (ck.CKA_PUBLIC_EXPONENT, b"\1\0\1"), (ck.CKA_VERIFY, True)),
        ((ck.CKA_SIGN, True), (ck.CKA_SENSITIVE, True)),
    ),
}
"""What C_GenerateKeyPair makes."""

_IV = bytes(range(16))
_IV_WORDS = int.from_bytes(_IV[:8], "little"), int.from_bytes(_IV[8:], "little")
_GCM = (b"\x01" * 12, b"associated")
Described = tuple[int, object]


def _gcm(tag: int, iv: bytes = _GCM[0], associated: bytes = _GCM[1]) -> Described:
    """CKM_AES_GCM with a tag of so many bits."""
    return ck.CKM_AES_GCM, (("pointer", iv), 8 * len(iv), ("pointer", associated), tag)


def _oaep(digest: int, mask: int, label: bytes = b"") -> Described:
    return ck.CKM_RSA_PKCS_OAEP, (digest, mask, 1, ("pointer", label))


CIPHERS: tuple[tuple[str, Described], ...] = (
    ("aes", (ck.CKM_AES_ECB, None)),
    ("aes", (ck.CKM_AES_CBC, _IV)),
    ("aes", (ck.CKM_AES_CBC_PAD, _IV)),
    ("aes", (ck.CKM_AES_CTR, (128).to_bytes(8, "little") + _IV)),
    ("aes", (ck.CKM_AES_CTR, (16).to_bytes(8, "little") + _IV)),
    ("aes", _gcm(128)),
    ("aes", _gcm(96, associated=b"")),
    ("aes", _gcm(32, iv=bytes(16))),
    ("des3", (ck.CKM_DES3_ECB, None)),
    ("des3", (ck.CKM_DES3_CBC, _IV[:8])),
    ("des3", (ck.CKM_DES3_CBC_PAD, _IV[:8])),
    ("rsa", (ck.CKM_RSA_PKCS, None)),
    ("rsa", (ck.CKM_RSA_X_509, None)),
    ("rsa", _oaep(ck.CKM_SHA_1, 1)),
    ("rsa", _oaep(ck.CKM_SHA256, 2)),
    ("rsa", _oaep(ck.CKM_SHA_1, 1, b"label")),
)
"""Kind of key (rsa: the public or the private one), and mechanism."""

SIGNERS: tuple[tuple[str, Described], ...] = (
    ("generic", (ck.CKM_SHA_1_HMAC, None)),
    ("generic", (ck.CKM_SHA256_HMAC, None)),
    ("generic", (ck.CKM_SHA512_HMAC, None)),
    ("aes", (ck.CKM_AES_CMAC, None)),
    ("des3", (ck.CKM_DES3_CMAC, None)),
    ("rsa", (ck.CKM_RSA_PKCS, None)),
    ("rsa", (ck.CKM_RSA_X_509, None)),
    ("rsa", (ck.CKM_SHA256_RSA_PKCS, None)),
    ("rsa", (ck.CKM_SHA256_RSA_PKCS_PSS, (ck.CKM_SHA256, 2, 32))),
    ("rsa", (ck.CKM_SHA256_RSA_PKCS_PSS, (ck.CKM_SHA256, 1, 32))),
    ("rsa", (ck.CKM_SHA1_RSA_PKCS_PSS, (ck.CKM_SHA_1, 1, 0))),
    ("rsa", (ck.CKM_SHA512_RSA_PKCS_PSS, (ck.CKM_SHA512, 4, 63))),
    ("rsa", (ck.CKM_RSA_PKCS_PSS, (ck.CKM_SHA256, 2, 94))),
    ("ec", (ck.CKM_ECDSA, None)),
    ("made-generic", (ck.CKM_SHA256_HMAC, None)),
    ("made-ec", (ck.CKM_ECDSA, None)),
    ("made-rsa", (ck.CKM_SHA1_RSA_PKCS, None)),
)
"""Of CKM_SHA256_RSA_PKCS_PSS one is with the mask function of another hash, two have a salt that is as long as none or
longer than the modulus has room for."""

DIGESTS: tuple[Described, ...] = tuple(
    (each, None) for each in (ck.CKM_MD5, ck.CKM_SHA_1, ck.CKM_SHA224, ck.CKM_SHA256, ck.CKM_SHA384, ck.CKM_SHA512)
)

WRAPPERS: tuple[tuple[str, Described], ...] = (
    ("aes", (ck.CKM_AES_KEY_WRAP, None)),
    ("aes", (ck.CKM_AES_KEY_WRAP_PAD, None)),
    ("rsa", (ck.CKM_RSA_PKCS, None)),
    ("rsa", _oaep(ck.CKM_SHA_1, 1)),
)

DERIVATIONS: tuple[tuple[str, Described], ...] = (
    ("aes", (ck.CKM_AES_ECB_ENCRYPT_DATA, (("pointer", bytes(32)),))),
    ("aes", (ck.CKM_AES_CBC_ENCRYPT_DATA, (*_IV_WORDS, ("pointer", bytes(32))))),
    ("des3", (ck.CKM_DES3_ECB_ENCRYPT_DATA, (("pointer", bytes(32)),))),
    ("ec-private", (ck.CKM_ECDH1_DERIVE, (1, b"", _point()[2:]))),
)

RANDOM = frozenset(
    (
        *(ck.CKM_ECDSA, ck.CKM_RSA_PKCS_OAEP, ck.CKM_RSA_PKCS_PSS),
        *(ck.CKM_SHA1_RSA_PKCS_PSS, ck.CKM_SHA256_RSA_PKCS_PSS, ck.CKM_SHA512_RSA_PKCS_PSS),
    )
)
"""Mechanisms whose output is another each time; CKM_RSA_PKCS is so where it encrypts or wraps."""
