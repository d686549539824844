"""The table of key types: what is known of a key that has to exist, alike, on every member.

Pure data and pure functions of it. Knows which attributes are a key's public part, what may be said of a key in a
C_UnwrapKey template, and which wrapping gives back exactly the key that went in; knows nothing of tokens. What a
particular module really does is found out by verifying each copy, never assumed from here.

Sources: PKCS #11 Current Mechanisms Specification 2.40 and 3.0 (tables of key objects), Base Specification section
4; REPLICATION.md (wrapping and unwrapping).
"""

from pyha.cryptoki import constants
from pyha.cryptoki.constants import (
    CKA_ALLOWED_MECHANISMS,
    CKA_ALWAYS_AUTHENTICATE,
    CKA_BASE,
    CKA_CLASS,
    CKA_COPYABLE,
    CKA_DECRYPT,
    CKA_DERIVE,
    CKA_DERIVE_TEMPLATE,
    CKA_DESTROYABLE,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_ENCRYPT,
    CKA_END_DATE,
    CKA_EXTRACTABLE,
    CKA_GOSTR3410_PARAMS,
    CKA_GOSTR3411_PARAMS,
    CKA_ID,
    CKA_KEY_TYPE,
    CKA_LABEL,
    CKA_MODIFIABLE,
    CKA_MODULUS,
    CKA_PRIME,
    CKA_PRIVATE,
    CKA_PUBLIC_EXPONENT,
    CKA_PUBLIC_KEY_INFO,
    CKA_SENSITIVE,
    CKA_SIGN,
    CKA_SIGN_RECOVER,
    CKA_START_DATE,
    CKA_SUBJECT,
    CKA_SUBPRIME,
    CKA_TOKEN,
    CKA_UNWRAP,
    CKA_UNWRAP_TEMPLATE,
    CKA_VALUE,
    CKA_VERIFY,
    CKA_VERIFY_RECOVER,
    CKA_WRAP,
    CKA_WRAP_TEMPLATE,
    CKA_WRAP_WITH_TRUSTED,
    CKM_AES_KEY_WRAP,
    CKM_AES_KEY_WRAP_PAD,
    CKM_RSA_PKCS_OAEP,
    CKO_PRIVATE_KEY,
    CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
)
from pyha.cryptoki.plain import dataclass


@dataclass(frozen=True, slots=True)
class KeyType:
    """One key type.

    `key_class`: CKO_SECRET_KEY, or CKO_PRIVATE_KEY for the type of a pair. `lengths`: possible lengths of a secret
    key's value, bytes; empty where any is possible. For pairs: `public`: attributes of the public key object that it
    is created from, beside class and type, and that tell one pair from every other; `on_private`: those of them that
    a private key object always has too; `pkcs8`: a private key can be wrapped as PKCS #8 (else no wrapping is known).
    """

    name: str
    key_class: int
    lengths: tuple[int, ...] = ()
    public: tuple[int, ...] = ()
    on_private: tuple[int, ...] = ()
    pkcs8: bool = False


def _secret(name: str, *lengths: int) -> KeyType:
    return KeyType(name, CKO_SECRET_KEY, lengths)


def _pair(name: str, public: tuple[int, ...], on_private: tuple[int, ...], pkcs8: bool) -> KeyType:
    return KeyType(name, CKO_PRIVATE_KEY, public=public, on_private=on_private, pkcs8=pkcs8)


_RSA = (CKA_MODULUS, CKA_PUBLIC_EXPONENT)
_EC = (CKA_EC_PARAMS, CKA_EC_POINT)
_DSA = (CKA_PRIME, CKA_SUBPRIME, CKA_BASE)
_DH = (CKA_PRIME, CKA_BASE)
_GOST = (CKA_GOSTR3410_PARAMS, CKA_GOSTR3411_PARAMS)

_ROWS = (
    _pair("CKK_RSA", _RSA, on_private=(CKA_MODULUS,), pkcs8=True),
    _pair("CKK_EC", _EC, on_private=(CKA_EC_PARAMS,), pkcs8=True),
    _pair("CKK_DSA", (*_DSA, CKA_VALUE), on_private=_DSA, pkcs8=True),
    _pair("CKK_DH", (*_DH, CKA_VALUE), on_private=_DH, pkcs8=True),
    _pair("CKK_X9_42_DH", (*_DSA, CKA_VALUE), on_private=_DSA, pkcs8=True),
    # Modules of 2.40's time have no PKCS #8 form for these, and refuse to wrap them.
    _pair("CKK_EC_EDWARDS", _EC, on_private=(CKA_EC_PARAMS,), pkcs8=False),
    _pair("CKK_EC_MONTGOMERY", _EC, on_private=(CKA_EC_PARAMS,), pkcs8=False),
    _pair("CKK_GOSTR3410", (*_GOST, CKA_VALUE), on_private=_GOST, pkcs8=False),
    _secret("CKK_AES", 16, 24, 32),
    _secret("CKK_AES_XTS", 32, 64),
    _secret("CKK_DES", 8),
    _secret("CKK_DES2", 16),
    _secret("CKK_DES3", 24),
    _secret("CKK_CDMF", 8),
    _secret("CKK_IDEA", 16),
    _secret("CKK_CAMELLIA", 16, 24, 32),
    _secret("CKK_ARIA", 16, 24, 32),
    _secret("CKK_SEED", 16),
    _secret("CKK_TWOFISH", 16, 24, 32),
    _secret("CKK_GOST28147", 32),
    _secret("CKK_CHACHA20", 32),
    _secret("CKK_POLY1305", 32),
    *(
        _secret(name)
        for name in (
            "CKK_GENERIC_SECRET",
            "CKK_HKDF",
            "CKK_RC2",
            "CKK_RC4",
            "CKK_RC5",
            "CKK_CAST",
            "CKK_CAST3",
            "CKK_CAST128",
            "CKK_BLOWFISH",
            "CKK_SALSA20",
            "CKK_MD5_HMAC",
            "CKK_SHA_1_HMAC",
            "CKK_RIPEMD128_HMAC",
            "CKK_RIPEMD160_HMAC",
            "CKK_SHA224_HMAC",
            "CKK_SHA256_HMAC",
            "CKK_SHA384_HMAC",
            "CKK_SHA512_HMAC",
            "CKK_SHA512_224_HMAC",
            "CKK_SHA512_256_HMAC",
            "CKK_SHA512_T_HMAC",
            "CKK_SHA3_224_HMAC",
            "CKK_SHA3_256_HMAC",
            "CKK_SHA3_384_HMAC",
            "CKK_SHA3_512_HMAC",
            "CKK_BLAKE2B_160_HMAC",
            "CKK_BLAKE2B_256_HMAC",
            "CKK_BLAKE2B_384_HMAC",
            "CKK_BLAKE2B_512_HMAC",
        )
    ),
)

KEY_TYPES: dict[int, KeyType] = {getattr(constants, row.name): row for row in _ROWS}
"""CKK_ value -> row. A type that is not here is a vendor's or belongs to no ordinary key."""

USAGE: dict[int, tuple[int, ...]] = {
    CKO_SECRET_KEY: (CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE),
    CKO_PRIVATE_KEY: (CKA_DECRYPT, CKA_SIGN, CKA_SIGN_RECOVER, CKA_UNWRAP, CKA_DERIVE),
    CKO_PUBLIC_KEY: (CKA_ENCRYPT, CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_WRAP, CKA_DERIVE),
}
"""Every usage flag that a class of key has. All are named in every template of ours: modules default them to true."""

_IDENTITY = (CKA_CLASS, CKA_KEY_TYPE, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL, CKA_ID)
_DATES = (CKA_START_DATE, CKA_END_DATE)
_PROTECTION = (CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_WRAP_WITH_TRUSTED)
# Modules that read a template in order take nothing after MODIFIABLE=false.
_LAST = (CKA_COPYABLE, CKA_DESTROYABLE, CKA_MODIFIABLE)

_UNWRAP: dict[int, tuple[int, ...]] = {
    CKO_SECRET_KEY: (
        *_IDENTITY,
        *_DATES,
        *USAGE[CKO_SECRET_KEY],
        CKA_ALLOWED_MECHANISMS,
        CKA_WRAP_TEMPLATE,
        CKA_UNWRAP_TEMPLATE,
        CKA_DERIVE_TEMPLATE,
        *_PROTECTION,
        *_LAST,
    ),
    CKO_PRIVATE_KEY: (
        *_IDENTITY,
        CKA_SUBJECT,
        CKA_PUBLIC_KEY_INFO,
        *_DATES,
        *USAGE[CKO_PRIVATE_KEY],
        CKA_ALLOWED_MECHANISMS,
        CKA_UNWRAP_TEMPLATE,
        CKA_DERIVE_TEMPLATE,
        CKA_ALWAYS_AUTHENTICATE,
        *_PROTECTION,
        *_LAST,
    ),
}


def settable_in_unwrap(key_class: int, key_type: int) -> tuple[int, ...]:
    """The attributes that a C_UnwrapKey template for such a key may name, in the order in which to name them; empty
    where such a key cannot be unwrapped. Name those that the original shows: not every module knows every one, and
    what it does not know it refuses. CKA_VALUE_LEN and what tells of the key's past are not among them."""
    row = KEY_TYPES.get(key_type)
    if row is not None and row.key_class != key_class:
        return ()
    return _UNWRAP.get(key_class, ())


def wrapping_for(key_class: int, key_type: int, value_length: int | None = None) -> int | None:
    """The mechanism whose wrapping gives back exactly this key; None where there is none.

    `value_length`: bytes of a secret key's value; may be None where the type allows one length only, and for private
    keys. CKM_AES_KEY_WRAP and CKM_AES_KEY_WRAP_PAD want an AES wrapping key, CKM_RSA_PKCS_OAEP an RSA one that is
    large enough for the value: at most modulus - 2 * hash - 2, in bytes.
    """
    row = KEY_TYPES.get(key_type)
    if key_class == CKO_PRIVATE_KEY:
        return CKM_AES_KEY_WRAP_PAD if row is not None and row.pkcs8 else None
    if key_class != CKO_SECRET_KEY or (row is not None and row.key_class != CKO_SECRET_KEY):
        return None
    if value_length is None and row is not None and len(row.lengths) == 1:
        value_length = row.lengths[0]
    if not value_length:
        return None
    # Padded wrapping would take the other lengths, and modules give back the padding as part of the key.
    return CKM_AES_KEY_WRAP if value_length >= 16 and value_length % 8 == 0 else CKM_RSA_PKCS_OAEP
